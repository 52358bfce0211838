package cpu

import "pipe/tensor"

// A stored is a frozen weight [n,k] arranged for products with few rows: panels
// of 16 of its rows, in each blocks of 32 terms, in each the scales (and the
// minima) of the 16 rows and their terms, one row beside the other. It takes the
// memory of the weight again, and the elements that the kernels make of it are
// those of the weight, to the bit.
//
// Sums are the chains of the tile kernels, pass by pass: a row of a product has
// the same bits alone, with others, and in a product of many rows.
type stored struct {
	f      *fewFormat
	n, k   int
	panel  int // bytes of a panel
	data   []byte
	blocks int // of a panel
}

// fewFormat is how a type is arranged, and its kernels.
type fewFormat struct {
	block   int // bytes of 32 terms of 16 rows
	arrange func(dst []byte, src [][]byte)
	kernels [2][5]fewKernel // f32 and bfloat16, of 1, 2, 4, 8 and 16 rows
}

// A fewKernel computes c [rows, 16·panels] = alpha*x·w, or adds it: x [terms,
// rows], or pairs of terms, for blocks of 32 terms; the panels of w lie panel
// bytes apart.
type fewKernel func(blocks int, x *float32, w *byte, panel int, c *float32, cr, mask, add int, alpha float32)

// fewPanels are the panels that a kernel of so many rows reads side by side.
var fewPanels = [5]int{4, 4, 2, 1, 1}

const fewGroup = 4 // the panels of a weight are a multiple of this

// storedPanels returns the arranged weight of a product and the first of its
// rows that the product reads; nil when there is no kernel for it.
func (b *Backend) storedPanels(p *product) (*stored, int) {
	o := &p.w
	if o.weight == nil || !o.weight.keep || o.first%(16*fewGroup) != 0 || !b.k.arranges(o.dt, o.cols) {
		return nil, 0
	}
	if o.weight.few == nil {
		f := b.k.few(o.dt)
		s := &stored{f: f, n: o.weight.rows, k: o.cols, blocks: o.cols / 32, panel: o.cols / 32 * f.block}
		s.data = b.zeroBytes(o.weight, arrangedBytes(f, s.n, s.k))
		b.arrange(s, o)
		o.weight.few = s
	}
	return o.weight.few, o.first
}

// arranges reports whether there are kernels for few rows and weights of that
// type with k columns.
func (k *kernels) arranges(dt tensor.DType, cols int) bool {
	return k.few != nil && cols%32 == 0 && k.few(dt) != nil
}

// arrangedBytes is the size of a weight [n,k] that is arranged.
func arrangedBytes(f *fewFormat, n, k int) int {
	return (n + 16*fewGroup - 1) / (16 * fewGroup) * fewGroup * (k / 32) * f.block
}

// fewSize is the number of rows that the kernels take for those of p.
func (p *product) fewSize() int {
	rows := 1
	for rows < p.m {
		rows *= 2
	}
	return rows
}

// arrange fills s from the whole weight of o.
func (b *Backend) arrange(s *stored, o *operand) {
	bytes := o.dt.Bytes(o.dt.Block()) * max(1, 32/o.dt.Block())
	step := max(1, o.dt.Block()/32) // blocks of 32 terms of a stored block
	b.split((s.n+15)/16, 1, float64(16*s.k), func(lo, hi, _ int) {
		rows := make([][]byte, 16)
		for p := lo; p < hi; p++ {
			for i := 0; i < s.blocks; i += step {
				for r := range rows {
					rows[r] = nil
					if j := 16*p + r; j < s.n {
						rows[r] = o.weight.raw[j*o.ld+i/step*bytes:][:bytes]
					}
				}
				s.f.arrange(s.data[p*s.panel+i*s.f.block:][:step*s.f.block], rows)
			}
		}
	})
}

