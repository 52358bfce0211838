package tensortest

import (
	"fmt"
	"math"
	"slices"

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

// What follows a product: an update of low rank, then a factor of each column.
func testMatMulEpilogue(s *suite) {
	for _, z := range append(productSizes, [3]int{40, 19, 600}, [3]int{300, 520, 31}) {
		m, n, k := z[0], z[1], z[2]
		for i, r := range []int{1, 3, 16} {
			o := tensor.MatMul{Alpha: 0.5, TransB: i != 1}
			bs, vs := []int{k, n}, []int{r, n}
			if o.TransB {
				bs = []int{n, k}
			}
			trans := i != 2
			if trans {
				vs = []int{n, r}
			}
			a, b, u, v, f, c := s.normal(m*k), s.normal(k*n), s.normal(m*r), s.normal(r*n), s.normal(n), s.normal(m*n)
			want := refMatMul(nil, a, b, m, n, k, o)
			low := refMatMul(nil, u, v, m, n, r, tensor.MatMul{Alpha: 2, TransB: trans})
			plain, added := make([]float64, m*n), make([]float64, m*n)
			for i := range want {
				plain[i] = (want[i] + low[i]) * f[i%n]
				added[i] = c[i] + want[i] + low[i]
			}
			at, bt := s.put(a, m, k), s.load(tensor.F32, bytesOf(float32s(b)), bs...)
			o.LowRank = &tensor.LowRank{U: s.put(u, m, r), V: s.put(v, vs...), TransV: trans, Alpha: 2}
			o.ColScale = s.put(f, n)
			y := s.garbage(m, n)
			s.b.MatMul(y, at, bt, o)
			s.check(fmt.Sprintf("%v rank %d, scaled", z, r), y, plain, F32)
			if n%2 == 0 {
				s.follow(fmt.Sprintf("%v rank %d", z, r), o, at, bt, plain, m, n, F32)
			}
			o.ColScale, o.Beta = nil, 1
			y = s.put(c, m, n)
			s.b.MatMul(y, at, bt, o)
			s.check(fmt.Sprintf("%v rank %d, added", z, r), y, added, F32)
		}
	}
}

// follow checks a bias, a rotation of heads of 2, 6 or 64, and the gradient of
// SwiGLU, all after the product want.
func (s *suite) follow(name string, o tensor.MatMul, a, b *tensor.Tensor, want []float64, m, n int, tol Tolerance) {
	s.Helper()
	bias, pos, y := s.normal(n), make([]int32, m), s.garbage(m, n)
	for t := range pos {
		pos[t] = int32(t * 7)
	}
	half := 1
	for _, h := range []int{3, 32} {
		if n%(2*h) == 0 {
			half = h
		}
	}
	inv := make([]float64, half)
	for i := range inv {
		inv[i] = float64(float32(1 / float64(1+i*i)))
	}
	biased := make([]float64, m*n)
	for i := range biased {
		biased[i] = want[i] + bias[i%n]
	}
	turned := refRope(biased, pos, inv, n, 1)
	o.Bias, o.Rope = s.put(bias, n), &tensor.Rope{Positions: s.putInts(pos), InvFreq: s.put(inv, half)}
	s.b.MatMul(y, a, b, o)
	s.check(name+", rotated", y, turned, tol)
	g, u := s.normal(m*n), s.normal(m*n)
	dg, du, gt, ut := s.garbage(m, n), s.garbage(m, n), s.put(g, m, n), s.put(u, m, n)
	s.b.SwiGLUGrad(dg, du, gt, ut, y)
	o.SwiGLUGrad = &tensor.SwiGLUGrad{DGate: y, DUp: s.garbage(m, n), Gate: gt, Up: ut}
	s.b.MatMul(y, a, b, o)
	s.same(name+", gradient of gate", s.get(y), s.get(dg))
	s.same(name+", gradient of up", s.get(o.SwiGLUGrad.DUp), s.get(du))
}

// A projection has the bits of its products one by one, and of what follows
// them, whatever the types and precisions of the weights.
// The gradient of a projection is the sum of its products, whatever the types and precisions
// of the weights, with and without updates of low rank.
// The gradient of an update of low rank: two products of dy.
func testLowRankGrad(s *suite) {
	for _, z := range [][3]int{{1, 3, 2}, {5, 64, 8}, {40, 33, 5}, {70, 130, 16}, {33, 72, 40}, {150, 528, 16}} {
		m, n, r := z[0], z[1], z[2]
		dy, u, v, dv := s.normal(m*n), s.normal(m*r), s.normal(n*r), s.normal(n*r)
		du, dvt := s.garbage(m, r), s.put(dv, n, r)
		s.b.LowRankGrad(du, dvt, s.put(dy, m, n), s.put(u, m, r), s.put(v, n, r), 0.5)
		s.check(fmt.Sprintf("%v, u", z), du, refMatMul(nil, dy, v, m, r, n, tensor.MatMul{Alpha: 0.5}), F32)
		s.check(fmt.Sprintf("%v, v", z), dvt, refMatMul(dv, dy, u, n, r, m, tensor.MatMul{TransA: true, Alpha: 0.5, Beta: 1}), F32)
	}
}

// testLent: a backend that has arranged a weight gives its data back, and computes
// what it did before.
func testLent(s *suite) {
	b, ok := s.b.(tensor.Borrower)
	if !ok {
		s.Skip("this backend keeps its own copies of weights, or needs them where they lie")
	}
	const m, out, in = 40, 96, 64
	for _, precision := range []tensor.DType{tensor.F32, tensor.BF16} {
		for _, dt := range []tensor.DType{tensor.F32, tensor.BF16, tensor.Q8_0} {
			data := s.stored(dt, out, in)
			a, g := s.put(s.normal(m*in), m, in), s.put(s.normal(m*out), m, out)
			products := func(w *tensor.Tensor) []float32 {
				y, dx := s.garbage(m, out), s.garbage(m, in)
				s.b.MatMul(y, a, w, tensor.MatMul{TransB: true, Alpha: 1, Uniform: true})
				s.b.MatMul(dx, g, w, tensor.MatMul{Alpha: 1})
				return append(s.get(y), s.get(dx)...)
			}
			kept, lent, given := s.load(dt, data, out, in), s.load(dt, slices.Clone(data), out, in), 0
			b.Lent(lent, func() { given++ })
			for _, w := range []*tensor.Tensor{kept, lent} {
				s.b.Precision(w, precision)
			}
			want := products(kept)
			for range 2 {
				Close(s.T, fmt.Sprintf("%s in %s", dt, precision), products(lent), want, Exact)
			}
			if given == 0 {
				s.Errorf("%s in %s: the weight was arranged, and its data not given back", dt, precision)
			}
		}
	}
}

// Products in bfloat16 are those of rounded operands, summed in float32. Of
// weights in blocks the codes may be rounded instead of the elements.
func testPrecision(s *suite) {
	for _, dt := range []tensor.DType{tensor.F32, tensor.F16, tensor.BF16, tensor.Q8_0, tensor.Q4_K} {
		for _, z := range [][2]int{{1, 256}, {37, 256}, {64, 1280}} {
			out, in := z[0], z[1]
			tol := BF16
			if dt != tensor.Q8_0 && dt != tensor.Q4_K {
				in -= 3 // odd rows
				tol = F32
			}
			w := s.load(dt, s.stored(dt, out, in), out, in)
			x := s.expanded(w)
			s.b.Precision(w, tensor.BF16)
			roundAll(x)
			for _, m := range []int{1, 15, 40} {
				a, g := s.normal(m*in), s.normal(m*out)
				y, dx := s.garbage(m, out), s.garbage(m, in)
				s.b.MatMul(y, s.put(a, m, in), w, tensor.MatMul{TransB: true, Alpha: 1})
				s.b.MatMul(dx, s.put(g, m, out), w, tensor.MatMul{Alpha: -2})
				roundAll(a)
				roundAll(g)
				s.check(fmt.Sprintf("%s %v m %d", dt, z, m), y, refMatMul(nil, a, x, m, out, in, tensor.MatMul{TransB: true, Alpha: 1}), tol)
				s.check(fmt.Sprintf("%s %v gradient m %d", dt, z, m), dx, refMatMul(nil, g, x, m, in, out, tensor.MatMul{Alpha: -2}), F32)
			}
			s.b.Precision(w, tensor.F32)
			a := s.normal(3 * in)
			y := s.garbage(3, out)
			s.b.MatMul(y, s.put(a, 3, in), w, tensor.MatMul{TransB: true, Alpha: 1})
			s.check("back in float32", y, refMatMul(nil, a, s.expanded(w), 3, out, in, tensor.MatMul{TransB: true, Alpha: 1}), F32)
		}
	}
}

// With Uniform, a row has the same bits alone and among many, whatever the type
// and the precision of the weight.
func testUniform(s *suite) {
	for _, dt := range weightTypes {
		for _, precision := range []tensor.DType{tensor.F32, tensor.BF16, tensor.FP8} {
			if tensor.HasPrecision(s.b, precision) != nil {
				continue
			}
			const out, in, many = 70, 512, 40
			w := s.load(dt, s.stored(dt, out, in), out, in)
			s.b.Precision(w, precision)
			x, y := s.put(s.normal(many*in), many, in), s.garbage(many, out)
			o := tensor.MatMul{TransB: true, Alpha: 1, Uniform: true}
			s.b.MatMul(y, x, w, o)
			all := s.get(y)
			for _, m := range []int{1, 3, 16} {
				z := s.garbage(m, out)
				s.b.MatMul(z, s.b.View(x, 0, m, in), w, o)
				s.same(fmt.Sprintf("%s in %s, %d rows", dt, precision, m), s.get(z), all[:m*out])
			}
			target := s.putInts(make([]int32, many))
			lp, ls, dx := s.garbage(many), s.garbage(many), s.garbage(many, in)
			s.b.LogProb(lp, ls, nil, dx, x, w, target)
			l, d := s.garbage(2), s.garbage(2, in)
			s.b.LogProb(l, l, nil, d, s.b.View(x, 0, 2, in), w, s.b.View(target, 0, 2))
			s.same(fmt.Sprintf("log prob of %s in %s", dt, precision), s.get(d), s.get(dx)[:2*in])
		}
	}
}

// roundAll rounds to bfloat16, ties to even.
func roundAll(x []float64) {
	for i, v := range x {
		u := math.Float32bits(float32(v))
		x[i] = float64(math.Float32frombits((u + 0x7fff + u>>16&1) &^ 0xffff))
	}
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
		dm, byRow := s.normal(cols), make([]float64, rows*cols)
		dst, r, m := s.put(dm, cols), s.normal(rows), s.normal(cols)
		m[0] = 0
		for i := range x {
			if i%cols == 0 {
				y[i] = 0 // 0/0 of m
			}
			sum[i] = x[i] - 0.5*y[i]
			scaled[i] = x[i] * v[i%cols]
			byRow[i] = x[i] * r[i/cols]
			if i%cols > 0 {
				dm[i%cols] += x[i] * y[i] / m[i%cols]
			}
		}
		d, xt, yt := s.garbage(rows, cols), s.put(x, rows, cols), s.put(y, rows, cols)
		s.b.Add(d, xt, yt, -0.5)
		s.check("add", d, sum, F32)
		s.b.ScaleCols(d, xt, s.put(v, cols))
		s.check("scale columns", d, scaled, F32)
		s.b.ScaleRows(d, xt, s.put(r, rows))
		s.check("scale rows", d, byRow, F32)
		s.b.ScaleColsGrad(d, dst, xt, s.put(y, rows, cols), s.put(v, cols), s.put(m, cols))
		s.check("scale columns gradient, x", d, scaled, F32)
		s.check("scale columns gradient, m", dst, dm, F32Grad)
	}
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
	for _, z := range [][3]int{{11, 9, 2}, {300, 512, 16}, {600, 96, 100}} { // out, in, rank
		for _, dt := range []tensor.DType{tensor.F32, tensor.BF16} {
			for _, precision := range []tensor.DType{tensor.F32, tensor.BF16} {
				s.dora(dt, precision, z[0], z[1], z[2])
			}
		}
	}
}

