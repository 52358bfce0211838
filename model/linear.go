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
	// Forward sets y [tokens, out] to the adapted output, without the bias. When
	// p.Train is set, y must hold it again when Backward is called.
	Forward(p *Pass, l *Linear, y, x *tensor.Tensor)
	// Backward sets dx = beta*dx + the gradient of the input for dy, through
	// both W and the adapter, and adds to the adapter's gradients.
	Backward(p *Pass, l *Linear, dx, x, dy *tensor.Tensor, beta float32)
	// Params calls visit for each parameter, with names such as "lora_A.weight".
	Params(visit func(name string, p *Param))
	// Refresh brings up to date what is derived from the parameters; it is
	// called after they change.
	Refresh(p *Pass, l *Linear)
}

// Out and In are the widths.
func (l *Linear) Out() int { return l.W.Value.Rows() }

// In returns the input width.
func (l *Linear) In() int { return l.W.Value.Cols() }

// Forward implements Module.
func (l *Linear) Forward(p *Pass, x *tensor.Tensor) *tensor.Tensor {
	y := p.New(x.Rows(), l.Out()) // [tokens, out]
	if l.Adapter != nil && !p.Base {
		l.Adapter.Forward(p, l, y, x)
	} else {
		p.MatMul(y, x, l.W.Value, tensor.MatMul{TransB: true, Alpha: 1, Uniform: p.Train})
	}
	if l.B != nil {
		p.AddRow(y, l.B.Value)
	}
	l.x = x
	return y
}

// Backward returns dx = dy·W and, unless W is frozen, adds dyᵀ·x to its
// gradient.
func (l *Linear) Backward(p *Pass, dy *tensor.Tensor) *tensor.Tensor {
	dx := p.New(dy.Rows(), l.In()) // [tokens, in]
	l.backward(p, dx, dy, 0)
	return dx
}

// backward sets dx = beta*dx + dy·W.
func (l *Linear) backward(p *Pass, dx, dy *tensor.Tensor, beta float32) {
	if l.B != nil && l.B.Grad != nil {
		p.ColSum(l.B.Grad, dy)
	}
	if l.Adapter != nil && !p.Base {
		l.Adapter.Backward(p, l, dx, l.x, dy, beta)
		return
	}
	if l.W.Grad != nil {
		p.AddOuter(l.W.Grad, dy, l.x, 1)
	}
	p.MatMul(dx, dy, l.W.Value, tensor.MatMul{Alpha: 1, Beta: beta})
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
	y, rstd := p.New(x.Shape...), p.New(x.Rows())
	p.RMSNorm(y, rstd, x, n.W.Value, n.Eps)
	n.x, n.rstd = x, rstd
	return y
}

// Backward implements Module; it returns dy's own memory.
func (n *Norm) Backward(p *Pass, dy *tensor.Tensor) *tensor.Tensor {
	p.RMSNormGrad(dy, n.W.Grad, n.x, n.W.Value, n.rstd, dy)
	return dy
}

// Params implements Module.
func (n *Norm) Params(visit func(string, *Param)) { visit("weight", &n.W) }
