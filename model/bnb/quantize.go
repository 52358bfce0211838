package bnb

import (
	"errors"
	"fmt"
	"strings"

	"pipe/model"
	"pipe/tensor"
)

// Quantize returns the checkpoint src with its linear layers in NF4 as
// bitsandbytes loads them with load_in_4bit and double quantisation: all but
// the output head, and no embedding, norm or bias. A weight is quantised when
// it is asked for. One whose rows are not whole blocks has the same values, in
// F32.
//
// The codes of scales are the nearest ones, as the default and CUDA back ends of
// bitsandbytes take them; its CPU library takes the neighbour for about one in
// 500. The mean of the scales is that of one thread.
func Quantize(src model.Source) (model.Source, error) {
	if _, ok := src.(source); ok {
		return nil, errors.New("the checkpoint is in 4 bits already; it is used as it is")
	}
	return quantized{src}, nil
}

type quantized struct{ src model.Source }

var (
	_ model.Describer = quantized{}
	_ model.Forgetter = quantized{}
)

// Forget implements model.Forgetter.
func (q quantized) Forget(name string) {
	if f, ok := q.src.(model.Forgetter); ok {
		f.Forget(name)
	}
}

// InPlace implements model.Forgetter: what is quantised is a copy.
func (q quantized) InPlace(name string) bool {
	f, ok := q.src.(model.Forgetter)
	if !ok || !f.InPlace(name) {
		return false
	}
	w, err := model.Describe(q.src, name)
	return err == nil && !Quantizes(name, w.Shape)
}

// Names implements model.Source.
func (q quantized) Names() []string { return q.src.Names() }

// Weight implements model.Source.
func (q quantized) Weight(name string) (model.Weight, error) {
	w, err := q.src.Weight(name)
	if err != nil || !Quantizes(name, w.Shape) {
		return w, err
	}
	if err := plain(w.DType); err != nil {
		return model.Weight{}, fmt.Errorf("quantise tensor %s: %w", name, err)
	}
	x, err := expand(w)
	if err != nil {
		return model.Weight{}, fmt.Errorf("quantise tensor %s: %w", name, err)
	}
	codes := quantize(x, w.Shape[0], w.Shape[1], "").weight()
	q.Forget(name)
	return codes, nil
}

// Describe implements model.Describer; Data is nil for what is quantised.
func (q quantized) Describe(name string) (model.Weight, error) {
	w, err := model.Describe(q.src, name)
	if err != nil || !Quantizes(name, w.Shape) {
		return w, err
	}
	if err := plain(w.DType); err != nil {
		return model.Weight{}, fmt.Errorf("quantise tensor %s: %w", name, err)
	}
	return model.Weight{DType: dtypeOf(w.Shape[1], block), Shape: w.Shape}, nil
}

// Quantizes reports whether the weight of that name and shape is one of those
// that bitsandbytes quantises: the matrices of layers, but for routers to experts.
func Quantizes(name string, shape []int) bool {
	return len(shape) == 2 && strings.HasPrefix(name, "model.layers.") && strings.HasSuffix(name, ".weight") && !strings.HasSuffix(name, ".router.weight")
}

// plain refuses weights that lost bits already: a second rounding would lose
// more, and gain little.
func plain(dt tensor.DType) error {
	switch dt {
	case tensor.F32, tensor.F16, tensor.BF16:
		return nil
	}
	return fmt.Errorf("it is in %s already; only f32, f16 and bf16 are quantised", dt)
}
