package tensortest

import (
	"math"
	"strings"

	"pipe/tensor"
)

// No tokens: nothing is written, nothing goes wrong.
func testEmpty(s *suite) {
	e, z, i := s.alloc(tensor.F32, 0, 8), s.alloc(tensor.F32, 0), s.alloc(tensor.I32, 0)
	w, v := s.put(s.normal(64), 8, 8), s.put(s.normal(8), 8)
	o := tensor.Attention{Heads: 2, KVHeads: 2, HeadDim: 4, Q: []int32{0}}
	s.b.MatMul(e, e, w, tensor.MatMul{TransB: true, Alpha: 1})
	s.b.MatMul(e, e, w, tensor.MatMul{Alpha: 1, Beta: 0.5})
	s.b.Add(e, e, e, 1)
	s.b.AddRow(e, v)
	s.b.ScaleCols(e, e, v)
	s.b.ScaleRows(e, e, z)
	s.b.Dropout(e, e, 0.5, 1)
	s.b.Project(e, &tensor.Projection{SwiGLU: e, Products: []tensor.Product{{Dst: e, W: w, MatMul: tensor.MatMul{TransB: true, Alpha: 1}}, {Dst: e, W: w, MatMul: tensor.MatMul{TransB: true, Alpha: 1}}}})
	s.b.Embed(e, w, i)
	s.b.GatherRows(e, w, i)
	s.b.RMSNorm(e, z, e, v, 1e-5)
	s.b.AddRMSNorm(e, z, e, e, e, v, 1e-5)
	s.b.Rope(e, i, s.put([]float64{1, 0.5}, 2), false)
	s.b.Attention(e, s.alloc(tensor.F32, 0, 2), e, e, e, o)
	s.b.AttentionGrad(e, e, e, e, e, e, e, s.alloc(tensor.F32, 0, 2), e, o)
	s.b.SwiGLU(e, e, e)
	s.b.SwiGLUGrad(e, e, e, e, e)
	s.b.LogProb(z, z, i, nil, e, w, i)
	s.b.Zero(e)
	s.b.Copy(e, e)

	// Gradients of nothing are nothing.
	g, h, one := s.put(s.normal(64), 8, 8), s.put(s.normal(8), 8), s.put([]float64{3}, 1)
	before, beforeRow := s.get(g), s.get(h)
	s.b.MatMul(g, e, e, tensor.MatMul{TransA: true, Alpha: 1, Beta: 1})
	s.b.ColSum(h, e)
	s.b.ScaleColsGrad(e, h, e, e, v, v)
	s.b.DoRAGrad(tensor.DoRAGrad{DZ: e, DM: h, DY: e, Y: e, Ratio: v, M: v, DU: e, DV: g, U: e, V: g, Scale: 1})
	s.b.EmbedGrad(g, i, e)
	s.b.ScatterRows(g, e, i)
	s.b.ScatterAddRows(g, e, i)
	s.b.RMSNormGrad(e, h, e, v, z, e, e)
	s.b.LogProbGrad(e, g, e, w, i, z, z)
	s.b.SumSquares(one, z)
	s.adamw(z, z, z, z, tensor.AdamW{Step: 1})
	s.adamw8bit(z, z, s.moments8(0), tensor.AdamW{Step: 1})
	s.b.ZeroAll(nil)
	s.b.ZeroAll([]*tensor.Tensor{z, e})
	s.b.SumSquares(one)
	s.b.SumSquares(one, z, e)
	s.b.AdamW(nil, tensor.AdamW{Step: 1})
	s.b.AdamW8bit(nil, tensor.AdamW{Step: 1})
	s.same("matrix gradient", s.get(g), before)
	s.same("vector gradient", s.get(h), beforeRow)
	s.same("sum", s.get(one), []float32{3})
}

// dst may be an operand where the contract says so.
func testAliasing(s *suite) {
	const rows, cols = 9, 13
	x, y, v := s.normal(rows*cols), s.normal(rows*cols), s.normal(cols)
	a, b, c := s.put(x, rows, cols), s.put(y, rows, cols), s.garbage(rows, cols)
	s.b.Add(c, a, b, 2)
	want := s.get(c)
	s.b.Add(a, a, b, 2)
	s.same("add over a", s.get(a), want)
	s.b.Upload(a, float32s(x))
	s.b.Add(b, a, b, 2)
	s.same("add over b", s.get(b), want)
	vt := s.put(v, cols)
	s.b.ScaleCols(c, a, vt)
	want = s.get(c)
	s.b.ScaleCols(a, a, vt)
	s.same("scale columns over x", s.get(a), want)
}

