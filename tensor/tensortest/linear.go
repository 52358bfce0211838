package tensortest

import (
	"fmt"
	"math"

	"pipe/tensor"
)

// Sizes around the edges of blocks: 6, 16, 192, 256, 384 and 16 rows.
var productSizes = [][3]int{ // m, n, k
	{1, 1, 1}, {1, 5, 3}, {2, 4, 17}, {3, 19, 40}, {5, 7, 9}, {6, 16, 8}, {7, 33, 31}, {16, 20, 65}, {17, 18, 15},
	{13, 257, 24}, {40, 300, 389}, {193, 31, 50}, {200, 3, 100}, {1, 130, 100}, {23, 16, 771}, {64, 576, 16},
}

func testMatMul(s *suite) {
	for _, z := range productSizes {
		m, n, k := z[0], z[1], z[2]
		a, b, c := s.normal(m*k), s.normal(k*n), s.normal(m*n)
		for i, o := range []tensor.MatMul{
			{Alpha: 1}, {TransB: true, Alpha: 1}, {TransA: true, Alpha: 1, Beta: 1}, {TransA: true, TransB: true, Alpha: -0.5, Beta: 1},
			{Alpha: 2, Beta: 0.5}, {TransB: true, Alpha: 0.7, Beta: 1}, {TransA: true, Alpha: 1}, {TransB: true, Alpha: 1, Beta: -2},
		} {
			as, bs := []int{m, k}, []int{k, n}
			if o.TransA {
				as = []int{k, m}
			}
			if o.TransB {
				bs = []int{n, k}
			}
			dst := s.put(c, m, n)
			var bt *tensor.Tensor
			if i%2 == 0 {
				bt = s.put(b, bs...)
			} else {
				bt = s.load(tensor.F32, bytesOf(float32s(b)), bs...)
			}
			s.b.MatMul(dst, s.put(a, as...), bt, o)
			s.check(fmt.Sprintf("%v %+v", z, o), dst, refMatMul(c, a, b, m, n, k, o), F32)
		}
	}
}

func testMatMulGarbage(s *suite) {
	for _, m := range []int{1, 3, 30} {
		n, k := 21, 400
		a, b := s.normal(m*k), s.normal(n*k)
		for _, transB := range []bool{false, true} {
			o := tensor.MatMul{Alpha: 1, TransB: transB}
			shape := []int{k, n}
			if transB {
				shape = []int{n, k}
			}
			dst := s.garbage(m, n)
			s.b.MatMul(dst, s.put(a, m, k), s.put(b, shape...), o)
			s.check(fmt.Sprintf("m %d %+v", m, o), dst, refMatMul(nil, a, b, m, n, k, o), F32)
		}
	}
	dst := s.garbage(3, 4)
	s.b.MatMul(dst, s.alloc(tensor.F32, 3, 0), s.alloc(tensor.F32, 0, 4), tensor.MatMul{Alpha: 1})
	s.check("no terms", dst, make([]float64, 12), Exact)
}

func testMatMulTypes(s *suite) {
	const out, in = 35, 512
	for _, dt := range weightTypes {
		w := s.load(dt, s.stored(dt, out, in), out, in)
		x := s.expanded(w)
		for _, m := range []int{1, 2, 7, 16, 29} {
			a := s.normal(m * in)
			y := s.garbage(m, out)
			s.b.MatMul(y, s.put(a, m, in), w, tensor.MatMul{TransB: true, Alpha: 1})
			s.check(fmt.Sprintf("%s m %d", dt, m), y, refMatMul(nil, a, x, m, out, in, tensor.MatMul{TransB: true, Alpha: 1}), F32)
			g := s.normal(m * out)
			dx := s.garbage(m, in)
			s.b.MatMul(dx, s.put(g, m, out), w, tensor.MatMul{Alpha: 1})
			s.check(fmt.Sprintf("%s gradient m %d", dt, m), dx, refMatMul(nil, g, x, m, in, out, tensor.MatMul{Alpha: 1}), F32)
		}
	}
	// A row that is no whole number of the kernels' groups.
	for _, dt := range []tensor.DType{tensor.F32, tensor.F16, tensor.BF16} {
		w := s.load(dt, s.stored(dt, 5, 37), 5, 37)
		a := s.normal(37)
		y := s.garbage(1, 5)
		s.b.MatMul(y, s.put(a, 1, 37), w, tensor.MatMul{TransB: true, Alpha: 1})
		s.check(dt.String()+" short", y, refMatMul(nil, a, s.expanded(w), 1, 5, 37, tensor.MatMul{TransB: true, Alpha: 1}), F32)
	}
}

