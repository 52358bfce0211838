package sft

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"pipe/model/pretrained"
	"pipe/model/safetensors"
	"pipe/model/tiny"
	"pipe/runtime/artifact"
	"pipe/runtime/stage"
	"pipe/tensor"
	"pipe/tensor/quant"
	"pipe/tensor/tensortest"
)

// tinyFiles writes the embedded model, and the same with the values that its
// layers have in NF4.
func tinyFiles(t *testing.T) (plain, rounded string) {
	t.Helper()
	plain, rounded = filepath.Join(t.TempDir(), "m"), filepath.Join(t.TempDir(), "m")
	if err := errors.Join(os.CopyFS(plain, tiny.Files()), os.CopyFS(rounded, tiny.Files())); err != nil {
		t.Fatal(err)
	}
	m, err := pretrained.Open(plain, pretrained.WithQuantization("nf4"))
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	var ts []safetensors.Tensor
	blocks := 0
	for _, name := range m.Weights.Names() {
		w, err := m.Weights.Weight(name)
		if err != nil {
			t.Fatal(err)
		}
		if w.DType == tensor.NF4 {
			blocks++
		}
		n := 1
		for _, d := range w.Shape {
			n *= d
		}
		x, data := make([]float32, n), make([]byte, 4*n)
		quant.Dequantize(x, w.DType, w.Data)
		quant.Quantize(data, tensor.F32, x)
		ts = append(ts, safetensors.Tensor{Name: name, DType: tensor.F32, Shape: w.Shape, Data: data})
	}
	if blocks != 5*7 {
		t.Errorf("%d weights in NF4, want all of 5 layers of 7", blocks)
	}
	if err := safetensors.Write(filepath.Join(rounded, "model.safetensors"), ts, nil); err != nil {
		t.Fatal(err)
	}
	return plain, rounded
}

// TestQuantizedBase: tuning over a base that is quantised when it is loaded is
// tuning over the values that are left of it.
func TestQuantizedBase(t *testing.T) {
	plain, rounded := tinyFiles(t)
	s := func() *spec { return block(func(s *spec) { s.MaxSteps, s.LR = 3, 1e-3 }) }
	loss := func(m stage.ModelPath) (v []float64) {
		m.Root = artifact.Digest{1}
		out, err := runOn(t, context.Background(), t.TempDir(), s(), m, packedRows(9))
		if err != nil {
			t.Fatal(err)
		}
		f := metrics(t, out["metrics"])
		return []float64{f.Baseline["eval.loss"].Value, f.Metrics["eval.loss"].Value}
	}
	got, want := loss(stage.ModelPath{Base: plain, Quantize: "nf4"}), loss(stage.ModelPath{Base: rounded})
	tensortest.Close(t, "loss before and after", got, want, tensortest.F32Model)
	if other := loss(stage.ModelPath{Base: plain}); other[0] == got[0] {
		t.Error("quantisation changes nothing")
	}
}

// TestQuantizedAndTrained: weights in 4 bits are not trained themselves.
func TestQuantizedAndTrained(t *testing.T) {
	plain, _ := tinyFiles(t)
	s := block(func(s *spec) { s.Adapter.Type = "none" })
	_, err := runOn(t, context.Background(), t.TempDir(), s, stage.ModelPath{Base: plain, Quantize: "nf4"}, packedRows(3))
	var f *stage.FieldError
	if !errors.As(err, &f) || f.Field != "adapter" {
		t.Errorf("error is %v, want one about adapter", err)
	}
}
