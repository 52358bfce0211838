package model

import "pipe/tensor"

// SwiGLU is the gated feed-forward down(silu(gate(x)) ⊙ up(x)).
type SwiGLU struct {
	Gate, Up, Down *Linear

	gate, up *tensor.Tensor // of the latest Forward
	grad     tensor.SwiGLUGrad
}

// Forward implements Module.
func (f *SwiGLU) Forward(p *Pass, x *tensor.Tensor) *tensor.Tensor {
	s := p.project(x)
	f.gate, f.up = s.add(f.Gate, nil), s.add(f.Up, nil)
	y := p.Like(f.gate)
	if s.pending() == 2 {
		s.run(y)
	} else {
		s.run(nil)
		p.SwiGLU(y, f.gate, f.up)
	}
	return f.Down.Forward(p, y)
}

// Backward implements Module.
func (f *SwiGLU) Backward(p *Pass, dy *tensor.Tensor) *tensor.Tensor {
	dgate, dup := p.Like(f.gate), p.Like(f.up)
	f.grad = tensor.SwiGLUGrad{DGate: dgate, DUp: dup, Gate: f.gate, Up: f.up}
	f.Down.backward(p, dgate, dy, nil, tensor.MatMul{SwiGLUGrad: &f.grad}) // sets both
	s := p.projectGrad(dgate.Rows(), f.Gate.In())
	s.add(f.Gate, dgate)
	s.add(f.Up, dup)
	return s.run()
}

// Params implements Module.
func (f *SwiGLU) Params(visit func(string, *Param)) {
	params("gate_proj", f.Gate, visit)
	params("up_proj", f.Up, visit)
	params("down_proj", f.Down, visit)
}
