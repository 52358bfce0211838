package export

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"pipe/model"
	"pipe/model/gguf"
	"pipe/model/modeltest"
	"pipe/model/pretrained"
	"pipe/model/safetensors"
	"pipe/tensor"
)

// TestLlama4 writes a Llama 4: what it writes gives the log-probabilities of base and adapter, and the formats
// that have no place for it are refused.
func TestLlama4(t *testing.T) {
	b := bench(t)
	path := modeltest.Llama4Directory(t, true)
	base := b.Model(path)
	m := adapted(t, b, path, base)
	a, err := b.Store.Open(m.Digest)
	if err != nil {
		t.Fatal(err)
	}
	peft, err := a.Dir()
	if err != nil {
		t.Fatal(err)
	}
	want := scores(t, path, peft)
	if effect := far(want, scores(t, path, "")); !(effect > 0.05) {
		t.Fatalf("the adapter changes log-probabilities by only %v: the test would see nothing", effect)
	}
	r := b.Run(Kind, newSpec(m, "peft", "safetensors"))
	dir, err := r.Outputs["files"].Dir()
	if err != nil {
		t.Fatal(err)
	}
	if d := far(scores(t, path, filepath.Join(dir, "peft")), want); d != 0 {
		t.Errorf("the adapter is off by %v", d)
	}
	if d := far(scores(t, filepath.Join(dir, "safetensors"), ""), want); !(d <= 1e-4) {
		t.Errorf("the merged model is off by %v", d)
	}
	f := modeltest.Open(t, filepath.Join(dir, "safetensors", "model.safetensors"))
	if w, err := f.Weight("model.layers.0.feed_forward.experts.gate_up_proj"); err != nil || !slices.Equal(w.Shape, []int{4, 32, 96}) {
		t.Errorf("experts %v, %v", w.Shape, err)
	}
	for format, want := range map[string]string{ // the tiny one attends in chunks of 16
		"gguf:f16": "holds gguf:f16, but a Llama 4 of other settings than the published ones have", "bnb:nf4": "a Llama 4 is written as peft, safetensors and gguf only",
	} {
		if _, err := b.Try(context.Background(), Kind, newSpec(m, format)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", format, err)
		}
	}
}

// TestLlama4GGUF: of blocks, and of 16 bits, come 16 bits, although routers are f32 in all files.
func TestLlama4GGUF(t *testing.T) {
	m, err := pretrained.Open(modeltest.Llama4Directory(t, true))
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	c := m.Config
	v4 := *c.Llama4 // with the settings that llama.cpp knows
	v4.Chunk, v4.FloorScale, v4.AttnScale, v4.QKNorm, v4.Tuned = 8192, 8192, 0.1, true, true
	v4.MoE, v4.Rope, v4.Chunked = slices.Clone(v4.MoE), slices.Clone(v4.Rope), slices.Clone(v4.Chunked)
	for i := range v4.MoE {
		rotates := (i+1)%4 != 0
		v4.MoE[i], v4.Rope[i], v4.Chunked[i] = true, rotates, rotates
	}
	c.Llama4, c.Tied = &v4, false
	for dt, want := range map[tensor.DType]string{tensor.Q8_0: "float16", tensor.BF16: "bfloat16", tensor.F32: "float32"} {
		path := filepath.Join(t.TempDir(), "model.gguf")
		if err := gguf.Export(path, gguf.Checkpoint{Config: c, Weights: model.Random(c, 1), TokenizerJSON: m.TokenizerJSON}, dt); err != nil {
			t.Fatal(err)
		}
		b := bench(t)
		dir, err := b.Run(Kind, newSpec(b.Model(path), "safetensors")).Outputs["files"].Dir()
		if err != nil {
			t.Fatal(err)
		}
		data, err := os.ReadFile(filepath.Join(dir, "safetensors", "config.json"))
		if err != nil || !strings.Contains(string(data), `"torch_dtype": "`+want+`"`) {
			t.Errorf("%s becomes %s, %v", dt, data, err)
		}
	}
}

// withImages makes the model in dir one that takes images.
func withImages(t *testing.T, dir string) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(dir, "config.json"))
	if err != nil {
		t.Fatal(err)
	}
	config := fmt.Sprintf(`{"architectures": ["Llama4ForConditionalGeneration"], "model_type": "llama4", "dtype": "bfloat16", "image_token_index": 7, "text_config": %s, "vision_config": {"hidden_size": 8}}`, text)
	for name, data := range map[string]string{"config.json": config, "preprocessor_config.json": `{"size": 336}`} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(data), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	path := filepath.Join(dir, "model.safetensors")
	f, err := safetensors.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	tensors := []safetensors.Tensor{
		{Name: "vision_model.class_embedding", DType: tensor.F32, Shape: []int{2}, Data: []byte("\x00\x00\x80\x3f\x00\x00\x00\x40")}, // 1, 2
		{Name: "multi_modal_projector.linear_1.weight", DType: tensor.F32, Shape: []int{1, 1}, Data: []byte("\x00\x00\x40\x40")},     // 3
	}
	for _, name := range f.Names() {
		w, err := f.Weight(name)
		if err != nil {
			t.Fatal(err)
		}
		tensors = append(tensors, safetensors.Tensor{Name: "language_model." + name, DType: w.DType, Shape: w.Shape, Data: slices.Clone(w.Data)})
	}
	f.Close()
	if err := safetensors.Write(path, tensors, nil); err != nil {
		t.Fatal(err)
	}
}

