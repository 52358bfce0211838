//go:build cuda

package main

import (
	"fmt"
	"math"

	"pipe/tensor"
	"pipe/tensor/quant"
)

// copies measures what the memory can do: the ceiling of all that moves bytes.
func (l *lab) copies() {
	l.measure("pipe", "copy on the device", func() job {
		n := l.pad / 4
		a, b := l.f32(n), l.f32(n)
		return job{bytes: 8 * float64(n), op: func(int) { l.b.Copy(b, a) }}
	})
}

// A linear is a layer with weights [out, in].
type linear struct {
	name    string
	out, in int
}

func (l *lab) linears() []linear {
	q := l.heads * l.headDim
	return []linear{{"q", q, l.hidden}, {"k", l.kv, l.hidden}, {"gate", l.ff, l.hidden}, {"down", l.hidden, l.ff}, {"head", l.vocab, l.hidden}}
}

// gemms measures the products of a layer's forward (NT) and backward pass (NN).
func (l *lab) gemms() {
	for _, x := range l.linears() {
		l.gemm("", x, tensor.BF16, tensor.BF16, false)
		l.gemm("", x, tensor.BF16, tensor.BF16, true)
	}
	gate := l.linears()[2]
	for _, dt := range []tensor.DType{tensor.NF4, tensor.Q8_0, tensor.Q4_0, tensor.Q4_K} {
		l.gemm(dt.String()+" ", gate, dt, tensor.BF16, false)
	}
	l.gemm("nf4 ", gate, tensor.NF4, tensor.BF16, true)
	q := l.linears()[0]
	l.gemm("f32 ", q, tensor.F32, tensor.F32, false)
	l.gemm("f32 ", q, tensor.F32, tensor.F32, true)
}

// tiles measures products with the ways to divide them among blocks.
func (l *lab) tiles() {
	b := l.b.(interface{ Tiles(group int) })
	for _, x := range l.linears()[:4] {
		for _, group := range []int{4, 8, 16, 32} {
			b.Tiles(group)
			kind := fmt.Sprintf("groups of %d ", group)
			l.gemm(kind, x, tensor.BF16, tensor.BF16, false)
			l.gemm(kind, x, tensor.BF16, tensor.BF16, true)
		}
	}
}

// gemm measures y = x·Wᵀ, or, when back is set, dx = dy·W.
func (l *lab) gemm(kind string, x linear, dt, precision tensor.DType, back bool) {
	way, in, out := "NT", x.in, x.out
	if back {
		way, in, out = "NN", x.out, x.in
	}
	name := fmt.Sprintf("gemm %s %s%s %dx%dx%d", way, kind, x.name, l.tokens, out, in)
	l.measure("pipe", name, func() job {
		w := several(l, dt.Bytes(x.out*x.in), func() *tensor.Tensor { return l.weight(dt, precision, x.out, x.in) })
		act := l.half
		if precision == tensor.F32 {
			act = tensor.F32
		}
		a := several(l, act.Bytes(l.tokens*in), func() *tensor.Tensor { return l.normal(act, []int{l.tokens, in}) })
		y := l.empty(act, l.tokens, out)
		last := 0
		return job{
			flops: 2 * float64(l.tokens) * float64(x.out) * float64(x.in),
			op: func(i int) {
				l.b.MatMul(y, of(a, i), of(w, i), tensor.MatMul{TransB: !back, Alpha: 1, Uniform: true})
				last = i
			},
			check: func() string {
				if precision == tensor.FP8 {
					return l.checkEight(y, of(a, last), dt, x, back)
				}
				return l.checkProduct(y, of(a, last), dt, precision, x, back)
			},
		}
	})
}

