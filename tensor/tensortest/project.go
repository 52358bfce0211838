package tensortest

import (
	"fmt"

	"pipe/tensor"
	"pipe/tensor/quant"
)

func testProject(s *suite) {
	types := [][3]tensor.DType{{tensor.F32, tensor.F32, tensor.F32}, {tensor.BF16, tensor.BF16, tensor.BF16}, {tensor.Q4_0, tensor.Q4_1, tensor.Q8_0}, {tensor.Q4_K, tensor.F16, tensor.F32}}
	for _, dt := range types {
		for i, precision := range []tensor.DType{tensor.F32, tensor.BF16, tensor.FP8} {
			if precision == tensor.FP8 && (dt[0] == tensor.F32 || dt[0] == tensor.Q4_K || tensor.HasPrecision(s.b, precision) != nil) {
				continue
			}
			for j, m := range []int{1, 2, 9, 16, 40, 210} {
				for k, head := range []int{2, 64, 96, 128} {
					if j%2 == k%2 {
						s.project(dt, precision, m, head, i == 0 && m == 9 || m == 40)
					}
				}
			}
		}
	}
}

func testProjectGrad(s *suite) {
	types := [][]tensor.DType{
		{tensor.F32, tensor.F32, tensor.F32}, {tensor.BF16}, {tensor.BF16, tensor.BF16}, {tensor.BF16, tensor.BF16, tensor.BF16},
		{tensor.Q8_0, tensor.NF4, tensor.BF16}, {tensor.F16, tensor.F32, tensor.Q4_0},
	}
	sizes := [][4]int{ // rows, columns, terms of the products
		{5, 256, 64, 32}, {130, 320, 192, 64}, {70, 576, 72, 24}, {1, 512, 320, 96}, {40, 64, 1100, 8},
	}
	for i, dts := range types {
		for _, z := range sizes {
			for _, precision := range []tensor.DType{tensor.F32, tensor.BF16, tensor.FP8} {
				for _, half := range []bool{false, true} {
					if half && !tensor.Halves(s.b) || precision == tensor.FP8 && (dts[0] == tensor.F32 || tensor.HasPrecision(s.b, precision) != nil) {
						continue
					}
					s.projectGrad(dts, precision, z, half, i%2 == 0 || z[0] == 130)
				}
			}
		}
	}
}

func (s *suite) projectGrad(types []tensor.DType, precision tensor.DType, z [4]int, half, adapted bool) {
	s.Helper()
	m, n := z[0], z[1]
	name := fmt.Sprintf("%v in %s, %v, half %v", types, precision, z, half)
	var of []tensor.GradProduct
	exact := make([]float64, m*n)
	for i, dt := range types {
		k := z[2+min(i, 1)]
		data := s.stored(dt, k, n)
		w := s.load(dt, data, k, n)
		s.b.Precision(w, precision)
		dy := s.normal(m * k)
		roundAll(dy)
		p := tensor.GradProduct{DY: (&activations{suite: s, half: half}).act(dy, m, k), W: w}
		numbers := make([]float32, k*n)
		quant.Dequantize(numbers, dt, data)
		for j, x := range refMatMul(nil, dy, float64s(numbers), m, n, k, tensor.MatMul{Alpha: 1}) {
			exact[j] += x
		}
		if adapted && i != 1 {
			r := 3 + 8*i
			u, v := s.normal(m*r), s.normal(r*n)
			p.LowRank = &tensor.LowRank{U: s.put(u, m, r), V: s.put(v, r, n), Alpha: 0.5}
			for j, x := range refMatMul(nil, u, v, m, n, r, tensor.MatMul{Alpha: 0.5}) {
				exact[j] += x
			}
		}
		of = append(of, p)
	}
	dst, one := s.garbage(m, n), s.garbage(m, n)
	s.b.ProjectGrad(dst, of)
	if precision == tensor.F32 {
		s.check(name, dst, exact, F32)
		return
	}
	tensor.ProjectGradByMatMul(s.b, one, of)
	Close(s, name+", one by one", s.get(dst), s.get(one), Tolerance{Abs: 2e-3, Rel: 1e-4})
	if precision == tensor.BF16 {
		s.check(name, dst, exact, BF16)
	}
}

func (s *suite) project(types [3]tensor.DType, precision tensor.DType, m, head int, adapted bool) {
	s.Helper()
	const in = 256
	name := fmt.Sprintf("%v in %s, %d rows, heads of %d", types, precision, m, head)
	x, pos, inv := s.put(s.normal(m*in), m, in), make([]int32, m), s.put(s.normal(head/2), head/2)
	for t := range pos {
		pos[t] = int32(t)
	}
	rope := tensor.Rope{Positions: s.putInts(pos), InvFreq: inv}
	var one, together tensor.Projection
	for i, n := range []int{6 * head, 2 * head, 2 * head} {
		w := s.load(types[i], s.stored(types[i], n, in), n, in)
		s.b.Precision(w, precision)
		o := tensor.MatMul{TransB: true, Alpha: 1, Uniform: m > 16 && i < 3}
		if i < 2 {
			o.Rope = &rope
			o.Bias = s.put(s.normal(n), n)
		}
		if adapted {
			o.LowRank = &tensor.LowRank{U: s.put(s.normal(m*3), m, 3), V: s.put(s.normal(n*3), n, 3), TransV: true, Alpha: 1}
			o.ColScale = s.put(s.normal(n), n)
			if i != 1 { // which the product sets, as one of its own would
				a, u := s.put(s.normal(3*in), 3, in), s.garbage(m, 3)
				s.b.MatMul(u, x, a, tensor.MatMul{TransB: true, Alpha: 1, Uniform: o.Uniform})
				low := tensor.LowRank{U: u, V: o.LowRank.V, TransV: true, Alpha: 1}
				want := s.garbage(m, n)
				given := o
				given.LowRank = &low
				s.b.MatMul(want, x, w, given)
				o.LowRank.A, o.LowRank.U = a, s.garbage(m, 3)
				y := s.garbage(m, n)
				s.b.MatMul(y, x, w, o)
				s.same(name+", with what an update needs", s.get(y), s.get(want))
				s.same(name+", what an update needs", s.get(o.LowRank.U), s.get(u))
				o.LowRank.U = s.garbage(m, 3)
			}
		}
		one.Products = append(one.Products, tensor.Product{Dst: s.garbage(m, n), W: w, MatMul: o})
		together.Products = append(together.Products, tensor.Product{Dst: s.garbage(m, n), W: w, MatMul: o})
		s.b.MatMul(one.Products[i].Dst, x, w, o)
	}
	s.b.Project(x, &together)
	for i := range one.Products {
		s.same(fmt.Sprintf("%s, product %d", name, i), s.get(together.Products[i].Dst), s.get(one.Products[i].Dst))
	}
	// Products 1 and 2 as gate and up.
	gate, up := &together.Products[1], &together.Products[2]
	gate.Rope, gate.Bias = nil, nil
	s.b.MatMul(one.Products[1].Dst, x, gate.W, gate.MatMul)
	want := s.garbage(m, 2*head)
	s.b.SwiGLU(want, one.Products[1].Dst, one.Products[2].Dst)
	y := s.garbage(m, 2*head)
	s.b.Project(x, &tensor.Projection{Products: []tensor.Product{*gate, *up}, SwiGLU: y})
	s.same(name+", gate", s.get(gate.Dst), s.get(one.Products[1].Dst))
	s.same(name+", up", s.get(up.Dst), s.get(one.Products[2].Dst))
	s.same(name+", swiglu", s.get(y), s.get(want))
}
