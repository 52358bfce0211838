package cpu

import "pipe/tensor"

// Operations of a plan: each touches its operands and counts the scratch that
// the operation of the same name takes.

func (p *plan) Upload(dst *tensor.Tensor, _ []float32)   { p.use("upload", dst) }
func (p *plan) UploadInts(dst *tensor.Tensor, _ []int32) { p.use("upload", dst) }
func (p *plan) UploadBytes(dst *tensor.Tensor, _ []byte) { p.use("upload", dst) }

func (p *plan) Download(dst []float32, src *tensor.Tensor) {
	p.use("download", src)
	for i := range dst {
		dst[i] = 1
	}
}

func (p *plan) DownloadInts(dst []int32, src *tensor.Tensor) {
	p.use("download", src)
	for i := range dst {
		dst[i] = 1
	}
}

func (p *plan) DownloadBytes(dst []byte, src *tensor.Tensor) { p.use("download", src) }

func (p *plan) Zero(t *tensor.Tensor)                             { p.use("zero", t) }
func (p *plan) ZeroAll(ts []*tensor.Tensor)                       { p.use("zero", ts...) }
func (p *plan) Copy(dst, src *tensor.Tensor)                      { p.use("copy", dst, src) }
func (p *plan) Add(dst, a, b *tensor.Tensor, _ float32)           { p.use("add", dst, a, b) }
func (p *plan) AddRow(dst, r *tensor.Tensor)                      { p.use("add row", dst, r) }
func (p *plan) ScaleCols(dst, x, s *tensor.Tensor)                { p.use("scale columns", dst, x, s) }
func (p *plan) Dequantize(dst, src *tensor.Tensor)                { p.use("dequantize", dst, src) }
func (p *plan) Embed(dst, table, ids *tensor.Tensor)              { p.use("embed", dst, table, ids) }
func (p *plan) EmbedGrad(dtable, ids, dy *tensor.Tensor)          { p.use("embed gradient", dtable, ids, dy) }
func (p *plan) GatherRows(dst, x, idx *tensor.Tensor)             { p.use("gather rows", dst, x, idx) }
func (p *plan) ScatterRows(dst, src, idx *tensor.Tensor)          { p.use("scatter rows", dst, src, idx) }
func (p *plan) ScatterAddRows(dst, src, idx *tensor.Tensor)       { p.use("scatter add rows", dst, src, idx) }
func (p *plan) RMSNorm(dst, rstd, x, w *tensor.Tensor, _ float32) { p.use("rmsnorm", dst, rstd, x, w) }
func (p *plan) SwiGLU(dst, gate, up *tensor.Tensor)               { p.use("swiglu", dst, gate, up) }

func (p *plan) Dropout(dst, x *tensor.Tensor, _ float32, _ uint64) { p.use("dropout", dst, x) }

func (p *plan) AddRMSNorm(dst, rstd, sum, x, y, w *tensor.Tensor, _ float32) {
	p.use("rmsnorm", dst, rstd, sum, x, y, w)
}

func (p *plan) RMSNormGrad(dx, dw, x, w, rstd, dy, add *tensor.Tensor) {
	p.use("rmsnorm gradient", dx, dw, x, w, rstd, dy, add)
	more(&p.work.row, x.Cols())
	p.grown()
}

func (p *plan) SwiGLUGrad(dgate, dup, gate, up, dy *tensor.Tensor) {
	p.use("swiglu gradient", dgate, dup, gate, up, dy)
}

// DoRANorm implements [tensor.Linear].
func (p *plan) DoRANorm(ratio, c, w2, w, a, b, m *tensor.Tensor, _ float32) {
	p.use("dora norm", ratio, c, w2, a, b, m)
	r, in, out := a.Rows(), a.Cols(), w.Rows()
	more(&p.shared.values, r*out+r*r)
	more(&p.work.rows, (normRows+1)*r)
	weight := p.weight("dora norm", w)
	p.multiply(&product{m: r, n: out, k: in, transW: true, uniform: true, w: operand{dt: w.DType, half: weight.half}}, weight, [2]int{out, in})
	p.multiply(&product{m: r, n: r, k: in, transW: true, uniform: true}, nil, [2]int{})
	p.grown()
}

