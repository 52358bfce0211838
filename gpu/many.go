//go:build cuda

package gpu

import (
	"fmt"
	"math"
	"slices"

	"pipe/tensor"
)

// Operations on many tensors are one launch: a list on the device says where each
// tensor lies, and of which tensor each piece is that a block works on.

// An entry is a tensor, or a parameter with its moments: Entry of optimizer.cu.
type entry struct {
	p     [6]uint64 // where the elements lie
	n     int64     // how many there are
	first int32     // its first piece
	decay int32     // 1: of a parameter that decays
}

const entryBytes = 64

// A list is on the device until the next of its slot is another.
type list struct {
	scratch
	entries []entry
	pieces  int
}

// Slots of lists.
const (
	listZero = iota
	listSquares
	listAdamW
	listAdamW8bit
	listSlots
)

// listArgs begins the arguments of kernels over a list: List of optimizer.cu.
type listArgs struct {
	entries, of uint64 // the entries, and of each piece which
	pieces      int64
}

// list puts b.entries, which are cut into pieces of so many elements, on the device.
func (b *Backend) list(slot, piece int) (a listArgs) {
	l := &b.lists[slot]
	pieces := 0
	for i := range b.entries {
		it := &b.entries[i]
		it.first = int32(pieces)
		pieces += ceil(int(it.n), piece)
	}
	if pieces > math.MaxInt32 {
		b.fail(fmt.Errorf("gpu: %d pieces of tensors in one operation are too many", pieces))
	}
	if b.err != nil || pieces == 0 || b.breaks() {
		return a
	}
	entries := entryBytes * len(b.entries)
	if l.ptr == 0 || !slices.Equal(l.entries, b.entries) {
		if need := entries + 4*pieces; need > l.bytes {
			if l.ptr != 0 {
				b.release("list", l.ptr)
			}
			*l = list{entries: l.entries[:0]}
			p, err := b.take(tensor.ForScratch, need)
			if err != nil {
				b.fail(fmt.Errorf("gpu: list of tensors: %w", err))
				return a
			}
			l.scratch = scratch{p, need}
		}
		of := make([]int32, 0, pieces)
		for i, it := range b.entries {
			for range ceil(int(it.n), piece) {
				of = append(of, int32(i))
			}
		}
		l.entries, l.pieces = append(l.entries[:0], b.entries...), pieces
		b.upload("list", l.ptr, bytesOf(l.entries))
		b.upload("list", l.ptr+uint64(entries), bytesOf(of))
	}
	return listArgs{entries: l.ptr, of: l.ptr + uint64(entries), pieces: int64(pieces)}
}

var kZeroAll = newKernel("optimizer", "zero_all")

// ZeroAll implements [tensor.Memory].
func (b *Backend) ZeroAll(ts []*tensor.Tensor) {
	const op = "zero"
	const piece = 1 << 15 // bytes of a block: see optimizer.cu
	b.entries = b.entries[:0]
	for _, t := range ts {
		m := mem(op, t)
		writable(op, m)
		b.entries = append(b.entries, entry{p: [6]uint64{m.ptr}, n: int64(t.DType.Bytes(t.Len()))})
	}
	if b.err != nil {
		return
	}
	for _, t := range ts {
		clear(mem(op, t).host)
	}
	a := b.list(listZero, piece)
	launch(b, kZeroAll, dim{x: int(a.pieces)}, 256, 0, &a)
}
