//go:build cuda

package gpu

import "pipe/tensor"

// doraArgs is DoraArgs of dora.cu.
type doraArgs struct {
	parts, aa, w, a             uint64
	n, r, k, tiles, chunks, vec int32
}

// doraNormArgs is DoraNormArgs of dora.cu.
type doraNormArgs struct {
	ratio, norm, sq, magnitude, b, parts, aa uint64
	n, r, blocks, tiles, chunks, staged      int32
	s                                        float32
	unused                                   int32
}

var kDoRANorm = newKernel("dora", "dora_norm")

// A doraKernel multiplies a weight with so many rows of A at a time.
type doraKernel struct {
	*kernel
	rows, shared int
}

func newDora(name string, rows, parts, stages int) doraKernel {
	return doraKernel{newKernel("dora", name), rows, stages*2*doraTile*doraTerms + 2*parts*2*rows*(doraTerms+8)}
}

// The kernels for A in float32 and in bfloat16, for any device and for those with
// 228 KiB of shared memory.
var (
	kDora = [2][]doraKernel{
		{newDora("dora_float_16", 16, 3, 2), newDora("dora_float_32", 32, 3, 2)},
		{newDora("dora_half_16", 16, 1, 2), newDora("dora_half_32", 32, 1, 2), newDora("dora_half_64", 64, 1, 2)},
	}
	kDoraDeep = [2][]doraKernel{
		{newDora("dora_float_16_deep", 16, 3, 4), newDora("dora_float_32_deep", 32, 3, 3), newDora("dora_float_64_deep", 64, 3, 3)},
		{newDora("dora_half_16_deep", 16, 1, 4), newDora("dora_half_32_deep", 32, 1, 4), newDora("dora_half_64_deep", 64, 1, 4), newDora("dora_half_128_deep", 128, 1, 3)},
	}
)

const (
	doraTile   = 256 // rows of a tile
	doraTerms  = 64  // of a chunk
	doraLeast  = 4   // chunks of a block, where there are as many
	doraRows   = 48  // up to this rank, A is multiplied in pieces where W is not in bfloat16
	doraStaged = 256 // and up to this, B is put into shared memory
)

// DoRANorm implements [tensor.Linear]: A·Wᵀ [r,out] as training forms it, A·Aᵀ, and
// then the norms.
func (b *Backend) DoRANorm(ratio, c, w2, w, a, bb, m *tensor.Tensor, scale float32) {
	const op = "dora norm"
	g := doraNormArgs{ratio: output(op, ratio), norm: output(op, c), sq: input(op, w2), magnitude: input(op, m), b: input(op, bb), s: scale}
	x, wo := input(op, a), b.operand(op, w)
	wo.eight = false
	r, in := matrix(op, a)
	n := wo.rows
	checkMatrix(op, w, n, in)
	checkMatrix(op, bb, n, r)
	for _, t := range [...]*tensor.Tensor{ratio, c, w2, m} {
		checkLen(op, t.Len(), n)
	}
	if b.err != nil || n == 0 {
		return
	}
	g.n, g.r = int32(n), int32(r)
	if p, ok := b.halfWeight(&wo); ok && r > 0 && in > 0 {
		b.doraStream(&g, p, x, in, wo.half)
	} else {
		b.doraProducts(&g, &wo, x, in)
	}
	shared := 0
	if r <= doraStaged {
		g.staged, shared = 1, 4*33*r
	}
	launch(b, kDoRANorm, dim{x: ceil(n, 32)}, 256, shared, &g)
}

// halfWeight returns where a weight is in bfloat16 and whole chunks.
func (b *Backend) halfWeight(w *operand) (uint64, bool) {
	if w.dt == tensor.BF16 {
		return w.ptr, chunks(w.ptr, w.cols, w.cols)
	}
	if !w.half || !w.keepable() {
		return 0, false
	}
	p, ok := b.kept(w)
	if !ok {
		p = b.scratch(scratchRight, 2*w.rows*w.cols)
		b.unpack(p, w.cols, *w, w.cols, true)
	}
	return p, true
}

// doraStream sets the products of a weight in bfloat16 that is read once.
func (b *Backend) doraStream(g *doraNormArgs, w, a uint64, k int, half bool) {
	n, r := int(g.n), int(g.r)
	ks := kDora[index(half)]
	if b.major == 9 || b.major == 10 {
		ks = kDoraDeep[index(half)]
	}
	i := 0
	for i < len(ks)-1 && ks[i].rows < r {
		i++
	}
	d := doraArgs{w: w, a: a, n: g.n, r: g.r, k: int32(k), tiles: int32(ceil(n, doraTile)), chunks: int32(ceil(k, doraTerms)), vec: int32(index(a%16 == 0))}
	groups := ceil(r, ks[i].rows) // of rows of A: they read the same of w at the same time
	blocks := max(min(int(d.tiles*d.chunks)/doraLeast, b.sms/groups), 1)
	slots := blocks/int(d.tiles) + 2 // at most, of a tile
	g.blocks, g.tiles, g.chunks = int32(blocks), d.tiles, d.chunks
	g.aa = b.scratch(scratchNorm, 4*(roundUp(r*r, 64)+slots*r*n))
	g.parts = g.aa + uint64(4*roundUp(r*r, 64))
	d.aa, d.parts = g.aa, g.parts
	launch(b, ks[i].kernel, dim{x: blocks, y: groups}, 256, ks[i].shared, &d)
}

// doraProducts sets the products of any weight.
func (b *Backend) doraProducts(g *doraNormArgs, w *operand, a uint64, k int) {
	n, r := int(g.n), int(g.r)
	g.aa = b.scratch(scratchNorm, 4*(roundUp(r*r, 64)+r*n))
	g.parts = g.aa + uint64(4*roundUp(r*r, 64))
	for lo := 0; lo < r; { // few rows at a time read w as fast as memory can, many read it once
		rows := r - lo
		if r <= doraRows {
			rows = min(rows, tensor.DecodeRows)
		}
		b.multiply(&product{m: rows, n: n, k: k, c: g.parts + uint64(4*lo*n), ldc: n, a: a + uint64(4*lo*k), lda: k, w: *w, transW: true, alpha: 1})
		lo += rows
	}
	b.multiply(&product{m: r, n: r, k: k, c: g.aa, ldc: r, a: a, lda: k, w: operand{dt: tensor.F32, ptr: a, rows: r, cols: k}, transW: true, alpha: 1, uniform: true})
}
