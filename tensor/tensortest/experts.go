package tensortest

import (
	"cmp"
	"fmt"
	"math"
	"slices"

	"pipe/tensor"
)

// routing returns an empty routing of n rows to k of some experts.
func (s *suite) routing(n, k, experts int, g tensor.Gating) *tensor.Routing {
	return &tensor.Routing{Gating: g, Experts: experts, Gates: s.garbage(n * k),
		Rows: s.alloc(tensor.I32, n*k), Slots: s.alloc(tensor.I32, n, k), Starts: s.alloc(tensor.I32, experts+1)}
}

// A route is what a routing holds.
type route struct {
	n, k, experts       int
	rows, slots, starts []int32
	gates               []float64
	chosen              []int // expert of each choice of each row
}

// refRoute routes by sorting.
func refRoute(z []float64, n, k, experts int, g tensor.Gating) route {
	r := route{n: n, k: k, experts: experts, gates: make([]float64, n*k)}
	choice := make([]float64, n*k)
	for t := range n {
		row := z[t*experts:][:experts]
		order := make([]int, experts)
		for e := range order {
			order[e] = e
		}
		nan := slices.ContainsFunc(row, math.IsNaN)
		if !nan {
			slices.SortStableFunc(order, func(a, b int) int { return cmp.Compare(row[b], row[a]) })
		}
		r.chosen = append(r.chosen, order[:k]...)
		sum, most := 0.0, row[order[0]]
		for j, e := range order[:k] {
			v := 1 / (1 + math.Exp(-row[e]))
			if g == tensor.Softmax {
				if v = 1; row[e] != most {
					v = math.Exp(row[e] - most)
				}
				sum += v
			}
			if nan {
				v = math.NaN()
			}
			choice[t*k+j] = v
		}
		if g == tensor.Softmax {
			for j := range k {
				choice[t*k+j] /= sum
			}
		}
	}
	r.slots = make([]int32, n*k)
	for e := range experts {
		r.starts = append(r.starts, int32(len(r.rows)))
		for i, c := range r.chosen {
			if c == e {
				at := len(r.rows)
				r.slots[i], r.gates[at] = int32(at), choice[i]
				r.rows = append(r.rows, int32(i/k))
			}
		}
	}
	r.starts = append(r.starts, int32(len(r.rows)))
	return r
}

// routed routes random logits, of which some are equal, on both.
func (s *suite) routed(n, k, experts int, g tensor.Gating) (*tensor.Routing, route) {
	s.Helper()
	z := s.normal(n * experts)
	for i := range z {
		z[i] = math.Round(3*z[i]) / 4
	}
	r := s.routing(n, k, experts, g)
	s.b.Route(r, s.put(z, n, experts))
	return r, refRoute(z, n, k, experts, g)
}

func (s *suite) checkRoute(name string, r *tensor.Routing, want route) {
	s.Helper()
	for _, l := range []struct {
		name string
		t    *tensor.Tensor
		want []int32
	}{{"rows", r.Rows, want.rows}, {"slots", r.Slots, want.slots}, {"starts", r.Starts, want.starts}} {
		if got := s.getInts(l.t); !slices.Equal(got, l.want) {
			s.Errorf("%s: %s are %v; want %v", name, l.name, got[:min(len(got), 40)], l.want[:min(len(l.want), 40)])
		}
	}
}

// Sizes of routings: rows, experts of a row, experts.
var routings = [][3]int{{1, 1, 1}, {1, 1, 16}, {3, 2, 2}, {17, 2, 8}, {40, 1, 128}, {5, 3, 7}, {300, 1, 16}, {70, 4, 33}, {9, 8, 160}, {2, 1, 1024}, {1100, 2, 5}}