func (p *plan) ColSum(dst, x *tensor.Tensor) {
	p.use("column sums", dst, x)
	more(&p.work.wide, x.Cols())
	p.grown()
}

func (p *plan) ScaleRows(dst, x, s *tensor.Tensor) { p.use("scale rows", dst, x, s) }

func (p *plan) ScaleColsGrad(dx, dm, dy, y, s, m *tensor.Tensor) {
	p.use("scale columns gradient", dx, dm, dy, y, s, m)
	more(&p.shared.panels, (dy.Rows()+dotRowsAtOnce-1)/dotRowsAtOnce*dy.Cols())
	p.grown()
}

// DoRAGrad implements [tensor.Linear].
func (p *plan) DoRAGrad(g tensor.DoRAGrad) {
	p.ScaleColsGrad(g.DZ, g.DM, g.DY, g.Y, g.Ratio, g.M)
	p.LowRankGrad(g.DU, g.DV, g.DZ, g.U, g.V, g.Scale)
}

func (p *plan) RowSquares(dst, w *tensor.Tensor) {
	p.use("row squares", dst, w)
	more(&p.work.rows, w.Cols())
	p.grown()
}

func (p *plan) Rope(x, pos, inv *tensor.Tensor, _ bool) {
	p.use("rope", x)
	p.rope(pos, inv)
}

func (p *plan) rope(pos, inv *tensor.Tensor) {
	p.use("rope", pos, inv)
	more(&p.shared.rotation, 2*pos.Len()*inv.Len()+pos.Len()+inv.Len())
	p.grown()
}

// MatMul implements [tensor.Linear].
func (p *plan) MatMul(dst, a, b *tensor.Tensor, o tensor.MatMul) {
	p.down(a, &o)
	w, x := p.product(dst, a, b, &o)
	p.multiply(x, w, [2]int{b.Rows(), b.Cols()})
}

func (p *plan) down(a *tensor.Tensor, o *tensor.MatMul) {
	if l := o.LowRank; l != nil && l.A != nil {
		p.MatMul(l.U, a, l.A, tensor.MatMul{TransB: true, Uniform: o.Uniform})
	}
}

// ProjectGrad implements [tensor.Linear].
func (p *plan) ProjectGrad(dst *tensor.Tensor, of []tensor.GradProduct) {
	tensor.ProjectGradByMatMul(p, dst, of)
}

// LowRankGrad implements [tensor.Linear].
func (p *plan) LowRankGrad(du, dv, dy, u, v *tensor.Tensor, _ float32) {
	p.MatMul(dv, dy, u, tensor.MatMul{TransA: true})
	p.MatMul(du, dy, v, tensor.MatMul{})
}

// product touches what belongs to a product.
func (p *plan) product(dst, a, b *tensor.Tensor, o *tensor.MatMul) (*planned, *product) {
	p.use("matmul", dst, a, o.ColScale, o.Bias)
	w := p.weight("matmul", b)
	x := &product{m: a.Rows(), k: a.Cols(), n: b.Cols(), transA: o.TransA, transW: o.TransB, uniform: o.Uniform, w: operand{dt: b.DType, half: w.half, eight: w.eight}}
	if o.TransA {
		x.m, x.k = x.k, x.m
	}
	if o.TransB {
		x.n = b.Rows()
	}
	if r := o.Rope; r != nil {
		p.rope(r.Positions, r.InvFreq)
	}
	if g := o.SwiGLUGrad; g != nil {
		p.use("matmul", g.Gate, g.Up, g.DGate, g.DUp)
	}
	if l := o.LowRank; l != nil {
		p.use("matmul", l.U, l.V)
		x.low = &lowRank{r: l.U.Cols(), trans: l.TransV}
	}
	return w, x
}

