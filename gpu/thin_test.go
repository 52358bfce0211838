//go:build cuda

package gpu

import (
	"fmt"
	"math"
	"slices"
	"testing"

	"pipe/tensor"
	"pipe/tensor/tensortest"
)

// long returns a long matrix of random numbers, float or bfloat16.
func (s *bench) long(half bool, rows, cols int) (*tensor.Tensor, []float32) {
	s.Helper()
	x := s.normal(rows * cols)
	if half {
		return s.half(x, rows, cols)
	}
	return s.put(x, rows, cols), x
}

// Products with a thin operand, at sizes around those of blocks: sums of the rows'
// elements, alone and of several products together, and of columns.
func TestThinProducts(t *testing.T) {
	s := newBench(t)
	for _, z := range [][3]int{{1, 8, 8}, {130, 3, 136}, {65, 16, 520}, {20, 33, 1032}, {33, 50, 264}, {17, 8, 24}, {130, 130, 40}} {
		m, r, k := z[0], z[1], z[2]
		for _, half := range []bool{false, true} {
			x, xs := s.long(half, m, k)
			for _, trans := range []bool{false, true} {
				name := fmt.Sprintf("%v, half %v, transposed %v", z, half, trans)
				w, c := s.normal(k*r), s.normal(m*r)
				wt := s.put(w, shape(trans, k, r)...)
				for _, o := range []tensor.MatMul{{Alpha: 1}, {Alpha: -0.5, Beta: 1}, {Alpha: 2, Beta: 0.5, Uniform: true}} {
					o.TransB = trans
					y := s.put(c, m, r)
					s.b.MatMul(y, x, wt, o)
					got := s.get(y)
					tensortest.Close(s, name, got, refProduct(c, xs, w, m, r, k, o), tensortest.F32)
					if o.Uniform {
						one := s.put(c[(m-1)*r:], 1, r)
						s.b.MatMul(one, s.b.View(x, (m-1)*k, 1, k), wt, o)
						s.same(name+", a row", s.get(one), got[(m-1)*r:])
					}
				}
			}
		}
	}
}

// The products of an adapter's backward pass with one matrix, and its rows' sums
// alone, of few and of many parts.
func TestThinGradients(t *testing.T) {
	s := newBench(t)
	own, sms := s.b.major, s.b.sms
	for _, z := range [][3]int{{1, 8, 8}, {16, 5, 64}, {100, 16, 520}, {130, 17, 72}, {70, 40, 1032}, {257, 33, 16}, {200, 9, 136}} {
		m, r, n := z[0], z[1], z[2]
		for i := range 8 {
			half, major := i&1 > 0, 8+i>>1&1
			if major > own {
				continue // the device has too little shared memory
			}
			s.b.major, s.b.sms = major, 1+63*(i>>2)
			name := fmt.Sprintf("%v, half %v, sm_%d0, %d multiprocessors", z, half, major, s.b.sms)
			x, xs := s.long(half, m, n)
			u, v, g := s.normal(m*r), s.normal(n*r), s.normal(n*r)
			ut, gt, d := s.put(u, m, r), s.put(g, n, r), s.put(nan(m*r), m, r)
			s.b.LowRankGrad(d, gt, x, ut, s.put(v, n, r), 0.7)
			tensortest.Close(s, name+", columns", s.get(d), refProduct(nil, xs, v, m, r, n, tensor.MatMul{Alpha: 0.7}), tensortest.F32)
			o := tensor.MatMul{TransA: true, Alpha: 0.7, Beta: 1}
			tensortest.Close(s, name+", rows", s.get(gt), refProduct(g, xs, u, n, r, m, o), tensortest.F32)
			first := s.get(gt)
			gt = s.put(g, n, r)
			s.b.MatMul(gt, x, ut, o)
			if r <= n {
				s.same(name+", rows alone", s.get(gt), first)
			}
			gt, o.Beta = s.put(nan(n*r), r, n), 0
			s.b.MatMul(gt, ut, x, o)
			tensortest.Close(s, name+", rows turned", s.get(gt), refProduct(nil, u, xs, r, n, m, o), tensortest.F32)
		}
	}
	s.b.major, s.b.sms = own, sms
}

