package tensortest

import (
	"fmt"
	"math"
	"slices"

	"pipe/tensor"
	"pipe/tensor/quant"
)

func testRows(s *suite) {
	const rows, cols = 11, 64
	ids := []int32{10, 3, 3, 0, 7, 3}
	it := s.putInts(ids)
	for _, dt := range []tensor.DType{tensor.F32, tensor.BF16, tensor.Q4_1, tensor.NF4} {
		w := s.load(dt, s.stored(dt, rows, cols), rows, cols)
		x := s.expanded(w)
		y := s.garbage(len(ids), cols)
		s.b.Embed(y, w, it)
		var want []float64
		for _, id := range ids {
			want = append(want, x[int(id)*cols:int(id+1)*cols]...)
		}
		s.check("embed "+dt.String(), y, want, Exact)
		if dt == tensor.F32 {
			g := s.garbage(len(ids), cols)
			s.b.GatherRows(g, w, it)
			s.check("gather", g, want, Exact)
		}
	}
	dy, table := s.normal(len(ids)*cols), s.normal(rows*cols)
	a, b := s.put(table, rows, cols), s.put(table, rows, cols)
	s.b.EmbedGrad(a, it, s.put(dy, len(ids), cols))
	s.b.ScatterAddRows(b, s.put(dy, len(ids), cols), it)
	for i, v := range dy {
		table[int(ids[i/cols])*cols+i%cols] += v
	}
	s.check("embed gradient", a, table, F32)
	s.check("scatter and add", b, table, F32)
	s.scatterRows(ids, rows, cols)
}

// scatterRows writes rows over others, some of them twice.
func (s *suite) scatterRows(ids []int32, rows, width int) {
	for _, cols := range []int{width, 7, 96} {
		x, table := s.normal(len(ids)*cols), s.normal(rows*cols)
		rounded := s.alloc(tensor.BF16, rows, cols)
		s.b.ScatterRows(rounded, s.put(table, rows, cols), s.putInts([]int32{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10}))
		plain, from, it := s.put(table, rows, cols), s.put(x, len(ids), cols), s.putInts(ids)
		s.b.ScatterRows(plain, from, it)
		s.b.ScatterRows(rounded, from, it)
		for i, v := range x {
			table[int(ids[i/cols])*cols+i%cols] = v
		}
		s.check("scatter", plain, table, Exact)
		for i, v := range table {
			table[i] = float64(quant.FromBF16(quant.ToBF16(float32(v))))
		}
		expanded := s.garbage(rows, cols)
		s.b.Dequantize(expanded, rounded)
		s.check("scatter in bfloat16", expanded, table, Exact)
	}
}

func testRMSNorm(s *suite) {
	for _, z := range [][2]int{{1, 1}, {3, 7}, {40, 24}, {5, 577}} {
		rows, cols := z[0], z[1]
		x, w, dy, dw := s.normal(rows*cols), s.normal(cols), s.normal(rows*cols), s.normal(cols)
		const eps = 1e-5
		y, r := refRMSNorm(x, w, float64(float32(eps)))
		d, rt, xt, wt := s.garbage(rows, cols), s.garbage(rows), s.put(x, rows, cols), s.put(w, cols)
		s.b.RMSNorm(d, rt, xt, wt, eps)
		s.check("rmsnorm", d, y, F32)
		s.check("rstd", rt, r, F32)
		half := s.normal(rows * cols)
		rest, sum := make([]float64, rows*cols), s.put(half, rows, cols)
		for i := range rest {
			rest[i] = float64(float32(x[i] - half[i]))
			x[i] = float64(float32(half[i]) + float32(rest[i]))
		}
		y, r = refRMSNorm(x, w, float64(float32(eps)))
		s.b.AddRMSNorm(d, rt, sum, sum, s.put(rest, rows, cols), wt, eps)
		s.check("sum", sum, x, Exact)
		s.check("rmsnorm of a sum", d, y, F32)
		s.check("rstd of a sum", rt, r, F32)
		s.b.RMSNorm(d, rt, s.put(x, rows, cols), wt, eps)
		s.b.Copy(xt, sum)
		if rows*cols > 1000 {
			continue
		}
		loss := func() float64 { y, _ := refRMSNorm(x, w, float64(float32(eps))); return inner(dy, y) }
		dx, gw := numericGrad(x, loss), numericGrad(w, loss)
		for i := range gw {
			gw[i] += dw[i]
		}
		dyt, dwt := s.put(dy, rows, cols), s.put(dw, cols)
		out := s.garbage(rows, cols)
		s.b.RMSNormGrad(out, nil, xt, wt, rt, dyt, nil)
		s.check("dx without dw", out, dx, F32Grad)
		other := s.normal(rows * cols)
		s.b.RMSNormGrad(out, nil, xt, wt, rt, dyt, s.put(other, rows, cols))
		for i := range other {
			other[i] += dx[i]
		}
		s.check("dx and another", out, other, F32Grad)
		s.b.RMSNormGrad(dyt, dwt, xt, wt, rt, dyt, nil)
		s.check("dx over dy", dyt, dx, F32Grad)
		s.check("dw", dwt, gw, F32Grad)
	}
}