// checkProduct compares some elements of y with their sums in float64, relative
// to the norm of the terms, and returns the worst.
func (l *lab) checkProduct(y, a *tensor.Tensor, dt, precision tensor.DType, x linear, back bool) string {
	round := func(v float32) float64 {
		if precision == tensor.BF16 {
			v = quant.FromBF16(quant.ToBF16(v))
		}
		return float64(v)
	}
	worst, wrow := 0.0, make([]float32, x.in)
	exact := dt.Quantized() && y.Rows() <= tensor.RowsTogether(l.b) // the codes are multiplied, not the elements
	row := func(j int) []float32 {
		n := dt.Bytes(x.in)
		quant.Dequantize(wrow, dt, l.host[dt][j*n:(j+1)*n])
		return wrow
	}
	for _, r := range []int{0, y.Rows() / 3, y.Rows() - 1} {
		got, u := l.row(y, r), l.row(a, r)
		for c := 0; c < y.Cols(); c += max(1, y.Cols()/7) {
			sum, norm := 0.0, 0.0
			for k := range u {
				var w float64
				switch {
				case !back && k == 0:
					row(c)
					fallthrough
				case !back:
					if w = float64(wrow[k]); !exact {
						w = round(wrow[k])
					}
				default: // one element of each row
					at := k*x.in + c
					b := dt.Block()
					one := make([]float32, b)
					quant.Dequantize(one, dt, l.host[dt][dt.Bytes(at/b*b):dt.Bytes(at/b*b+b)])
					w = round(one[at%b])
				}
				t := round(u[k]) * w
				sum, norm = sum+t, norm+t*t
			}
			e := math.Abs(float64(got[c])-sum) / math.Sqrt(norm)
			if !(e <= worst) { // NaN too
				worst = e
			}
		}
	}
	return fmt.Sprintf("error %.1e", worst)
}

// row downloads a row of a matrix.
func (l *lab) row(t *tensor.Tensor, r int) []float32 {
	return l.download(l.b.View(t, r*t.Cols(), t.Cols()))
}

// download returns the elements of t, F32 or BF16.
func (l *lab) download(t *tensor.Tensor) []float32 {
	if t.DType != tensor.F32 {
		wide := l.empty(tensor.F32, t.Shape...)
		l.b.Dequantize(wide, t)
		t = wide
	}
	x := make([]float32, t.Len())
	l.b.Download(x, t)
	return x
}

// projections measures products of one input, bare and with all that training
// has after them.
func (l *lab) projections() {
	q := l.heads * l.headDim
	pos, freq := make([]int32, l.tokens), make([]float32, l.headDim/2)
	for i := range pos {
		pos[i] = int32(i)
	}
	for i := range freq {
		freq[i] = float32(math.Pow(500000, -2*float64(i)/float64(l.headDim)))
	}
	for _, adapted := range []bool{false, true} {
		kind := ""
		if adapted {
			kind = " with lora and rope"
		}
		l.project("qkv"+kind, []int{q, l.kv, l.kv}, adapted, false, pos, freq)
		if adapted {
			kind = " with lora"
		}
		l.project("gate up swiglu"+kind, []int{l.ff, l.ff}, adapted, true, nil, nil)
	}
}

func (l *lab) project(name string, outs []int, adapted, swiglu bool, pos []int32, freq []float32) {
	l.measure("pipe", "project "+name, func() job {
		a := several(l, l.half.Bytes(l.tokens*l.hidden), func() *tensor.Tensor { return l.act(l.tokens, l.hidden) })
		var p tensor.Projection
		flops := 0.0
		var rope *tensor.Rope
		if adapted && pos != nil {
			rope = &tensor.Rope{Positions: l.ints(pos), InvFreq: l.empty(tensor.F32, len(freq))}
			l.b.Upload(rope.InvFreq, freq)
		}
		for i, out := range outs {
			o := tensor.Product{Dst: l.empty(l.half, l.tokens, out), W: l.weight(tensor.BF16, tensor.BF16, out, l.hidden), MatMul: tensor.MatMul{TransB: true, Alpha: 1, Uniform: true}}
			flops += 2 * float64(l.tokens) * float64(out) * float64(l.hidden)
			if adapted {
				o.LowRank = &tensor.LowRank{U: l.f32(l.tokens, l.rank), V: l.f32(out, l.rank), TransV: true, Alpha: 0.01}
				if rope != nil && i < 2 {
					o.Rope = rope
				}
			}
			p.Products = append(p.Products, o)
		}
		if swiglu {
			p.SwiGLU = l.empty(l.half, l.tokens, l.ff)
		}
		return job{flops: flops, op: func(i int) { l.b.Project(of(a, i), &p) }}
	})
}

