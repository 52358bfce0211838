package gguf_test

import (
	"bytes"
	"errors"
	"io"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"pipe/model"
	"pipe/model/gguf"
	"pipe/tensor"
	"pipe/tensor/quant"
	"pipe/text/tokenizer"
)

func checkpoint(t *testing.T, f *gguf.File) gguf.Checkpoint {
	t.Helper()
	tok, err := f.TokenizerJSON()
	if err != nil {
		t.Fatal(err)
	}
	return gguf.Checkpoint{Name: "tiny", Config: f.Config(), Weights: f, TokenizerJSON: tok, ChatTemplate: "{{ messages }}"}
}

func embedding(c gguf.Checkpoint) []gguf.Tensor {
	w, _ := c.Weights.Weight("model.embed_tokens.weight")
	return []gguf.Tensor{{Name: "token_embd.weight", DType: w.DType, Shape: w.Shape, Fill: func(o io.Writer) error { _, err := o.Write(w.Data); return err }}}
}

// TestExport writes each type and reads it back: the values are those of the
// source, rounded once, and everything else is unchanged.
func TestExport(t *testing.T) {
	src := open(t, put(t, load(t).File))
	c := checkpoint(t, src)
	for _, dt := range []tensor.DType{tensor.F32, tensor.F16, tensor.BF16, tensor.Q8_0, tensor.Q4_0} {
		path := filepath.Join(t.TempDir(), "out.gguf")
		if err := gguf.Export(path, c, dt); err != nil {
			t.Fatal(err)
		}
		f := open(t, path)
		if !slices.Equal(f.Names(), src.Names()) {
			t.Errorf("%s: names %v", dt, f.Names())
		}
		for _, name := range f.Names() {
			w, err := f.Weight(name)
			if err != nil {
				t.Fatal(err)
			}
			want := values(t, src, name)
			wantType := dt
			switch {
			case len(w.Shape) == 1:
				wantType = tensor.F32
			case name == "lm_head.weight" && dt == tensor.Q4_0: // 32 columns are no super-block
				wantType = tensor.Q8_0
			}
			b := make([]byte, wantType.Bytes(len(want)))
			quant.Quantize(b, wantType, want)
			in, err := src.Weight(name)
			if err != nil {
				t.Fatal(err)
			}
			if in.DType == wantType {
				b = in.Data // blocks are passed on, not rounded again
			}
			if w.DType != wantType || !bytes.Equal(w.Data, b) {
				t.Errorf("%s: %s has type %s, or its data differ", dt, name, w.DType)
			}
		}
		a, b := f.Config(), src.Config()
		if a.Rope.Theta != b.Rope.Theta || !slices.Equal(a.Rope.Divisors, b.Rope.Divisors) || a.NormEps != b.NormEps || a.BOS != 9 || !slices.Equal(a.EOS, b.EOS) || a.HeadDim != 8 || a.Tied {
			t.Errorf("%s: config %+v", dt, a)
		}
		again, err := f.TokenizerJSON()
		if err != nil || !bytes.Equal(again, c.TokenizerJSON) {
			t.Errorf("%s: the tokenizer changed: %v\n%s\n%s", dt, err, again, c.TokenizerJSON)
		}
	}
}

