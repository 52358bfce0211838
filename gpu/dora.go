//go:build cuda

package gpu

import "pipe/tensor"

// doraNormArgs is DoRANormArgs of gemm_prep.cu.
type doraNormArgs struct {
	ratio, norm, sq, magnitude, b, aw, aa uint64
	n, r                                  int32
	s                                     float32
	unused                                int32
}

var kDoRANorm = newKernel("gemm_prep", "dora_norm")

// doraRows is up to which rank A is multiplied in pieces.
const doraRows = 48

// DoRANorm implements [tensor.Linear]: A·Wᵀ [r,out] as training forms it, A·Aᵀ, and
// then the norms in float64.
func (b *Backend) DoRANorm(ratio, c, w2, w, a, bb, m *tensor.Tensor, scale float32) {
	const op = "dora norm"
	g := doraNormArgs{ratio: output(op, ratio), norm: output(op, c), sq: input(op, w2), magnitude: input(op, m), b: input(op, bb), s: scale}
	x, wo := input(op, a), b.operand(op, w)
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
	g.aw = b.scratch(scratchNorm, 4*(r*n+r*r))
	g.aa = g.aw + uint64(4*r*n)
	for lo := 0; lo < r; { // few rows at a time read w as fast as memory can, many read it once
		rows := r - lo
		if r <= doraRows {
			rows = min(rows, tensor.DecodeRows)
		}
		b.multiply(&product{m: rows, n: n, k: in, c: g.aw + uint64(4*lo*n), ldc: n, a: x + uint64(4*lo*in), lda: in, w: wo, transW: true, alpha: 1})
		lo += rows
	}
	b.multiply(&product{m: r, n: r, k: in, c: g.aa, ldc: r, a: x, lda: in, w: operand{dt: tensor.F32, ptr: x, rows: r, cols: in}, transW: true, alpha: 1, uniform: true})
	launch(b, kDoRANorm, dim{x: ceil(n, 8)}, 256, 0, &g)
}
