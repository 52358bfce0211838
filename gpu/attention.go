//go:build cuda

package gpu

import (
	"fmt"
	"math"
	"slices"

	"pipe/tensor"
)

// The kernels come in families: products of tiles in bfloat16 (wgmma on sm_90a,
// and mma), for heads of the widths that they have; products of tiles in float32
// (f32); and single queries (few). kernels/attention*.cu say how each works.
var (
	kAttentionMMA        = attentionKernels("mma", "attention_mma", mmaWidths)
	kAttentionDQMMA      = attentionKernels("mma", "attention_dq_mma", mmaWidths)
	kAttentionDKMMA      = attentionKernels("mma", "attention_dk_mma", mmaWidths)
	kAttentionWgmma      = attentionKernels("wgmma", "attention_wgmma", wgmmaWidths)
	kAttentionDQWgmma    = attentionKernels("wgmma", "attention_dq_wgmma", wgmmaWidths)
	kAttentionDKWgmma    = attentionKernels("wgmma", "attention_dk_wgmma", wgmmaWidths)
	kAttentionF32        = attentionKernels("f32", "attention_f32", f32Widths)
	kAttentionDQF32      = attentionKernels("f32", "attention_dq_f32", f32Widths)
	kAttentionDKF32      = attentionKernels("f32", "attention_dk_f32", f32Widths)
	kAttentionDKSmall    = attentionKernels("mma", "attention_dk_mma_small", mmaWidths)
	kAttentionF32Small   = attentionKernels("f32", "attention_f32_small", f32Widths[2:])
	kAttentionDQF32Small = attentionKernels("f32", "attention_dq_f32_small", f32Widths[1:])
	kAttentionDKF32Small = attentionKernels("f32", "attention_dk_f32_small", f32Widths[1:])
	kAttentionFew        = attentionKernels("few", "attention_few", fewHeads)
	kAttentionStaged     = attentionKernels("few", "attention_few_staged", fewHeads)
	kAttentionRound      = newKernel("attention_few", "attention_round")
	kAttentionDelta      = newKernel("attention_few", "attention_delta")
)

// Widths of heads that there are kernels for; those of f32 take smaller ones too.
var (
	mmaWidths   = []int{64, 96, 128}
	wgmmaWidths = []int{64, 128}
	f32Widths   = []int{64, 128, 256}
	fewHeads    = []int{1, 4, 8} // heads of a group that a block of few does
)

func attentionKernels(family, name string, sizes []int) map[int]*kernel {
	all := map[int]*kernel{}
	for _, n := range sizes {
		all[n] = newKernel("attention_"+family, fmt.Sprintf("%s_%d", name, n))
	}
	return all
}

// atLeast returns the first of sizes that is no less than n, or the last.
func atLeast(sizes []int, n int) int {
	for _, s := range sizes {
		if s >= n {
			return s
		}
	}
	return sizes[len(sizes)-1]
}

// Threads and rows of tiles of the kernels.
const (
	mmaQueries, mmaKeys, mmaThreads = 128, 64, 128
	mmaDQKeys                       = 32
	mmaDKKeys, mmaDKQueries         = 128, 64
	wgmmaQueries, wgmmaKeys         = 128, 128
	wgmmaDQKeys                     = 64
	wgmmaDKKeys, wgmmaDKQueries     = 128, 64
	wgmmaDKMore                     = 4*16 + 28 + 16 + 4 // bytes
	wgmmaThreads                    = 256
	f32Threads                      = 256
	fewKeys, fewThreads             = 128, 128
	stagedWidth, stagedThreads      = 128, 256
)

// f32Tile is what the kernels of float32 take of queries and keys at a time, for
// heads of width w.
func (b *Backend) f32Tile(w int) (queries, keys int, small bool) {
	if queries, keys = 64, 64; 4*((queries+keys)*(w+4)+queries*(keys+4)) > b.shared {
		return 32, 32, true
	}
	return queries, keys, false
}

