//go:build cuda

package gpu

import (
	"cmp"

	"pipe/gpu/cux"
	"pipe/tensor"
)

// unpackArgs is UnpackArgs of gemm_prep.cu.
type unpackArgs struct {
	dst, src                uint64
	stride                  int64
	rows, cols, ldd, unused int32
}

// lowArgs is LowArgs of gemm_prep.cu.
type lowArgs struct {
	left, right, u, v    uint64
	sj, st               int64
	m, n, r, r8, ldn, nk int32
	scale                float32
	unused               int32
}

// kUnpack are the kernels that expand to float32 and to bfloat16.
var kUnpack = [2][tensor.NF4 + 1]*kernel{kernelsOf("gemm_prep", "unpack_float_", ""), kernelsOf("gemm_prep", "unpack_half_", "")}

// unpack sets dst, rows of ld elements (a multiple of 8) in float32 or bfloat16, to
// the first cols columns of w and zeros behind them.
func (b *Backend) unpack(dst uint64, ld int, w operand, cols int, half bool) {
	a := unpackArgs{dst: dst, src: w.ptr, stride: int64(w.dt.Bytes(w.cols)), rows: int32(w.rows), cols: int32(cols), ldd: int32(ld)}
	launch(b, kUnpack[index(half)][w.dt], dim{x: min(ceil(w.rows*ld/8, 256), 16*b.sms)}, 256, 0, &a)
}

// left returns the first operand of a product in bfloat16, and its row distance.
func (b *Backend) left(p *product) (a uint64, ld int) {
	w := operand{dt: tensor.F32, ptr: p.a, rows: p.m, cols: p.lda}
	if p.aHalf {
		if chunks(p.a, p.lda, p.k) {
			return p.a, p.lda
		}
		w.dt = tensor.BF16
	}
	ld = roundUp(p.k, 8)
	a = b.scratch(scratchLeft, 2*p.m*ld)
	b.unpack(a, ld, w, p.k, true)
	return a, ld
}

// keepable reports whether the weight in bfloat16 is worth keeping: it takes no more
// memory than the weight itself.
func (w *operand) keepable() bool {
	return w.m != nil && (w.dt == tensor.F32 || w.dt == tensor.F16) && w.cols%8 == 0
}

// kept returns the weight in bfloat16 if it is keepable and there is memory. Who
// gets none expands it, and does all else alike: no bit depends on free memory.
func (b *Backend) kept(w *operand) (uint64, bool) {
	if !w.keepable() {
		return 0, false
	}
	if w.m.copied == 0 {
		p, err := b.take(tensor.ForPanels, 2*w.rows*w.cols)
		if err != nil {
			return 0, false
		}
		w.m.copied = p
		b.unpack(p, w.cols, *w, w.cols, true)
	}
	return w.m.copied, true
}

// multiplyHalf computes a product of operands that are rounded to bfloat16.
func (b *Backend) multiplyHalf(p *product) {
	q := *p
	q.a, q.lda = b.left(p)
	q.aHalf = true
	if q.w.dt == tensor.BF16 && chunks(q.w.ptr, q.w.cols, q.w.cols) {
		b.gemmHalf(&q, q.w.ptr, q.w.cols)
		return
	}
	kept, ok := b.kept(&q.w)
	for lo, rows := 0, q.pieceRows(2); lo == 0 || lo < q.w.rows; lo += rows {
		r := q.piece(lo, min(lo+rows, q.w.rows))
		ld := roundUp(r.w.cols, 8)
		w := kept + uint64(2*lo*ld)
		if !ok {
			w = b.scratch(scratchRight, 2*r.w.rows*ld)
			b.unpack(w, ld, r.w, r.w.cols, true)
		}
		b.gemmHalf(&r, w, ld)
	}
}

