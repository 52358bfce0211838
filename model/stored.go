package model

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"pipe/tensor"
	"pipe/tensor/quant"
)

// # Llama 4 on disk and here
//
// A checkpoint of Llama 4 differs from what [Load] takes in two ways. Its rotary embedding turns pairs of
// neighbours, (2i, 2i+1) of a head, where ours turns halves, (i, i+d/2). Rows of q_proj and k_proj are put into
// the order in which both are the same: scores of attention are sums over a head, and do not see it. And
// its experts have one tensor for gate and up, stored transposed: gate_up_proj [E,H,2F] and down_proj [E,F,H], or
// a matrix for each expert, experts.0.gate_proj.weight and so on; here they are three of [E·out,in].

// FromStored returns the checkpoint src, whose tensors are as Hugging Face has them, as Load takes it.
func (c Config) FromStored(src Source) Source {
	if c.Llama4 == nil {
		return src
	}
	if c.Llama4.Images {
		src = textOf{src}
	}
	return llama4From{c, src}
}

// textOf shows the text model in a checkpoint of a model that takes images.
type textOf struct{ src Source }

// textPrefix is what names of its tensors begin with there.
const textPrefix = "language_model."

// Names implements Source.
func (s textOf) Names() (names []string) {
	for _, n := range s.src.Names() {
		if n, ok := strings.CutPrefix(n, textPrefix); ok {
			names = append(names, n)
		}
	}
	return names
}

// Weight implements Source.
func (s textOf) Weight(name string) (Weight, error) { return s.src.Weight(textPrefix + name) }

// Describe implements Describer.
func (s textOf) Describe(name string) (Weight, error) { return Describe(s.src, textPrefix+name) }

// Forget implements Forgetter.
func (s textOf) Forget(name string) {
	if f, ok := s.src.(Forgetter); ok {
		f.Forget(textPrefix + name)
	}
}

// InPlace implements Forgetter.
func (s textOf) InPlace(name string) bool {
	f, ok := s.src.(Forgetter)
	return ok && f.InPlace(textPrefix+name)
}

// WithImages shows a checkpoint of a model that takes images: the text model of text, as ToStored returns it,
// in place of that in whole, and what else whole has.
func WithImages(text, whole Source) Source { return withImages{text, whole} }

type withImages struct{ text, whole Source }

// Names implements Source.
func (s withImages) Names() (names []string) {
	for _, n := range s.text.Names() {
		names = append(names, textPrefix+n)
	}
	for _, n := range s.whole.Names() {
		if !strings.HasPrefix(n, textPrefix) {
			names = append(names, n)
		}
	}
	slices.Sort(names)
	return names
}

// of returns who has a tensor, and what it is called there.
func (s withImages) of(name string) (Source, string) {
	if n, ok := strings.CutPrefix(name, textPrefix); ok {
		return s.text, n
	}
	return s.whole, name
}

// Weight implements Source.
func (s withImages) Weight(name string) (Weight, error) {
	src, n := s.of(name)
	return src.Weight(n)
}

// Describe implements Describer.
func (s withImages) Describe(name string) (Weight, error) {
	src, n := s.of(name)
	return Describe(src, n)
}

// ToStored is the way back.
func (c Config) ToStored(src Source) Source {
	if c.Llama4 == nil {
		return src
	}
	return llama4To{c, src}
}

// StoredRows returns, for the rows of a linear layer's output, the rows of the stored checkpoint that they
// are; nil if these are the same.
func (c Config) StoredRows(path string) []int {
	heads := c.Heads
	switch {
	case c.Llama4 == nil:
		return nil
	case strings.HasSuffix(path, ".k_proj"):
		heads = c.KVHeads
	case !strings.HasSuffix(path, ".q_proj"):
		return nil
	}
	rows, d := make([]int, 0, heads*c.HeadDim), c.HeadDim
	for h := range heads {
		for i := range d {
			rows = append(rows, h*d+i%(d/2)*2+i/(d/2))
		}
	}
	return rows
}

// Permute sets row i of dst, rows of so many bytes, to row order[i] of src; the other way round, row order[i]
// to row i, when back is set.
func Permute(dst, src []byte, size int, order []int, back bool) {
	for i, from := range order {
		to := i
		if back {
			to, from = from, to
		}
		copy(dst[to*size:(to+1)*size], src[from*size:])
	}
}

// experts names the three matrices of a layer of experts, as Load has them.
var experts = [...]string{"gate_proj", "up_proj", "down_proj"}

// expertOf splits the name of a matrix of experts into what comes before and which of them it is.
func expertOf(name string) (prefix string, which int, ok bool) {
	for i, e := range experts {
		if p, ok := strings.CutSuffix(name, ".experts."+e+".weight"); ok {
			return p + ".experts", i, true
		}
	}
	return "", 0, false
}

// described is a weight without its data.
func (w Weight) described() Weight {
	w.Data = nil
	return w
}

