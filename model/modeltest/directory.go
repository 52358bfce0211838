package modeltest

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"pipe/model"
	"pipe/model/safetensors"
	"pipe/tensor"
)

// tiny is the configuration of [Directory]: 256 bytes and three special tokens.
var tiny = model.Config{VocabSize: 259, Hidden: 32, Intermediate: 48, Layers: 2, Heads: 4, KVHeads: 2, HeadDim: 8,
	MaxPositions: 128, NormEps: 1e-5, InitRange: 0.08, Tied: true, Rope: model.Rope{Theta: 10000, Type: "default"},
	BOS: 256, EOS: []int32{258}, PAD: 256}

const chatML = `{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}{% if m.role == 'assistant' %}{% generation %}{{ m.content + '<|im_end|>' }}{% endgeneration %}{{ '\n' }}{% else %}{{ m.content + '<|im_end|>\n' }}{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}`

// Directory writes a complete Hugging Face directory with random weights: a
// tiny Llama whose tokens are bytes (id = byte) and <|endoftext|> (256),
// <|im_start|> (257) and <|im_end|> (258), with a ChatML template. Without
// weights it is what init = "random" starts from.
func Directory(t testing.TB, weights bool) string {
	t.Helper()
	return directory(t, tiny, weights)
}

// Llama4Directory is [Directory] of a tiny Llama 4: one of its layers has experts, of which a token goes
// to two, and one has no positions.
func Llama4Directory(t testing.TB, weights bool) string {
	t.Helper()
	c := tiny
	c.Tied, c.InitRange = false, 0.15
	c.Llama4 = &model.Llama4{Experts: 4, Top: 2, Dense: 80, MoE: []bool{true, false}, Rope: []bool{true, false}, Chunked: []bool{true, false},
		Chunk: 16, QKNorm: true, Tuned: true, FloorScale: 32, AttnScale: 0.1}
	return directory(t, c, weights)
}

func directory(t testing.TB, c model.Config, weights bool) string {
	t.Helper()
	dir := t.TempDir()
	write := func(name string, data []byte, err error) {
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, name), data, 0o666)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	data, err := c.JSON("float32")
	write("config.json", data, err)
	data, err = json.Marshal(tokenizer())
	write("tokenizer.json", data, err)
	data, err = json.Marshal(map[string]any{"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<|endoftext|>",
		"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>", "chat_template": chatML})
	write("tokenizer_config.json", data, err)
	if !weights {
		return dir
	}
	src := c.ToStored(model.Random(c, 1))
	var ts []safetensors.Tensor
	for _, name := range src.Names() {
		w, err := src.Weight(name)
		if err != nil {
			t.Fatal(err)
		}
		ts = append(ts, safetensors.Tensor{Name: name, DType: tensor.F32, Shape: w.Shape, Data: w.Data})
	}
	if err := safetensors.Write(filepath.Join(dir, "model.safetensors"), ts, nil); err != nil {
		t.Fatal(err)
	}
	return dir
}

// tokenizer is a byte-level BPE without merges.
func tokenizer() map[string]any {
	vocab := map[string]int{}
	next := rune(256)
	for b := range 256 {
		r := rune(b)
		// Bytes that are not visible are spelled by letters from 256 on.
		if !(b >= '!' && b <= '~' || b >= 0xA1 && b <= 0xAC || b >= 0xAE) {
			r = next
			next++
		}
		vocab[string(r)] = b
	}
	var added []map[string]any
	for i, s := range []string{"<|endoftext|>", "<|im_start|>", "<|im_end|>"} {
		added = append(added, map[string]any{"id": 256 + i, "content": s, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true})
	}
	level := map[string]any{"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true}
	return map[string]any{
		"version": "1.0", "truncation": nil, "padding": nil, "added_tokens": added, "normalizer": nil,
		"pre_tokenizer": level, "post_processor": nil, "decoder": level,
		"model": map[string]any{"type": "BPE", "dropout": nil, "unk_token": nil, "continuing_subword_prefix": nil,
			"end_of_word_suffix": nil, "fuse_unk": false, "byte_fallback": false, "vocab": vocab, "merges": []string{}},
	}
}
