package adapter

import (
	"pipe/model"
	"pipe/tensor"
)

// A lora is the adapter of one linear layer: y = x·Wᵀ + scale·u·Aᵀ·Bᵀ with
// u = dropout(x) (Hu et al. 2021, eq. 3), and, when it has a magnitude m, the
// rows of W + scale·B·A rescaled to the norms m (Liu et al. 2024, eq. 5).
type lora struct {
	a, b  model.Param  // [r, in], [out, r]
	m     *model.Param // [out]; nil: LoRA without magnitude
	scale float32
	drop  float32
	id    uint64 // of the dropout mask

	eye      *tensor.Tensor // [r, r] identity
	w2       *tensor.Tensor // [out] squared row norms of W
	c, ratio *tensor.Tensor // [out] row norms of W + scale·B·A, and m/c
	rb       *tensor.Tensor // [out, r] ratio ⊙ B

	// Of the latest Forward: u·Aᵀ, and, with a magnitude, the part of the output
	// that is rescaled.
	au, scaled *tensor.Tensor
	low        tensor.LowRank
}

// Forward implements model.Adapter.
func (a *lora) Forward(p *model.Pass, l *model.Linear, y, x *tensor.Tensor) {
	u := a.dropped(p, x)
	a.au = p.New(x.Rows(), a.a.Value.Rows()) // [tokens, r]
	p.MatMul(a.au, u, a.a.Value, tensor.MatMul{TransB: true, Alpha: 1, Uniform: p.Train})
	a.low = tensor.LowRank{U: a.au, V: a.b.Value, TransV: true, Alpha: a.scale}
	if a.m == nil {
		p.MatMul(y, x, l.W.Value, tensor.MatMul{TransB: true, Alpha: 1, Uniform: p.Train, LowRank: &a.low})
		return
	}
	if u != x {
		a.forwardDropped(p, l, y, x, u)
		return
	}
	p.MatMul(y, x, l.W.Value, tensor.MatMul{TransB: true, Alpha: 1, Uniform: p.Train, LowRank: &a.low, ColScale: a.ratio})
	a.scaled = y
	if p.Train && l.B != nil { // y gets a bias
		a.scaled = p.New(y.Shape...)
		p.Copy(a.scaled, y)
	}
}

// forwardDropped is DoRA with dropout, where the base output keeps the
// undropped x: y = W·x - W·u + ratio ⊙ (W·u + scale·B·A·u), as PEFT has it.
func (a *lora) forwardDropped(p *model.Pass, l *model.Linear, y, x, u *tensor.Tensor) {
	p.MatMul(y, x, l.W.Value, tensor.MatMul{TransB: true, Alpha: 1, Uniform: p.Train})
	z := p.New(y.Shape...)
	p.MatMul(z, u, l.W.Value, tensor.MatMul{TransB: true, Alpha: 1, Uniform: p.Train})
	p.Add(y, y, z, -1)
	p.MatMul(z, a.au, a.b.Value, tensor.MatMul{TransB: true, Alpha: a.scale, Beta: 1, Uniform: p.Train})
	p.ScaleCols(z, z, a.ratio)
	p.Add(y, y, z, 1)
	a.scaled = z
}

// dropped returns dropout(x), or x itself when there is none.
func (a *lora) dropped(p *model.Pass, x *tensor.Tensor) *tensor.Tensor {
	if !p.Drops() || a.drop == 0 {
		return x
	}
	u := p.New(x.Shape...)
	p.Dropout(u, x, a.drop, a.seed(p))
	return u
}

func (a *lora) seed(p *model.Pass) uint64 { return model.Stream(p.Seed).At(a.id) }

