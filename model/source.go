package model

import (
	"fmt"
	"maps"
	"slices"

	"pipe/tensor"
)

// A Weight is one tensor of a checkpoint. Data holds its elements row-major
// in DType, little-endian, and must not be changed: it may be a mapped file.
type Weight struct {
	DType tensor.DType
	Shape []int
	Data  []byte // len = DType.Bytes(product of Shape)
}

// A Source is a checkpoint: tensors by their Hugging Face names and in Hugging
// Face layout, whatever the file is. The data of a Weight stays valid until
// the Source is closed by whoever opened it.
type Source interface {
	// Names returns the names of all tensors, sorted.
	Names() []string
	// Weight returns the tensor of that name; the error for a missing one
	// wraps [ErrNoTensor].
	Weight(name string) (Weight, error)
}

// ErrNoTensor says that a checkpoint lacks a tensor.
var ErrNoTensor = fmt.Errorf("the checkpoint has no such tensor")

// Weights is a Source in memory.
type Weights map[string]Weight

// Names implements Source.
func (w Weights) Names() []string { return slices.Sorted(maps.Keys(w)) }

// Weight implements Source.
func (w Weights) Weight(name string) (Weight, error) {
	t, ok := w[name]
	if !ok {
		return Weight{}, fmt.Errorf("%s: %w", name, ErrNoTensor)
	}
	return t, nil
}

// A Describer is a Source that can tell a weight's type and shape at less cost
// than Weight.
type Describer interface {
	Source
	// Describe is Weight, but the rows of Data may be in another order, and
	// Data is nil when its elements would have to be computed.
	Describe(name string) (Weight, error)
}

// Describe returns the type and shape of a weight of src, at less cost than
// Weight if src can.
func Describe(src Source, name string) (Weight, error) {
	if d, ok := src.(Describer); ok {
		return d.Describe(name)
	}
	return src.Weight(name)
}

// A Forgetter is a Source of mapped files. Forget takes the data of a tensor,
// which has been copied, out of memory: it is read again from the file when it is
// touched. InPlace reports whether the data that Weight returns is of the file.
// Forget may be called beside other methods and itself.
type Forgetter interface {
	Source
	Forget(name string)
	InPlace(name string) bool
}

// Described returns src as a [tensor.Plan] loads it: with the types and shapes
// of its weights, not their content.
func Described(src Source) Source {
	if d, ok := src.(Describer); ok {
		return described{d}
	}
	return src
}

type described struct{ Describer }

func (d described) Weight(name string) (Weight, error) { return d.Describe(name) }

// Forget implements Forgetter.
func (d described) Forget(string) {}

// InPlace implements Forgetter.
func (d described) InPlace(name string) bool {
	f, ok := d.Describer.(Forgetter)
	return ok && f.InPlace(name)
}
