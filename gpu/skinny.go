//go:build cuda

package gpu

import "pipe/tensor"

// splitArgs is SplitArgs of gemm_skinny.cu.
type splitArgs struct {
	dst, x         uint64
	sj, st         int64
	n, k, rows, ld int32
}

// The kernels of a large operand in bfloat16 and a few columns or rows in float32:
// 16, 32 or 64 at a time.
var (
	kSkinnySplit = newKernel("gemm_skinny", "skinny_split")
	kSkinnyTall  = [3]*kernel{newKernel("gemm_skinny", "skinny_tall_2"), newKernel("gemm_skinny", "skinny_tall_4"), newKernel("gemm_skinny", "skinny_tall_8")}
	kSkinnyOuter = [3]*kernel{newKernel("gemm_skinny", "skinny_outer_2"), newKernel("gemm_skinny", "skinny_outer_4"), newKernel("gemm_skinny", "skinny_outer_8")}
)

const (
	skinnyMost  = 256 // columns or rows, in groups of at most 64
	skinnyDepth = 128 // terms of a step
)

// skinnyGroups returns which kernel takes n columns, how many it takes at a time,
// and its shared memory with rows that are so many elements longer than a step.
func skinnyGroups(n, pad int) (kernel, group, shared int) {
	depth := skinnyDepth
	switch {
	case n <= 16:
		kernel = 0
	case n <= 32:
		kernel = 1
	default:
		kernel, depth = 2, skinnyDepth/2
	}
	group = 16 << kernel
	return kernel, group, 2 * 2 * 3 * group * (depth + pad)
}

// split makes the parts of a float32 matrix of n rows of k terms.
func (b *Backend) split(g *gemmArgs, x uint64, n, k int, sj, st int64) {
	a := splitArgs{x: x, sj: sj, st: st, n: int32(n), k: int32(k), rows: int32(roundUp(n, 8)), ld: int32(roundUp(k, 8))}
	size := int(a.rows) * int(a.ld)
	a.dst = b.scratch(scratchRight, 2*3*size)
	launch(b, kSkinnySplit, dim{x: min(ceil(size, 256), 16*b.sms)}, 256, 0, &a)
	g.b, g.ldb, g.k2 = a.dst, int64(a.ld), a.rows
}

// skinnyTall computes a product of a in bfloat16 and few columns in float32, if it
// is one. The parts of its sums depend on the number of terms alone.
func (b *Backend) skinnyTall(p *product) bool {
	if p.transA || !p.aHalf || p.n > skinnyMost || p.low.r > 0 || p.k == 0 || p.w.dt != tensor.F32 || !chunks(p.a, p.lda, p.k) {
		return false
	}
	g := p.gemm()
	g.a, g.lda = p.a, int64(p.lda)
	sj, st := int64(1), int64(p.w.cols)
	if p.transW {
		sj, st = st, sj
	}
	b.split(&g, p.w.ptr, p.n, p.k, sj, st)
	i, group, shared := skinnyGroups(p.n, 32)
	parts := ceil(p.k, 512)
	if parts > 16 {
		parts = ceil(p.k, 1024)
	}
	b.gemmParts(&g, kSkinnyTall[i], dim{x: ceil(p.m, 128), y: ceil(p.n, group)}, 128, shared, parts, skinnyDepth)
	return true
}

// skinnyOuter computes aᵀ·w of which one is in bfloat16 and the other one narrow and
// in float32, if it is one.
func (b *Backend) skinnyOuter(p *product) bool {
	if !p.transA || p.transW || p.uniform || p.low.r > 0 || p.k == 0 || min(p.m, p.n) > skinnyMost {
		return false
	}
	g := p.gemm()
	var narrow uint64
	var n, ld int // rows of the narrow operand, and their distance
	var cols int
	switch {
	case !p.aHalf && p.w.dt == tensor.BF16 && p.m <= p.n:
		narrow, n, ld = p.a, p.m, p.lda
		g.a, g.lda, cols = p.w.ptr, int64(p.w.cols), p.n
	case p.aHalf && p.w.dt == tensor.F32 && p.n <= p.m:
		narrow, n, ld = p.w.ptr, p.n, p.w.cols
		g.a, g.lda, cols = p.a, int64(p.lda), p.m
		g.flags |= gemmTrans2
	default:
		return false
	}
	if !chunks(g.a, int(g.lda), cols) {
		return false
	}
	b.split(&g, narrow, n, p.k, 1, int64(ld))
	i, group, shared := skinnyGroups(n, 16)
	grid := dim{x: ceil(cols, 256), y: ceil(n, group)}
	parts := min(ceil(p.k, skinnyDepth), ceil(3*b.sms, grid.x*grid.y))
	b.gemmParts(&g, kSkinnyOuter[i], grid, 128, shared, parts, skinnyDepth)
	return true
}