// adapters measures the thin products of an adapter, and what DoRA adds.
func (l *lab) adapters() {
	for _, dt := range []tensor.DType{tensor.BF16, tensor.F32} {
		if dt == tensor.BF16 && l.half != dt {
			continue
		}
		for _, n := range []int{l.hidden, l.ff} {
			l.thin(dt, n)
		}
		l.thin(dt, l.kv)
	}
	for _, n := range []int{1, 2, 3} {
		l.together(n)
	}
	l.dora()
}

// thin measures the products of an adapter with a matrix [tokens,n] of type dt.
func (l *lab) thin(dt tensor.DType, n int) {
	t, r := l.tokens, l.rank
	big := dt.Bytes(t * n)
	wide := func() *tensor.Tensor { return l.normal(dt, []int{t, n}) }
	thin := func() *tensor.Tensor { return l.f32(t, r) }
	name := func(what string) string { return fmt.Sprintf("lora %s %s %dx%d rank %d", dt, what, t, n, r) }
	l.measure("pipe", name("x·Aᵀ"), func() job {
		x, a, u := several(l, big, wide), l.f32(r, n), thin()
		return job{bytes: float64(big + 4*r*n + 4*t*r), op: func(i int) {
			l.b.MatMul(u, of(x, i), a, tensor.MatMul{TransB: true, Alpha: 1, Uniform: true})
		}}
	})
	l.measure("pipe", name("dz·B"), func() job {
		dz, b, u := several(l, big, wide), l.f32(n, r), thin()
		return job{bytes: float64(big + 4*r*n + 4*t*r), op: func(i int) { l.b.MatMul(u, of(dz, i), b, tensor.MatMul{Alpha: 2}) }}
	})
	l.measure("pipe", name("dB += dzᵀ·u"), func() job {
		dz, u, g := several(l, big, wide), thin(), l.empty(tensor.F32, n, r)
		return job{bytes: float64(big + 8*r*n + 4*t*r), op: func(i int) {
			l.b.MatMul(g, of(dz, i), u, tensor.MatMul{TransA: true, Alpha: 2, Beta: 1})
		}}
	})
	l.measure("pipe", name("dz·B and dB += dzᵀ·u"), func() job {
		dz, b, u, g, du := several(l, big, wide), l.f32(n, r), thin(), l.empty(tensor.F32, n, r), thin()
		return job{bytes: float64(big + 12*r*n + 8*t*r), op: func(i int) { l.b.LowRankGrad(du, g, of(dz, i), u, b, 2) }}
	})
	l.measure("pipe", name("dA += dauᵀ·x"), func() job {
		x, u, g := several(l, big, wide), thin(), l.empty(tensor.F32, r, n)
		return job{bytes: float64(big + 8*r*n + 4*t*r), op: func(i int) {
			l.b.MatMul(g, u, of(x, i), tensor.MatMul{TransA: true, Alpha: 1, Beta: 1})
		}}
	})
}

// together measures x·Aᵀ of n adapters that a projection computes together. The
// products are of no columns: nothing else is left.
func (l *lab) together(n int) {
	t, r, in := l.tokens, l.rank, l.hidden
	big := l.half.Bytes(t * in)
	l.measure("pipe", fmt.Sprintf("lora %s x·Aᵀ of %d %dx%d rank %d", l.half, n, t, in, r), func() job {
		x := several(l, big, func() *tensor.Tensor { return l.act(t, in) })
		var p tensor.Projection
		for range n {
			o := tensor.MatMul{TransB: true, Alpha: 1, Uniform: true}
			o.LowRank = &tensor.LowRank{U: l.f32(t, r), V: l.empty(tensor.F32, 0, r), TransV: true, Alpha: 1, A: l.f32(r, in)}
			p.Products = append(p.Products, tensor.Product{Dst: l.empty(l.half, t, 0), W: l.weight(tensor.BF16, tensor.BF16, 0, in), MatMul: o})
		}
		return job{bytes: float64(big + n*(4*r*in+4*t*r)), op: func(i int) { l.b.Project(of(x, i), &p) }}
	})
}

