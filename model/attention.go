package model

import "pipe/tensor"

// Attention is causal self-attention with rotary positions and grouped
// queries.
type Attention struct {
	Q, K, V, O              *Linear
	Heads, KVHeads, HeadDim int
	InvFreq                 *tensor.Tensor // [HeadDim/2]
	layer                   int            // index of the layer in the cache
	precision               tensor.DType   // of products
	q, k, v, out, lse       *tensor.Tensor // of the latest Forward
}

// Forward implements Module.
func (a *Attention) Forward(p *Pass, x *tensor.Tensor) *tensor.Tensor {
	s := p.project(x)
	a.q = s.add(a.Q, a.InvFreq)
	a.keysAndValues(p, s)
	a.out, a.lse = p.Like(a.q), p.New(x.Rows(), a.Heads)
	p.Attention(a.out, a.lse, a.q, a.k, a.v, a.shape(p))
	return a.O.Forward(p, a.out)
}

// Backward implements Module.
func (a *Attention) Backward(p *Pass, dy *tensor.Tensor) *tensor.Tensor {
	dout := p.Like(a.out)
	a.O.backward(p, dout, dy, nil, tensor.MatMul{})
	dq, dk, dv := p.Like(a.q), p.Like(a.k), p.Like(a.v)
	p.AttentionGrad(dq, dk, dv, a.q, a.k, a.v, a.out, a.lse, dout, a.shape(p))
	p.Rope(dq, p.Positions, a.InvFreq, true)
	p.Rope(dk, p.Positions, a.InvFreq, true)
	p.Rope(a.q, p.Positions, a.InvFreq, true) // the outputs of Q and K again
	p.Rope(a.k, p.Positions, a.InvFreq, true)
	dx := a.Q.backwardOver(p, dq)
	a.K.backward(p, dx, dk, dk, tensor.MatMul{Beta: 1})
	a.V.backward(p, dx, dv, dv, tensor.MatMul{Beta: 1})
	return dx
}

// Params implements Module.
func (a *Attention) Params(visit func(string, *Param)) {
	params("q_proj", a.Q, visit)
	params("k_proj", a.K, visit)
	params("v_proj", a.V, visit)
	params("o_proj", a.O, visit)
}

// keysAndValues runs s and sets k and v to what the segments of p read, of its
// input and of the tokens before.
func (a *Attention) keysAndValues(p *Pass, s *projection) {
	a.k, a.v = s.add(a.K, a.InvFreq), s.add(a.V, nil)
	s.run(nil)
	switch {
	case p.cache != nil:
		a.k, a.v = p.cache.append(p, a.layer, a.k, a.v)
	case p.keys != nil:
		a.k, a.v = p.gatherKeys(a.k), p.gatherKeys(a.v)
	}
}

// gatherKeys lays out the keys or values x of a pass in the order in which its
// segments read them.
func (p *Pass) gatherKeys(x *tensor.Tensor) *tensor.Tensor {
	y := p.Activation(p.keys.Len(), x.Cols()) // [keys, kvHeads·headDim]
	p.GatherRows(y, x, p.keys)
	return y
}

func (a *Attention) shape(p *Pass) tensor.Attention {
	return tensor.Attention{Heads: a.Heads, KVHeads: a.KVHeads, HeadDim: a.HeadDim, Precision: a.precision,
		Q: p.Segments.Q, K: p.Segments.K, KLen: p.Segments.KLen}
}

// params visits the parameters of m under a name.
func params(name string, m Module, visit func(string, *Param)) {
	m.Params(func(n string, p *Param) { visit(name+"."+n, p) })
}
