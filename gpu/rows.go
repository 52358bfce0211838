//go:build cuda

package gpu

import (
	"fmt"
	"slices"

	"pipe/tensor"
)

var (
	kExpand     = kernelsOf("rows", "expand_", "")  // expand rows
	kSquares    = kernelsOf("rows", "squares_", "") // sum their squares
	kCopyBF16   = newKernel("rows", "copy_bf16")
	kScatter    = [2]widths{newWidths("rows", "scatter_f32"), newWidths("rows", "scatter_half")}
	kScatterTo  = newWidths("rows", "scatter_to_half")
	kScatterAdd = newWidths("rows", "scatter_add")
)

type expandArgs struct {
	dst, src, ids      uint64
	rows, cols, stride int64
	shift, vec         int32
}

// groups reports whether rows of o are whole groups of 8 elements that dst and
// o can be read and written by.
func (o *operand) groups(dst uint64) bool {
	return o.cols%8 == 0 && vectors(dst) && (o.dt.Quantized() || vectors(o.ptr))
}

// expandRows sets the rows of dst to what k makes of rows of o: as many as there
// are ids, or, if ids is 0, the first.
func (b *Backend) expandRows(k *kernel, dst uint64, o *operand, ids uint64, rows int) {
	if o.cols == 0 {
		return
	}
	a := expandArgs{dst: dst, src: o.ptr, ids: ids, rows: int64(rows), cols: int64(o.cols), stride: int64(o.dt.Bytes(o.cols)), vec: 1}
	items := o.cols / 8
	if !o.groups(dst) {
		items, a.vec = o.cols, 0
	}
	grid, shift := tile(rows, items)
	a.shift = shift
	launch(b, k, grid, 256, 0, &a)
}

// Dequantize implements [tensor.Linear].
func (b *Backend) Dequantize(dst, src *tensor.Tensor) {
	const op = "dequantize"
	d, o := output(op, dst), b.operand(op, src)
	sameShape(op, dst, src)
	b.expandRows(kExpand[o.dt], d, &o, 0, o.rows)
}

type squaresArgs struct {
	dst, src           uint64
	rows, cols, stride int64
	vec                int32
}

// RowSquares implements [tensor.Linear].
func (b *Backend) RowSquares(dst, w *tensor.Tensor) {
	const op = "row squares"
	d, o := output(op, dst), b.operand(op, w)
	checkLen(op, dst.Len(), o.rows)
	a := squaresArgs{dst: d, src: o.ptr, rows: int64(o.rows), cols: int64(o.cols), stride: int64(o.dt.Bytes(o.cols)), vec: int32(index(o.groups(0)))}
	launch(b, kSquares[o.dt], dim{x: ceil(o.rows, 8)}, 256, 0, &a)
}

// Embed implements [tensor.Transformer].
func (b *Backend) Embed(dst, table, ids *tensor.Tensor) {
	const op = "embed"
	d, o := output(op, dst), b.operand(op, table)
	at, idx := ints(op, ids)
	checkMatrix(op, dst, len(idx), o.cols)
	if b.err == nil && b.checkIndex(op, ids, o.rows) {
		b.expandRows(kExpand[o.dt], d, &o, at, len(idx))
	}
}

// EmbedGrad implements [tensor.Transformer].
func (b *Backend) EmbedGrad(dtable, ids, dy *tensor.Tensor) {
	b.addRows("embed gradient", dtable, dy, ids)
}

// GatherRows implements [tensor.Transformer].
func (b *Backend) GatherRows(dst, x, idx *tensor.Tensor) {
	const op = "gather rows"
	half := sameType(op, dst, x)
	d, _ := numbersOut(op, dst)
	o := b.operand(op, x)
	at, ids := ints(op, idx)
	checkMatrix(op, dst, len(ids), o.cols)
	k := kExpand[o.dt]
	if half == 1 {
		k = kCopyBF16
	}
	if b.err == nil && b.checkIndex(op, idx, o.rows) {
		b.expandRows(k, d, &o, at, len(ids))
	}
}

type scatterArgs struct {
	dst, src, idx uint64
	rows, cols    int64
	shift         int32
}

