package cpu

import (
	"unsafe"

	"pipe/tensor"
)

// panels is the second operand of a product, [k,n], in the order in which the
// tile kernel reads it: passes of depth terms, in each panels of as many columns
// as a tile has, in each the rows. What is missing in the last panel is zero. A
// term is a number or, in half panels, a pair of bfloat16 numbers.
type panels struct {
	k, n, depth, cols int
	half              bool // terms are pairs
	round             bool // numbers are rounded to bfloat16,
	eight             bool // or to 8 bits
	data              []float32
}

// newPanels returns panels of so many terms without memory. Half panels hold
// pairs where there is a kernel for them, and rounded numbers elsewhere.
func (k *kernels) newPanels(terms, n int, half bool) *panels {
	pairs := half && k.halfTile != nil
	return &panels{k: terms, n: n, depth: panelDepth(terms), cols: k.cols, half: pairs, round: half && !pairs}
}

func (w *panels) size() int  { return w.k * w.padded() }
func (w *panels) bytes() int { return 4 * w.size() }

func (w *panels) padded() int { return (w.n + w.cols - 1) / w.cols * w.cols }

// at returns the panel of columns j.. and terms k..; k lies in a pass and j
// begins a panel.
func (w *panels) at(j, k int) []float32 {
	pass := k / w.depth * w.depth
	depth := min(w.depth, w.k-pass)
	return w.data[pass*w.padded()+j*depth+(k-pass)*w.cols:]
}

// A section is panels from a column and a term on.
type section struct {
	w         *panels
	col, term int
}

// keptPanels returns the panels of a frozen weight, making them if there is
// room; otherwise none.
func (b *Backend) keptPanels(p *product, terms int, half bool) section {
	o := &p.w
	if o.weight == nil {
		return section{}
	}
	which, rows, eight := 0, o.weight.rows, p.eight()
	s := section{term: o.first}
	if half && b.k.halfTile != nil {
		s.term /= 2
	}
	all := operand{dt: o.dt, f: o.weight.f32, raw: o.weight.raw, ld: o.ld, rows: rows, cols: o.cols, scales: o.weight.scales}
	k, n := rows, o.cols
	if p.transW {
		which, k, n = 1, o.cols, rows
		s = section{col: o.first}
	}
	k = b.k.terms(k, half)
	if eight {
		which += 2
	}
	slot := &o.weight.panels[which]
	if *slot == nil && o.weight.keep {
		w := b.k.newPanels(k, n, half)
		w.eight = eight
		if b.kept+w.bytes() <= b.maxKept {
			w.data = b.zeros(o.weight, w.size())
			b.pack(w, &all, p.transW, 0)
			b.kept += w.bytes()
			*slot = w
			o.weight.arranged()
		}
	}
	if s.w = *slot; s.w == nil || s.col%s.w.cols != 0 || s.term%s.w.depth != 0 || !p.transW && half && o.first%2 != 0 {
		return section{}
	}
	return s
}

// pack fills w with the columns of op(o) from first on, a multiple of 256.
func (b *Backend) pack(w *panels, o *operand, trans bool, first int) {
	n := (w.n + jobCols - 1) / jobCols
	b.each(n, float64(w.size()), args{panels: w, o: *o, first: first, on: trans}, func(a *args, job, _, thread int) {
		lo := job * jobCols
		hi := min(a.panels.n, lo+jobCols)
		if a.on {
			a.b.packRows(a.panels, &a.o, a.first, lo, hi, thread)
		} else {
			a.b.packCols(a.panels, &a.o, a.first, lo, hi, thread)
		}
	})
}

// packRows packs columns lo..hi of w, which are rows of o.
func (b *Backend) packRows(w *panels, o *operand, first, lo, hi, thread int) {
	end := (hi + w.cols - 1) / w.cols * w.cols
	for j := lo; j < end; j += packRows {
		n := max(0, min(packRows, hi-j))
		src, ld := b.packSource(w, o, first+j, n, thread)
		panel := j / w.cols * w.cols
		for k := 0; k < w.k; k += w.depth {
			depth := min(w.depth, w.k-k)
			b.k.pack(depth, w.data[k*w.padded()+panel*depth+j-panel:], w.cols, src[k:], ld)
		}
	}
}

