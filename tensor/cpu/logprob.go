package cpu

import (
	"math"

	"pipe/tensor"
)

// Logits exist for this many rows and words at a time: 9 MiB. The words are
// whole passes over kept panels, whose depth is 384 for large vocabularies.
const (
	logitRows  = 512
	logitWords = 12 * 384
)

// headProduct returns the product that forms the logits of rows t0..t1 and
// words v0..v1 in z.
func headProduct(z, x []float32, w operand, t0, t1, v0, v1 int) product {
	return product{m: t1 - t0, n: v1 - v0, k: w.cols, c: z, ldc: v1 - v0,
		a: x[t0*w.cols:], lda: w.cols, w: w.slice(v0, v1), transW: true, alpha: 1}
}

// LogProb implements [tensor.Transformer]. The sum of exponentials, and that of
// the rows of w weighted by them, are kept relative to the largest logit so far
// (Milakov & Gimelshein 2018).
func (b *Backend) LogProb(logp, lse, argmax, dx, x, w, target *tensor.Tensor) {
	const op = "log prob"
	lp, ls, h, o, goal := output(op, logp), output(op, lse), input(op, x), b.operand(op, w), ints(op, target)
	o.eight = false
	n := len(goal)
	checkMatrix(op, x, n, o.cols)
	checkLen(op, len(lp), n)
	checkLen(op, len(ls), n)
	var best []int32
	if argmax != nil {
		best = ints(op, argmax)
		checkLen(op, len(best), n)
	}
	var d []float32
	if dx != nil {
		d = output(op, dx)
		sameShape(op, dx, x)
	}
	if b.err != nil || !b.checkIndex(op, goal, o.rows) {
		return
	}
	for t0 := 0; t0 < n; t0 += logitRows {
		t1 := min(n, t0+logitRows)
		var acc []float32
		if d != nil {
			acc = d[t0*o.cols : t1*o.cols]
		}
		s := b.newSoftmax(t1 - t0)
		b.logits(acc, h, o, goal, t0, t1)
		for t := t0; t < t1; t++ {
			total := float64(s.max[t-t0]) + math.Log(s.sum[t-t0])
			ls[t], lp[t] = float32(total), float32(float64(s.target[t-t0])-total)
			if best != nil {
				best[t] = int32(s.arg[t-t0])
			}
		}
		if d != nil {
			b.fromTargets(acc, o, goal[t0:t1])
		}
	}
}

// logits takes the rows t0..t1 through all words. acc, unless nil, becomes the
// sum of exp(z)·w, relative to the largest logit of its row.
func (b *Backend) logits(acc, x []float32, o operand, goal []int32, t0, t1 int) {
	for v0 := 0; v0 < o.rows; v0 += logitWords {
		v1 := min(o.rows, v0+logitWords)
		words := v1 - v0
		z := grow(&b.shared.probs, logitRows*words)[:(t1-t0)*words]
		p := headProduct(z, x, o, t0, t1, v0, v1)
		p.uniform = acc != nil
		b.multiply(&p)
		b.split(t1-t0, 1, float64(words)*0.7, args{dst: acc, dst2: z, ids: goal[t0:t1], first: v0, rows: words, cols: o.cols}, (*args).addLogits)
		if acc != nil {
			p := &product{m: t1 - t0, n: o.cols, k: words, c: acc, ldc: o.cols, a: z, lda: words, w: o.slice(v0, v1), alpha: 1}
			if v0 > 0 {
				p.beta = 1
			}
			b.multiply(p)
		}
	}
}

// addLogits adds the logits of the words from first on to the softmax.
func (a *args) addLogits(lo, hi, _ int) {
	b, acc := a.b, a.dst
	for t := lo; t < hi; t++ {
		shrink := b.op.softmax.add(b.k, t, a.dst2[t*a.rows:][:a.rows], a.first, int(a.ids[t]))
		if acc != nil && a.first > 0 && shrink != 1 {
			row := acc[t*a.cols:][:a.cols]
			b.k.scale(row, row, shrink)
		}
	}
}

// fromTargets turns the sums acc into w[target] - acc/Σ exp(z).
func (b *Backend) fromTargets(acc []float32, o operand, goal []int32) {
	b.split(len(goal), 1, float64(o.cols), args{dst: acc, o: o, ids: goal}, func(a *args, lo, hi, thread int) {
		k, row := a.b.k, grow(&a.b.work[thread].row, a.o.cols)
		for t := lo; t < hi; t++ {
			a.o.expandRow(k, row, int(a.ids[t]), 0)
			d := a.dst[t*len(row):][:len(row)]
			k.addScaled(d, row, d, float32(-1/a.b.op.softmax.sum[t]))
		}
	})
}

