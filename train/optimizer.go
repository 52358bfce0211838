package train

import (
	"errors"
	"fmt"
	"math"
	"regexp"
	"slices"
	"strings"

	"pipe/model"
	"pipe/tensor"
)

// AdamW is the optimizer's settings (Loshchilov & Hutter 2019).
type AdamW struct {
	LR, Beta1, Beta2, Eps float64
	WeightDecay           float64 // not applied to norms and biases
	MaxGradNorm           float64 // gradients are scaled down to this norm; 0: never
	// EightBit keeps moments in 8 bits, 2 bytes a parameter instead of 8, for
	// tensors of at least 4096 elements (Dettmers et al. 2022): see
	// [tensor.Optimizer].
	EightBit bool
}

// Optimizers.
const (
	OptimizerAdamW     = "adamw"
	OptimizerAdamW8bit = "adamw_8bit" // [AdamW] with EightBit
)

// Optimizers returns the names of the optimizers.
func Optimizers() []string { return []string{OptimizerAdamW, OptimizerAdamW8bit} }

// leastEightBit is the smallest tensor with moments of 8 bits, as in
// bitsandbytes.
const leastEightBit = 4096

// NewAdamW returns the defaults.
func NewAdamW() AdamW {
	return AdamW{LR: 2e-4, Beta1: 0.9, Beta2: 0.999, Eps: 1e-8, MaxGradNorm: 1}
}

// A slot is one trained parameter with its moments: F32, with no largest values,
// or U8.
type slot struct {
	name string
	tensor.AdamWParam
}

// states visits the moments.
func (s *slot) states(visit func(name string, t *tensor.Tensor)) {
	visit("m", s.M)
	visit("v", s.V)
	if s.MMax != nil {
		visit("m_max", s.MMax)
		visit("v_max", s.VMax)
	}
}

// An optimizer steps all trained parameters of a model.
type optimizer struct {
	AdamW
	b       tensor.Backend
	slots   []slot
	grads   []*tensor.Tensor    // of all slots
	whole   []tensor.AdamWParam // the slots with moments of F32
	eight   []tensor.AdamWParam // and those of 8 bits
	sum     *tensor.Tensor      // [1]
	total   [1]float32          // its content
	updates int                 // applied so far
}

// noDecay matches the parameters that the transformers trainer does not decay.
var noDecay = regexp.MustCompile(`bias|layernorm|rmsnorm|(?:^|\.)norm(?:$|\.)|_norm(?:$|\.)`)

// slotsOf returns what is trained of d, without moments.
func slotsOf(d *model.Decoder) (slots []slot) {
	d.Params(func(name string, p *model.Param) {
		if p.Grad != nil {
			slots = append(slots, slot{name, tensor.AdamWParam{W: p.Value, G: p.Grad, NoDecay: noDecay.MatchString(strings.ToLower(name))}})
		}
	})
	return slots
}

// newOptimizer returns the optimizer of what is trained of d. The moments of the
// first paged parameters lie in the machine's memory: see Options.
func newOptimizer(d *model.Decoder, a AdamW, paged int) (*optimizer, error) {
	o := &optimizer{AdamW: a, b: d.Backend(), slots: slotsOf(d)}
	if len(o.slots) == 0 {
		return nil, errors.New("nothing to train: every weight is frozen and there is no adapter")
	}
	var err error
	tensor.For(o.b, tensor.ForOptimizer)
	if o.sum, err = o.b.Alloc(tensor.F32, 1); err != nil {
		return nil, err
	}
	for i := range o.slots {
		s, moments := &o.slots[i], o.b.Alloc
		if h, ok := o.b.(tensor.HostAllocator); ok && i < paged {
			moments = h.AllocHost
		}
		if err := s.alloc(o.b, a.EightBit, moments); err != nil {
			o.close()
			return nil, fmt.Errorf("allocate the optimizer's state: %w", err)
		}
		o.grads = append(o.grads, s.G)
		if s.MMax != nil {
			o.eight = append(o.eight, s.AdamWParam)
		} else {
			o.whole = append(o.whole, s.AdamWParam)
		}
	}
	return o, nil
}

// alloc makes the moments, all zero, by moments, and their largest values on b.
func (s *slot) alloc(b tensor.Backend, eightBit bool, moments func(tensor.DType, ...int) (*tensor.Tensor, error)) (err error) {
	alloc := func(t **tensor.Tensor, by func(tensor.DType, ...int) (*tensor.Tensor, error), dt tensor.DType, shape ...int) {
		if err == nil {
			*t, err = by(dt, shape...)
		}
	}
	dt := tensor.F32
	if n := s.W.Len(); eightBit && n >= leastEightBit {
		dt = tensor.U8
		alloc(&s.MMax, b.Alloc, tensor.F32, tensor.AdamWBlocks(n))
		alloc(&s.VMax, b.Alloc, tensor.F32, tensor.AdamWBlocks(n))
	}
	alloc(&s.M, moments, dt, s.W.Shape...)
	alloc(&s.V, moments, dt, s.W.Shape...)
	return err
}

func (o *optimizer) close() {
	for _, t := range o.tensors() {
		o.b.Free(t)
	}
}

// tensors returns what is allocated.
func (o *optimizer) tensors() []*tensor.Tensor {
	list := []*tensor.Tensor{o.sum}
	for _, s := range o.slots {
		list = append(list, s.M, s.V, s.MMax, s.VMax)
	}
	return slices.DeleteFunc(list, func(t *tensor.Tensor) bool { return t == nil })
}

func (o *optimizer) zero() { o.b.ZeroAll(o.grads) }

// norm returns the 2-norm of all gradients together.
func (o *optimizer) norm() float64 {
	o.b.Zero(o.sum)
	o.b.SumSquares(o.sum, o.grads...)
	o.b.Download(o.total[:], o.sum)
	return math.Sqrt(float64(o.total[0]))
}

// step updates the parameters at lr, for gradients of the given norm.
func (o *optimizer) step(lr, norm float64) {
	scale := 1.0
	if o.MaxGradNorm > 0 {
		scale = min(1, o.MaxGradNorm/(norm+1e-6))
	}
	o.updates++
	a := tensor.AdamW{LR: lr, Beta1: o.Beta1, Beta2: o.Beta2, Eps: o.Eps, WeightDecay: o.WeightDecay, GradScale: scale, Step: o.updates}
	o.b.AdamW(o.whole, a)
	o.b.AdamW8bit(o.eight, a)
}
