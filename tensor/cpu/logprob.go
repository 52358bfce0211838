package cpu

import (
	"math"

	"pipe/tensor"
)

// Logits exist for this many rows and tokens at a time: 8 MiB.
const (
	logitRows  = 512
	logitWords = 4096
)

// headProduct returns the product that forms the logits of rows t0..t1 and
// words v0..v1 in z.
func headProduct(z, x []float32, w operand, t0, t1, v0, v1 int) *product {
	return &product{m: t1 - t0, n: v1 - v0, k: w.cols, c: z, ldc: v1 - v0,
		a: x[t0*w.cols:], lda: w.cols, w: w.slice(v0, v1), transW: true, alpha: 1}
}

// LogProb implements [tensor.Transformer]. The sum of exponentials is kept
// relative to the largest logit so far (Milakov & Gimelshein 2018).
func (b *Backend) LogProb(logp, lse, argmax, x, w, target *tensor.Tensor) {
	const op = "log prob"
	lp, ls, h, o, goal := output(op, logp), output(op, lse), input(op, x), b.operand(op, w), ints(op, target)
	n := len(goal)
	checkMatrix(op, x, n, o.cols)
	checkLen(op, len(lp), n)
	checkLen(op, len(ls), n)
	var best []int32
	if argmax != nil {
		best = ints(op, argmax)
		checkLen(op, len(best), n)
	}
	if b.err != nil || !b.checkIndex(op, goal, o.rows) {
		return
	}
	for t0 := 0; t0 < n; t0 += logitRows {
		t1 := min(n, t0+logitRows)
		s := newSoftmax(b, t1-t0)
		for v0 := 0; v0 < o.rows; v0 += logitWords {
			v1 := min(o.rows, v0+logitWords)
			z := grow(&b.shared.probs, logitRows*(v1-v0))[:(t1-t0)*(v1-v0)]
			b.multiply(headProduct(z, h, o, t0, t1, v0, v1))
			b.split(t1-t0, 1, float64(v1-v0)*0.7, func(lo, hi, _ int) {
				for t := lo; t < hi; t++ {
					s.add(b.k, t, z[t*(v1-v0):][:v1-v0], v0, int(goal[t0+t]))
				}
			})
		}
		for t := t0; t < t1; t++ {
			total := float64(s.max[t-t0]) + math.Log(s.sum[t-t0])
			ls[t], lp[t] = float32(total), float32(float64(s.target[t-t0])-total)
			if best != nil {
				best[t] = int32(s.arg[t-t0])
			}
		}
	}
}

// softmax is the running state of rows whose logits come piece by piece.
type softmax struct {
	max, target []float32
	sum, arg    []float64 // arg holds indices
}

func newSoftmax(b *Backend, n int) *softmax {
	m, w := grow(&b.shared.more, 2*n), grow(&b.shared.wide, 2*n)
	s := &softmax{max: m[:n], target: m[n:], sum: w[:n], arg: w[n:]}
	for t := range n {
		s.max[t], s.sum[t], s.arg[t] = float32(math.Inf(-1)), 0, 0
	}
	return s
}

// add takes the logits of words first..first+len(z) of row t; z is lost.
func (s *softmax) add(k *kernels, t int, z []float32, first, target int) {
	if i := target - first; i >= 0 && i < len(z) {
		s.target[t] = z[i]
	}
	m := k.max(z)
	if m > s.max[t] {
		for i, v := range z {
			if v == m {
				s.arg[t] = float64(first + i)
				break
			}
		}
		s.sum[t] *= math.Exp(float64(s.max[t]) - float64(m))
		s.max[t] = m
	}
	if math.IsInf(float64(s.max[t]), -1) { // nothing but -Inf and NaN so far
		for _, v := range z {
			if v != v {
				s.sum[t] = math.NaN()
			}
		}
		return
	}
	s.sum[t] += float64(k.exp(z, z, s.max[t]))
}

// LogProbGrad implements [tensor.Transformer]: dz = dy·(1[v=target] - exp(z-lse)).
func (b *Backend) LogProbGrad(dx, dw, x, w, target, lse, dy *tensor.Tensor) {
	const op = "log prob gradient"
	d, h, o, goal := output(op, dx), input(op, x), b.operand(op, w), ints(op, target)
	ls, g := input(op, lse), input(op, dy)
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
			b.multiply(headProduct(z, h, o, t0, t1, v0, v1))
			b.split(t1-t0, 1, float64(words)*0.7, func(lo, hi, _ int) {
				for t := lo; t < hi; t++ {
					z := z[t*words:][:words]
					b.k.exp(z, z, ls[t0+t])
					b.k.scale(z, z, -g[t0+t])
					if i := int(goal[t0+t]) - v0; i >= 0 && i < words {
						z[i] += g[t0+t]
					}
				}
			})
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

func floatOperand(f []float32, cols int) operand {
	return operand{dt: tensor.F32, f: f, ld: cols, rows: len(f) / cols, cols: cols}
}
