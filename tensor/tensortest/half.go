package tensortest

import (
	"fmt"

	"pipe/tensor"
)

// An activations makes the activations of one run of an operation, all F32 or all
// BF16, from numbers that both hold exactly, and keeps results.
type activations struct {
	*suite
	half    bool
	results []result
}

type result struct {
	name string
	x    []float64
}

// act returns a tensor that holds x, rounded to bfloat16.
func (a *activations) act(x []float64, shape ...int) *tensor.Tensor {
	a.Helper()
	y := append([]float64(nil), x...)
	roundAll(y)
	t := a.put(y, shape...)
	if !a.half {
		return t
	}
	return a.rounded(t)
}

// rounded returns t in bfloat16.
func (a *activations) rounded(t *tensor.Tensor) *tensor.Tensor {
	a.Helper()
	h, at := a.alloc(tensor.BF16, t.Shape...), make([]int32, t.Rows())
	for i := range at {
		at[i] = int32(i)
	}
	a.b.ScatterRows(h, t, a.putInts(at))
	return h
}

// out returns a tensor for a result that is set: it holds NaN.
func (a *activations) out(shape ...int) *tensor.Tensor {
	a.Helper()
	t := a.garbage(shape...)
	if a.half {
		return a.rounded(t)
	}
	return t
}

// keep takes the numbers of a result.
func (a *activations) keep(name string, t *tensor.Tensor) {
	a.Helper()
	a.results = append(a.results, result{name, a.expanded(t)})
}

// halves runs an operation with activations of F32 and of BF16 and compares:
// what is computed is the same, and rounded when it is stored. Sums of several
// rounded numbers have the tolerance of bfloat16 themselves.
func (s *suite) halves(name string, tol Tolerance, run func(a *activations)) {
	s.Helper()
	f, h := &activations{suite: s}, &activations{suite: s, half: true}
	seed := s.rng.Uint64()
	for _, a := range []*activations{f, h} {
		s.reseed(seed)
		run(a)
	}
	for i, r := range f.results {
		Close(s.T, name+": "+r.name, h.results[i].x, r.x, tol)
	}
}

// oneRounding is the error of a number that is rounded to bfloat16 once.
var oneRounding = Tolerance{Abs: 1e-6, Rel: 1.0 / 255}

func testHalf(s *suite) {
	if !tensor.Halves(s.b) {
		s.Skip("activations of this backend are F32")
	}
	for _, m := range []int{1, 5, 16, 40, 210} {
		for _, precision := range []tensor.DType{tensor.F32, tensor.BF16} {
			for _, dt := range []tensor.DType{tensor.F32, tensor.BF16, tensor.Q4_0} {
				s.halfProducts(m, dt, precision)
			}
		}
	}
	for _, z := range [][2]int{{1, 8}, {7, 33}, {40, 256}, {5, 577}} {
		s.halfRows(z[0], z[1])
	}
	for i, c := range attentionCases {
		for _, precision := range []tensor.DType{tensor.F32, tensor.BF16} {
			s.halfAttention(fmt.Sprintf("attention %d in %s", i, precision), c.o, c.nk, precision)
		}
	}
	o := tensor.Attention{Heads: 4, KVHeads: 2, HeadDim: 64, Q: []int32{0, 130, 131, 140}, K: []int32{0, 130, 131}, KLen: []int32{130, 1, 9}}
	for _, precision := range []tensor.DType{tensor.F32, tensor.BF16} {
		s.halfAttention("attention of whole heads in "+precision.String(), o, 140, precision)
	}
	for _, z := range [][4]int{{1, 16, 8, 3}, {40, 136, 64, 16}, {150, 33, 72, 5}} {
		s.halfUpdates(z[0], z[1], z[2], z[3])
	}
}

// Updates of low rank whose products with activations are taken together.
func (s *suite) halfUpdates(m, n, in, r int) {
	s.halves(fmt.Sprintf("%d rows, update of rank %d", m, r), oneRounding, func(a *activations) {
		x, dy, u := a.act(a.normal(m*in), m, in), a.act(a.normal(m*n), m, n), a.put(a.normal(m*r), m, r)
		du, dv, v := a.garbage(m, r), a.put(a.normal(n*r), n, r), a.put(a.normal(n*r), n, r)
		a.b.LowRankGrad(du, dv, dy, u, v, 0.7)
		a.keep("gradient of u", du)
		a.keep("gradient of v", dv)
		w := a.load(tensor.BF16, a.stored(tensor.BF16, n, in), n, in)
		y, low := a.out(m, n), &tensor.LowRank{U: du, V: v, TransV: true, Alpha: 1, A: a.put(a.normal(r*in), r, in)}
		a.b.MatMul(y, x, w, tensor.MatMul{TransB: true, Alpha: 1, Uniform: true, LowRank: low})
		a.keep("product that sets u", y)
		a.keep("u", du)
	})
}

