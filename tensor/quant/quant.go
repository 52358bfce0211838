// Package quant converts between float32 and the storage types of package
// tensor: half precision, the block formats of GGUF files, and NF4.
//
// # Conventions
//
// Data is little-endian, blocks lie end to end, and nothing is allocated. The
// arithmetic is float32 with every product rounded, so that the bits equal
// those of ggml's reference functions, and of bitsandbytes' for NF4, on every
// processor.
//
// The length of dst and src must describe the same whole number of blocks:
// anything else is a bug in the caller, and panics.
package quant

import (
	"encoding/binary"
	"fmt"
	"math"

	"pipe/tensor"
)

// Dequantize sets dst to the elements of src, which are of type dt. I32 and U8
// become floats of the same value, rounded to nearest. len(src) must be
// dt.Bytes(len(dst)).
func Dequantize(dst []float32, dt tensor.DType, src []byte) {
	check(len(dst), dt, len(src))
	switch dt {
	case tensor.F32:
		for i := range dst {
			dst[i] = math.Float32frombits(binary.LittleEndian.Uint32(src[4*i:]))
		}
	case tensor.F16:
		for i := range dst {
			dst[i] = FromF16(binary.LittleEndian.Uint16(src[2*i:]))
		}
	case tensor.BF16:
		for i := range dst {
			dst[i] = FromBF16(binary.LittleEndian.Uint16(src[2*i:]))
		}
	case tensor.I32:
		for i := range dst {
			dst[i] = float32(int32(binary.LittleEndian.Uint32(src[4*i:])))
		}
	case tensor.U8:
		for i, b := range src {
			dst[i] = float32(b)
		}
	case tensor.Q4_0:
		dequantizeQ4_0(dst, src)
	case tensor.Q4_1:
		dequantizeQ4_1(dst, src)
	case tensor.Q5_0:
		dequantizeQ5_0(dst, src)
	case tensor.Q5_1:
		dequantizeQ5_1(dst, src)
	case tensor.Q8_0:
		dequantizeQ8_0(dst, src)
	case tensor.Q4_K:
		dequantizeQ4_K(dst, src)
	case tensor.Q5_K:
		dequantizeQ5_K(dst, src)
	case tensor.Q6_K:
		dequantizeQ6_K(dst, src)
	case tensor.NF4:
		dequantizeNF4(dst, src)
	}
}

// CanQuantize reports whether Quantize writes dt.
func CanQuantize(dt tensor.DType) bool {
	switch dt {
	case tensor.F32, tensor.F16, tensor.BF16, tensor.Q4_0, tensor.Q4_1, tensor.Q5_0, tensor.Q5_1,
		tensor.Q8_0, tensor.Q4_K, tensor.Q6_K, tensor.NF4:
		return true
	}
	return false
}

// Quantize sets dst to src in type dt, as ggml's reference quantisers do it
// without an importance matrix, and bitsandbytes' does NF4. len(dst) must be dt.Bytes(len(src)). F32, F16
// and BF16 take any value; for block formats src must be finite, since a NaN
// would spoil its block silently.
func Quantize(dst []byte, dt tensor.DType, src []float32) {
	check(len(src), dt, len(dst))
	switch dt {
	case tensor.F32:
		for i, v := range src {
			binary.LittleEndian.PutUint32(dst[4*i:], math.Float32bits(v))
		}
	case tensor.F16:
		for i, v := range src {
			binary.LittleEndian.PutUint16(dst[2*i:], ToF16(v))
		}
	case tensor.BF16:
		for i, v := range src {
			binary.LittleEndian.PutUint16(dst[2*i:], ToBF16(v))
		}
	case tensor.Q4_0:
		quantizeQ4_0(dst, src)
	case tensor.Q4_1:
		quantizeQ4_1(dst, src)
	case tensor.Q5_0:
		quantizeQ5_0(dst, src)
	case tensor.Q5_1:
		quantizeQ5_1(dst, src)
	case tensor.Q8_0:
		quantizeQ8_0(dst, src)
	case tensor.Q4_K:
		quantizeQ4_K(dst, src)
	case tensor.Q6_K:
		quantizeQ6_K(dst, src)
	case tensor.NF4:
		quantizeNF4(dst, src)
	default:
		panic(fmt.Sprintf("quant: cannot quantise to %s", dt))
	}
}

func check(n int, dt tensor.DType, bytes int) {
	if !dt.Valid() {
		panic(fmt.Sprintf("quant: %s is not a type", dt))
	}
	if n%dt.Block() != 0 || dt.Bytes(n) != bytes {
		panic(fmt.Sprintf("quant: %d elements of %s do not fill %d bytes", n, dt, bytes))
	}
}
