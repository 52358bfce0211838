//go:build cuda

package gpu

import "pipe/tensor"

// expertClass is ExpertClass of experts.cuh.
type expertClass struct {
	starts                     uint64
	experts, rows, least, most int32
}

// expertGemvArgs is ExpertGemvArgs of experts.cuh.
type expertGemvArgs struct {
	g gemvArgs
	c expertClass
}

// expertCodesArgs is ExpertCodesArgs of gemv_codes.cu.
type expertCodesArgs struct {
	w             codesWeight
	x             uint64
	ldx           int64
	k, part       int32
	c             expertClass
	sums          int64
	tiles, unused int32
}

// The kernels of few rows of experts, as those of few.go.
var (
	kExpertsGemv = [3][tensor.NF4 + 1]*kernel{kernelsOf("gemv", "gemv_experts_", "_1"), kernelsOf("gemv", "gemv_experts_", "_4"), kernelsOf("gemv", "gemv_experts_", "_16")}
	kExpertsHalf = [2]map[tensor.DType]*kernel{plainKernels("experts_", "_1"), plainKernels("experts_", "_2")}
	kExpertsRows = codesKernels("experts_rows", "")
	kExpertsCode = [4]map[tensor.DType]*kernel{
		codesKernels("experts_codes", "_1"), codesKernels("experts_codes", "_2"), codesKernels("experts_codes", "_4"), codesKernels("experts_codes", "_8"),
	}
)

// classes calls f for classes of experts by how many rows of the batch they have: up to the first
// of most, then up to the next. The last is of all that have more, most rows at a time, in parts.
// groups is how many experts of the class there may be.
func (p *expertProduct) classes(most []int, f func(i int, c expertClass, groups, parts int)) {
	least := 1
	for i, n := range most {
		c := expertClass{starts: p.starts, experts: int32(p.experts), rows: int32(p.m), least: int32(least), most: int32(n)}
		parts := 1
		if i == len(most)-1 || n >= p.batch {
			c.most, parts = int32(p.batch), ceil(p.batch, n)
		}
		f(i, c, min(p.experts, p.m/least), parts)
		if n >= p.batch {
			return
		}
		least = n + 1
	}
}

// expertsFew computes a product of the rows of a small batch: the matrix of an expert is read once.
// The bits of a row do not depend on their number.
func (b *Backend) expertsFew(p *expertProduct) {
	if p.w.half && p.w.dt != tensor.F32 && (p.w.dt.Quantized() || chunks(p.w.ptr, p.w.cols, p.w.cols)) {
		b.expertsCodes(p)
		return
	}
	q := p.product
	a := expertGemvArgs{g: q.gemv()}
	if !p.w.half {
		p.classes([]int{1, 4, floatRows}, func(i int, c expertClass, groups, parts int) {
			a.c = c
			launch(b, kExpertsGemv[i][p.w.dt], dim{x: ceil(p.n, 4), y: groups, z: parts}, 256, 0, &a)
		})
		return
	}
	p.classes([]int{8, floatRows}, func(i int, c expertClass, groups, parts int) {
		a.c = c
		launch(b, kExpertsHalf[i][p.w.dt], dim{x: ceil(p.n, 16), y: groups, z: parts}, 256, 0, &a)
	})
}

// expertsCodes computes such a product with weights that are streamed.
func (b *Backend) expertsCodes(p *expertProduct) {
	c := &chunksOf[p.w.dt]
	x, ldx := b.left(&p.product)
	part := ceil(ceil(p.k, c.terms), sumParts) * c.terms
	// The experts of one row keep the memory busy together.
	chains := chainsOf(p.n*p.each, ceil(p.k, part))
	a := expertCodesArgs{
		w: p.codesWeight(), x: x, ldx: int64(ldx), k: int32(p.k), part: int32(part),
	}
	a.w.chains = int32(chains)
	if p.batch <= oneMost {
		p.classes([]int{oneMost}, func(_ int, class expertClass, groups, _ int) {
			a.c = class
			launch(b, kExpertsRows[p.w.dt], dim{x: ceil(p.n, oneRows), y: groups}, 256, 8*c.stages*oneRows*c.slot(), &a)
		})
		return
	}
	var most []int
	last, _ := b.codesKernel(c, p.batch)
	for i := range last + 1 {
		most = append(most, 8<<i)
	}
	tiles := ceil(p.n, codesRows)
	a.tiles = int32(tiles)
	p.classes(most, func(i int, class expertClass, groups, parts int) {
		a.c = class
		if chains > 1 {
			a.sums = int64(tiles * chains * (8 << i) * codesRows)
			a.w.sums, a.w.counters = b.scratch(scratchParts, 4*groups*parts*int(a.sums)), b.tickets(groups*parts*tiles)
		}
		_, shared := b.codesKernel(c, 8<<i)
		launch(b, kExpertsCode[i][p.w.dt], dim{x: tiles * chains, y: groups, z: parts}, 256, shared, &a)
	})
}