// expanded is a weight in F32, whose rows are whole blocks.
func (w Weight) expanded() Weight {
	y := Weight{DType: tensor.F32, Shape: w.Shape}
	if w.Data != nil {
		n := len(w.Data) / w.DType.Bytes(w.DType.Block()) * w.DType.Block()
		x := make([]float32, n)
		quant.Dequantize(x, w.DType, w.Data)
		y.Data = make([]byte, 4*n)
		quant.Quantize(y.Data, tensor.F32, x)
	}
	return y
}

// permuted returns w with its rows in another order.
func (c Config) permuted(name string, w Weight, back bool) (Weight, error) {
	path, ok := strings.CutSuffix(name, ".weight")
	if !ok {
		if path, ok = strings.CutSuffix(name, ".bias"); !ok {
			return w, nil
		}
	}
	order := c.StoredRows(path)
	if order == nil || w.Data == nil {
		return w, nil
	}
	if len(w.Shape) == 0 || w.Shape[0] != len(order) || len(w.Data)%len(order) != 0 {
		return w, nil // Load says what is wrong with its shape
	}
	size := len(w.Data) / len(order)
	if w.DType.Quantized() && len(w.Shape) == 2 && w.Shape[1]%w.DType.Block() != 0 {
		return w, fmt.Errorf("tensor %s: rows of %d elements are not whole %s blocks", name, w.Shape[1], w.DType)
	}
	data := make([]byte, len(w.Data))
	Permute(data, w.Data, size, order, back)
	w.Data = data
	return w, nil
}

// llama4From shows a stored checkpoint as Load takes it.
type llama4From struct {
	c   Config
	src Source
}

// Names implements Source.
func (s llama4From) Names() []string {
	names := map[string]bool{}
	for _, n := range s.src.Names() {
		prefix, rest, ok := strings.Cut(n, ".experts.")
		switch {
		case !ok:
			names[n] = true
		case rest == "gate_up_proj":
			names[prefix+".experts.gate_proj.weight"], names[prefix+".experts.up_proj.weight"] = true, true
		case rest == "down_proj":
			names[prefix+".experts.down_proj.weight"] = true
		default: // of one expert
			var e int
			var which string
			if _, err := fmt.Sscanf(strings.ReplaceAll(rest, ".", " "), "%d %s weight", &e, &which); err == nil && e >= 0 && e < s.c.Llama4.Experts && slices.Contains(experts[:], which) {
				n = prefix + ".experts." + which + ".weight"
			}
			names[n] = true
		}
	}
	return slices.Sorted(maps.Keys(names))
}

// Weight implements Source.
func (s llama4From) Weight(name string) (Weight, error) { return s.get(name, true) }

// Describe implements Describer.
func (s llama4From) Describe(name string) (Weight, error) { return s.get(name, false) }

// Forget implements Forgetter.
func (s llama4From) Forget(name string) {
	f, ok := s.src.(Forgetter)
	if !ok {
		return
	}
	if prefix, which, ok := expertOf(name); ok && which == 2 {
		f.Forget(prefix + ".down_proj")
	} else if !ok {
		f.Forget(name)
	}
}

func (s llama4From) read(name string, data bool) (Weight, error) {
	if data {
		return s.src.Weight(name)
	}
	return Describe(s.src, name)
}

func (s llama4From) get(name string, data bool) (Weight, error) {
	prefix, which, ok := expertOf(name)
	if !ok {
		w, err := s.read(name, data)
		if err != nil {
			return w, err
		}
		return s.c.permuted(name, w, false)
	}
	stored := prefix + ".gate_up_proj"
	if which == 2 {
		stored = prefix + ".down_proj"
	}
	w, err := s.read(stored, data)
	if errors.Is(err, ErrNoTensor) {
		return s.joined(prefix, stored, which, data)
	}
	if err != nil {
		return w, err
	}
	e, in, out := s.c.Llama4.Experts, s.c.Hidden, s.c.Intermediate
	cols, first := 2*out, which*out // columns stored, and the first of them that counts
	if which == 2 {
		in, out = out, in
		cols, first = out, 0
	}
	if want := []int{e, in, cols}; !slices.Equal(w.Shape, want) {
		return w, fmt.Errorf("tensor %s has shape %v in the checkpoint; config.json says %v", stored, w.Shape, want)
	}
	size := 0
	switch w.DType {
	case tensor.F32, tensor.F16, tensor.BF16:
		size = w.DType.Bytes(1)
	default:
		return w, fmt.Errorf("tensor %s has element type %s; must be f32, f16 or bf16", stored, w.DType)
	}
	y := Weight{DType: w.DType, Shape: []int{e * out, in}}
	if !data || w.Data == nil {
		return y, nil
	}
	if len(w.Data) != e*in*cols*size {
		return w, fmt.Errorf("tensor %s has %d bytes; %v of %s needs %d", stored, len(w.Data), w.Shape, w.DType, e*in*cols*size)
	}
	y.Data = make([]byte, e*out*in*size)
	for i := range e {
		transpose(y.Data[i*out*in*size:], in, w.Data[(i*in*cols+first)*size:], cols, in, out, size)
	}
	return y, nil
}

