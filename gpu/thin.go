//go:build cuda

package gpu

import "pipe/tensor"

// The products of an adapter: see thin.cu.

// thinColumns is ThinColumns of thin.cu.
type thinColumns struct {
	w, u      uint64
	sj, st    int64
	ldu, cols int32
}

// tallArgs is TallArgs of thin.cu.
type tallArgs struct {
	c                   [tallTiles]thinColumns
	x, parts, tickets   uint64
	ldx                 int64
	m, k, split, vector int32
	alpha, beta         float32
}

// gradArgs is GradArgs of thin.cu.
type gradArgs struct {
	x, u, w, g, d                 uint64
	ldx, ldu, ldw                 int64
	m, n, r, rows, stages, unused int32
	y, z, s, c                    uint64
}

// gradSumArgs is GradSumArgs of thin.cu.
type gradSumArgs struct {
	g, d, c, scale             uint64
	out, du, dm                uint64
	sj, si, ldu                int64
	m, n, r, nt, parts, blocks int32
	alpha, beta                float32
}

const (
	tallTiles  = 3    // of 16 columns that a kernel takes
	tallParts  = 4    // of a sum, at most
	gradTiles  = 4    // of 8 columns that a kernel takes
	gradCols   = 512  // of a block
	gradStages = 5    // of copies, at most
	thinFloat  = 128  // columns up to which a product of float32 is a thin one
	thinHalf   = 256  // and one of bfloat16
	mostTicket = 4096 // blocks of rows that take tickets, at first
)

// The kernels: of float32 and of bfloat16, by tiles.
var (
	kTall = [2][tallTiles]*kernel{
		{newKernel("thin", "thin_tall_f32_1"), newKernel("thin", "thin_tall_f32_2"), newKernel("thin", "thin_tall_f32_3")},
		{newKernel("thin", "thin_tall_bf16_1"), newKernel("thin", "thin_tall_bf16_2"), newKernel("thin", "thin_tall_bf16_3")},
	}
	kOuter = [2][3]*kernel{
		{newKernel("thin", "thin_outer_f32_1"), newKernel("thin", "thin_outer_f32_2"), newKernel("thin", "thin_outer_f32_4")},
		{newKernel("thin", "thin_outer_bf16_1"), newKernel("thin", "thin_outer_bf16_2"), newKernel("thin", "thin_outer_bf16_4")},
	}
	kBoth = [2][3]*kernel{
		{newKernel("thin", "thin_both_f32_1"), newKernel("thin", "thin_both_f32_2"), newKernel("thin", "thin_both_f32_4")},
		{newKernel("thin", "thin_both_bf16_1"), newKernel("thin", "thin_both_bf16_2"), newKernel("thin", "thin_both_bf16_4")},
	}
	kScaled = [2][3]*kernel{
		{newKernel("thin", "thin_scaled_f32_1"), newKernel("thin", "thin_scaled_f32_2"), newKernel("thin", "thin_scaled_f32_4")},
		{newKernel("thin", "thin_scaled_bf16_1"), newKernel("thin", "thin_scaled_bf16_2"), newKernel("thin", "thin_scaled_bf16_4")},
	}
	kGradSum = newKernel("thin", "thin_grad_sum")
)

// A long is a matrix that thin products read.
type long struct {
	ptr  uint64
	ld   int
	half bool
}

// whole reports whether rows of n elements are whole chunks that lie as they should.
func (x long) whole(n int) bool {
	size := 4
	if x.half {
		size = 2
	}
	return x.ptr%16 == 0 && x.ld*size%16 == 0 && n*size%16 == 0
}

// thin reports whether a product with n columns in float32 is one of those here.
func (x long) thin(n int) bool {
	if x.half {
		return n <= thinHalf
	}
	return n <= thinFloat
}

// plain reports whether p is a sum in float32 and no more.
func (p *product) plain() bool {
	return p.low.r == 0 && p.scale == 0 && p.bias == 0 && !p.outHalf && p.k > 0 && p.m > 0 && p.n > 0
}

// multiplyThin computes p if it is one of the thin products.
func (b *Backend) multiplyThin(p *product) bool {
	if !p.plain() || b.noThin {
		return false
	}
	if p.tall() {
		b.multiplyTall(p)
		return true
	}
	if !p.transA || p.transW || p.uniform {
		return false
	}
	// The wider operand is read once.
	x, thin := long{p.a, p.lda, p.aHalf}, long{p.w.ptr, p.w.cols, p.w.dt == tensor.BF16}
	if p.w.dt != tensor.F32 && p.w.dt != tensor.BF16 {
		return false
	}
	n, r, sj, si := p.m, p.n, p.ldc, 1
	if p.n > p.m {
		x, thin = thin, x
		n, r, sj, si = r, n, si, sj
	}
	if thin.half || !x.whole(n) || !x.thin(r) {
		return false
	}
	for lo := 0; lo < r; lo += 8 * gradTiles {
		cols := min(r-lo, 8*gradTiles)
		g := gradArgs{x: x.ptr, u: thin.ptr + uint64(4*lo), ldx: int64(x.ld), ldu: int64(thin.ld), m: int32(p.k), n: int32(n), r: int32(cols)}
		s := gradSumArgs{out: p.c + uint64(4*lo*si), sj: int64(sj), si: int64(si), alpha: p.alpha, beta: p.beta}
		b.thinGrad(&g, &s, x.half)
	}
	return true
}

