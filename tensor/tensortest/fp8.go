package tensortest

import (
	"fmt"
	"math"
	"strings"

	"pipe/tensor"
	"pipe/tensor/quant"
)

// sums8 is the tolerance of sums of operands that are rounded to 8 bits: only
// devices form them otherwise than in float32.
func (s *suite) sums8() Tolerance {
	if strings.HasPrefix(s.b.Name(), "cuda:sm_") {
		return FP8
	}
	return F32
}

// without8 reports that the backend has no products in 8 bits.
func (s *suite) without8() bool {
	err := tensor.HasPrecision(s.b, tensor.FP8)
	if err != nil {
		s.Log(err)
	}
	return err != nil
}

// round8 rounds the rows of x, of n numbers each, and returns their scales; by are
// factors of the columns, which are taken back, nil: none.
func round8(x []float64, n int, by []float64) (scales []float64) {
	for lo := 0; lo < len(x); lo += n {
		row, most := x[lo:lo+n], 0.0
		for i := range row {
			if by != nil {
				row[i] *= by[i]
			}
			most = math.Max(most, math.Abs(row[i]))
		}
		scale := float64(quant.ScaleE4M3(float32(most)))
		scales = append(scales, scale)
		for i := range row {
			row[i] = float64(quant.FromE4M3(quant.ToE4M3(float32(row[i]/scale)))) * scale
			if by != nil {
				row[i] /= by[i]
			}
		}
	}
	return scales
}

// uneven returns rows of very different sizes; the second is zero.
func (s *suite) uneven(rows, cols int) []float64 {
	x := s.normal(rows * cols)
	for i := range x {
		switch r := i / cols; {
		case r == 1:
			x[i] = 0
		default:
			x[i] = float64(float32(x[i] * math.Pow(10, float64(r%7-3))))
		}
	}
	return x
}

// Products of many rows are those of rounded operands, with the scales of rows.
func testFP8(s *suite) {
	if s.without8() {
		return
	}
	for _, dt := range []tensor.DType{tensor.F32, tensor.F16, tensor.BF16, tensor.Q8_0, tensor.Q4_K, tensor.NF4} {
		for _, z := range [][2]int{{1, 256}, {37, 256}, {64, 1280}, {300, 512}} {
			out, in := z[0], z[1]
			if out > 37 && dt != tensor.BF16 && dt != tensor.NF4 {
				continue
			}
			if !dt.Quantized() {
				in -= 3 // odd rows
			}
			w := s.load(dt, s.stored(dt, out, in), out, in)
			x := s.expanded(w)
			s.b.Precision(w, tensor.FP8)
			scales := round8(x, in, nil)
			for _, m := range []int{1, 15, tensor.RowsTogether(s.b) + 1, 150} {
				name := fmt.Sprintf("%s %v m %d", dt, z, m)
				a, g := s.uneven(m, in), s.uneven(m, out)
				y, dx := s.garbage(m, out), s.garbage(m, in)
				s.b.MatMul(y, s.put(a, m, in), w, tensor.MatMul{TransB: true, Alpha: 0.5, Uniform: m != 150})
				s.b.MatMul(dx, s.put(g, m, out), w, tensor.MatMul{Alpha: -2})
				round8(a, in, nil)
				round8(g, out, scales)
				forward, back := tensor.MatMul{TransB: true, Alpha: 0.5}, tensor.MatMul{Alpha: -2}
				s.rows8(name, y, refMatMul(nil, a, x, m, out, in, forward), refMatMul(nil, absolute(a), absolute(x), m, out, in, forward), out)
				s.rows8(name+" gradient", dx, refMatMul(nil, g, x, m, in, out, back), refMatMul(nil, absolute(g), absolute(x), m, in, out, back), in)
			}
		}
	}
	// A weight that is not frozen is rounded each time.
	w, x := s.put(s.normal(40*24), 40, 24), s.put(s.normal(70*24), 70, 24)
	s.b.Precision(w, tensor.FP8)
	for range 2 {
		a, b, y := s.normal(70*24), s.normal(40*24), s.garbage(70, 40)
		s.b.Upload(x, float32s(a))
		s.b.Upload(w, float32s(b))
		s.b.MatMul(y, x, s.b.View(w, 0, 40, 24), tensor.MatMul{TransB: true, Alpha: 1})
		scales := round8(b, 24, nil)
		round8(a, 24, nil)
		s.check("a view", y, refMatMul(nil, a, b, 70, 40, 24, tensor.MatMul{TransB: true, Alpha: 1}), s.sums8())
		g, dx := s.normal(70*40), s.garbage(70, 24)
		s.b.MatMul(dx, s.put(g, 70, 40), w, tensor.MatMul{Alpha: 1})
		round8(g, 40, scales)
		s.check("a gradient", dx, refMatMul(nil, g, b, 70, 24, 40, tensor.MatMul{Alpha: 1}), s.sums8())
	}
	s.b.Precision(w, tensor.F32)
	a, y := s.normal(70*24), s.garbage(70, 40)
	s.b.MatMul(y, s.put(a, 70, 24), w, tensor.MatMul{TransB: true, Alpha: 1})
	s.check("back in float32", y, refMatMul(nil, a, s.expanded(w), 70, 40, 24, tensor.MatMul{TransB: true, Alpha: 1}), F32)
}