func testRoute(s *suite) {
	for _, z := range routings {
		for _, g := range []tensor.Gating{tensor.Sigmoid, tensor.Softmax} {
			name := fmt.Sprintf("%v gating %d", z, g)
			n, k, experts := z[0], z[1], z[2]
			logits := s.normal(n * experts)
			for i := range logits {
				logits[i] = math.Round(3*logits[i]) / 4
			}
			r := s.routing(n, k, experts, g)
			for range 2 { // over what another one left
				s.b.Route(r, s.put(s.normal(n*experts), n, experts))
				s.b.Route(r, s.put(logits, n, experts))
			}
			want := refRoute(logits, n, k, experts, g)
			s.checkRoute(name, r, want)
			s.check(name, r.Gates, want.gates, F32)

			dg, dz := s.normal(n*k), s.garbage(n, experts)
			s.b.RouteGrad(dz, s.put(dg, n*k), r)
			grad := make([]float64, n*experts)
			for t := range n {
				dot := 0.0
				for _, at := range want.slots[t*k:][:k] {
					dot += want.gates[at] * dg[at]
				}
				for j, at := range want.slots[t*k:][:k] {
					v := want.gates[at]
					d := v * (1 - v) * dg[at]
					if g == tensor.Softmax {
						d = v * (dg[at] - dot)
					}
					grad[t*experts+want.chosen[t*k+j]] = d
				}
			}
			s.check(name+" gradient", dz, grad, Tolerance{Abs: 2e-6, Rel: 2e-5})
		}
	}
	s.routeGradient()
	s.routeEdges()
}

// routeGradient holds the gradient to finite differences where no choice changes.
func (s *suite) routeGradient() {
	const n, k, experts = 3, 2, 5
	z, dg := s.normal(n*experts), s.normal(n*k)
	for _, g := range []tensor.Gating{tensor.Sigmoid, tensor.Softmax} {
		r, dz := s.routing(n, k, experts, g), s.garbage(n, experts)
		s.b.Route(r, s.put(z, n, experts))
		s.b.RouteGrad(dz, s.put(dg, n*k), r)
		s.check("finite differences", dz, numericGrad(z, func() float64 { return inner(refRoute(z, n, k, experts, g).gates, dg) }), F32Grad)
	}
}

// A row with a NaN has NaN gates and experts all the same; infinite logits are numbers.
func (s *suite) routeEdges() {
	inf, nan := math.Inf(1), math.NaN()
	z := []float64{
		1, nan, 3, 0,
		-inf, -inf, -inf, -inf,
		inf, 1, inf, 2,
		0, math.Copysign(0, -1), 0, -1,
		-inf, 7, -inf, -200,
	}
	for _, g := range []tensor.Gating{tensor.Sigmoid, tensor.Softmax} {
		r := s.routing(5, 2, 4, g)
		s.b.Route(r, s.put(z, 5, 4))
		want := refRoute(z, 5, 2, 4, g)
		s.checkRoute("edges", r, want)
		for i, got := range s.get(r.Gates) {
			if w := want.gates[i]; math.IsNaN(w) != math.IsNaN(float64(got)) || math.Abs(float64(got)-w) > 1e-6 {
				s.Errorf("edges, gating %d: gate %d is %v; want %v", g, i, got, w)
			}
		}
	}
}

func testDispatch(s *suite) {
	for _, z := range routings {
		for _, cols := range []int{1, 24, 67} {
			n, k := z[0], z[1]
			r, ref := s.routed(n, k, z[2], tensor.Sigmoid)
			name := fmt.Sprintf("%v, %d columns", z, cols)
			x, rows, add := s.normal(n*cols), s.normal(n*k*cols), s.normal(n*cols)
			for _, gated := range []bool{false, true} {
				gate := func(at int32) float64 {
					if gated {
						return ref.gates[at]
					}
					return 1
				}
				there, back := make([]float64, n*k*cols), make([]float64, n*cols)
				for at, t := range ref.rows {
					for c := range cols {
						there[at*cols+c] = gate(int32(at)) * x[int(t)*cols+c]
					}
				}
				for i, at := range ref.slots {
					for c := range cols {
						back[i/k*cols+c] += gate(at) * rows[int(at)*cols+c]
					}
				}
				d := s.garbage(n*k, cols)
				s.b.Dispatch(d, s.put(x, n, cols), r, gated)
				s.check(name+", there", d, there, F32)
				d = s.garbage(n, cols)
				s.b.Combine(d, s.put(rows, n*k, cols), nil, r, gated)
				s.check(name+", back", d, back, F32)
				for i, v := range add {
					back[i] += v
				}
				d = s.put(add, n, cols)
				s.b.Combine(d, s.put(rows, n*k, cols), d, r, gated)
				s.check(name+", back and added", d, back, F32)
			}
			dots := make([]float64, n*k)
			for at, t := range ref.rows {
				dots[at] = inner(rows[at*cols:][:cols], x[int(t)*cols:][:cols])
			}
			d := s.garbage(n * k)
			s.b.GateGrad(d, s.put(rows, n*k, cols), s.put(x, n, cols), r)
			s.check(name+", gates", d, dots, Tolerance{Abs: 2e-6, Rel: 1e-5})
		}
	}
}

