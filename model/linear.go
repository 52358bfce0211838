package model

import "pipe/tensor"

// A Linear is y = x·Wᵀ + b, with an adapter on top when one is attached.
type Linear struct {
	W       Param   // [out, in]
	B       *Param  // [out]; nil: no bias
	Adapter Adapter // nil: none

	x *tensor.Tensor // input of the latest Forward
}

// An Adapter changes the output of a frozen Linear by trained parameters.
type Adapter interface {
	// Product completes o, the product y [tokens, out] of x with W, such that its
	// result is the adapted output. It reports whether one product can be that.
	Product(p *Pass, l *Linear, y, x *tensor.Tensor, o *tensor.MatMul) bool
	// Forward sets y to the adapted output, without the bias, where one product
	// cannot.
	Forward(p *Pass, l *Linear, y, x *tensor.Tensor)
	// Gradient adds to the adapter's gradients for dy. When p.Train was set, y is again
	// what Forward or the product made it. spare, like dy, may be overwritten; it may be
	// dy, or nil. The gradient of the input is then the product dz·W with low, which live
	// as long as what p makes. Where it is no such product, ok is false and nothing is
	// done: Backward does it.
	Gradient(p *Pass, l *Linear, x, dy, spare *tensor.Tensor) (dz *tensor.Tensor, low *tensor.LowRank, ok bool)
	// Backward is Gradient that sets dx, as o says, to the gradient of the input through
	// both W and the adapter.
	Backward(p *Pass, l *Linear, dx, x, dy, spare *tensor.Tensor, o tensor.MatMul)
	// Params calls visit for each parameter, with names such as "lora_A.weight".
	Params(visit func(name string, p *Param))
	// KeepsOutput reports whether Backward reads the output of Forward.
	KeepsOutput() bool
	// Changed is called after the parameters changed: what is derived from them
	// must be derived again before it is used.
	Changed()
}

// Out and In are the widths.
func (l *Linear) Out() int { return l.W.Value.Rows() }

// In returns the input width.
func (l *Linear) In() int { return l.W.Value.Cols() }

// Forward implements Module, but for its output, which lives until the next one
// that Backward does not need: who calls it adds it to the residual stream.
func (l *Linear) Forward(p *Pass, x *tensor.Tensor) *tensor.Tensor {
	s := p.project(x)
	var y *tensor.Tensor // [tokens, out]
	if l.keepsOutput(p) {
		y = p.Activation(x.Rows(), l.Out())
	} else {
		y = p.passing(x.Rows(), l.Out())
	}
	s.addTo(y, l, nil)
	s.run(nil)
	return y
}

// keepsOutput reports whether Backward reads what Forward returned.
func (l *Linear) keepsOutput(p *Pass) bool {
	return p.Train && l.Adapter != nil && !p.Base && l.Adapter.KeepsOutput()
}

// A projection collects linear layers of one input, which are computed together.
type projection struct {
	p    *Pass
	x    *tensor.Tensor
	rope tensor.Rope
	all  tensor.Projection
}

// project begins a projection of x. It lives until the next one.
func (p *Pass) project(x *tensor.Tensor) *projection {
	s := &p.projection
	s.p, s.x, s.all.Products = p, x, s.all.Products[:0]
	return s
}

// add returns what will be the output of l, rotated unless invFreq is nil.
func (s *projection) add(l *Linear, invFreq *tensor.Tensor) *tensor.Tensor {
	y := s.p.Activation(s.x.Rows(), l.Out()) // [tokens, out]
	s.addTo(y, l, invFreq)
	return y
}

// addTo is add with y as the output.
func (s *projection) addTo(y *tensor.Tensor, l *Linear, invFreq *tensor.Tensor) {
	p := s.p
	l.x = s.x
	n := len(s.all.Products)
	s.all.Products = append(s.all.Products, tensor.Product{Dst: y, W: l.W.Value, MatMul: tensor.MatMul{TransB: true, Alpha: 1, Uniform: p.Uniform()}})
	o := &s.all.Products[n].MatMul
	if l.Adapter != nil && !p.Base && !l.Adapter.Product(p, l, y, s.x, o) {
		s.all.Products = s.all.Products[:n]
		l.Adapter.Forward(p, l, y, s.x)
		if l.B != nil {
			p.AddRow(y, l.B.Value)
		}
		if invFreq != nil {
			p.Rope(y, p.Positions, invFreq, false)
		}
		return
	}
	if l.B != nil {
		o.Bias = l.B.Value
	}
	if invFreq != nil {
		s.rope = tensor.Rope{Positions: p.Positions, InvFreq: invFreq}
		o.Rope = &s.rope
	}
}

// pending is how many layers run will compute; those of adapters that take more
// than one product are there already.
func (s *projection) pending() int { return len(s.all.Products) }

// run computes what was added, and, unless that is nil, sets swiglu to the SwiGLU
// of the two layers.
func (s *projection) run(swiglu *tensor.Tensor) {
	s.all.SwiGLU = swiglu
	if s.pending() > 0 {
		s.p.Project(s.x, &s.all)
	}
}

// Backward returns dx = dy·W and, unless W is frozen, adds dyᵀ·x to its
// gradient.
func (l *Linear) Backward(p *Pass, dy *tensor.Tensor) *tensor.Tensor {
	dx := p.New(dy.Rows(), l.In()) // [tokens, in]
	l.backward(p, dx, dy, nil, tensor.MatMul{})
	return dx
}

