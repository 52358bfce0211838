package model

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"sync"

	"pipe/tensor"
	"pipe/tensor/quant"
)

// Load builds the decoder of c from a checkpoint. Every tensor's shape is held
// against c. When trainable is set the weights become F32 with gradients;
// otherwise they stay frozen in the type they have, without a copy, and src
// must stay open as long as the decoder is used.
func Load(b tensor.Backend, c Config, src Source, trainable bool) (d *Decoder, err error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	l := &loader{b: b, src: src, train: trainable, shapes: c.shapes()}
	if err := errors.Join(l.unexpected(c), twoHeads(c, src)); err != nil {
		return nil, err
	}
	d = &Decoder{Config: c, backend: b, owned: &l.owned}
	defer func() {
		l.finish()
		if err != nil {
			for _, t := range l.owned {
				b.Free(t)
			}
			d = nil
		}
	}()
	d.invFreq = l.alloc(tensor.F32, c.HeadDim/2)
	if l.err == nil {
		b.Upload(d.invFreq, c.InvFreq())
	}
	d.Embedding = l.matrix("model.embed_tokens.weight")
	for i := range c.Layers {
		d.Layers = append(d.Layers, l.layer(c, i, d.invFreq))
	}
	d.Norm = l.norm("model.norm.weight", c.NormEps)
	d.Head = d.Embedding
	if !c.Tied {
		d.Head = l.matrix("lm_head.weight")
	}
	if l.settle(); l.err != nil {
		return nil, l.err
	}
	return d, b.Sync()
}

// A loader keeps the first error, so that building reads straight through.
type loader struct {
	b      tensor.Backend
	src    Source
	train  bool
	shapes map[string][]int
	owned  []*tensor.Tensor
	one    *tensor.Tensor // see ones
	err    error

	spent    []spent
	waiting  int            // bytes of spent
	beside   sync.WaitGroup // for tensors that are being forgotten
	finished bool
}

// spent is a tensor that was expanded, and its name.
type spent struct {
	name string
	t    *tensor.Tensor
}

// mostSpent is how many bytes of these are freed together. It means to wait for the
// device, which would be idle after each of many norms.
const mostSpent = 4 << 20

// unexpected refuses a layer's tensor that the configuration does not have:
// leaving it out would silently run another model.
func (l *loader) unexpected(c Config) error {
	for _, name := range l.src.Names() {
		if _, ok := l.shapes[name]; ok || strings.HasSuffix(name, ".rotary_emb.inv_freq") || !strings.HasPrefix(name, "model.layers.") {
			continue
		}
		return fmt.Errorf("tensor %s: config.json has no such tensor (model_type %q, %d layers, attention_bias %t, mlp_bias %t)", name, c.Family, c.Layers, c.AttnBias, c.MLPBias)
	}
	return nil
}

// twoHeads refuses a head in the checkpoint that is not the embedding where the
// configuration says it is: older programs leave such a head out, newer ones run it.
// It compares a few rows of both: training moves all of them.
func twoHeads(c Config, src Source) error {
	if !c.Tied {
		return nil
	}
	head, err := Describe(src, "lm_head.weight")
	if errors.Is(err, ErrNoTensor) {
		return nil
	}
	embedding, err2 := Describe(src, "model.embed_tokens.weight")
	want := []int{c.VocabSize, c.Hidden}
	if fits("", head, err, want) != nil || fits("", embedding, err2, want) != nil || filled("", head) != nil || filled("", embedding) != nil {
		return nil // the one that is used is checked when its turn comes
	}
	const rows, near, tiny = 64, 1.0 / 128, 1e-6 // their types may differ: what bfloat16 and f16 round
	a, b := make([]float32, c.Hidden), make([]float32, c.Hidden)
	for i := 0; i < c.VocabSize; i += max(1, c.VocabSize/rows) {
		head.row(a, i)
		embedding.row(b, i)
		for k := range a {
			if !(math.Abs(float64(a[k]-b[k])) <= near*math.Abs(float64(b[k]))+tiny) {
				return errors.New("the checkpoint has a tensor lm_head.weight that differs from model.embed_tokens.weight, and config.json says tie_word_embeddings; " +
					"if the head is the model's own, set tie_word_embeddings to false there, else remove the tensor")
			}
		}
	}
	return nil
}

// row sets dst to row i of a matrix of whole blocks.
func (w Weight) row(dst []float32, i int) {
	n := w.DType.Bytes(len(dst))
	quant.Dequantize(dst, w.DType, w.Data[i*n:(i+1)*n])
}