func (s *suite) isNaN(name string, v float32) {
	s.Helper()
	if v == v {
		s.Errorf("%s is %v; must be NaN", name, v)
	}
}

func testNonFinite(s *suite) {
	nan, inf := math.NaN(), math.Inf(1)
	for _, m := range []int{1, 20} { // both kinds of product
		const n, k = 20, 9
		a := s.normal(m * k)
		a[0] = nan
		y := s.garbage(m, n)
		s.b.MatMul(y, s.put(a, m, k), s.put(s.normal(n*k), n, k), tensor.MatMul{TransB: true, Alpha: 1})
		s.isNaN("matmul", s.get(y)[n-1])
		a[0] = inf
		ones := make([]float64, n*k)
		for i := range ones {
			ones[i] = 1
		}
		s.b.MatMul(y, s.put(a, m, k), s.put(ones, n, k), tensor.MatMul{TransB: true, Alpha: 1})
		if v := s.get(y)[0]; !math.IsInf(float64(v), 1) {
			s.Errorf("matmul with infinity is %v", v)
		}
	}
	y, r := s.garbage(1, 9), s.garbage(1)
	x := s.normal(9)
	x[8] = nan
	s.b.RMSNorm(y, r, s.put(x, 1, 9), s.put(s.normal(9), 9), 1e-5)
	s.isNaN("rmsnorm", s.get(y)[0])
	g := s.put([]float64{nan, -200, 200, -inf, 1e30, -1e30, 0, 3, nan}, 9)
	u := s.put([]float64{1, 1, 1, 0, 1, 1, nan, inf, 1}, 9)
	d := s.garbage(9)
	s.b.SwiGLU(d, g, u)
	out := s.get(d)
	s.isNaN("swiglu of NaN", out[0])
	s.isNaN("swiglu of NaN in the last lane", out[8])
	s.isNaN("swiglu of a NaN factor", out[6])
	if math.Abs(float64(out[1])) > 1e-30 || out[2] != 200 || out[4] != 1e30 || out[5] != 0 || !math.IsInf(float64(out[7]), 1) {
		s.Errorf("swiglu at the extremes: %v", out)
	}
}

func testNonFiniteHeads(s *suite) {
	nan, inf := math.NaN(), math.Inf(1)
	for _, bad := range []float64{nan, inf} {
		w := s.normal(30 * 3)
		w[88] = bad
		lp, ls := s.garbage(1), s.garbage(1)
		s.b.LogProb(lp, ls, nil, nil, s.put([]float64{0, 1, 0}, 1, 3), s.put(w, 30, 3), s.putInts([]int32{2}))
		if v := s.get(lp)[0]; v == v && !math.IsInf(float64(v), -1) {
			s.Errorf("logp beside a logit of %v is %v", bad, v)
		}
	}
	o := tensor.Attention{Heads: 1, KVHeads: 1, HeadDim: 2, Q: []int32{0, 5}, K: []int32{0}, KLen: []int32{5}}
	k := s.normal(10)
	k[6] = nan // the fourth key
	q, v, at, l := s.put(s.normal(10), 5, 2), s.put(s.normal(10), 5, 2), s.garbage(5, 2), s.garbage(5, 1)
	s.b.Attention(at, l, q, s.put(k, 5, 2), v, o)
	got := s.get(at)
	s.isNaN("attention that sees NaN", got[6])
	if got[4] != got[4] {
		s.Error("attention sees a later key")
	}
	sum := s.put([]float64{0}, 1)
	s.b.SumSquares(sum, s.put([]float64{1, nan}, 2))
	s.isNaN("sum of squares", s.get(sum)[0])
}

func testNegativeZero(s *suite) {
	minus := math.Copysign(0, -1)
	x := s.put([]float64{minus, minus, 0}, 3)
	y := s.garbage(3)
	s.b.Copy(y, x)
	s.b.Add(y, y, s.put([]float64{minus, 0, 0}, 3), 1)
	s.same("-0 + -0, -0 + 0", s.get(y), []float32{float32(minus), 0, 0})
	s.b.ScaleCols(s.b.View(y, 0, 1, 3), s.b.View(x, 0, 1, 3), s.put([]float64{1, -1, -1}, 3))
	s.same("products", s.get(y), []float32{float32(minus), 0, float32(minus)})
}