// f32GradTile is f32Tile of gradients: rows of the tile that stays, and of the one
// that passes by.
func (b *Backend) f32GradTile(w int) (rows, step int, small bool) {
	if rows, step = 64, 32; w > 128 {
		rows = 32
	}
	if f32GradShared(w, rows, step, true) <= b.shared {
		return rows, step, false
	}
	if w > 128 {
		return 16, 16, true
	}
	return 32, 32, true
}

// f32GradShared is the shared memory of gradients of keys, or of queries.
func f32GradShared(w, rows, step int, keys bool) int {
	if keys {
		return 4 * ((2*rows+2*step)*(w+4) + 2*rows*(step+4) + 2*step)
	}
	return 4 * ((2*rows+2*step)*(w+4) + rows*(step+4) + 2*rows)
}

// dkShared is the shared memory of attention_dk_mma for so many keys.
func dkShared(headDim, keys int) int {
	return (2*keys+4*mmaDKQueries)*tileRow(headDim) + 2*2*4*mmaDKQueries
}

// fewQueries is the most queries of a segment that are treated one by one. Each
// is so computed as if it were alone.
const fewQueries = 3

// heads is the checked description of an attention operation.
type heads struct {
	tensor.Attention
	group, ldq, ldk int
	queries, keys   int
	scale           float32
	half, halfKeys  int // 1: queries and keys are BF16
	q, k, v         uint64
}

func newHeads(op string, q, k, v *tensor.Tensor, o tensor.Attention) heads {
	bad := func(format string, args ...any) {
		panic("gpu: " + op + ": " + fmt.Sprintf(format, args...))
	}
	if o.HeadDim <= 0 || o.KVHeads <= 0 || o.Heads <= 0 || o.Heads%o.KVHeads != 0 {
		bad("%d heads, %d key heads of width %d", o.Heads, o.KVHeads, o.HeadDim)
	}
	h := heads{Attention: o, group: o.Heads / o.KVHeads, ldq: o.Heads * o.HeadDim, ldk: o.KVHeads * o.HeadDim,
		scale: float32(1 / math.Sqrt(float64(o.HeadDim)))}
	h.q, h.half = numbers(op, q)
	h.k, h.halfKeys = numbers(op, k)
	h.v, _ = numbers(op, v)
	sameType(op, k, v)
	h.queries, _ = matrix(op, q)
	h.keys, _ = matrix(op, k)
	checkMatrix(op, q, h.queries, h.ldq)
	checkMatrix(op, k, h.keys, h.ldk)
	sameShape(op, k, v)
	if wrong := badSegments(o, h.queries, h.keys); wrong != "" {
		bad("%s", wrong)
	}
	return h
}

// badSegments returns what is wrong with segments of so many queries and keys.
func badSegments(o tensor.Attention, queries, all int) string {
	segments := len(o.K)
	if len(o.Q) != segments+1 || len(o.KLen) != segments {
		return fmt.Sprintf("%d query bounds, %d first keys, %d key counts", len(o.Q), len(o.K), len(o.KLen))
	}
	if o.Q[0] != 0 || int(o.Q[segments]) != queries {
		return fmt.Sprintf("segments cover queries %d to %d of %d", o.Q[0], o.Q[segments], queries)
	}
	for s := range segments {
		n, first, keys := int(o.Q[s+1]-o.Q[s]), int(o.K[s]), int(o.KLen[s])
		if n < 0 || keys < n || first < 0 || first+keys > all {
			return fmt.Sprintf("segment %d: %d queries, keys %d to %d of %d", s, n, first, first+keys, all)
		}
	}
	return ""
}

// products reports whether the operation is one of tiles in bfloat16.
func (h *heads) products() bool {
	return h.Precision == tensor.BF16 && slices.Contains(mmaWidths, h.HeadDim)
}

