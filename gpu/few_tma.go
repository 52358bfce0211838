//go:build cuda

package gpu

import (
	"pipe/gpu/cux"
	"pipe/tensor"
)

// streamWeight and streamArgs are StreamWeight and StreamArgs of gemv_tma.cu.
type streamWeight struct {
	m                    cux.TileMap
	c                    uint64
	scale, bias, u, v    uint64
	sums, counters       uint64
	ldc, sj, st          int64
	n, r, flags          int32
	tiles, blocks, first int32
	alpha, alpha2, beta  float32
	_                    [3]int32
}

type streamArgs struct {
	x               cux.TileMap
	weights         [mostProducts]streamWeight
	m, count, steps int32
	_               [13]int32
}

// kStream are the kernels for 8, 16, 32 and 64 rows.
var kStream = [...]*kernel{newKernel("gemv_tma", "gemv_tma_1"), newKernel("gemv_tma", "gemv_tma_2"), newKernel("gemv_tma", "gemv_tma_4"), newKernel("gemv_tma", "gemv_tma_8")}

const (
	streamRows   = 128 // of a tile
	streamStages = 8
	streamLeast  = 8 // steps of a block, where there are as many
)

// streams reports whether a product of few rows is one with descriptors.
func (b *Backend) streams(p *product) bool {
	return b.wgmma() && p.w.dt == tensor.BF16
}

// multiplyTiles computes products of few rows with weights in bfloat16, whose first operands are
// the same.
func (b *Backend) multiplyTiles(ps []product) {
	p := &ps[0]
	i := 0
	for p.m > 8<<i {
		i++
	}
	x, ldx := b.left(p)
	if b.streamed == nil {
		b.streamed = new(streamArgs) // C must not see pointers of Go beside it
	}
	a := b.streamed
	*a = streamArgs{m: int32(p.m), count: int32(len(ps)), steps: int32(ceil(p.k, 64))}
	if b.counts == nil && b.err == nil {
		b.check("matmul", a.x.Set(x, p.m, p.k, 2*ldx, 8<<i))
	}
	sums, tiles, blocks := 0, 0, 0
	for j := range ps {
		p := &ps[j]
		w, c := &a.weights[j], p.codesWeight()
		*w = streamWeight{
			c: c.c, scale: c.scale, bias: c.bias, u: c.u, v: c.v, sums: uint64(sums), counters: uint64(tiles), ldc: c.ldc, sj: c.sj, st: c.st,
			n: c.n, r: c.r, flags: c.flags, tiles: int32(ceil(p.n, streamRows)), alpha: c.alpha, alpha2: c.alpha2, beta: c.beta,
		}
		if b.counts == nil && b.err == nil {
			b.check("matmul", w.m.Set(p.w.ptr, p.n, p.k, 2*p.w.cols, streamRows))
		}
		w.blocks = int32(max(1, min(b.sms, int(w.tiles*a.steps)/streamLeast)))
		sums, tiles, blocks = sums+int(w.blocks)*2*p.m*streamRows, tiles+int(w.tiles), blocks+int(w.blocks)
	}
	blocks = min(blocks, b.sms)
	at, counters, first := b.scratch(scratchParts, 4*sums), b.tickets(tiles), 0
	for j := range a.weights[:len(ps)] {
		w := &a.weights[j]
		w.sums, w.counters, w.first = at+4*w.sums, counters+4*w.counters, int32(first)
		first = (first + int(w.blocks)) % blocks
	}
	launch(b, kStream[i], dim{x: blocks}, 384, streamStages*(streamRows*128+8<<i*128)+128, a)
}
