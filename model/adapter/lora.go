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

	w2       *tensor.Tensor // [out] squared row norms of W
	c, ratio *tensor.Tensor // [out] row norms of W + scale·B·A, and m/c
	stale    bool           // the parameters changed since c and ratio were computed
	norms    *norms

	// Of the latest Forward: u·Aᵀ, and, with a magnitude, the part of the output
	// that is rescaled.
	au, scaled *tensor.Tensor
	low        tensor.LowRank
}

// Product implements model.Adapter. DoRA is more than one product with dropout,
// and where a bias follows that the gradient of the magnitude must not see.
func (a *lora) Product(p *model.Pass, l *model.Linear, y, x *tensor.Tensor, o *tensor.MatMul) bool {
	if a.m != nil && (p.Train && l.B != nil || p.Drops() && a.drop > 0) {
		return false
	}
	a.norm(p.Backend, l)
	a.lowRank(p, x)
	if u := a.dropped(p, x); u != x {
		a.low.A = nil
		p.MatMul(a.au, u, a.a.Value, tensor.MatMul{TransB: true, Alpha: 1, Uniform: p.Uniform()})
	}
	o.LowRank = &a.low
	if a.m != nil {
		o.ColScale, a.scaled = a.ratio, y
	}
	return true
}

// lowRank makes the update of a product of u, which sets u·Aᵀ.
func (a *lora) lowRank(p *model.Pass, u *tensor.Tensor) {
	a.au = p.New(u.Rows(), a.a.Value.Rows()) // [tokens, r]
	a.low = tensor.LowRank{U: a.au, V: a.b.Value, TransV: true, Alpha: a.scale, A: a.a.Value}
}

// Forward implements model.Adapter: y = W·x - W·u + ratio ⊙ (W·u +
// scale·B·A·u), as PEFT has it: the base output keeps the undropped x.
func (a *lora) Forward(p *model.Pass, l *model.Linear, y, x *tensor.Tensor) {
	a.norm(p.Backend, l)
	u := a.dropped(p, x)
	a.lowRank(p, u)
	a.scaled = p.Like(y)
	o := tensor.MatMul{TransB: true, Alpha: 1, Uniform: p.Uniform()}
	if u != x {
		z := p.Like(y)
		p.MatMul(z, u, l.W.Value, o)
		p.MatMul(y, x, l.W.Value, o)
		p.Add(y, y, z, -1)
	} else {
		p.Zero(y)
	}
	o.LowRank, o.ColScale = &a.low, a.ratio
	p.MatMul(a.scaled, u, l.W.Value, o)
	p.Add(y, y, a.scaled, 1)
}

// dropped returns dropout(x), or x itself when there is none.
func (a *lora) dropped(p *model.Pass, x *tensor.Tensor) *tensor.Tensor {
	if !p.Drops() || a.drop == 0 {
		return x
	}
	u := p.Like(x)
	p.Dropout(u, x, a.drop, a.seed(p))
	return u
}

func (a *lora) seed(p *model.Pass) uint64 { return model.Stream(p.Seed).At(a.id) }

// Gradient implements model.Adapter. With dropout the gradient of the input is more than
// one product.
func (a *lora) Gradient(p *model.Pass, _ *model.Linear, x, dy, spare *tensor.Tensor) (dz *tensor.Tensor, low *tensor.LowRank, ok bool) {
	if p.Drops() && a.drop > 0 {
		return nil, nil, false
	}
	dz, dau := a.gradients(p, x, dy, spare)
	a.low = tensor.LowRank{U: dau, V: a.a.Value, Alpha: 1}
	return dz, &a.low, true
}