// groupProducts reports whether products are those of warpgroups.
func (b *Backend) groupProducts(h *heads) bool {
	return b.wgmma() && slices.Contains(wgmmaWidths, h.HeadDim)
}

// wide reports whether h's heads are wider than the kernels can.
func (b *Backend) wide(op string, h *heads) bool {
	if widest := f32Widths[len(f32Widths)-1]; h.HeadDim > widest {
		b.fail(fmt.Errorf("gpu: %s: heads of width %d; must be at most %d", op, h.HeadDim, widest))
	}
	return b.err != nil
}

// attentionArgs is AttentionArgs of kernels/attention.cuh.
type attentionArgs struct {
	dst, lse, q, k, v, tiles    uint64
	heads, group, dim, ldq, ldk int32
	half, halfKeys, vector      int32
	scale                       float32
}

// Attention implements [tensor.Transformer], block by block of keys with a
// running softmax (Dao et al. 2022, algorithm 1).
func (b *Backend) Attention(dst, lse, q, k, v *tensor.Tensor, o tensor.Attention) {
	const op = "attention"
	h := newHeads(op, q, k, v, o)
	d, _ := numbersOut(op, dst)
	l := output(op, lse)
	sameType(op, q, dst)
	sameShape(op, dst, q)
	checkMatrix(op, lse, h.queries, o.Heads)
	if b.err != nil || b.wide(op, &h) {
		return
	}
	b.watch.attends(h.queries, h.keys)
	b.attendFew(&h, d, l)
	vector := vectors(d, h.q, h.k, h.v) && h.HeadDim%8 == 0
	mma := h.products() && vector
	w := atLeast(f32Widths, h.HeadDim)
	rows, keys, small := b.f32Tile(w)
	if mma {
		rows = mmaQueries
	}
	tiles, n := b.work.tiles(o, rows, fewQueries)
	if n == 0 {
		return
	}
	if b.watch != nil {
		b.watch.rows, b.watch.tiles = rows, n
	}
	a := &attentionArgs{dst: d, lse: l, q: h.q, k: h.k, v: h.v, tiles: b.constants(constTiles, tiles),
		heads: int32(o.Heads), group: int32(h.group), dim: int32(o.HeadDim), ldq: int32(h.ldq), ldk: int32(h.ldk),
		half: int32(h.half), halfKeys: int32(h.halfKeys), vector: int32(index(vector)), scale: h.scale}
	grid := dim{x: n * o.Heads}
	if mma {
		if h.halfKeys == 0 && !b.breaks() { // what is rounded depends on the segments
			first, count := keyRange(o)
			bytes := 2 * count * h.ldk
			a.k = b.scratch(scratchHeads, 2*bytes)
			a.v = a.k + uint64(bytes)
			b.round(a.k, h.k+uint64(4*first*h.ldk), count*h.ldk)
			b.round(a.v, h.v+uint64(4*first*h.ldk), count*h.ldk)
			a.k -= uint64(2 * first * h.ldk)
			a.v -= uint64(2 * first * h.ldk)
		}
		if b.groupProducts(&h) {
			launch(b, kAttentionWgmma[h.HeadDim], grid, wgmmaThreads, 2*h.HeadDim*(wgmmaQueries+4*wgmmaKeys), a)
		} else {
			launch(b, kAttentionMMA[h.HeadDim], grid, mmaThreads, (mmaQueries+4*mmaKeys)*tileRow(h.HeadDim), a)
		}
		return
	}
	kernel := kAttentionF32[w]
	if small {
		kernel = kAttentionF32Small[w]
	}
	launch(b, kernel, grid, f32Threads, 4*((rows+keys)*(w+4)+rows*(keys+4)), a)
}

// tileRow is how many bytes a row of a tile in bfloat16 takes.
func tileRow(d int) int {
	if d <= 64 {
		return 128
	}
	return 256
}

