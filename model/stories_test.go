package model_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"pipe/model"
	"pipe/tensor"
)

// TestStories260K: a real checkpoint in llama2.c's format (karpathy/tinyllamas,
// MIT, see LICENSE there) continues greedily with the text that llama2.c writes.
func TestStories260K(t *testing.T) {
	dir := filepath.Join("testdata", "stories260K")
	read := func(name string) []byte {
		data, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	want := strings.TrimSuffix(string(read("want.txt")), "\n")
	c, src := stories(t, bytes.NewReader(read("stories260K.bin")))
	d, err := model.Load(backend(t), c, src, false)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	// llama2.c runs 256 steps, the first of them with the BOS token, and ends
	// at the next BOS.
	r := collect(t, d, []model.Request{{Prompt: []int32{1}, MaxTokens: 256, StopIDs: []int32{1}}}, model.GenerateOptions{})[0]
	pieces := pieces(t, bytes.NewReader(read("tok512.bin")), c.VocabSize)
	var text strings.Builder
	for _, id := range r.IDs {
		var b byte
		if n, _ := fmt.Sscanf(pieces[id], "<0x%02X>", &b); n == 1 {
			text.WriteByte(b)
		} else {
			text.WriteString(pieces[id])
		}
	}
	if got := strings.TrimPrefix(text.String(), " "); got != want {
		t.Errorf("got:\n%s\nwant:\n%s", got, want)
	}
}

// stories reads a llama2.c checkpoint (version 0): its header, then tensors of
// all layers one after the other, rotated in interleaved pairs.
func stories(t *testing.T, r *bytes.Reader) (model.Config, model.Source) {
	t.Helper()
	var h struct{ Dim, Hidden, Layers, Heads, KVHeads, Vocab, SeqLen int32 }
	if err := binary.Read(r, binary.LittleEndian, &h); err != nil {
		t.Fatal(err)
	}
	c := model.Config{VocabSize: int(h.Vocab), Hidden: int(h.Dim), Intermediate: int(h.Hidden), Layers: int(h.Layers),
		Heads: int(h.Heads), KVHeads: int(h.KVHeads), HeadDim: int(h.Dim / h.Heads), MaxPositions: int(h.SeqLen),
		NormEps: 1e-5, Tied: true, Rope: model.Rope{Theta: 10000}}
	w := model.Weights{}
	one := func(name string, shape ...int) {
		n := 1
		for _, d := range shape {
			n *= d
		}
		data := make([]byte, 4*n)
		if _, err := r.Read(data); err != nil {
			t.Fatal(name, err)
		}
		w[name] = model.Weight{DType: tensor.F32, Shape: shape, Data: data}
	}
	each := func(name string, heads int, shape ...int) {
		for i := range c.Layers {
			n := fmt.Sprintf("model.layers.%d.%s.weight", i, name)
			one(n, shape...)
			if heads > 0 {
				w[n] = unpermute(w[n], heads)
			}
		}
	}
	kv := c.KVHeads * c.HeadDim
	one("model.embed_tokens.weight", c.VocabSize, c.Hidden)
	each("input_layernorm", 0, c.Hidden)
	each("self_attn.q_proj", c.Heads, c.Hidden, c.Hidden)
	each("self_attn.k_proj", c.KVHeads, kv, c.Hidden)
	each("self_attn.v_proj", 0, kv, c.Hidden)
	each("self_attn.o_proj", 0, c.Hidden, c.Hidden)
	each("post_attention_layernorm", 0, c.Hidden)
	each("mlp.gate_proj", 0, c.Intermediate, c.Hidden)
	each("mlp.down_proj", 0, c.Hidden, c.Intermediate)
	each("mlp.up_proj", 0, c.Intermediate, c.Hidden)
	one("model.norm.weight", c.Hidden)
	return c, w
}

// unpermute turns rows of interleaved pairs into halves.
func unpermute(w model.Weight, heads int) model.Weight {
	rows, bytes := w.Shape[0], len(w.Data)/w.Shape[0]
	d := rows / heads
	out := make([]byte, len(w.Data))
	for r := range rows {
		head, o := r/d*d, r%d
		from := head + 2*(o%(d/2)) + o/(d/2)
		copy(out[r*bytes:(r+1)*bytes], w.Data[from*bytes:])
	}
	w.Data = out
	return w
}

// pieces reads llama2.c's tokenizer file.
func pieces(t *testing.T, r *bytes.Reader, n int) []string {
	t.Helper()
	var longest int32
	if err := binary.Read(r, binary.LittleEndian, &longest); err != nil {
		t.Fatal(err)
	}
	out := make([]string, n)
	for i := range out {
		var h struct {
			Score  uint32
			Length int32
		}
		if err := binary.Read(r, binary.LittleEndian, &h); err != nil || h.Length < 0 || h.Length > longest || math.IsNaN(float64(math.Float32frombits(h.Score))) {
			t.Fatal("token", i, h, err)
		}
		b := make([]byte, h.Length)
		r.Read(b)
		out[i] = string(b)
	}
	return out
}