// Project implements [tensor.Linear]. What two products need of scratch at the
// same time is that of one of both widths.
func (p *plan) Project(a *tensor.Tensor, o *tensor.Projection) {
	p.use("project", o.SwiGLU)
	for i := range o.Products {
		p.down(a, &o.Products[i].MatMul)
		b := o.Products[i].W
		w, x := p.product(o.Products[i].Dst, a, b, &o.Products[i].MatMul)
		x.paired = o.SwiGLU != nil
		p.multiply(x, w, [2]int{b.Rows(), b.Cols()})
	}
}

// Attention implements [tensor.Transformer].
func (p *plan) Attention(dst, lse, q, k, v *tensor.Tensor, o tensor.Attention) {
	p.use("attention", dst, lse, q, k, v)
	p.attention(o, q, k, false)
	if k.DType == tensor.BF16 {
		block := keyBlock
		if !p.k.inPlace(o.HeadDim) {
			block = decodeBlock
		}
		more(&p.work.values, block*o.HeadDim)
	}
	p.grown()
}

func (p *plan) attention(o tensor.Attention, q, k *tensor.Tensor, grad bool) {
	if p.k.pairs(o, k.DType) {
		keys := 0
		for _, n := range o.KLen {
			keys += int(n)
		}
		more(&p.shared.pairs, pairsScratch(q.Rows(), max(k.Rows(), keys), len(o.K), q.Cols(), k.Cols(), grad))
		more(&p.work.pairs, stripPairs)
	}
	more(&p.work.probs, max(queryBlock*probStep, o.Heads/o.KVHeads*decodeBlock))
	more(&p.work.more, 2*max(queryBlock, o.Heads))
	more(&p.work.panels, keyBlock*o.HeadDim)
	more(&p.work.rows, packRows*o.HeadDim)
}

// AttentionGrad implements [tensor.Transformer].
func (p *plan) AttentionGrad(dq, dk, dv, q, k, v, dst, lse, dy *tensor.Tensor, o tensor.Attention) {
	p.use("attention gradient", dq, dk, dv, q, k, v, dst, lse, dy)
	p.attention(o, q, k, true)
	more(&p.work.grads, queryBlock*probStep)
	more(&p.work.values, keyBlock*o.HeadDim)
	more(&p.shared.more, q.Rows()*o.Heads)
	keys := 0
	for _, n := range o.KLen {
		keys += int(n)
	}
	more(&p.shared.panels, 2*keys*o.Heads*o.HeadDim)
	p.grown()
}

// logits counts the products of one piece of the logits, rows × words, and of
// what is made of them: x's gradient, and the weight's.
func (p *plan) logits(x, w *tensor.Tensor, dx, dw bool) (rows int) {
	rows, words, width := min(x.Rows(), logitRows), min(w.Rows(), logitWords), w.Cols()
	m, all := p.touch("log prob", w), [2]int{w.Rows(), width}
	o := operand{dt: w.DType, half: m.half}
	more(&p.shared.probs, logitRows*words)
	p.multiply(&product{m: rows, n: words, k: width, transW: true, uniform: dx, w: o}, m, all)
	if dx {
		p.multiply(&product{m: rows, n: width, k: words, w: o}, m, all)
	}
	if dw {
		p.multiply(&product{m: words, n: width, k: rows, transA: true, w: operand{dt: tensor.F32}}, nil, all)
	}
	more(&p.work.row, width)
	p.grown()
	return rows
}

// LogProb implements [tensor.Transformer].
func (p *plan) LogProb(logp, lse, argmax, dx, x, w, target *tensor.Tensor) {
	p.use("log prob", logp, lse, argmax, dx, x, w, target)
	rows := p.logits(x, w, dx != nil, false)
	more(&p.shared.more, 2*rows)
	more(&p.shared.wide, 2*rows)
	p.grown()
}