// refExperts is what ExpertMatMul computes.
func refExperts(c, a, w []float64, ref route, height, width int, o tensor.MatMul) (y []float64) {
	in, out := height, width
	if o.TransB {
		in, out = width, height
	}
	for e := range ref.experts {
		lo, hi := int(ref.starts[e]), int(ref.starts[e+1])
		var part []float64
		if c != nil {
			part = c[lo*out : hi*out]
		}
		y = append(y, refMatMul(part, a[lo*in:hi*in], w[e*height*width:][:height*width], hi-lo, out, in, o)...)
	}
	return y
}

func testExpertMatMul(s *suite) {
	for _, z := range [][5]int{ // rows, experts of a row, experts, height, width
		{1, 1, 3, 8, 32}, {3, 2, 4, 35, 96}, {40, 1, 4, 64, 64}, {150, 2, 3, 48, 160}, {90, 2, 16, 33, 32}, {9, 3, 5, 1, 32},
	} {
		for _, dt := range []tensor.DType{tensor.F32, tensor.BF16, tensor.Q4_0, tensor.Q8_0} {
			for _, precision := range []tensor.DType{tensor.F32, tensor.BF16} {
				s.expertMatMul(z, dt, precision)
			}
		}
	}
	for _, dt := range weightTypes {
		s.expertMatMul([5]int{6, 2, 3, 40, 256}, dt, tensor.F32)
		s.expertMatMul([5]int{80, 2, 3, 40, 256}, dt, tensor.BF16)
	}
	for _, z := range [][5]int{{1, 1, 3, 8, 5}, {40, 2, 4, 33, 40}, {150, 1, 3, 130, 72}} {
		n, k, experts, out, in := z[0], z[1], z[2], z[3], z[4]
		r, ref := s.routed(n, k, experts, tensor.Softmax)
		dw, dy, x := s.normal(experts*out*in), s.normal(n*k*out), s.normal(n*k*in)
		d := s.put(dw, experts*out, in)
		s.b.ExpertOuter(d, s.put(dy, n*k, out), s.put(x, n*k, in), r)
		for e := range experts {
			lo, hi := int(ref.starts[e]), int(ref.starts[e+1])
			copy(dw[e*out*in:], refMatMul(dw[e*out*in:][:out*in], dy[lo*out:hi*out], x[lo*in:hi*in], out, in, hi-lo, tensor.MatMul{TransA: true, Alpha: 1, Beta: 1}))
		}
		s.check(fmt.Sprintf("outer %v", z), d, dw, F32)
	}
}

func (s *suite) expertMatMul(z [5]int, dt, precision tensor.DType) {
	n, k, experts, height, width := z[0], z[1], z[2], z[3], z[4]
	r, ref := s.routed(n, k, experts, tensor.Softmax)
	w := s.load(dt, s.stored(dt, experts*height, width), experts*height, width)
	x, tol := s.expanded(w), F32
	s.b.Precision(w, precision)
	if precision == tensor.BF16 {
		roundAll(x)
		if dt.Quantized() {
			tol = BF16 // codes may be rounded instead
		}
	}
	for _, o := range []tensor.MatMul{
		{TransB: true, Alpha: 1}, {TransB: true, Alpha: 0.5, Uniform: true}, {Alpha: 1, Uniform: true}, {Alpha: -2},
		{Alpha: 1, Beta: 1}, {TransB: true, Alpha: 1, Beta: 0.5},
	} {
		in, out := height, width
		if o.TransB {
			in, out = width, height
		}
		a, c := s.normal(n*k*in), s.normal(n*k*out)
		d := s.garbage(n*k, out)
		if o.Beta != 0 {
			d = s.put(c, n*k, out)
		}
		s.b.ExpertMatMul(d, s.put(a, n*k, in), w, r, o)
		if precision == tensor.BF16 {
			roundAll(a)
		}
		s.check(fmt.Sprintf("%v %s in %s %+v", z, dt, precision, o), d, refExperts(c, a, x, ref, height, width, o), tol)
	}
}