// gemmHalf computes a product of operands that are bfloat16 in whole chunks. Which
// kernel does depends on the number of columns only.
func (b *Backend) gemmHalf(p *product, w uint64, ldw int) {
	g := p.gemm()
	g.a, g.lda, g.b, g.ldb = p.a, int64(p.lda), w, int64(ldw)
	if p.low.r > 0 {
		b.lowHalf(p, &g, 0)
	}
	if b.wgmma() {
		if p.fused {
			b.fuse(p, &g)
			if g.dgate != 0 && g.flags&gemmOutHalf != 0 && g.scale|g.bias == 0 {
				g.flags |= gemmStaged
			}
		}
		of := [...]summand{{g.a, g.b, g.lda, g.ldb, g.k}, {g.a2, g.b2, g.lda2, g.ldb2, g.k2}}
		b.gemmTiled(&g, of[:], p.transA, p.transW, p.uniform || p.fused)
		return
	}
	g.tilesM, g.tilesN = int32(ceil(p.m, 128)), int32(ceil(p.n, 128))
	launch(b, kMMA[index(p.transW)], dim{x: int(g.tilesM * g.tilesN)}, 256, 4*(8<<10+8<<10), &g)
}

// inPlace reports whether the product reads its first operand, and its weight, where they lie.
func (p *product) inPlace() (a, w bool) {
	return p.aHalf && chunks(p.a, p.lda, p.k), p.w.dt == tensor.BF16 && chunks(p.w.ptr, p.w.cols, p.w.cols)
}

// joins reports whether multiplyJoined takes the products.
func (b *Backend) joins(ps []product) bool {
	for i := range ps {
		p := &ps[i]
		if _, there := p.inPlace(); !p.w.half || p.eight() || p.m == 0 || p.n == 0 || p.k == 0 || p.outHalf || !there && p.pieceRows(2) < p.w.rows {
			return false
		}
	}
	return b.wgmma()
}

// multiplyJoined sets the result of the first of several products dy·W to the sum of all of
// them: as one product, whose terms are those of all.
func (b *Backend) multiplyJoined(ps []product) {
	var left, right, low int // bytes of scratch
	for i := range ps {
		p := &ps[i]
		a, w := p.inPlace()
		if !a {
			left += 2 * p.m * roundUp(p.k, 8)
		}
		if !w {
			if _, ok := b.kept(&p.w); !ok {
				right += 2 * p.w.rows * roundUp(p.w.cols, 8)
			}
		}
		low += p.lowBytes()
	}
	var lefts, rights uint64
	if left > 0 {
		lefts = b.scratch(scratchLeft, left)
	}
	if right > 0 {
		rights = b.scratch(scratchRight, right)
	}
	if low > 0 {
		b.scratch(scratchLow, low)
	}
	g := ps[0].gemm()
	var of [mostSummands]summand
	low = 0
	for i := range ps {
		p := &ps[i]
		x := &of[i]
		*x = summand{a: p.a, b: p.w.ptr, lda: int64(p.lda), ldb: int64(p.w.cols), k: int32(p.k)}
		a, w := p.inPlace()
		if !a {
			src := operand{dt: tensor.F32, ptr: p.a, rows: p.m, cols: p.lda}
			if p.aHalf {
				src.dt = tensor.BF16
			}
			ld := roundUp(p.k, 8)
			x.a, x.lda = lefts, int64(ld)
			b.unpack(lefts, ld, src, p.k, true)
			lefts += uint64(2 * p.m * ld)
		}
		if !w {
			ld := roundUp(p.w.cols, 8)
			kept, ok := b.kept(&p.w)
			if !ok {
				kept = rights
				b.unpack(kept, ld, p.w, p.w.cols, true)
				rights += uint64(2 * p.w.rows * ld)
			}
			x.b, x.ldb = kept, int64(ld)
		}
		if p.low.r > 0 {
			h := p.gemm()
			low = b.lowHalf(p, &h, low)
			of[len(ps)+i] = summand{h.a2, h.b2, h.lda2, h.ldb2, h.k2}
		}
	}
	b.gemmTiled(&g, of[:], false, false, false)
}

// tileColumns returns the width of the tiles of n columns in products by descriptors,
// and the shared memory of the stages.
func tileColumns(n int) (width, shared int) {
	if n >= 1024 || n == 256 || n == 512 {
		return 256, 4 * (16<<10 + 32<<10)
	}
	return 128, 6 * (16<<10 + 16<<10)
}

// mostSummands is MOST_SUMMANDS of gemm_tma.cu: products that are added, and their updates
// of low rank.
const mostSummands = 2 * mostProducts