func (s *suite) halfProducts(m int, dt, precision tensor.DType) {
	const in, head, r = 160, 32, 5
	const n = 3 * head
	name := fmt.Sprintf("%d rows, %s in %s", m, dt, precision)
	weight := func(a *activations, rows, cols int) *tensor.Tensor {
		w := a.load(dt, a.stored(dt, rows, cols), rows, cols)
		a.b.Precision(w, precision)
		return w
	}
	for _, uniform := range []bool{false, true} {
		s.halves(name, oneRounding, func(a *activations) {
			w := weight(a, n, in)
			x, dy := a.act(a.normal(m*in), m, in), a.act(a.normal(m*n), m, n)
			y, dx := a.out(m, n), a.out(m, in)
			a.b.MatMul(y, x, w, tensor.MatMul{TransB: true, Alpha: 0.5, Uniform: uniform})
			a.keep("product", y)
			a.b.MatMul(dx, dy, w, tensor.MatMul{Alpha: 2, Uniform: uniform})
			a.keep("gradient", dx)
			low := &tensor.LowRank{U: a.put(a.normal(m*r), m, r), V: a.put(a.normal(n*r), n, r), TransV: true, Alpha: 0.7}
			o := tensor.MatMul{TransB: true, Alpha: 1, Uniform: uniform, LowRank: low, ColScale: a.put(a.normal(n), n), Bias: a.put(a.normal(n), n)}
			a.b.MatMul(y, x, w, o)
			a.keep("product with all", y)
			// Types may differ between operands and result.
			sum := a.put(a.normal(m*in), m, in)
			a.b.MatMul(sum, dy, w, tensor.MatMul{Alpha: 1, Beta: 1, Uniform: uniform})
			a.keep("sum", sum)
			full := a.garbage(m, n)
			a.b.MatMul(full, x, w, tensor.MatMul{TransB: true, Alpha: 1, Uniform: uniform})
			a.keep("full result", full)
			if a.half {
				x = a.put(a.expanded(x), m, in)
			}
			a.b.MatMul(y, x, w, tensor.MatMul{TransB: true, Alpha: 1, Uniform: uniform})
			a.keep("full operand", y)
		})
	}
	s.halves(name+", adapter", oneRounding, func(a *activations) {
		x, dy, u := a.act(a.normal(m*in), m, in), a.act(a.normal(m*n), m, n), a.put(a.normal(m*r), m, r)
		au, du, one, two := a.garbage(m, r), a.garbage(m, r), a.put(a.normal(r*in), r, in), a.put(a.normal(n*r), n, r)
		a.b.MatMul(au, x, one, tensor.MatMul{TransB: true, Alpha: 1, Uniform: true})
		a.keep("down", au)
		a.b.MatMul(du, dy, two, tensor.MatMul{Alpha: 0.7})
		a.keep("up gradient", du)
		a.b.MatMul(two, dy, u, tensor.MatMul{TransA: true, Alpha: 0.7, Beta: 1})
		a.keep("gradient of B", two)
		a.b.MatMul(one, u, x, tensor.MatMul{TransA: true, Alpha: 1, Beta: 1})
		a.keep("gradient of A", one)
		w := a.put(a.normal(n*in), n, in)
		a.b.MatMul(w, dy, x, tensor.MatMul{TransA: true, Alpha: 1, Beta: 1})
		a.keep("gradient of a weight", w)
	})
	s.halves(name+", together", BF16, func(a *activations) {
		x, pos := a.act(a.normal(m*in), m, in), make([]int32, m)
		for t := range pos {
			pos[t] = int32(3 * t)
		}
		rope := &tensor.Rope{Positions: a.putInts(pos), InvFreq: a.put(a.normal(head/2), head/2)}
		var p tensor.Projection
		for i, n := range []int{3 * head, head, head} {
			o := tensor.MatMul{TransB: true, Alpha: 1}
			if i < 2 {
				o.Rope = rope
			}
			p.Products = append(p.Products, tensor.Product{Dst: a.out(m, n), W: weight(a, n, in), MatMul: o})
		}
		a.b.Project(x, &p)
		for i := range p.Products {
			a.keep(fmt.Sprintf("product %d", i), p.Products[i].Dst)
		}
		gate, up, y := a.out(m, n), a.out(m, n), a.out(m, n)
		o := tensor.MatMul{TransB: true, Alpha: 1}
		a.b.Project(x, &tensor.Projection{SwiGLU: y, Products: []tensor.Product{{Dst: gate, W: weight(a, n, in), MatMul: o}, {Dst: up, W: weight(a, n, in), MatMul: o}}})
		a.keep("gate", gate)
		a.keep("up", up)
		a.keep("swiglu", y)
		dgate, dup := a.out(m, n), a.out(m, n)
		a.b.MatMul(dgate, x, weight(a, n, in), tensor.MatMul{TransB: true, Alpha: 1, SwiGLUGrad: &tensor.SwiGLUGrad{DGate: dgate, DUp: dup, Gate: gate, Up: up}})
		a.keep("dgate", dgate)
		a.keep("dup", dup)
	})
}