// A wrong shape or type panics before anything is written.
func testPanics(s *suite) {
	m, sq, v, i := s.put(s.normal(12), 3, 4), s.put(s.normal(9), 3, 3), s.put(s.normal(4), 4), s.putInts([]int32{0, 1, 2})
	w := s.load(tensor.F32, bytesOf(make([]float32, 12)), 3, 4)
	d, l := s.put(make([]float64, 12), 3, 4), s.put(make([]float64, 3), 3)
	one := tensor.MatMul{Alpha: 1}
	o := func(q, klen int32) tensor.Attention {
		return tensor.Attention{Heads: 2, KVHeads: 2, HeadDim: 2, Q: []int32{0, q}, K: []int32{0}, KLen: []int32{klen}}
	}
	lse := s.put(make([]float64, 6), 3, 2)
	for name, f := range map[string]func(){
		"matmul inner":          func() { s.b.MatMul(d, m, m, one) },
		"matmul result":         func() { s.b.MatMul(sq, m, sq, tensor.MatMul{TransA: true, Alpha: 1}) },
		"matmul over a weight":  func() { s.b.MatMul(w, sq, m, one) },
		"matmul scale":          func() { s.b.MatMul(d, sq, m, tensor.MatMul{Alpha: 1, ColScale: l}) },
		"matmul scale and beta": func() { s.b.MatMul(d, sq, m, tensor.MatMul{Alpha: 1, Beta: 1, ColScale: v}) },
		"matmul bias":           func() { s.b.MatMul(d, sq, m, tensor.MatMul{Alpha: 1, Bias: l}) },
		"matmul rope":           func() { s.b.MatMul(d, sq, m, tensor.MatMul{Alpha: 1, Rope: &tensor.Rope{Positions: i, InvFreq: l}}) },
		"low rank gradient":     func() { s.b.LowRankGrad(sq, d, m, sq, d, 1) },
		"matmul low rank a": func() {
			s.b.MatMul(d, sq, m, tensor.MatMul{Alpha: 1, LowRank: &tensor.LowRank{U: sq, V: m, A: m}})
		},
		"gradient of project of nothing": func() { s.b.ProjectGrad(d, nil) },
		"gradient of project of other sizes": func() {
			s.b.ProjectGrad(d, []tensor.GradProduct{{DY: sq, W: m}, {DY: m, W: m}})
		},
		"gradient of project with a": func() {
			s.b.ProjectGrad(d, []tensor.GradProduct{{DY: sq, W: m, LowRank: &tensor.LowRank{U: sq, V: m, A: m}}})
		},
		"project of nothing": func() { s.b.Project(sq, &tensor.Projection{}) },
		"project and beta": func() {
			s.b.Project(sq, &tensor.Projection{Products: []tensor.Product{{Dst: d, W: m, MatMul: tensor.MatMul{Alpha: 1, Beta: 1}}}})
		},
		"swiglu of one": func() {
			s.b.Project(sq, &tensor.Projection{SwiGLU: d, Products: []tensor.Product{{Dst: d, W: m, MatMul: one}}})
		},
		"matmul update":        func() { s.b.MatMul(d, sq, m, tensor.MatMul{Alpha: 1, LowRank: &tensor.LowRank{U: sq, V: sq}}) },
		"precision":            func() { s.b.Precision(w, tensor.Q8_0) },
		"matmul of ints":       func() { s.b.MatMul(d, i, m, one) },
		"add":                  func() { s.b.Add(d, m, sq, 1) },
		"add row":              func() { s.b.AddRow(d, l) },
		"column sums":          func() { s.b.ColSum(l, m) },
		"dropout p":            func() { s.b.Dropout(d, m, 1, 1) },
		"row squares":          func() { s.b.RowSquares(v, w) },
		"dequantize":           func() { s.b.Dequantize(sq, w) },
		"embed width":          func() { s.b.Embed(sq, w, i) },
		"embed ids":            func() { s.b.Embed(d, w, l) },
		"scatter width":        func() { s.b.ScatterRows(d, sq, i) },
		"scatter over weights": func() { s.b.ScatterRows(w, m, i) },
		"rmsnorm weight":       func() { s.b.RMSNorm(d, l, m, l, 0) },
		"rope positions":       func() { s.b.Rope(m, s.putInts([]int32{1}), s.put([]float64{1}, 1), false) },
		"attention queries":    func() { s.b.Attention(d, lse, m, m, m, o(2, 3)) },
		"attention keys":       func() { s.b.Attention(d, lse, m, m, m, o(3, 4)) },
		"attention too few":    func() { s.b.Attention(d, lse, m, m, m, o(3, 2)) },
		"attention types":      func() { s.b.Attention(d, lse, m, m, s.alloc(tensor.BF16, 3, 4), o(3, 3)) },
		"swiglu":               func() { s.b.SwiGLU(d, m, sq) },
		"log prob targets":     func() { s.b.LogProb(l, l, nil, nil, m, w, s.putInts([]int32{1})) },
		"adamw":                func() { s.adamw(d, m, m, sq, tensor.AdamW{Step: 1}) },
		"adamw8bit moments":    func() { s.adamw8bit(d, m, s.moments8(3, 3), tensor.AdamW{Step: 1}) },
		"adamw8bit blocks":     func() { x := s.moments8(3, 4); x.vMax = v; s.adamw8bit(d, m, x, tensor.AdamW{Step: 1}) },
		"adamw's second": func() {
			s.b.AdamW([]tensor.AdamWParam{{W: d, G: m, M: d, V: d}, {W: l, G: l, M: l, V: v}}, tensor.AdamW{Step: 1, LR: 1})
		},
		"adamw's step":          func() { s.adamw(d, m, d, d, tensor.AdamW{}) },
		"zero of a weight":      func() { s.b.ZeroAll([]*tensor.Tensor{d, w}) },
		"sum of squares":        func() { s.b.SumSquares(l, m) },
		"sum of squares of ids": func() { s.b.SumSquares(s.b.View(d, 0, 1), m, i) },
		"upload of bytes":       func() { s.b.UploadBytes(d, make([]byte, 12)) },
		"upload":                func() { s.b.Upload(d, make([]float32, 3)) },
		"upload to a weight":    func() { s.b.Upload(w, make([]float32, 12)) },
		"view":                  func() { s.b.View(d, 8, 5) },
		"copy":                  func() { s.b.Copy(d, sq) },
		"negative size":         func() { s.b.Alloc(tensor.F32, 3, -1) },
		"part of a block":       func() { s.b.Alloc(tensor.Q4_0, 3, 33) },
		"load of too few bytes": func() { s.b.Load(tensor.F32, make([]byte, 8), 3) },
	} {
		panicked := func() (p bool) {
			defer func() { p = recover() != nil }()
			f()
			return
		}()
		if !panicked {
			s.Errorf("%s: no panic", name)
		}
	}
	s.same("the result", s.get(d), make([]float32, 12))
}

