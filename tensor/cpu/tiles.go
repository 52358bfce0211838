package cpu

// pieces returns how many rows and columns of each of n products are multiplied
// at a time.
func (k *kernels) pieces(p *product, n, terms int, kept bool) (rows, cols int) {
	rows, cols = p.m, p.n
	if p.transA {
		rows = min(rows, max(packFloats/p.k/k.jobRows(), 1)*k.jobRows())
	}
	if !kept {
		cols = min(cols, max(packFloats/n/terms/jobCols, 1)*jobCols)
	}
	return rows, cols
}

// multiplyPanels computes products with one first operand and one precision: it
// packs all operands, a few megabytes at a time, and runs the tile kernel over
// them. With glu it sets that [m,n] to the SwiGLU of two products.
func (b *Backend) multiplyPanels(ps []product, glu []float32) {
	p := &ps[0]
	half := p.halved()
	terms := b.k.terms(p.k, half)
	clear(b.op.tiles[:]) // they hold scratch of before, which may grow
	clear(b.op.packed[:])
	for q := range ps {
		if p := &ps[q]; p.eight() && !p.transW {
			p.w.scales = b.scalesOf(&p.w)
		}
	}
	var kept [mostProducts]section
	for q := range ps {
		kept[q] = b.keptPanels(&ps[q], terms, half)
	}
	rows, _ := b.k.pieces(p, 1, terms, true)
	for i := 0; i < p.m; i += rows {
		m := min(rows, p.m-i)
		l := b.left(p, i, m, terms, half)
		if glu != nil {
			b.multiplyColumns(ps, kept[:len(ps)], &l, terms, i, m, glu)
			continue
		}
		for q := range ps {
			b.multiplyColumns(ps[q:q+1], kept[q:q+1], &l, terms, i, m, nil)
		}
	}
	for q := range ps {
		if p := &ps[q]; !p.inBlocks(jobCols) {
			b.finishAll(p)
		}
	}
}

