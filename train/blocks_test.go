package train_test

import (
	"context"
	"path/filepath"
	"strings"
	"testing"

	"pipe/model"
	"pipe/model/adapter"
	"pipe/model/gguf"
	"pipe/model/modeltest"
	"pipe/model/pretrained"
	"pipe/tensor"
	"pipe/tensor/quant"
	"pipe/train"
)

// inBlocks returns the checkpoint with the matrices of its layers in blocks of
// type dt, as GGUF files have them, but for rows that are not whole blocks.
func inBlocks(t *testing.T, src model.Source, dt tensor.DType) model.Weights {
	t.Helper()
	out := model.Weights{}
	for _, name := range src.Names() {
		w, err := src.Weight(name)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(name, "_proj.") && w.Shape[1]%dt.Block() == 0 {
			x := make([]float32, w.Shape[0]*w.Shape[1])
			quant.Dequantize(x, w.DType, w.Data)
			w.DType, w.Data = dt, make([]byte, dt.Bytes(len(x)))
			quant.Quantize(w.Data, dt, x)
		}
		out[name] = w
	}
	return out
}

// TestBlockBase tunes a DoRA over a base in GGUF blocks: loss, gradients and ten
// optimizer steps are PEFT's over the values of the blocks.
func TestBlockBase(t *testing.T) {
	fix := modeltest.Load(t, "blocks.safetensors")
	c, src := modeltest.Checkpoint(t, "nf4")
	for _, dt := range []tensor.DType{tensor.Q8_0, tensor.Q4_0} {
		student := func() *model.Decoder {
			d, err := model.Load(backend(t), c, inBlocks(t, src, dt), false)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(d.Close)
			if _, err := adapter.Load(d, filepath.Join(modeltest.Dir(), "nf4_dora")); err != nil {
				t.Fatal(err)
			}
			return d
		}
		d := student()
		p := model.NewPass(d.Backend())
		p.Train = true
		task := &train.Likelihood{Model: d, Rows: rows()}
		means, err := task.Step(p, []int{0, 1, 2}, []int{0, 1, 2})
		if err != nil {
			t.Fatal(err)
		}
		modeltest.Close(t, dt.String()+" loss", []float32{float32(means[0].Value())}, fix.Floats(dt.String()+".loss"), tolerance)
		n := 0
		d.Params(func(path string, x *model.Param) {
			if x.Grad == nil || !strings.Contains(path, "layers.0") {
				return
			}
			key := dt.String() + ".grad." + path
			if strings.HasSuffix(path, "lora_magnitude_vector") {
				key += ".weight"
			}
			modeltest.Close(t, key, modeltest.Download(d.Backend(), x.Grad), fix.Floats(key), tolerance)
			n++
		})
		if n != 21 {
			t.Errorf("%d gradients compared, want 21", n)
		}
		p.Close()
		o := train.NewOptions()
		o.LR, o.Beta2, o.WeightDecay, o.MaxGradNorm = 0.02, 0.99, 0.1, 0.5
		o.Warmup, o.MaxSteps, o.BatchSize = 2, 10, 3
		d = student()
		r, err := train.Run(context.Background(), d, &train.Likelihood{Model: d, Rows: rows()}, o)
		if err != nil {
			t.Fatal(err)
		}
		curve(t, dt.String(), r, fix, dt.String()+".curve")
	}
}

// TestUnwritable: a model that no config.json can describe is refused before all of its
// weights are trained; an adapter over it is written without one.
func TestUnwritable(t *testing.T) {
	m, err := pretrained.Open(modeltest.Directory(t, true))
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	c := m.Config
	c.Rope.Divisors = []float32{1, 7, 2, 3}
	path := filepath.Join(t.TempDir(), "odd.gguf")
	if err := gguf.Export(path, gguf.Checkpoint{Config: c, Weights: m.Weights, TokenizerJSON: m.TokenizerJSON}, tensor.F32); err != nil {
		t.Fatal(err)
	}
	if _, err := train.OpenBase(path, train.Tuning{Full: true}); err == nil || !strings.Contains(err.Error(), "cannot express the divisors") {
		t.Errorf("all weights: %v", err)
	}
	a := adapter.NewConfig()
	s, err := train.OpenBase(path, train.Tuning{New: &a})
	if err != nil {
		t.Fatal(err)
	}
	s.Close()
}
