//go:build cuda

package gpu

import (
	"pipe/gpu/cux"
	"pipe/tensor"
)

// Products in 8 bits, tensor.FP8: rows of codes of e4m3, each with a scale.

// eightRows are codes [n, ld] with the scales [n]; ld is a multiple of 16.
type eightRows struct {
	codes, scales uint64
	ld            int
}

// eightRowsArgs is Fp8RowsArgs of fp8_prep.cu.
type eightRowsArgs struct {
	codes, scales, src, by uint64
	stride                 int64
	rows, cols, ldd, _     int32
}

// eightTurnArgs is Fp8TurnArgs of fp8_prep.cu.
type eightTurnArgs struct {
	dst, src                       uint64
	rows, cols, lds, ldd, tiles, _ int32
}

// eightArgs is GemmFp8TmaArgs of gemm_fp8_tma.cu.
type eightArgs struct {
	a, b, a2, b2 cux.TileMap
	g            gemmArgs
	sa, sb       uint64
	group        int32
	_            int32
	_            [4]uint64 // to whole 64 bytes
}

// eightMMAArgs is GemmFp8Args of gemm_fp8.cu.
type eightMMAArgs struct {
	g      gemmArgs
	sa, sb uint64
}

var (
	kEightRows = kernelsOf("fp8_prep", "fp8_rows_", "")
	kEightTurn = newKernel("fp8_prep", "fp8_turn")
	kEightMMA  = newKernel("gemm_fp8", "gemm_fp8_mma")
	// For tiles of 128 and of 256 columns.
	kEightTiled = [2]*kernel{newKernel("gemm_fp8_tma", "gemm_fp8_tma_128"), newKernel("gemm_fp8_tma", "gemm_fp8_tma_256")}
)

// eight reports whether p is a product in 8 bits.
func (p *product) eight() bool { return p.w.eight && !p.transA && !p.few() && p.k > 0 }

// toEight sets codes and scales to the first cols columns of w, times by [cols] unless
// that is 0.
func (b *Backend) toEight(to eightRows, w operand, cols int, by uint64) {
	a := eightRowsArgs{codes: to.codes, scales: to.scales, src: w.ptr, by: by, stride: int64(w.dt.Bytes(w.cols)), rows: int32(w.rows), cols: int32(cols), ldd: int32(to.ld)}
	launch(b, kEightRows[w.dt], dim{x: min(w.rows, 16*b.sms)}, 256, 0, &a)
}

// turn sets dst [cols, ld] to the transpose of codes of so many rows.
func (b *Backend) turn(dst uint64, ld int, src eightRows, rows, cols int) {
	a := eightTurnArgs{dst: dst, src: src.codes, rows: int32(rows), cols: int32(cols), lds: int32(src.ld), ldd: int32(ld), tiles: int32(ceil(rows, 64))}
	launch(b, kEightTurn, dim{x: int(a.tiles) * ceil(cols, 64)}, 256, 0, &a)
}

// eightBytes is what n rows of codes take with their scales.
func eightBytes(n, ld int) int { return n*ld + 4*n }

// eightAt returns n rows of codes that begin at p, their scales behind them.
func eightAt(p uint64, n, ld int) eightRows { return eightRows{p, p + uint64(n*ld), ld} }

// eightLeft returns the first operand of a product in 8 bits: see toEight.
func (b *Backend) eightLeft(p *product, by uint64) eightRows {
	w := operand{dt: tensor.F32, ptr: p.a, rows: p.m, cols: p.lda}
	if p.aHalf {
		w.dt = tensor.BF16
	}
	ld := roundUp(p.k, 16)
	to := eightAt(b.scratch(scratchEight, eightBytes(p.m, ld)), p.m, ld)
	b.toEight(to, w, p.k, by)
	return to
}

// keepsEight reports whether a weight in 8 bits is worth keeping: weights in blocks
// take less memory than that.
func (w *operand) keepsEight() bool { return w.m != nil && !w.dt.Quantized() }