// LogProbGrad implements [tensor.Transformer].
func (p *plan) LogProbGrad(dx, dw, x, w, target, lse, dy *tensor.Tensor) {
	p.use("log prob gradient", dx, dw, x, w, target, lse, dy)
	p.logits(x, w, true, dw != nil)
}

// Route implements [tensor.Experts].
func (p *plan) Route(r *tensor.Routing, logits *tensor.Tensor) { p.routing("route", r, logits) }

// RouteGrad implements [tensor.Experts].
func (p *plan) RouteGrad(dlogits, dgates *tensor.Tensor, r *tensor.Routing) {
	p.routing("route gradient", r, dlogits, dgates)
}

// Dispatch implements [tensor.Experts].
func (p *plan) Dispatch(dst, x *tensor.Tensor, r *tensor.Routing, _ bool) {
	p.routing("dispatch", r, dst, x)
}

// Combine implements [tensor.Experts].
func (p *plan) Combine(dst, rows, add *tensor.Tensor, r *tensor.Routing, _ bool) {
	p.routing("combine", r, dst, rows, add)
}

// GateGrad implements [tensor.Experts].
func (p *plan) GateGrad(dgates, rows, x *tensor.Tensor, r *tensor.Routing) {
	p.routing("gate gradient", r, dgates, rows, x)
}

func (p *plan) routing(op string, r *tensor.Routing, ts ...*tensor.Tensor) {
	p.use(op, r.Gates, r.Rows, r.Slots, r.Starts)
	p.use(op, ts...)
}

// ExpertMatMul implements [tensor.Experts]. How many rows an expert has is not
// known: all may go to one, or few to each.
func (p *plan) ExpertMatMul(dst, a, w *tensor.Tensor, r *tensor.Routing, o tensor.MatMul) {
	const op = "expert matmul"
	p.routing(op, r, dst, a)
	m, height := p.touch(op, w), w.Rows()/r.Experts
	x := product{n: w.Cols(), k: a.Cols(), transW: o.TransB, uniform: o.Uniform, w: operand{dt: w.DType, half: m.half}}
	if o.TransB {
		x.n = height
	}
	if !p.k.keepsExperts(o.TransB, height) {
		m = nil
	}
	for _, rows := range []int{min(smallM, a.Rows()), a.Rows()} {
		x.m, x.uniform = rows, o.Uniform
		p.multiply(&x, m, [2]int{w.Rows(), w.Cols()})
		if x.uniform = true; height%(16*fewGroup) != 0 { // some are not where products of few rows read
			p.multiply(&x, m, [2]int{w.Rows(), w.Cols()})
		}
	}
}

// ExpertOuter implements [tensor.Experts].
func (p *plan) ExpertOuter(dw, dy, x *tensor.Tensor, r *tensor.Routing) {
	p.routing("expert outer", r, dw, dy, x)
	for _, rows := range []int{min(skinny, x.Rows()), x.Rows()} {
		p.multiply(&product{m: dy.Cols(), n: x.Cols(), k: rows, transA: true, w: operand{dt: tensor.F32}}, nil, [2]int{})
	}
}

// SumSquares implements [tensor.Optimizer].
func (p *plan) SumSquares(dst *tensor.Tensor, xs ...*tensor.Tensor) {
	for _, x := range xs {
		p.use("sum of squares", dst, x)
		more(&p.shared.wide, x.Len()>>15+1)
		p.grown()
	}
}

// AdamW implements [tensor.Optimizer].
func (p *plan) AdamW(ps []tensor.AdamWParam, _ tensor.AdamW) {
	for i := range ps {
		p.use("adamw", ps[i].W, ps[i].G, ps[i].M, ps[i].V)
	}
}

// AdamW8bit implements [tensor.Optimizer].
func (p *plan) AdamW8bit(ps []tensor.AdamWParam, _ tensor.AdamW) {
	for i := range ps {
		x := &ps[i]
		p.use("adamw8bit", x.W, x.G, x.M, x.V, x.MMax, x.VMax)
		more(&p.work.rows, 4*tensor.AdamWBlock)
		p.grown()
	}
}