func layerName(i int) string { return fmt.Sprintf("model.layers.%d", i) }

func (l *loader) layer(c Config, i int, invFreq *tensor.Tensor) *Layer {
	n := layerName(i)
	y := &Layer{
		InputNorm: l.norm(n+".input_layernorm.weight", c.NormEps),
		Attn: &Attention{
			Q: l.linear(n + ".self_attn.q_proj"), K: l.linear(n + ".self_attn.k_proj"),
			V: l.linear(n + ".self_attn.v_proj"), O: l.linear(n + ".self_attn.o_proj"),
			Heads: c.Heads, KVHeads: c.KVHeads, HeadDim: c.HeadDim, InvFreq: invFreq, layer: i,
		},
		PostNorm: l.norm(n+".post_attention_layernorm.weight", c.NormEps),
		ff:       c.feedForward(),
	}
	if c.NoRope != nil && c.NoRope[i] {
		y.Attn.InvFreq = nil
	}
	if a := y.Attn; c.Family.HeadNorm() {
		a.QNorm, a.KNorm, a.normFirst = l.norm(n+".self_attn.q_norm.weight", c.NormEps), l.norm(n+".self_attn.k_norm.weight", c.NormEps), true
	}
	n += y.ff
	v4, at := c.Llama4, y.ff
	if v4 == nil || !v4.MoE[i] {
		y.FF = l.swiglu(n)
	} else {
		at += ".shared_expert"
		y.FF = &Experts{
			Shared: l.swiglu(n + ".shared_expert"), Router: *l.matrix(n + ".router.weight"), Top: v4.Top,
			Gate: *l.matrix(n + ".experts.gate_proj.weight"), Up: *l.matrix(n + ".experts.up_proj.weight"), Down: *l.matrix(n + ".experts.down_proj.weight"),
		}
	}
	y.names = [...]string{at + ".gate_proj", at + ".up_proj", at + ".down_proj"}
	if v4 != nil {
		a := y.Attn
		if a.tuned = !v4.Rope[i]; a.tuned {
			a.InvFreq = nil
		}
		if v4.QKNorm && v4.Rope[i] {
			ones := Param{Value: l.ones(c.HeadDim)}
			a.QNorm, a.KNorm = &Norm{W: ones, Eps: float32(c.NormEps)}, &Norm{W: ones, Eps: float32(c.NormEps)}
		}
		a.chunked = v4.Chunked[i]
	}
	return y
}

func (l *loader) swiglu(n string) *SwiGLU {
	return &SwiGLU{Gate: l.linear(n + ".gate_proj"), Up: l.linear(n + ".up_proj"), Down: l.linear(n + ".down_proj")}
}

// ones returns the weight of norms that have none.
func (l *loader) ones(n int) *tensor.Tensor {
	if l.one == nil {
		tensor.For(l.b, tensor.ForWeights)
		if l.one = l.alloc(tensor.F32, n); l.err == nil {
			v := make([]float32, n)
			for i := range v {
				v[i] = 1
			}
			l.b.Upload(l.one, v)
		}
	}
	return l.one
}

func (l *loader) linear(name string) *Linear {
	weight := name + ".weight"
	li := &Linear{W: *l.matrix(weight)}
	if b, ok := l.b.(tensor.Borrower); ok && !l.train && l.err == nil {
		if f, ok := l.src.(Forgetter); ok && f.InPlace(weight) {
			b.Lent(li.W.Value, func() { l.forget(f, weight) })
		}
	}
	if _, ok := l.shapes[name+".bias"]; ok {
		li.B = l.vector(name + ".bias")
	}
	return li
}

func (l *loader) norm(name string, eps float64) *Norm {
	return &Norm{W: *l.vector(name), Eps: float32(eps)}
}

// matrix loads a weight: frozen as it is, or trained in F32.
func (l *loader) matrix(name string) *Param { return l.param(name, l.train) }

// vector loads a norm or a bias, which operations want in F32.
func (l *loader) vector(name string) *Param { return l.param(name, true) }