// Indices are data: a bad one is a failure that sticks, not a panic.
func testBadIndices(s *suite) {
	for name, f := range map[string]func(s *suite, x, y *tensor.Tensor, bad *tensor.Tensor){
		"embed":            func(s *suite, x, y, bad *tensor.Tensor) { s.b.Embed(y, x, bad) },
		"gather":           func(s *suite, x, y, bad *tensor.Tensor) { s.b.GatherRows(y, x, bad) },
		"scatter":          func(s *suite, x, y, bad *tensor.Tensor) { s.b.ScatterRows(x, y, bad) },
		"scatter and add":  func(s *suite, x, y, bad *tensor.Tensor) { s.b.ScatterAddRows(x, y, bad) },
		"log prob targets": func(s *suite, x, y, bad *tensor.Tensor) { l := s.garbage(2); s.b.LogProb(l, l, nil, nil, y, x, bad) },
	} {
		for _, id := range []int32{-1, 3} {
			b := s.open(s.T)
			sub := &suite{T: s.T, b: b, rng: s.rng}
			x, y := sub.put(sub.normal(12), 3, 4), sub.put(sub.normal(8), 2, 4)
			f(sub, x, y, sub.putInts([]int32{0, id}))
			sub.b.Zero(x) // a no-op by now
			if err := b.Sync(); err == nil {
				s.Errorf("%s of %d: no failure", name, id)
			} else if !strings.Contains(err.Error(), "index") {
				s.Errorf("%s of %d: %v", name, id, err)
			}
			b.Close()
		}
	}
}

func testClosed(s *suite) {
	s.failed = true
	x := s.put([]float64{1, 2}, 2)
	if err := s.b.Close(); err != nil {
		s.Fatal(err)
	}
	s.b.Add(x, x, x, 1)
	s.b.Zero(x)
	if s.b.Sync() == nil {
		s.Error("sync after close succeeds")
	}
	if _, err := s.b.Alloc(tensor.F32, 1); err == nil {
		s.Error("alloc after close succeeds")
	}
	if err := s.b.Close(); err != nil {
		s.Errorf("second close: %v", err)
	}
	if s.b.Name() == "" {
		s.Error("no name after close")
	}
}