// gradients adds to the gradients for dy of the output of u, and returns those of
// W·u + scale·B·A·u and of A·u. The magnitude's gradient is the dot product of dy with
// the rescaled output, divided by the magnitude: the norms are constants for the gradient
// (Liu et al. 2024, section 4.3).
func (a *lora) gradients(p *model.Pass, u, dy, spare *tensor.Tensor) (dz, dau *tensor.Tensor) {
	dz = dy
	if a.m != nil {
		if dz = spare; dz == nil {
			dz = p.Like(a.scaled)
		}
	}
	dau = p.New(a.au.Shape...) // [tokens, r]
	if a.m != nil {
		p.DoRAGrad(tensor.DoRAGrad{
			DZ: dz, DM: a.m.Grad, DY: dy, Y: a.scaled, Ratio: a.ratio, M: a.m.Value,
			DU: dau, DV: a.b.Grad, U: a.au, V: a.b.Value, Scale: a.scale,
		})
	} else {
		p.LowRankGrad(dau, a.b.Grad, dz, a.au, a.b.Value, a.scale)
	}
	p.AddOuter(a.a.Grad, dau, u, 1)
	return dz, dau
}

// Backward implements model.Adapter.
func (a *lora) Backward(p *model.Pass, l *model.Linear, dx, x, dy, spare *tensor.Tensor, o tensor.MatMul) {
	mark := p.Mark()
	defer p.Release(mark)
	if dz, low, ok := a.Gradient(p, l, x, dy, spare); ok {
		o.LowRank = low
		p.MatMul(dx, dz, l.W.Value, o)
		return
	}
	dz, dau := a.gradients(p, a.dropped(p, x), dy, nil) // dy is needed to the end
	p.MatMul(dx, dy, l.W.Value, tensor.MatMul{Alpha: 1, Beta: o.Beta})
	du := p.New(x.Shape...) // [tokens, in]
	p.MatMul(du, dau, a.a.Value, tensor.MatMul{Alpha: 1})
	if a.m != nil { // W·u is rescaled, and taken from the base output
		p.Add(dz, dz, dy, -1)
		p.MatMul(du, dz, l.W.Value, tensor.MatMul{Alpha: 1, Beta: 1})
	}
	p.Dropout(du, du, a.drop, a.seed(p))
	p.Add(dx, dx, du, 1)
	if g := o.SwiGLUGrad; g != nil {
		p.SwiGLUGrad(g.DGate, g.DUp, g.Gate, g.Up, dx)
	}
}

// Params implements model.Adapter.
func (a *lora) Params(visit func(string, *model.Param)) {
	visit("lora_A.weight", &a.a)
	visit("lora_B.weight", &a.b)
	if a.m != nil {
		visit("lora_magnitude_vector", a.m)
	}
}

// KeepsOutput implements model.Adapter.
func (a *lora) KeepsOutput() bool { return a.m != nil }

// Changed implements model.Adapter.
func (a *lora) Changed() { a.stale = a.m != nil }

// norm brings the row norms of W + scale·B·A up to date. Before W is multiplied,
// which finds W in the caches then, is the time for it, but for a backend that
// computes those of all layers together.
func (a *lora) norm(b tensor.Backend, l *model.Linear) {
	if !a.stale {
		return
	}
	if together, ok := b.(tensor.DoRANorms); ok {
		together.DoRANorms(a.norms.stale())
		return
	}
	b.DoRANorm(a.ratio, a.c, a.w2, l.W.Value, a.a.Value, a.b.Value, a.m.Value, a.scale)
	a.stale = false
}

// norms are the norms of all adapters of a set that have a magnitude.
type norms struct {
	of   []*lora
	w    []*model.Linear
	list []tensor.DoRANorm // the memory of stale
}

// stale returns those that are to be computed; then they count as such that are not.
func (n *norms) stale() []tensor.DoRANorm {
	n.list = n.list[:0]
	for i, a := range n.of {
		if a.stale {
			n.list = append(n.list, tensor.DoRANorm{Ratio: a.ratio, C: a.c, W2: a.w2, W: n.w[i].W.Value, A: a.a.Value, B: a.b.Value, M: a.m.Value, Scale: a.scale})
			a.stale = false
		}
	}
	return n.list
}
