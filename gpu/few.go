//go:build cuda

package gpu

import (
	"pipe/tensor"
)

// fewRows is how many rows each have the bits that they have alone, and
// floatRows how many of them a kernel in float32 takes.
const (
	fewRows   = 64
	floatRows = 16
)

// DecodeRows implements [tensor.Together].
func (b *Backend) DecodeRows() int { return fewRows }

// gemvArgs is GemvArgs of gemv.cuh.
type gemvArgs struct {
	c, x, w                  uint64
	scale, bias, u, v        uint64
	stride, ldx, ldc, sj, st int64
	m, n, k, r, flags        int32
	alpha, alpha2, beta      float32
}

// Flags of gemvArgs and codesWeight.
const (
	gemvXHalf = 1 << iota
	gemvXVector
	gemvOutHalf
)

// The kernels of few rows, by rows of a that they take and type: in float32; in
// bfloat16 with weights that can be streamed; and with other plain weights.
var (
	kGemv     = [3][tensor.NF4 + 1]*kernel{kernelsOf("gemv", "gemv_", "_1"), kernelsOf("gemv", "gemv_", "_4"), kernelsOf("gemv", "gemv_", "_16")}
	kGemvHalf = [2]map[tensor.DType]*kernel{plainKernels("_1"), plainKernels("_2")}
	kCodes    = [3]map[tensor.DType]*kernel{codesKernels("_1"), codesKernels("_2"), codesKernels("_8")}
)

func plainKernels(suffix string) map[tensor.DType]*kernel {
	ks := map[tensor.DType]*kernel{}
	for _, dt := range []tensor.DType{tensor.F32, tensor.F16, tensor.BF16} {
		ks[dt] = newKernel("gemv_half", "gemv_half_"+dt.String()+suffix)
	}
	return ks
}

func codesKernels(suffix string) map[tensor.DType]*kernel {
	ks := map[tensor.DType]*kernel{}
	for dt := range chunksOf {
		if chunksOf[dt].terms > 0 {
			ks[tensor.DType(dt)] = newKernel("gemv_codes", "gemv_codes_"+tensor.DType(dt).String()+suffix)
		}
	}
	return ks
}

// few reports whether p is one for the kernels of few rows.
func (p *product) few() bool {
	return p.m <= fewRows && p.transW && !p.transA && !p.uniform && p.k > 0
}

// multiplyFew computes a product of few rows. The bits of a row do not depend on
// their number.
func (b *Backend) multiplyFew(p *product) {
	if p.codes() {
		one := [1]product{*p}
		b.multiplyCodes(one[:])
		return
	}
	for lo := 0; lo < p.m; lo += floatRows {
		b.multiplyFloats(p, lo, min(p.m, lo+floatRows))
	}
}

// multiplyFloats computes the rows lo..hi of a product of few rows.
func (b *Backend) multiplyFloats(p *product, lo, hi int) {
	l := &p.low
	g := gemvArgs{
		c: p.c + uint64(lo*p.ldc*p.cSize()), x: p.a + uint64(lo*p.lda*p.aSize()), w: p.w.ptr, scale: p.scale, bias: p.bias, u: l.u + uint64(4*lo*l.r), v: l.v, stride: int64(p.w.dt.Bytes(p.w.cols)),
		ldx: int64(p.lda), ldc: int64(p.ldc), sj: 1, st: int64(p.lowWidth()), m: int32(hi - lo), n: int32(p.n), k: int32(p.k), r: int32(l.r),
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
		for rows := 1; rows < hi-lo; rows *= 4 {
			i++
		}
		launch(b, kGemv[i][p.w.dt], dim{x: ceil(p.n, 4)}, 256, 0, &g)
		return
	}
	launch(b, kGemvHalf[index(hi-lo > 8)][p.w.dt], dim{x: ceil(p.n, 16)}, 256, 0, &g)
}

// A chunk is what a block reads at a time of a row of a weight, as Codes of
// codes.cuh has it, and bytes that rows begin at multiples of.
type chunk struct {
	terms, bytes, align int
	pairs               bool
}

var chunksOf = [tensor.NF4 + 1]chunk{
	tensor.F16: {128, 256, 16, false}, tensor.BF16: {128, 256, 16, false},
	tensor.Q4_0: {256, 144, 2, true}, tensor.Q4_1: {256, 160, 4, true}, tensor.Q5_0: {256, 176, 2, true}, tensor.Q5_1: {256, 192, 4, true},
	tensor.Q8_0: {256, 272, 2, false}, tensor.Q4_K: {256, 144, 16, false}, tensor.Q5_K: {256, 176, 16, false}, tensor.Q6_K: {256, 210, 2, true},
	tensor.NF4: {256, 144, 4, false},
}

