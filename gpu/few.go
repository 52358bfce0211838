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

// promptRows is how many rows of prompts a pass has: enough that the products are
// bound by arithmetic, and no more, as activations grow with it.
const promptRows = 2048

// PromptRows implements [tensor.PromptReader].
func (b *Backend) PromptRows() int { return promptRows }

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
	kGemvHalf = [2]map[tensor.DType]*kernel{plainKernels("", "_1"), plainKernels("", "_2")}
	kRows     = codesKernels("rows", "")
	kCodes    = [4]map[tensor.DType]*kernel{codesKernels("codes", "_1"), codesKernels("codes", "_2"), codesKernels("codes", "_4"), codesKernels("codes", "_8")}
)

func plainKernels(kind, suffix string) map[tensor.DType]*kernel {
	ks := map[tensor.DType]*kernel{}
	for _, dt := range []tensor.DType{tensor.F32, tensor.F16, tensor.BF16} {
		ks[dt] = newKernel("gemv_half", "gemv_half_"+kind+dt.String()+suffix)
	}
	return ks
}

func codesKernels(kind, suffix string) map[tensor.DType]*kernel {
	ks := map[tensor.DType]*kernel{}
	for dt := range chunksOf {
		if chunksOf[dt].terms > 0 {
			ks[tensor.DType(dt)] = newKernel("gemv_codes", "gemv_"+kind+"_"+tensor.DType(dt).String()+suffix)
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
		q := p.slice(lo, min(p.m, lo+floatRows))
		b.multiplyFloats(&q)
	}
}

// gemv returns the arguments of p for the kernels in float32.
func (p *product) gemv() gemvArgs {
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
	return g
}

// multiplyFloats computes a product of at most floatRows rows.
func (b *Backend) multiplyFloats(p *product) {
	g := p.gemv()
	if !p.w.half {
		i := 0
		for rows := 1; rows < p.m; rows *= 4 {
			i++
		}
		launch(b, kGemv[i][p.w.dt], dim{x: ceil(p.n, 4)}, 256, 0, &g)
		return
	}
	launch(b, kGemvHalf[index(p.m > 8)][p.w.dt], dim{x: ceil(p.n, 16)}, 256, 0, &g)
}

// A chunk is what is read at a time of a row of a weight, as Codes of codes.cuh has
// it; bytes that rows begin at multiples of; and stages of the kernel of one row.
type chunk struct {
	terms, bytes, align int
	pairs               bool
	stages              int
}

var chunksOf = [tensor.NF4 + 1]chunk{
	tensor.F16: {128, 256, 16, false, 2}, tensor.BF16: {128, 256, 16, false, 2},
	tensor.Q4_0: {256, 144, 2, true, 3}, tensor.Q4_1: {256, 160, 4, true, 3}, tensor.Q5_0: {256, 176, 2, true, 2}, tensor.Q5_1: {256, 192, 4, true, 2},
	tensor.Q8_0: {256, 272, 2, false, 2}, tensor.Q4_K: {256, 144, 16, false, 3}, tensor.Q5_K: {256, 176, 16, false, 2}, tensor.Q6_K: {256, 210, 2, true, 2},
	tensor.NF4: {256, 144, 4, false, 2},
}

// Rows of a weight that a block has, many or few.
const (
	codesRows = 128
	oneRows   = 16
)

// slot is the bytes of shared memory of a chunk.
func (c *chunk) slot() int { return 16 * (ceil(c.bytes+16-c.align, 16) | 1) }

// stage is Stage of gemv_codes.cu: bytes of a chunk of every row of a block, and of
// 8·nt rows of the other operand.
func (c *chunk) stage(nt int) int {
	row := 2*c.terms + 64
	if c.pairs {
		row -= 32
	}
	return codesRows*c.slot() + 8*nt*row
}

// codes reports whether p is one for the kernels that stream weights.
func (p *product) codes() bool {
	return p.few() && p.w.half && p.w.dt != tensor.F32 && (p.w.dt.Quantized() || chunks(p.w.ptr, p.w.cols, p.w.cols))
}

// codesWeight and codesArgs are CodesWeight and CodesArgs of gemv_codes.cu.
type codesWeight struct {
	c, w, scale, bias, u, v, sums, counters uint64
	stride, ldc, sj, st                     int64
	n, r, flags, first, chains              int32
	alpha, alpha2, beta                     float32
}

type codesArgs struct {
	x                 uint64
	ldx               int64
	m, k, count, part int32
	weights           [mostProducts]codesWeight
}

const (
	sumParts = 8 // of a sum, at most
	oneMost  = 2 // rows that are worth reading for every 16 rows of a weight
)

// busyBlocks is how many blocks keep the memory busy: of any device, so that all
// have the same chains. Tests change it.
var busyBlocks = 198

// chainsOf returns the chains of parts that sums of n columns consist of.
func chainsOf(n, parts int) int {
	z := 1
	for z < sumParts && ceil(n, codesRows)*z < busyBlocks {
		z *= 2
	}
	return ceil(parts, sumParts/z)
}

// codesStages is the stages of the kernels of 8, 16, 32 and 64 rows.
var codesStages = [...]int{2, 2, 2, 3}

// codesKernel returns which of the kernels takes m rows, or, where a block has less
// shared memory than that needs, the most that there is memory for.
func (b *Backend) codesKernel(c *chunk, m int) (i, shared int) {
	for m > 8<<i {
		i++
	}
	static := 2 << 10
	if c == &chunksOf[tensor.NF4] {
		static += 16 << 10
	}
	for shared = codesStages[i] * c.stage(1<<i); i > 0 && shared+static > b.shared; shared = codesStages[i] * c.stage(1<<i) {
		i--
	}
	return i, shared
}

// multiplyCodes computes products of few rows, whose first operands and types of
// weights are the same, as many rows at a time as there are kernels for.
func (b *Backend) multiplyCodes(ps []product) {
	if b.streams(&ps[0]) {
		b.multiplyTiles(ps)
		return
	}
	m := ps[0].m
	kernel, shared := b.codesKernel(&chunksOf[ps[0].w.dt], m)
	if most := 8 << kernel; m > most {
		var some [mostProducts]product
		for lo := 0; lo < m; lo += most {
			for i := range ps {
				some[i] = ps[i].slice(lo, min(m, lo+most))
			}
			b.multiplyStreamed(some[:len(ps)], kernel, shared)
		}
		return
	}
	b.multiplyStreamed(ps, kernel, shared)
}

// codesWeight returns the arguments of p for the kernels that stream weights.
func (p *product) codesWeight() codesWeight {
	l := &p.low
	w := codesWeight{
		c: p.c, w: p.w.ptr, scale: p.scale, bias: p.bias, u: l.u, v: l.v, stride: int64(p.w.dt.Bytes(p.w.cols)),
		ldc: int64(p.ldc), sj: 1, st: int64(p.lowWidth()), n: int32(p.n), r: int32(l.r),
		alpha: p.alpha, alpha2: l.alpha, beta: p.beta,
	}
	if l.trans {
		w.sj, w.st = int64(l.r), 1
	}
	if p.outHalf {
		w.flags |= gemvOutHalf
	}
	return w
}

// multiplyStreamed computes products by one of kCodes, or kRows.
func (b *Backend) multiplyStreamed(ps []product, kernel, shared int) {
	p := &ps[0]
	c := &chunksOf[p.w.dt]
	x, ldx := b.left(p)
	part := ceil(ceil(p.k, c.terms), sumParts) * c.terms
	a := codesArgs{x: x, ldx: int64(ldx), m: int32(p.m), k: int32(p.k), count: int32(len(ps)), part: int32(part)}
	one := p.m <= oneMost
	blocks, sums, tiles := 0, 0, 0
	for i := range ps {
		p := &ps[i]
		w := &a.weights[i]
		*w = p.codesWeight()
		w.first = int32(blocks)
		chains := chainsOf(p.n, ceil(p.k, part))
		w.chains = int32(chains)
		if one {
			blocks += ceil(p.n, oneRows)
			continue
		}
		n := ceil(p.n, codesRows)
		blocks += n * chains
		if chains > 1 {
			w.sums, w.counters = uint64(sums), uint64(tiles)
			sums += n * chains * p.m * codesRows
			tiles += n
		}
	}
	if one {
		launch(b, kRows[p.w.dt], dim{x: blocks}, 256, 8*c.stages*oneRows*c.slot(), &a)
		return
	}
	if sums > 0 {
		at, counters := b.scratch(scratchParts, 4*sums), b.tickets(tiles)
		for i := range a.weights[:a.count] {
			w := &a.weights[i]
			w.sums, w.counters = at+4*w.sums, counters+4*w.counters
		}
	}
	launch(b, kCodes[kernel][p.w.dt], dim{x: blocks}, 256, shared, &a)
}

// slice returns the product of the rows lo..hi of a.
func (p *product) slice(lo, hi int) product {
	q := *p
	q.m = hi - lo
	q.c += uint64(lo * p.ldc * p.cSize())
	q.a += uint64(lo * p.lda * p.aSize())
	if p.low.r > 0 {
		q.low.u += uint64(4 * lo * p.low.r)
	}
	return q
}
