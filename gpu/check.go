//go:build cuda

package gpu

import (
	"fmt"
	"slices"

	"pipe/tensor"
)

// The checks below panic: a wrong shape or type is a bug in the caller. They
// come first in every operation, so nothing has been queued by then.

func mem(op string, t *tensor.Tensor) *memory {
	if t == nil {
		panic("gpu: " + op + ": nil tensor")
	}
	m, ok := t.Mem.(*memory)
	if !ok {
		panic("gpu: " + op + ": tensor of another backend")
	}
	if m.dead || m.of != nil && m.of.dead {
		panic("gpu: " + op + ": tensor was freed")
	}
	return m
}

func writable(op string, m *memory) {
	if m.frozen {
		panic("gpu: " + op + ": the result is a frozen weight")
	}
	m.root().writes++
}

func wantType(op string, t *tensor.Tensor, dt tensor.DType) *memory {
	m := mem(op, t)
	if t.DType != dt {
		panic(fmt.Sprintf("gpu: %s: tensor is %s; must be %s", op, t.DType, dt))
	}
	return m
}

// input returns where the elements of an F32 operand lie, whatever its shape.
func input(op string, t *tensor.Tensor) uint64 { return wantType(op, t, tensor.F32).ptr }

// output returns where the elements of an F32 result lie, whatever its shape.
func output(op string, t *tensor.Tensor) uint64 {
	m := wantType(op, t, tensor.F32)
	writable(op, m)
	return m.ptr
}

// numbers returns where the elements of an F32 or BF16 operand lie, and 1 if
// they are BF16: see tensor.HalfActivations.
func numbers(op string, t *tensor.Tensor) (ptr uint64, half int) {
	m := mem(op, t)
	if t.DType != tensor.F32 && t.DType != tensor.BF16 {
		panic(fmt.Sprintf("gpu: %s: tensor is %s; must be f32 or bf16", op, t.DType))
	}
	return m.ptr, index(t.DType == tensor.BF16)
}

// numbersOut is numbers for what is written.
func numbersOut(op string, t *tensor.Tensor) (ptr uint64, half int) {
	ptr, half = numbers(op, t)
	writable(op, mem(op, t))
	return ptr, half
}

// sameType checks that all tensors are F32, or all BF16, and returns 1 for BF16.
func sameType(op string, ts ...*tensor.Tensor) (half int) {
	_, half = numbers(op, ts[0])
	for _, t := range ts[1:] {
		if _, h := numbers(op, t); h != half {
			panic(fmt.Sprintf("gpu: %s: %s and %s together", op, ts[0].DType, t.DType))
		}
	}
	return half
}

// ints returns where the elements of an I32 operand lie, and a copy of them on
// the host.
func ints(op string, t *tensor.Tensor) (dev uint64, host []int32) {
	m := wantType(op, t, tensor.I32)
	return m.ptr, m.host
}

// matrix returns rows and columns; a vector is a matrix of one-element rows.
func matrix(op string, t *tensor.Tensor) (rows, cols int) {
	if t == nil || len(t.Shape) == 0 {
		panic("gpu: " + op + ": operand has no dimensions")
	}
	return t.Rows(), t.Cols()
}

func checkLen(op string, got, want int) {
	if got != want {
		panic(fmt.Sprintf("gpu: %s: %d elements; must be %d", op, got, want))
	}
}

// sameShape checks that all tensors have the dimensions of the first.
func sameShape(op string, ts ...*tensor.Tensor) {
	for _, t := range ts[1:] {
		if !slices.Equal(t.Shape, ts[0].Shape) {
			panic(fmt.Sprintf("gpu: %s: shapes %v and %v differ", op, ts[0].Shape, t.Shape))
		}
	}
}

func checkMatrix(op string, t *tensor.Tensor, rows, cols int) {
	if r, c := matrix(op, t); r != rows || c != cols {
		panic(fmt.Sprintf("gpu: %s: operand is %v; must be [%d, %d]", op, t.Shape, rows, cols))
	}
}

// checkIndex records a failure and returns false unless 0 <= idx[i] < n for all
// i: indices are data, so a wrong one is no panic. t is where idx came from; what
// a kernel wrote is fetched first.
func (b *Backend) checkIndex(op string, t *tensor.Tensor, n int) bool {
	at, idx := ints(op, t)
	if b.counts != nil {
		return true
	}
	b.watch.index(at, idx, n, false)
	if slices.Contains(idx, unknown) && !b.breaks() {
		b.DownloadInts(slices.Clone(idx), t)
	}
	for i, v := range idx {
		if v < 0 || int(v) >= n {
			b.fail(fmt.Errorf("gpu: %s: index %d at position %d; must be from 0 to %d", op, v, i, n-1))
			return false
		}
	}
	return b.err == nil
}
