package model

import (
	"fmt"
	"maps"
	"slices"

	"pipe/tensor"
	"pipe/tensor/quant"
)

// A Decoder is a language model: embedding, layers, norm and output head.
// It is used by one goroutine at a time.
type Decoder struct {
	Config    Config
	Embedding *Param // [V, H]
	Layers    []*Layer
	Norm      *Norm
	Head      *Param // [V, H]; Embedding itself when tied

	backend   tensor.Backend
	precision tensor.DType // of products with the head, of attention, and of cached keys and values
	invFreq   *tensor.Tensor
	owned     *[]*tensor.Tensor

	changes int // how often Changed was called

	inputs []*tensor.Tensor // input of each layer, then of the head, when training
	ids    *tensor.Tensor
	only   *tensor.Tensor // I32: the rows that the last layer gave; nil: all
	head   headState
}

// A Layer is x + attention(norm(x)), then + feed-forward(norm(·)).
type Layer struct {
	InputNorm *Norm
	Attn      *Attention
	PostNorm  *Norm
	FF        Module // SwiGLU or Experts

	ff    string    // its name, such as ".mlp"
	names [3]string // of its linear layers, such as ".mlp.gate_proj"
}

// Forward implements Module.
func (l *Layer) Forward(p *Pass, x *tensor.Tensor) *tensor.Tensor {
	y := l.Attn.Forward(p, l.InputNorm.Forward(p, x)) // [tokens, H], or fewer: see Pass.want
	h := p.New(y.Shape...)
	z := l.FF.Forward(p, l.PostNorm.forwardSum(p, h, p.those(x), y))
	out := h
	if p.Train {
		out = p.New(h.Shape...)
	}
	p.Add(out, z, h, 1)
	return out
}

// rest is Forward without the last sum, when no backward pass follows: x is the
// norm of h, to which it adds what attention gives, and which lacks what it returns.
func (l *Layer) rest(p *Pass, h, x *tensor.Tensor) *tensor.Tensor {
	y := l.Attn.Forward(p, x)
	return l.FF.Forward(p, l.PostNorm.forwardSum(p, h, h, y))
}

// Backward implements Module; it returns dy's own memory.
func (l *Layer) Backward(p *Pass, dy *tensor.Tensor) *tensor.Tensor {
	l.backward(p, dy, dy)
	return dy
}

// backward sets dx [tokens, H] to the gradient of the input. It is dy, unless this
// is of fewer rows.
func (l *Layer) backward(p *Pass, dx, dy *tensor.Tensor) {
	l.PostNorm.backwardAdd(p, dy, l.FF.Backward(p, dy))
	in := l.Attn.Backward(p, dy)
	if p.only != nil {
		p.spread(dx, dy)
	}
	l.InputNorm.backwardAdd(p, dx, in)
}

// Params implements Module.
func (l *Layer) Params(visit func(string, *Param)) {
	params("input_layernorm", l.InputNorm, visit)
	params("self_attn", l.Attn, visit)
	params("post_attention_layernorm", l.PostNorm, visit)
	params(l.ff[1:], l.FF, visit)
}

// Params calls visit once for each parameter with its checkpoint name, in the
// order of the forward pass. A tied head is visited once, as the embedding.
func (d *Decoder) Params(visit func(name string, p *Param)) {
	visit("model.embed_tokens.weight", d.Embedding)
	for i, l := range d.Layers {
		params(layerName(i), l, visit)
	}
	params("model.norm", d.Norm, visit)
	if d.Head != d.Embedding {
		visit("lm_head.weight", d.Head)
	}
}

// Linears calls visit once for each linear layer that an adapter can attach
// to, with its module path, such as "model.layers.0.self_attn.q_proj".
func (d *Decoder) Linears(visit func(path string, l *Linear)) {
	for i, l := range d.Layers {
		name := layerName(i)
		l.linears(func(path string, l *Linear) { visit(name+path, l) })
	}
}

func (l *Layer) linears(visit func(path string, l *Linear)) {
	visit(".self_attn.q_proj", l.Attn.Q)
	visit(".self_attn.k_proj", l.Attn.K)
	visit(".self_attn.v_proj", l.Attn.V)
	visit(".self_attn.o_proj", l.Attn.O)
	f, ok := l.FF.(*SwiGLU)
	if !ok {
		f = l.FF.(*Experts).Shared
	}
	visit(l.names[0], f.Gate)
	visit(l.names[1], f.Up)
	visit(l.names[2], f.Down)
}

// SetPrecision declares how products with the model's matrices are formed, F32,
// BF16 or FP8 (see tensor.Memory); the keys and values that generation keeps are of
// that type too. Attention may be formed like them (see tensor.Attention);
// activations, adapters and sums are F32. FP8 is for linear layers alone: all else
// is as with BF16.
func (d *Decoder) SetPrecision(dt tensor.DType) {
	d.precision = dt
	if dt == tensor.FP8 {
		d.precision = tensor.BF16
	}
	d.Linears(func(_ string, l *Linear) { d.backend.Precision(l.W.Value, dt) })
	d.backend.Precision(d.Head.Value, d.precision)
	for _, l := range d.Layers {
		l.Attn.precision = d.precision
		if e, ok := l.FF.(*Experts); ok {
			e.precision(d.backend, d.precision)
		}
	}
}

// Changed tells adapters that their parameters changed.
func (d *Decoder) Changed() {
	d.changes++
	for _, l := range d.Layers {
		l.linears(func(_ string, l *Linear) {
			if l.Adapter != nil {
				l.Adapter.Changed()
			}
		})
	}
}

