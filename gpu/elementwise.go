//go:build cuda

package gpu

import (
	"math/bits"

	"pipe/tensor"
)

var (
	kAdd = [8]*kernel{ // by which of x, y and dst are BF16, in bits
		newKernel("elementwise", "add"), newKernel("elementwise", "add_x"), newKernel("elementwise", "add_y"), newKernel("elementwise", "add_xy"),
		newKernel("elementwise", "add_dst"), newKernel("elementwise", "add_dst_x"), newKernel("elementwise", "add_dst_y"), newKernel("elementwise", "add_dst_xy"),
	}
	kSwiGLU     = newTypes("elementwise", "swiglu")
	kSwiGLUGrad = newTypes("elementwise", "swiglu_grad")
	kDropout    = newTypes("elementwise", "dropout")
	kAddRow     = [2]widths{newWidths("elementwise", "add_row"), newWidths("elementwise", "add_row_half")}
	kScaleCols  = newWidths("elementwise", "scale_cols")
	kScaleRows  = [2]widths{newWidths("elementwise", "scale_rows"), newWidths("elementwise", "scale_rows_half")}
	kSumPlain   = [2]widths{newWidths("elementwise", "sum_plain"), newWidths("elementwise", "sum_plain_half")}
	kSumNormed  = newWidths("elementwise", "sum_normed")
	kSumScaled  = [8]widths{ // by which of x, y and dx are BF16, in bits
		newWidths("elementwise", "sum_scaled_fff"), newWidths("elementwise", "sum_scaled_hff"),
		newWidths("elementwise", "sum_scaled_fhf"), newWidths("elementwise", "sum_scaled_hhf"),
		newWidths("elementwise", "sum_scaled_ffh"), newWidths("elementwise", "sum_scaled_hfh"),
		newWidths("elementwise", "sum_scaled_fhh"), newWidths("elementwise", "sum_scaled_hhh"),
	}
	kSumParts = newKernel("elementwise", "sum_parts")
)

// newTypes returns the variants of a kernel for F32 and for BF16.
func newTypes(module, name string) [2]*kernel {
	return [2]*kernel{newKernel(module, name), newKernel(module, name+"_half")}
}

// widths are the variants of a kernel that move one number or four at a time.
type widths struct{ one, four *kernel }

func newWidths(module, name string) widths {
	return widths{newKernel(module, name+"_1"), newKernel(module, name+"_4")}
}

// pick returns the variant for rows of so many columns at such addresses, and
// how many numbers it moves at a time.
func (w widths) pick(cols int, ptrs ...uint64) (k *kernel, width int) {
	if cols%4 == 0 && vectors(ptrs...) {
		return w.four, 4
	}
	return w.one, 1
}

// tile returns the grid for rows of so many items, and how many of the 256
// threads of a block lie along a row, as a power of two: see Tile in walk.cuh.
func tile(rows, items int) (grid dim, shift int32) {
	const tileRows = 4
	if rows == 0 || items == 0 {
		return dim{}, 0
	}
	s := min(8, bits.Len(uint(items-1)))
	return dim{x: ceil(rows, tileRows*(256>>s)), y: ceil(items, 1<<s)}, int32(s)
}

// flat is how many elements a block of pointwise takes: see walk.cuh.
const flat = 256 * 8

type pointwiseArgs struct {
	dst, more, x, y, z uint64
	n                  int64
	scale              float32
	vec                int32
}

func (b *Backend) pointwise(k *kernel, n int, a pointwiseArgs) {
	a.n, a.vec = int64(n), int32(index(vectors(a.dst, a.more, a.x, a.y, a.z)))
	launch(b, k, dim{x: ceil(n, flat)}, 256, 0, &a)
}

