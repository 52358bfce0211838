//go:build cuda

package gpu

import "pipe/tensor"

// gemmArgs is GemmArgs of gemm.cuh.
type gemmArgs struct {
	c, a, b, a2, b2           uint64
	scale, bias, parts        uint64
	cos, sin                  uint64
	dgate, dup, gate, up      uint64
	lda, ldb, lda2, ldb2, ldc int64
	m, n, k, k2, split, flags int32
	alpha, alpha2, beta       float32
	tilesM, tilesN, half      int32
}

// Flags of gemmArgs.
const (
	gemmVectorA = 1 << iota
	gemmVectorB
	gemmVectorC
	gemmTrans2
	gemmOutHalf
	gemmWideC
	gemmStaged
)

// The kernels of products: indices say whether a and w are transposed.
var (
	kGemm128   = [2][2]*kernel{{newKernel("gemm", "gemm_nn_128"), newKernel("gemm", "gemm_nt_128")}, {newKernel("gemm", "gemm_tn_128"), newKernel("gemm", "gemm_tt_128")}}
	kGemm64    = [2][2]*kernel{{newKernel("gemm", "gemm_nn_64"), newKernel("gemm", "gemm_nt_64")}, {newKernel("gemm", "gemm_tn_64"), newKernel("gemm", "gemm_tt_64")}}
	kGemmTall  = [2][2]*kernel{{newKernel("gemm", "gemm_tall_nn"), newKernel("gemm", "gemm_tall_nt")}, {newKernel("gemm", "gemm_tall_half_nn"), newKernel("gemm", "gemm_tall_half_nt")}}
	kGemmOuter = [2]*kernel{newKernel("gemm", "gemm_outer_f32"), newKernel("gemm", "gemm_outer_bf16")}
	kGemmParts = newKernel("gemm", "gemm_parts")
	kMMA       = [2]*kernel{newKernel("gemm_half", "gemm_mma_nn"), newKernel("gemm_half", "gemm_mma_nt")}
	kLowRank   = newKernel("gemm_prep", "low_rank")
)

const (
	fewColumns  = 32   // up to here, the large operand is read once
	tallTerms   = 1024 // of a part of a sum of few columns
	outerTerms  = 64   // of a part of an outer sum, at least
	splitTerms  = 256  // of a part of another sum, at least
	tallRows    = 64   // of a block
	outerCols   = 512  // of a block
	columnGroup = 16   // columns, or rows, of a block
)

// panelBytes is how much of a weight is expanded at a time; a test makes it small.
var panelBytes = 256 << 20

// multiply queues a product.
func (b *Backend) multiply(p *product) {
	if p.m == 0 || p.n == 0 || b.err != nil {
		return
	}
	switch {
	case p.few():
		b.multiplyFew(p)
	case p.eight():
		q := *p
		q.fused = b.fuses(p)
		b.multiplyEight(&q)
		if q.fused {
			return
		}
	case p.w.half && !p.transA && p.k > 0:
		q := *p
		q.fused = b.fuses(p)
		b.multiplyHalf(&q)
		if q.fused {
			return
		}
	default:
		b.multiplyFloat(p)
	}
	b.follow(p)
}

// follow does what comes after a product.
func (b *Backend) follow(p *product) {
	if r := p.rope; r != nil {
		b.Rope(p.dst, r.Positions, r.InvFreq, false)
	}
	if g := p.grad; g != nil {
		b.SwiGLUGrad(g.DGate, g.DUp, g.Gate, g.Up, p.dst)
	}
}

// gemm returns the arguments of p but for the operands.
func (p *product) gemm() gemmArgs {
	g := gemmArgs{c: p.c, ldc: int64(p.ldc), scale: p.scale, bias: p.bias, m: int32(p.m), n: int32(p.n), k: int32(p.k), alpha: p.alpha, beta: p.beta}
	if p.outHalf {
		g.flags |= gemmOutHalf
	}
	if rowVectors(p.c, p.ldc, p.outHalf) && p.n%4 == 0 && p.scale%16 == 0 && p.bias%16 == 0 {
		g.flags |= gemmVectorC
		if !p.outHalf || p.c%16 == 0 && p.ldc%8 == 0 && p.n%8 == 0 {
			g.flags |= gemmWideC
		}
	}
	return g
}

