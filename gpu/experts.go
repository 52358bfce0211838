//go:build cuda

package gpu

import (
	"fmt"

	"pipe/tensor"
)

// Which rows an expert has is known on the device only: grids are as large as any
// routing may need, and blocks that find nothing to do leave at once.

// routeArgs is RouteArgs of experts.cu.
type routeArgs struct {
	logits, gates, rows, slots, starts uint64
	weights, counts                    uint64
	n, k, experts, gating              int32
	part, unused                       int32
}

var (
	kRouteFew    = newKernel("experts", "route_few")
	kRouteChoose = newKernel("experts", "route_choose")
	kRouteCount  = newKernel("experts", "route_count")
	kRouteScan   = newKernel("experts", "route_scan")
	kRoutePlace  = newKernel("experts", "route_place")
	kRouteGrad   = newKernel("experts", "route_grad")
	kDispatch    = byTypes("dispatch")
	kCombine     = byTypes("combine")
	kGateGrad    = byTypes("gate_grad")
)

// byTypes returns the variants of a kernel by which of x and the other matrix are BF16, in bits.
func byTypes(name string) (ks [4]widths) {
	for i, types := range [...]string{"_ff", "_hf", "_fh", "_hh"} {
		ks[i] = newWidths("experts", name+types)
	}
	return ks
}

const (
	routePart   = 256 // choices of a block, at least
	routeBlocks = 256 // at most
)

// routeFew is how many choices one block takes; a test makes it small.
var routeFew = 1024

// routing checks r for a batch of n rows.
func (b *Backend) routing(op string, r *tensor.Routing, n int) (k int) {
	k = r.Check("gpu", op, n)
	input(op, r.Gates)
	for _, t := range [...]*tensor.Tensor{r.Rows, r.Slots, r.Starts} {
		wantType(op, t, tensor.I32)
	}
	return k
}

// Route implements [tensor.Experts].
func (b *Backend) Route(r *tensor.Routing, logits *tensor.Tensor) {
	const op = "route"
	a := routeArgs{logits: input(op, logits)}
	n, experts := matrix(op, logits)
	k := b.routing(op, r, n)
	checkMatrix(op, logits, n, r.Experts)
	a.gates = output(op, r.Gates)
	a.rows, a.slots, a.starts = b.writtenInts(op, r.Rows), b.writtenInts(op, r.Slots), b.writtenInts(op, r.Starts)
	if b.err != nil {
		return
	}
	if n == 0 {
		b.clear(a.starts, 4*r.Starts.Len())
		return
	}
	a.n, a.k, a.experts, a.gating = int32(n), int32(k), int32(experts), int32(r.Gating)
	a.part = int32(max(routePart, roundUp(ceil(n*k, routeBlocks), routePart)))
	blocks := ceil(n*k, int(a.part))
	a.weights = b.scratch(scratchParts, 4*(n*k+blocks*experts))
	a.counts = a.weights + uint64(4*n*k)
	if n*k <= routeFew {
		launch(b, kRouteFew, dim{x: 1}, 256, 0, &a)
		return
	}
	launch(b, kRouteChoose, dim{x: ceil(n, 8)}, 256, 0, &a)
	launch(b, kRouteCount, dim{x: blocks}, 256, 0, &a)
	launch(b, kRouteScan, dim{x: 1}, 1024, 0, &a)
	launch(b, kRoutePlace, dim{x: blocks}, 256, 0, &a)
}

// writtenInts returns where an I32 result lies, whose copy on the host is nothing then.
func (b *Backend) writtenInts(op string, t *tensor.Tensor) uint64 {
	m := wantType(op, t, tensor.I32)
	writable(op, m)
	b.wrote(m.host)
	return m.ptr
}

// routeGradArgs is RouteGradArgs of experts.cu.
type routeGradArgs struct {
	dlogits, dgates, gates, slots, starts uint64
	n, k, experts, gating                 int32
}

// RouteGrad implements [tensor.Experts].
func (b *Backend) RouteGrad(dlogits, dgates *tensor.Tensor, r *tensor.Routing) {
	const op = "route gradient"
	a := routeGradArgs{dlogits: output(op, dlogits), dgates: input(op, dgates)}
	n, experts := matrix(op, dlogits)
	k := b.routing(op, r, n)
	checkMatrix(op, dlogits, n, r.Experts)
	checkLen(op, dgates.Len(), n*k)
	a.gates, a.slots, a.starts = mem(op, r.Gates).ptr, mem(op, r.Slots).ptr, mem(op, r.Starts).ptr
	a.n, a.k, a.experts, a.gating = int32(n), int32(k), int32(experts), int32(r.Gating)
	launch(b, kRouteGrad, dim{x: ceil(n, 8)}, 256, 0, &a)
}

