package bnb

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"

	"pipe/model"
	"pipe/model/safetensors"
	"pipe/tensor/quant"
)

const (
	maxState = 64 << 10 // bytes of a state's JSON; real ones have about 200
	maxDim   = 1 << 31
)

// Open returns the checkpoint f with its 4-bit weights as NF4, and the tensors
// that describe them hidden. Weights are decoded when they are asked for; those
// whose rows are not whole blocks become F32. A checkpoint without 4-bit weights
// is returned as it is.
func Open(f *safetensors.File) model.Source {
	s := source{f, map[string]bool{}}
	for _, name := range f.Names() {
		if base, ok := strings.CutSuffix(name, stateName); ok {
			s.packed[base] = true
		}
	}
	if len(s.packed) == 0 && !slices.ContainsFunc(f.Names(), isFP4) {
		return f
	}
	return s
}

func isFP4(name string) bool { return strings.HasSuffix(name, ".quant_state.bitsandbytes__fp4") }

type source struct {
	f      *safetensors.File
	packed map[string]bool // weights in 4 bits
}

var _ model.Describer = source{}

// parts are the suffixes of the tensors that describe a weight.
var parts = []string{".absmax", ".quant_map", ".nested_absmax", ".nested_quant_map", stateName}

// Names implements model.Source.
func (s source) Names() []string {
	return slices.DeleteFunc(s.f.Names(), func(name string) bool {
		for _, p := range parts {
			if base, ok := strings.CutSuffix(name, p); ok && s.packed[base] {
				return true
			}
		}
		return false
	})
}

// Weight implements model.Source.
func (s source) Weight(name string) (model.Weight, error) {
	if !s.packed[name] {
		return s.plain(name)
	}
	st, err := s.read(name)
	if err != nil {
		return model.Weight{}, fmt.Errorf("tensor %s in 4 bits: %w", name, err)
	}
	return st.weight(), nil
}

// Describe implements model.Describer; Data is nil.
func (s source) Describe(name string) (model.Weight, error) {
	if !s.packed[name] {
		return s.plain(name)
	}
	h, err := s.header(name)
	if err != nil {
		return model.Weight{}, fmt.Errorf("tensor %s in 4 bits: %w", name, err)
	}
	return model.Weight{DType: dtypeOf(h.Shape[1], h.BlockSize), Shape: h.Shape}, nil
}

func (s source) plain(name string) (model.Weight, error) {
	if _, _, _, err := s.f.Raw(name + ".quant_state.bitsandbytes__fp4"); err == nil {
		return model.Weight{}, fmt.Errorf("tensor %s is quantised as fp4, which is not supported; nf4 is", name)
	}
	return s.f.Weight(name)
}

// A header is the JSON of a state.
type header struct {
	QuantType    string   `json:"quant_type"`
	BlockSize    int      `json:"blocksize"`
	DType        string   `json:"dtype"`
	Shape        []int    `json:"shape"`
	NestedBlock  *int     `json:"nested_blocksize"`
	NestedDType  *string  `json:"nested_dtype"`
	NestedOffset *float64 `json:"nested_offset"`

	codes []byte // of the weight
}

// header reads the state's JSON and checks it, and the size of the codes.
func (s source) header(name string) (*header, error) {
	data, err := s.bytes(name+stateName, "U8")
	if err != nil {
		return nil, err
	}
	if len(data) > maxState {
		return nil, fmt.Errorf("its quant_state has %d bytes; at most %d are read", len(data), maxState)
	}
	h := &header{}
	if err := json.Unmarshal(data, h); err != nil {
		return nil, fmt.Errorf("its quant_state is not what bitsandbytes writes: %w", err)
	}
	switch {
	case h.QuantType != "nf4":
		return nil, fmt.Errorf("quant_type is %q in its quant_state, nf4 in its name", h.QuantType)
	case !power(h.BlockSize, 32, 4096):
		return nil, fmt.Errorf("blocksize is %d; must be a power of two from 32 to 4096", h.BlockSize)
	case !slices.Contains([]string{"float32", "float16", "bfloat16"}, h.DType):
		return nil, fmt.Errorf("dtype is %q; must be float32, float16 or bfloat16", h.DType)
	case len(h.Shape) != 2 || !(h.Shape[0] > 0 && h.Shape[0] < maxDim && h.Shape[1] > 0 && h.Shape[1] < maxDim):
		return nil, fmt.Errorf("shape is %v; must be [out, in]", h.Shape)
	}
	if h.codes, err = s.bytes(name, ""); err != nil { // quant_storage may be any type
		return nil, err
	}
	if n := h.Shape[0] * h.Shape[1]; len(h.codes) != (n+1)/2 {
		return nil, fmt.Errorf("has %d bytes of codes; shape %v needs %d", len(h.codes), h.Shape, (n+1)/2)
	}
	return h, nil
}

