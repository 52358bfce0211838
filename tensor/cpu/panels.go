package cpu

import "pipe/tensor"

// panels is the second operand of a product, [k,n], in the order in which the
// tile kernel reads it: passes of depth terms, in each panels of 16 columns,
// in each the rows. The last panel is filled with zeros.
type panels struct {
	k, n, depth int
	data        []float32
}

func newPanels(k, n int) *panels { return &panels{k: k, n: n, depth: panelDepth(k)} }

func (w *panels) size() int  { return w.k * w.padded() }
func (w *panels) bytes() int { return 4 * w.size() }

func (w *panels) padded() int { return (w.n + tileCols - 1) / tileCols * tileCols }

// at returns the panel of columns j.. and terms k..; k begins a pass and j is
// a multiple of 16.
func (w *panels) at(j, k int) []float32 {
	depth := min(w.depth, w.k-k)
	return w.data[k*w.padded()+j*depth:]
}

// keptPanels returns the panels of a frozen weight, making them if there is
// room; otherwise nil.
func (b *Backend) keptPanels(p *product) *panels {
	if p.w.weight == nil {
		return nil
	}
	which := 0
	if p.transW {
		which = 1
	}
	slot := &p.w.weight.panels[which]
	if *slot == nil && p.w.weight.keep {
		w := newPanels(p.k, p.n)
		if b.kept+w.bytes() <= b.maxKept {
			w.data = b.zeros(p.w.weight, w.size())
			b.pack(w, &p.w, p.transW, 0)
			b.kept += w.bytes()
			*slot = w
		}
	}
	return *slot
}

// pack fills w with the columns of op(o) from first on, a multiple of 256.
func (b *Backend) pack(w *panels, o *operand, trans bool, first int) {
	const strip = jobCols
	n := (w.n + strip - 1) / strip
	b.jobs(n, float64(w.size()), func(job, thread int) {
		lo := job * strip
		hi := min(w.n, lo+strip)
		if trans {
			b.packRows(w, o, first, lo, hi, thread)
		} else {
			b.packCols(w, o, first, lo, hi, thread)
		}
	})
}

// packRows packs columns lo..hi of w, which are rows of o.
func (b *Backend) packRows(w *panels, o *operand, first, lo, hi, thread int) {
	for j := lo; j < hi; j += tileCols {
		n := min(tileCols, hi-j)
		src, ld := o.f, o.ld
		at := (first + j) * ld
		if o.dt != tensor.F32 || n < tileCols {
			src, ld, at = grow(&b.work[thread].rows, tileCols*w.k), w.k, 0
			for r := range n {
				o.expandRow(b.k, src[r*ld:][:w.k], first+j+r, 0)
			}
			clear(src[n*ld : tileCols*ld])
		}
		for k := 0; k < w.k; k += w.depth {
			b.k.pack(min(w.depth, w.k-k), w.at(j, k), src[at+k:], ld)
		}
	}
}

// packCols packs columns lo..hi of w, which are columns of o.
func (b *Backend) packCols(w *panels, o *operand, first, lo, hi, thread int) {
	row := grow(&b.work[thread].rows, jobCols)
	clear(row)
	for k := 0; k < w.k; k += w.depth {
		depth := min(w.depth, w.k-k)
		for p := range depth {
			src := row
			if full := hi-lo == jobCols; full && o.dt == tensor.F32 {
				src = o.f[(k+p)*o.ld+first+lo:]
			} else {
				o.expandRow(b.k, row[:hi-lo], k+p, first+lo)
			}
			for j := lo; j < hi; j += tileCols {
				d := w.data[k*w.padded()+j*depth+p*tileCols:]
				*(*[tileCols]float32)(d) = *(*[tileCols]float32)(src[j-lo:])
			}
		}
	}
}

// leftSize is the size of m rows of k elements in groups.
func leftSize(m, k int) int { return (m + tileRows - 1) / tileRows * tileRows * k }

// packLeft returns rows i..i+m of the transpose of a [k,m] in groups of six:
// element (r, t) of a group lies at t*6+r.
func (b *Backend) packLeft(p *product, i, m int) []float32 {
	groups := (m + tileRows - 1) / tileRows
	dst := grow(&b.shared.rows, leftSize(m, p.k))
	b.split(groups, 1, float64(p.k*tileRows)*0.5, func(lo, hi, _ int) {
		for t := range p.k {
			src := p.a[t*p.lda+i:]
			for g := lo; g < hi; g++ {
				d := dst[(g*p.k+t)*tileRows:]
				if n := m - g*tileRows; n >= tileRows {
					*(*[tileRows]float32)(d) = *(*[tileRows]float32)(src[g*tileRows:])
				} else {
					copy(d[:n], src[g*tileRows:][:n])
				}
			}
		}
	})
	return dst
}
