//go:build cuda

package gpu

import (
	"fmt"
	"slices"

	"pipe/tensor"
)

// A normKernel is for rows of at most so many columns, of which a block takes
// some: those kernels keep a row in registers.
type normKernel struct {
	cols, threads, rows int
	norm, add           [2]*kernel // by type of the result
	grad, sum           *kernel    // sum has parts of dw too
}

var normKernels = []normKernel{
	newNorm(128, 256, 8, true), newNorm(256, 256, 8, true), newNorm(640, 256, 8, true), newNorm(1024, 256, 8, true),
	newNorm(2048, 256, 1, true), newNorm(4096, 256, 1, true), newNorm(8192, 512, 1, false), newNorm(16384, 512, 1, false),
}

func newNorm(cols, threads, rows int, sum bool) normKernel {
	k := normKernel{cols: cols, threads: threads, rows: rows}
	for i, half := range []string{"", "half_"} {
		k.norm[i] = newKernel("norm", fmt.Sprint("rmsnorm_", half, cols))
		k.add[i] = newKernel("norm", fmt.Sprint("add_rmsnorm_", half, cols))
	}
	k.grad = newKernel("norm", fmt.Sprint("rmsnorm_grad_", cols))
	if sum {
		k.sum = newKernel("norm", fmt.Sprint("rmsnorm_grad_w_", cols))
	}
	return k
}

// normAny takes rows of any width.
var normAny = normKernel{
	threads: 256, rows: 1, grad: newKernel("norm", "rmsnorm_grad_any"),
	norm: [2]*kernel{newKernel("norm", "rmsnorm_any"), newKernel("norm", "rmsnorm_half_any")},
	add:  [2]*kernel{newKernel("norm", "add_rmsnorm_any"), newKernel("norm", "add_rmsnorm_half_any")},
}

var (
	kRotation = newKernel("norm", "rotation")
	kRope     = [2]widths{newWidths("norm", "rope"), newWidths("norm", "rope_half")}
)

// normOf returns the kernels for rows of so many columns at such addresses.
func normOf(cols int, ptrs ...uint64) *normKernel {
	if cols%4 == 0 && vectors(ptrs...) {
		for i := range normKernels {
			if cols <= normKernels[i].cols {
				return &normKernels[i]
			}
		}
	}
	return &normAny
}

type normArgs struct {
	dst, rstd, sum, x, y, w uint64
	rows, cols              int64
	eps                     float32
	half                    int32
}

// RMSNorm implements [tensor.Transformer].
func (b *Backend) RMSNorm(dst, rstd, x, w *tensor.Tensor, eps float32) {
	b.norm(dst, rstd, nil, x, nil, w, eps)
}

// AddRMSNorm implements [tensor.Transformer].
func (b *Backend) AddRMSNorm(dst, rstd, sum, x, y, w *tensor.Tensor, eps float32) {
	b.norm(dst, rstd, sum, x, y, w, eps)
}

// norm is both; y and sum are nil in RMSNorm.
func (b *Backend) norm(dst, rstd, sum, x, y, w *tensor.Tensor, eps float32) {
	const op = "rmsnorm"
	d, half := numbersOut(op, dst)
	a := normArgs{dst: d, rstd: output(op, rstd), x: input(op, x), w: input(op, w), eps: eps}
	sameShape(op, dst, x)
	rows, cols := matrix(op, x)
	checkLen(op, rstd.Len(), rows)
	checkLen(op, w.Len(), cols)
	if sum != nil {
		var half int
		a.y, half = numbers(op, y)
		a.sum, a.half = output(op, sum), int32(half)
		sameShape(op, x, sum, y)
	}
	a.rows, a.cols = int64(rows), int64(cols)
	k := normOf(cols, a.dst, a.sum, a.x, a.y, a.w)
	kernel := k.norm[half]
	if sum != nil {
		kernel = k.add[half]
	}
	launch(b, kernel, dim{x: ceil(rows, k.rows)}, k.threads, 0, &a)
}

type normGradArgs struct {
	dx, parts, x, w, rstd, dy, add uint64
	rows, cols                     int64
}

// normParts is how many blocks form parts of dw: two for each multiprocessor of
// an H100. On other devices it is the same, and so are the sums.
const normParts = 264

