package model_test

import (
	"testing"

	"pipe/model"
	"pipe/tensor"
)

// idle is a backend whose operations do nothing: what is left is the work of
// package model.
type idle struct{ tensor.Backend }

func (idle) Embed(dst, table, ids *tensor.Tensor)                           {}
func (idle) MatMul(dst, a, b *tensor.Tensor, o tensor.MatMul)               {}
func (idle) Add(dst, a, b *tensor.Tensor, scale float32)                    {}
func (idle) RMSNorm(dst, rstd, x, w *tensor.Tensor, eps float32)            {}
func (idle) Rope(x, pos, invFreq *tensor.Tensor, inverse bool)              {}
func (idle) Attention(dst, lse, q, k, v *tensor.Tensor, o tensor.Attention) {}
func (idle) SwiGLU(dst, gate, up *tensor.Tensor)                            {}
func (idle) ScatterRows(dst, src, idx *tensor.Tensor)                       {}
func (idle) Copy(dst, src *tensor.Tensor)                                   {}
func (idle) Download(dst []float32, src *tensor.Tensor)                     {}

// TestDecodeAllocates: once a batch is full, a token costs the model and the
// sampler no allocation, however many sequences run.
func TestDecodeAllocates(t *testing.T) {
	d, err := model.Load(idle{backend(t)}, small, model.Random(small, 1), false)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(d.Close)
	for _, n := range []int{1, 16, 20} {
		reqs := make([]model.Request, n)
		run := func(tokens int) float64 {
			for i := range reqs {
				reqs[i] = model.Request{Prompt: []int32{1, int32(i)}, MaxTokens: tokens, StopIDs: []int32{-1},
					Sampling: model.Sampling{Temperature: 1, TopP: 0.9, RepetitionPenalty: 1.1}}
			}
			return testing.AllocsPerRun(2, func() {
				if err := d.Generate(t.Context(), reqs, model.GenerateOptions{Batch: n}, func(int, model.Result) error { return nil }); err != nil {
					t.Fatal(err)
				}
			})
		}
		if few, many := run(10), run(110); many-few >= 10 { // the runtime allocates now and then
			t.Errorf("%d sequences: %v allocations a step", n, (many-few)/100)
		}
	}
}