func testRope(s *suite) {
	for _, z := range [][3]int{{1, 1, 2}, {5, 3, 6}, {9, 2, 64}} { // tokens, heads, width of a head
		tokens, width := z[0], z[1]*z[2]
		pos, inv := make([]int32, tokens), make([]float64, z[2]/2)
		for t := range pos {
			pos[t] = int32(t * t * 37)
		}
		for i := range inv {
			inv[i] = float64(float32(1 / float64(1+i*i)))
		}
		x := s.normal(tokens * width)
		xt, pt, it := s.put(x, tokens, width), s.putInts(pos), s.put(inv, len(inv))
		s.b.Rope(xt, pt, it, false)
		s.check("rope", xt, refRope(x, pos, inv, width, 1), F32)
		s.b.Rope(xt, pt, it, true)
		s.check("and back", xt, x, F32)
		pos[0]++ // no stale angles
		s.b.UploadInts(pt, pos)
		s.b.Rope(xt, pt, it, true)
		s.check("other positions", xt, refRope(x, pos, inv, width, -1), F32)
	}
}

func testSwiGLU(s *suite) {
	for _, n := range []int{1, 7, 8, 61} {
		g, u, dy := s.normal(n), s.normal(n), s.normal(n)
		for i := range g {
			g[i] = float64(float32(6 * g[i]))
		}
		gt, ut, dt, y := s.put(g, n), s.put(u, n), s.put(dy, n), s.garbage(n)
		s.b.SwiGLU(y, gt, ut)
		s.check("swiglu", y, refSwiGLU(g, u), F32)
		loss := func() float64 { return inner(dy, refSwiGLU(g, u)) }
		dg, du := numericGrad(g, loss), numericGrad(u, loss)
		s.b.SwiGLUGrad(gt, ut, gt, ut, dt)
		s.check("dgate over gate", gt, dg, F32Grad)
		s.check("dup over up", ut, du, F32Grad)
	}
}

// attentionCases are packed examples, decoding with a cache, and both; sizes
// cross the blocks of the implementations.
var attentionCases = []struct {
	nk int
	o  tensor.Attention
}{
	{1, tensor.Attention{Heads: 1, KVHeads: 1, HeadDim: 1, Q: []int32{0, 1}, K: []int32{0}, KLen: []int32{1}}},
	{12, tensor.Attention{Heads: 3, KVHeads: 1, HeadDim: 5, Q: []int32{0, 7, 7, 12}, K: []int32{0, 7, 7}, KLen: []int32{7, 0, 5}}},
	{40, tensor.Attention{Heads: 4, KVHeads: 2, HeadDim: 24, Q: []int32{0, 9, 10, 12}, K: []int32{20, 3, 33}, KLen: []int32{20, 17, 6}}},
	{700, tensor.Attention{Heads: 4, KVHeads: 2, HeadDim: 16, Q: []int32{0, 1, 2}, K: []int32{0, 601}, KLen: []int32{601, 99}}},
	{560, tensor.Attention{Heads: 10, KVHeads: 2, HeadDim: 80, Q: []int32{0, 1, 4, 5}, K: []int32{0, 3, 558}, KLen: []int32{523, 7, 2}}},
	{331, tensor.Attention{Heads: 2, KVHeads: 1, HeadDim: 18, Q: []int32{0, 230, 240}, K: []int32{0, 230}, KLen: []int32{230, 101}}},
}

