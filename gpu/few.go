//go:build cuda

package gpu

import (
	"pipe/tensor"
)

// gemvArgs is GemvArgs of gemv.cuh.
type gemvArgs struct {
	c, x, w                  uint64
	scale, bias, u, v        uint64
	stride, ldx, ldc, sj, st int64
	m, n, k, r, flags        int32
	alpha, alpha2, beta      float32
}

// Flags of gemvArgs.
const (
	gemvXHalf = 1 << iota
	gemvXVector
	gemvOutHalf
)

// The kernels of few rows, by rows of a that they take and type: in float32, and in
// bfloat16, of which those for many columns take twice as many at a time.
var (
	kGemv = [3][tensor.NF4 + 1]*kernel{kernelsOf("gemv", "gemv_", "_1"), kernelsOf("gemv", "gemv_", "_4"), kernelsOf("gemv", "gemv_", "_16")}

	kGemvHalf = [2][tensor.NF4 + 1]*kernel{kernelsOf("gemv_half", "gemv_half_", "_11"), kernelsOf("gemv_half", "gemv_half_", "_12")}
	kGemvWide = [2]*kernel{newKernel("gemv_half", "gemv_half_bf16_21"), newKernel("gemv_half", "gemv_half_bf16_22")}
)

// few reports whether p is one for the kernels of few rows.
func (p *product) few() bool {
	return p.m <= tensor.DecodeRows && p.transW && !p.transA && !p.uniform && p.k > 0
}

// multiplyFew computes a product of few rows. The bits of a row do not depend on
// their number.
func (b *Backend) multiplyFew(p *product) {
	l := &p.low
	g := gemvArgs{
		c: p.c, x: p.a, w: p.w.ptr, scale: p.scale, bias: p.bias, u: l.u, v: l.v, stride: int64(p.w.dt.Bytes(p.w.cols)),
		ldx: int64(p.lda), ldc: int64(p.ldc), sj: 1, st: int64(p.lowWidth()), m: int32(p.m), n: int32(p.n), k: int32(p.k), r: int32(l.r),
		alpha: p.alpha, alpha2: l.alpha, beta: p.beta,
	}
	if l.trans {
		g.sj, g.st = int64(l.r), 1
	}
	if p.outHalf {
		g.flags |= gemvOutHalf
	}
	if p.aHalf {
		g.flags |= gemvXHalf
	}
	if p.a%16 == 0 && p.lda*p.aSize()%16 == 0 {
		g.flags |= gemvXVector
	}
	if !p.w.half {
		i := 0
		for rows := 1; rows < p.m; rows *= 4 {
			i++
		}
		launch(b, kGemv[i][p.w.dt], dim{x: ceil(p.n, 4)}, 256, 0, &g)
		return
	}
	k, rows := kGemvHalf[index(p.m > 8)][p.w.dt], 16
	if p.w.dt == tensor.BF16 && p.n >= 64*b.sms {
		k, rows = kGemvWide[index(p.m > 8)], 32
	}
	launch(b, k, dim{x: ceil(p.n, rows)}, 256, 0, &g)
}
