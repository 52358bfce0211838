package adapter

import (
	"encoding/binary"
	"fmt"
	"math"
	"strings"

	"pipe/model"
	"pipe/tensor"
)

// Merge returns the checkpoint src, from which the adapted decoder was loaded,
// with the adapter folded in: W + scale·B·A, each row rescaled by m/c for DoRA.
// Merged tensors are F32, whatever they were; all others are passed on. A
// tensor is computed when it is asked for.
func (s *Set) Merge(src model.Source) model.Source { return merged{s, src} }

type merged struct {
	s   *Set
	src model.Source
}

// Names implements model.Source.
func (m merged) Names() []string { return m.src.Names() }

// Weight implements model.Source.
func (m merged) Weight(name string) (model.Weight, error) {
	path, ok := strings.CutSuffix(name, ".weight")
	l := m.s.linear[path]
	if !ok || l == nil || l.Adapter == nil {
		return m.src.Weight(name)
	}
	w, err := m.s.merge(l)
	if err != nil {
		return model.Weight{}, fmt.Errorf("merge the adapter into %s: %w", name, err)
	}
	return w, nil
}

func (s *Set) merge(l *model.Linear) (model.Weight, error) {
	b, a := s.d.Backend(), l.Adapter.(*lora)
	out, in := l.Out(), l.In()
	w, err := b.Alloc(tensor.F32, out, in)
	if err != nil {
		return model.Weight{}, err
	}
	defer b.Free(w)
	b.Dequantize(w, l.W.Value)
	b.MatMul(w, a.b.Value, a.a.Value, tensor.MatMul{Alpha: a.scale, Beta: 1})
	v := make([]float32, out*in)
	b.Download(v, w)
	if a.m != nil {
		a.norm(b, l)
		ratio := make([]float32, out)
		b.Download(ratio, a.ratio)
		for j, r := range ratio {
			for i := range in {
				v[j*in+i] *= r
			}
		}
	}
	data := make([]byte, 0, 4*len(v))
	for i, x := range v {
		if !(math.Abs(float64(x)) <= math.MaxFloat32) {
			return model.Weight{}, fmt.Errorf("element [%d, %d] is %v", i/in, i%in, x)
		}
		data = binary.LittleEndian.AppendUint32(data, math.Float32bits(x))
	}
	return model.Weight{DType: tensor.F32, Shape: []int{out, in}, Data: data}, b.Sync()
}
