package adapter_test

import (
	"encoding/binary"
	"math"
	"strings"
	"testing"

	"pipe/model"
	"pipe/model/adapter"
	"pipe/model/modeltest"
	"pipe/tensor"
	"pipe/tensor/quant"
)

// TestQuantizedBase trains a DoRA over a base in blocks, as a GGUF file or one
// of bitsandbytes has them, and over the same numbers expanded: loss and gradients are the same.
func TestQuantizedBase(t *testing.T) {
	c := model.Config{VocabSize: 40, Hidden: 64, Intermediate: 128, Layers: 2, Heads: 4, KVHeads: 2, HeadDim: 16,
		MaxPositions: 64, NormEps: 1e-5, InitRange: 0.2, Tied: true, Rope: model.Rope{Theta: 10000}}
	src := model.Random(c, 3)
	for _, dt := range []tensor.DType{tensor.F16, tensor.BF16, tensor.Q4_0, tensor.Q4_1, tensor.Q8_0, tensor.NF4} {
		blocks, plain := model.Weights{}, model.Weights{}
		for _, name := range src.Names() {
			w, err := src.Weight(name)
			if err != nil {
				t.Fatal(err)
			}
			if len(w.Shape) == 2 {
				w = convert(w, dt)
			}
			blocks[name], plain[name] = w, expand(w)
		}
		var loss [2]float32
		var grads [2][]float32
		for i, w := range []model.Weights{blocks, plain} {
			b := backend(t)
			d, err := model.Load(b, c, w, false)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := adapter.Attach(d, adapter.Config{DoRA: true, Rank: 3, Alpha: 6, Targets: []string{"all-linear"}}, 1); err != nil {
				t.Fatal(err)
			}
			p := model.NewPass(b)
			p.Train = true
			loss[i] = tokens(t, d, p)
			d.Params(func(path string, x *model.Param) {
				if x.Grad != nil && !strings.HasSuffix(path, "lora_A.weight") { // B is 0, so A has no gradient yet
					grads[i] = append(grads[i], modeltest.Download(b, x.Grad)...)
				}
			})
			p.Close()
			d.Close()
		}
		modeltest.Close(t, dt.String()+" loss", loss[:1], loss[1:], tolerance)
		modeltest.Close(t, dt.String()+" gradients", grads[0], grads[1], tolerance)
	}
}

// tokens runs a document of the tiny vocabulary forward and backward.
func tokens(t *testing.T, d *model.Decoder, p *model.Pass) float32 {
	t.Helper()
	var b model.Batch
	for i := range 2 {
		var ids []int32
		for j := range 17 + i {
			ids = append(ids, int32((11*i+7*j)%40))
		}
		b.Add(model.Continuation{Context: ids[:1], Target: ids[1:]})
	}
	s, err := d.LogProb(p, b)
	if err != nil {
		t.Fatal(err)
	}
	loss, grad := 0.0, make([]float32, len(s.LogP))
	for i, lp := range s.LogP {
		loss -= float64(lp) / float64(len(grad))
		grad[i] = float32(-1 / float64(len(grad)))
	}
	if err := d.Backward(p, grad); err != nil {
		t.Fatal(err)
	}
	return float32(loss)
}

func convert(w model.Weight, dt tensor.DType) model.Weight {
	v := make([]float32, len(w.Data)/4)
	for i := range v {
		v[i] = math.Float32frombits(binary.LittleEndian.Uint32(w.Data[4*i:]))
	}
	data := make([]byte, dt.Bytes(len(v)))
	quant.Quantize(data, dt, v)
	return model.Weight{DType: dt, Shape: w.Shape, Data: data}
}

func expand(w model.Weight) model.Weight {
	n := 1
	for _, d := range w.Shape {
		n *= d
	}
	v := make([]float32, n)
	quant.Dequantize(v, w.DType, w.Data)
	var data []byte
	for _, x := range v {
		data = binary.LittleEndian.AppendUint32(data, math.Float32bits(x))
	}
	return model.Weight{DType: tensor.F32, Shape: w.Shape, Data: data}
}
