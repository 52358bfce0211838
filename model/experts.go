package model

import "pipe/tensor"

// Experts is a mixture of experts beside a feed-forward that all tokens go through: shared(x) plus, for
// each expert e that the router chooses, down(silu(gate(g·x)) ⊙ up(g·x)) with the weights of e and
// its gate g, the sigmoid of its logit (Llama 4).
type Experts struct {
	Shared         *SwiGLU
	Router         Param // [E,H]
	Gate, Up, Down Param // [E·F,H], [E·F,H], [E·H,F]: see tensor.Experts
	Top            int   // experts of a token

	// Of the latest Forward.
	r                         tensor.Routing
	x, rows, gate, up, hidden *tensor.Tensor // hidden: unless the weights are frozen
}

// Forward implements Module.
func (f *Experts) Forward(p *Pass, x *tensor.Tensor) *tensor.Tensor {
	y := f.Shared.Forward(p, x)
	n, experts, width := x.Rows(), f.Router.Value.Rows(), f.Gate.Value.Rows()/f.Router.Value.Rows()
	z := p.New(n, experts)
	p.MatMul(z, x, f.Router.Value, tensor.MatMul{TransB: true, Alpha: 1, Uniform: p.Uniform()})
	f.route(p, n)
	p.Route(&f.r, z)
	k, o := n*f.Top, tensor.MatMul{TransB: true, Alpha: 1, Uniform: p.Uniform()}
	f.x, f.rows = x, p.Activation(k, x.Cols())
	p.Dispatch(f.rows, x, &f.r, true)
	f.gate, f.up = p.Activation(k, width), p.Activation(k, width)
	p.ExpertMatMul(f.gate, f.rows, f.Gate.Value, &f.r, o)
	p.ExpertMatMul(f.up, f.rows, f.Up.Value, &f.r, o)
	m := p.Mark()
	hidden := p.Like(f.gate)
	if f.hidden = nil; p.Train && f.Down.Grad != nil {
		f.hidden, m = hidden, p.Mark()
	}
	p.SwiGLU(hidden, f.gate, f.up)
	out := p.Activation(k, x.Cols())
	p.ExpertMatMul(out, hidden, f.Down.Value, &f.r, o)
	sum := y
	if f.Shared.Down.keepsOutput(p) {
		sum = p.passing(y.Shape...)
	}
	p.Combine(sum, out, y, &f.r, false)
	p.Release(m)
	return sum
}

// route makes the routing of a batch of n rows.
func (f *Experts) route(p *Pass, n int) {
	ints := func(shape ...int) *tensor.Tensor { return p.i32.get(p.Backend, shape) }
	e := f.Router.Value.Rows()
	f.r = tensor.Routing{Gating: tensor.Sigmoid, Experts: e, Gates: p.New(n * f.Top), Rows: ints(n * f.Top), Slots: ints(n, f.Top), Starts: ints(e + 1)}
}

// Backward implements Module.
func (f *Experts) Backward(p *Pass, dy *tensor.Tensor) *tensor.Tensor {
	dx := f.Shared.Backward(p, dy)
	m := p.Mark()
	dout, dhidden := p.Like(f.rows), p.Like(f.gate)
	p.Dispatch(dout, dy, &f.r, false)
	p.ExpertMatMul(dhidden, dout, f.Down.Value, &f.r, tensor.MatMul{Alpha: 1})
	dgate, dup := f.gate, f.up // nobody reads them again
	p.SwiGLUGrad(dgate, dup, f.gate, f.up, dhidden)
	drows := p.New(f.rows.Shape...)
	p.ExpertMatMul(drows, dgate, f.Gate.Value, &f.r, tensor.MatMul{Alpha: 1})
	p.ExpertMatMul(drows, dup, f.Up.Value, &f.r, tensor.MatMul{Alpha: 1, Beta: 1})
	if f.Down.Grad != nil {
		p.ExpertOuter(f.Down.Grad, dout, f.hidden, &f.r)
		p.ExpertOuter(f.Gate.Grad, dgate, f.rows, &f.r)
		p.ExpertOuter(f.Up.Grad, dup, f.rows, &f.r)
	}
	dgates, dz := p.New(f.r.Gates.Len()), p.New(dy.Rows(), f.r.Experts)
	p.GateGrad(dgates, drows, f.x, &f.r)
	p.Combine(dx, drows, dx, &f.r, true)
	p.RouteGrad(dz, dgates, &f.r)
	p.MatMul(dx, dz, f.Router.Value, tensor.MatMul{Alpha: 1, Beta: 1})
	if f.Router.Grad != nil {
		p.AddOuter(f.Router.Grad, dz, f.x, 1)
	}
	p.Release(m)
	return dx
}

// Params implements Module.
func (f *Experts) Params(visit func(string, *Param)) {
	visit("router.weight", &f.Router)
	visit("experts.gate_proj.weight", &f.Gate)
	visit("experts.up_proj.weight", &f.Up)
	visit("experts.down_proj.weight", &f.Down)
	params("shared_expert", f.Shared, visit)
}

// precision declares how products with the experts are formed. The router, by which tokens
// are told apart, stays in F32.
func (f *Experts) precision(b tensor.Backend, dt tensor.DType) {
	for _, p := range []*Param{&f.Gate, &f.Up, &f.Down} {
		b.Precision(p.Value, dt)
	}
}