// multiplyColumns computes the rows i0..i0+m of one product, or of the two of
// glu.
func (b *Backend) multiplyColumns(ps []product, kept []section, l *left, terms, i0, m int, glu []float32) {
	all := true
	for _, s := range kept {
		all = all && s.w != nil
	}
	half := ps[0].halved()
	_, cols := b.k.pieces(&ps[0], len(ps), terms, all)
	for j := 0; j < ps[0].n; j += cols {
		n, at, low := min(cols, ps[0].n-j), 0, 0
		for q := range ps {
			w := kept[q]
			w.col += j
			if w.w == nil {
				b.op.packed[q] = *b.k.newPanels(terms, n, half)
				b.op.packed[q].eight = ps[q].eight()
				w = section{w: &b.op.packed[q]}
				size := w.w.size()
				w.w.data = grow(&b.shared.panels, max(packFloats, at+size))[at:][:size]
				at += size
				b.pack(w.w, &ps[q].w, ps[q].transW, j)
			}
			t := &b.op.tiles[q]
			*t = tiles{p: &ps[q], l: *l, w: w, terms: terms, i0: i0, m: m, j0: j, n: n, tile: b.k.tile}
			if w.w.half {
				t.tile = b.k.halfTile
			}
			t.low, low = b.lowPanels(q, low, &ps[q], j, n)
		}
		if glu != nil {
			b.op.tiles[0].also, b.op.tiles[0].glu = &b.op.tiles[1], glu
		}
		b.multiplyTiles(&b.op.tiles[0], float64(len(ps)))
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
	case half:
		return left{a: b.copyLeft(p, i, m, terms), row: terms, col: 1}
	case p.eight():
		return left{a: b.eightLeft(p, i, m), row: p.k, col: 1}
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
	rows         int       // of a job
	also         *tiles    // of the product whose blocks are computed together with p's; nil: none
	glu          []float32 // what is made of both: silu(p.c) ⊙ also.p.c
}

// multiplyTiles computes what t says, of so many products.
func (b *Backend) multiplyTiles(t *tiles, products float64) {
	per := b.k.jobRows()
	nj := (t.n + jobCols - 1) / jobCols
	for per > 4*b.k.rows && (t.m+per-1)/per*nj < 3*b.pool.threads {
		per = (per/2 + b.k.rows - 1) / b.k.rows * b.k.rows
	}
	t.rows = per
	cost := products * 2 * float64(t.m) * float64(t.n) * float64(t.p.k) / 50
	b.each((t.m+per-1)/per*nj, cost, args{}, func(a *args, job, _, _ int) { a.b.op.tiles[0].multiply(a.b, job) })
}

// multiply does one of the jobs, which go down the rows first.
func (t *tiles) multiply(b *Backend, job int) {
	mj := (t.m + t.rows - 1) / t.rows
	ilo, jlo := job%mj*t.rows, job/mj*jobCols
	ihi, jhi := min(t.m, ilo+t.rows), min(t.n, jlo+jobCols)
	t.block(b, ilo, ihi, jlo, jhi)
	if t.also == nil {
		return
	}
	t.also.block(b, ilo, ihi, jlo, jhi)
	for i := t.i0 + ilo; i < t.i0+ihi; i++ {
		lo, hi := i*t.p.n+t.j0+jlo, i*t.p.n+t.j0+jhi
		b.k.swiglu(t.glu[lo:hi], t.p.c[lo:hi], t.also.p.c[lo:hi])
	}
}

// block computes the rows ilo..ihi and the columns jlo..jhi of t.
func (t *tiles) block(b *Backend, ilo, ihi, jlo, jhi int) {
	p, l, w := t.p, &t.l, &t.w
	for k := 0; k < t.terms; k += w.w.depth {
		depth, add := min(w.w.depth, t.terms-k), k > 0 || p.beta != 0
		size, part := 4*depth*b.k.cols, 1+(ihi-ilo)/b.k.rows
		for j := jlo; j < jhi; j += b.k.cols {
			panel := w.w.at(w.col+j, w.term+k)
			next := ahead{at: size, by: 16 * b.k.cols / part}
			for i, r := ilo, 0; i < ihi; i += r {
				a, near := l.at(i, k, ihi-i, b.k.rows)
				r = b.k.step(near)
				t.tile(r, min(b.k.cols, jhi-j), depth, a, l.row, l.col, panel, b.k.cols, p.c[(t.i0+i)*p.ldc+t.j0+j:], p.ldc, p.alpha, add, next)
				next.at += size / part
			}
		}
	}
	for j := jlo; t.low != nil && j < jhi; j += b.k.cols {
		panel := t.low.at(j, 0)
		for i, r := ilo, 0; i < ihi; i += r {
			r = b.k.step(ihi - i)
			b.k.tile(r, min(b.k.cols, jhi-j), p.low.r, p.low.u[(t.i0+i)*p.low.r:], p.low.r, 1, panel, b.k.cols, p.c[(t.i0+i)*p.ldc+t.j0+j:], p.ldc, p.low.alpha, true, ahead{})
		}
	}
	if p.follows() && p.inBlocks(jobCols) {
		b.finish(p, t.i0+ilo, t.i0+ihi, t.j0+jlo, t.j0+jhi)
	}
}

// lowPanels packs the columns j.. of the second operand of the product of few
// terms of product q, all of which are one pass; nil if there is none. They lie
// behind the used elements, whose number it returns too.
func (b *Backend) lowPanels(q, used int, p *product, j, n int) (*panels, int) {
	if p.low == nil {
		return nil, used
	}
	w := &b.op.terms[q]
	*w = *b.k.newPanels(p.low.r, n, false)
	w.depth = p.low.r
	size := w.size()
	w.data = grow(&b.shared.low, used+size)[used:][:size]
	b.pack(w, &p.low.v, p.low.trans, j)
	return w, used + size
}
