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

// The checks of shapes that all backends have.
const checks = tensor.Checks("gpu")

func checkShape(op string, dt tensor.DType, shape []int) (n int) { return checks.Shape(op, dt, shape) }
func checkLen(op string, got, want int)                          { checks.Len(op, got, want) }
func sameShape(op string, ts ...*tensor.Tensor)                  { checks.SameShape(op, ts...) }
func matrix(op string, t *tensor.Tensor) (rows, cols int)        { return checks.Rows(op, t) }
func checkMatrix(op string, t *tensor.Tensor, rows, cols int)    { checks.Matrix(op, t, rows, cols) }

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
	if err := checks.Index(op, idx, n); err != nil {
		b.fail(err)
		return false
	}
	return b.err == nil
}
