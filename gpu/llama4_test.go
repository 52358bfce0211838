//go:build cuda

package gpu_test

import (
	"context"
	"fmt"
	"math"
	"path/filepath"
	"slices"
	"testing"

	"pipe/model"
	"pipe/model/adapter"
	"pipe/model/modeltest"
	"pipe/tensor"
	"pipe/tensor/tensortest"
)

// llama4 is a tiny Llama 4 with all weights or a DoRA adapter to train.
func llama4(t *testing.T, b tensor.Backend, name, what string, precision tensor.DType) *model.Decoder {
	t.Helper()
	d := modeltest.Decoder(t, b, "llama4/"+name, what == "full")
	d.SetPrecision(precision)
	if what == "dora" {
		if _, err := adapter.Load(d, filepath.Join(modeltest.Dir(), "llama4", name, what)); err != nil {
			t.Fatal(err)
		}
	}
	return d
}

// documents are longer than a chunk of attention.
func documents(seed int) (b model.Batch) {
	for i, n := range []int{23, 5, 14} {
		var ids []int32
		for j := range n {
			ids = append(ids, int32((7*i+11*j+(seed+1)*j*j+seed)%53))
		}
		b.Add(model.Continuation{Context: ids[:1], Target: ids[1:]})
	}
	return b
}

// settled returns documents whose tokens go to the same experts in bfloat16 as in F32: where
// two logits of a router are as good as equal, rounding decides, and results are not comparable.
func settled(t *testing.T, name, what string) model.Batch {
	t.Helper()
	b := host(t)
	exact, rounded := llama4(t, b, name, what, tensor.F32), llama4(t, b, name, what, tensor.BF16)
	for seed := range 40 {
		docs, off := documents(seed), 0.0
		want := pass(t, exact, docs, false).logp
		for i, got := range pass(t, rounded, docs, false).logp {
			off = max(off, math.Abs(float64(got-want[i])))
		}
		if off < 0.06 {
			return docs
		}
	}
	t.Fatal("no documents are settled")
	return model.Batch{}
}

// TestLlama4 compares log-probabilities and gradients, through experts, with the CPU's.
func TestLlama4(t *testing.T) {
	for _, name := range []string{"one", "two"} {
		for _, what := range []string{"full", "dora"} {
			docs := settled(t, name, what)
			for _, x := range precisions[:2] { // no experts are in 8 bits
				if x.dt == tensor.BF16 {
					x.grad = tensortest.Tolerance{Abs: 2e-3, Rel: 0.6, Cosine: 0.97} // of 20 columns, without a norm of queries and keys
				}
				t.Run(fmt.Sprint(name, " ", what, " in ", x.dt), func(t *testing.T) {
					want := pass(t, llama4(t, host(t), name, what, x.dt), docs, false)
					d := llama4(t, device(t), name, what, x.dt)
					got := pass(t, d, docs, false)
					tensortest.Close(t, "log-probabilities", got.logp, want.logp, x.loss)
					for _, n := range want.names {
						tensortest.Close(t, n, got.grads[n], want.grads[n], x.grad)
					}
					again := pass(t, d, docs, true)
					for _, n := range want.names {
						if !slices.Equal(again.grads[n], got.grads[n]) {
							t.Errorf("%s differs when activations are computed again", n)
						}
					}
				})
			}
		}
	}
}

// TestLlama4Generates: the CPU's tokens in F32; in both precisions the same ones alone and together,
// before and after the chunk that steps as graphs end with.
func TestLlama4Generates(t *testing.T) {
	generate := func(d *model.Decoder, batch int) (all [][]int32) {
		all = make([][]int32, 5)
		var reqs []model.Request
		for i := range all {
			r := model.Request{Prompt: []int32{int32(3 + i), 17, 5}, MaxTokens: 4 + 5*i, Seed: uint64(i)}
			if i%2 == 1 {
				r.Sampling.Temperature = 0.8
			}
			reqs = append(reqs, r)
		}
		err := d.Generate(context.Background(), reqs, model.GenerateOptions{Batch: batch}, func(i int, r model.Result) error {
			all[i] = r.IDs
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		return all
	}
	for _, name := range []string{"one", "two"} {
		for _, dt := range []tensor.DType{tensor.F32, tensor.BF16} {
			d := llama4(t, device(t), name, "dora", dt)
			alone, together := generate(d, 1), generate(d, 5)
			for i := range alone {
				if !slices.Equal(alone[i], together[i]) {
					t.Errorf("%s in %s, request %d: %v alone, %v together", name, dt, i, alone[i], together[i])
				}
			}
			if want := generate(llama4(t, host(t), name, "dora", dt), 5); dt == tensor.F32 && fmt.Sprint(together) != fmt.Sprint(want) {
				t.Errorf("%s: %v, on the CPU %v", name, together, want)
			}
		}
	}
}
