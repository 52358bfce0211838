//go:build cuda

package gpu

import "pipe/tensor"

// doraWeight is DoraWeight of dora.cu.
type doraWeight struct {
	parts, aa, w, a                 uint64
	n, k, tiles, chunks, first, vec int32
}

// doraArgs is DoraArgs of dora.cu.
type doraArgs struct {
	of                    [doraMost]doraWeight
	count, r, all, unused int32
}

// doraNormOf is DoraNormOf of dora.cu.
type doraNormOf struct {
	ratio, norm, sq, magnitude, b, parts, aa uint64
	n, chunks, first, block                  int32
	s                                        float32
	unused                                   int32
}

// doraNormArgs is DoraNormArgs of dora.cu.
type doraNormArgs struct {
	of                                    [doraMost]doraNormOf
	count, r, blocks, all, staged, unused int32
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

// newDoraAhead is newDora with what is copied of A.
func newDoraAhead(name string, rows, parts, stages int) doraKernel {
	k := newDora(name, rows, parts, stages)
	k.shared += stages * 4 * rows * doraTerms
	return k
}

// The kernels for A in float32 and in bfloat16, for any device and for those with
// 228 KiB of shared memory.
var (
	kDora = [2][]doraKernel{
		{newDora("dora_float_16", 16, 3, 2), newDora("dora_float_32", 32, 3, 2)},
		{newDora("dora_half_16", 16, 1, 2), newDora("dora_half_32", 32, 1, 2), newDora("dora_half_64", 64, 1, 2)},
	}
	kDoraDeep = [2][]doraKernel{
		{newDoraAhead("dora_float_16_deep", 16, 3, 5), newDoraAhead("dora_float_32_deep", 32, 3, 4), newDoraAhead("dora_float_64_deep", 64, 3, 3)},
		{newDoraAhead("dora_half_16_deep", 16, 1, 6), newDoraAhead("dora_half_32_deep", 32, 1, 5), newDoraAhead("dora_half_64_deep", 64, 1, 4), newDora("dora_half_128_deep", 128, 1, 3)},
	}
)

const (
	doraTile   = 256     // rows of a tile
	doraTerms  = 64      // of a chunk
	doraLeast  = 4       // chunks of a block, where there are as many
	doraRows   = 48      // up to this rank, A is multiplied in pieces where W is not in bfloat16
	doraStaged = 256     // and up to this, B is put into shared memory
	doraMost   = 16      // weights at a time, and
	doraParts  = 1 << 22 // elements of A·Wᵀ, but of one weight
)

// DoRANorm implements [tensor.Linear].
func (b *Backend) DoRANorm(ratio, c, w2, w, a, bb, m *tensor.Tensor, scale float32) {
	b.DoRANorms([]tensor.DoRANorm{{Ratio: ratio, C: c, W2: w2, W: w, A: a, B: bb, M: m, Scale: scale}})
}

// A doraBatch is norms that are computed together, of weights in bfloat16 that are
// read once.
type doraBatch struct {
	w     doraArgs
	norms doraNormArgs
	half  bool // A is rounded
	parts int  // elements of A·Wᵀ
}

// DoRANorms implements [tensor.DoRANorms]: A·Wᵀ [r,out] as training forms it, A·Aᵀ,
// and then the norms. Which are computed together does not depend on free memory.
func (b *Backend) DoRANorms(ns []tensor.DoRANorm) {
	const op = "dora norm"
	var batch doraBatch
	for i := range ns {
		n := &ns[i]
		g := doraNormOf{ratio: output(op, n.Ratio), norm: output(op, n.C), sq: input(op, n.W2), magnitude: input(op, n.M), b: input(op, n.B), s: n.Scale}
		x, w := input(op, n.A), b.operand(op, n.W)
		w.eight = false
		r, in := matrix(op, n.A)
		checkMatrix(op, n.W, w.rows, in)
		checkMatrix(op, n.B, w.rows, r)
		for _, t := range [...]*tensor.Tensor{n.Ratio, n.C, n.W2, n.M} {
			checkLen(op, t.Len(), w.rows)
		}
		if b.err != nil {
			return
		}
		if w.rows == 0 {
			continue
		}
		g.n = int32(w.rows)
		alone := w.dt != tensor.BF16
		if alone {
			b.doraNorms(&batch)
		}
		p, ok := b.halfWeight(&w)
		if !ok || r == 0 || in == 0 {
			b.doraProducts(&g, &w, x, r, in)
			continue
		}
		if k := &batch.w; k.count == doraMost || k.count > 0 && (int(k.r) != r || batch.half != w.half || batch.parts+r*w.rows > doraParts) {
			b.doraNorms(&batch)
		}
		batch.add(g, doraWeight{w: p, a: x, n: g.n, k: int32(in)}, r, w.half)
		if alone {
			b.doraNorms(&batch)
		}
	}
	b.doraNorms(&batch)
}

func (d *doraBatch) add(g doraNormOf, w doraWeight, r int, half bool) {
	at := d.w.count
	w.tiles, w.chunks = int32(ceil(int(w.n), doraTile)), int32(ceil(int(w.k), doraTerms))
	w.first, w.vec = d.w.all, int32(index(w.a%16 == 0))
	g.chunks, g.first = w.chunks, w.first
	d.w.of[at], d.norms.of[at] = w, g
	d.w.count++
	d.w.all += w.tiles * w.chunks
	d.w.r, d.half = int32(r), half
	d.parts += r * int(w.n)
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

// doraNorms computes a batch and empties it.
func (b *Backend) doraNorms(d *doraBatch) {
	if d.w.count == 0 {
		return
	}
	r, all := int(d.w.r), int(d.w.all)
	ks := kDora[index(d.half)]
	if b.major == 9 || b.major == 10 {
		ks = kDoraDeep[index(d.half)]
	}
	i := 0
	for i < len(ks)-1 && ks[i].rows < r {
		i++
	}
	groups := ceil(r, ks[i].rows) // of rows of A: they read the same of w at the same time
	blocks := max(min(all/doraLeast, b.sms/groups), 1)
	d.norms.blocks, d.norms.all = int32(blocks), d.w.all
	size, aa := 0, roundUp(r*r, 64)
	for i := range d.w.of[:d.w.count] {
		w := &d.w.of[i]
		w.aa, w.parts = uint64(4*size), uint64(4*(size+aa))
		slots := int(w.chunks)*blocks/all + 2 // at most, of a tile
		size += aa + roundUp(slots*r*int(w.n), 64)
	}
	p := b.scratch(scratchNorm, 4*size)
	for i := range d.w.of[:d.w.count] {
		w, g := &d.w.of[i], &d.norms.of[i]
		w.aa, w.parts = p+w.aa, p+w.parts
		g.aa, g.parts = w.aa, w.parts
	}
	launch(b, ks[i].kernel, dim{x: blocks, y: groups}, 256, ks[i].shared, &d.w)
	b.doraSums(&d.norms, int(d.w.count), r)
	*d = doraBatch{}
}

// doraSums computes norms of the products that were set.
func (b *Backend) doraSums(g *doraNormArgs, count, r int) {
	blocks, shared := 0, 0
	for i := range g.of[:count] {
		g.of[i].block = int32(blocks)
		blocks += ceil(int(g.of[i].n), 32)
	}
	g.count, g.r = int32(count), int32(r)
	if r <= doraStaged {
		g.staged, shared = 1, 4*33*r
	}
	launch(b, kDoRANorm, dim{x: blocks}, 256, shared, g)
}

// doraProducts computes norms by products of any weight.
func (b *Backend) doraProducts(of *doraNormOf, w *operand, a uint64, r, k int) {
	n := w.rows
	of.aa = b.scratch(scratchNorm, 4*(roundUp(r*r, 64)+r*n))
	of.parts = of.aa + uint64(4*roundUp(r*r, 64))
	for lo := 0; lo < r; { // few rows at a time read w as fast as memory can, many read it once
		rows := r - lo
		if r <= doraRows {
			rows = min(rows, tensor.DecodeRows)
		}
		b.multiply(&product{m: rows, n: n, k: k, c: of.parts + uint64(4*lo*n), ldc: n, a: a + uint64(4*lo*k), lda: k, w: *w, transW: true, alpha: 1})
		lo += rows
	}
	b.multiply(&product{m: r, n: r, k: k, c: of.aa, ldc: r, a: a, lda: k, w: operand{dt: tensor.F32, ptr: a, rows: r, cols: k}, transW: true, alpha: 1, uniform: true})
	g := doraNormArgs{of: [doraMost]doraNormOf{*of}}
	b.doraSums(&g, 1, r)
}