// pieceRows returns how many rows of the weight, expanded to size bytes an element,
// are at most panelBytes. A result in bfloat16 cannot be a sum of pieces.
func (p *product) pieceRows(size int) int {
	if p.outHalf && !p.transW {
		return max(p.w.rows, 1)
	}
	return max(panelBytes/(size*max(1, roundUp(p.w.cols, 8)))/8*8, 8)
}

// piece returns the part of the product that takes the rows lo..hi of the weight:
// columns of c when w is stored [n,k], else terms, which are added in their order.
func (p *product) piece(lo, hi int) product {
	q := *p
	if lo == 0 && hi == p.w.rows {
		return q
	}
	q.w = p.w.slice(lo, hi)
	if p.transW {
		q.cut(lo, hi)
		return q
	}
	q.k = hi - lo
	q.a += uint64(lo * p.aStep() * p.aSize())
	if lo > 0 {
		q.beta = 1
	}
	if hi < p.w.rows { // the last piece adds what else there is
		q.low, q.scale, q.bias = lowRank{}, 0, 0
	}
	return q
}

// cut leaves the columns lo..hi of c, but for w.
func (p *product) cut(lo, hi int) {
	p.low.cols = p.lowWidth()
	p.n = hi - lo
	p.c += uint64(lo * p.cSize())
	if p.scale != 0 {
		p.scale += uint64(4 * lo)
	}
	if p.bias != 0 {
		p.bias += uint64(4 * lo)
	}
	if p.low.trans {
		p.low.v += uint64(4 * lo * p.low.r)
	} else {
		p.low.v += uint64(4 * lo)
	}
}

// cSize is the bytes of an element of c.
func (p *product) cSize() int {
	if p.outHalf {
		return 2
	}
	return 4
}

// aStep is how far terms of a are apart, aSize the bytes of one.
func (p *product) aStep() int {
	if p.transA {
		return p.lda
	}
	return 1
}

func (p *product) aSize() int {
	if p.aHalf {
		return 2
	}
	return 4
}

// low sets the operands of an update of low rank that stay in float32.
func (g *gemmArgs) low(p *product) {
	l := &p.low
	if l.r == 0 {
		return
	}
	g.a2, g.lda2, g.b2, g.k2, g.alpha2 = l.u, int64(l.r), l.v, int32(l.r), l.alpha
	g.ldb2 = int64(p.lowWidth())
	if l.trans {
		g.flags |= gemmTrans2
	}
}

// lowWidth is the row distance of v.
func (p *product) lowWidth() int {
	switch {
	case p.low.trans:
		return p.low.r
	case p.low.cols > 0:
		return p.low.cols
	}
	return p.n
}

// multiplyFloat computes a product in float32.
func (b *Backend) multiplyFloat(p *product) {
	if b.multiplyThin(p) {
		return
	}
	if p.transA && p.aHalf && !p.transW && p.w.dt == tensor.BF16 && p.low.r == 0 && min(p.m, p.n) > fewColumns && b.multiplyOuterHalf(p) {
		return
	}
	outer := p.transA && !p.transW && !p.uniform && p.low.r == 0 && min(p.m, p.n) <= fewColumns && p.k > 0
	if outer && (p.w.dt == tensor.F32 || p.w.dt == tensor.BF16) {
		b.multiplyOuter(p)
		return
	}
	tall := !p.transA && p.n <= fewColumns && p.low.r == 0 && p.k > 0
	if p.aHalf && !tall {
		rows, cols := p.m, p.k
		if p.transA {
			rows, cols = p.k, p.m
		}
		ld := roundUp(cols, 8)
		q := *p
		q.a, q.lda, q.aHalf = b.scratch(scratchLeft, 4*rows*ld), ld, false
		b.unpack(q.a, ld, operand{dt: tensor.BF16, ptr: p.a, rows: rows, cols: p.lda}, cols, false)
		p = &q
	}
	rows := max(p.w.rows, 1)
	if p.w.dt != tensor.F32 {
		rows = p.pieceRows(4)
	}
	for lo := 0; lo == 0 || lo < p.w.rows; lo += rows {
		q := p.piece(lo, min(lo+rows, p.w.rows))
		w, ldw := q.w.ptr, q.w.cols
		if q.w.dt != tensor.F32 {
			ldw = roundUp(q.w.cols, 8)
			w = b.scratch(scratchRight, 4*q.w.rows*ldw)
			b.unpack(w, ldw, q.w, q.w.cols, false)
		}
		if tall {
			b.gemmTall(&q, w, ldw)
		} else {
			b.gemmFloat(&q, w, ldw)
		}
	}
}