// moveArgs is MoveArgs of experts.cu.
type moveArgs struct {
	dst, x, add, gates, at uint64
	rows, cols             int64
	limit, k, shift        int32
	unused                 int32
}

// move launches a kernel on the rows of a, of which a thread has some columns.
func (b *Backend) move(w widths, a moveArgs) {
	kernel, width := w.pick(int(a.cols), a.dst, a.x, a.add)
	grid, shift := tile(int(a.rows), int(a.cols)/width)
	a.shift = shift
	launch(b, kernel, grid, 256, 0, &a)
}

// Dispatch implements [tensor.Experts].
func (b *Backend) Dispatch(dst, x *tensor.Tensor, r *tensor.Routing, gated bool) {
	const op = "dispatch"
	var a moveArgs
	var from, to int
	a.dst, to = numbersOut(op, dst)
	a.x, from = numbers(op, x)
	n, cols := matrix(op, x)
	k := b.routing(op, r, n)
	checkMatrix(op, dst, n*k, cols)
	a.at, a.rows, a.cols, a.limit = mem(op, r.Rows).ptr, int64(n*k), int64(cols), int32(n)
	if gated {
		a.gates = mem(op, r.Gates).ptr
	}
	b.move(kDispatch[from|to<<1], a)
}

// Combine implements [tensor.Experts].
func (b *Backend) Combine(dst, rows, add *tensor.Tensor, r *tensor.Routing, gated bool) {
	const op = "combine"
	var a moveArgs
	var from, to int
	a.dst, to = numbersOut(op, dst)
	a.x, from = numbers(op, rows)
	n, cols := matrix(op, dst)
	k := b.routing(op, r, n)
	checkMatrix(op, rows, n*k, cols)
	if add != nil {
		sameType(op, dst, add)
		checkMatrix(op, add, n, cols)
		a.add = mem(op, add).ptr
	}
	a.at, a.rows, a.cols, a.limit, a.k = mem(op, r.Slots).ptr, int64(n), int64(cols), int32(n*k), int32(k)
	if gated {
		a.gates = mem(op, r.Gates).ptr
	}
	b.move(kCombine[from|to<<1], a)
}

// GateGrad implements [tensor.Experts].
func (b *Backend) GateGrad(dgates, rows, x *tensor.Tensor, r *tensor.Routing) {
	const op = "gate gradient"
	a := moveArgs{dst: output(op, dgates)}
	var from, of int
	a.add, of = numbers(op, rows)
	a.x, from = numbers(op, x)
	n, cols := matrix(op, x)
	k := b.routing(op, r, n)
	checkMatrix(op, rows, n*k, cols)
	checkLen(op, dgates.Len(), n*k)
	a.at, a.rows, a.cols, a.limit = mem(op, r.Rows).ptr, int64(n*k), int64(cols), int32(n)
	kernel, _ := kGateGrad[from|of<<1].pick(cols, a.x, a.add)
	launch(b, kernel, dim{x: ceil(n*k, 8)}, 256, 0, &a)
}

// An expertProduct is the product of the rows of experts, whose weights lie below one
// another in w.
type expertProduct struct {
	product        // of all rows; n and k are those of one expert
	experts, batch int
	each           int    // rows of batch that an expert has, at most
	height         int    // of an expert's part of w
	starts         uint64 // on the device
}

// ExpertMatMul implements [tensor.Experts].
func (b *Backend) ExpertMatMul(dst, a, w *tensor.Tensor, r *tensor.Routing, o tensor.MatMul) {
	p := b.expertProduct(dst, a, w, r, &o)
	if b.err != nil || p.m == 0 || p.n == 0 {
		return
	}
	switch {
	case p.batch <= fewRows && p.transW && !p.uniform && p.k > 0:
		b.expertsFew(&p)
	case p.w.half && p.k > 0:
		b.expertsHalf(&p)
	default:
		b.expertsFloat(&p)
	}
}

