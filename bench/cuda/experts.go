//go:build cuda

package main

import (
	"fmt"

	"pipe/tensor"
)

// A mixture is a layer of experts: hidden, width of an expert, experts, and those of a row.
type mixture struct{ hidden, width, experts, each int }

// route returns a routing of n rows by logits that are noise.
func (l *lab) route(n int, m mixture) (r *tensor.Routing, logits *tensor.Tensor) {
	nk := n * m.each
	r = &tensor.Routing{Experts: m.experts, Gates: l.empty(tensor.F32, nk), Rows: l.empty(tensor.I32, nk),
		Slots: l.empty(tensor.I32, n, m.each), Starts: l.empty(tensor.I32, m.experts+1)}
	logits = l.f32(n, m.experts)
	l.b.Route(r, logits)
	return r, logits
}

// visited returns how many experts have rows.
func (l *lab) visited(r *tensor.Routing) (n int) {
	starts := make([]int32, r.Experts+1)
	l.b.DownloadInts(starts, r.Starts)
	for e := range r.Experts {
		if starts[e+1] > starts[e] {
			n++
		}
	}
	return n
}

// mixtures measures a layer of experts, and beside its products dense ones of the same work.
func (l *lab) mixtures() {
	m := l.mixture
	n, rows := l.tokens, l.tokens*m.each
	name := fmt.Sprintf("experts %d of %d ", m.each, m.experts)
	l.measure("pipe", fmt.Sprintf("%sroute %d", name, n), func() job {
		r, z := l.route(n, m)
		return job{bytes: float64(4 * n * m.experts), op: func(int) { l.b.Route(r, z) }}
	})
	l.measure("pipe", fmt.Sprintf("%sdispatch %dx%d", name, n, m.hidden), func() job {
		r, _ := l.route(n, m)
		x, y := l.act(n, m.hidden), l.act(rows, m.hidden)
		return job{bytes: float64(l.half.Bytes(2 * rows * m.hidden)), op: func(int) { l.b.Dispatch(y, x, r, true) }}
	})
	l.measure("pipe", fmt.Sprintf("%scombine %dx%d", name, n, m.hidden), func() job {
		r, _ := l.route(n, m)
		x, y := l.act(rows, m.hidden), l.act(n, m.hidden)
		return job{bytes: float64(l.half.Bytes((rows + 2*n) * m.hidden)), op: func(int) { l.b.Combine(y, x, y, r, false) }}
	})
	for _, dt := range []tensor.DType{tensor.BF16, tensor.Q4_0} {
		for _, back := range []bool{false, true} {
			l.expertProduct(name, m, dt, back)
		}
		l.gemm(dt.String()+" dense beside experts ", linear{"up", m.width, m.hidden}, dt, tensor.BF16, false)
	}
	l.gemm("bf16 dense beside experts ", linear{"up", m.width, m.hidden}, tensor.BF16, tensor.BF16, true)
	l.measure("pipe", fmt.Sprintf("%souter %dx%dx%d", name, m.width, m.hidden, rows), func() job {
		r, _ := l.route(n, m)
		dy, x, dw := l.act(rows, m.width), l.act(rows, m.hidden), l.empty(tensor.F32, m.experts*m.width, m.hidden)
		return job{flops: 2 * float64(rows) * float64(m.width) * float64(m.hidden), op: func(int) { l.b.ExpertOuter(dw, dy, x, r) }}
	})
	for _, dt := range []tensor.DType{tensor.BF16, tensor.Q4_0, tensor.Q8_0} {
		for _, n := range []int{1, 16, 64} {
			l.measure("pipe", fmt.Sprintf("%s%s few rows %dx%dx%d", name, dt, n, m.width, m.hidden), func() job {
				w := l.weight(dt, tensor.BF16, m.experts*m.width, m.hidden)
				x, y := l.act(n*m.each, m.hidden), l.act(n*m.each, m.width)
				visited := 0
				rs := make([]*tensor.Routing, 16) // so that no cache holds what is read
				for i := range rs {
					rs[i], _ = l.route(n, m)
					visited += l.visited(rs[i])
				}
				return job{bytes: float64(visited) / float64(len(rs)) * float64(dt.Bytes(m.width*m.hidden)), op: func(i int) {
					l.b.ExpertMatMul(y, x, w, of(rs, i), tensor.MatMul{TransB: true, Alpha: 1})
				}}
			})
		}
	}
}

// expertProduct measures products of all rows, or, when back is set, of their gradients.
func (l *lab) expertProduct(name string, m mixture, dt tensor.DType, back bool) {
	way, in, out := "NT", m.hidden, m.width
	if back {
		way, in, out = "NN", out, in
	}
	rows := l.tokens * m.each
	l.measure("pipe", fmt.Sprintf("%s%s %s %dx%dx%d", name, dt, way, rows, out, in), func() job {
		r, _ := l.route(l.tokens, m)
		w := l.weight(dt, tensor.BF16, m.experts*m.width, m.hidden)
		x, y := l.act(rows, in), l.act(rows, out)
		return job{flops: 2 * float64(rows) * float64(in) * float64(out), op: func(int) {
			l.b.ExpertMatMul(y, x, w, r, tensor.MatMul{TransB: !back, Alpha: 1, Uniform: true})
		}}
	})
}
