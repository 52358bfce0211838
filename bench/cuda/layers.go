//go:build cuda

package main

import (
	"fmt"
	"math"

	"pipe/tensor"
)

// attentions measures causal attention; of its products only the half that is
// needed counts.
func (l *lab) attentions() {
	for _, docs := range []int{1, l.documents} {
		for _, precision := range []tensor.DType{tensor.BF16, tensor.F32} {
			l.attention(docs, precision, false)
			l.attention(docs, precision, true)
		}
	}
}

func (l *lab) attention(docs int, precision tensor.DType, back bool) {
	o := tensor.Attention{Heads: l.heads, KVHeads: l.kvHeads, HeadDim: l.headDim, Precision: precision}
	n := l.tokens / docs
	for i := range docs {
		o.Q, o.K, o.KLen = append(o.Q, int32(i*n)), append(o.K, int32(i*n)), append(o.KLen, int32(n))
	}
	o.Q = append(o.Q, int32(l.tokens))
	way := "forward"
	flops := 2 * float64(n) * float64(l.tokens) * float64(l.heads*l.headDim)
	if back {
		way, flops = "backward", 2.5*flops
	}
	l.measure("pipe", fmt.Sprintf("attention %s %s %dx%d", way, precision, docs, n), func() job {
		width, kv := l.heads*l.headDim, l.kvHeads*l.headDim
		act := l.half
		if precision == tensor.F32 {
			act = tensor.F32
		}
		type operands struct{ q, k, v *tensor.Tensor }
		x := several(l, l.half.Bytes(l.tokens*(width+2*kv)), func() operands {
			return operands{l.normal(act, []int{l.tokens, width}), l.normal(act, []int{l.tokens, kv}), l.normal(act, []int{l.tokens, kv})}
		})
		dst, lse := l.empty(act, l.tokens, width), l.empty(tensor.F32, l.tokens, l.heads)
		last := 0
		forward := func(i int) { l.b.Attention(dst, lse, of(x, i).q, of(x, i).k, of(x, i).v, o); last = i }
		if !back {
			return job{flops: flops, op: forward, check: func() string {
				return l.checkAttention(dst, of(x, last).q, of(x, last).k, of(x, last).v, n)
			}}
		}
		x = x[:1]
		forward(0)
		dy, dq := l.normal(act, []int{l.tokens, width}), l.empty(act, l.tokens, width)
		dk, dv := l.empty(act, l.tokens, kv), l.empty(act, l.tokens, kv)
		return job{flops: flops, op: func(i int) { l.b.AttentionGrad(dq, dk, dv, x[0].q, x[0].k, x[0].v, dst, lse, dy, o) }}
	})
}

// checkAttention compares the last token's last head with float64.
func (l *lab) checkAttention(dst, q, k, v *tensor.Tensor, n int) string {
	d, kv, group := l.headDim, l.kvHeads*l.headDim, l.kvHeads-1
	t := l.tokens - 1
	got, query := l.row(dst, t)[(l.heads-1)*d:], l.row(q, t)[(l.heads-1)*d:]
	keys, values := l.download(l.b.View(k, (l.tokens-n)*kv, n, kv)), l.download(l.b.View(v, (l.tokens-n)*kv, n, kv))
	sum, out := 0.0, make([]float64, d)
	for j := range n {
		s := 0.0
		for c := range d {
			s += float64(query[c]) * float64(keys[j*kv+group*d+c])
		}
		e := math.Exp(s / math.Sqrt(float64(d)))
		sum += e
		for c := range d {
			out[c] += e * float64(values[j*kv+group*d+c])
		}
	}
	diff, norm := 0.0, 0.0
	for c := range d {
		e := float64(got[c]) - out[c]/sum
		diff, norm = diff+e*e, norm+out[c]/sum*out[c]/sum
	}
	return fmt.Sprintf("error %.1e", math.Sqrt(diff/norm))
}