// expertProduct checks the operands of a product.
func (b *Backend) expertProduct(dst, a, w *tensor.Tensor, r *tensor.Routing, o *tensor.MatMul) expertProduct {
	const op = "expert matmul"
	if o.TransA || o.LowRank != nil || o.ColScale != nil || o.Bias != nil || o.Rope != nil || o.SwiGLUGrad != nil {
		panic(fmt.Sprintf("gpu: %s: takes TransB, Alpha, Beta and Uniform only (%+v)", op, *o))
	}
	m, k := matrix(op, a)
	p := expertProduct{product: product{m: m, k: k, lda: k, w: b.operand(op, w), transW: o.TransB, alpha: o.Alpha, beta: o.Beta, uniform: o.Uniform, dst: dst}}
	if r == nil || r.Slots == nil || len(r.Slots.Shape) != 2 || r.Experts < 1 || p.w.rows%r.Experts != 0 {
		panic(fmt.Sprintf("gpu: %s: a weight %v is no matrices of experts (%+v)", op, w.Shape, r))
	}
	p.experts, p.batch, p.height = r.Experts, r.Slots.Shape[0], p.w.rows/r.Experts
	inner := p.height
	p.n = p.w.cols
	if o.TransB {
		inner, p.n = p.w.cols, p.height
	}
	if inner != k || m != r.Slots.Len() {
		panic(fmt.Sprintf("gpu: %s: rows %v with matrices [%d,%d] of experts that %d rows go to (%+v)", op, a.Shape, p.height, p.w.cols, r.Slots.Len(), *o))
	}
	p.each = b.routing(op, r, p.batch)
	var halfA, halfC int
	p.a, halfA = numbers(op, a)
	p.c, halfC = numbersOut(op, dst)
	p.aHalf, p.outHalf, p.ldc = halfA == 1, halfC == 1, p.n
	if p.outHalf && o.Beta != 0 {
		panic("gpu: expert matmul: a result in bf16 needs Beta 0")
	}
	checkMatrix(op, dst, m, p.n)
	p.starts = mem(op, r.Starts).ptr
	return p
}

// expertGemmArgs is ExpertGemmArgs of experts.cuh.
type expertGemmArgs struct {
	g             gemmArgs
	tiles, starts uint64
	rows, unused  int32
}

// The kernels of many rows of experts: by tiles of 64 and 128 rows in float32, and in bfloat16,
// indices say whether w is transposed; and of sums over the rows of each expert.
var (
	kExpertsFloat = [2][2]*kernel{
		{newKernel("gemm", "gemm_experts_nn_64"), newKernel("gemm", "gemm_experts_nt_64")},
		{newKernel("gemm", "gemm_experts_nn_128"), newKernel("gemm", "gemm_experts_nt_128")},
	}
	kExpertsMMA   = [2]*kernel{newKernel("gemm_half", "gemm_mma_experts_nn"), newKernel("gemm_half", "gemm_mma_experts_nt")}
	kExpertsOuter = [2]*kernel{newKernel("gemm", "gemm_experts_tn_64"), newKernel("gemm", "gemm_experts_tn_128")}
	kExpertTiles  = newKernel("experts", "expert_tiles")
)

// tilesArgs is TilesArgs of experts.cu.
type tilesArgs struct {
	tiles, starts            uint64
	rows, first, count, size int32
	most, unused             int32
}

const expertTileBytes = 16

// expertTiles lists tiles of so many rows of the experts lo..hi, and returns where the list is and
// how many there may be.
func (b *Backend) expertTiles(p *expertProduct, lo, hi, size int) (at uint64, most int) {
	most = p.m/size + min(hi-lo, p.m)
	at = b.scratch(scratchExperts, expertTileBytes*(1+most))
	a := tilesArgs{tiles: at, starts: p.starts, rows: int32(p.m), first: int32(lo), count: int32(hi - lo), size: int32(size), most: int32(most)}
	launch(b, kExpertTiles, dim{x: 1}, 1024, 0, &a)
	return at, most
}

// pieceExperts returns how many experts' weights, expanded to size bytes an element, are at most
// panelBytes: one at least.
func (p *expertProduct) pieceExperts(size int) int {
	return max(panelBytes/max(1, size*p.height*roundUp(p.w.cols, 8)), 1)
}

// pieces calls f for the weights of all experts, expanded to float32 or bfloat16 as many at a time
// as panelBytes has room for: w of row distance ld are those of experts lo..hi.
func (b *Backend) pieces(p *expertProduct, half bool, f func(lo, hi int, w uint64, ld int)) {
	size := 4
	if half {
		size = 2
	}
	ld := roundUp(p.w.cols, 8)
	for lo, step := 0, p.pieceExperts(size); lo < p.experts; lo += step {
		hi := min(lo+step, p.experts)
		part := p.w.slice(lo*p.height, hi*p.height)
		w := b.scratch(scratchRight, size*part.rows*ld)
		b.unpack(w, ld, part, part.cols, half)
		f(lo, hi, w, ld)
	}
}