// A second use of a frozen weight may take another path; bits may not change.
func testMatMulRepeats(s *suite) {
	w := s.load(tensor.Q8_0, s.stored(tensor.Q8_0, 64, 96), 64, 96)
	a := s.put(s.normal(40*96), 40, 96)
	var first []float32
	for i := range 3 {
		y := s.garbage(40, 64)
		s.b.MatMul(y, a, w, tensor.MatMul{TransB: true, Alpha: 1})
		if i == 0 {
			first = s.get(y)
		}
		s.same("product", s.get(y), first)
	}
}

func testVectors(s *suite) {
	for _, z := range [][2]int{{1, 1}, {3, 7}, {5, 8}, {2, 33}, {300, 65}} {
		rows, cols := z[0], z[1]
		x, y, v := s.normal(rows*cols), s.normal(rows*cols), s.normal(cols)
		sum, scaled := make([]float64, rows*cols), make([]float64, rows*cols)
		colDot, rowDot := s.normal(cols), make([]float64, rows)
		dst := s.put(colDot, cols)
		for i := range x {
			sum[i] = x[i] - 0.5*y[i]
			scaled[i] = x[i] * v[i%cols]
			colDot[i%cols] += x[i] * y[i]
			rowDot[i/cols] += x[i] * y[i]
		}
		d, xt, yt := s.garbage(rows, cols), s.put(x, rows, cols), s.put(y, rows, cols)
		s.b.Add(d, xt, yt, -0.5)
		s.check("add", d, sum, F32)
		s.b.ScaleCols(d, xt, s.put(v, cols))
		s.check("scale columns", d, scaled, F32)
		s.b.ColDot(dst, xt, yt)
		s.check("column dots", dst, colDot, F32)
		r := s.garbage(rows)
		s.b.RowDot(r, xt, yt)
		s.check("row dots", r, rowDot, F32)
	}
	a, b, c := s.normal(9), s.normal(9), s.normal(9)
	d := s.put(c, 9)
	s.b.AddDiv(d, s.put(a, 9), s.put(b, 9))
	for i := range c {
		c[i] += a[i] / b[i]
	}
	s.check("add quotient", d, c, F32)
}

func testBias(s *suite) {
	const rows, cols = 37, 21
	x, r, dr := s.normal(rows*cols), s.normal(cols), s.normal(cols)
	d, g := s.put(x, rows, cols), s.put(dr, cols)
	s.b.ColSum(g, d)
	s.b.AddRow(d, s.put(r, cols))
	for i := range x {
		dr[i%cols] += x[i]
		x[i] += r[i%cols]
	}
	s.check("column sums", g, dr, F32)
	s.check("add row", d, x, F32)
}