func testAttention(s *suite) {
	for i, c := range attentionCases {
		s.attention(fmt.Sprintf("case %d", i), c.o, c.nk)
	}
}

func (s *suite) attention(name string, o tensor.Attention, nk int) {
	s.Helper()
	nq := int(o.Q[len(o.Q)-1])
	hq, hk := o.Heads*o.HeadDim, o.KVHeads*o.HeadDim
	q, k, v := s.normal(nq*hq), s.normal(nk*hk), s.normal(nk*hk)
	for _, dt := range []tensor.DType{tensor.F32, tensor.BF16} {
		kt, vt := s.rows(dt, k, nk, hk), s.rows(dt, v, nk, hk)
		out, lse := refAttention(q, k, v, o)
		y, l := s.garbage(nq, hq), s.garbage(nq, o.Heads)
		s.b.Attention(y, l, s.put(q, nq, hq), kt, vt, o)
		s.check(fmt.Sprintf("%s: output of %s", name, dt), y, out, F32)
		s.check(fmt.Sprintf("%s: lse of %s", name, dt), l, lse, F32)
	}
}

// rows returns x as rows of keys or values, to which it is rounded.
func (s *suite) rows(dt tensor.DType, x []float64, n, cols int) *tensor.Tensor {
	s.Helper()
	if dt == tensor.F32 {
		return s.put(x, n, cols)
	}
	to, at := s.alloc(dt, n, cols), make([]int32, n)
	for i := range at {
		at[i] = int32(i)
	}
	s.b.ScatterRows(to, s.put(x, n, cols), s.putInts(at))
	copy(x, s.expanded(to))
	return to
}

func (s *suite) attentionGrad(name string, o tensor.Attention, nk int) {
	s.Helper()
	nq := int(o.Q[len(o.Q)-1])
	hq, hk := o.Heads*o.HeadDim, o.KVHeads*o.HeadDim
	q, k, v, dy := s.normal(nq*hq), s.normal(nk*hk), s.normal(nk*hk), s.normal(nq*hq)
	dq, dk, dv := refAttentionGrad(q, k, v, dy, o)
	if nq*hq < 500 && nk < 50 {
		loss := func() float64 { y, _ := refAttention(q, k, v, o); return inner(dy, y) }
		numeric := Tolerance{Abs: 1e-8, Rel: 1e-7}
		Close(s.T, name+": reference dq", dq, numericGrad(q, loss), numeric)
		Close(s.T, name+": reference dk", dk, numericGrad(k, loss), numeric)
		Close(s.T, name+": reference dv", dv, numericGrad(v, loss), numeric)
	}
	qt, kt, vt := s.put(q, nq, hq), s.put(k, nk, hk), s.put(v, nk, hk)
	y, l := s.garbage(nq, hq), s.garbage(nq, o.Heads)
	s.b.Attention(y, l, qt, kt, vt, o)
	gq, gk, gv := s.garbage(nq, hq), s.garbage(nk, hk), s.garbage(nk, hk)
	s.b.AttentionGrad(gq, gk, gv, qt, kt, vt, y, l, s.put(dy, nq, hq), o)
	s.check(name+": dq", gq, dq, F32Grad)
	s.check(name+": dk", gk, dk, F32Grad)
	s.check(name+": dv", gv, dv, F32Grad)
}

func testAttentionGrad(s *suite) {
	for i, c := range attentionCases {
		s.attentionGrad(fmt.Sprintf("case %d", i), c.o, c.nk)
	}
}

// Two continuations of one prompt read the same keys.
func testSharedKeys(s *suite) {
	o := tensor.Attention{Heads: 2, KVHeads: 1, HeadDim: 8, Q: []int32{0, 5, 11}, K: []int32{0, 2}, KLen: []int32{9, 140}}
	s.attention("shared", o, 150)
	s.attentionGrad("shared", o, 150)
}

// Rows beyond one chunk of rows, and words beyond one chunk of words, of the
// implementations.
var headSizes = [][3]int{{1, 5, 3}, {7, 53, 24}, {3, 4500, 5}, {530, 40, 4}} // rows, words, width

