//go:build cuda

package main

import (
	"fmt"

	"pipe/tensor"
)

// gemvs measures products of few rows, as decoding has them: the weights are
// what must be read.
func (l *lab) gemvs() {
	some := []tensor.DType{tensor.BF16, tensor.NF4, tensor.Q8_0, tensor.Q4_0, tensor.Q4_K}
	others := []tensor.DType{tensor.F16, tensor.F32, tensor.Q4_1, tensor.Q5_0, tensor.Q5_1, tensor.Q5_K, tensor.Q6_K}
	gate := linear{"gate", l.ff, l.hidden}
	for _, dt := range some {
		l.gemv(4, dt, tensor.BF16, gate)
	}
	for _, rows := range []int{1, 16, 64} {
		for _, dt := range some {
			l.gemv(rows, dt, tensor.BF16, gate)
		}
		if rows < 64 {
			for _, dt := range others {
				l.gemv(rows, dt, tensor.BF16, gate)
			}
			l.gemv(rows, tensor.BF16, tensor.F32, gate)
		}
		l.gemv(rows, tensor.BF16, tensor.BF16, linear{"q", l.heads * l.headDim, l.hidden})
		l.gemv(rows, tensor.BF16, tensor.BF16, linear{"down", l.hidden, l.ff})
		l.gemv(rows, tensor.BF16, tensor.BF16, linear{"k", l.kv, l.hidden})
		l.gemv(rows, tensor.BF16, tensor.BF16, linear{"head", l.vocab, l.hidden})
		for _, dt := range []tensor.DType{tensor.BF16, tensor.NF4} {
			q := l.heads * l.headDim
			l.ofOne(rows, dt, "qkv", q, l.kv, l.kv)
			l.ofOne(rows, dt, "gate up", l.ff, l.ff)
		}
	}
	if _, ok := l.b.(tensor.Sampler); ok {
		for _, k := range []int{1, 50, 256} {
			l.largest(1, k)
			l.largest(64, k)
		}
		l.weigh(1)
		l.weigh(64)
	}
}

// ofOne measures products of one input, as a layer has them.
func (l *lab) ofOne(rows int, dt tensor.DType, name string, outs ...int) {
	l.measure("pipe", fmt.Sprintf("gemv %s %s, %d rows", dt, name, rows), func() job {
		bytes := 0
		for _, out := range outs {
			bytes += dt.Bytes(out * l.hidden)
		}
		a := l.act(rows, l.hidden)
		p := several(l, bytes, func() *tensor.Projection {
			var p tensor.Projection
			for _, out := range outs {
				p.Products = append(p.Products, tensor.Product{Dst: l.empty(l.half, rows, out), W: l.weight(dt, tensor.BF16, out, l.hidden), MatMul: tensor.MatMul{TransB: true, Alpha: 1}})
			}
			return &p
		})
		return job{bytes: float64(bytes), op: func(i int) { l.b.Project(a, of(p, i)) }}
	})
}

// largest measures the search for likely tokens, which reads all logits.
func (l *lab) largest(rows, k int) {
	l.measure("pipe", fmt.Sprintf("largest %d of %dx%d", k, rows, l.vocab), func() job {
		z := several(l, 4*rows*l.vocab, func() *tensor.Tensor { return l.f32(rows, l.vocab) })
		ids, most := l.empty(tensor.I32, rows, k), l.empty(tensor.F32, rows, k)
		return job{bytes: float64(4 * rows * l.vocab), op: func(i int) { l.b.(tensor.Sampler).Largest(ids, most, of(z, i)) }}
	})
}

func (l *lab) gemv(rows int, dt, precision tensor.DType, x linear) {
	name := fmt.Sprintf("gemv %s %s %dx%dx%d", dt, x.name, rows, x.out, x.in)
	if precision == tensor.F32 {
		name += " in f32"
	}
	l.measure("pipe", name, func() job {
		w := several(l, dt.Bytes(x.out*x.in), func() *tensor.Tensor { return l.weight(dt, precision, x.out, x.in) })
		act := l.half // as in a model, where the head's input is not rounded
		if precision == tensor.F32 || x.name == "head" {
			act = tensor.F32
		}
		a, y := l.normal(act, []int{rows, x.in}), l.empty(tensor.F32, rows, x.out)
		return job{
			bytes: float64(dt.Bytes(x.out*x.in) + act.Bytes(rows*x.in) + 4*rows*x.out),
			op:    func(i int) { l.b.MatMul(y, a, of(w, i), tensor.MatMul{TransB: true, Alpha: 1}) },
			check: func() string { return l.checkProduct(y, a, dt, precision, x, false) },
		}
	})
}

// caches measures attention of sequences that are decoded: one query each, its
// keys and values in a cache of bfloat16.
func (l *lab) caches() {
	for _, n := range []int{1, l.sequences} {
		kv := l.kvHeads * l.headDim
		l.measure("pipe", fmt.Sprintf("attention decode %dx%d", n, l.keys), func() job {
			rows := n * l.keys
			type pair struct{ k, v *tensor.Tensor }
			c := several(l, 2*2*rows*kv, func() pair {
				return pair{l.weight(tensor.BF16, tensor.F32, rows, kv), l.weight(tensor.BF16, tensor.F32, rows, kv)}
			})
			q, dst, lse := l.act(n, l.heads*l.headDim), l.empty(l.half, n, l.heads*l.headDim), l.empty(tensor.F32, n, l.heads)
			o := tensor.Attention{Heads: l.heads, KVHeads: l.kvHeads, HeadDim: l.headDim, Precision: tensor.BF16, Q: []int32{0}}
			for i := range n {
				o.Q, o.K, o.KLen = append(o.Q, int32(i+1)), append(o.K, int32(i*l.keys)), append(o.KLen, int32(l.keys))
			}
			return job{bytes: 4 * float64(rows*kv), op: func(i int) { l.b.Attention(dst, lse, q, of(c, i).k, of(c, i).v, o) }}
		})
	}
}

// weigh measures what sampling by all weights needs.
func (l *lab) weigh(rows int) {
	l.measure("pipe", fmt.Sprintf("weigh and draw %dx%d", rows, l.vocab), func() job {
		b := l.b.(tensor.Sampler)
		z := several(l, 4*rows*l.vocab, func() *tensor.Tensor { return l.f32(rows, l.vocab) })
		ids, most, drawn, totals := l.empty(tensor.I32, rows, 1), l.empty(tensor.F32, rows, 1), l.empty(tensor.I32, rows), l.empty(tensor.U8, rows, 8)
		b.Largest(ids, most, z[0])
		t, u := make([]float64, rows), make([]float64, rows)
		for i := range t {
			t[i], u[i] = 1, 0.9
		}
		return job{bytes: float64(4 * rows * l.vocab), op: func(i int) { b.Weigh(drawn, totals, of(z, i), ids, most, t, u) }}
	})
}