// ScatterRows implements [tensor.Transformer].
func (b *Backend) ScatterRows(dst, src, idx *tensor.Tensor) {
	const op = "scatter rows"
	m := mem(op, dst)
	s, from := numbers(op, src)
	at, ids := ints(op, idx)
	writable(op, m)
	if dst.DType != tensor.F32 && dst.DType != tensor.BF16 || from == 1 && dst.DType == tensor.F32 {
		panic(fmt.Sprintf("gpu: %s: %s to %s; must be f32 or bf16", op, src.DType, dst.DType))
	}
	rows, cols := matrix(op, dst)
	checkMatrix(op, src, len(ids), cols)
	if b.err != nil || !b.checkIndex(op, idx, rows) {
		return
	}
	k := kScatter[from]
	if dst.DType == tensor.BF16 && from == 0 {
		k = kScatterTo
	}
	kernel, width := k.pick(cols, m.ptr, s)
	a := scatterArgs{dst: m.ptr, src: s, idx: b.lastOnly(at, ids, rows), rows: int64(len(ids)), cols: int64(cols)}
	grid, shift := tile(len(ids), cols/width)
	a.shift = shift
	launch(b, kernel, grid, 256, 0, &a)
}

// rowLists are what the host works out of lists of rows.
type rowLists struct {
	seen  []uint32 // by row: the list in which it was seen last
	list  uint32
	ints  []int32
	pairs []uint64
}

func ascending(ids []int32) bool {
	for i := 1; i < len(ids); i++ {
		if ids[i] <= ids[i-1] {
			return false
		}
	}
	return true
}

// lastOnly returns where ids, which are at dev, lie with all but the last of
// equal ones replaced by -1.
func (b *Backend) lastOnly(dev uint64, ids []int32, rows int) uint64 {
	b.watch.index(dev, ids, rows, true)
	if ascending(ids) || !b.rows.repeated(ids, rows) {
		return dev
	}
	return b.constants(constRows, b.rows.ints)
}

// repeated reports whether ids, all less than rows, has any twice, and sets l.ints
// to ids with all but the last of equal ones replaced by -1.
func (l *rowLists) repeated(ids []int32, rows int) (twice bool) {
	if len(l.seen) < rows {
		l.seen = append(l.seen, make([]uint32, rows-len(l.seen))...)
	}
	if l.list++; l.list == 0 {
		clear(l.seen)
		l.list = 1
	}
	l.ints = append(l.ints[:0], ids...)
	for i, id := range slices.Backward(ids) {
		if l.seen[id] == l.list {
			l.ints[i], twice = -1, true
		}
		l.seen[id] = l.list
	}
	return twice
}

// ScatterAddRows implements [tensor.Transformer].
func (b *Backend) ScatterAddRows(dst, src, idx *tensor.Tensor) {
	b.addRows("scatter add rows", dst, src, idx)
}

type scatterAddArgs struct {
	dst, src, first, order, to uint64
	groups, cols               int64
	shift                      int32
}

// addRows adds row i of src to row idx[i] of dst, in order of i.
func (b *Backend) addRows(op string, dst, src, idx *tensor.Tensor) {
	d, s := output(op, dst), input(op, src)
	_, ids := ints(op, idx)
	rows, cols := matrix(op, dst)
	checkMatrix(op, src, len(ids), cols)
	if b.err != nil || len(ids) == 0 || cols == 0 || !b.checkIndex(op, idx, rows) {
		return
	}
	lists, groups := b.rows.group(ids)
	kernel, width := kScatterAdd.pick(cols, d, s)
	at := b.constants(constRows, lists)
	a := scatterAddArgs{
		dst: d, src: s, first: at, to: at + 4*uint64(groups+1), order: at + 4*uint64(2*groups+1),
		groups: int64(groups), cols: int64(cols),
	}
	grid, shift := tile(groups, cols/width)
	a.shift = shift
	launch(b, kernel, grid, 256, 0, &a)
}

// group sorts the positions of ids by id. The list it returns has, of each group
// of equal ids, the first position in the sorted order, and at the end the number
// of all; then the ids of the groups; then the positions.
func (l *rowLists) group(ids []int32) (list []int32, groups int) {
	l.pairs = l.pairs[:0]
	for i, id := range ids {
		l.pairs = append(l.pairs, uint64(id)<<32|uint64(i))
	}
	slices.Sort(l.pairs)
	list = l.ints[:0]
	for i, p := range l.pairs {
		if i == 0 || p>>32 != l.pairs[i-1]>>32 {
			list = append(list, int32(i))
		}
	}
	groups = len(list)
	list = append(list, int32(len(ids)))
	for i := range groups {
		list = append(list, int32(l.pairs[list[i]]>>32))
	}
	for _, p := range l.pairs {
		list = append(list, int32(uint32(p)))
	}
	l.ints = list
	return list, groups
}