// gemmFloat computes a product of float32 operands.
func (b *Backend) gemmFloat(p *product, w uint64, ldw int) {
	g := p.gemm()
	g.low(p)
	g.a, g.lda, g.b, g.ldb = p.a, int64(p.lda), w, int64(ldw)
	if rowVectors(p.a, p.lda, false) {
		g.flags |= gemmVectorA
	}
	if rowVectors(w, ldw, false) {
		g.flags |= gemmVectorB
	}
	tile, k := 64, kGemm64[index(p.transA)][index(p.transW)]
	if p.m > 64 && p.n > 64 && ceil(p.m, 128)*ceil(p.n, 128) >= b.sms {
		tile, k = 128, kGemm128[index(p.transA)][index(p.transW)]
	}
	g.tilesM, g.tilesN = int32(ceil(p.m, tile)), int32(ceil(p.n, tile))
	tiles, parts := int(g.tilesM*g.tilesN), 1
	if !p.uniform && p.low.r == 0 && tiles < 2*b.sms {
		parts = min(ceil(p.k, splitTerms), ceil(2*b.sms, tiles))
	}
	b.gemmParts(&g, k, dim{x: tiles}, 256, 0, parts, 16)
}

// gemmParts launches a kernel for that many parts of the terms, at most, and adds
// the parts.
func (b *Backend) gemmParts(g *gemmArgs, k *kernel, grid dim, threads, shared, parts, multiple int) {
	g.split = int32(roundUp(ceil(int(g.k), max(parts, 1)), multiple))
	parts = max(1, ceil(int(g.k), max(int(g.split), 1)))
	if parts > 1 {
		g.parts = b.scratch(scratchParts, 4*parts*int(g.m)*int(g.n))
	}
	grid.z = parts
	launch(b, k, grid, threads, shared, g)
	if parts > 1 {
		b.addParts(g, parts)
	}
}

// addParts makes the result of the parts of its sums.
func (b *Backend) addParts(g *gemmArgs, parts int) {
	g.k2 = int32(parts)
	launch(b, kGemmParts, dim{x: min(ceil(int(g.m)*int(g.n), 256), 8*b.sms)}, 256, 0, g)
}

// gemmTall computes a product of few columns; the parts of its sums depend on the
// number of terms alone.
func (b *Backend) gemmTall(p *product, w uint64, ldw int) {
	g := p.gemm()
	g.a, g.lda, g.b, g.ldb = p.a, int64(p.lda), w, int64(ldw)
	if rowVectors(p.a, p.lda, p.aHalf) {
		g.flags |= gemmVectorA
	}
	if rowVectors(w, ldw, false) {
		g.flags |= gemmVectorB
	}
	b.gemmParts(&g, kGemmTall[index(p.aHalf)][index(p.transW)], dim{x: ceil(p.m, tallRows), y: ceil(p.n, columnGroup)}, 512, 0, ceil(p.k, tallTerms), tallTerms)
}

// multiplyOuter computes aᵀ·w where c has few rows or few columns.
func (b *Backend) multiplyOuter(p *product) {
	g := p.gemm()
	narrow, wide := operand{dt: tensor.F32, ptr: p.a, rows: p.k, cols: p.lda}, p.w
	rows, cols, ld := p.m, p.n, p.w.cols
	if p.aHalf {
		narrow.dt = tensor.BF16
	}
	if p.n < p.m {
		narrow, wide = wide, narrow
		rows, cols, ld = p.n, p.m, p.lda
		g.flags |= gemmTrans2
	}
	g.a, g.lda = narrow.ptr, int64(narrow.cols)
	if narrow.dt != tensor.F32 {
		g.lda = int64(roundUp(rows, 8))
		g.a = b.scratch(scratchLeft, 4*p.k*int(g.lda))
		b.unpack(g.a, int(g.lda), narrow, rows, false)
	}
	g.b, g.ldb = wide.ptr, int64(ld)
	half := wide.dt == tensor.BF16
	if rowVectors(g.b, ld, half) {
		g.flags |= gemmVectorB
	}
	grid := dim{x: ceil(cols, outerCols), y: ceil(rows, columnGroup)}
	b.gemmParts(&g, kGemmOuter[index(half)], grid, 128, 0, min(ceil(p.k, outerTerms), ceil(2*b.sms, grid.x*grid.y)), 8)
}