func (l *lab) dora() {
	t, out, in := l.tokens, l.ff, l.hidden
	for _, z := range [][2]int{{l.hidden, l.hidden}, {l.kv, l.hidden}, {l.ff, l.hidden}, {l.hidden, l.ff}} {
		l.doraNorm(z[0], z[1], l.rank)
	}
	for _, r := range []int{4 * l.rank, 16 * l.rank} {
		l.doraNorm(out, in, r)
	}
	l.doraNorms()
	l.measure("pipe", fmt.Sprintf("dora scale gradient %dx%d", t, out), func() job {
		dx, dy, y := l.act(t, out), l.act(t, out), l.act(t, out)
		dm, s, m := l.f32(out), l.f32(out), l.f32(out)
		return job{bytes: float64(l.half.Bytes(3 * t * out)), op: func(int) { l.b.ScaleColsGrad(dx, dm, dy, y, s, m) }}
	})
	for _, n := range []int{l.kv, l.hidden, l.ff} {
		l.doraGrad(l.half, n)
	}
	l.doraGrad(tensor.F32, l.hidden)
}

// doraGrad measures the gradients of an update with a magnitude, for dy of type dt.
func (l *lab) doraGrad(dt tensor.DType, n int) {
	t, r := l.tokens, l.rank
	l.measure("pipe", fmt.Sprintf("dora %s gradient %dx%d rank %d", dt, t, n, r), func() job {
		g := tensor.DoRAGrad{
			DZ: l.act(t, n), DM: l.f32(n), DY: l.normal(dt, []int{t, n}), Y: l.act(t, n), Ratio: l.f32(n), M: l.f32(n),
			DU: l.f32(t, r), DV: l.empty(tensor.F32, n, r), U: l.f32(t, r), V: l.f32(n, r), Scale: 2,
		}
		return job{bytes: float64(dt.Bytes(t*n) + l.half.Bytes(2*t*n) + 12*r*n + 8*t*r), op: func(int) { l.b.DoRAGrad(g) }}
	})
}

// doraNorms measures the norms of all weights of a layer.
func (l *lab) doraNorms() {
	together, ok := l.b.(tensor.DoRANorms)
	if !ok {
		return
	}
	l.measure("pipe", fmt.Sprintf("dora norms of bf16 of a layer, rank %d", l.rank), func() job {
		var ns []tensor.DoRANorm
		bytes := 0
		for _, z := range [][2]int{{l.hidden, l.hidden}, {l.kv, l.hidden}, {l.kv, l.hidden}, {l.hidden, l.hidden}, {l.ff, l.hidden}, {l.ff, l.hidden}, {l.hidden, l.ff}} {
			out, in := z[0], z[1]
			n := tensor.DoRANorm{Ratio: l.f32(out), C: l.f32(out), W2: l.f32(out), W: l.weight(tensor.BF16, tensor.BF16, out, in), A: l.f32(l.rank, in), B: l.f32(out, l.rank), M: l.f32(out), Scale: 0.01}
			l.b.RowSquares(n.W2, n.W)
			ns, bytes = append(ns, n), bytes+2*out*in
		}
		return job{bytes: float64(bytes), op: func(int) { together.DoRANorms(ns) }}
	})
}

func (l *lab) doraNorm(out, in, r int) {
	l.measure("pipe", fmt.Sprintf("dora norm of bf16 %dx%d rank %d", out, in, r), func() job {
		w := several(l, 2*out*in, func() *tensor.Tensor { return l.weight(tensor.BF16, tensor.BF16, out, in) })
		ratio, c, w2, m, a, b := l.f32(out), l.f32(out), l.f32(out), l.f32(out), l.f32(r, in), l.f32(out, r)
		l.b.RowSquares(w2, w[0])
		return job{bytes: float64(2 * out * in), op: func(i int) { l.b.DoRANorm(ratio, c, w2, of(w, i), a, b, m, 0.01) }}
	})
}
