package tensor

import (
	"fmt"
	"math"
	"slices"
)

// Checks are what a backend, whose name it is, checks of an operation's operands
// before it does anything. They panic: a wrong shape is a bug in the caller. The
// panic says "backend: operation: what is wrong".
type Checks string

// maxElements keeps sizes in bytes far from overflow.
const maxElements = math.MaxInt / 64

// Shape returns the number of elements of a tensor to be. Sizes are not negative,
// and rows of block formats whole blocks.
func (c Checks) Shape(op string, dt DType, shape []int) (n int) {
	if !dt.Valid() {
		panic(fmt.Sprintf("%s: %s: invalid %s", string(c), op, dt))
	}
	n = 1
	for _, d := range shape {
		if d < 0 || d > 0 && n > maxElements/d {
			panic(fmt.Sprintf("%s: %s: bad shape %v", string(c), op, shape))
		}
		n *= d
	}
	if dt.Quantized() && n > 0 && (len(shape) == 0 || shape[len(shape)-1]%dt.Block() != 0) {
		panic(fmt.Sprintf("%s: %s: rows of %v are not whole blocks of %s", string(c), op, shape, dt))
	}
	return n
}

// View returns the number of elements of a view that begins offset elements into t:
// it lies within t and begins a block.
func (c Checks) View(t *Tensor, offset int, shape []int) (n int) {
	n = c.Shape("view", t.DType, shape)
	if offset < 0 || offset+n > t.Len() || offset%t.DType.Block() != 0 {
		panic(fmt.Sprintf("%s: view: %v at %d of a tensor %v", string(c), shape, offset, t.Shape))
	}
	return n
}

// Len checks a number of elements.
func (c Checks) Len(op string, got, want int) {
	if got != want {
		panic(fmt.Sprintf("%s: %s: %d elements; must be %d", string(c), op, got, want))
	}
}

// SameShape checks that all tensors have the dimensions of the first.
func (c Checks) SameShape(op string, ts ...*Tensor) {
	for _, t := range ts[1:] {
		if !slices.Equal(t.Shape, ts[0].Shape) {
			panic(fmt.Sprintf("%s: %s: shapes %v and %v differ", string(c), op, ts[0].Shape, t.Shape))
		}
	}
}

// Rows returns rows and columns of a matrix; a vector is one of one-element rows.
func (c Checks) Rows(op string, t *Tensor) (rows, cols int) {
	if t == nil || len(t.Shape) == 0 {
		panic(string(c) + ": " + op + ": operand has no dimensions")
	}
	return t.Rows(), t.Cols()
}

// Matrix checks rows and columns.
func (c Checks) Matrix(op string, t *Tensor, rows, cols int) {
	if r, k := c.Rows(op, t); r != rows || k != cols {
		panic(fmt.Sprintf("%s: %s: operand is %v; must be [%d, %d]", string(c), op, t.Shape, rows, cols))
	}
}

// Copy checks that two tensors hold the same: as many elements of one type.
func (c Checks) Copy(dst, src *Tensor) {
	if dst.DType != src.DType || dst.Len() != src.Len() {
		panic(fmt.Sprintf("%s: copy: %s %v from %s %v", string(c), dst.DType, dst.Shape, src.DType, src.Shape))
	}
}

// Precision checks what products are to be rounded to.
func (c Checks) Precision(dt DType) {
	if dt != F32 && dt != BF16 && dt != FP8 {
		panic(fmt.Sprintf("%s: precision: %s; must be f32, bf16 or fp8", string(c), dt))
	}
}

// Index returns an error unless indices are from 0 to n-1. They are data, so a
// wrong one is no panic.
func (c Checks) Index(op string, indices []int32, n int) error {
	for i, v := range indices {
		if v < 0 || int(v) >= n {
			return fmt.Errorf("%s: %s: index %d at position %d; must be from 0 to %d", string(c), op, v, i, n-1)
		}
	}
	return nil
}