// RMSNormGrad implements [tensor.Transformer]. With n columns,
// dx = rstd·(w⊙dy) - x·(rstd³/n)·Σ w⊙dy⊙x and dw = Σ dy⊙x·rstd.
func (b *Backend) RMSNormGrad(dx, dw, x, w, rstd, dy, add *tensor.Tensor) {
	const op = "rmsnorm gradient"
	a := normGradArgs{dx: output(op, dx), x: input(op, x), w: input(op, w), rstd: input(op, rstd), dy: input(op, dy)}
	sameShape(op, dx, x, dy)
	rows, cols := matrix(op, x)
	checkLen(op, rstd.Len(), rows)
	checkLen(op, w.Len(), cols)
	var dg uint64
	if dw != nil {
		dg = output(op, dw)
		checkLen(op, dw.Len(), cols)
	}
	if add != nil {
		a.add = input(op, add)
		sameShape(op, x, add)
	}
	if b.err != nil || rows == 0 || cols == 0 {
		return
	}
	a.rows, a.cols = int64(rows), int64(cols)
	k := normOf(cols, a.dx, a.x, a.w, a.dy, a.add)
	kernel, blocks := k.grad, ceil(rows, k.rows)
	switch {
	case dw == nil:
	case k.sum != nil: // blocks that stay, so that there are few parts
		kernel, blocks = k.sum, min(blocks, normParts)
		a.parts = b.scratch(scratchParts, 4*blocks*cols)
	default: // before dx, which may be dy
		b.sumColumns(kSumNormed, dg, 0, rows, cols, partArgs{x: a.x, y: a.dy, s: a.rstd})
	}
	launch(b, kernel, dim{x: blocks}, k.threads, 0, &a)
	if a.parts != 0 {
		b.sumParts(dg, 0, a.parts, blocks, cols)
	}
}

// rotation is what the cosines and sines in scratchRotation were made of: all
// layers of a pass turn by the same angles.
type rotation struct {
	pos      []int32
	inv      uint64 // address
	root     *memory
	writes   uint64 // of root, by then
	cos, sin uint64
}

type rotationArgs struct {
	cos, sin, pos, inv uint64
	n                  int64
	half               int32
}

// rotation returns where the cosines and sines [tokens, half] of positions are.
func (b *Backend) rotation(op string, pos, invFreq *tensor.Tensor) (cos, sin uint64, half int) {
	at, host := ints(op, pos)
	inv, root := input(op, invFreq), mem(op, invFreq).root()
	half = invFreq.Len()
	if b.err != nil {
		return 0, 0, half
	}
	r := &b.rotate
	if r.root == root && r.inv == inv && r.writes == root.writes && slices.Equal(r.pos, host) && !slices.Contains(host, unknown) {
		return r.cos, r.sin, half
	}
	n := len(host) * half
	room := (4*n + 255) &^ 255
	r.cos = b.scratch(scratchRotation, 2*room)
	r.sin = r.cos + uint64(room)
	r.pos, r.inv, r.root, r.writes = append(r.pos[:0], host...), inv, root, root.writes
	launch(b, kRotation, dim{x: ceil(n, 256)}, 256, 0, &rotationArgs{cos: r.cos, sin: r.sin, pos: at, inv: inv, n: int64(n), half: int32(half)})
	return r.cos, r.sin, half
}

type ropeArgs struct {
	x, y, cos, sin   uint64
	rows, cols, more int64
	half, shift      int32
	sign             float32
}

// Rope implements [tensor.Transformer]. Angles are float32 products, as in
// Hugging Face's models; their sines are rounded from float64.
func (b *Backend) Rope(x, pos, invFreq *tensor.Tensor, inverse bool) {
	b.rope(x, nil, pos, invFreq, inverse)
}

// rope rotates x and, unless it is nil, y, which has as many rows and the type of x.
func (b *Backend) rope(x, y, pos, invFreq *tensor.Tensor, inverse bool) {
	const op = "rope"
	v, bf16 := numbersOut(op, x)
	a := ropeArgs{x: v, y: v, sign: 1}
	rows, cols := matrix(op, x)
	more := 0
	if y != nil {
		a.y, _ = numbersOut(op, y)
		sameType(op, x, y)
		_, more = matrix(op, y)
		checkMatrix(op, y, rows, more)
	}
	ints(op, pos)
	checkLen(op, pos.Len(), rows)
	if head := 2 * invFreq.Len(); head == 0 || cols%head != 0 || more%head != 0 {
		panic("gpu: rope: width is not a multiple of twice the frequencies")
	}
	if inverse {
		a.sign = -1
	}
	var half int
	a.cos, a.sin, half = b.rotation(op, pos, invFreq)
	if b.err != nil {
		return
	}
	kernel, width := kRope[bf16].pick(half, a.x, a.y, a.cos, a.sin)
	a.rows, a.cols, a.more, a.half = int64(rows), int64(cols), int64(more), int32(half)
	grid, shift := tile(rows, (cols+more)/2/width)
	a.shift = shift
	launch(b, kernel, grid, 256, 0, &a)
}