// expertsFloat computes a product in float32.
func (b *Backend) expertsFloat(p *expertProduct) {
	if p.aHalf {
		q := *p
		ld := roundUp(p.k, 8)
		q.a, q.lda, q.aHalf = b.scratch(scratchLeft, 4*p.m*ld), ld, false
		b.unpack(q.a, ld, operand{dt: tensor.BF16, ptr: p.a, rows: p.m, cols: p.lda}, p.k, false)
		p = &q
	}
	if p.w.dt == tensor.F32 {
		b.expertsFloats(p, 0, p.experts, p.w.ptr, p.w.cols)
		return
	}
	b.pieces(p, false, func(lo, hi int, w uint64, ld int) { b.expertsFloats(p, lo, hi, w, ld) })
}

// expertsFloats computes the products of experts lo..hi with weights in float32.
func (b *Backend) expertsFloats(p *expertProduct, lo, hi int, w uint64, ldw int) {
	a := expertGemmArgs{g: p.gemm(), starts: p.starts, rows: int32(p.m)}
	g := &a.g
	g.a, g.lda, g.b, g.ldb, g.split = p.a, int64(p.lda), w, int64(ldw), int32(p.k)
	if rowVectors(p.a, p.lda, false) {
		g.flags |= gemmVectorA
	}
	if rowVectors(w, ldw, false) {
		g.flags |= gemmVectorB
	}
	large := p.m >= 96*p.experts && p.n > 64 && ceil(p.m, 128)*ceil(p.n, 128) >= b.sms
	size := 64 << index(large)
	var most int
	a.tiles, most = b.expertTiles(p, lo, hi, size)
	g.tilesN = int32(ceil(p.n, size))
	launch(b, kExpertsFloat[index(large)][index(p.transW)], dim{x: most * int(g.tilesN)}, 256, 0, &a)
}

// expertsHalf computes a product of operands that are rounded to bfloat16.
func (b *Backend) expertsHalf(p *expertProduct) {
	q := *p
	q.a, q.lda = b.left(&p.product)
	q.aHalf = true
	if q.w.dt == tensor.BF16 && chunks(q.w.ptr, q.w.cols, q.w.cols) {
		b.expertsHalves(&q, 0, q.experts, q.w.ptr, q.w.cols)
		return
	}
	if w, ok := b.kept(&q.w); ok {
		b.expertsHalves(&q, 0, q.experts, w, q.w.cols)
		return
	}
	b.pieces(&q, true, func(lo, hi int, w uint64, ld int) { b.expertsHalves(&q, lo, hi, w, ld) })
}

// expertsHalves computes the products of experts lo..hi of operands that are bfloat16 in whole
// chunks. Which kernel does depends on the matrices only.
func (b *Backend) expertsHalves(p *expertProduct, lo, hi int, w uint64, ldw int) {
	if b.wgmma() && (p.transW || p.k%64 == 0) { // else the last step has terms of the next expert
		b.expertsTiled(p, lo, hi, w, ldw)
		return
	}
	a := expertGemmArgs{g: p.gemm(), starts: p.starts, rows: int32(p.m)}
	g := &a.g
	g.a, g.lda, g.b, g.ldb = p.a, int64(p.lda), w, int64(ldw)
	var most int
	a.tiles, most = b.expertTiles(p, lo, hi, 128)
	g.tilesN = int32(ceil(p.n, 128))
	launch(b, kExpertsMMA[index(p.transW)], dim{x: most * int(g.tilesN)}, 256, 4*(8<<10+8<<10), &a)
}

// kExpertsTiled are the kernels with descriptors, for tiles of 128 and of 256 columns: of rows,
// indices say whether w is transposed, and of sums over the rows of each expert.
var (
	kExpertsTiled = [2][2]*kernel{
		{newKernel("gemm_tma", "gemm_tma_experts_nn_128"), newKernel("gemm_tma", "gemm_tma_experts_nt_128")},
		{newKernel("gemm_tma", "gemm_tma_experts_nn_256"), newKernel("gemm_tma", "gemm_tma_experts_nt_256")},
	}
	kExpertsSums = [2]*kernel{newKernel("gemm_tma", "gemm_tma_experts_tn_128"), newKernel("gemm_tma", "gemm_tma_experts_tn_256")}
)

