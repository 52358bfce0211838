package train_test

import (
	"math"
	"strings"
	"testing"

	"pipe/model"
	"pipe/model/adapter"
	"pipe/model/modeltest"
	"pipe/tensor"
	"pipe/train"
)

// leaky forgets the boundary between the last two documents of a row: in the
// forward pass, or in the gradient alone, or makes a gradient NaN.
type leaky struct {
	tensor.Backend
	forward, backward, nan bool
	documents              int // rows of so many documents are broken
}

func merged(o tensor.Attention) tensor.Attention {
	n := len(o.K)
	m := tensor.Attention{Heads: o.Heads, KVHeads: o.KVHeads, HeadDim: o.HeadDim}
	m.Q = append(append(m.Q, o.Q[:n-1]...), o.Q[n])
	m.K = append(m.K, o.K[:n-1]...)
	m.KLen = append(append(m.KLen, o.KLen[:n-2]...), o.KLen[n-2]+o.KLen[n-1])
	return m
}

func (l *leaky) Attention(dst, lse, q, k, v *tensor.Tensor, o tensor.Attention) {
	if l.forward && len(o.K) == l.documents {
		o = merged(o)
	}
	l.Backend.Attention(dst, lse, q, k, v, o)
}

func (l *leaky) AttentionGrad(dq, dk, dv, q, k, v, dst, lse, dy *tensor.Tensor, o tensor.Attention) {
	if l.backward && len(o.K) == l.documents {
		o = merged(o)
	}
	l.Backend.AttentionGrad(dq, dk, dv, q, k, v, dst, lse, dy, o)
	if l.nan {
		l.Backend.Upload(l.Backend.View(dv, 0, 1), []float32{float32(math.NaN())})
	}
}

// packed returns a model of random weights on b, with an adapter unless
// full, and rows of documents of very different lengths.
func packed(t *testing.T, b tensor.Backend, full bool, dropout float64) (*model.Decoder, []model.Batch) {
	t.Helper()
	c := small
	c.Layers, c.VocabSize, c.AttnBias, c.Tied = 2, 300, true, false
	d, err := model.Load(b, c, model.Random(c, 1), full)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(d.Close)
	if !full {
		a := adapter.NewConfig()
		a.DoRA, a.Dropout = true, dropout
		if _, err := adapter.Attach(d, a, 1); err != nil {
			t.Fatal(err)
		}
	}
	rng := model.NewStream(1, "tokens")
	var rows []model.Batch
	for i := range 3 {
		var row model.Batch
		for j, n := range []int{150 + i, 2, 40, 7, 90}[:5-i] {
			ids := make([]int32, n)
			for k := range ids {
				ids[k] = int32(rng.At(uint64(1000*i+200*j+k)) % 300)
			}
			row.Add(model.Continuation{Context: ids[:1], Target: ids[1:]})
		}
		rows = append(rows, row)
	}
	return d, rows
}

// gradients returns whether every gradient is zero.
func zeroGradients(d *model.Decoder) bool {
	zero := true
	d.Params(func(_ string, p *model.Param) {
		if p.Grad != nil {
			for _, v := range modeltest.Download(d.Backend(), p.Grad) {
				zero = zero && v == 0
			}
		}
	})
	return zero
}

func TestCheckPacking(t *testing.T) {
	for name, c := range map[string]struct {
		full      bool
		dropout   float64
		recompute bool
	}{"adapter": {}, "adapter with dropout": {dropout: 0.3}, "all weights": {full: true}, "checkpointing": {recompute: true}} {
		t.Run(name, func(t *testing.T) {
			d, rows := packed(t, backend(t), c.full, c.dropout)
			before := bits(d)
			p := model.NewPass(d.Backend())
			p.Recompute = c.recompute
			for _, row := range rows {
				if err := train.CheckPacking(p, d, row); err != nil {
					t.Error(err)
				}
			}
			if !zeroGradients(d) || string(bits(d)) != string(before) {
				t.Error("the check leaves gradients or changes parameters")
			}
			if p.Train || p.NoDropout || p.Recompute != c.recompute {
				t.Error("the check leaves the pass changed")
			}
		})
	}
	d := student(t, "dora") // trained: no factor is zero
	if err := train.CheckPacking(model.NewPass(d.Backend()), d, modeltest.Batch()); err != nil {
		t.Error(err)
	}
}

// TestCheckPackingRefuses breaks a boundary of a row deliberately.
func TestCheckPackingRefuses(t *testing.T) {
	for name, c := range map[string]struct {
		leaky leaky
		want  []string
	}{
		"forward":  {leaky{forward: true, documents: 5}, []string{"document 4 has loss", "documents influence each other"}},
		"backward": {leaky{backward: true, documents: 5}, []string{"the gradient of model.layers.", "most for document ", "documents influence each other"}},
		"nan":      {leaky{nan: true}, []string{"the gradient of", "NaN"}},
	} {
		for _, full := range []bool{false, true} {
			l := c.leaky
			l.Backend = backend(t)
			d, rows := packed(t, &l, full, 0)
			p := model.NewPass(&l)
			err := train.CheckPacking(p, d, rows[0])
			if err == nil {
				t.Errorf("%s: not refused", name)
				continue
			}
			t.Log(err)
			for _, w := range c.want {
				if !strings.Contains(err.Error(), w) {
					t.Errorf("%s: error %q; want %q in it", name, err, w)
				}
			}
			if !zeroGradients(d) {
				t.Errorf("%s: the check leaves gradients", name)
			}
			if c.leaky.documents > 0 { // another row is whole
				if err := train.CheckPacking(p, d, rows[1]); err != nil {
					t.Errorf("%s: %v", name, err)
				}
			}
		}
	}
}

// BenchmarkCheckPacking measures the check of a row against a step on it.
func BenchmarkCheckPacking(b *testing.B) {
	t := &testing.T{}
	d, rows := packed(t, backend(b), false, 0)
	p := model.NewPass(d.Backend())
	task := &train.Likelihood{Model: d, Rows: rows}
	b.Run("check", func(b *testing.B) {
		for b.Loop() {
			if err := train.CheckPacking(p, d, rows[0]); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("step", func(b *testing.B) {
		p.Train = true
		for b.Loop() {
			if _, err := task.Step(p, []int{0}, []int{0}); err != nil {
				b.Fatal(err)
			}
		}
	})
}