// dora compares norms with those of W + scale·B·A, but that W and A are rounded
// where they are multiplied with one another.
func (s *suite) dora(dt, precision tensor.DType, out, in, r int) {
	const scale = 0.5
	wt := s.load(dt, s.stored(dt, out, in), out, in)
	s.b.Precision(wt, precision)
	w, a, b, m := s.expanded(wt), s.normal(r*in), s.normal(out*r), s.normal(out)
	ba := refMatMul(nil, b, a, out, in, r, tensor.MatMul{Alpha: 1})
	wr, bar := w, ba
	if precision == tensor.BF16 {
		wr, bar = slices.Clone(w), slices.Clone(a)
		roundAll(wr)
		roundAll(bar)
		bar = refMatMul(nil, b, bar, out, in, r, tensor.MatMul{Alpha: 1})
	}
	norm, ratio, sq := make([]float64, out), make([]float64, out), s.garbage(out)
	for i := range w {
		norm[i/in] += w[i]*w[i] + 2*scale*wr[i]*bar[i] + scale*scale*ba[i]*ba[i]
	}
	for j := range norm {
		norm[j] = math.Sqrt(norm[j])
		ratio[j] = m[j] / norm[j]
	}
	q, c := s.garbage(out), s.garbage(out)
	s.b.RowSquares(sq, wt)
	s.b.DoRANorm(q, c, sq, wt, s.put(a, r, in), s.put(b, out, r), s.put(m, out), scale)
	name := fmt.Sprintf("%dx%d rank %d of %s in %s", out, in, r, dt, precision)
	s.check("norm "+name, c, norm, F32)
	s.check("ratio "+name, q, ratio, F32)
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

func (s *suite) adamw(w, g, m, v *tensor.Tensor, o tensor.AdamW) {
	s.b.AdamW([]tensor.AdamWParam{{W: w, G: g, M: m, V: v}}, o)
}

func testAdamW(s *suite) {
	const n = 37
	w, m, v := s.normal(n), make([]float64, n), make([]float64, n)
	wt, mt, vt := s.put(w, n), s.put(m, n), s.put(v, n)
	o := tensor.AdamW{LR: 0.01, Beta1: 0.9, Beta2: 0.99, Eps: 1e-8, WeightDecay: 0.1, GradScale: 0.5}
	for o.Step = 1; o.Step <= 5; o.Step++ {
		g := s.normal(n)
		g[3] = 0
		s.adamw(wt, s.put(g, n), mt, vt, o)
		refAdamW(w, g, m, v, o)
	}
	s.check("w", wt, w, F32)
	s.check("m", mt, m, F32)
	s.check("v", vt, v, F32)
}
