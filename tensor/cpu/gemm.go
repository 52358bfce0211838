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
	weight *memory // whose panels may be kept
}

func (b *Backend) operand(op string, t *tensor.Tensor) operand {
	m := mem(op, t)
	rows, cols := matrix(op, t)
	o := operand{dt: t.DType, f: m.f32, raw: m.raw, ld: cols, rows: rows, cols: cols}
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

// slice returns rows lo..hi, which have no kept panels.
func (o operand) slice(lo, hi int) operand {
	if o.dt == tensor.F32 {
		o.f = o.f[lo*o.ld : hi*o.ld]
	} else {
		o.raw = o.raw[lo*o.ld : hi*o.ld]
	}
	o.rows, o.weight = hi-lo, nil
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

// product is c [m,n] = alpha*op(a)·op(w) + beta*c with row distances.
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
}

const (
	smallM     = 16      // up to here, weights stored [n,k] are read in place
	packFloats = 1 << 20 // panels made at a time, of each operand
	jobRows    = 192
	jobCols    = 256
)

// MatMul implements [tensor.Linear].
func (b *Backend) MatMul(dst, a, w *tensor.Tensor, o tensor.MatMul) {
	const op = "matmul"
	c, x, wo := output(op, dst), input(op, a), b.operand(op, w)
	m, k := matrix(op, a)
	p := product{m: m, k: k, c: c, a: x, lda: k, transA: o.TransA, w: wo, transW: o.TransB, alpha: o.Alpha, beta: o.Beta}
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
	if b.err == nil {
		b.multiply(&p)
	}
}

func (b *Backend) multiply(p *product) {
	if p.m == 0 || p.n == 0 {
		return
	}
	if p.k == 0 || p.beta != 0 && p.beta != 1 {
		b.prescale(p)
	}
	switch {
	case p.k == 0:
	case p.inPlace():
		b.multiplyRows(p)
	default:
		b.multiplyPanels(p)
	}
}

// prescale turns c into beta*c, and beta into the 1 that then is left.
func (b *Backend) prescale(p *product) {
	b.split(p.m, 1, float64(p.n)*0.2, func(lo, hi, _ int) {
		for i := lo; i < hi; i++ {
			c := p.c[i*p.ldc:][:p.n]
			if p.beta == 0 {
				clear(c)
			} else {
				b.k.scale(c, c, p.beta)
			}
		}
	})
	p.beta = 1
}

// panelDepth is the number of terms of one pass over the panels: at most 384,
// so that a panel stays in the first-level cache, and equal parts of k.
func panelDepth(k int) int {
	n := (k + 383) / 384
	return ((k+n-1)/n + 7) / 8 * 8
}

// inPlace reports whether the rows of w are read where they lie.
func (p *product) inPlace() bool { return p.m <= smallM && p.transW && !p.transA }

// pieces returns how many rows and columns are multiplied at a time.
func (p *product) pieces(kept bool) (rows, cols int) {
	rows, cols = p.m, p.n
	if p.transA {
		rows = min(rows, max(packFloats/p.k/jobRows, 1)*jobRows)
	}
	if !kept {
		cols = min(cols, max(packFloats/p.k/jobCols, 1)*jobCols)
	}
	return rows, cols
}

// multiplyPanels packs both operands, a few megabytes at a time, and runs the
// tile kernel over them.
func (b *Backend) multiplyPanels(p *product) {
	kept := b.keptPanels(p)
	rows, cols := p.pieces(kept != nil)
	for i := 0; i < p.m; i += rows {
		m := min(rows, p.m-i)
		var l left
		if p.transA {
			l = left{a: b.packLeft(p, i, m), row: 1, col: tileRows, group: p.k}
		} else {
			l = left{a: p.a[i*p.lda:], row: p.lda, col: 1}
		}
		for j := 0; j < p.n; j += cols {
			n := min(cols, p.n-j)
			w := kept
			if w == nil {
				w = newPanels(p.k, n)
				w.data = grow(&b.shared.panels, max(packFloats, w.size()))[:w.size()]
				b.pack(w, &p.w, p.transW, j)
			}
			b.multiplyTiles(p, l, w, i, m, j, n)
		}
	}
}

// left is the first operand: rows lie row apart and terms col apart; with a
// group, six rows lie together and the next six group*6 elements on.
type left struct {
	a               []float32
	row, col, group int
}

func (l *left) at(i, k int) []float32 {
	if l.group > 0 {
		return l.a[i*l.group+k*tileRows:]
	}
	return l.a[i*l.row+k*l.col:]
}

// multiplyTiles computes rows i0..i0+m and columns j0..j0+n of p.c.
func (b *Backend) multiplyTiles(p *product, l left, w *panels, i0, m, j0, n int) {
	mj, nj := (m+jobRows-1)/jobRows, (n+jobCols-1)/jobCols
	job := func(job, thread int) {
		ilo, jlo := job%mj*jobRows, job/mj*jobCols
		ihi, jhi := min(m, ilo+jobRows), min(n, jlo+jobCols)
		edge := grow(&b.work[thread].rows, tileRows*tileCols)
		for k := 0; k < p.k; k += w.depth {
			depth, add := min(w.depth, p.k-k), k > 0 || p.beta != 0
			for j := jlo; j < jhi; j += tileCols {
				panel := w.at(j, k)
				for i := ilo; i < ihi; i += tileRows {
					r := min(tileRows, ihi-i)
					c := p.c[(i0+i)*p.ldc+j0+j:]
					if j+tileCols <= n {
						b.k.tile(r, depth, l.at(i, k), l.row, l.col, panel, tileCols, c, p.ldc, p.alpha, add)
						continue
					}
					b.k.tile(r, depth, l.at(i, k), l.row, l.col, panel, tileCols, edge, tileCols, p.alpha, false)
					for ; r > 0; r-- {
						store(c[(r-1)*p.ldc:][:n-j], edge[(r-1)*tileCols:], add)
					}
				}
			}
		}
	}
	b.jobs(mj*nj, 2*float64(m)*float64(n)*float64(p.k)/50, job)
}

// jobs runs n jobs that together take the given nanoseconds.
func (b *Backend) jobs(n int, cost float64, job func(job, thread int)) {
	if cost > oneThread {
		b.pool.run(n, job)
		return
	}
	for i := range n {
		job(i, 0)
	}
}

func store(c, s []float32, add bool) {
	for j := range c {
		if add {
			c[j] += s[j]
		} else {
			c[j] = s[j]
		}
	}
}
