package cpu

import (
	"fmt"

	"pipe/tensor"
)

// An operand is a stored matrix: row r begins at element r*ld of f, or at
// byte r*ld of raw when the type is not F32.
type operand struct {
	dt     tensor.DType
	f      []float32
	raw    []byte
	ld     int
	rows   int
	cols   int
	half   bool    // products round both operands to bfloat16
	weight *memory // whose panels may be kept
	first  int     // row of weight that is row 0
}

func (b *Backend) operand(op string, t *tensor.Tensor) operand {
	m := mem(op, t)
	rows, cols := matrix(op, t)
	o := operand{dt: t.DType, f: m.f32, raw: m.raw, ld: cols, rows: rows, cols: cols, half: m.half}
	switch t.DType {
	case tensor.F32:
	case tensor.I32, tensor.U8:
		panic(fmt.Sprintf("cpu: %s: operand is %s", op, t.DType))
	default:
		o.ld = t.DType.Bytes(cols)
	}
	if m.keep || m.panels != [2]*panels{} {
		o.weight = m
	}
	return o
}

// slice returns rows lo..hi.
func (o operand) slice(lo, hi int) operand {
	if o.dt == tensor.F32 {
		o.f = o.f[lo*o.ld : hi*o.ld]
	} else {
		o.raw = o.raw[lo*o.ld : hi*o.ld]
	}
	o.rows, o.first = hi-lo, o.first+lo
	return o
}

// expandRow sets dst to elements lo..lo+len(dst) of row r; lo and len(dst)
// are whole blocks.
func (o *operand) expandRow(k *kernels, dst []float32, r, lo int) {
	if o.dt == tensor.F32 {
		copy(dst, o.f[r*o.ld+lo:])
		return
	}
	at := r*o.ld + o.dt.Bytes(lo)
	k.expand(dst, o.dt, o.raw[at:at+o.dt.Bytes(len(dst))])
}

// product is c [m,n] = scale ⊙ (alpha*op(a)·op(w) + low.alpha*low.u·op(low.v))
// + beta*c with row distances.
type product struct {
	m, n, k     int
	c           []float32
	ldc         int
	a           []float32
	lda         int
	transA      bool
	w           operand
	transW      bool // w is stored [n,k]
	alpha, beta float32
	uniform     bool      // see tensor.MatMul
	low         *lowRank  // nil: none
	scale       []float32 // of the columns [n]; nil: 1. It needs beta 0
	terms       []float32 // factors of the terms [k]; nil: 1
}

// lowRank is a further product of few terms: u [m,r] and v, F32.
type lowRank struct {
	u     []float32
	r     int
	v     operand
	trans bool // v is stored [n,r]
	alpha float32
}

const (
	smallM     = 16      // up to here, weights stored [n,k] are read in place
	skinny     = 32      // up to here, a transposed product reads in place
	packFloats = 1 << 20 // panels made at a time, of each operand
	jobCols    = 256
)

// jobRows is how many rows of a product a job takes, whole tiles.
func (k *kernels) jobRows() int { return 196 / k.rows * k.rows }

// MatMul implements [tensor.Linear].
func (b *Backend) MatMul(dst, a, w *tensor.Tensor, o tensor.MatMul) {
	const op = "matmul"
	c, x, wo := output(op, dst), input(op, a), b.operand(op, w)
	m, k := matrix(op, a)
	p := product{m: m, k: k, c: c, a: x, lda: k, transA: o.TransA, w: wo, transW: o.TransB, alpha: o.Alpha, beta: o.Beta, uniform: o.Uniform}
	if o.TransA {
		p.m, p.k = k, m
	}
	kw := wo.rows
	p.n = wo.cols
	if o.TransB {
		kw, p.n = wo.cols, wo.rows
	}
	if kw != p.k {
		panic(fmt.Sprintf("cpu: matmul: inner dimensions of %v and %v differ (%+v)", a.Shape, w.Shape, o))
	}
	checkMatrix(op, dst, p.m, p.n)
	p.ldc = p.n
	b.epilogue(&p, o)
	if b.err == nil {
		b.multiply(&p)
	}
}

// epilogue checks and takes over what follows a product.
func (b *Backend) epilogue(p *product, o tensor.MatMul) {
	const op = "matmul"
	if o.ColScale != nil {
		p.scale = input(op, o.ColScale)
		checkLen(op, len(p.scale), p.n)
		if o.Beta != 0 {
			panic("cpu: matmul: ColScale needs Beta 0")
		}
	}
	if o.TermScale != nil {
		p.terms = input(op, o.TermScale)
		checkLen(op, len(p.terms), p.k)
		if o.TransA {
			panic("cpu: matmul: TermScale needs a that is not transposed")
		}
	}
	if o.LowRank == nil {
		return
	}
	u, v := o.LowRank.U, o.LowRank.V
	input(op, v)
	b.op.low = lowRank{u: input(op, u), v: b.operand(op, v), trans: o.LowRank.TransV, alpha: o.LowRank.Alpha}
	low := &b.op.low
	_, low.r = matrix(op, u)
	checkMatrix(op, u, p.m, low.r)
	if low.trans {
		checkMatrix(op, v, p.n, low.r)
	} else {
		checkMatrix(op, v, low.r, p.n)
	}
	if low.r > 0 {
		p.low = low
	}
}