// The gradient of an update with a magnitude in one kernel is that of its two steps.
func TestThinScaled(t *testing.T) {
	s := newBench(t)
	own, sms := s.b.major, s.b.sms
	for _, z := range [][3]int{{1, 8, 8}, {16, 5, 64}, {100, 16, 520}, {130, 17, 72}, {70, 40, 1032}, {257, 33, 16}, {200, 9, 136}} {
		m, r, n := z[0], z[1], z[2]
		for i := range 16 {
			half, major, place := i&1 > 0, 8+i>>1&1, i&9 == 9
			if major > own {
				continue // the device has too little shared memory
			}
			s.b.major, s.b.sms = major, 1+63*(i>>2&1)
			name := fmt.Sprintf("%v, half %v, in place %v, sm_%d0, %d multiprocessors", z, half, place, major, s.b.sms)
			dy, ys, ratio, mag, u, v, g, dm := s.normal(m*n), s.normal(m*n), s.normal(n), s.normal(n), s.normal(m*r), s.normal(n*r), s.normal(n*r), s.normal(n)
			y, _ := s.half(ys, m, n)
			run := func(grad func(tensor.DoRAGrad)) (all [4][]float32) {
				o := tensor.DoRAGrad{
					DM: s.put(dm, n), Y: y, Ratio: s.put(ratio, n), M: s.put(mag, n),
					DU: s.put(nan(m*r), m, r), DV: s.put(g, n, r), U: s.put(u, m, r), V: s.put(v, n, r), Scale: 0.7,
				}
				o.DY = s.put(dy, m, n)
				if half {
					o.DY, _ = s.half(dy, m, n)
				}
				if o.DZ = o.DY; !place {
					o.DZ, _ = s.half(nan(m*n), m, n)
				}
				grad(o)
				z := s.alloc(tensor.F32, m, n)
				s.b.Add(z, o.DZ, o.DZ, 0)
				return [4][]float32{s.get(z), s.get(o.DU), s.get(o.DV), s.get(o.DM)}
			}
			want := run(func(o tensor.DoRAGrad) {
				s.b.ScaleColsGrad(o.DZ, o.DM, o.DY, o.Y, o.Ratio, o.M)
				s.b.LowRankGrad(o.DU, o.DV, o.DZ, o.U, o.V, o.Scale)
			})
			got, again := run(s.b.DoRAGrad), run(s.b.DoRAGrad)
			s.same(name+", dz", got[0], want[0])
			for i, what := range []string{", columns", ", rows", ", magnitude"} {
				tensortest.Close(s, name+what, got[i+1], want[i+1], tensortest.F32)
				s.same(name+what+" again", again[i+1], got[i+1])
			}
		}
	}
	s.b.major, s.b.sms = own, sms
}

// Numbers that are not finite are what a sum of float32 makes of them, and those of
// any size are as exact as others.
func TestThinExtremes(t *testing.T) {
	s := newBench(t)
	const m, r, k = 40, 16, 640
	inf, none := float32(math.Inf(1)), float32(math.NaN())
	for _, half := range []bool{false, true} {
		x, w := slices.Repeat([]float32{1}, m*k), slices.Repeat([]float32{1}, r*k)
		x[3*k+5], x[7*k+600], x[8*k] = inf, none, -inf
		w[2*k+9] = -inf
		xt := s.put(x, m, k)
		if half {
			xt, _ = s.half(x, m, k)
		}
		y := s.put(nan(m*r), m, r)
		s.b.MatMul(y, xt, s.put(w, r, k), tensor.MatMul{TransB: true, Alpha: 2})
		got := s.get(y)
		for at, want := range map[int]float32{0: 2 * k, 2: -inf, 3 * r: inf, 3*r + 9: inf, 3*r + 2: none, 7*r + 1: none, 7*r + 2: none, 8*r + 2: -inf, 39*r + 15: 2 * k} {
			if g := got[at]; g != want && (g == g || want == want) {
				s.Errorf("half %v: row %d, column %d: got %v, want %v", half, at/r, at%r, g, want)
			}
		}
	}
	for _, by := range []float64{1e-30, 1e30} {
		x, xs := s.long(false, m, k)
		w := s.normal(r * k)
		for i := range w {
			w[i] *= float32(by)
		}
		y := s.put(nan(m*r), m, r)
		s.b.MatMul(y, x, s.put(w, r, k), tensor.MatMul{TransB: true, Alpha: float32(1 / by)})
		for i := range w {
			w[i] *= float32(1 / by)
		}
		tensortest.Close(s, fmt.Sprintf("by %v", by), s.get(y), refProduct(nil, xs, w, m, r, k, tensor.MatMul{TransB: true, Alpha: 1}), tensortest.F32)
	}
}
