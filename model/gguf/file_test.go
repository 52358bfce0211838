package gguf_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"pipe/model"
	"pipe/model/gguf"
	"pipe/tensor"
	"pipe/tensor/quant"
	"pipe/text/tokenizer"
)

// fixture is a file written by the gguf package, and what it holds.
type fixture struct {
	Generator string `json:"generator_sha256"`
	File      []byte
	Tensors   map[string]struct {
		Shape        []int
		Type, SHA256 string
	}
}

func load(t testing.TB) (f fixture) {
	t.Helper()
	data, err := os.ReadFile("testdata/tiny.json")
	if err == nil {
		err = json.Unmarshal(data, &f)
	}
	if err != nil {
		t.Fatal(err)
	}
	gen, err := os.ReadFile("testdata/gen.py")
	if err != nil {
		t.Fatal(err)
	}
	if hash(gen) != f.Generator {
		t.Fatal("tiny.json was not made by the gen.py beside it; run gen.py again")
	}
	return f
}

func hash(b []byte) string { s := sha256.Sum256(b); return hex.EncodeToString(s[:]) }

func put(t testing.TB, data []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "f.gguf")
	if err := os.WriteFile(path, data, 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

func open(t testing.TB, path string) *gguf.File {
	t.Helper()
	f, err := gguf.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

// TestWeights checks names, shapes, types and the rows' order: the data of
// every tensor must equal the Hugging Face matrix quantised row by row.
func TestWeights(t *testing.T) {
	fix := load(t)
	f := open(t, put(t, fix.File))
	if got := f.Names(); len(got) != len(fix.Tensors) || !slices.IsSorted(got) {
		t.Errorf("names %v", got)
	}
	for name, want := range fix.Tensors {
		w, err := f.Weight(name)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if !slices.Equal(w.Shape, want.Shape) || w.DType.String() != want.Type || hash(w.Data) != want.SHA256 {
			t.Errorf("%s: shape %v, type %s, data differ %t", name, w.Shape, w.DType, hash(w.Data) != want.SHA256)
		}
		d, err := f.Describe(name)
		if err != nil || !slices.Equal(d.Shape, w.Shape) || d.DType != w.DType || len(d.Data) != len(w.Data) {
			t.Errorf("%s: described as shape %v, type %s, %d bytes, %v", name, d.Shape, d.DType, len(d.Data), err)
		}
	}
	if err := model.CheckWeights(f.Config(), f); err != nil {
		t.Error(err)
	}
	other := f.Config()
	other.Intermediate *= 2
	if err := model.CheckWeights(other, f); err == nil || !strings.Contains(err.Error(), "config.json says") {
		t.Errorf("other shapes: %v", err)
	}
	if _, err := f.Weight("rope_freqs.weight"); !errors.Is(err, model.ErrNoTensor) {
		t.Errorf("got %v", err)
	}
}

func TestConfig(t *testing.T) {
	got := open(t, put(t, load(t).File)).Config()
	want := model.Config{
		VocabSize: 12, Hidden: 32, Intermediate: 64, Layers: 2, Heads: 4, KVHeads: 2, HeadDim: 8,
		MaxPositions: 64, NormEps: 1e-6, InitRange: 0.02, BOS: 9, EOS: []int32{10}, PAD: -1,
		Rope: model.Rope{Theta: 500000, Type: "default", Divisors: []float32{1, 1.5, 4, 8}},
	}
	a, err1 := json.Marshal(got)
	b, err2 := json.Marshal(want)
	if err := errors.Join(err1, err2); err != nil || !bytes.Equal(a, b) {
		t.Errorf("got  %s\nwant %s, %v", a, b, err)
	}
}

// TestTokenizer loads the tokenizer.json that is made of the metadata.
func TestTokenizer(t *testing.T) {
	f := open(t, put(t, load(t).File))
	data, err := f.TokenizerJSON()
	if err != nil {
		t.Fatal(err)
	}
	tok, err := tokenizer.Load(data)
	if err != nil {
		t.Fatalf("%v\n%s", err, data)
	}
	// "abc" is a token (ignore_merges), the added tokens are found in text.
	for text, want := range map[string][]int32{
		"abc c":           {6, 5},
		"ab<|eot_id|>d":   {4, 10, 7},
		"user textaab":    {11, 0, 4},
		"ba":              {1, 0},
		"<|bos|><|bos|> ": {9, 9, 3},
	} {
		if got := tok.Encode(text); !slices.Equal(got, want) {
			t.Errorf("%q: got %v, want %v", text, got, want)
		}
	}
	if got := tok.Wrap(nil); !slices.Equal(got, []int32{9}) {
		t.Errorf("wrapped by %v; llama-bpe adds the bos token", got)
	}
	if tpl, err := f.ChatTemplate(); err != nil || tpl != "{{ messages }}" {
		t.Errorf("template %q, %v", tpl, err)
	}
}

// TestMetadata reads keys of every kind.
func TestMetadata(t *testing.T) {
	base := open(t, put(t, load(t).File))
	c := checkpoint(t, base)
	path := filepath.Join(t.TempDir(), "f.gguf")
	kvs := []gguf.KV{
		{Key: "general.architecture", Value: "llama"}, {Key: "llama.embedding_length", Value: uint64(32)},
		{Key: "llama.feed_forward_length", Value: int32(64)}, {Key: "llama.block_count", Value: uint32(1)},
		{Key: "llama.attention.head_count", Value: uint32(4)}, {Key: "llama.context_length", Value: uint32(9)}, {Key: "llama.attention.layer_norm_rms_epsilon", Value: float32(1e-5)},
		{Key: "f", Value: float32(0.5)}, {Key: "b", Value: true}, {Key: "s", Value: []string{"x", "", "é"}},
		{Key: "i", Value: []int32{-1, 7}}, {Key: "fs", Value: []float32{1, 2}},
	}
	if err := gguf.Write(path, kvs, embedding(c)); err != nil {
		t.Fatal(err)
	}
	f := open(t, path)
	if !slices.Contains(f.Keys(), "fs") || !f.Has("f") || f.Has("g") {
		t.Errorf("keys %v", f.Keys())
	}
	if v, err := f.Float("f", 0); v != 0.5 || err != nil {
		t.Error(v, err)
	}
	if v, err := f.Float("llama.block_count", 0); v != 1 || err != nil {
		t.Error(v, err)
	}
	if v, err := f.Bool("b", false); !v || err != nil {
		t.Error(v, err)
	}
	if v, err := f.Strings("s"); !slices.Equal(v, []string{"x", "", "é"}) || err != nil {
		t.Error(v, err)
	}
	if v, err := f.Ints("i"); !slices.Equal(v, []int64{-1, 7}) || err != nil {
		t.Error(v, err)
	}
	if v, err := f.Floats("fs"); !slices.Equal(v, []float32{1, 2}) || err != nil {
		t.Error(v, err)
	}
	if v, err := f.Int("absent", 3); v != 3 || err != nil {
		t.Error(v, err)
	}
	_, e1 := f.Int("f", 0)
	_, e2 := f.Text("b")
	_, e3 := f.Strings("i")
	_, e4 := f.Ints("s")
	_, e5 := f.Floats("i")
	_, e6 := f.Bool("f", false)
	_, e7 := f.Float("s", 0)
	for i, err := range []error{e1, e2, e3, e4, e5, e6, e7} {
		if err == nil || !strings.Contains(err.Error(), "is not a") {
			t.Errorf("case %d: %v", i, err)
		}
	}
	if f.Config().KVHeads != 4 || f.Config().Tied != true || f.Config().BOS != -1 {
		t.Errorf("defaults: %+v", f.Config())
	}
}

func values(t *testing.T, s model.Source, name string) []float32 {
	t.Helper()
	w, err := s.Weight(name)
	if err != nil {
		t.Fatal(err)
	}
	n := 1
	for _, d := range w.Shape {
		n *= d
	}
	x := make([]float32, n)
	quant.Dequantize(x, w.DType, w.Data)
	return x
}

// small is a whole file of a few tensors, for the fuzzer to work on.
func small(t testing.TB, arch string) []byte {
	zeros := func(name string, dt tensor.DType, shape ...int) gguf.Tensor {
		n := 1
		for _, d := range shape {
			n *= d
		}
		return gguf.Tensor{Name: name, DType: dt, Shape: shape, Fill: func(w io.Writer) error { _, err := w.Write(make([]byte, dt.Bytes(n))); return err }}
	}
	var b bytes.Buffer
	err := gguf.WriteTo(&b, []gguf.KV{
		{Key: "general.architecture", Value: arch}, {Key: arch + ".embedding_length", Value: uint32(4)},
		{Key: arch + ".feed_forward_length", Value: uint32(4)}, {Key: arch + ".block_count", Value: uint32(1)},
		{Key: arch + ".attention.head_count", Value: uint32(1)}, {Key: arch + ".context_length", Value: uint32(9)}, {Key: arch + ".attention.layer_norm_rms_epsilon", Value: float32(1e-5)},
		{Key: arch + ".expert_count", Value: uint32(map[string]int{"llama4": 2}[arch])}, {Key: arch + ".expert_used_count", Value: uint32(1)},
		{Key: arch + ".expert_feed_forward_length", Value: uint32(4)}, {Key: arch + ".interleave_moe_layer_step", Value: uint32(1)},
		{Key: "tokenizer.ggml.model", Value: "gpt2"}, {Key: "tokenizer.ggml.pre", Value: "smollm"},
		{Key: "tokenizer.ggml.tokens", Value: []string{"a", "b", "ab"}}, {Key: "tokenizer.ggml.token_type", Value: []int32{1, 1, 1}},
		{Key: "tokenizer.ggml.merges", Value: []string{"a b"}},
	}, []gguf.Tensor{
		zeros("token_embd.weight", tensor.F32, 3, 4), zeros("blk.0.attn_q.weight", tensor.F16, 4, 4), zeros("blk.0.ffn_down.weight", tensor.F32, 4, 4),
	})
	if err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// FuzzOpen: no file makes a panic, and what opens can be read.
func FuzzOpen(f *testing.F) {
	f.Add(load(f).File)
	for _, arch := range []string{"llama", "llama4", "qwen2", "qwen3", "smollm3"} {
		f.Add(small(f, arch))
	}
	for _, c := range hostile() {
		f.Add(c.file)
	}
	path := filepath.Join(f.TempDir(), "f.gguf")
	f.Fuzz(func(t *testing.T, data []byte) {
		if len(data) > 1<<16 {
			return
		}
		if err := os.WriteFile(path, data, 0o644); err != nil {
			t.Fatal(err)
		}
		file, err := gguf.Open(path)
		if err != nil {
			return
		}
		defer file.Close()
		for _, name := range file.Names() {
			w, err := file.Weight(name)
			if err == nil && len(w.Data) > len(data) {
				t.Fatalf("%s: %d bytes in a file of %d", name, len(w.Data), len(data))
			}
		}
		if data, err := file.TokenizerJSON(); err == nil && !json.Valid(data) {
			t.Fatalf("tokenizer.json is not JSON: %s", data)
		}
		file.ChatTemplate()
		if model.CheckWeights(file.Config(), file) == nil && file.Config().VocabSize > len(data) {
			t.Errorf("a file of %d bytes has an embedding of %d rows", len(data), file.Config().VocabSize)
		}
	})
}