// multiply computes a product, of which it takes a copy: see operation.
func (b *Backend) multiply(wanted *product) {
	if wanted.m == 0 || wanted.n == 0 {
		return
	}
	b.op.product = *wanted
	p := &b.op.product
	if p.k == 0 || p.beta != 0 && p.beta != 1 {
		b.prescale(p)
	}
	few, first := (*stored)(nil), 0
	if b.k.fewRows(p) {
		few, first = b.storedPanels(p)
	}
	switch {
	case p.k == 0:
	case few != nil:
		b.multiplyFew(p, few, first)
	case p.transA && !p.transW && p.w.dt == tensor.F32 && min(p.m, p.n) <= skinny:
		b.multiplyOuter(p)
	case p.inPlace():
		b.multiplyRows(p)
	default:
		b.multiplyPanels(p)
		return
	}
	if l := p.low; l != nil {
		b.op.second = product{m: p.m, n: p.n, k: l.r, c: p.c, ldc: p.ldc, a: l.u, lda: l.r, w: l.v, transW: l.trans, alpha: l.alpha, beta: 1}
		b.multiplyPanels(&b.op.second)
	}
	if p.scale != nil {
		b.split(p.m, 1, float64(p.n)*0.2, args{p: p}, func(a *args, lo, hi, _ int) { a.b.scaleCols(a.p, lo, hi, 0, a.p.n) })
	}
}

// scaleCols multiplies the columns jlo..jhi of the rows lo..hi of c by scale.
func (b *Backend) scaleCols(p *product, lo, hi, jlo, jhi int) {
	for i := lo; i < hi; i++ {
		c := p.c[i*p.ldc+jlo : i*p.ldc+jhi]
		b.k.mul(c, c, p.scale[jlo:jhi], 1)
	}
}

// prescale turns c into beta*c, and beta into the 1 that then is left.
func (b *Backend) prescale(p *product) {
	b.split(p.m, 1, float64(p.n)*0.2, args{p: p}, func(a *args, lo, hi, _ int) {
		for i := lo; i < hi; i++ {
			c := a.p.c[i*a.p.ldc:][:a.p.n]
			if a.p.beta == 0 {
				clear(c)
			} else {
				a.b.k.scale(c, c, a.p.beta)
			}
		}
	})
	p.beta = 1
}

// panelDepth is the number of terms, or of pairs, of one pass over the panels:
// at most 384, so that a panel stays in the caches, equal parts of k, and whole
// blocks of stored weights.
func panelDepth(k int) int {
	n := (k + 383) / 384
	return ((k+n-1)/n + 31) / 32 * 32
}

// inPlace reports whether the rows of w are read where they lie.
func (p *product) inPlace() bool {
	return p.m <= smallM && p.transW && !p.transA && !p.w.half && !p.uniform && p.terms == nil
}

// fewRows reports whether p is one for the kernels of few rows, if there are any
// for its weight.
func (k *kernels) fewRows(p *product) bool {
	return p.m <= smallM && p.transW && !p.transA && !p.uniform && p.terms == nil && p.k > 0 && (!p.w.half || k.halfTile != nil)
}

// terms is the length of a row of n numbers: the number of pairs in half
// precision.
func (k *kernels) terms(n int, half bool) int {
	if half && k.halfTile != nil {
		return (n + 1) / 2
	}
	return n
}

// pieces returns how many rows and columns are multiplied at a time.
func (k *kernels) pieces(p *product, terms int, kept bool) (rows, cols int) {
	rows, cols = p.m, p.n
	if p.transA {
		rows = min(rows, max(packFloats/p.k/k.jobRows(), 1)*k.jobRows())
	}
	if !kept {
		cols = min(cols, max(packFloats/terms/jobCols, 1)*jobCols)
	}
	return rows, cols
}

// multiplyPanels packs both operands, a few megabytes at a time, and runs the
// tile kernel over them.
func (b *Backend) multiplyPanels(p *product) {
	half := p.w.half && !p.transA
	terms := b.k.terms(p.k, half)
	kept := b.keptPanels(p, terms, half)
	rows, cols := b.k.pieces(p, terms, kept.w != nil)
	for i := 0; i < p.m; i += rows {
		m := min(rows, p.m-i)
		l := b.left(p, i, m, terms, half)
		for j := 0; j < p.n; j += cols {
			n := min(cols, p.n-j)
			w := kept
			w.col += j
			if w.w == nil {
				b.op.packed = *b.k.newPanels(terms, n, half)
				w = section{w: &b.op.packed}
				w.w.data = grow(&b.shared.panels, max(packFloats, w.w.size()))[:w.w.size()]
				b.pack(w.w, &p.w, p.transW, j)
			}
			b.multiplyTiles(p, l, w, terms, i, m, j, n)
		}
	}
}

