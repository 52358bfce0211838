// Package tensor holds the numbers: element types, shapes, device memory, and
// the short list of operations that a backend must run.
//
// Package cpu (below this one) is the reference backend; package gpu is the
// CUDA one. Package tensortest runs the same conformance suite over both.
//
// # Conventions, stated once
//
// Matrices are row-major. A linear layer stores W as [out, in] and computes
// y = x·Wᵀ. Token dimensions come first: activations are [tokens, width];
// queries, keys and values are [tokens, heads·headDim].
//
// Parameter gradients accumulate (+=); activations and their gradients are
// overwritten (=). An operation that differs says so.
package tensor

import "fmt"

// DType is the element type of a [Tensor].
type DType uint8

// Element types. Types from Q4_0 on are block formats: a row of a matrix is a
// whole number of blocks, and only Backend.MatMul, Backend.Embed,
// Backend.LogProb and Backend.Dequantize read them.
const (
	F32 DType = iota
	F16
	BF16
	I32
	U8
	Q4_0 // GGUF blocks of 32 elements, 18 bytes
	Q4_1 // GGUF blocks of 32 elements, 20 bytes
	Q5_0 // GGUF blocks of 32 elements, 22 bytes
	Q5_1 // GGUF blocks of 32 elements, 24 bytes
	Q8_0 // GGUF blocks of 32 elements, 34 bytes
	Q4_K // GGUF super-blocks of 256 elements, 144 bytes
	Q5_K // GGUF super-blocks of 256 elements, 176 bytes
	Q6_K // GGUF super-blocks of 256 elements, 210 bytes
	NF4  // bitsandbytes blocks of 64 elements, 36 bytes: f32 absmax, then nibbles, even element high
	FP8  // no type of tensors: a precision, see [Memory].Precision
)

var dtypes = [...]struct {
	name         string
	block, bytes int // elements in a block, bytes of a block
}{
	F32: {"f32", 1, 4}, F16: {"f16", 1, 2}, BF16: {"bf16", 1, 2}, I32: {"i32", 1, 4}, U8: {"u8", 1, 1},
	Q4_0: {"q4_0", 32, 18}, Q4_1: {"q4_1", 32, 20}, Q5_0: {"q5_0", 32, 22}, Q5_1: {"q5_1", 32, 24},
	Q8_0: {"q8_0", 32, 34}, Q4_K: {"q4_k", 256, 144}, Q5_K: {"q5_k", 256, 176}, Q6_K: {"q6_k", 256, 210},
	NF4: {"nf4", 64, 36}, FP8: {"fp8", 1, 1},
}

// String returns the lower-case name, such as "bf16" or "q4_k".
func (d DType) String() string {
	if int(d) < len(dtypes) {
		return dtypes[d].name
	}
	return fmt.Sprintf("dtype(%d)", uint8(d))
}

// Valid reports whether d is a type that tensors can have.
func (d DType) Valid() bool { return d < FP8 }

// Block returns how many elements are stored together: 1 for plain types.
func (d DType) Block() int { return dtypes[d].block }

// Quantized reports whether d is a block format.
func (d DType) Quantized() bool { return dtypes[d].block > 1 }

// Bytes returns the size of n elements. n must be a multiple of Block.
func (d DType) Bytes(n int) int {
	if n%dtypes[d].block != 0 {
		panic(fmt.Sprintf("tensor: %d elements are not a whole number of %s blocks", n, d))
	}
	return n / dtypes[d].block * dtypes[d].bytes
}

// A Tensor is a dense row-major array that lives on one backend. Its fields
// are fixed at allocation; only the elements change.
type Tensor struct {
	DType DType
	Shape []int
	Mem   any // the backend's own handle; no other package looks inside
}

// Len returns the number of elements.
func (t *Tensor) Len() int {
	n := 1
	for _, d := range t.Shape {
		n *= d
	}
	return n
}

// Rows returns the first dimension and Cols the product of the others.
func (t *Tensor) Rows() int { return t.Shape[0] }

// Cols returns the product of all dimensions but the first.
func (t *Tensor) Cols() int {
	n := 1
	for _, d := range t.Shape[1:] {
		n *= d
	}
	return n
}