// tiledArgs is GemmTmaArgs of gemm_tma.cu.
type tiledArgs struct {
	a, b             [mostSummands]cux.TileMap
	gate, up         cux.TileMap
	g                gemmArgs
	ends             [mostSummands]int32
	group            int32
	experts, rows, _ int32 // the following are of products of experts
	tiles, starts    uint64
}

// A summand is a product of which gemmTiled computes the sum: k terms of a and b, which have
// that many elements from one row to the next.
type summand struct {
	a, b     uint64
	lda, ldb int64
	k        int32
}

// Tiles sets how many rows of tiles products by descriptors take together, for who
// measures it; 0 are as many as without this. It changes no result.
func (b *Backend) Tiles(group int) { b.group = group }

// tileRows is how many rows of tiles are taken together.
func (b *Backend) tileRows() int32 { return int32(cmp.Or(b.group, 16)) }

// kTiled are the kernels with descriptors: for tiles of 128 and of 256 columns, by how a
// and w are stored.
var kTiled = [2][3]*kernel{
	{newKernel("gemm_tma", "gemm_tma_nn_128"), newKernel("gemm_tma", "gemm_tma_nt_128"), newKernel("gemm_tma", "gemm_tma_tn_128")},
	{newKernel("gemm_tma", "gemm_tma_nn_256"), newKernel("gemm_tma", "gemm_tma_nt_256"), newKernel("gemm_tma", "gemm_tma_tn_256")},
}

// fuses reports whether rotation and gradient of p are for the kernel that stores c.
func (b *Backend) fuses(p *product) bool {
	if p.rope == nil && p.grad == nil || !b.wgmma() || p.ldc != p.n || p.gemm().flags&gemmWideC == 0 {
		return false
	}
	if !p.eight() && p.pieceRows(2) < p.w.rows && (p.w.dt != tensor.BF16 || !chunks(p.w.ptr, p.w.cols, p.w.cols)) { // it is multiplied in pieces
		return false
	}
	if r := p.rope; r != nil {
		if p.grad != nil {
			return false
		}
		half := r.InvFreq.Len()
		width, _ := tileColumns(p.n)
		return (half == 32 || half == 64 || half == 128) && 2*half <= width
	}
	for _, t := range [...]*tensor.Tensor{p.grad.Gate, p.grad.Up, p.grad.DGate, p.grad.DUp} {
		if t.DType != p.dst.DType || mem("matmul", t).ptr%16 != 0 {
			return false
		}
	}
	return true
}

// fuse tells the kernel that stores c of rotation and gradient.
func (b *Backend) fuse(p *product, g *gemmArgs) {
	if r := p.rope; r != nil {
		var half int
		g.cos, g.sin, half = b.rotation("matmul", r.Positions, r.InvFreq)
		g.half = int32(half)
	}
	if s := p.grad; s != nil {
		const op = "matmul"
		g.dgate, g.dup, g.gate, g.up = mem(op, s.DGate).ptr, mem(op, s.DUp).ptr, mem(op, s.Gate).ptr, mem(op, s.Up).ptr
	}
}

// splitSteps is the least depth of a part of a sum, in steps of 64 terms.
const splitSteps = 8

// gemmTiled computes a product, or the sum of several, with descriptors of the operands.
// Unless whole, the sums of few tiles are split into parts, so that all of the device works.
func (b *Backend) gemmTiled(g *gemmArgs, of []summand, transA, transW, whole bool) {
	width, shared := tileColumns(int(g.n))
	g.tilesM, g.tilesN = int32(ceil(int(g.m), 128)), int32(ceil(int(g.n), width))
	k := kTiled[width/256][index(transW)]
	if transA {
		k = kTiled[width/256][2]
	}
	t := b.tiledOf(nil)
	steps := 0
	for i := range t.ends {
		if i < len(of) {
			x := &of[i]
			steps += ceil(int(x.k), 64)
			if b.counts == nil && x.k > 0 {
				b.describe(&t.a[i], x.a, x.lda, int(g.m), int(x.k), !transA, 128)
				b.describe(&t.b[i], x.b, x.ldb, int(g.n), int(x.k), transW, width)
			}
		}
		t.ends[i] = int32(steps)
	}
	if g.flags&gemmStaged != 0 && b.counts == nil {
		b.describe(&t.gate, g.gate, g.ldc, int(g.m), int(g.n), true, 128)
		b.describe(&t.up, g.up, g.ldc, int(g.m), int(g.n), true, 128)
	}
	parts := b.splitTiles(g, steps, whole)
	t.g = *g
	b.profileShape(g, of)
	launch(b, k, dim{x: min(int(g.tilesM*g.tilesN)*parts, b.sms)}, 384, shared+128, t)
	if parts > 1 {
		b.addParts(g, parts)
	}
}