// eightWeight returns a weight in 8 bits.
func (b *Backend) eightWeight(w *operand) eightRows {
	ld := roundUp(w.cols, 16)
	if w.keepsEight() {
		if w.m.codes == 0 {
			if p, err := b.take(tensor.ForPanels, eightBytes(w.rows, ld)); err == nil {
				w.m.codes = p
				b.toEight(eightAt(p, w.rows, ld), *w, w.cols, 0)
			}
		}
		if w.m.codes != 0 {
			return eightAt(w.m.codes, w.rows, ld)
		}
	}
	to := eightAt(b.scratch(scratchRight, eightBytes(w.rows, ld)), w.rows, ld)
	b.toEight(to, *w, w.cols, 0)
	return to
}

// eightTurned returns the transpose of a weight in 8 bits, and its row distance.
func (b *Backend) eightTurned(w *operand, codes eightRows) (uint64, int) {
	ld := roundUp(w.rows, 16)
	if w.keepsEight() && w.m.codes != 0 {
		if w.m.turned == 0 {
			if p, err := b.take(tensor.ForPanels, w.cols*ld); err == nil {
				w.m.turned = p
				b.turn(p, ld, codes, w.rows, w.cols)
			}
		}
		if w.m.turned != 0 {
			return w.m.turned, ld
		}
	}
	to := b.scratch(scratchTurned, w.cols*ld)
	b.turn(to, ld, codes, w.rows, w.cols)
	return to, ld
}

// multiplyEight computes a product of operands that are rounded to 8 bits.
func (b *Backend) multiplyEight(p *product) {
	w := b.eightWeight(&p.w)
	g := p.gemm()
	sb := w.scales
	a := p.coded
	if p.transW {
		g.b, g.ldb = w.codes, int64(w.ld)
		if a == (eightRows{}) {
			a = b.eightLeft(p, 0)
		}
	} else { // the scales of w are in a
		a = b.eightLeft(p, w.scales)
		turned, ld := b.eightTurned(&p.w, w)
		g.b, g.ldb, sb = turned, int64(ld), 0
	}
	g.a, g.lda = a.codes, int64(a.ld)
	if p.low.r > 0 {
		low := *p
		low.transW = true // its right operand is to be stored so, whatever w is
		b.lowHalf(&low, &g, 0)
	}
	if !b.wgmma() {
		g.tilesM, g.tilesN = int32(ceil(p.m, 128)), int32(ceil(p.n, 128))
		launch(b, kEightMMA, dim{x: int(g.tilesM * g.tilesN)}, 256, 3*(8<<10+8<<10), &eightMMAArgs{g, a.scales, sb})
		return
	}
	if p.fused {
		b.fuse(p, &g)
	}
	b.eightTiled(&g, a.scales, sb, p.uniform || p.fused)
}

// eightTiled is gemmTiled for operands in 8 bits: steps have 128 terms of those.
func (b *Backend) eightTiled(g *gemmArgs, sa, sb uint64, whole bool) {
	width, shared := tileColumns(int(g.n))
	g.tilesM, g.tilesN = int32(ceil(int(g.m), 128)), int32(ceil(int(g.n), width))
	if b.eight == nil {
		b.eight = new(eightArgs) // C must not see pointers of Go beside it
	}
	t := b.eight
	if b.counts == nil && b.err == nil && g.k > 0 {
		b.check("matmul", t.a.SetBytes(g.a, int(g.m), int(g.k), int(g.lda), 128))
		b.check("matmul", t.b.SetBytes(g.b, int(g.n), int(g.k), int(g.ldb), width))
	}
	if b.counts == nil && b.err == nil && g.k2 > 0 {
		b.check("matmul", t.a2.Set(g.a2, int(g.m), int(g.k2), 2*int(g.lda2), 128))
		b.check("matmul", t.b2.Set(g.b2, int(g.n), int(g.k2), 2*int(g.ldb2), width))
	}
	steps := ceil(int(g.k), 128) + ceil(int(g.k2), 64)
	parts := b.splitTiles(g, steps, whole)
	t.g, t.sa, t.sb, t.group = *g, sa, sb, b.tileRows()
	launch(b, kEightTiled[width/256], dim{x: min(int(g.tilesM*g.tilesN)*parts, b.sms)}, 384, shared+128, t)
	if parts > 1 {
		b.addParts(g, parts)
	}
}