func (s *suite) halfRows(rows, cols int) {
	name := fmt.Sprintf("%d x %d", rows, cols)
	s.halves(name, oneRounding, func(a *activations) {
		n := rows * cols
		x, w, sum, rstd := a.put(a.normal(n), rows, cols), a.put(a.normal(cols), cols), a.garbage(rows, cols), a.garbage(rows)
		y := a.out(rows, cols)
		a.b.RMSNorm(y, rstd, x, w, 1e-5)
		a.keep("rmsnorm", y)
		a.b.AddRMSNorm(y, rstd, sum, x, a.put(a.normal(n), rows, cols), w, 1e-5)
		a.keep("rmsnorm of a sum", y)
		a.keep("sum", sum)
		a.b.AddRMSNorm(y, rstd, sum, x, a.act(a.normal(n), rows, cols), w, 1e-5)
		a.keep("rmsnorm of a sum with an activation", y)
		a.keep("sum with an activation", sum)
		gate, up, dy := a.act(a.normal(n), rows, cols), a.act(a.normal(n), rows, cols), a.act(a.normal(n), rows, cols)
		a.b.SwiGLU(y, gate, up)
		a.keep("swiglu", y)
		dg, du := a.out(rows, cols), a.out(rows, cols)
		a.b.SwiGLUGrad(dg, du, gate, up, dy)
		a.keep("dgate", dg)
		a.keep("dup", du)
		a.b.Dropout(y, gate, 0.3, 7)
		a.keep("dropout", y)
		a.b.Add(y, gate, up, -0.5)
		a.keep("add", y)
		a.b.Add(sum, gate, a.put(a.normal(n), rows, cols), 2)
		a.keep("add to full", sum)
		a.b.Add(y, gate, sum, 2)
		a.keep("add of full", y)
		a.b.ColSum(w, gate)
		a.keep("column sums", w)
		a.b.AddRow(gate, w)
		a.keep("add row", gate)
		a.b.ScaleRows(y, up, rstd)
		a.keep("scale rows", y)
		m, dm := a.put(a.normal(cols), cols), a.put(a.normal(cols), cols)
		a.b.ScaleColsGrad(dg, dm, dy, up, w, m)
		a.keep("scale columns gradient", dg)
		a.keep("magnitude gradient", dm)
		full := a.put(a.normal(n), rows, cols)
		a.b.ScaleColsGrad(dg, dm, full, full, w, m)
		a.keep("scale columns gradient of full", dg)
		a.b.ScaleColsGrad(dg, dm, full, up, w, m)
		a.keep("scale columns gradient of a full gradient", dg)
		a.b.ScaleColsGrad(full, dm, dy, up, w, m)
		a.keep("full scale columns gradient", full)
		a.keep("magnitude gradient of all", dm)
		at := make([]int32, rows)
		for i := range at {
			at[i] = int32(rows - 1 - i)
		}
		g := a.out(rows, cols)
		a.b.GatherRows(g, up, a.putInts(at))
		a.keep("gather", g)
		c := a.alloc(tensor.BF16, rows, cols)
		a.b.ScatterRows(c, up, a.putInts(at))
		a.results = append(a.results, result{"scatter", a.expanded(c)})
		if cols%2 == 0 {
			a.b.Rope(up, a.putInts(at), a.put(a.normal(cols/2), cols/2), false)
			a.keep("rope", up)
		}
	})
}

func (s *suite) halfAttention(name string, o tensor.Attention, nk int, precision tensor.DType) {
	o.Precision = precision
	nq := int(o.Q[len(o.Q)-1])
	hq, hk := o.Heads*o.HeadDim, o.KVHeads*o.HeadDim
	// Gradients of scores are differences from what the rounded output says.
	tol := Tolerance{Abs: BF16.Abs, Rel: 5e-2, Cosine: 0.99999}
	s.halves(name, tol, func(a *activations) {
		q, k, v, dy := a.act(a.normal(nq*hq), nq, hq), a.act(a.normal(nk*hk), nk, hk), a.act(a.normal(nk*hk), nk, hk), a.act(a.normal(nq*hq), nq, hq)
		y, l := a.out(nq, hq), a.garbage(nq, o.Heads)
		a.b.Attention(y, l, q, k, v, o)
		a.keep("output", y)
		a.keep("lse", l)
		dq, dk, dv := a.out(nq, hq), a.out(nk, hk), a.out(nk, hk)
		a.b.AttentionGrad(dq, dk, dv, q, k, v, y, l, dy, o)
		a.keep("dq", dq)
		a.keep("dk", dk)
		a.keep("dv", dv)
	})
}
