package export

import (
	"os"
	"path/filepath"
	"testing"

	"pipe/model"
	"pipe/model/adapter"
	"pipe/model/pretrained"
	"pipe/model/tiny"
	"pipe/tensor"
	"pipe/tensor/cpu"
)

// quantizedScores are scores over the model at path, quantised.
func quantizedScores(t *testing.T, path, peft string) []float32 {
	t.Helper()
	m, err := pretrained.Open(path, pretrained.WithQuantization("nf4"))
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	b := cpu.New(1)
	defer b.Close()
	d, err := model.Load(b, m.Config, m.Weights, false)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if peft != "" {
		if _, err := adapter.Load(d, peft); err != nil {
			t.Fatal(err)
		}
	}
	return scoresOf(t, m, d)
}

// TestQuantizedBase: an adapter over a base in 4 bits is merged into the values
// that it was trained over; and what bnb:nf4 writes has those values, whether
// the base was quantised before or is by writing it.
func TestQuantizedBase(t *testing.T) {
	b := bench(t)
	path := filepath.Join(t.TempDir(), "m")
	if err := os.CopyFS(path, tiny.Files()); err != nil {
		t.Fatal(err)
	}
	base := b.Quantized(path, "nf4")
	m := adapted(t, b, path, base)
	a, err := b.Store.Open(m.Digest)
	if err != nil {
		t.Fatal(err)
	}
	peft, err := a.Dir()
	if err != nil {
		t.Fatal(err)
	}
	dir, err := b.Run(Kind, newSpec(m, "safetensors", "bnb:nf4", "gguf:f32")).Outputs["files"].Dir()
	if err != nil {
		t.Fatal(err)
	}
	want := quantizedScores(t, path, peft)
	if effect := far(want, scores(t, path, peft)); !(effect > 1e-3) {
		t.Errorf("quantising the base changes log-probabilities by only %v: the test would see nothing", effect)
	}
	for file, tol := range map[string]float64{"safetensors": 1e-3, "gguf/model-f32.gguf": 1e-3} {
		if d := far(scores(t, filepath.Join(dir, file), ""), want); !(d <= tol) {
			t.Errorf("%s: log-probabilities are off by %.2g, want at most %g", file, d, tol)
		}
	}
	merged, _ := load(t, filepath.Join(dir, "safetensors"))
	if w, err := merged.Weights.Weight("model.layers.0.self_attn.q_proj.weight"); err != nil || w.DType != tensor.F32 {
		t.Errorf("the type is %s, %v; want that of the embeddings, f32", w.DType, err)
	}
	// Layers without an adapter are passed on; quantised again, they would have
	// other scales.
	if d := far(scores(t, filepath.Join(dir, "bnb"), ""), quantizedScores(t, filepath.Join(dir, "safetensors"), "")); !(d <= 1e-2) {
		t.Errorf("bnb: log-probabilities are off by %v from the merged weights, quantised when they are loaded", d)
	}
	want = quantizedScores(t, path, "")
	for name, m := range map[string]string{"quantised before": "nf4", "quantised by writing": ""} {
		dir, err := b.Run(Kind, newSpec(b.Quantized(path, m), "bnb:nf4")).Outputs["files"].Dir()
		if err != nil {
			t.Fatal(err)
		}
		if d := far(scores(t, filepath.Join(dir, "bnb"), ""), want); d != 0 {
			t.Errorf("%s: log-probabilities are off by %v", name, d)
		}
	}
}