// Add implements [tensor.Linear].
func (b *Backend) Add(dst, x, y *tensor.Tensor, scale float32) {
	const op = "add"
	a := pointwiseArgs{scale: scale}
	var hd, hx, hy int
	a.dst, hd = numbersOut(op, dst)
	a.x, hx = numbers(op, x)
	a.y, hy = numbers(op, y)
	sameShape(op, dst, x, y)
	b.pointwise(kAdd[hx|hy<<1|hd<<2], dst.Len(), a)
}

// SwiGLU implements [tensor.Transformer].
func (b *Backend) SwiGLU(dst, gate, up *tensor.Tensor) {
	const op = "swiglu"
	half := sameType(op, dst, gate, up)
	sameShape(op, dst, gate, up)
	d, _ := numbersOut(op, dst)
	b.swiglu(half, d, mem(op, gate).ptr, mem(op, up).ptr, dst.Len())
}

// swiglu is SwiGLU of n numbers; half is 1 where they are BF16.
func (b *Backend) swiglu(half int, dst, gate, up uint64, n int) {
	b.pointwise(kSwiGLU[half], n, pointwiseArgs{dst: dst, x: gate, y: up})
}

// SwiGLUGrad implements [tensor.Transformer].
func (b *Backend) SwiGLUGrad(dgate, dup, gate, up, dy *tensor.Tensor) {
	const op = "swiglu gradient"
	half := sameType(op, dgate, dup, gate, up, dy)
	sameShape(op, dgate, dup, gate, up, dy)
	dg, _ := numbersOut(op, dgate)
	du, _ := numbersOut(op, dup)
	a := pointwiseArgs{dst: dg, more: du, x: mem(op, gate).ptr, y: mem(op, up).ptr, z: mem(op, dy).ptr}
	b.pointwise(kSwiGLUGrad[half], dy.Len(), a)
}

type dropoutArgs struct {
	dst, x   uint64
	n        int64
	seed     uint64
	p, scale float32
	vec      int32
}

// Dropout implements [tensor.Linear]: the masks are those of package cpu.
func (b *Backend) Dropout(dst, x *tensor.Tensor, p float32, seed uint64) {
	const op = "dropout"
	half := sameType(op, dst, x)
	d, _ := numbersOut(op, dst)
	a := dropoutArgs{dst: d, x: mem(op, x).ptr, n: int64(x.Len()), seed: seed, p: p, scale: 1 / (1 - p)}
	sameShape(op, dst, x)
	if !(p >= 0 && p < 1) {
		panic("gpu: dropout: p must be at least 0 and below 1")
	}
	a.vec = int32(index(vectors(a.dst, a.x)))
	launch(b, kDropout[half], dim{x: ceil(x.Len(), flat)}, 256, 0, &a)
}

type rowArgs struct {
	dst, x, s  uint64
	rows, cols int64
	shift      int32
}

// byRow combines each row, or each column, of x with a number.
func (b *Backend) byRow(k widths, dst, x, s uint64, rows, cols int) {
	kernel, width := k.pick(cols, dst, x, s)
	a := rowArgs{dst: dst, x: x, s: s, rows: int64(rows), cols: int64(cols)}
	grid, shift := tile(rows, cols/width)
	a.shift = shift
	launch(b, kernel, grid, 256, 0, &a)
}

// AddRow implements [tensor.Linear].
func (b *Backend) AddRow(dst, r *tensor.Tensor) {
	const op = "add row"
	d, half := numbersOut(op, dst)
	v := input(op, r)
	rows, cols := matrix(op, dst)
	checkLen(op, r.Len(), cols)
	b.byRow(kAddRow[half], d, d, v, rows, cols)
}

// ScaleCols implements [tensor.Linear].
func (b *Backend) ScaleCols(dst, x, s *tensor.Tensor) {
	const op = "scale columns"
	d, v, f := output(op, dst), input(op, x), input(op, s)
	sameShape(op, dst, x)
	rows, cols := matrix(op, x)
	checkLen(op, s.Len(), cols)
	b.byRow(kScaleCols, d, v, f, rows, cols)
}