func (l *loader) param(name string, expand bool) *Param {
	w, ok := l.weight(name)
	if !ok {
		return &Param{}
	}
	t, err := l.b.Load(w.DType, w.Data, w.Shape...)
	if err != nil {
		l.fail(fmt.Errorf("load tensor %s: %w", name, err))
		return &Param{}
	}
	p := &Param{Value: t}
	tensor.For(l.b, tensor.ForWeights)
	if expand {
		l.spent = append(l.spent, spent{name, t})
		p.Value = l.alloc(tensor.F32, w.Shape...)
		if l.err != nil {
			return &Param{}
		}
		l.b.Dequantize(p.Value, t)
		if l.waiting += len(w.Data); l.waiting > mostSpent {
			l.settle()
		}
	} else {
		l.owned = append(l.owned, t)
	}
	if l.train {
		tensor.For(l.b, tensor.ForGradients)
		p.Grad = l.alloc(tensor.F32, w.Shape...)
	}
	return p
}

// settle frees what was expanded, when the backend is done with it.
func (l *loader) settle() {
	if len(l.spent) == 0 {
		return
	}
	if err := l.b.Sync(); err != nil {
		l.fail(fmt.Errorf("load tensor %s: %w", l.spent[len(l.spent)-1].name, err))
	}
	f, mapped := l.src.(Forgetter)
	for _, s := range l.spent {
		l.b.Free(s.t)
		if mapped {
			l.forget(f, s.name)
		}
	}
	l.spent, l.waiting = l.spent[:0], 0
}

// forget takes the data of a tensor out of memory: while others are loaded, because
// the system needs 0.1 µs for each page.
func (l *loader) forget(f Forgetter, name string) {
	if l.finished {
		f.Forget(name)
		return
	}
	l.beside.Go(func() { f.Forget(name) })
}

// finish leaves nothing behind that Load began.
func (l *loader) finish() {
	l.settle()
	l.beside.Wait()
	l.finished = true
}

// weight reads a tensor and checks it against the configuration.
func (l *loader) weight(name string) (Weight, bool) {
	if l.err != nil {
		return Weight{}, false
	}
	w, err := l.src.Weight(name)
	err = fits(name, w, err, l.shapes[name])
	if _, plan := l.src.(described); err == nil && !plan {
		err = filled(name, w)
	}
	if err != nil {
		l.fail(err)
		return Weight{}, false
	}
	return w, true
}

// fits reports why w, which reading tensor name gave with err, is not the
// weight of that shape.
func fits(name string, w Weight, err error, want []int) error {
	switch {
	case errors.Is(err, ErrNoTensor) && name == "lm_head.weight":
		return fmt.Errorf("tensor %s is missing, and config.json does not say tie_word_embeddings", name)
	case errors.Is(err, ErrNoTensor):
		return fmt.Errorf("tensor %s is missing from the checkpoint", name)
	case err != nil:
		return fmt.Errorf("read tensor %s: %w", name, err)
	case !slices.Equal(w.Shape, want):
		return fmt.Errorf("tensor %s has shape %v in the checkpoint; config.json says %v", name, w.Shape, want)
	case !w.DType.Valid() || w.DType == tensor.I32 || w.DType == tensor.U8:
		return fmt.Errorf("tensor %s has element type %s, which no weight can have", name, w.DType)
	case want[len(want)-1]%w.DType.Block() != 0:
		return fmt.Errorf("tensor %s: rows of %d elements are not whole %s blocks", name, want[len(want)-1], w.DType)
	}
	return nil
}

// filled reports why the data of w, which fits, is not its elements.
func filled(name string, w Weight) error {
	n := 1
	for _, d := range w.Shape {
		n *= d
	}
	if len(w.Data) != w.DType.Bytes(n) {
		return fmt.Errorf("tensor %s has %d bytes; %v of %s needs %d", name, len(w.Data), w.Shape, w.DType, w.DType.Bytes(n))
	}
	return nil
}

// CheckWeights reports the first tensor, by name, because of which Load would
// refuse the checkpoint. It computes nothing, and reads no weight that src can
// describe without.
func CheckWeights(c Config, src Source) error {
	if err := c.Validate(); err != nil {
		return err
	}
	l := &loader{src: src, shapes: c.shapes()}
	if err := errors.Join(l.unexpected(c), twoHeads(c, src)); err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(l.shapes)) {
		w, err := Describe(src, name)
		err = fits(name, w, err, l.shapes[name])
		if err == nil && w.Data != nil {
			err = filled(name, w)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (l *loader) alloc(dt tensor.DType, shape ...int) *tensor.Tensor {
	if l.err != nil {
		return nil
	}
	t, err := l.b.Alloc(dt, shape...)
	if err != nil {
		l.fail(err)
		return nil
	}
	l.owned = append(l.owned, t)
	return t
}

func (l *loader) fail(err error) {
	if l.err == nil {
		l.err = err
	}
}
