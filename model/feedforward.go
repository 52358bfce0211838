package model

import "pipe/tensor"

// SwiGLU is the gated feed-forward down(silu(gate(x)) ⊙ up(x)).
type SwiGLU struct {
	Gate, Up, Down *Linear

	gate, up *tensor.Tensor // of the latest Forward
}

// Forward implements Module.
func (f *SwiGLU) Forward(p *Pass, x *tensor.Tensor) *tensor.Tensor {
	f.gate, f.up = f.Gate.Forward(p, x), f.Up.Forward(p, x)
	y := p.New(f.gate.Shape...)
	p.SwiGLU(y, f.gate, f.up)
	return f.Down.Forward(p, y)
}

// Backward implements Module.
func (f *SwiGLU) Backward(p *Pass, dy *tensor.Tensor) *tensor.Tensor {
	dh := f.Down.Backward(p, dy)
	dgate, dup := p.New(dh.Shape...), p.New(dh.Shape...)
	p.SwiGLUGrad(dgate, dup, f.gate, f.up, dh)
	dx := f.Gate.Backward(p, dgate)
	f.Up.backward(p, dx, dup, 1)
	return dx
}

// Params implements Module.
func (f *SwiGLU) Params(visit func(string, *Param)) {
	params("gate_proj", f.Gate, visit)
	params("up_proj", f.Up, visit)
	params("down_proj", f.Down, visit)
}