// keyRange returns the first row and the number of rows that hold all keys.
func keyRange(o tensor.Attention) (first, count int) {
	lo, hi := int32(math.MaxInt32), int32(0)
	for s, k := range o.K {
		if o.KLen[s] > 0 {
			lo, hi = min(lo, k), max(hi, k+o.KLen[s])
		}
	}
	return int(lo), int(hi - lo)
}

type attentionRoundArgs struct {
	dst, src uint64
	n        int64
}

// round sets n elements, a multiple of 8, to those of src in bfloat16.
func (b *Backend) round(dst, src uint64, n int) {
	const each = 256 * 8
	launch(b, kAttentionRound, dim{x: min(ceil(n, each), 16*b.sms)}, 256, 0, &attentionRoundArgs{dst, src, int64(n)})
}

// attentionFewArgs is AttentionFewArgs of kernels/attention_few.cu.
type attentionFewArgs struct {
	dst, lse, q, k, v, items, counters, sums, most uint64
	heads, group, dim, half, halfKeys, vector      int32
	scale                                          float32
	none                                           int32
}

// attendFew does the segments of few queries.
func (b *Backend) attendFew(h *heads, dst, lse uint64) {
	list, n := b.work.few(h.Attention)
	if n.parts == 0 {
		return
	}
	a := &attentionFewArgs{dst: dst, lse: lse, q: h.q, k: h.k, v: h.v, items: b.constants(constFew, list),
		heads: int32(h.Heads), group: int32(h.group), dim: int32(h.HeadDim), half: int32(h.half), halfKeys: int32(h.halfKeys),
		vector: int32(index(vectors(h.k, h.v) && h.HeadDim%8 == 0)), scale: h.scale}
	g := atLeast(fewHeads, h.group)
	blocks := h.KVHeads * ceil(h.group, g)
	if n.queries > 0 {
		a.most = b.scratch(scratchParts, 4*n.parts*h.Heads*(2+h.HeadDim))
		a.sums = a.most + uint64(4*n.parts*h.Heads*2)
		a.counters = b.tickets(n.queries * blocks)
	}
	if a.halfKeys == 1 && a.vector == 1 && h.HeadDim <= stagedWidth {
		launch(b, kAttentionStaged[g], dim{x: n.parts * blocks}, stagedThreads, max(2*2*fewKeys*h.HeadDim, 4*4*stagedThreads*g), a)
		return
	}
	launch(b, kAttentionFew[g], dim{x: n.parts * blocks}, fewThreads, 0, a)
}

// attentionGradArgs is AttentionGradArgs of kernels/attention.cuh.
type attentionGradArgs struct {
	dq, dk, dv, q, k, v, dy, lse, delta, tiles, keys, sources uint64
	heads, group, dim, ldq, ldk, queries, half, vector        int32
	scale                                                     float32
}

// attentionDeltaArgs is AttentionDeltaArgs of kernels/attention_few.cu.
type attentionDeltaArgs struct {
	delta, base2, rounded, lse, dy, out uint64
	queries                             int64
	heads, dim, half, vector            int32
}