func testLogProb(s *suite) {
	for _, z := range headSizes {
		n, words, h := z[0], z[1], z[2]
		x, w, target := s.normal(n*h), s.normal(words*h), make([]int32, n)
		for t := range target {
			target[t] = int32(s.rng.IntN(words))
		}
		target[0] = int32(words - 1)
		logp, lse, best := refLogProb(x, w, target, h)
		xt, wt, gt := s.put(x, n, h), s.load(tensor.F32, bytesOf(float32s(w)), words, h), s.putInts(target)
		lp, ls, am := s.garbage(n), s.garbage(n), s.alloc(tensor.I32, n)
		s.b.LogProb(lp, ls, am, nil, xt, wt, gt)
		s.check("logp", lp, logp, F32)
		s.check("lse", ls, lse, F32)
		if got := s.getInts(am); For(s.b, F32) == F32 && !slices.Equal(got, best) {
			s.Errorf("%v: argmax %v; want %v", z, got[:min(n, 8)], best[:min(n, 8)])
		}
		ones := make([]float64, n)
		for t := range ones {
			ones[t] = 1
		}
		dx, _ := refLogProbGrad(x, w, ones, target, h)
		d := s.garbage(n, h)
		s.b.LogProb(lp, ls, nil, d, xt, wt, gt)
		s.check("logp without argmax", lp, logp, F32)
		s.check("gradient of each logp", d, dx, F32Grad)
	}
	// Quantised weights, a tie that the first word wins, and large logits.
	lp, ls, am := s.garbage(3), s.garbage(3), s.alloc(tensor.I32, 3)
	for _, dt := range []tensor.DType{tensor.Q8_0, tensor.NF4} {
		w := s.load(dt, s.stored(dt, 70, 64), 70, 64)
		x, target := s.normal(3*64), []int32{0, 69, 3}
		logp, _, _ := refLogProb(x, s.expanded(w), target, 64)
		s.b.LogProb(lp, ls, am, nil, s.put(x, 3, 64), w, s.putInts(target))
		s.check(dt.String(), lp, logp, F32)
	}
	s.b.LogProb(s.b.View(lp, 0, 1), s.b.View(ls, 0, 1), s.b.View(am, 0, 1), nil, s.put([]float64{1}, 1, 1), s.put([]float64{-1e4, 1e4, 0, 1e4}, 4, 1), s.putInts([]int32{0}))
	if got := s.get(lp)[0]; math.Abs(float64(got)+20000.693) > 0.01 {
		s.Errorf("logp of large logits is %v; want -20000.693", got)
	}
	if got := s.getInts(am)[0]; got != 1 {
		s.Errorf("argmax of a tie is %d; want 1", got)
	}
}

func testLogProbGrad(s *suite) {
	for _, z := range headSizes {
		n, words, h := z[0], z[1], z[2]
		x, w, dy, dw, target := s.normal(n*h), s.normal(words*h), s.normal(n), s.normal(words*h), make([]int32, n)
		for t := range target {
			target[t] = int32(s.rng.IntN(words))
		}
		dx, gw := refLogProbGrad(x, w, dy, target, h)
		if words*h < 2000 && n < 100 {
			loss := func() float64 { y, _, _ := refLogProb(x, w, target, h); return inner(dy, y) }
			numeric := Tolerance{Abs: 1e-8, Rel: 1e-7}
			Close(s.T, "reference dx", dx, numericGrad(x, loss), numeric)
			Close(s.T, "reference dw", gw, numericGrad(w, loss), numeric)
		}
		for i := range gw {
			gw[i] += dw[i]
		}
		xt, wt, gt, dwt := s.put(x, n, h), s.put(w, words, h), s.putInts(target), s.put(dw, words, h)
		lp, ls, d := s.garbage(n), s.garbage(n), s.garbage(n, h)
		s.b.LogProb(lp, ls, nil, nil, xt, wt, gt)
		s.b.LogProbGrad(d, nil, xt, wt, gt, ls, s.put(dy, n))
		s.check("dx without dw", d, dx, F32Grad)
		s.b.LogProbGrad(d, dwt, xt, wt, gt, ls, s.put(dy, n))
		s.check("dx", d, dx, F32Grad)
		s.check("dw", dwt, gw, F32Grad)
	}
}