// tall reports whether p is one of [Backend.multiplyTall]. That does not depend on
// the number of rows.
func (p *product) tall() bool {
	x := long{p.a, p.lda, p.aHalf}
	return !p.transA && p.w.dt == tensor.F32 && !p.w.half && x.thin(p.n) && p.k%8 == 0 && x.whole(p.k)
}

// multiplyTall computes products of one matrix with a few columns each.
func (b *Backend) multiplyTall(ps ...*product) {
	p, tiles := ps[0], 0
	a := tallArgs{x: p.a, ldx: int64(p.lda), m: int32(p.m), k: int32(p.k), vector: 1, alpha: p.alpha, beta: p.beta}
	for _, q := range ps {
		tiles += ceil(q.n, 16)
		if !q.transW || q.w.ptr%16 != 0 || q.w.cols%4 != 0 || q.w.cols >= 1<<27 {
			a.vector = 0
		}
	}
	each, n := ceil(tiles, ceil(tiles, tallTiles)), 0
	for _, q := range ps {
		c := thinColumns{w: q.w.ptr, u: q.c, sj: 1, st: int64(q.w.cols), ldu: int32(q.ldc)}
		if q.transW {
			c.sj, c.st = c.st, 1
		}
		for lo := 0; lo < q.n; lo += 16 {
			c.cols = int32(min(q.n-lo, 16))
			a.c[n] = c
			c.w += uint64(4 * 16 * c.sj)
			c.u += 4 * 16
			if n++; n == each {
				b.launchTall(&a, n, p.aHalf)
				n = 0
			}
		}
	}
	if n > 0 {
		b.launchTall(&a, n, p.aHalf)
	}
}

// launchTall computes n tiles of columns. The parts of sums depend on the number of
// terms alone.
func (b *Backend) launchTall(a *tallArgs, n int, half bool) {
	rows := 64
	if half {
		rows = 128
	}
	a.split = int32(roundUp(ceil(int(a.k), tallParts), 128))
	grid := dim{x: ceil(int(a.m), rows), y: ceil(int(a.k), int(a.split))}
	if grid.y > 1 {
		a.parts = b.scratch(scratchParts, 4*grid.y*grid.x*rows*16*n)
		a.tickets = b.tickets(grid.x)
	}
	launch(b, kTall[index(half)][n-1], grid, 256, 4*4*rows*16*n, a)
}

// tickets returns n counters that are 0 and that a kernel leaves so.
func (b *Backend) tickets(n int) uint64 {
	old := b.scratches[scratchTickets].bytes
	bytes := 4 * max(n, mostTicket)
	p := b.scratch(scratchTickets, bytes)
	if bytes > old {
		b.clear(p, bytes)
	}
	return p
}

// thinGrad computes sums over rows and, if g.w is set, over columns, and if g.y is set
// scales before.
func (b *Backend) thinGrad(g *gradArgs, s *gradSumArgs, half bool) {
	l := b.gradLayout(int(g.r), half, g.w != 0, g.y != 0)
	m, blocks := int(g.m), ceil(int(g.n), gradCols)
	parts := max(1, min(b.sms/blocks, ceil(m, 32*l.groups)))
	g.rows = int32(roundUp(ceil(m, parts), 16*l.groups))
	parts = ceil(m, int(g.rows))
	sums, tiles, cols := blocks*gradCols*8*l.nt, 0, 0
	if g.w != 0 {
		tiles = ceil(m, 16) * l.nt * 128
	}
	if g.y != 0 {
		cols = int(g.n)
	}
	g.g = b.scratch(scratchParts, 4*(parts*(sums+cols)+blocks*tiles))
	g.d = g.g + uint64(4*parts*sums)
	g.stages = int32(l.stages)
	if g.y != 0 {
		g.c = g.d + uint64(4*blocks*tiles)
	}
	launch(b, l.kernel, dim{x: blocks, y: parts}, 256*l.groups, l.shared, g)
	s.g, s.d, s.c, s.m, s.n, s.r, s.nt, s.parts, s.blocks = g.g, g.d, g.c, g.m, g.n, g.r, int32(l.nt), int32(parts), int32(blocks)
	launch(b, kGradSum, dim{x: min(ceil((sums+tiles+4*cols)/4, 256), 8*b.sms)}, 256, 0, s)
}

// A gradLayout is how a kernel of [Backend.thinGrad] is launched.
type gradLayout struct {
	*kernel
	nt, groups, stages, shared int
}

