// Package bnb reads and writes weights in 4 bits as bitsandbytes stores them in
// safetensors files, and quantises weights as bitsandbytes does: NF4 in blocks
// of 64 elements whose scales are quantised once more (QLoRA, Dettmers et al.
// 2023).
//
// # Format
//
// The weight M of shape [out, in] is several tensors (n elements in all):
//
//	M                                  two codes to a byte, [(n+1)/2, 1]
//	M.absmax                           f32 [blocks], or u8 codes when nested
//	M.quant_map                        f32 [16], the values of the codes
//	M.nested_absmax                    f32, when nested: one for 256 scales
//	M.nested_quant_map                 f32 [256], when nested
//	M.quant_state.bitsandbytes__nf4    u8, a JSON object: type, sizes, shape
//
// Blocks run through all elements row by row. Values are computed in float32,
// map[code]·scale, and stay so, where bitsandbytes rounds them to the type that
// the weight once had: bfloat16, usually.
//
// Files are untrusted: every size is held against the others, and nothing is
// allocated by a size that the file does not fill.
package bnb

import (
	"encoding/binary"
	"fmt"
	"math"
	"runtime"
	"sync"

	"pipe/model"
	"pipe/tensor"
	"pipe/tensor/quant"
)

const (
	block     = 64 // elements of a scale, as written
	stateName = ".quant_state.bitsandbytes__nf4"
)

// A state is one weight in 4 bits.
type state struct {
	rows, cols int
	dtype      string    // of the weight before, as torch names it
	block      int       // elements of a scale
	codes      []byte    // two to a byte, the even element in the high nibble
	scale      []float32 // decoded
	nested     *nested   // how scale is stored; nil: as it is
}

// nested are the scales in 8 bits.
type nested struct {
	codes  []byte
	scale  []float32
	offset float32
}

// quantize makes NF4 of x [rows, cols] with nested scales.
func quantize(x []float32, rows, cols int, dtype string) *state {
	n := len(x)
	blocks := (n + block - 1) / block
	s := &state{rows: rows, cols: cols, dtype: dtype, block: block, codes: make([]byte, (n+1)/2), scale: make([]float32, blocks)}
	parallel(blocks, 1<<10, func(lo, hi int) {
		var v [block]float32
		var b [4 + block/2]byte
		for i := lo; i < hi; i++ {
			part := v[:copy(v[:], x[i*block:])]
			clear(v[len(part):])
			top := float32(1)
			if len(part) < block { // bitsandbytes divides a short block first
				top = divide(part)
			}
			quant.Quantize(b[:], tensor.NF4, v[:])
			s.scale[i] = top * math.Float32frombits(binary.LittleEndian.Uint32(b[:]))
			copy(s.codes[i*block/2:], b[4:])
		}
	})
	s.nest()
	return s
}

// divide divides x by its largest magnitude, which it returns; 0 counts as 1.
func divide(x []float32) float32 {
	var top float32
	for _, v := range x {
		top = max(top, v, -v)
	}
	if top == 0 {
		top = 1
	}
	for i := range x {
		x[i] /= top
	}
	return top
}

// nest rounds the scales to what 8 bits and their mean keep of them.
func (s *state) nest() {
	m := quant.DynamicMap()
	s.nested = &nested{
		codes:  make([]byte, len(s.scale)),
		scale:  make([]float32, (len(s.scale)+quant.DynamicBlock-1)/quant.DynamicBlock),
		offset: quant.Mean(s.scale),
	}
	for i := range s.scale {
		s.scale[i] -= s.nested.offset
	}
	quant.QuantizeDynamic(s.nested.codes, s.nested.scale, s.scale)
	quant.DequantizeDynamic(s.scale, s.nested.codes, s.nested.scale, &m, quant.DynamicBlock, s.nested.offset)
}

// dtypeOf is the type that weight has: NF4 when every row is whole blocks.
func dtypeOf(cols, blockSize int) tensor.DType {
	if cols%tensor.NF4.Block() == 0 && blockSize%tensor.NF4.Block() == 0 {
		return tensor.NF4
	}
	return tensor.F32
}

// weight returns the weight in NF4 or, when its rows are not whole blocks, what
// its blocks decode to in F32.
func (s *state) weight() model.Weight {
	w := model.Weight{DType: dtypeOf(s.cols, s.block), Shape: []int{s.rows, s.cols}}
	if w.DType == tensor.F32 {
		w.Data = s.floats()
		return w
	}
	const size = block / 2
	blocks := s.rows * s.cols / block
	w.Data = make([]byte, tensor.NF4.Bytes(blocks*block))
	parallel(blocks, 1<<12, func(lo, hi int) {
		for i := lo; i < hi; i++ {
			b := w.Data[i*(4+size):][:4+size]
			binary.LittleEndian.PutUint32(b, math.Float32bits(s.scale[i*block/s.block]))
			copy(b[4:], s.codes[i*size:(i+1)*size])
		}
	})
	return w
}

// floats returns the values as F32 data.
func (s *state) floats() []byte {
	values, data := quant.NF4Map(), make([]byte, 4*s.rows*s.cols)
	for i := range s.rows * s.cols {
		q := s.codes[i/2] >> (4 - i%2*4) & 15
		binary.LittleEndian.PutUint32(data[4*i:], math.Float32bits(values[q]*s.scale[i/s.block]))
	}
	return data
}

// parallel runs f over parts of 0..n of about size, on all processors.
func parallel(n, size int, f func(lo, hi int)) {
	var wg sync.WaitGroup
	parts := min(runtime.GOMAXPROCS(0), max(1, n/size))
	for p := range parts {
		wg.Go(func() { f(n*p/parts, n*(p+1)/parts) })
	}
	wg.Wait()
}

// expand returns a plain weight in float32. NaN and infinity are errors: one
// would spoil its block, or all scales.
func expand(w model.Weight) ([]float32, error) {
	x := make([]float32, w.Shape[0]*w.Shape[1])
	quant.Dequantize(x, w.DType, w.Data)
	for i, v := range x {
		if !(math.Abs(float64(v)) <= math.MaxFloat32) {
			return nil, fmt.Errorf("element [%d, %d] is %v, which NF4 cannot hold", i/w.Shape[1], i%w.Shape[1], v)
		}
	}
	return x, nil
}