// softmax is the running state of rows whose logits come piece by piece.
type softmax struct {
	max, target []float32
	sum, arg    []float64 // arg holds indices
}

func (b *Backend) newSoftmax(n int) *softmax {
	m, w := grow(&b.shared.more, 2*n), grow(&b.shared.wide, 2*n)
	s := &b.op.softmax
	*s = softmax{max: m[:n], target: m[n:], sum: w[:n], arg: w[n:]}
	for t := range n {
		s.max[t], s.sum[t], s.arg[t] = float32(math.Inf(-1)), 0, 0
	}
	return s
}

// add takes the logits z of words first..first+len(z) of row t and turns them
// into exponentials relative to the largest so far. It returns the factor by
// which earlier ones have shrunk.
func (s *softmax) add(k *kernels, t int, z []float32, first, target int) (shrink float32) {
	if i := target - first; i >= 0 && i < len(z) {
		s.target[t] = z[i]
	}
	m := k.max(z)
	shrink = 1
	if m > s.max[t] {
		for i, v := range z {
			if v == m {
				s.arg[t] = float64(first + i)
				break
			}
		}
		by := math.Exp(float64(s.max[t]) - float64(m))
		s.sum[t] *= by
		s.max[t], shrink = m, float32(by)
	}
	if math.IsInf(float64(s.max[t]), -1) { // nothing but -Inf and NaN so far
		for i, v := range z {
			if v != v {
				s.sum[t] = math.NaN()
			}
			z[i] = 0
		}
		return shrink
	}
	s.sum[t] += float64(k.exp(z, z, s.max[t]))
	return shrink
}

// LogProbGrad implements [tensor.Transformer]: dz = dy·(1[v=target] - exp(z-lse)).
func (b *Backend) LogProbGrad(dx, dw, x, w, target, lse, dy *tensor.Tensor) {
	const op = "log prob gradient"
	d, h, o, goal := output(op, dx), input(op, x), b.operand(op, w), ints(op, target)
	ls, g := input(op, lse), input(op, dy)
	o.eight = false
	n := len(goal)
	checkMatrix(op, x, n, o.cols)
	sameShape(op, dx, x)
	checkLen(op, len(ls), n)
	checkLen(op, len(g), n)
	var gw []float32
	if dw != nil {
		gw = output(op, dw)
		checkMatrix(op, dw, o.rows, o.cols)
	}
	if b.err != nil || !b.checkIndex(op, goal, o.rows) {
		return
	}
	cols := o.cols
	for t0 := 0; t0 < n; t0 += logitRows {
		t1 := min(n, t0+logitRows)
		for v0 := 0; v0 < o.rows; v0 += logitWords {
			v1 := min(o.rows, v0+logitWords)
			words := v1 - v0
			z := grow(&b.shared.probs, logitRows*words)[:(t1-t0)*words]
			p := headProduct(z, h, o, t0, t1, v0, v1)
			b.multiply(&p)
			b.split(t1-t0, 1, float64(words)*0.7, args{dst: z, x: ls[t0:t1], y: g[t0:t1], ids: goal[t0:t1], first: v0, rows: words}, (*args).logitsGrad)
			beta := float32(1)
			if v0 == 0 {
				beta = 0
			}
			b.multiply(&product{m: t1 - t0, n: cols, k: words, c: d[t0*cols:], ldc: cols,
				a: z, lda: words, w: o.slice(v0, v1), alpha: 1, beta: beta})
			if gw != nil {
				b.multiply(&product{m: words, n: cols, k: t1 - t0, c: gw[v0*cols:], ldc: cols,
					a: z, lda: words, transA: true, w: floatOperand(h[t0*cols:t1*cols], cols), alpha: 1, beta: 1})
			}
		}
	}
}

// logitsGrad turns logits of the words from first on into their gradients.
func (a *args) logitsGrad(lo, hi, _ int) {
	for t := lo; t < hi; t++ {
		z, g := a.dst[t*a.rows:][:a.rows], a.y[t]
		a.b.k.exp(z, z, a.x[t])
		a.b.k.scale(z, z, -g)
		if i := int(a.ids[t]) - a.first; i >= 0 && i < len(z) {
			z[i] += g
		}
	}
}

func floatOperand(f []float32, cols int) operand {
	return operand{dt: tensor.F32, f: f, ld: cols, rows: len(f) / cols, cols: cols}
}
