package cpu

import (
	"fmt"

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

// The checks of shapes that all backends have.
const checks = tensor.Checks("cpu")

func checkShape(op string, dt tensor.DType, shape []int) (n int) { return checks.Shape(op, dt, shape) }
func checkLen(op string, got, want int)                          { checks.Len(op, got, want) }
func sameShape(op string, ts ...*tensor.Tensor)                  { checks.SameShape(op, ts...) }
func matrix(op string, t *tensor.Tensor) (rows, cols int)        { return checks.Rows(op, t) }
func checkMatrix(op string, t *tensor.Tensor, rows, cols int)    { checks.Matrix(op, t, rows, cols) }

// checkIndex records a failure and returns false unless 0 <= idx[i] < n for
// all i: indices are data, so a wrong one is no panic.
func (b *Backend) checkIndex(op string, idx []int32, n int) bool {
	if err := checks.Index(op, idx, n); err != nil {
		b.fail(err)
		return false
	}
	return true
}