// pointwise measures what only moves bytes: each input is read and each output
// written once.
func (l *lab) pointwise() {
	h, ff := l.hidden, l.ff
	const wide = tensor.F32 // the residual stream and its gradient
	var w, dw, rstd *tensor.Tensor
	vectors := func() { w, dw, rstd = l.f32(h), l.f32(h), l.f32(l.tokens) }
	l.moves("rmsnorm", h, vectors, []tensor.DType{l.half, wide}, func(x []*tensor.Tensor) { l.b.RMSNorm(x[0], rstd, x[1], w, 1e-5) })
	l.moves("add and rmsnorm", h, vectors, []tensor.DType{l.half, wide, wide, wide}, func(x []*tensor.Tensor) {
		l.b.AddRMSNorm(x[0], rstd, x[1], x[2], x[3], w, 1e-5)
	})
	four := []tensor.DType{wide, wide, wide, wide}
	l.moves("rmsnorm gradient and add", h, vectors, four, func(x []*tensor.Tensor) { l.b.RMSNormGrad(x[0], nil, x[1], w, rstd, x[2], x[3]) })
	l.moves("rmsnorm gradient with weights", h, vectors, four, func(x []*tensor.Tensor) { l.b.RMSNormGrad(x[0], dw, x[1], w, rstd, x[2], x[3]) })
	l.moves("swiglu", ff, nil, []tensor.DType{l.half, l.half, l.half}, func(x []*tensor.Tensor) { l.b.SwiGLU(x[0], x[1], x[2]) })
	l.moves("swiglu gradient", ff, nil, []tensor.DType{l.half, l.half, l.half, l.half, l.half}, func(x []*tensor.Tensor) {
		l.b.SwiGLUGrad(x[0], x[1], x[2], x[3], x[4])
	})
	l.moves("add", h, nil, []tensor.DType{wide, wide, wide}, func(x []*tensor.Tensor) { l.b.Add(x[0], x[1], x[2], 1) })
	var freq, pos, ids *tensor.Tensor
	l.moves("rope", h, func() { freq, pos = l.f32(l.headDim/2), l.ints(make([]int32, l.tokens)) }, []tensor.DType{l.half, l.half}, func(x []*tensor.Tensor) {
		l.b.Rope(x[0], pos, freq, false) // in place: as many bytes as two
	})
	rows := func() {
		v := make([]int32, l.tokens)
		for i := range v {
			v[i] = int32(i * 31 % min(l.tokens, l.vocab))
		}
		ids = l.ints(v)
	}
	l.moves("gather", h, rows, []tensor.DType{wide, wide}, func(x []*tensor.Tensor) { l.b.GatherRows(x[0], x[1], ids) })
	var table *tensor.Tensor
	l.moves("embed", h, func() { rows(); table = l.weight(tensor.BF16, tensor.BF16, l.vocab, h) }, []tensor.DType{wide, tensor.BF16}, func(x []*tensor.Tensor) {
		l.b.Embed(x[0], table, ids) // reads as much as x[1] has
	})
}

// moves measures an operation that reads or writes matrices [tokens, cols] of
// these types; small makes what else it needs.
func (l *lab) moves(name string, cols int, small func(), types []tensor.DType, op func(x []*tensor.Tensor)) {
	l.measure("pipe", fmt.Sprintf("%s %dx%d", name, l.tokens, cols), func() job {
		if small != nil {
			small()
		}
		bytes := 0
		for _, dt := range types {
			bytes += dt.Bytes(l.tokens * cols)
		}
		sets := several(l, bytes, func() (x []*tensor.Tensor) {
			for _, dt := range types {
				x = append(x, l.normal(dt, []int{l.tokens, cols}))
			}
			return x
		})
		return job{bytes: float64(bytes), op: func(i int) { op(of(sets, i)) }}
	})
}

// head measures the loss head: the products count, what is between them
// (softmax over the vocabulary) does not.
func (l *lab) head() {
	for _, back := range []bool{false, true} {
		name, products := "logprob", 2.0
		if back {
			name, products = "logprob and its gradient", 4.0
		}
		l.measure("pipe", fmt.Sprintf("%s %dx%dx%d", name, l.tokens, l.vocab, l.hidden), func() job {
			x, w := l.f32(l.tokens, l.hidden), l.weight(tensor.BF16, tensor.BF16, l.vocab, l.hidden)
			logp, lse, best, target := l.empty(tensor.F32, l.tokens), l.empty(tensor.F32, l.tokens), l.empty(tensor.I32, l.tokens), l.ints(make([]int32, l.tokens))
			var dx *tensor.Tensor
			if back {
				dx = l.empty(tensor.F32, l.tokens, l.hidden)
			}
			return job{flops: products * float64(l.tokens) * float64(l.vocab) * float64(l.hidden), op: func(int) {
				l.b.LogProb(logp, lse, best, dx, x, w, target)
			}}
		})
	}
}