// Weights returns the parameters of a decoder that is trained itself, all F32, as Load takes them. A
// weight is downloaded when it is asked for.
func (d *Decoder) Weights() *Downloads {
	w := &Downloads{d.backend, map[string]*Param{}}
	d.Params(func(name string, p *Param) { w.Params[name] = p })
	return w
}

// Downloads is the Source of the parameters of a decoder, by name.
type Downloads struct {
	b      tensor.Backend
	Params map[string]*Param
}

// Names implements Source.
func (w *Downloads) Names() []string { return slices.Sorted(maps.Keys(w.Params)) }

// Describe implements Describer.
func (w *Downloads) Describe(name string) (Weight, error) {
	p, ok := w.Params[name]
	if !ok {
		return Weight{}, fmt.Errorf("%s: %w", name, ErrNoTensor)
	}
	return Weight{DType: p.Value.DType, Shape: p.Value.Shape}, nil
}

// Weight implements Source.
func (w *Downloads) Weight(name string) (Weight, error) {
	y, err := w.Describe(name)
	if err != nil {
		return y, err
	}
	t := w.Params[name].Value
	x := make([]float32, t.Len())
	w.b.Download(x, t)
	y.Data = make([]byte, 4*len(x))
	quant.Quantize(y.Data, tensor.F32, x)
	return y, w.b.Sync()
}

// Backend returns the backend that holds the weights.
func (d *Decoder) Backend() tensor.Backend { return d.backend }

// Own makes Close free t too: an adapter's parameters.
func (d *Decoder) Own(t *tensor.Tensor) { *d.owned = append(*d.owned, t) }

// Close frees the weights.
func (d *Decoder) Close() {
	for _, t := range *d.owned {
		d.backend.Free(t)
	}
	*d.owned = nil
}

// run takes ids through the layers and returns the residual stream [tokens, H].
// p says where documents lie, and whether only the cache is filled: then the
// result is good for nothing.
func (d *Decoder) run(p *Pass, ids []int32) *tensor.Tensor {
	d.arrange(p)
	return d.layers(p, p.Ints(ids))
}

// arrange sets what layers of a Llama 4 look at beside the segments and positions of p. It reports whether that is
// nothing.
func (d *Decoder) arrange(p *Pass) (plain bool) {
	v4 := d.Config.Llama4
	if v4 == nil {
		return true
	}
	v4.heats(p)
	if v4.Chunk > 0 {
		p.Segments.chunk(&p.chunks, int32(v4.Chunk))
	}
	return p.heat == nil && (v4.Chunk == 0 || len(p.chunks.K) == len(p.Segments.K) && slices.Equal(p.chunks.K, p.Segments.K))
}

// layers is run of ids [tokens] that are in the workspace, of a pass that is arranged.
func (d *Decoder) layers(p *Pass, ids *tensor.Tensor) *tensor.Tensor {
	p.half = d.precision == tensor.BF16 && tensor.Halves(p.Backend)
	d.ids = ids
	h := p.New(ids.Len(), d.Config.Hidden) // [tokens, H]
	p.Embed(h, d.Embedding.Value, d.ids)
	if !p.Train {
		d.infer(p, h)
		return h
	}
	d.inputs, d.only = d.inputs[:0], nil
	for i, l := range d.Layers {
		d.inputs = append(d.inputs, h)
		rows := h.Rows()
		if i == len(d.Layers)-1 && len(p.wants) > 0 {
			rows = len(p.wants)
			d.only = p.Ints(p.wants)
			p.only = d.only
		}
		if !p.Recompute {
			h = l.Forward(p, h)
			continue
		}
		out := p.New(rows, h.Cols())
		m := p.Mark()
		p.Copy(out, l.Forward(p, h))
		p.Release(m)
		h = out
	}
	p.only = nil
	d.inputs = append(d.inputs, h)
	return h
}

// infer takes h through the layers, when no backward pass follows.
func (d *Decoder) infer(p *Pass, h *tensor.Tensor) {
	x, rstd := p.Activation(h.Shape...), p.New(h.Rows()) // the norm of h
	first := d.Layers[0].InputNorm
	p.RMSNorm(x, rstd, h, first.W.Value, first.Eps)
	for i, l := range d.Layers {
		m, last := p.Mark(), i == len(d.Layers)-1
		if p.fill && last {
			l.Attn.keysAndValues(p, p.project(x))
			return
		}
		if rest := l.rest(p, h, x); last {
			p.Add(h, rest, h, 1)
		} else {
			next := d.Layers[i+1].InputNorm
			p.AddRMSNorm(x, rstd, h, h, rest, next.W.Value, next.Eps)
		}
		p.Release(m)
	}
}

// back takes the gradient dy of what run returned back through the layers, and
// sets dh [tokens, H], which is dy unless that is of fewer rows.
func (d *Decoder) back(p *Pass, dh, dy *tensor.Tensor) {
	p.only = d.only
	for i := len(d.Layers) - 1; i >= 0; i-- {
		m := p.Mark()
		if p.Recompute {
			d.Layers[i].Forward(p, d.inputs[i])
		}
		d.Layers[i].backward(p, dh, dy)
		p.only, dy = nil, dh
		p.Release(m)
	}
	if d.Embedding.Grad != nil {
		p.EmbedGrad(d.Embedding.Grad, d.ids, dh)
	}
}
