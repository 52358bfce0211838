package main

import (
	"math"
	"testing"

	"pipe/tensor"
	"pipe/tensor/cpu"
	"pipe/tensor/quant"
)

// What is measured on a device runs on the CPU first, on a tiny model.

func onCPU() (device, error) { return device{Backend: cpu.New(2)}, nil }

func TestTrain(t *testing.T) {
	for _, base := range []string{"bf16", "nf4", "q8_0"} {
		for _, adapter := range []string{"lora", "dora", "none"} {
			r, err := training{model: "tiny", adapter: adapter, eight: adapter == "none", precision: "bf16", base: base, recompute: "auto", seq: 32, documents: 2, steps: 2, warm: 1}.run(onCPU)
			if err != nil {
				t.Fatal(base, adapter, err)
			}
			losses := r.More["losses"].([]float64)
			if r.Value <= 0 || len(losses) != 3 || !(losses[2] < losses[0]) || math.Abs(losses[0]-math.Log(512)) > 1 {
				t.Error(r, losses)
			}
		}
	}
}

func TestDecode(t *testing.T) {
	var got []record
	g := decoding{model: "tiny", base: "bf16", precision: "bf16", batches: []int{1, 3}, prompt: 9, fresh: 4}
	if err := g.run(onCPU, func(r record) { got = append(got, r) }); err != nil {
		t.Fatal(err)
	}
	if len(got) != 2 || got[1].Name != "decode tiny bf16 batch 3" || got[1].Value <= 0 {
		t.Error(got)
	}
}

func TestFiller(t *testing.T) {
	f := newFiller(5000)
	for _, dt := range []tensor.DType{tensor.BF16, tensor.F16, tensor.Q8_0, tensor.Q4_0, tensor.Q4_1, tensor.Q5_0, tensor.Q5_1, tensor.Q4_K, tensor.Q5_K, tensor.Q6_K, tensor.NF4} {
		const n = 1 << 16
		data, x := make([]byte, dt.Bytes(n)), make([]float32, n)
		f.fill(data, dt)
		quant.Dequantize(x, dt, data)
		sum := 0.0
		for _, v := range x[n-5000:] {
			sum += float64(v) * float64(v)
		}
		if d := math.Sqrt(sum / 5000); !(d > deviation/2 && d < 2*deviation) {
			t.Errorf("%s: deviation %v", dt, d)
		}
	}
}
