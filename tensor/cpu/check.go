package cpu

import (
	"fmt"
	"slices"

	"pipe/tensor"
)

// The checks below panic: a wrong shape or type is a bug in the caller. They
// come first in every operation, so nothing has been written by then.

func mem(op string, t *tensor.Tensor) *memory {
	if t == nil {
		panic("cpu: " + op + ": nil tensor")
	}
	m, ok := t.Mem.(*memory)
	if !ok {
		panic("cpu: " + op + ": tensor of another backend")
	}
	if m.dead || m.of != nil && m.of.dead {
		panic("cpu: " + op + ": tensor was freed")
	}
	return m
}

func writable(op string, m *memory) {
	if m.frozen {
		panic("cpu: " + op + ": the result is a frozen weight")
	}
}

func wantType(op string, t *tensor.Tensor, dt tensor.DType) *memory {
	m := mem(op, t)
	if t.DType != dt {
		panic(fmt.Sprintf("cpu: %s: tensor is %s; must be %s", op, t.DType, dt))
	}
	return m
}

// input returns the elements of an F32 operand, whatever its shape.
func input(op string, t *tensor.Tensor) []float32 { return wantType(op, t, tensor.F32).f32 }

// output returns the elements of an F32 result, whatever its shape.
func output(op string, t *tensor.Tensor) []float32 {
	m := wantType(op, t, tensor.F32)
	writable(op, m)
	return m.f32
}

func ints(op string, t *tensor.Tensor) []int32 { return wantType(op, t, tensor.I32).i32 }

// matrix returns rows and columns; a vector is a matrix of one-element rows.
func matrix(op string, t *tensor.Tensor) (rows, cols int) {
	if t == nil || len(t.Shape) == 0 {
		panic("cpu: " + op + ": operand has no dimensions")
	}
	return t.Rows(), t.Cols()
}

func checkLen(op string, got, want int) {
	if got != want {
		panic(fmt.Sprintf("cpu: %s: %d elements; must be %d", op, got, want))
	}
}

// sameShape checks that all tensors have the dimensions of the first.
func sameShape(op string, ts ...*tensor.Tensor) {
	for _, t := range ts[1:] {
		if !slices.Equal(t.Shape, ts[0].Shape) {
			panic(fmt.Sprintf("cpu: %s: shapes %v and %v differ", op, ts[0].Shape, t.Shape))
		}
	}
}

func checkMatrix(op string, t *tensor.Tensor, rows, cols int) {
	if r, c := matrix(op, t); r != rows || c != cols {
		panic(fmt.Sprintf("cpu: %s: operand is %v; must be [%d, %d]", op, t.Shape, rows, cols))
	}
}

// checkIndex records a failure and returns false unless 0 <= idx[i] < n for
// all i: indices are data, so a wrong one is no panic.
func (b *Backend) checkIndex(op string, idx []int32, n int) bool {
	for i, v := range idx {
		if v < 0 || int(v) >= n {
			b.fail(fmt.Errorf("cpu: %s: index %d at position %d; must be from 0 to %d", op, v, i, n-1))
			return false
		}
	}
	return true
}