// Backward implements model.Adapter. The magnitude's gradient is the dot product
// of dy with the rescaled output, divided by the magnitude: the norms are
// constants for the gradient (Liu et al. 2024, section 4.3).
func (a *lora) Backward(p *model.Pass, l *model.Linear, dx, x, dy *tensor.Tensor, beta float32) {
	mark := p.Mark()
	defer p.Release(mark)
	u, b := a.dropped(p, x), a.b.Value
	if a.m != nil {
		b = a.rb
		ds := p.New(a.ratio.Len())
		p.Zero(ds)
		p.ColDot(ds, dy, a.scaled)
		p.AddDiv(a.m.Grad, ds, a.m.Value)
	}
	a.gradB(p, dy)
	dau := p.New(a.au.Shape...) // [tokens, r]
	p.MatMul(dau, dy, b, tensor.MatMul{Alpha: a.scale})
	p.AddOuter(a.a.Grad, dau, u, 1)
	if u == x {
		a.low = tensor.LowRank{U: dau, V: a.a.Value, Alpha: 1}
		p.MatMul(dx, dy, l.W.Value, tensor.MatMul{Alpha: 1, Beta: beta, LowRank: &a.low, TermScale: a.ratio})
		return
	}
	p.MatMul(dx, dy, l.W.Value, tensor.MatMul{Alpha: 1, Beta: beta})
	du := p.New(x.Shape...) // [tokens, in]
	p.MatMul(du, dau, a.a.Value, tensor.MatMul{Alpha: 1})
	if a.m != nil { // W·u is rescaled, and taken from the base output
		g := p.New(dy.Shape...)
		p.ScaleCols(g, dy, a.ratio)
		p.Add(g, g, dy, -1)
		p.MatMul(du, g, l.W.Value, tensor.MatMul{Alpha: 1, Beta: 1})
	}
	p.Dropout(du, du, a.drop, a.seed(p))
	p.Add(dx, dx, du, 1)
}

// gradB adds to the gradient of B, scale·ratio ⊙ dyᵀ·u·Aᵀ.
func (a *lora) gradB(p *model.Pass, dy *tensor.Tensor) {
	if a.m == nil {
		p.AddOuter(a.b.Grad, dy, a.au, a.scale)
		return
	}
	g := p.New(a.b.Value.Shape...) // [out, r]
	p.MatMul(g, dy, a.au, tensor.MatMul{TransA: true, Alpha: a.scale})
	p.ScaleRows(g, g, a.ratio)
	p.Add(a.b.Grad, a.b.Grad, g, 1)
}

// Params implements model.Adapter.
func (a *lora) Params(visit func(string, *model.Param)) {
	visit("lora_A.weight", &a.a)
	visit("lora_B.weight", &a.b)
	if a.m != nil {
		visit("lora_magnitude_vector", a.m)
	}
}

// Refresh implements model.Adapter: it computes the row norms c of W +
// scale·B·A from r-row products, c² = ‖W_j‖² + 2·scale·B_j·(A·W_jᵀ) +
// scale²·B_j·(A·Aᵀ)·B_jᵀ, and never B·A itself.
func (a *lora) Refresh(p *model.Pass, l *model.Linear) {
	if a.m == nil {
		return
	}
	mark := p.Mark()
	defer p.Release(mark)
	out, r := a.b.Value.Rows(), a.b.Value.Cols()
	aw, waT := p.New(r, out), p.New(out, r)                                                  // A·Wᵀ and its transpose
	p.MatMul(aw, a.a.Value, l.W.Value, tensor.MatMul{TransB: true, Alpha: 1, Uniform: true}) // as training has it
	p.MatMul(waT, aw, a.eye, tensor.MatMul{TransA: true, Alpha: 1})
	bp, bq := p.New(out), p.New(out)
	p.RowDot(bp, a.b.Value, waT)
	aa, baa := p.New(r, r), p.New(out, r) // A·Aᵀ, B·A·Aᵀ
	p.MatMul(aa, a.a.Value, a.a.Value, tensor.MatMul{TransB: true, Alpha: 1})
	p.MatMul(baa, a.b.Value, aa, tensor.MatMul{Alpha: 1})
	p.RowDot(bq, baa, a.b.Value)
	p.DoRAScale(a.ratio, a.c, a.w2, bp, bq, a.m.Value, a.scale)
	p.ScaleRows(a.rb, a.b.Value, a.ratio)
}