// AttentionGrad implements [tensor.Transformer]. Probabilities are formed again
// from the log-sum-exp (Dao et al. 2022, algorithm 4), once for the gradients of
// queries and once for those of keys and values, so that each sum has one block
// and a fixed order.
func (b *Backend) AttentionGrad(dq, dk, dv, q, k, v, dst, lse, dy *tensor.Tensor, o tensor.Attention) {
	const op = "attention gradient"
	h := newHeads(op, q, k, v, o)
	a := &attentionGradArgs{q: h.q, k: h.k, v: h.v,
		heads: int32(o.Heads), group: int32(h.group), dim: int32(o.HeadDim), ldq: int32(h.ldq), ldk: int32(h.ldk), queries: int32(h.queries),
		half: int32(h.half), scale: h.scale}
	a.dq, _ = numbersOut(op, dq)
	a.dk, _ = numbersOut(op, dk)
	a.dv, _ = numbersOut(op, dv)
	a.dy, _ = numbers(op, dy)
	out, _ := numbers(op, dst)
	l := input(op, lse)
	sameType(op, q, k, dst, dy, dq, dk, dv)
	sameShape(op, dq, q, dst, dy)
	sameShape(op, dk, k, dv)
	checkMatrix(op, lse, h.queries, o.Heads)
	if b.err != nil || b.wide(op, &h) {
		return
	}
	vector := vectors(a.dq, a.dk, a.dv, a.q, a.k, a.v, a.dy, out) && h.HeadDim%8 == 0
	a.vector = int32(index(vector))
	mma := h.products() && vector
	sums := h.queries * h.Heads
	a.delta = b.scratch(scratchDelta, 8*sums)
	a.lse = a.delta + uint64(4*sums)
	delta := &attentionDeltaArgs{delta: a.delta, base2: a.lse, lse: l, dy: a.dy, out: out,
		queries: int64(h.queries), heads: a.heads, dim: a.dim, half: a.half, vector: a.vector}
	if mma && h.half == 0 {
		nq, nk := h.queries*h.ldq, h.keys*h.ldk
		to := b.scratch(scratchHeads, 2*(2*nq+2*nk))
		delta.rounded = to
		b.round(to+uint64(2*nq), a.q, nq)
		b.round(to+uint64(4*nq), a.k, nk)
		b.round(to+uint64(4*nq+2*nk), a.v, nk)
		a.dy, a.q, a.k, a.v = to, to+uint64(2*nq), to+uint64(4*nq), to+uint64(4*nq+2*nk)
	}
	launch(b, kAttentionDelta, dim{x: min(ceil(sums, 8), 64*b.sms)}, 256, 0, delta)

	w := atLeast(f32Widths, h.HeadDim)
	rows, step, small := b.f32GradTile(w)
	keys := rows
	byKeys, byQueries := kAttentionDKF32[w], kAttentionDQF32[w]
	switch {
	case mma:
		rows, keys, byKeys = mmaQueries, mmaDKKeys, kAttentionDKMMA[h.HeadDim]
		if !b.groupProducts(&h) && dkShared(h.HeadDim, keys) > b.shared {
			keys, byKeys = mmaDKKeys/2, kAttentionDKSmall[h.HeadDim]
		}
	case small:
		byKeys, byQueries = kAttentionDKF32Small[w], kAttentionDQF32Small[w]
	}
	list, n := b.work.keyTiles(o, h.keys, keys)
	a.keys = b.constants(constGradKeys, list)
	a.sources = a.keys + uint64(4*4*n)
	grid := dim{x: n * h.KVHeads}
	switch {
	case mma && b.groupProducts(&h):
		launch(b, kAttentionDKWgmma[h.HeadDim], grid, wgmmaThreads, 2*h.HeadDim*(2*wgmmaDKKeys+8*wgmmaDKQueries)+4*2*4*wgmmaDKQueries+wgmmaDKMore, a)
	case mma:
		launch(b, byKeys, grid, 2*keys, dkShared(h.HeadDim, keys), a)
	default:
		launch(b, byKeys, grid, f32Threads, f32GradShared(w, keys, step, true), a)
	}
	list, n = b.work.gradTiles(o, rows)
	a.tiles = b.constants(constGradTiles, list)
	grid = dim{x: n * h.Heads}
	switch {
	case mma && b.groupProducts(&h):
		launch(b, kAttentionDQWgmma[h.HeadDim], grid, wgmmaThreads, 2*h.HeadDim*(2*wgmmaQueries+6*wgmmaDQKeys), a)
	case mma:
		launch(b, kAttentionDQMMA[h.HeadDim], grid, mmaThreads, (2*mmaQueries+4*mmaDQKeys)*tileRow(h.HeadDim), a)
	default:
		launch(b, byQueries, grid, f32Threads, f32GradShared(w, rows, step, false), a)
	}
}
