package tensortest

import (
	"fmt"
	"math"

	"pipe/tensor"
)

// The gradient of an update with a magnitude is that of its two steps, whatever the
// types of activations, in place and elsewhere, and with numbers that are not finite.
func testDoRAGrad(s *suite) {
	types := []tensor.DType{tensor.F32}
	if tensor.Halves(s.b) {
		types = append(types, tensor.BF16)
	}
	for _, z := range [][3]int{{1, 3, 2}, {5, 64, 8}, {40, 33, 5}, {70, 136, 16}, {33, 72, 40}} {
		for _, dy := range types {
			for _, y := range types {
				for _, dz := range types {
					for i := range 3 {
						if place := i == 1; !place || dy == dz {
							s.doraGrad(z[0], z[1], z[2], dy, y, dz, place, i == 2)
						}
					}
				}
			}
		}
	}
}

func (s *suite) doraGrad(rows, n, r int, dy, y, dz tensor.DType, place, infinite bool) {
	s.Helper()
	name := fmt.Sprintf("%d rows, %d columns, rank %d, %s %s %s, in place %v, not finite %v, ", rows, n, r, dy, y, dz, place, infinite)
	g, out, ratio, m, dm := s.normal(rows*n), s.normal(rows*n), s.normal(n), s.normal(n), s.normal(n)
	m[0] = 0
	for t := range rows {
		out[t*n] = 0 // 0/0
	}
	if infinite {
		g[n/2], g[(rows-1)*n+n-1], ratio[n/3] = math.Inf(1), math.NaN(), math.Inf(-1)
	}
	u, v, dv := s.normal(rows*r), s.normal(n*r), s.normal(n*r)
	run := func(grad func(tensor.DoRAGrad)) tensor.DoRAGrad {
		o := tensor.DoRAGrad{
			DY: s.typed(dy, g, rows, n), DM: s.put(dm, n), Y: s.typed(y, out, rows, n), Ratio: s.put(ratio, n), M: s.put(m, n),
			DU: s.garbage(rows, r), DV: s.put(dv, n, r), U: s.put(u, rows, r), V: s.put(v, n, r), Scale: 0.7,
		}
		if o.DZ = o.DY; !place {
			o.DZ = s.typed(dz, g, rows, n)
		}
		grad(o)
		return o
	}
	got := run(s.b.DoRAGrad)
	want := run(func(o tensor.DoRAGrad) {
		s.b.ScaleColsGrad(o.DZ, o.DM, o.DY, o.Y, o.Ratio, o.M)
		s.b.LowRankGrad(o.DU, o.DV, o.DZ, o.U, o.V, o.Scale)
	})
	s.alike(name+"dz", got.DZ, want.DZ, Exact)
	s.alike(name+"dm", got.DM, want.DM, F32Grad)
	s.alike(name+"du", got.DU, want.DU, F32)
	s.alike(name+"dv", got.DV, want.DV, F32)
}

// typed returns a tensor of F32 or BF16 that holds x.
func (s *suite) typed(dt tensor.DType, x []float64, shape ...int) *tensor.Tensor {
	s.Helper()
	t := s.put(x, shape...)
	if dt == tensor.BF16 {
		t = (&activations{suite: s, half: true}).rounded(t)
	}
	return t
}

// alike compares tensors whose numbers may be infinite or NaN, in the same places.
func (s *suite) alike(name string, got, want *tensor.Tensor, tol Tolerance) {
	s.Helper()
	a := activations{suite: s}
	x, y := a.expanded(got), a.expanded(want)
	for i := range y {
		same := x[i] == y[i] || math.IsNaN(x[i]) && math.IsNaN(y[i])
		if finite := y[i]-y[i] == 0; same && !finite {
			x[i], y[i] = 0, 0
		}
	}
	Close(s, name, x, y, tol)
}

// Norms of many weights are those of each, whatever their types and ranks are.
func testDoRANorms(s *suite) {
	together, ok := s.b.(tensor.DoRANorms)
	if !ok {
		s.Skip("this backend computes norms one at a time")
	}
	var ns []tensor.DoRANorm
	var norms, ratios [][]float64
	for i, z := range [][3]int{{40, 72, 4}, {300, 64, 4}, {1, 200, 4}, {257, 136, 4}, {20, 9, 4}, {30, 64, 33}, {60, 32, 4}, {0, 8, 4}, {33, 256, 4}} {
		out, in, r := z[0], z[1], z[2]
		dt := tensor.BF16
		if i == 6 {
			dt = tensor.Q8_0
		}
		w := s.load(dt, s.stored(dt, out, in), out, in)
		if i < 8 {
			s.b.Precision(w, tensor.BF16)
		}
		n := tensor.DoRANorm{
			Ratio: s.garbage(out), C: s.garbage(out), W2: s.garbage(out), W: w,
			A: s.put(s.normal(r*in), r, in), B: s.put(s.normal(out*r), out, r), M: s.put(s.normal(out), out), Scale: 0.5,
		}
		s.b.RowSquares(n.W2, w)
		s.b.DoRANorm(n.Ratio, n.C, n.W2, n.W, n.A, n.B, n.M, n.Scale)
		norms, ratios = append(norms, float64s(s.get(n.C))), append(ratios, float64s(s.get(n.Ratio)))
		n.Ratio, n.C = s.garbage(out), s.garbage(out)
		ns = append(ns, n)
	}
	together.DoRANorms(nil)
	together.DoRANorms(ns)
	for i, n := range ns {
		s.check(fmt.Sprintf("norms of %v", n.W.Shape), n.C, norms[i], F32)
		s.check(fmt.Sprintf("ratios of %v", n.W.Shape), n.Ratio, ratios[i], F32)
	}
}