// joined is the matrices of experts that are stored one by one, below each other: there is no tensor stored.
func (s llama4From) joined(prefix, stored string, which int, data bool) (all Weight, err error) {
	for e := range s.c.Llama4.Experts {
		name := fmt.Sprintf("%s.%d.%s.weight", prefix, e, experts[which])
		w, err := s.read(name, data)
		switch {
		case errors.Is(err, ErrNoTensor) && e == 0:
			return w, fmt.Errorf("the checkpoint has neither %s, of all experts, nor %s, of one", stored, name)
		case errors.Is(err, ErrNoTensor):
			return w, fmt.Errorf("the checkpoint has no %s, of one expert, but those of others", name)
		case err != nil:
			return w, fmt.Errorf("%s: %w", name, err)
		case len(w.Shape) != 2 || e > 0 && (w.DType != all.DType || w.Shape[0] != all.Shape[0] || w.Shape[1] != all.Shape[1]):
			return w, fmt.Errorf("tensor %s is %s %v; the experts before it are %s %v", name, w.DType, w.Shape, all.DType, all.Shape)
		}
		if e == 0 {
			all = Weight{DType: w.DType, Shape: slices.Clone(w.Shape)}
		}
		if data {
			all.Data = append(all.Data, w.Data...)
		}
	}
	all.Shape[0] *= s.c.Llama4.Experts
	return all, nil
}

// transpose sets dst, out rows at a distance of ldd elements of size bytes, to the transpose of the first out columns of
// src, in rows at a distance of lds.
func transpose(dst []byte, ldd int, src []byte, lds, in, out, size int) {
	const block = 32 // of both: whole cache lines
	for i0 := 0; i0 < in; i0 += block {
		for j0 := 0; j0 < out; j0 += block {
			for i := i0; i < min(in, i0+block); i++ {
				for j := j0; j < min(out, j0+block); j++ {
					d, s := dst[(j*ldd+i)*size:], src[(i*lds+j)*size:]
					if size == 2 {
						d[0], d[1] = s[0], s[1]
					} else {
						d[0], d[1], d[2], d[3] = s[0], s[1], s[2], s[3]
					}
				}
			}
		}
	}
}

// llama4To shows what Load takes as it is stored.
type llama4To struct {
	c   Config
	src Source
}

// Names implements Source.
func (s llama4To) Names() []string {
	var names []string
	for _, n := range s.src.Names() {
		prefix, which, ok := expertOf(n)
		switch {
		case !ok:
			names = append(names, n)
		case which == 1:
			names = append(names, prefix+".gate_up_proj")
		case which == 2:
			names = append(names, prefix+".down_proj")
		}
	}
	slices.Sort(names)
	return names
}

// Weight implements Source.
func (s llama4To) Weight(name string) (Weight, error) { return s.get(name, Source.Weight) }

// Describe implements Describer.
func (s llama4To) Describe(name string) (Weight, error) {
	w, err := s.get(name, func(src Source, name string) (Weight, error) {
		w, err := Describe(src, name)
		return w.described(), err
	})
	return w, err
}

func (s llama4To) get(name string, read func(Source, string) (Weight, error)) (Weight, error) {
	prefix, fused := strings.CutSuffix(name, ".experts.gate_up_proj")
	if !fused {
		var down bool
		if prefix, down = strings.CutSuffix(name, ".experts.down_proj"); !down {
			w, err := read(s.src, name)
			if err != nil {
				return w, err
			}
			return s.c.permuted(name, w, true)
		}
	}
	e, in, out := s.c.Llama4.Experts, s.c.Hidden, s.c.Intermediate
	which, cols := experts[:2], 2*out
	if !fused {
		in, out = out, in
		which, cols = experts[2:], out
	}
	var y Weight
	for i, n := range which {
		n = prefix + ".experts." + n + ".weight"
		w, err := read(s.src, n)
		if err == nil && w.DType.Quantized() {
			w = w.expanded()
		}
		switch {
		case err != nil:
			return w, err
		case !slices.Equal(w.Shape, []int{e * out, in}) || i > 0 && w.DType != y.DType:
			return w, fmt.Errorf("tensor %s is %s %v; must be [%d %d], and all of one type", n, w.DType, w.Shape, e*out, in)
		}
		size := w.DType.Bytes(1)
		if i == 0 {
			y = Weight{DType: w.DType, Shape: []int{e, in, cols}}
			if w.Data != nil {
				y.Data = make([]byte, e*in*cols*size)
			}
		}
		for j := range e {
			if w.Data != nil {
				transpose(y.Data[(j*in*cols+i*out)*size:], cols, w.Data[j*out*in*size:], in, out, in, size)
			}
		}
	}
	return y, nil
}