// ScaleRows implements [tensor.Linear].
func (b *Backend) ScaleRows(dst, x, s *tensor.Tensor) {
	const op = "scale rows"
	half, f := sameType(op, dst, x), input(op, s)
	d, _ := numbersOut(op, dst)
	sameShape(op, dst, x)
	rows, cols := matrix(op, x)
	checkLen(op, s.Len(), rows)
	b.byRow(kScaleRows[half], d, mem(op, x).ptr, f, rows, cols)
}

type partArgs struct {
	parts, dx, x, y, s uint64
	rows, cols, part   int64
}

type sumArgs struct {
	dst, parts, m uint64
	n, cols       int64
}

// Rows of a part of column sums, and the most parts.
const (
	partRows  = 64
	mostParts = 512
)

// sumColumns adds the column sums of what k makes of the elements of a to dst,
// divided by m unless that is 0. Which rows a part has depends on the shape alone.
func (b *Backend) sumColumns(k widths, dst, m uint64, rows, cols int, a partArgs) {
	if b.err != nil || rows == 0 || cols == 0 {
		return
	}
	part := max(partRows, ceil(ceil(rows, mostParts), 8)*8)
	n := ceil(rows, part)
	kernel, width := k.pick(cols, a.x, a.y, a.dx)
	if a.dx != 0 && a.s%16 != 0 { // s is of columns
		kernel, width = k.one, 1
	}
	a.parts, a.rows, a.cols, a.part = b.scratch(scratchParts, 4*n*cols), int64(rows), int64(cols), int64(part)
	launch(b, kernel, dim{x: ceil(cols, 32*width), y: n}, 256, 0, &a)
	b.sumParts(dst, m, a.parts, n, cols)
}

// sumParts adds the sums of n rows at parts to dst.
func (b *Backend) sumParts(dst, m, parts uint64, n, cols int) {
	launch(b, kSumParts, dim{x: ceil(cols, 32)}, 256, 0, &sumArgs{dst: dst, parts: parts, m: m, n: int64(n), cols: int64(cols)})
}

// ColSum implements [tensor.Linear].
func (b *Backend) ColSum(dst, x *tensor.Tensor) {
	const op = "column sums"
	d := output(op, dst)
	v, half := numbers(op, x)
	rows, cols := matrix(op, x)
	checkLen(op, dst.Len(), cols)
	b.sumColumns(kSumPlain[half], d, 0, rows, cols, partArgs{x: v})
}

// scaledArgs are the operands of [Backend.ScaleColsGrad] on the device.
type scaledArgs struct {
	dx, dm, x, y, s, m uint64
	rows, cols         int
	types              int // which of x, y and dx are BF16, in bits
}

func scaled(op string, dx, dm, dy, y, s, m *tensor.Tensor) scaledArgs {
	a := scaledArgs{s: input(op, s), m: input(op, m)}
	var from, by, to int
	a.x, from = numbers(op, dy)
	a.y, by = numbers(op, y)
	a.dx, to = numbersOut(op, dx)
	a.dm, a.types = output(op, dm), from|by<<1|to<<2
	sameShape(op, dx, dy, y)
	a.rows, a.cols = matrix(op, dy)
	for _, t := range [...]*tensor.Tensor{dm, s, m} {
		checkLen(op, t.Len(), a.cols)
	}
	return a
}

// ScaleColsGrad implements [tensor.Linear].
func (b *Backend) ScaleColsGrad(dx, dm, dy, y, s, m *tensor.Tensor) {
	a := scaled("scale columns gradient", dx, dm, dy, y, s, m)
	b.scaleColsGrad(&a)
}

func (b *Backend) scaleColsGrad(a *scaledArgs) {
	b.sumColumns(kSumScaled[a.types], a.dm, a.m, a.rows, a.cols, partArgs{dx: a.dx, x: a.x, y: a.y, s: a.s})
}