// Rows of a batch are computed as if they were alone: all of it with few rows, the
// products with Uniform among many.
func testExpertsTogether(s *suite) {
	const k, experts, out, in = 2, 6, 40, 256
	for _, dt := range weightTypes {
		w := s.load(dt, s.stored(dt, experts*out, in), experts*out, in)
		router := s.put(s.normal(experts*in), experts, in)
		s.alone("experts of "+dt.String(), in, out, func(dst, x *tensor.Tensor) { s.mixture(dst, x, router, w, k, tensor.MatMul{TransB: true, Alpha: 1}) })
		for _, precision := range []tensor.DType{tensor.F32, tensor.BF16} {
			s.b.Precision(w, precision)
			const many = 90
			o := tensor.MatMul{TransB: true, Alpha: 1, Uniform: true}
			x, all, some := s.put(s.normal(many*in), many, in), s.garbage(many, out), s.garbage(3, out)
			s.mixture(all, x, router, w, k, o)
			s.mixture(some, s.b.View(x, 0, 3, in), router, w, k, o)
			s.same(fmt.Sprintf("%s in %s", dt, precision), s.get(some), s.get(all)[:3*out])
		}
	}
}

// mixture sets dst to what the experts make of x.
func (s *suite) mixture(dst, x, router, w *tensor.Tensor, k int, o tensor.MatMul) {
	n, experts, in := x.Rows(), router.Rows(), x.Cols()
	z, r := s.garbage(n, experts), s.routing(n, k, experts, tensor.Softmax)
	s.b.MatMul(z, x, router, tensor.MatMul{TransB: true, Alpha: 1, Uniform: o.Uniform})
	s.b.Route(r, z)
	rows, y := s.garbage(n*k, in), s.garbage(n*k, dst.Cols())
	s.b.Dispatch(rows, x, r, true)
	s.b.ExpertMatMul(y, rows, w, r, o)
	s.b.Combine(dst, y, nil, r, false)
}

func testHalfExperts(s *suite) {
	if !tensor.Halves(s.b) {
		s.Skip("activations of this backend are F32")
	}
	for _, n := range []int{1, 5, 40, 210} {
		for _, precision := range []tensor.DType{tensor.F32, tensor.BF16} {
			for _, dt := range []tensor.DType{tensor.F32, tensor.BF16, tensor.Q4_0} {
				s.halfExperts(n, dt, precision)
			}
		}
	}
}

func (s *suite) halfExperts(n int, dt, precision tensor.DType) {
	const k, experts, out, in = 2, 5, 48, 64
	s.halves(fmt.Sprintf("%d rows, %s in %s", n, dt, precision), oneRounding, func(a *activations) {
		w := a.load(dt, a.stored(dt, experts*out, in), experts*out, in)
		a.b.Precision(w, precision)
		r, _ := a.routed(n, k, experts, tensor.Sigmoid)
		x, rows, y, dx := a.act(a.normal(n*in), n, in), a.out(n*k, in), a.out(n*k, out), a.out(n*k, in)
		a.b.Dispatch(rows, x, r, true)
		a.keep("dispatched", rows)
		from := a.act(a.normal(n*k*in), n*k, in)
		a.b.ExpertMatMul(y, from, w, r, tensor.MatMul{TransB: true, Alpha: 1, Uniform: true})
		a.keep("product", y)
		dy := a.act(a.normal(n*k*out), n*k, out)
		a.b.ExpertMatMul(dx, dy, w, r, tensor.MatMul{Alpha: 1})
		a.keep("gradient", dx)
		sum := a.put(a.normal(n*k*in), n*k, in)
		a.b.ExpertMatMul(sum, dy, w, r, tensor.MatMul{Alpha: 1, Beta: 1})
		a.keep("sum", sum)
		back := a.out(n, in)
		a.b.Combine(back, from, x, r, false)
		a.keep("combined", back)
		a.b.Combine(back, from, nil, r, true)
		a.keep("combined by gates", back)
		full := a.garbage(n, in)
		a.b.Combine(full, from, nil, r, true)
		a.keep("combined in full", full)
		dg := a.garbage(n * k)
		a.b.GateGrad(dg, from, x, r)
		a.keep("gates", dg)
		a.b.GateGrad(dg, sum, x, r)
		a.keep("gates of full rows", dg)
		half := a.out(n*k, in)
		a.b.Dispatch(half, full, r, false)
		a.keep("dispatched from full", half)
		dw := a.put(a.normal(experts*out*in), experts*out, in)
		a.b.ExpertOuter(dw, dy, from, r)
		a.keep("outer", dw)
	})
}

