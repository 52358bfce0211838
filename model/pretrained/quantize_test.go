package pretrained

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"pipe/model/bnb"
	"pipe/model/gguf"
	"pipe/model/tiny"
	"pipe/tensor"
)

// TestQuantization: layers become NF4, nothing else does; blocks that lost bits
// already, and unknown quantisations, are refused before anything is loaded.
func TestQuantization(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "m")
	if err := os.CopyFS(dir, tiny.Files()); err != nil {
		t.Fatal(err)
	}
	m, err := Open(dir, WithQuantization("nf4"))
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	for _, name := range m.Weights.Names() {
		w, err := m.Weights.Weight(name)
		if err != nil {
			t.Fatal(err)
		}
		if (w.DType == tensor.NF4) != bnb.Quantizes(name, w.Shape) || w.DType != tensor.NF4 && w.DType != tensor.F32 {
			t.Errorf("%s %v is %s", name, w.Shape, w.DType)
		}
	}
	if err := CheckWeights(dir, "nf4"); err != nil {
		t.Error(err)
	}
	if err := CheckWeights(dir, "int3"); err == nil || !strings.Contains(err.Error(), `"int3" is not supported`) {
		t.Errorf("error is %v", err)
	}
	if _, err := Open(dir, WithQuantization("int3")); err == nil || !strings.Contains(err.Error(), `"int3" is not supported`) {
		t.Errorf("error is %v", err)
	}
	plain, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer plain.Close()
	for dt, want := range map[tensor.DType]string{tensor.BF16: "", tensor.Q8_0: "in q8_0 already", tensor.Q4_0: "in q4_0 already"} {
		path := filepath.Join(t.TempDir(), dt.String()+".gguf")
		c := gguf.Checkpoint{Config: plain.Config, Weights: plain.Weights, TokenizerJSON: plain.TokenizerJSON, ChatTemplate: plain.TemplateSource}
		if err := gguf.Export(path, c, dt); err != nil {
			t.Fatal(err)
		}
		if err := CheckWeights(path, ""); err != nil {
			t.Error(err)
		}
		switch err := CheckWeights(path, "nf4"); {
		case want == "" && err != nil:
			t.Error(err)
		case want != "" && (err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "model.layers.0")):
			t.Errorf("%s: error is %v, want one with %q", dt, err, want)
		}
	}
}
