package model

import "pipe/tensor"

// Attention is causal self-attention with rotary positions and grouped
// queries.
type Attention struct {
	Q, K, V, O              *Linear
	Heads, KVHeads, HeadDim int
	InvFreq                 *tensor.Tensor // [HeadDim/2]; nil: nothing is rotated
	layer                   int            // index of the layer in the cache
	precision               tensor.DType   // of products

	// QNorm and KNorm are the norms of queries and keys, per head; nil: there are none. Those
	// of a Llama 4 come after the rotation, and their weights are ones and no parameters.
	QNorm, KNorm *Norm
	normFirst    bool // they come before it

	// Of a Llama 4.
	tuned   bool // queries are scaled by the pass's heat
	chunked bool // a query sees its chunk only

	// Of the latest Forward.
	q, k, v, out, lse *tensor.Tensor
	// Outputs of Q and K, rotated unless norms come first: q and k, unless these are made of
	// them.
	q0, k0 *tensor.Tensor
}

// Forward implements Module.
func (a *Attention) Forward(p *Pass, x *tensor.Tensor) *tensor.Tensor {
	s := p.project(x)
	a.q0 = a.add(s, a.Q)
	a.keysAndValues(p, s)
	a.q = a.normed(p, a.QNorm, a.q0)
	if a.tuned && p.heat != nil {
		a.q = p.Like(a.q0)
		p.ScaleRows(a.q, a.q0, p.heat)
	}
	a.out, a.lse = p.Like(a.q), p.New(x.Rows(), a.Heads)
	p.Attention(a.out, a.lse, a.q, a.k, a.v, a.shape(p))
	return a.O.Forward(p, p.those(a.out))
}

// add adds a projection of queries or keys. What is normed after it is F32.
func (a *Attention) add(s *projection, l *Linear) *tensor.Tensor {
	if a.QNorm == nil {
		return s.add(l, a.InvFreq)
	}
	y, invFreq := s.p.New(s.x.Rows(), l.Out()), a.InvFreq
	if a.normFirst {
		invFreq = nil
	}
	s.addTo(y, l, invFreq)
	return y
}

// normed returns the norm of x [tokens, heads·HeadDim], rotated; x itself if there is none.
func (a *Attention) normed(p *Pass, n *Norm, x *tensor.Tensor) *tensor.Tensor {
	if n == nil {
		return x
	}
	y := p.Activation(x.Shape...)
	n.forwardTo(p, p.heads(y, a.HeadDim), p.heads(x, a.HeadDim))
	if a.normFirst && a.InvFreq != nil {
		p.Rope(y, p.Positions, a.InvFreq, false)
	}
	return y
}

// normedGrad returns the gradient of the input of a norm, F32, for that of its result; dy
// itself if there is none.
func (a *Attention) normedGrad(p *Pass, n *Norm, dy *tensor.Tensor) *tensor.Tensor {
	if n == nil {
		return dy
	}
	if dy.DType != tensor.F32 {
		wide := p.New(dy.Shape...)
		p.Dequantize(wide, dy)
		dy = wide
	}
	if a.normFirst && a.InvFreq != nil {
		p.Rope(dy, p.Positions, a.InvFreq, true)
	}
	n.Backward(p, p.heads(dy, a.HeadDim))
	return dy
}

// Backward implements Module.
func (a *Attention) Backward(p *Pass, dy *tensor.Tensor) *tensor.Tensor {
	dout := p.Like(a.out)
	if p.only == nil {
		a.O.backward(p, dout, dy, nil, tensor.MatMul{})
	} else {
		some := p.Like(a.O.x)
		a.O.backward(p, some, dy, nil, tensor.MatMul{})
		p.spread(dout, some)
	}
	dq, dk, dv := p.Like(a.q), p.Like(a.k), p.Like(a.v)
	p.AttentionGrad(dq, dk, dv, a.q, a.k, a.v, a.out, a.lse, dout, a.shape(p))
	if a.tuned && p.heat != nil {
		p.ScaleRows(dq, dq, p.heat)
	}
	dq, dk = a.normedGrad(p, a.QNorm, dq), a.normedGrad(p, a.KNorm, dk)
	if a.InvFreq != nil && !a.normFirst {
		for _, x := range [...]*tensor.Tensor{dq, dk, a.q0, a.k0} { // the last two are the outputs of Q and K again
			p.Rope(x, p.Positions, a.InvFreq, true)
		}
	}
	s := p.projectGrad(dq.Rows(), a.Q.In())
	s.add(a.Q, dq)
	s.add(a.K, dk)
	s.add(a.V, dv)
	return s.run()
}

// Params implements Module.
func (a *Attention) Params(visit func(string, *Param)) {
	params("q_proj", a.Q, visit)
	params("k_proj", a.K, visit)
	params("v_proj", a.V, visit)
	params("o_proj", a.O, visit)
	if a.normFirst {
		params("q_norm", a.QNorm, visit)
		params("k_norm", a.KNorm, visit)
	}
}

// keysAndValues runs s and sets k and v to what the segments of p read, of its
// input and of the tokens before.
func (a *Attention) keysAndValues(p *Pass, s *projection) {
	a.k0, a.v = a.add(s, a.K), s.add(a.V, nil)
	s.run(nil)
	a.k = a.normed(p, a.KNorm, a.k0)
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
	s := &p.Segments
	if a.chunked {
		s = &p.chunks
	}
	return tensor.Attention{Heads: a.Heads, KVHeads: a.KVHeads, HeadDim: a.HeadDim, Precision: a.precision, Q: s.Q, K: s.K, KLen: s.KLen}
}

// params visits the parameters of m under a name.
func params(name string, m Module, visit func(string, *Param)) {
	m.Params(func(n string, p *Param) { visit(name+"."+n, p) })
}