// rows8 compares row by row, as rows differ in size; sizes are the sums of the absolute
// terms. Devices add products with about 14 bits, so that what is left where terms cancel
// says little: an element may be wrong by 2⁻⁹ of its terms there.
func (s *suite) rows8(name string, got *tensor.Tensor, want, sizes []float64, cols int) {
	s.Helper()
	x, tol := s.get(got), s.sums8()
	if tol != F32 {
		for i, v := range x {
			if d := math.Abs(float64(v) - want[i]); !(d <= math.Abs(sizes[i])/512) {
				s.Errorf("%s, row %d, column %d: got %v, want %v, of terms of %v together", name, i/cols, i%cols, v, want[i], sizes[i])
				return
			}
		}
		return
	}
	tol.Abs = 0
	for lo := 0; lo < len(want); lo += cols {
		Close(s.T, fmt.Sprintf("%s, row %d", name, lo/cols), x[lo:lo+cols], want[lo:lo+cols], tol)
	}
}

// absolute returns the absolute values of x.
func absolute(x []float64) []float64 {
	y := make([]float64, len(x))
	for i, v := range x {
		y[i] = math.Abs(v)
	}
	return y
}

// An update of low rank, factors, a bias, a rotation and the gradient of SwiGLU follow
// a product in 8 bits as they do others.
func testFP8Follows(s *suite) {
	if s.without8() {
		return
	}
	for _, z := range [][4]int{{70, 64, 96, 3}, {150, 256, 200, 16}, {66, 130, 40, 8}, {40, 1280, 64, 4}} {
		m, n, k, r := z[0], z[1], z[2], z[3]
		for _, trans := range []bool{true, false} {
			o := tensor.MatMul{Alpha: 0.5, TransB: trans, Uniform: true}
			shape, by := []int{n, k}, []float64(nil)
			if !trans {
				shape = []int{k, n}
			}
			a, b, u, v, f, c := s.normal(m*k), s.normal(k*n), s.normal(m*r), s.normal(r*n), s.normal(n), s.normal(m*n)
			at, bt := s.put(a, m, k), s.load(tensor.F32, bytesOf(float32s(b)), shape...)
			s.b.Precision(bt, tensor.FP8)
			if scales := round8(b, shape[1], nil); !trans {
				by = scales
			}
			round8(a, k, by)
			want, low := refMatMul(nil, a, b, m, n, k, o), refMatMul(nil, u, v, m, n, r, tensor.MatMul{Alpha: 2, TransB: true})
			plain, added := make([]float64, m*n), make([]float64, m*n)
			for i := range want {
				plain[i] = (want[i] + low[i]) * f[i%n]
				added[i] = c[i] + want[i] + low[i]
			}
			o.LowRank = &tensor.LowRank{U: s.put(u, m, r), V: s.put(v, n, r), TransV: true, Alpha: 2}
			o.ColScale = s.put(f, n)
			name := fmt.Sprintf("%v, transposed %v", z, trans)
			y := s.garbage(m, n)
			s.b.MatMul(y, at, bt, o)
			tol := s.sums8()
			if tol == F32 {
				tol = F32Model // the update may be in two halves of bfloat16
			}
			s.check(name+", scaled", y, plain, tol)
			if n%2 == 0 {
				s.follow(name, o, at, bt, plain, m, n, tol)
			}
			o.ColScale, o.Beta = nil, 1
			y = s.put(c, m, n)
			s.b.MatMul(y, at, bt, o)
			s.check(name+", added", y, added, tol)
		}
	}
	if !tensor.Halves(s.b) {
		return
	}
	// Activations in bfloat16.
	const m, n, k = 70, 72, 104
	w := s.load(tensor.BF16, s.stored(tensor.BF16, n, k), n, k)
	s.b.Precision(w, tensor.FP8)
	both := [2][][]float64{}
	for i := range both {
		s.reseed(8)
		h := &activations{suite: s, half: i == 1}
		x, dy, y, dx := h.act(s.normal(m*k), m, k), h.act(s.normal(m*n), m, n), h.out(m, n), h.out(m, k)
		s.b.MatMul(y, x, w, tensor.MatMul{TransB: true, Alpha: 1, Uniform: true})
		s.b.MatMul(dx, dy, w, tensor.MatMul{Alpha: 1})
		for _, t := range []*tensor.Tensor{y, dx} {
			v := s.expanded(t)
			roundAll(v)
			both[i] = append(both[i], v)
		}
	}
	for i, name := range []string{"y", "dx"} {
		s.same(name+" in bfloat16", float32s(both[1][i]), float32s(both[0][i]))
	}
}