func testDropout(s *suite) {
	const n, p = 20000, 0.3
	x := make([]float64, n)
	for i := range x {
		x[i] = 1
	}
	xt, y, again, other := s.put(x, n), s.garbage(n), s.garbage(n), s.garbage(n)
	s.b.Dropout(y, xt, p, 42)
	s.b.Dropout(again, xt, p, 42)
	s.b.Dropout(other, xt, p, 43)
	s.same("the same seed", s.get(again), s.get(y))
	kept, differ := 0, 0
	o := s.get(other)
	for i, v := range s.get(y) {
		switch {
		case v == 0:
		case math.Abs(float64(v)-1/(1-p)) < 1e-6:
			kept++
		default:
			s.Fatalf("element %d is %v", i, v)
		}
		if v != o[i] {
			differ++
		}
	}
	if math.Abs(float64(kept)/n-(1-p)) > 0.02 {
		s.Errorf("%d of %d kept", kept, n)
	}
	if want := 2 * p * (1 - p); math.Abs(float64(differ)/n-want) > 0.02 {
		s.Errorf("%d of %d differ between seeds; want %v of them", differ, n, want)
	}
	s.b.Dropout(y, xt, 0, 7)
	s.check("p of 0", y, x, Exact)
	s.b.Dropout(xt, xt, p, 42)
	s.same("in place", s.get(xt), s.get(again))
}

func testDoRA(s *suite) {
	const n, scale = 11, 0.5
	in := map[string][]float64{}
	for _, k := range []string{"w2", "bp", "bq", "m"} {
		in[k] = s.normal(n)
	}
	ratio, norm := make([]float64, n), make([]float64, n)
	for j := range ratio {
		in["w2"][j] = 20 + in["w2"][j]
		norm[j] = math.Sqrt(in["w2"][j] + 2*scale*in["bp"][j] + scale*scale*in["bq"][j])
		ratio[j] = in["m"][j] / norm[j]
	}
	r, c := s.garbage(n), s.garbage(n)
	s.b.DoRAScale(r, c, s.put(in["w2"], n), s.put(in["bp"], n), s.put(in["bq"], n), s.put(in["m"], n), scale)
	s.check("norm", c, norm, F32)
	s.check("ratio", r, ratio, F32)
}

func testRowSquares(s *suite) {
	for _, dt := range weightTypes {
		w := s.load(dt, s.stored(dt, 9, 256), 9, 256)
		want := make([]float64, 9)
		for i, v := range s.expanded(w) {
			want[i/256] += v * v
		}
		d := s.garbage(9)
		s.b.RowSquares(d, w)
		s.check(dt.String(), d, want, F32)
	}
}

func testSumSquares(s *suite) {
	x := s.normal(70001)
	want := []float64{2}
	d := s.put(want, 1)
	s.b.SumSquares(d, s.put(x, len(x)))
	want[0] += inner(x, x)
	s.check("sum", d, want, F32)
}

// refAdamW is torch's order: decay, moments, then the step.
func refAdamW(w, g, m, v []float64, o tensor.AdamW) {
	c1, c2 := 1-math.Pow(o.Beta1, float64(o.Step)), 1-math.Pow(o.Beta2, float64(o.Step))
	for i := range w {
		g := g[i] * o.GradScale
		w[i] *= 1 - o.LR*o.WeightDecay
		m[i] += (g - m[i]) * (1 - o.Beta1)
		v[i] = o.Beta2*v[i] + (1-o.Beta2)*g*g
		w[i] -= o.LR / c1 * m[i] / (math.Sqrt(v[i])/math.Sqrt(c2) + o.Eps)
	}
}

func testAdamW(s *suite) {
	const n = 37
	w, m, v := s.normal(n), make([]float64, n), make([]float64, n)
	wt, mt, vt := s.put(w, n), s.put(m, n), s.put(v, n)
	o := tensor.AdamW{LR: 0.01, Beta1: 0.9, Beta2: 0.99, Eps: 1e-8, WeightDecay: 0.1, GradScale: 0.5}
	for o.Step = 1; o.Step <= 5; o.Step++ {
		g := s.normal(n)
		g[3] = 0
		s.b.AdamW(wt, s.put(g, n), mt, vt, o)
		refAdamW(w, g, m, v, o)
	}
	s.check("w", wt, w, F32)
	s.check("m", mt, m, F32)
	s.check("v", vt, v, F32)
}
