//go:build cuda

package gpu

import (
	"fmt"
	"math"
	"unsafe"

	"pipe/tensor"
)

var (
	kLargest     = newKernel("largest", "largest")
	kLargestJoin = newKernel("largest", "largest_join")
	kPenalize    = newKernel("largest", "penalize")
	kWeigh       = newKernel("largest", "weigh")
	kWeighDraw   = newKernel("largest", "weigh_draw")
)

// largestArgs is LargestArgs of largest.cu.
type largestArgs struct {
	logits, keys, ids, z                  uint64
	words, part, parts, most, k, together int32
}

// largestPart is how many logits a block reduces.
const largestPart = 2048

// Largest implements [tensor.Sampler].
func (b *Backend) Largest(ids, z, logits *tensor.Tensor) {
	const op = "largest"
	x, best := input(op, logits), output(op, z)
	rows, words := matrix(op, logits)
	at, mirror := ints(op, ids)
	writable(op, mem(op, ids))
	n, k := matrix(op, z)
	sameShape(op, ids, z)
	if n != rows || k < 1 || k > min(words, tensor.MostLargest) {
		panic(fmt.Sprintf("gpu: largest: %d of %d logits, in %d of %d rows", k, words, n, rows))
	}
	b.wrote(mirror)
	if b.err != nil {
		return
	}
	most := 1
	for most < k {
		most *= 2
	}
	a := largestArgs{logits: x, ids: at, z: best, words: int32(words), part: largestPart, parts: int32(ceil(words, largestPart)), most: int32(most), k: int32(k), together: 2}
	for a.together < a.parts && int(a.together)*most < 4*largestPart { // 64 KiB of shared memory
		a.together *= 2
	}
	a.keys = b.scratch(scratchParts, 8*rows*int(a.parts)*most)
	launch(b, kLargest, dim{x: rows * int(a.parts)}, 256, 8*largestPart, &a)
	launch(b, kLargestJoin, dim{x: rows}, 512, 8*int(a.together)*most, &a)
}

type penalizeArgs struct {
	logits, at, by uint64
	n              int32
}

// Penalize implements [tensor.Sampler].
func (b *Backend) Penalize(logits, at, by *tensor.Tensor) {
	const op = "penalize"
	a := penalizeArgs{logits: output(op, logits), by: input(op, by)}
	var list []int32
	a.at, list = ints(op, at)
	checkLen(op, by.Len(), len(list))
	if b.err != nil || !b.checkIndex(op, at, logits.Len()) {
		return
	}
	a.n = int32(len(list))
	launch(b, kPenalize, dim{x: ceil(len(list), 256)}, 256, 0, &a)
}

// weighArgs is WeighArgs of largest.cu.
type weighArgs struct {
	logits, ids, z, exp2, t, u, sums, totals, drawn uint64
	words, k, blocks, unused                        int32
}

const weighThreads = 64

// Weigh implements [tensor.Sampler].
func (b *Backend) Weigh(drawn, totals, logits, ids, z *tensor.Tensor, t, u []float64) {
	const op = "weigh"
	rows, words := matrix(op, logits)
	a := weighArgs{logits: input(op, logits), z: input(op, z), words: int32(words), blocks: int32(ceil(words, tensor.WeighBlock))}
	var mirror []int32
	a.ids, _ = ints(op, ids)
	a.drawn, mirror = ints(op, drawn)
	writable(op, mem(op, drawn))
	a.totals = wantType(op, totals, tensor.U8).ptr
	writable(op, mem(op, totals))
	n, k := matrix(op, z)
	sameShape(op, ids, z)
	checkMatrix(op, totals, rows, 8)
	checkLen(op, len(mirror), rows)
	checkLen(op, n, rows)
	checkLen(op, len(t), rows)
	checkLen(op, len(u), rows)
	b.wrote(mirror)
	if b.err != nil || rows == 0 || words == 0 {
		return
	}
	// Exponents, temperatures and numbers that decide go together.
	w := &b.weights
	for i := len(w.exp2); i < len(tensor.Exp2Bits); i++ {
		w.exp2 = append(w.exp2, math.Float64frombits(tensor.Exp2Bits[i]))
	}
	w.all = append(append(append(w.all[:0], w.exp2...), t...), u...)
	a.exp2 = b.constants(constWeigh, unsafe.Slice((*int32)(unsafe.Pointer(unsafe.SliceData(w.all))), 2*len(w.all)))
	a.t = a.exp2 + uint64(8*len(w.exp2))
	a.u = a.t + uint64(8*rows)
	a.k = int32(k)
	a.sums = b.scratch(scratchParts, 8*rows*int(a.blocks))
	launch(b, kWeigh, dim{x: rows * ceil(int(a.blocks), weighThreads)}, weighThreads, 0, &a)
	launch(b, kWeighDraw, dim{x: rows}, tensor.WeighBlock, 8*int(a.blocks), &a)
}

// drawWeights are the numbers that Weigh sends to the device.
type drawWeights struct{ exp2, all []float64 }
