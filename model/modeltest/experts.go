package modeltest

import (
	"cmp"
	"math"
	"slices"

	"pipe/tensor"
)

// Route implements tensor.Experts.
func (Reference) Route(r *tensor.Routing, logits *tensor.Tensor) {
	n, k := logits.Rows(), r.Slots.Cols()
	same(logits.Cols(), r.Experts)
	type choice struct {
		row, expert, slot int
		gate              float64
	}
	var all []choice
	for t := range n {
		z := fl(logits)[t*r.Experts:][:r.Experts]
		order := make([]int, r.Experts)
		for e := range order {
			order[e] = e
		}
		slices.SortStableFunc(order, func(a, b int) int { return cmp.Compare(z[b], z[a]) })
		sum := 0.0
		for _, e := range order[:k] {
			sum += math.Exp(float64(z[e]))
		}
		for j, e := range order[:k] {
			g := math.Exp(float64(z[e])) / sum
			if r.Gating == tensor.Sigmoid {
				g = 1 / (1 + math.Exp(-float64(z[e])))
			}
			all = append(all, choice{t, e, t*k + j, g})
		}
	}
	slices.SortStableFunc(all, func(a, b choice) int { return cmp.Compare(a.expert, b.expert) })
	clear(in(r.Starts))
	for i, c := range all {
		in(r.Rows)[i], in(r.Slots)[c.slot], fl(r.Gates)[i] = int32(c.row), int32(i), float32(c.gate)
		for e := c.expert + 1; e <= r.Experts; e++ {
			in(r.Starts)[e] = int32(i + 1)
		}
	}
}

// RouteGrad implements tensor.Experts.
func (r Reference) RouteGrad(dlogits, dgates *tensor.Tensor, to *tensor.Routing) {
	r.Zero(dlogits)
	eachExpert(to, func(e, lo, hi int) {
		for i := lo; i < hi; i++ {
			g, dot := fl(to.Gates)[i], float32(0)
			for j, t := range in(to.Rows) {
				if t == in(to.Rows)[i] {
					dot += fl(to.Gates)[j] * fl(dgates)[j]
				}
			}
			d := g * (fl(dgates)[i] - dot)
			if to.Gating == tensor.Sigmoid {
				d = g * (1 - g) * fl(dgates)[i]
			}
			fl(dlogits)[int(in(to.Rows)[i])*to.Experts+e] = d
		}
	})
}

// eachExpert calls f with the rows of each expert.
func eachExpert(r *tensor.Routing, f func(e, lo, hi int)) {
	for e := range r.Experts {
		f(e, int(in(r.Starts)[e]), int(in(r.Starts)[e+1]))
	}
}

// factor is the gate of a row, or 1.
func factor(r *tensor.Routing, i int, gated bool) float32 {
	if gated {
		return fl(r.Gates)[i]
	}
	return 1
}

// Dispatch implements tensor.Experts.
func (Reference) Dispatch(dst, x *tensor.Tensor, r *tensor.Routing, gated bool) {
	w := x.Cols()
	for i, t := range in(r.Rows) {
		for c := range w {
			fl(dst)[i*w+c] = factor(r, i, gated) * fl(x)[int(t)*w+c]
		}
	}
}

// Combine implements tensor.Experts.
func (r Reference) Combine(dst, rows, add *tensor.Tensor, to *tensor.Routing, gated bool) {
	switch {
	case add == nil:
		r.Zero(dst)
	case add != dst:
		r.Copy(dst, add)
	}
	w := dst.Cols()
	for i, at := range in(to.Slots) {
		for c := range w {
			fl(dst)[i/to.Slots.Cols()*w+c] += factor(to, int(at), gated) * fl(rows)[int(at)*w+c]
		}
	}
}

// GateGrad implements tensor.Experts.
func (Reference) GateGrad(dgates, rows, x *tensor.Tensor, r *tensor.Routing) {
	w := x.Cols()
	for i, t := range in(r.Rows) {
		fl(dgates)[i] = float32(dot(fl(rows)[i*w:(i+1)*w], fl(x)[int(t)*w:int(t+1)*w]))
	}
}

// ExpertMatMul implements tensor.Experts.
func (r Reference) ExpertMatMul(dst, a, w *tensor.Tensor, to *tensor.Routing, o tensor.MatMul) {
	h := w.Rows() / to.Experts
	eachExpert(to, func(e, lo, hi int) {
		r.MatMul(rowsOf(r, dst, lo, hi), rowsOf(r, a, lo, hi), rowsOf(r, w, e*h, (e+1)*h), o)
	})
}

// ExpertOuter implements tensor.Experts.
func (r Reference) ExpertOuter(dw, dy, x *tensor.Tensor, to *tensor.Routing) {
	h := dw.Rows() / to.Experts
	eachExpert(to, func(e, lo, hi int) {
		r.MatMul(rowsOf(r, dw, e*h, (e+1)*h), rowsOf(r, dy, lo, hi), rowsOf(r, x, lo, hi), tensor.MatMul{TransA: true, Alpha: 1, Beta: 1})
	})
}

func rowsOf(r Reference, t *tensor.Tensor, lo, hi int) *tensor.Tensor {
	return r.View(t, lo*t.Cols(), hi-lo, t.Cols())
}