// packSource returns 16 rows of terms, of which n are rows of o from row r on
// and the others zeros, in place if they are stored as w has them.
func (b *Backend) packSource(w *panels, o *operand, r, n, thread int) (src []float32, ld int) {
	if n == packRows {
		switch {
		case o.dt == tensor.F32 && !w.half && !w.round && !w.eight:
			return o.f[r*o.ld:], o.ld
		case o.dt == tensor.BF16 && w.half && o.cols%2 == 0:
			raw := o.raw[r*o.ld:]
			if p := unsafe.Pointer(unsafe.SliceData(raw)); uintptr(p)%4 == 0 {
				return unsafe.Slice((*float32)(p), len(raw)/4), o.ld / 4
			}
		}
	}
	src, ld = grow(&b.work[thread].rows, packRows*w.k), w.k
	row := grow(&b.work[thread].row, o.cols)
	for i := range n {
		dst := src[i*ld:][:ld]
		if !w.half {
			o.expandRow(b.k, dst, r+i, 0)
			if w.round {
				b.k.round(dst, dst)
			} else if w.eight {
				roundEight(dst, dst, nil)
			}
			continue
		}
		o.expandRow(b.k, row, r+i, 0)
		b.k.halves(dst, row)
	}
	clear(src[n*ld:])
	return src, ld
}

// packCols packs columns lo..hi of w, which are columns of o.
func (b *Backend) packCols(w *panels, o *operand, first, lo, hi, thread int) {
	n := hi - lo
	buf := grow(&b.work[thread].row, 3*jobCols)
	clear(buf)
	row, low, high := buf[:jobCols], buf[jobCols:2*jobCols], buf[2*jobCols:]
	for k := 0; k < w.k; k += w.depth {
		depth := min(w.depth, w.k-k)
		for p := range depth {
			src := row
			switch full := n == jobCols; {
			case w.half:
				o.expandRow(b.k, low[:n], 2*(k+p), first+lo)
				if 2*(k+p)+1 < o.rows {
					o.expandRow(b.k, high[:n], 2*(k+p)+1, first+lo)
				} else {
					clear(high)
				}
				b.k.halfPairs(row[:n], low[:n], high[:n])
			case full && o.dt == tensor.F32 && !w.round && !w.eight:
				src = o.f[(k+p)*o.ld+first+lo:]
			default:
				o.expandRow(b.k, row[:n], k+p, first+lo)
				if w.round {
					b.k.round(row[:n], row[:n])
				} else if w.eight {
					roundTo(row[:n], row[:n], o.scales[k+p])
				}
			}
			for j := lo; j < hi; j += w.cols {
				copy(w.data[k*w.padded()+j*depth+p*w.cols:][:w.cols], src[j-lo:])
			}
		}
	}
}

// leftSize is the size of m rows of n elements in groups.
func (k *kernels) leftSize(m, n int) int { return (m + k.rows - 1) / k.rows * k.rows * n }

// packLeft returns rows i..i+m of the transpose of a [k,m] in groups of as many
// as a tile has: element (r, t) of a group lies at t*rows+r.
func (b *Backend) packLeft(p *product, i, m int) []float32 {
	rows := b.k.rows
	groups := (m + rows - 1) / rows
	dst := grow(&b.shared.rows, b.k.leftSize(m, p.k))
	b.split(groups, 1, float64(p.k*rows)*0.5, args{p: p, dst: dst, first: i, rows: m}, func(a *args, lo, hi, _ int) {
		p, rows := a.p, a.b.k.rows
		for t := range p.k {
			src := p.a[t*p.lda+a.first:]
			for g := lo; g < hi; g++ {
				d := a.dst[(g*p.k+t)*rows:]
				copy(d[:min(rows, a.rows-g*rows)], src[g*rows:])
			}
		}
	})
	return dst
}

// copyLeft returns rows i..i+m of a in half precision: pairs of bfloat16, or
// numbers rounded to it where there is no kernel for pairs.
func (b *Backend) copyLeft(p *product, i, m, terms int) []float32 {
	dst := grow(&b.shared.rows, m*terms)
	b.split(m, 1, float64(p.k)*0.1, args{p: p, dst: dst, first: i, cols: terms}, func(a *args, lo, hi, _ int) {
		b, p := a.b, a.p
		for r := lo; r < hi; r++ {
			d, src := a.dst[r*a.cols:][:a.cols], p.a[(a.first+r)*p.lda:][:p.k]
			if b.k.halfTile != nil {
				b.k.halves(d, src)
			} else {
				b.k.round(d, src)
			}
		}
	})
	return dst
}