// Products of few rows, those with a transposed operand, heads, and DoRA's norms have
// the bits that they have in bfloat16.
func testFP8Elsewhere(s *suite) {
	if s.without8() {
		return
	}
	const out, in, r = 70, 256, 8
	data := s.stored(tensor.BF16, out, in)
	few := tensor.RowsTogether(s.b)
	x, g, a, b, v := s.put(s.normal(few*in), few, in), s.put(s.normal(out*few), out, few), s.put(s.normal(r*in), r, in), s.put(s.normal(out*r), out, r), s.put(s.normal(out), out)
	target := s.putInts(make([]int32, few))
	var want [][]float32
	for _, precision := range []tensor.DType{tensor.BF16, tensor.FP8} {
		w := s.load(tensor.BF16, data, out, in)
		s.b.Precision(w, precision)
		many := s.garbage(few+1, out)
		s.b.MatMul(many, s.put(s.normal((few+1)*in), few+1, in), w, tensor.MatMul{TransB: true, Alpha: 1}) // what it keeps is not taken for another
		y, one, dw := s.garbage(few, out), s.garbage(1, out), s.garbage(few, in)
		s.b.MatMul(y, x, w, tensor.MatMul{TransB: true, Alpha: 1})
		s.b.MatMul(one, s.b.View(x, 0, 1, in), w, tensor.MatMul{TransB: true, Alpha: 1})
		s.b.MatMul(dw, g, w, tensor.MatMul{TransA: true, Alpha: 1})
		lp, ls, dx, dx2 := s.garbage(few), s.garbage(few), s.garbage(few, in), s.garbage(few, in)
		s.b.LogProb(lp, ls, nil, dx, x, w, target)
		s.b.LogProbGrad(dx2, nil, x, w, target, ls, lp)
		ratio, c, w2 := s.garbage(out), s.garbage(out), s.garbage(out)
		s.b.RowSquares(w2, w)
		s.b.DoRANorm(ratio, c, w2, w, a, b, v, 0.5)
		got := [][]float32{s.get(y), s.get(one), s.get(dw), s.get(lp), s.get(dx), s.get(dx2), s.get(c)}
		if want == nil {
			want = got
			continue
		}
		for i, name := range []string{"few rows", "one row", "a transposed operand", "log prob", "its gradient", "log prob gradient", "dora norm"} {
			s.same(name, got[i], want[i])
		}
		s.same("one row of few", got[1], got[0][:out])
	}
}

// A row that holds a NaN or an infinity gives NaN, and no other row does; small and
// large numbers are rounded as others.
func testFP8NonFinite(s *suite) {
	if s.without8() {
		return
	}
	const m, n, k = 70, 24, 40
	for _, bad := range []float64{math.NaN(), math.Inf(1), math.Inf(-1)} {
		a, b, g := s.normal(m*k), s.normal(n*k), s.normal(m*n)
		a[3*k+7], b[5*k+39], g[69*n] = bad, bad, bad
		w := s.load(tensor.F32, bytesOf(float32s(b)), n, k)
		s.b.Precision(w, tensor.FP8)
		y, dx := s.garbage(m, n), s.garbage(m, k)
		s.b.MatMul(y, s.put(a, m, k), w, tensor.MatMul{TransB: true, Alpha: 1})
		for i, v := range s.get(y) {
			if hit := i/n == 3 || i%n == 5; hit != (v != v) {
				s.Fatalf("with %v, element %d of row %d is %v", bad, i%n, i/n, v)
			}
		}
		s.b.MatMul(dx, s.put(g, m, n), w, tensor.MatMul{Alpha: 1})
		for i, v := range s.get(dx) {
			if v == v {
				s.Fatalf("with %v in the weight, element %d of the gradient is %v", bad, i, v)
			}
		}
		w = s.load(tensor.F32, bytesOf(float32s(s.normal(n*k))), n, k)
		s.b.Precision(w, tensor.FP8)
		s.b.MatMul(dx, s.put(g, m, n), w, tensor.MatMul{Alpha: 1})
		for i, v := range s.get(dx) {
			if hit := i/k == 69; hit != (v != v) {
				s.Fatalf("with %v, element %d of row %d of the gradient is %v", bad, i%k, i/k, v)
			}
		}
	}
	for _, size := range []float64{1e-38, 1e-30, 1e30} {
		a, b := s.normal(m*k), s.normal(n*k)
		for i := range a {
			a[i] = float64(float32(a[i] * size))
		}
		w, y := s.load(tensor.F32, bytesOf(float32s(b)), n, k), s.garbage(m, n)
		s.b.Precision(w, tensor.FP8)
		s.b.MatMul(y, s.put(a, m, k), w, tensor.MatMul{TransB: true, Alpha: 1})
		round8(a, k, nil)
		round8(b, k, nil)
		o := tensor.MatMul{TransB: true, Alpha: 1}
		s.rows8(fmt.Sprintf("numbers around %v", size), y, refMatMul(nil, a, b, m, n, k, o), refMatMul(nil, absolute(a), absolute(b), m, n, k, o), n)
	}
}