// TestImages: a model that takes images is written as one, with what it has for them as it was.
func TestImages(t *testing.T) {
	b := bench(t)
	path := modeltest.Llama4Directory(t, true)
	withImages(t, path)
	m := adapted(t, b, path, b.Model(path))
	a, err := b.Store.Open(m.Digest)
	if err != nil {
		t.Fatal(err)
	}
	peft, err := a.Dir()
	if err != nil {
		t.Fatal(err)
	}
	s := newSpec(m, "peft", "safetensors")
	s.DType = "f16"
	dir, err := b.Run(Kind, s).Outputs["files"].Dir()
	if err != nil {
		t.Fatal(err)
	}
	dir = filepath.Join(dir, "safetensors")
	if d := far(scores(t, dir, ""), scores(t, path, peft)); !(d <= 0.02) {
		t.Errorf("the merged model is off by %v", d)
	}
	f, was := modeltest.Open(t, filepath.Join(dir, "model.safetensors")), modeltest.Open(t, filepath.Join(path, "model.safetensors"))
	if !slices.Equal(f.Names(), was.Names()) {
		t.Errorf("names %v, want %v", f.Names(), was.Names())
	}
	for name, want := range map[string]string{"vision_model.class_embedding": "\x00\x3c\x00\x40", "multi_modal_projector.linear_1.weight": "\x00\x42"} {
		if w, err := f.Weight(name); err != nil || string(w.Data) != want {
			t.Errorf("%s is %x, %v", name, w.Data, err)
		}
	}
	data, err := os.ReadFile(filepath.Join(dir, "config.json"))
	var c struct {
		Type    string `json:"model_type"`
		DType   string `json:"torch_dtype"`
		DTypeV5 string `json:"dtype"`
		Image   int    `json:"image_token_index"`
		Text    struct {
			Type string `json:"model_type"`
		} `json:"text_config"`
		Vision struct {
			Hidden int `json:"hidden_size"`
		} `json:"vision_config"`
	}
	if err = errors.Join(err, json.Unmarshal(data, &c)); err != nil || c.Type != "llama4" || c.DType != "float16" || c.DTypeV5 != "" || c.Image != 7 || c.Text.Type != "llama4_text" || c.Vision.Hidden != 8 {
		t.Errorf("config.json %s: %v", data, err)
	}
	if data, err := os.ReadFile(filepath.Join(dir, "preprocessor_config.json")); err != nil || string(data) != `{"size": 336}` {
		t.Errorf("preprocessor_config.json %s: %v", data, err)
	}
}

// widen gives the model in dir rows of whole blocks of NF4.
func widen(t *testing.T, dir string) {
	t.Helper()
	m, err := pretrained.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	c, v4 := m.Config, *m.Config.Llama4
	m.Close()
	c.Hidden, c.Intermediate, c.Heads, c.KVHeads, c.HeadDim, v4.Dense, c.Llama4 = 64, 64, 4, 2, 16, 128, &v4
	config, err := c.JSON("float32")
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, "config.json"), config, 0o644)
	}
	var tensors []safetensors.Tensor
	src := c.ToStored(model.Random(c, 1))
	for _, name := range src.Names() {
		w, err := src.Weight(name)
		if err != nil {
			t.Fatal(err)
		}
		tensors = append(tensors, safetensors.Tensor{Name: name, DType: w.DType, Shape: w.Shape, Data: w.Data})
	}
	if err = errors.Join(err, safetensors.Write(filepath.Join(dir, "model.safetensors"), tensors, nil)); err != nil {
		t.Fatal(err)
	}
}

// TestImagesIn4Bits: a base of 16 bits that is loaded in 4 comes out in 16 bits, with what it
// sees images with and without.
func TestImagesIn4Bits(t *testing.T) {
	for _, images := range []bool{false, true} {
		b := bench(t)
		path := modeltest.Llama4Directory(t, true)
		widen(t, path)
		if images {
			withImages(t, path)
		}
		s := newSpec(b.Model(path), "safetensors")
		s.DType = "bf16"
		dir, err := b.Run(Kind, s).Outputs["files"].Dir()
		if err != nil {
			t.Fatal(err)
		}
		base := b.Quantized(filepath.Join(dir, "safetensors"), "nf4")
		if dir, err = b.Run(Kind, newSpec(base, "safetensors")).Outputs["files"].Dir(); err != nil {
			t.Fatal(err)
		}
		data, err := os.ReadFile(filepath.Join(dir, "safetensors", "config.json"))
		if err != nil || !strings.Contains(string(data), `"torch_dtype": "bfloat16"`) || strings.Contains(string(data), "float32") {
			t.Errorf("images %t: %s, %v", images, data, err)
		}
	}
}
