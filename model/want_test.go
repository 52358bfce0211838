package model_test

import (
	"fmt"
	"math"
	"slices"
	"testing"

	"pipe/model"
	"pipe/model/modeltest"
	"pipe/tensor"
)

// rowsSeen is a backend that notes the most rows of which it made a SwiGLU's
// gradient last.
type rowsSeen struct {
	tensor.Backend
	swiglu int
}

func (b *rowsSeen) MatMul(dst, a, w *tensor.Tensor, o tensor.MatMul) {
	if o.SwiGLUGrad != nil && b.swiglu == 0 {
		b.swiglu = dst.Rows()
	}
	b.Backend.MatMul(dst, a, w, o)
}

// TestFewTargets: where few rows have a target, the last layer goes on with those
// alone, and log-probabilities and gradients are those of all rows with nothing to
// learn from the others. Two targets after one row are no other case.
func TestFewTargets(t *testing.T) {
	ids := make([]int32, 60)
	for i := range ids {
		ids[i] = int32(i*31+7) % 53
	}
	few := model.Batch{IDs: ids, Starts: []int32{0, 23}, Rows: []int32{40, 3, 9, 9, 22, 59, 23}, Targets: []int32{1, 2, 3, 4, 5, 6, 7}}
	all := few
	all.Rows, all.Targets = slices.Clone(few.Rows), slices.Clone(few.Targets)
	for i := range int32(len(ids)) {
		all.Rows, all.Targets = append(all.Rows, i), append(all.Targets, 11)
	}
	for _, c := range []struct {
		name      string
		recompute bool
		decoder   func(b tensor.Backend) *model.Decoder
	}{
		{"llama", false, func(b tensor.Backend) *model.Decoder { return random(t, b, small) }},
		{"llama", true, func(b tensor.Backend) *model.Decoder { return random(t, b, small) }},
		{"experts", false, func(b tensor.Backend) *model.Decoder { return modeltest.Decoder(t, b, "llama4/two", true) }},
		{"experts", true, func(b tensor.Backend) *model.Decoder { return modeltest.Decoder(t, b, "llama4/two", true) }},
	} {
		t.Run(fmt.Sprintf("%s/recompute=%t", c.name, c.recompute), func(t *testing.T) {
			b := &rowsSeen{Backend: backend(t)}
			d := c.decoder(b)
			p := model.NewPass(b)
			defer p.Close()
			p.Train, p.Recompute = true, c.recompute
			run := func(batch model.Batch) (logp []float32, grads map[string][]float32, rows int) {
				d.Params(func(_ string, p *model.Param) { b.Zero(p.Grad) })
				s, err := d.LogProb(p, batch)
				if err != nil {
					t.Fatal(err)
				}
				logp = slices.Clone(s.LogP[:len(few.Rows)])
				dlogp := make([]float32, len(batch.Rows))
				for i := range few.Rows {
					dlogp[i] = float32(math.Sin(float64(3*i + 1)))
				}
				b.swiglu = 0
				if err := d.Backward(p, dlogp); err != nil {
					t.Fatal(err)
				}
				grads = map[string][]float32{}
				d.Params(func(n string, p *model.Param) { grads[n] = modeltest.Download(b, p.Grad) })
				return logp, grads, b.swiglu
			}
			for range 2 { // the workspace of one pass is the next one's
				want, wantGrads, n := run(all)
				if n != len(ids) {
					t.Fatalf("%d rows of the last layer; want all %d", n, len(ids))
				}
				got, gotGrads, n := run(few)
				if n != 6 {
					t.Errorf("%d rows of the last layer; want 6", n)
				}
				// A head that is trained rounds in another way when there are few rows.
				modeltest.Close(t, "log-probabilities", got, want, 1e-6)
				for name, w := range wantGrads {
					modeltest.Close(t, name, gotGrads[name], w, 1e-5)
				}
			}
		})
	}
}

func random(t *testing.T, b tensor.Backend, c model.Config) *model.Decoder {
	d, err := model.Load(b, c, model.Random(c, 1), true)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(d.Close)
	return d
}