// testBadRoutings: shapes that do not fit are bugs of the caller.
func testBadRoutings(s *suite) {
	const n, k, experts, h = 4, 2, 3, 8
	good := func() *tensor.Routing { r, _ := s.routed(n, k, experts, tensor.Sigmoid); return r }
	w, x, rows := s.put(s.normal(experts*h*h), experts*h, h), s.put(s.normal(n*h), n, h), s.garbage(n*k, h)
	zero := s.put(make([]float64, n*k*h), n*k, h)
	for name, f := range map[string]func(r *tensor.Routing){
		"no gates":          func(r *tensor.Routing) { r.Gates = nil; s.b.Dispatch(rows, x, r, false) },
		"no experts":        func(r *tensor.Routing) { r.Experts = 0; s.b.ExpertMatMul(rows, zero, w, r, tensor.MatMul{Alpha: 1}) },
		"too many experts":  func(r *tensor.Routing) { r.Experts = tensor.MostExperts + 1; s.b.Route(r, s.garbage(n, r.Experts)) },
		"other experts":     func(r *tensor.Routing) { s.b.Route(r, s.garbage(n, experts+1)) },
		"gating":            func(r *tensor.Routing) { r.Gating = 9; s.b.Route(r, s.garbage(n, experts)) },
		"more of them":      func(r *tensor.Routing) { r.Slots = s.alloc(tensor.I32, n, experts+1); s.b.Dispatch(rows, x, r, false) },
		"few starts":        func(r *tensor.Routing) { r.Starts = s.alloc(tensor.I32, experts); s.b.Dispatch(rows, x, r, false) },
		"few rows":          func(r *tensor.Routing) { r.Rows = s.alloc(tensor.I32, n); s.b.Combine(x, rows, nil, r, false) },
		"dispatched rows":   func(r *tensor.Routing) { s.b.Dispatch(x, x, r, false) },
		"combined rows":     func(r *tensor.Routing) { s.b.Combine(x, x, nil, r, false) },
		"added":             func(r *tensor.Routing) { s.b.Combine(x, rows, rows, r, false) },
		"gates":             func(r *tensor.Routing) { s.b.GateGrad(x, rows, x, r) },
		"logits' gradient":  func(r *tensor.Routing) { s.b.RouteGrad(x, r.Gates, r) },
		"a part of experts": func(r *tensor.Routing) { s.b.ExpertMatMul(rows, zero, x, r, tensor.MatMul{Alpha: 1}) },
		"rows of experts":   func(r *tensor.Routing) { s.b.ExpertMatMul(x, x, w, r, tensor.MatMul{Alpha: 1}) },
		"transposed":        func(r *tensor.Routing) { s.b.ExpertMatMul(rows, zero, w, r, tensor.MatMul{Alpha: 1, TransA: true}) },
		"outer":             func(r *tensor.Routing) { s.b.ExpertOuter(x, rows, rows, r) },
	} {
		r := good()
		panicked := func() (p bool) {
			defer func() { p = recover() != nil }()
			f(r)
			return
		}()
		if !panicked {
			s.Errorf("%s: no panic", name)
		}
	}
}