// read reads a state and checks every part of it.
func (s source) read(name string) (*state, error) {
	h, err := s.header(name)
	if err != nil {
		return nil, err
	}
	known := quant.NF4Map()
	if m, err := s.floats(name+".quant_map", len(known)); err != nil {
		return nil, err
	} else if !slices.Equal(m, known[:]) {
		return nil, fmt.Errorf("its quant_map is not that of NF4: %v", m)
	}
	n := h.Shape[0] * h.Shape[1]
	st := &state{rows: h.Shape[0], cols: h.Shape[1], dtype: h.DType, block: h.BlockSize, codes: h.codes}
	blocks := (n + h.BlockSize - 1) / h.BlockSize
	if s.has(name + ".nested_absmax") {
		st.scale, err = s.nested(name, h, blocks)
	} else if h.NestedBlock != nil || h.NestedOffset != nil {
		err = errors.New("its quant_state speaks of nested scales, but nested_absmax is missing")
	} else {
		st.scale, err = s.floats(name+".absmax", blocks)
	}
	if err != nil {
		return nil, err
	}
	for i, v := range st.scale {
		if !(math.Abs(float64(v)) <= math.MaxFloat32) {
			return nil, fmt.Errorf("the scale of block %d is %v", i, v)
		}
	}
	return st, nil
}

// nested decodes scales in 8 bits. Maps of any finite values are used as they
// are: they have differed in their last bits.
func (s source) nested(name string, h *header, blocks int) ([]float32, error) {
	switch {
	case h.NestedBlock == nil || !power(*h.NestedBlock, 32, 4096):
		return nil, errors.New("nested_blocksize must be a power of two from 32 to 4096")
	case h.NestedDType == nil || *h.NestedDType != "float32":
		return nil, errors.New("nested_dtype must be float32")
	case h.NestedOffset == nil || !(math.Abs(*h.NestedOffset) <= math.MaxFloat32):
		return nil, errors.New("nested_offset is missing or no float32")
	}
	codes, err := s.bytes(name+".absmax", "U8")
	if err == nil && len(codes) != blocks {
		err = fmt.Errorf("absmax has %d codes; shape %v in blocks of %d needs %d", len(codes), h.Shape, h.BlockSize, blocks)
	}
	if err != nil {
		return nil, err
	}
	var values [256]float32
	m, err := s.floats(name+".nested_quant_map", len(values))
	if err != nil {
		return nil, err
	}
	copy(values[:], m)
	scale, err := s.floats(name+".nested_absmax", (blocks+*h.NestedBlock-1) / *h.NestedBlock)
	if err != nil {
		return nil, err
	}
	out := make([]float32, blocks)
	quant.DequantizeDynamic(out, codes, scale, &values, *h.NestedBlock, float32(*h.NestedOffset))
	return out, nil
}

func power(n, least, most int) bool { return n >= least && n <= most && n&(n-1) == 0 }

func (s source) has(name string) bool {
	_, _, _, err := s.f.Raw(name)
	return err == nil
}

// bytes returns the data of a tensor, of that type unless it is "".
func (s source) bytes(name, dtype string) ([]byte, error) {
	got, _, data, err := s.f.Raw(name)
	if err == nil && dtype != "" && got != dtype {
		err = fmt.Errorf("%s is of type %s; must be %s", name, got, dtype)
	}
	return data, err
}

// floats returns n finite numbers of an F32 tensor.
func (s source) floats(name string, n int) ([]float32, error) {
	data, err := s.bytes(name, "F32")
	if err != nil {
		return nil, err
	}
	if len(data) != 4*n {
		return nil, fmt.Errorf("%s has %d numbers; must have %d", name, len(data)/4, n)
	}
	v := make([]float32, n)
	for i := range v {
		v[i] = math.Float32frombits(binary.LittleEndian.Uint32(data[4*i:]))
		if !(math.Abs(float64(v[i])) <= math.MaxFloat32) {
			return nil, fmt.Errorf("%s[%d] is %v", name, i, v[i])
		}
	}
	return v, nil
}