const codesRows = 128 // rows of a weight that a block has

// stage is Stage of gemv_codes.cu: bytes of shared memory for a chunk of every row
// of a block, and of 8·nt rows of the other operand.
func (c *chunk) stage(nt int) int {
	slot := 16 * (ceil(c.bytes+16-c.align, 16) | 1)
	row := 2*c.terms + 64
	if c.pairs {
		row -= 32
	}
	return codesRows*slot + 8*nt*row
}

// codes reports whether p is one for the kernels that stream weights.
func (p *product) codes() bool {
	return p.few() && p.w.half && p.w.dt != tensor.F32 && (p.w.dt.Quantized() || chunks(p.w.ptr, p.w.cols, p.w.cols))
}

// codesWeight and codesArgs are CodesWeight and CodesArgs of gemv_codes.cu.
type codesWeight struct {
	c, w, scale, bias, u, v, parts, counters uint64
	stride, ldc, sj, st                      int64
	n, r, flags, first, chains, length       int32
	alpha, alpha2, beta                      float32
	unused                                   int32
}

type codesArgs struct {
	x                   uint64
	ldx                 int64
	m, k, count, unused int32
	weights             [mostProducts]codesWeight
}

// Blocks that are to share a device: a wave is as many as it has at once. They are
// those of the largest device there is, so that all have the same chains.
const (
	waveBlocks = 3 * 132
	fewBlocks  = 2 * 132 // keep its memory busy
	mostChains = 16
)

// chainsOf returns into how many chains the terms of tiles of rows are divided, and
// the chunks of each: what keeps most of the device busy until the end.
func chainsOf(tiles, chunks int) (chains, length int) {
	chains, length = 1, chunks
	best := 0.0
	for z := 1; z <= min(mostChains, chunks); z++ {
		each := ceil(chunks, z)
		blocks := float64(tiles * z)
		score := float64(chunks) / float64(z*each) * min(1, blocks/fewBlocks)
		if w := blocks / waveBlocks; w > 1 {
			score *= w / float64(ceil(tiles*z, waveBlocks))
		}
		if score > best {
			chains, length, best = z, each, score
		}
		if blocks >= fewBlocks {
			break // more chains cost more than they give
		}
	}
	return ceil(chunks, length), length
}

// multiplyCodes computes products of few rows, whose first operands and types of
// weights are the same.
func (b *Backend) multiplyCodes(ps []product) {
	p := &ps[0]
	c := &chunksOf[p.w.dt]
	x, ldx := b.left(p)
	a := codesArgs{x: x, ldx: int64(ldx), m: int32(p.m), k: int32(p.k), count: int32(len(ps))}
	blocks, parts, tiles := 0, 0, 0
	for i := range ps {
		p := &ps[i]
		l := &p.low
		w := &a.weights[i]
		*w = codesWeight{
			c: p.c, w: p.w.ptr, scale: p.scale, bias: p.bias, u: l.u, v: l.v, stride: int64(p.w.dt.Bytes(p.w.cols)),
			ldc: int64(p.ldc), sj: 1, st: int64(p.lowWidth()), n: int32(p.n), r: int32(l.r), first: int32(blocks),
			alpha: p.alpha, alpha2: l.alpha, beta: p.beta,
		}
		if l.trans {
			w.sj, w.st = int64(l.r), 1
		}
		if p.outHalf {
			w.flags |= gemvOutHalf
		}
		n := ceil(p.n, codesRows)
		chains, length := chainsOf(n, ceil(p.k, c.terms))
		w.chains, w.length = int32(chains), int32(length*c.terms)
		blocks += n * chains
		if chains > 1 {
			w.parts, w.counters = uint64(parts), uint64(tiles)
			parts += n * chains * p.m * codesRows
			tiles += n
		}
	}
	if parts > 0 {
		at, counters := b.scratch(scratchParts, 4*parts), b.tickets(tiles)
		for i := range a.weights[:a.count] {
			w := &a.weights[i]
			w.parts, w.counters = at+4*w.parts, counters+4*w.counters
		}
	}
	i, nt, stages := 0, 1, 2
	switch {
	case p.m > 16:
		i, nt, stages = 2, 8, 3
	case p.m > 8:
		i, nt = 1, 2
	}
	launch(b, kCodes[i][p.w.dt], dim{x: blocks}, 256, stages*c.stage(nt), &a)
}