func (b *Backend) gradLayout(r int, half, both, scaled bool) gradLayout {
	l, i := gradLayout{nt: 1, groups: 1}, 0
	for l.nt < ceil(r, 8) {
		l.nt, i = 2*l.nt, i+1
	}
	tile, more := 4<<10, 0
	l.stages = 2
	if half {
		tile, l.stages = 2<<10, 4
	}
	if b.major == 9 { // which has the most shared memory
		l.stages++
		if l.nt <= 2 {
			l.groups = 2
		}
	}
	l.kernel = kOuter[index(half)][i]
	if both {
		l.kernel = kBoth[index(half)][i]
		more = 2 * l.groups * 8 * l.nt * 512
	}
	if scaled {
		l.kernel = kScaled[index(half)][i]
		tile += 2 << 10
		more += 4 * gradCols
		l.stages = min(gradStages, (b.shared-more)/(l.groups*8*tile))
	}
	l.shared = l.groups*8*l.stages*tile + more
	return l
}

// LowRankGrad implements [tensor.Linear].
func (b *Backend) LowRankGrad(du, dv, dy, u, v *tensor.Tensor, scale float32) {
	outer := b.product(dv, dy, u, &tensor.MatMul{TransA: true, Alpha: scale, Beta: 1})
	tall := b.product(du, dy, v, &tensor.MatMul{Alpha: scale})
	if b.err != nil {
		return
	}
	if !b.both(&outer, &tall) {
		b.multiply(&outer)
		b.multiply(&tall)
		return
	}
	b.thinBoth(&outer, &tall, 0)
}

// both reports whether the products of [Backend.LowRankGrad] are computed together.
func (b *Backend) both(outer, tall *product) bool {
	x := long{tall.a, tall.lda, tall.aHalf}
	return !b.noThin && tall.plain() && outer.plain() && outer.w.dt == tensor.F32 && tall.w.dt == tensor.F32 && !tall.w.half && x.whole(tall.k) && x.thin(tall.n)
}

// thinBoth computes the products of [Backend.LowRankGrad] for columns from lo on.
func (b *Backend) thinBoth(outer, tall *product, lo int) {
	for ; lo < tall.n; lo += 8 * gradTiles {
		g, s := gradsOf(outer, tall, lo)
		b.thinGrad(&g, &s, tall.aHalf)
	}
}

// gradsOf returns what sets up to 32 columns from lo on.
func gradsOf(outer, tall *product, lo int) (gradArgs, gradSumArgs) {
	r, at := int64(tall.n), uint64(4*lo)
	g := gradArgs{x: tall.a, u: outer.w.ptr + at, w: tall.w.ptr + at, ldx: int64(tall.lda), ldu: r, ldw: r, m: int32(tall.m), n: int32(tall.k), r: int32(min(tall.n-lo, 8*gradTiles))}
	return g, gradSumArgs{out: outer.c + at, du: tall.c + at, sj: r, si: 1, ldu: r, alpha: outer.alpha, beta: 1}
}

// DoRAGrad implements [tensor.Linear].
func (b *Backend) DoRAGrad(o tensor.DoRAGrad) {
	a := scaled("dora gradient", o.DZ, o.DM, o.DY, o.Y, o.Ratio, o.M)
	outer := b.product(o.DV, o.DZ, o.U, &tensor.MatMul{TransA: true, Alpha: o.Scale, Beta: 1})
	tall := b.product(o.DU, o.DZ, o.V, &tensor.MatMul{Alpha: o.Scale})
	if b.err != nil {
		return
	}
	if !b.scales(&a, &outer, &tall) {
		b.scaleColsGrad(&a)
		b.LowRankGrad(o.DU, o.DV, o.DZ, o.U, o.V, o.Scale)
		return
	}
	g, s := gradsOf(&outer, &tall, 0)
	g.x, g.y, g.z, g.s = a.x, a.y, a.dx, a.s
	s.dm, s.scale = a.dm, a.m
	b.thinGrad(&g, &s, a.types&1 == 1)
	b.thinBoth(&outer, &tall, 8*gradTiles)
}

// scales reports whether there is a kernel that scales and computes both products.
func (b *Backend) scales(a *scaledArgs, outer, tall *product) bool {
	half := a.types&1 == 1
	x, y := long{a.x, a.cols, half}, long{a.y, a.cols, true}
	return a.types>>1 == 3 && b.both(outer, tall) && x.whole(a.cols) && y.whole(a.cols) &&
		b.gradLayout(min(tall.n, 8*gradTiles), half, true, true).stages >= 2
}

// down returns the product that sets the u of an update of low rank.
func (p *product) down() product {
	l := &p.low
	return product{m: p.m, n: l.r, k: p.k, c: l.u, ldc: l.r, a: p.a, lda: p.lda, aHalf: p.aHalf, w: l.down, transW: true, alpha: 1, uniform: p.uniform}
}

// downs sets the u of products of one matrix whose updates say so.
func (b *Backend) downs(ps []product) {
	var all [mostProducts]product
	var together [mostProducts]*product
	n := 0
	for i := range ps {
		if ps[i].low.down.ptr == 0 {
			continue
		}
		d := &all[i]
		*d = ps[i].down()
		if !b.noThin && d.plain() && d.tall() && !d.few() {
			together[n] = d
			n++
		} else {
			b.multiply(d)
		}
	}
	if n > 0 {
		b.multiplyTall(together[:n]...)
	}
}