func TestExportRefuses(t *testing.T) {
	src := open(t, put(t, load(t).File))
	weights := func() model.Weights {
		w := model.Weights{}
		for _, n := range src.Names() {
			w[n], _ = src.Weight(n)
		}
		return w
	}
	set := func(name string, v float32) model.Weights {
		w := weights()
		x := make([]float32, 32)
		x[3] = v
		data := make([]byte, tensor.F32.Bytes(32*32))
		quant.Quantize(data[:128], tensor.F32, x)
		w[name] = model.Weight{DType: tensor.F32, Shape: []int{32, 32}, Data: data}
		return w
	}
	const q = "model.layers.0.self_attn.q_proj.weight"
	for want, change := range map[string]func(c *gguf.Checkpoint) tensor.DType{
		"type q6_k is not written":   func(c *gguf.Checkpoint) tensor.DType { return tensor.Q6_K },
		"column 3 is not a number":   func(c *gguf.Checkpoint) tensor.DType { c.Weights = set(q, float32(math.NaN())); return tensor.Q8_0 },
		"is 70000, which f16 cannot": func(c *gguf.Checkpoint) tensor.DType { c.Weights = set(q, 70000); return tensor.F16 },
		"has shape [12 32]": func(c *gguf.Checkpoint) tensor.DType {
			w := weights()
			w[q] = w["lm_head.weight"]
			c.Weights = w
			return tensor.F16
		},
		"no such tensor": func(c *gguf.Checkpoint) tensor.DType { w := weights(); delete(w, q); c.Weights = w; return tensor.F16 },
		"tokenizer.json": func(c *gguf.Checkpoint) tensor.DType { c.TokenizerJSON = []byte("{"); return tensor.F16 },
		"pre-tokenizer is not one": func(c *gguf.Checkpoint) tensor.DType {
			c.TokenizerJSON = bytes.Replace(c.TokenizerJSON, []byte(`{1,3}`), []byte(`{1,4}`), 1)
			return tensor.F16
		},
		"the embedding has 11 rows": func(c *gguf.Checkpoint) tensor.DType { c.Config.VocabSize = 11; return tensor.F16 },
		"head_dim is 7":             func(c *gguf.Checkpoint) tensor.DType { c.Config.HeadDim = 7; return tensor.F16 },
		"\"Unigram\" cannot": func(c *gguf.Checkpoint) tensor.DType {
			c.TokenizerJSON = []byte(`{"model":{"type":"Unigram"}}`)
			return tensor.F16
		},
	} {
		c := checkpoint(t, src)
		dt := change(&c)
		err := gguf.Export(filepath.Join(t.TempDir(), "out.gguf"), c, dt)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
}

func TestWriteRefuses(t *testing.T) {
	fill := func(n int) func(io.Writer) error {
		return func(w io.Writer) error { _, err := w.Write(make([]byte, n)); return err }
	}
	for want, x := range map[string]gguf.Tensor{
		"4 bytes of 8":      {Name: "a", Shape: []int{2}, Fill: fill(4)},
		"more bytes than":   {Name: "a", Shape: []int{2}, Fill: fill(12)},
		"not whole q8_0":    {Name: "a", DType: tensor.Q8_0, Shape: []int{32, 31}, Fill: fill(0)},
		"type u8 cannot":    {Name: "a", DType: tensor.U8, Shape: []int{1}, Fill: fill(1)},
		"has 0 dimensions":  {Name: "a", Fill: fill(4)},
		"the name is empty": {Shape: []int{1}, Fill: fill(4)},
		"broken":            {Name: "a", Shape: []int{1}, Fill: func(io.Writer) error { return errors.New("broken") }},
	} {
		if err := gguf.WriteTo(io.Discard, nil, []gguf.Tensor{x}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
	if err := gguf.WriteTo(io.Discard, []gguf.KV{{Key: "k", Value: 1}}, nil); err == nil || !strings.Contains(err.Error(), "type int") {
		t.Errorf("got %v", err)
	}
}

// TestLlama3Scaling: the scaling becomes divisors with which the frequencies
// are the same.
func TestLlama3Scaling(t *testing.T) {
	src := open(t, put(t, load(t).File))
	c := checkpoint(t, src)
	c.Config.Rope = model.Rope{Theta: 500000, Type: "llama3", Factor: 8, LowFreq: 1, HighFreq: 4, OriginalMaxPosition: 16}
	path := filepath.Join(t.TempDir(), "out.gguf")
	if err := gguf.Export(path, c, tensor.F32); err != nil {
		t.Fatal(err)
	}
	got, want := open(t, path).Config().InvFreq(), c.Config.InvFreq()
	for i := range want {
		if diff := math.Abs(float64(got[i]/want[i] - 1)); !(diff <= 1e-6) {
			t.Errorf("frequency %d is %v, want %v", i, got[i], want[i])
		}
	}
}

// TestSentencePiece round-trips a vocabulary with byte fallback: merges are
// made of scores and scores of merges.
func TestSentencePiece(t *testing.T) {
	src := open(t, put(t, load(t).File))
	c := checkpoint(t, src)
	tokens := []string{"<unk>", "<s>", "</s>", "<0x0A>", "\u2581", "a", "b", "ab", "\u2581a", "\u2581ab", "bb", "aab"}
	scores := []float32{0, 0, 0, 0, -9, -9, -9, 0, -2, -1, -3, -4}
	kinds := []int32{2, 3, 3, 6, 1, 1, 1, 1, 1, 1, 1, 1}
	kvs := []gguf.KV{
		{Key: "general.architecture", Value: "llama"}, {Key: "llama.embedding_length", Value: uint32(32)},
		{Key: "llama.feed_forward_length", Value: uint32(64)}, {Key: "llama.block_count", Value: uint32(2)},
		{Key: "llama.attention.head_count", Value: uint32(4)}, {Key: "llama.attention.head_count_kv", Value: uint32(2)},
		{Key: "llama.context_length", Value: uint32(64)}, {Key: "llama.attention.layer_norm_rms_epsilon", Value: float32(1e-5)},
		{Key: "tokenizer.ggml.model", Value: "llama"}, {Key: "tokenizer.ggml.tokens", Value: tokens},
		{Key: "tokenizer.ggml.scores", Value: scores}, {Key: "tokenizer.ggml.token_type", Value: kinds},
		{Key: "tokenizer.ggml.bos_token_id", Value: uint32(1)}, {Key: "tokenizer.ggml.eos_token_id", Value: uint32(2)},
	}
	path := filepath.Join(t.TempDir(), "spm.gguf")
	if err := gguf.Write(path, kvs, embedding(c)); err != nil {
		t.Fatal(err)
	}
	spm := open(t, path)
	check := func(f *gguf.File) []byte {
		t.Helper()
		data, err := f.TokenizerJSON()
		if err != nil {
			t.Fatal(err)
		}
		tok, err := tokenizer.Load(data)
		if err != nil {
			t.Fatal(err)
		}
		// ab joins before ▁a; then ▁ and ab.
		for text, want := range map[string][]int32{"ab": {9}, "aab bb": {8, 7, 4, 10}, "a\n": {8, 3}} {
			if got := tok.Encode(text); !slices.Equal(got, want) {
				t.Errorf("%q: got %v, want %v", text, got, want)
			}
		}
		if got := tok.Wrap(nil); !slices.Equal(got, []int32{1}) {
			t.Errorf("wrapped by %v", got)
		}
		return data
	}
	c.TokenizerJSON, c.Config.BOS, c.Config.EOS = check(spm), 1, []int32{2}
	again := filepath.Join(t.TempDir(), "again.gguf")
	if err := gguf.Export(again, c, tensor.F16); err != nil {
		t.Fatal(err)
	}
	check(open(t, again))
}

// TestFamilies: a model of each family comes back as it was, and with the names and the order of
// rows that llama.cpp expects.
func TestFamilies(t *testing.T) {
	tiny := checkpoint(t, open(t, put(t, load(t).File)))
	for family, arch := range map[model.Family]string{
		model.Llama: "llama", model.Mistral: "llama", model.Qwen2: "qwen2", model.Qwen3: "qwen3", model.SmolLM3: "smollm3",
	} {
		c := tiny
		c.Config.Family, c.Config.Layers, c.Config.Rope = family, 5, model.Rope{Theta: 500, Type: "default"}
		switch family {
		case model.SmolLM3:
			c.Config.NoRope = []bool{false, false, false, true, false}
		case model.Mistral:
			c.Config.Rope.Type, c.Config.Rope.Factor = "linear", 2.5
		}
		c.Weights = model.Random(c.Config, 7)
		path := filepath.Join(t.TempDir(), "out.gguf")
		if err := gguf.Export(path, c, tensor.F32); err != nil {
			t.Fatal(err)
		}
		f := open(t, path)
		if got, _ := f.Text("general.architecture"); got != arch || !f.Has(arch+".rope.freq_base") {
			t.Errorf("%s is written as %q", family, got)
		}
		if got := f.Config(); got.Family.HeadNorm() != family.HeadNorm() || got.Family.QKVBias() != family.QKVBias() || got.AttnBias || !slices.Equal(got.NoRope, c.Config.NoRope) || got.Rope.Type != c.Config.Rope.Type || got.Rope.Factor != c.Config.Rope.Factor {
			t.Errorf("%s is read as %+v", family, got)
		}
		if err := model.CheckWeights(f.Config(), f); err != nil {
			t.Errorf("%s: %v", family, err)
		}
		if !slices.Equal(f.Names(), c.Weights.Names()) {
			t.Errorf("%s: names %v, want %v", family, f.Names(), c.Weights.Names())
		}
		raw, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range f.Names() {
			got, err1 := f.Weight(name)
			want, err2 := c.Weights.Weight(name)
			if err1 != nil || err2 != nil || !bytes.Equal(got.Data, want.Data) || !slices.Equal(got.Shape, want.Shape) {
				t.Errorf("%s: %s differs (%v, %v)", family, name, err1, err2)
			}
			moved := (strings.HasSuffix(name, ".q_proj.weight") || strings.HasSuffix(name, ".k_proj.weight")) && (family == model.Llama || family == model.Mistral || family == model.SmolLM3)
			if bytes.Contains(raw, want.Data) == moved {
				t.Errorf("%s: whether rows of %s move is %t", family, name, !moved)
			}
		}
	}
	published := func(c *model.Config) {
		c.Layers, c.Rope = 5, model.Rope{Theta: 500, Type: "default"}
		c.Llama4 = &model.Llama4{Experts: 4, Top: 2, Dense: 96, Chunk: 8192, QKNorm: true, Tuned: true, FloorScale: 8192, AttnScale: 0.1,
			MoE: []bool{false, true, false, true, false}, Rope: []bool{true, true, true, false, true}, Chunked: []bool{true, true, true, false, true}}
	}
	for _, dt := range []tensor.DType{tensor.F32, tensor.Q8_0} {
		c := tiny
		published(&c.Config)
		c.Weights = model.Random(c.Config, 7)
		path := filepath.Join(t.TempDir(), "llama4.gguf")
		if err := gguf.Export(path, c, dt); err != nil {
			t.Fatal(err)
		}
		f := open(t, path)
		if got := f.Config(); !reflect.DeepEqual(got.Llama4, c.Config.Llama4) || got.Intermediate != c.Config.Intermediate {
			t.Errorf("a Llama 4 is read as %+v, %+v", got, got.Llama4)
		}
		if err := model.CheckWeights(f.Config(), f); err != nil || !slices.Equal(f.Names(), c.Weights.Names()) {
			t.Errorf("a Llama 4 has the tensors %v: %v", f.Names(), err)
		}
		for _, name := range f.Names() {
			got, err1 := f.Weight(name)
			want, err2 := c.Weights.Weight(name)
			if err1 != nil || err2 != nil || !slices.Equal(got.Shape, want.Shape) || got.DType == tensor.F32 && !bytes.Equal(got.Data, want.Data) {
				t.Errorf("%s differs (%v, %v)", name, err1, err2)
			}
			if plain := len(got.Shape) == 1 || strings.HasSuffix(name, ".router.weight"); plain && got.DType != tensor.F32 || !plain && got.DType != dt {
				t.Errorf("%s is %s", name, got.DType)
			}
		}
	}
	for want, change := range map[string]func(c *model.Config){
		"a Llama 4 of other settings than the published": func(c *model.Config) { published(c); c.Llama4.Chunk = 4096 },
		"experts in layers at regular distances":         func(c *model.Config) { published(c); c.Llama4.MoE[0] = true },
		"use_qk_norm unless there are 128 experts":       func(c *model.Config) { published(c); c.Llama4.QKNorm = false },
		"a Llama 4 with biases":                          func(c *model.Config) { published(c); c.AttnBias = true },
		"qwen3 with biases":                              func(c *model.Config) { c.Family, c.AttnBias = model.Qwen3, true },
		"not each 4th one":                               func(c *model.Config) { c.Family, c.Layers, c.NoRope = model.SmolLM3, 4, make([]bool, 4) },
		"mistral with layers without positions":          func(c *model.Config) { c.Family, c.NoRope = model.Mistral, make([]bool, c.Layers) },
	} {
		c := tiny
		change(&c.Config)
		if err := gguf.Export(filepath.Join(t.TempDir(), "out.gguf"), c, tensor.F32); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want one with %q", err, want)
		}
	}
}

// TestExportEnds: GGUF has places for the end of a document, of a turn and of a
// message; the ids that end a text come back from them.
func TestExportEnds(t *testing.T) {
	src := load(t)
	f := open(t, put(t, src.File))
	data, err := f.TokenizerJSON()
	if err != nil {
		t.Fatal(err)
	}
	for _, x := range []struct{ config, more, want []int32 }{
		{[]int32{9}, nil, []int32{9}},
		{[]int32{9}, []int32{9, 10}, []int32{9, 10}},
		{[]int32{9}, []int32{7, 8, 9}, []int32{9, 7}}, // that of the turn comes first
		{[]int32{9}, []int32{7, 10}, []int32{9, 10}},  // <|eot_id|>
		{[]int32{9, 8}, []int32{7}, []int32{9, 7}},    // a place for one
		{nil, []int32{7, 9}, []int32{7, 9}},           // generation_config.json alone says it
		{[]int32{9, 10, 500}, nil, []int32{9, 10}},    // no token
		{[]int32{10, 9}, []int32{9, 10}, []int32{10, 9}},
	} {
		c := gguf.Checkpoint{Config: f.Config(), Weights: f, TokenizerJSON: data, EOS: x.more}
		c.Config.EOS = x.config
		path := filepath.Join(t.TempDir(), "ends.gguf")
		if err := gguf.Export(path, c, tensor.F32); err != nil {
			t.Fatal(err)
		}
		if got := open(t, path).Config().EOS; !slices.Equal(got, x.want) {
			t.Errorf("%v and %v: got %v, want %v", x.config, x.more, got, x.want)
		}
	}
}

// TestLinearRope: a factor scales linearly unless the file says otherwise, as in
// llama.cpp, under the key of today and that of the first files; it is written again.
func TestLinearRope(t *testing.T) {
	src := open(t, put(t, load(t).File))
	c := checkpoint(t, src)
	c.Config.Rope = model.Rope{Theta: 500000, Type: "linear", Factor: 4}
	path := filepath.Join(t.TempDir(), "linear.gguf")
	if err := gguf.Export(path, c, tensor.F32); err != nil {
		t.Fatal(err)
	}
	if got := open(t, path).Config().Rope; got.Type != "linear" || got.Factor != 4 || got.Theta != 500000 || got.Divisors != nil {
		t.Errorf("written and read again: %+v", got)
	}
	const kind, factor, old = "llama.rope.scaling.type", "llama.rope.scaling.factor", "llama.rope.scale_linear"
	base := []gguf.KV{
		{Key: "general.architecture", Value: "llama"}, {Key: "llama.embedding_length", Value: uint32(c.Config.Hidden)},
		{Key: "llama.feed_forward_length", Value: uint32(64)}, {Key: "llama.block_count", Value: uint32(1)},
		{Key: "llama.attention.head_count", Value: uint32(4)}, {Key: "llama.context_length", Value: uint32(9)}, {Key: "llama.attention.layer_norm_rms_epsilon", Value: float32(1e-5)},
	}
	for _, x := range []struct {
		kvs  []gguf.KV
		want float64 // 0: none
	}{
		{[]gguf.KV{{Key: factor, Value: float32(2.5)}}, 2.5},
		{[]gguf.KV{{Key: old, Value: float32(8)}}, 8},
		{[]gguf.KV{{Key: old, Value: float32(8)}, {Key: factor, Value: float32(2)}, {Key: kind, Value: "linear"}}, 2},
		{[]gguf.KV{{Key: factor, Value: float32(2)}, {Key: kind, Value: "none"}}, 0},
		{[]gguf.KV{{Key: old, Value: float32(1)}}, 0},
		{[]gguf.KV{{Key: factor, Value: float32(0)}, {Key: kind, Value: "linear"}}, 0},
	} {
		path := filepath.Join(t.TempDir(), "read.gguf")
		if err := gguf.Write(path, slices.Concat(base, x.kvs), embedding(c)); err != nil {
			t.Fatal(err)
		}
		got := open(t, path).Config().Rope
		if scaled := got.Type == "linear"; scaled != (x.want != 0) || got.Factor != x.want {
			t.Errorf("%v: %+v", x.kvs, got)
		}
	}
}

// spm is a tokenizer.json as transformers writes it for SentencePiece's BPE.
func spm(normalizer, pre string, merges ...string) []byte {
	return []byte(`{"added_tokens":[{"id":0,"content":"<unk>","special":true},{"id":1,"content":"<s>","special":true},{"id":2,"content":"</s>","special":true}],
"normalizer":` + normalizer + `,"pre_tokenizer":` + pre + `,"post_processor":null,"decoder":null,
"model":{"type":"BPE","unk_token":"<unk>","fuse_unk":true,"byte_fallback":true,
"vocab":{"<unk>":0,"<s>":1,"</s>":2,"▁":3,"a":4,"b":5,"▁a":6,"ab":7,"▁ab":8,"▁▁":9,"c":10,"d":11},"merges":["` + strings.Join(merges, `","`) + `"]}}`)
}

// TestSpacePrefix: of the ways to put a space before a text, GGUF has the one that is
// right for the sample, and llama.cpp's tokens of it are those of tokenizer.json.
func TestSpacePrefix(t *testing.T) {
	src := open(t, put(t, load(t).File))
	metaspace := func(rest string) string { return `{"type":"Metaspace","replacement":"▁",` + rest + `}` }
	const replace = `{"type":"Replace","pattern":{"String":" "},"content":"▁"}`
	always, first := metaspace(`"prepend_scheme":"always","split":false`), metaspace(`"prepend_scheme":"first","split":false`)
	merges := []string{"▁ a", "a b", "▁a b", "▁ ab", "▁ ▁"}
	export := func(data []byte, sample string) (*gguf.File, error) {
		path := filepath.Join(t.TempDir(), "spm.gguf")
		c := gguf.Checkpoint{Config: src.Config(), Weights: src, TokenizerJSON: data, Sample: sample}
		c.Config.BOS, c.Config.EOS = 1, []int32{2}
		if err := gguf.Export(path, c, tensor.F32); err != nil {
			return nil, err
		}
		return open(t, path), nil
	}
	for _, x := range []struct {
		normalizer, pre, sample string
		want                    bool
	}{
		{`{"type":"Sequence","normalizers":[{"type":"Prepend","prepend":"▁"},` + replace + `]}`, "null", "<s> ab", true},
		{replace, "null", "ab", false},
		{"null", always, "", true},
		{"null", always, "<s>ab</s>", true},
		{"null", always, "<s> ab</s>", false},
		{"null", first, "", true},
		{"null", first, "ab a", true},
		{"null", first, "<s>ab</s>a", false},
		{"null", first, "<s> ab</s>", false},
		{"null", `{"type":"Sequence","pretokenizers":[` + metaspace(`"prepend_scheme":"never","split":false`) + `]}`, "ab", false},
		{"null", metaspace(`"add_prefix_space":true,"split":false`), "ab", true},
		{"null", metaspace(`"add_prefix_space":false,"split":false`), "ab", false},
	} {
		data := spm(x.normalizer, x.pre, merges...)
		f, err := export(data, x.sample)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := f.Bool("tokenizer.ggml.add_space_prefix", !x.want); err != nil || got != x.want {
			t.Errorf("%s, %s: a space before %q %t, %v", x.normalizer, x.pre, x.sample, got, err)
		}
		again, err := f.TokenizerJSON()
		if err != nil {
			t.Fatal(err)
		}
		ours, err1 := tokenizer.Load(data)
		theirs, err2 := tokenizer.Load(again)
		if err := errors.Join(err1, err2); err != nil {
			t.Fatal(err)
		}
		if a, b := ours.Encode(x.sample), theirs.Encode(x.sample); !slices.Equal(a, b) {
			t.Errorf("%s, %s: %q is %v, in GGUF %v", x.normalizer, x.pre, x.sample, a, b)
		}
	}
	// A token of megabytes is not cut in all ways.
	long := strings.Replace(string(spm(replace, "null", merges...)), `"d":11`, `"`+strings.Repeat("ab", 1<<21)+`":11`, 1)
	if _, err := export([]byte(long), "ab"); err != nil {
		t.Error(err)
	}
	for want, data := range map[string][]byte{
		"no normaliser of type NFC":          spm(`{"type":"NFC"}`, "null", merges...),
		"no pre-tokenizer of type ByteLevel": spm("null", `{"type":"ByteLevel"}`, merges...),
		"cuts words apart":                   spm("null", metaspace(`"prepend_scheme":"always"`), merges...),
		`"▁" and "ab" make the token "▁ab"`:  spm(replace, "null", "▁ a", "a b", "▁a b", "▁ ▁"),
	} {
		if _, err := export(data, "ab"); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
}