// expertsTiled is expertsHalves with descriptors.
func (b *Backend) expertsTiled(p *expertProduct, lo, hi int, w uint64, ldw int) {
	g := p.gemm()
	width, shared := tileColumns(p.n)
	tiles, most := b.expertTiles(p, lo, hi, 128)
	g.tilesN = int32(ceil(p.n, width))
	t := b.tiledOf(&g)
	t.tiles = tiles
	if b.counts == nil {
		b.check("expert matmul", t.a[0].Set(p.a, p.m, p.k, 2*p.lda, 128))
		if p.transW {
			b.check("expert matmul", t.b[0].Set(w, (hi-lo)*p.height, p.k, 2*ldw, width))
		} else {
			b.check("expert matmul", t.b[0].Set(w, (hi-lo)*p.height, p.n, 2*ldw, 64))
		}
	}
	launch(b, kExpertsTiled[width/256][index(p.transW)], dim{x: min(most*int(g.tilesN), b.sms)}, 384, shared+128, t)
}

// ExpertOuter implements [tensor.Experts].
func (b *Backend) ExpertOuter(dw, dy, x *tensor.Tensor, r *tensor.Routing) {
	const op = "expert outer"
	d := output(op, dw)
	left, right := b.rowsOf(op, dy), b.rowsOf(op, x)
	if r == nil || r.Slots == nil {
		panic("gpu: expert outer: no routing")
	}
	n := r.Slots.Rows()
	k := b.routing(op, r, n)
	checkMatrix(op, x, n*k, right.cols)
	checkMatrix(op, dy, n*k, left.cols)
	checkMatrix(op, dw, r.Experts*left.cols, right.cols)
	if b.err != nil || n == 0 || left.cols == 0 || right.cols == 0 {
		return
	}
	p := product{m: left.cols, n: right.cols, k: n * k, c: d, ldc: right.cols, alpha: 1, beta: 1}
	a := expertGemmArgs{g: p.gemm(), starts: mem(op, r.Starts).ptr, rows: int32(n * k)}
	g := &a.g
	if b.wgmma() && left.dt == tensor.BF16 && right.dt == tensor.BF16 && chunks(left.ptr, left.cols, left.cols) && chunks(right.ptr, right.cols, right.cols) {
		width, shared := tileColumns(p.n)
		g.tilesM, g.tilesN = int32(ceil(p.m, 128)), int32(ceil(p.n, width))
		t := b.tiledOf(g)
		t.experts, t.rows, t.starts = int32(r.Experts), a.rows, a.starts
		if b.counts == nil {
			b.check(op, t.a[0].Set(left.ptr, n*k, p.m, 2*left.cols, 64))
			b.check(op, t.b[0].Set(right.ptr, n*k, p.n, 2*right.cols, 64))
		}
		launch(b, kExpertsSums[width/256], dim{x: min(r.Experts*int(g.tilesM*g.tilesN), b.sms)}, 384, shared+128, t)
		return
	}
	var lda, ldb int
	g.a, lda = b.floats(scratchLeft, left)
	g.b, ldb = b.floats(scratchRight, right)
	g.lda, g.ldb = int64(lda), int64(ldb)
	if rowVectors(g.a, lda, false) {
		g.flags |= gemmVectorA
	}
	if rowVectors(g.b, ldb, false) {
		g.flags |= gemmVectorB
	}
	large := p.m > 64 && p.n > 64 && r.Experts*ceil(p.m, 128)*ceil(p.n, 128) >= b.sms
	size := 64 << index(large)
	g.tilesM, g.tilesN = int32(ceil(p.m, size)), int32(ceil(p.n, size))
	launch(b, kExpertsOuter[index(large)], dim{x: int(g.tilesM * g.tilesN), y: r.Experts}, 256, 0, &a)
}

// rowsOf returns a matrix of activations as an operand.
func (b *Backend) rowsOf(op string, t *tensor.Tensor) operand {
	numbers(op, t)
	return b.operand(op, t)
}

// floats returns a matrix of F32 or BF16 in float32, and its row distance.
func (b *Backend) floats(slot int, o operand) (p uint64, ld int) {
	if o.dt == tensor.F32 {
		return o.ptr, o.cols
	}
	ld = roundUp(o.cols, 8)
	p = b.scratch(slot, 4*o.rows*ld)
	b.unpack(p, ld, o, o.cols, false)
	return p, ld
}