// describe makes m the map of a matrix of n rows with k terms along them, or, unless along, of
// its transpose, in boxes of so many rows, or of 64.
func (b *Backend) describe(m *cux.TileMap, p uint64, ld int64, n, k int, along bool, rows int) {
	if !along {
		n, k, rows = k, n, 64
	}
	b.check("matmul", m.Set(p, n, k, 2*int(ld), rows))
}

// tiledOf returns arguments for g, whose matrices are to be set.
func (b *Backend) tiledOf(g *gemmArgs) *tiledArgs {
	if b.tiled == nil {
		b.tiled = new(tiledArgs) // C must not see pointers of Go beside it
	}
	if b.tiled.group = b.tileRows(); g != nil {
		b.tiled.g = *g
	}
	return b.tiled
}

// splitTiles splits the sums of few tiles, unless they are to be whole, and returns in
// how many parts.
func (b *Backend) splitTiles(g *gemmArgs, steps int, whole bool) (parts int) {
	n := min(b.sms/int(g.tilesM*g.tilesN), steps/splitSteps)
	if n <= 1 || whole {
		return 1
	}
	g.split = int32(ceil(steps, n))
	parts = ceil(steps, int(g.split))
	g.parts = b.scratch(scratchParts, 4*parts*int(g.m)*int(g.n))
	return parts
}

// wgmma reports whether the device has the products of warpgroups of sm_90a.
func (b *Backend) wgmma() bool { return b.major == 9 && !b.noWgmma }

// lowBytes is what lowHalf needs for p.
func (p *product) lowBytes() int {
	rows := p.n
	if !p.transW {
		rows = roundUp(p.n, 8)
	}
	return 2 * 3 * roundUp(p.low.r, 8) * (p.m + rows)
}

// lowHalf makes the update of low rank of p further terms in bfloat16, which lie so many bytes
// behind the beginning of that scratch, and returns where they end.
func (b *Backend) lowHalf(p *product, g *gemmArgs, from int) (end int) {
	l := &p.low
	r8, ldn := roundUp(l.r, 8), roundUp(p.n, 8)
	a := lowArgs{u: l.u, v: l.v, sj: 1, st: int64(p.lowWidth()), m: int32(p.m), n: int32(p.n), r: int32(l.r), r8: int32(r8), ldn: int32(ldn), nk: int32(index(p.transW)), scale: l.alpha}
	if l.trans {
		a.sj, a.st = int64(l.r), 1
	}
	if g.alpha == 0 { // no terms but these
		g.k, g.alpha = 0, 1
	} else {
		a.scale /= g.alpha
	}
	k2, rows := 3*r8, p.n
	if !p.transW {
		rows = ldn
	}
	end = from + 2*k2*(p.m+rows)
	a.left = b.scratch(scratchLow, end) + uint64(from)
	a.right = a.left + uint64(2*k2*p.m)
	launch(b, kLowRank, dim{x: min(ceil(k2*(p.m+rows), 256), 16*b.sms)}, 256, 0, &a)
	g.a2, g.lda2, g.b2, g.ldb2, g.k2 = a.left, int64(k2), a.right, int64(k2), int32(k2)
	if !p.transW {
		g.ldb2 = int64(ldn)
	}
	return end
}

// multiplyOuterHalf computes aᵀ·w of bfloat16 operands, which loses nothing, if
// there is a kernel for it.
func (b *Backend) multiplyOuterHalf(p *product) bool {
	if !b.wgmma() || p.k == 0 || p.a%16 != 0 || p.w.ptr%16 != 0 || p.lda%8 != 0 || p.w.cols%8 != 0 {
		return false
	}
	g := p.gemm()
	g.a, g.lda, g.b, g.ldb = p.a, int64(p.lda), p.w.ptr, int64(p.w.cols)
	b.gemmTiled(&g, []summand{{g.a, g.b, g.lda, g.ldb, g.k}}, true, false, p.uniform)
	return true
}