// left is the first operand: rows lie row apart and terms col apart; with a
// group, as many rows as a tile has lie together and the next ones group
// elements on.
type left struct {
	a               []float32
	row, col, group int
}

// left returns rows i..i+m of the first operand in the form that tiles read.
func (b *Backend) left(p *product, i, m, terms int, half bool) left {
	switch {
	case p.transA:
		return left{a: b.packLeft(p, i, m), row: 1, col: b.k.rows, group: b.k.rows * p.k}
	case half || p.terms != nil:
		return left{a: b.copyLeft(p, i, m, terms, half), row: terms, col: 1}
	default:
		return left{a: p.a[i*p.lda:], row: p.lda, col: 1}
	}
}

// at returns the first of n rows from i on, of a tile of at most rows rows,
// and how many of them lie at equal distances.
func (l *left) at(i, k, n, rows int) ([]float32, int) {
	if l.group > 0 {
		r := i % rows
		return l.a[i/rows*l.group+k*rows+r:], min(n, rows-r)
	}
	return l.a[i*l.row+k*l.col:], n
}

// tiles is a part of a product that is computed from panels: rows i0..i0+m and
// columns j0..j0+n of p.c.
type tiles struct {
	p            *product
	l            left
	w            section
	low          *panels // nil: none
	terms        int
	i0, m, j0, n int
	tile         tile
	rows         int // of a job
}

// multiplyTiles computes rows i0..i0+m and columns j0..j0+n of p.c.
func (b *Backend) multiplyTiles(p *product, l left, w section, terms, i0, m, j0, n int) {
	per, low := b.k.jobRows(), b.lowPanels(p, j0, n)
	nj := (n + jobCols - 1) / jobCols
	for per > 4*b.k.rows && (m+per-1)/per*nj < 3*b.pool.threads {
		per = (per/2 + b.k.rows - 1) / b.k.rows * b.k.rows
	}
	mj := (m + per - 1) / per
	tile := b.k.tile
	if w.w.half {
		tile = b.k.halfTile
	}
	b.op.tiles = tiles{p, l, w, low, terms, i0, m, j0, n, tile, per}
	cost := 2 * float64(m) * float64(n) * float64(p.k) / 50
	b.each(mj*nj, cost, args{}, func(a *args, job, _, _ int) { a.b.op.tiles.multiply(a.b, job) })
}

// multiply does one of the jobs, which go down the rows first.
func (t *tiles) multiply(b *Backend, job int) {
	p, l, w := t.p, &t.l, &t.w
	mj := (t.m + t.rows - 1) / t.rows
	ilo, jlo := job%mj*t.rows, job/mj*jobCols
	ihi, jhi := min(t.m, ilo+t.rows), min(t.n, jlo+jobCols)
	for k := 0; k < t.terms; k += w.w.depth {
		depth, add := min(w.w.depth, t.terms-k), k > 0 || p.beta != 0
		for j := jlo; j < jhi; j += b.k.cols {
			panel := w.w.at(w.col+j, w.term+k)
			for i, r := ilo, 0; i < ihi; i += r {
				a, near := l.at(i, k, ihi-i, b.k.rows)
				r = b.k.step(near)
				t.tile(r, min(b.k.cols, jhi-j), depth, a, l.row, l.col, panel, b.k.cols, p.c[(t.i0+i)*p.ldc+t.j0+j:], p.ldc, p.alpha, add)
			}
		}
	}
	for j := jlo; t.low != nil && j < jhi; j += b.k.cols {
		panel := t.low.at(j, 0)
		for i, r := ilo, 0; i < ihi; i += r {
			r = b.k.step(ihi - i)
			b.k.tile(r, min(b.k.cols, jhi-j), p.low.r, p.low.u[(t.i0+i)*p.low.r:], p.low.r, 1, panel, b.k.cols, p.c[(t.i0+i)*p.ldc+t.j0+j:], p.ldc, p.low.alpha, true)
		}
	}
	if p.scale != nil {
		b.scaleCols(p, t.i0+ilo, t.i0+ihi, t.j0+jlo, t.j0+jhi)
	}
}

// lowPanels packs the columns j.. of the second operand of the product of few
// terms, all of which are one pass; nil if there is none.
func (b *Backend) lowPanels(p *product, j, n int) *panels {
	if p.low == nil {
		return nil
	}
	w := &b.op.terms
	*w = *b.k.newPanels(p.low.r, n, false)
	w.depth = p.low.r
	w.data = grow(&b.shared.low, w.size())
	b.pack(w, &p.low.v, p.low.trans, j)
	return w
}