// backward is Backward with dx, of which o says what it is added to or what
// follows. spare is memory like dy that may be overwritten: dy itself when nobody
// needs it later, nil when there is none.
func (l *Linear) backward(p *Pass, dx, dy, spare *tensor.Tensor, o tensor.MatMul) {
	mark := p.Mark()
	defer p.Release(mark)
	o.Alpha = 1
	dz, low, ok := l.gradient(p, dy, spare)
	if !ok {
		l.Adapter.Backward(p, l, dx, l.x, dy, spare, o)
		return
	}
	o.LowRank = low
	p.MatMul(dx, dz, l.W.Value, o)
}

// gradient adds to the gradients of the parameters, and is Gradient of the adapter, if
// there is one.
func (l *Linear) gradient(p *Pass, dy, spare *tensor.Tensor) (dz *tensor.Tensor, low *tensor.LowRank, ok bool) {
	if l.B != nil && l.B.Grad != nil {
		p.ColSum(l.B.Grad, dy)
	}
	if l.Adapter != nil && !p.Base {
		return l.Adapter.Gradient(p, l, l.x, dy, spare)
	}
	if l.W.Grad != nil {
		p.AddOuter(l.W.Grad, dy, l.x, 1)
	}
	return dy, nil, true
}

// A projectionGrad collects linear layers of one input, whose gradient is computed
// together.
type projectionGrad struct {
	p        *Pass
	dx       *tensor.Tensor // [tokens, in]
	mark     Mark
	products []tensor.GradProduct
	others   []gradOf // adapters that take more than one product
}

type gradOf struct {
	l  *Linear
	dy *tensor.Tensor
}

// projectGrad begins the gradient of an input [tokens, in]. It lives until the next one.
func (p *Pass) projectGrad(tokens, in int) *projectionGrad {
	s := &p.gradients
	s.p, s.products, s.others = p, s.products[:0], s.others[:0]
	s.dx = p.New(tokens, in)
	s.mark = p.Mark()
	return s
}

// add adds what arrives through l for dy, which may be overwritten.
func (s *projectionGrad) add(l *Linear, dy *tensor.Tensor) {
	dz, low, ok := l.gradient(s.p, dy, dy)
	if !ok {
		s.others = append(s.others, gradOf{l, dy})
		return
	}
	s.products = append(s.products, tensor.GradProduct{DY: dz, W: l.W.Value, LowRank: low})
}

// run returns the gradient.
func (s *projectionGrad) run() *tensor.Tensor {
	o := tensor.MatMul{Alpha: 1}
	if len(s.products) > 0 {
		s.p.ProjectGrad(s.dx, s.products)
		o.Beta = 1
	}
	for _, x := range s.others {
		x.l.Adapter.Backward(s.p, x.l, s.dx, x.l.x, x.dy, x.dy, o)
		o.Beta = 1
	}
	s.p.Release(s.mark)
	return s.dx
}

// AddOuter adds scale·dyᵀ·x to the gradient dw [out, in].
func (p *Pass) AddOuter(dw, dy, x *tensor.Tensor, scale float32) {
	p.MatMul(dw, dy, x, tensor.MatMul{TransA: true, Alpha: scale, Beta: 1})
}

// Params implements Module.
func (l *Linear) Params(visit func(string, *Param)) {
	visit("weight", &l.W)
	if l.B != nil {
		visit("bias", l.B)
	}
	if l.Adapter != nil {
		l.Adapter.Params(visit)
	}
}

// A Norm is RMSNorm: y = w ⊙ x/rms(x).
type Norm struct {
	W   Param // [width], F32
	Eps float32

	x, rstd *tensor.Tensor
}

// Forward implements Module.
func (n *Norm) Forward(p *Pass, x *tensor.Tensor) *tensor.Tensor {
	y := p.Activation(x.Shape...)
	n.forwardTo(p, y, x)
	return y
}

// forwardTo is Forward with y as the output.
func (n *Norm) forwardTo(p *Pass, y, x *tensor.Tensor) {
	n.x, n.rstd = x, p.New(x.Rows())
	p.RMSNorm(y, n.rstd, x, n.W.Value, n.Eps)
}

// forwardSum is Forward of sum = x + y, which it sets.
func (n *Norm) forwardSum(p *Pass, sum, x, y *tensor.Tensor) *tensor.Tensor {
	z, rstd := p.Activation(x.Shape...), p.New(x.Rows())
	p.AddRMSNorm(z, rstd, sum, x, y, n.W.Value, n.Eps)
	n.x, n.rstd = sum, rstd
	return z
}

// Backward implements Module; it returns dy's own memory.
func (n *Norm) Backward(p *Pass, dy *tensor.Tensor) *tensor.Tensor {
	p.RMSNormGrad(dy, n.W.Grad, n.x, n.W.Value, n.rstd, dy, nil)
	return dy
}

// backwardAdd adds the gradient of the input to dx.
func (n *Norm) backwardAdd(p *Pass, dx, dy *tensor.Tensor) {
	p.RMSNormGrad(dx, n.W.Grad, n.x, n.W.Value, n.rstd, dy, dx)
}

// Params implements Module.
func (n *Norm) Params(visit func(string, *Param)) { visit("weight", &n.W) }
