package model

import (
	"slices"

	"pipe/tensor"
)

// headState is what the loss head keeps between forward and backward.
type headState struct {
	rows, targets, x, lse *tensor.Tensor
	dx                    *tensor.Tensor // of each log-probability; nil when the head is trained
}

// Scores are the model's opinion of a batch's targets. Those of a pass live until
// its next one.
type Scores struct {
	LogP   []float32 // log-probability of each target
	ArgMax []int32   // the most likely token there
}

// LogProb runs b and returns the log-probabilities of its targets, whose
// logits never exist all at once. With p.Train set, [Decoder.Backward] may
// follow.
func (d *Decoder) LogProb(p *Pass, b Batch) (s Scores, err error) {
	if err := d.Check(b); err != nil {
		return s, err
	}
	defer catch(&err)
	p.start(len(b.IDs), b.Starts)
	rows := b.Rows
	if len(rows) > 0 {
		rows = p.want(len(b.IDs), rows)
	}
	h := d.run(p, b.IDs)
	if len(b.Rows) == 0 {
		d.head = headState{}
		return s, p.Sync()
	}
	return d.logProb(p, h, rows, b.Targets)
}

// logProb scores targets after the rows of the residual stream h.
func (d *Decoder) logProb(p *Pass, h *tensor.Tensor, rows, targets []int32) (Scores, error) {
	n, t := len(rows), &d.head
	t.rows, t.targets = p.Ints(rows), p.Ints(targets)
	t.x = d.gather(p, h, t.rows) // [n, H]
	logp, argmax := p.New(n), p.i32.get(p.Backend, []int{n})
	t.lse = p.New(n)
	t.dx = nil
	if p.Train && d.Head.Grad == nil {
		t.dx = p.New(n, d.Config.Hidden)
	}
	p.LogProb(logp, t.lse, argmax, t.dx, t.x, d.Head.Value, t.targets)
	s := &p.scores
	s.LogP, s.ArgMax = slices.Grow(s.LogP[:0], n)[:n], slices.Grow(s.ArgMax[:0], n)[:n]
	p.Download(s.LogP, logp)
	p.DownloadInts(s.ArgMax, argmax)
	return *s, p.Sync()
}

// Logits runs b and returns the logits [len(b.Rows), V] at its rows, row by
// row; its targets are not looked at. It needs memory for all of them, twice:
// training and scoring use [Decoder.LogProb].
func (d *Decoder) Logits(p *Pass, b Batch) (z []float32, err error) {
	if err := d.Check(b); err != nil {
		return nil, err
	}
	defer catch(&err)
	p.start(len(b.IDs), b.Starts)
	x := d.gather(p, d.run(p, b.IDs), p.Ints(b.Rows))
	t := p.New(len(b.Rows), d.Config.VocabSize)
	p.MatMul(t, x, d.Head.Value, tensor.MatMul{TransB: true, Alpha: 1})
	z = make([]float32, t.Len())
	p.Download(z, t)
	return z, p.Sync()
}

// gather returns the normed rows of the residual stream h.
func (d *Decoder) gather(p *Pass, h, rows *tensor.Tensor) *tensor.Tensor {
	x := p.New(rows.Len(), d.Config.Hidden)
	p.GatherRows(x, h, rows)
	return d.normed(p, x)
}

// normed returns the norm of rows of the residual stream, in F32 for the head.
func (d *Decoder) normed(p *Pass, x *tensor.Tensor) *tensor.Tensor {
	y := p.New(x.Shape...)
	d.Norm.forwardTo(p, y, x)
	return y
}

// Backward adds to the gradients of all trained parameters, for dlogp[i] =
// dL/dlogp of target i of the latest LogProb, which must have had p.Train set.
func (d *Decoder) Backward(p *Pass, dlogp []float32) (err error) {
	if d.head.x == nil {
		return nil // nothing was scored: no gradient
	}
	defer catch(&err)
	n, width := len(dlogp), d.Config.Hidden
	dh := p.New(d.ids.Len(), width) // [tokens, H]
	out := dh                       // of the last layer
	if d.only != nil {
		out = p.New(d.only.Len(), width)
	}
	m := p.Mark()
	dy := p.New(n)
	p.Upload(dy, dlogp)
	dx := p.New(n, width)
	d.headGrad(p, dx, dy)
	dx = d.Norm.Backward(p, dx)
	p.Zero(out)
	p.ScatterAddRows(out, dx, d.head.rows)
	p.Release(m)
	d.back(p, dh, out)
	return nil
}

// headGrad sets dx and adds to the head's gradient. For a frozen head the
// forward pass has made the gradient of each log-probability already.
func (d *Decoder) headGrad(p *Pass, dx, dy *tensor.Tensor) {
	h := &d.head
	if h.dx != nil {
		p.ScaleRows(dx, h.dx, dy)
		return
	}
	p.LogProbGrad(dx, d.Head.Grad, h.x, d.Head.Value, h.targets, h.lse, dy)
}