// optimizers measures a step of adapters.
func (l *lab) optimizers() {
	n := l.rank * l.hidden * l.parallel * 64 // like an adapter of a model
	o := tensor.AdamW{LR: 1e-4, Beta1: 0.9, Beta2: 0.999, Eps: 1e-8, GradScale: 1, Step: 3}
	l.measure("pipe", fmt.Sprintf("adamw %d", n), func() job {
		w, g, m, v := l.f32(n), l.f32(n), l.empty(tensor.F32, n), l.empty(tensor.F32, n)
		all := []tensor.AdamWParam{{W: w, G: g, M: m, V: v}}
		return job{bytes: 28 * float64(n), op: func(int) { l.b.AdamW(all, o) }}
	})
	l.measure("pipe", fmt.Sprintf("adamw 8 bit %d", n), func() job {
		w, g, m, v := l.f32(n), l.f32(n), l.empty(tensor.U8, n), l.empty(tensor.U8, n)
		mm, vm := l.empty(tensor.F32, tensor.AdamWBlocks(n)), l.empty(tensor.F32, tensor.AdamWBlocks(n))
		all := []tensor.AdamWParam{{W: w, G: g, M: m, V: v, MMax: mm, VMax: vm}}
		return job{bytes: 16 * float64(n), op: func(int) { l.b.AdamW8bit(all, o) }}
	})
	l.measure("pipe", fmt.Sprintf("sum of squares %d", n), func() job {
		g, sum := l.f32(n), l.empty(tensor.F32, 1)
		return job{bytes: 4 * float64(n), op: func(int) { l.b.SumSquares(sum, g) }}
	})
	l.manyTensors(o)
}

// manyTensors measures what a step does with the many small tensors of adapters:
// 448 of four sizes, as those of all projections of 32 layers.
func (l *lab) manyTensors(o tensor.AdamW) {
	const many = 448
	sizes := [...]int{l.rank * l.hidden, l.rank * l.ff, l.rank * l.hidden, l.rank * l.hidden / 4}
	n := 0
	for i := range many {
		n += sizes[i%len(sizes)]
	}
	many448 := func(dt tensor.DType) (ps []tensor.AdamWParam, grads []*tensor.Tensor) {
		for i := range many {
			size := sizes[i%len(sizes)]
			p := tensor.AdamWParam{W: l.f32(size), G: l.f32(size), M: l.empty(dt, size), V: l.empty(dt, size)}
			if dt == tensor.U8 {
				p.MMax, p.VMax = l.empty(tensor.F32, tensor.AdamWBlocks(size)), l.empty(tensor.F32, tensor.AdamWBlocks(size))
			}
			ps, grads = append(ps, p), append(grads, p.G)
		}
		return ps, grads
	}
	name := fmt.Sprintf("of %d tensors, %d", many, n)
	l.measure("pipe", "adamw "+name, func() job {
		ps, _ := many448(tensor.F32)
		return job{bytes: 28 * float64(n), op: func(int) { l.b.AdamW(ps, o) }}
	})
	l.measure("pipe", "adamw 8 bit "+name, func() job {
		ps, _ := many448(tensor.U8)
		return job{bytes: 16 * float64(n), op: func(int) { l.b.AdamW8bit(ps, o) }}
	})
	l.measure("pipe", "sum of squares "+name, func() job {
		_, grads := many448(tensor.F32)
		sum := l.empty(tensor.F32, 1)
		return job{bytes: 4 * float64(n), op: func(int) { l.b.SumSquares(sum, grads...) }}
	})
	l.measure("pipe", "zero "+name, func() job {
		_, grads := many448(tensor.F32)
		return job{bytes: 4 * float64(n), op: func(int) { l.b.ZeroAll(grads) }}
	})
}