// multiplyFew computes a product of at most 16 rows with an arranged weight.
func (b *Backend) multiplyFew(p *product, s *stored, first int) {
	size := 0
	for 1<<size < p.m {
		size++
	}
	rows, panels := 1<<size, fewPanels[size]
	terms, perBlock, precision := p.k, 32, 0
	if p.w.half {
		terms, perBlock, precision = p.k/2, 16, 1
	}
	x := b.fewLeft(p, rows, terms)
	kernel, depth := s.f.kernels[precision][size], panelDepth(terms)
	group := 16 * panels
	groups := (p.n + group - 1) / group
	unit := float64(p.k*group) * (0.06 + 0.01*float64(rows))
	b.split(groups, 1, unit, func(lo, hi, thread int) {
		tmp := grow(&b.work[thread].rows, rows*group)
		for g := lo; g < hi; g++ {
			j := g * group
			n := min(group, p.n-j)
			c, ldc := p.c[j:], p.ldc
			if rows != p.m {
				c, ldc = tmp, group
				for i := 0; p.beta != 0 && i < p.m; i++ {
					copy(tmp[i*group:][:n], p.c[i*p.ldc+j:])
				}
			}
			w := s.data[(first+j)/16*s.panel:]
			_, _ = c[(rows-1)*ldc+n-1], w[panels*s.panel-1]
			for k := 0; k < terms; k += depth {
				blocks, add := min(depth, terms-k)/perBlock, 0
				if k > 0 || p.beta != 0 {
					add = 1
				}
				kernel(blocks, &x[k*rows], &w[k/perBlock*s.f.block], s.panel, &c[0], 4*ldc, int(uint64(1)<<n-1), add, p.alpha)
			}
			for i := 0; rows != p.m && i < p.m; i++ {
				copy(p.c[i*p.ldc+j:][:n], tmp[i*group:])
			}
		}
	})
}

// fewLeft returns the first operand as [terms, rows], pairs of bfloat16 if the
// weight has that precision; rows beyond those of p are zero.
func (b *Backend) fewLeft(p *product, rows, terms int) []float32 {
	buf := grow(&b.shared.rows, 2*rows*terms)
	x, flat := buf[:rows*terms], buf[rows*terms:]
	src, ld := p.a, p.lda
	if p.w.half || rows == packRows && p.m < rows {
		src, ld = flat, terms
		for i := range p.m {
			if row := p.a[i*p.lda:][:p.k]; p.w.half {
				b.k.halves(flat[i*terms:][:terms], row)
			} else {
				copy(flat[i*terms:], row)
			}
		}
		clear(flat[p.m*terms:])
	}
	switch {
	case rows == packRows:
		b.k.pack(terms, x, rows, src, ld)
	case rows == 1:
		copy(x, src[:terms])
	default:
		if p.m < rows {
			clear(x)
		}
		for i := range p.m {
			for t, v := range src[i*ld:][:terms] {
				x[t*rows+i] = v
			}
		}
	}
	return x
}

// arrangeNibbles arranges blocks of 32 codes of 4 bits behind head bytes, of
// which byte j holds codes j and j+16: eight of a row lie in 32 bits.
func arrangeNibbles(head int) func(dst []byte, src [][]byte) {
	return func(dst []byte, src [][]byte) {
		for r, row := range src {
			if row == nil {
				continue
			}
			for h := 0; h < head; h += 2 {
				copy(dst[16*h+2*r:][:2], row[h:])
			}
			codes := row[head:]
			at := func(k int) byte { return codes[k&15] >> (k >> 4 << 2) & 15 }
			for pair := range 16 {
				dst[16*head+pair/4*64+4*r+pair%4] = at(2*pair) | at(2*pair+1)<<4
			}
		}
	}
}

// arrangeNF4 arranges a block of 64 codes, whose first is in the high half of
// its byte, as two of 32.
func arrangeNF4(dst []byte, src [][]byte) {
	for r, row := range src {
		if row == nil {
			continue
		}
		for block := range 2 {
			d := dst[block*320:]
			copy(d[4*r:][:4], row)
			for pair := range 16 {
				c := row[4+16*block+pair]
				d[64+pair/4*64+4*r+pair%4] = c>>4 | c<<4
			}
		}
	}
}

func arrangeQ8_0(dst []byte, src [][]byte) {
	for r, row := range src {
		if row == nil {
			continue
		}
		copy(dst[2*r:][:2], row)
		for k := range 32 {
			dst[32+16*k+r] = row[2+k]
		}
	}
}

func arrangeBF16(dst []byte, src [][]byte) {
	for r, row := range src {
		for pair := range 16 {
			if row != nil {
				copy(dst[64*pair+4*r:][:4], row[4*pair:])
			}
		}
	}
}
