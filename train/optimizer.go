package train

import (
	"errors"
	"math"
	"regexp"
	"strings"

	"pipe/model"
	"pipe/tensor"
)

// AdamW is the optimizer's settings (Loshchilov & Hutter 2019).
type AdamW struct {
	LR, Beta1, Beta2, Eps float64
	WeightDecay           float64 // not applied to norms and biases
	MaxGradNorm           float64 // gradients are scaled down to this norm; 0: never
}

// NewAdamW returns the defaults.
func NewAdamW() AdamW {
	return AdamW{LR: 2e-4, Beta1: 0.9, Beta2: 0.999, Eps: 1e-8, MaxGradNorm: 1}
}

// A slot is one trained parameter with its moments.
type slot struct {
	name  string
	p     *model.Param
	m, v  *tensor.Tensor
	decay bool
}

// An optimizer steps all trained parameters of a model.
type optimizer struct {
	AdamW
	b       tensor.Backend
	slots   []slot
	sum     *tensor.Tensor // [1]
	updates int            // applied so far
}

// noDecay matches the parameters that the transformers trainer does not decay.
var noDecay = regexp.MustCompile(`bias|layernorm|rmsnorm|(?:^|\.)norm(?:$|\.)|_norm(?:$|\.)`)

func newOptimizer(d *model.Decoder, a AdamW) (*optimizer, error) {
	o := &optimizer{AdamW: a, b: d.Backend()}
	d.Params(func(name string, p *model.Param) {
		if p.Grad != nil {
			o.slots = append(o.slots, slot{name: name, p: p, decay: !noDecay.MatchString(strings.ToLower(name))})
		}
	})
	if len(o.slots) == 0 {
		return nil, errors.New("nothing to train: every weight is frozen and there is no adapter")
	}
	alloc := func(shape ...int) (t *tensor.Tensor, err error) { return o.b.Alloc(tensor.F32, shape...) }
	var err error
	if o.sum, err = alloc(1); err != nil {
		return nil, err
	}
	for i := range o.slots {
		s := &o.slots[i]
		if s.m, err = alloc(s.p.Value.Shape...); err != nil {
			o.close()
			return nil, err
		}
		if s.v, err = alloc(s.p.Value.Shape...); err != nil {
			o.close()
			return nil, err
		}
	}
	return o, nil
}

func (o *optimizer) close() {
	o.b.Free(o.sum)
	for _, s := range o.slots {
		for _, t := range []*tensor.Tensor{s.m, s.v} {
			if t != nil {
				o.b.Free(t)
			}
		}
	}
}

func (o *optimizer) zero() {
	for _, s := range o.slots {
		o.b.Zero(s.p.Grad)
	}
}

// norm returns the 2-norm of all gradients together.
func (o *optimizer) norm() float64 {
	o.b.Zero(o.sum)
	for _, s := range o.slots {
		o.b.SumSquares(o.sum, s.p.Grad)
	}
	var sum [1]float32
	o.b.Download(sum[:], o.sum)
	return math.Sqrt(float64(sum[0]))
}

// step updates the parameters at lr, for gradients of the given norm.
func (o *optimizer) step(lr, norm float64) {
	scale := 1.0
	if o.MaxGradNorm > 0 {
		scale = min(1, o.MaxGradNorm/(norm+1e-6))
	}
	o.updates++
	for _, s := range o.slots {
		a := tensor.AdamW{LR: lr, Beta1: o.Beta1, Beta2: o.Beta2, Eps: o.Eps, GradScale: scale, Step: o.updates}
		if s.decay {
			a.WeightDecay = o.WeightDecay
		}
		o.b.AdamW(s.p.Value, s.p.Grad, s.m, s.v, a)
	}
}
