//go:build cuda

package gpu

import (
	"fmt"

	"pipe/tensor"
)

var (
	kLargest     = newKernel("largest", "largest")
	kLargestJoin = newKernel("largest", "largest_join")
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
	for i := range mirror {
		mirror[i] = unknown
	}
	if b.err != nil {
		return
	}
	most := 1
	for most < k {
		most *= 2
	}
	a := largestArgs{logits: x, ids: at, z: best, words: int32(words), part: largestPart, parts: int32(ceil(words, largestPart)), most: int32(most), k: int32(k), together: 2}
	for a.together < a.parts && int(a.together)*most < 8*largestPart {
		a.together *= 2
	}
	a.keys = b.scratch(scratchParts, 8*rows*int(a.parts)*most)
	launch(b, kLargest, dim{x: rows * int(a.parts)}, 256, 8*largestPart, &a)
	launch(b, kLargestJoin, dim{x: rows}, 512, 8*int(a.together)*most, &a)
}
