package cpu

import (
	"encoding/binary"

	"pipe/tensor"
)

// A stored is a frozen weight [n,k] arranged for products with few rows: panels
// of 16 of its rows, in each blocks of 32 terms, in each the scales (and the
// minima) of the 16 rows and their terms, one row beside the other. It takes the
// memory of the weight again.
//
// The sum of a block is formed of codes and scaled once, all blocks in one
// chain: a row of a product has the same bits alone and with others. Codes of 4
// and 8 bits are exact in bfloat16 (those of NF4 are rounded), so that this
// precision rounds nothing but the other operand.
type stored struct {
	f     *fewFormat
	n, k  int
	panel int // bytes of a panel
	data  []byte
}

// fewFormat is how a type is arranged, and its kernels.
type fewFormat struct {
	block   int // bytes of 32 terms of 16 rows
	minimum bool
	arrange func(dst []byte, src [][]byte)
	kernels [2][4]fewKernel // f32 and bfloat16, of 1, 2, 4 and 8 rows
}

// A fewKernel computes c [rows, 16·panels] = alpha*x·w, or adds it: x [terms,
// rows], or pairs of terms, for blocks of 32 terms, and with minima the sums
// [blocks, rows] of their terms; the panels of w lie panel bytes apart.
type fewKernel func(blocks int, x, sums *float32, w *byte, panel int, c *float32, cr, mask, add int, alpha float32)

// fewPanels are the panels that a kernel of 1, 2, 4 and 8 rows reads side by
// side.
var fewPanels = [4]int{4, 4, 2, 1}

const (
	fewGroup = 4 // the panels of a weight are a multiple of this
	fewMost  = 8 // rows of a kernel
)

// storedPanels returns the arranged weight of a product and the first of its
// rows that the product reads; nil when there is no kernel for it.
func (b *Backend) storedPanels(p *product) (*stored, int) {
	o := &p.w
	if o.weight == nil || !o.weight.keep || o.first%(16*fewGroup) != 0 || !b.k.arranges(o.dt, o.cols) {
		return nil, 0
	}
	if o.weight.few == nil {
		f := b.k.few(o.dt)
		s := &stored{f: f, n: o.weight.rows, k: o.cols, panel: o.cols / 32 * f.block}
		s.data = b.zeroBytes(o.weight, arrangedBytes(f, s.n, s.k))
		b.arrange(s, o)
		o.weight.few = s
		o.weight.arranged()
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

// arrange fills s from the whole weight of o.
func (b *Backend) arrange(s *stored, o *operand) {
	bytes := o.dt.Bytes(o.dt.Block()) * max(1, 32/o.dt.Block())
	step := max(1, o.dt.Block()/32)                                                 // blocks of 32 terms of a stored block
	b.split((s.n+15)/16, 1, float64(16*s.k), args{}, func(_ *args, lo, hi, _ int) { // once: it may capture
		rows := make([][]byte, 16)
		for p := lo; p < hi; p++ {
			for i := 0; i < s.k/32; i += step {
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

// A fewPart is some rows of products with a kernel for so many.
type fewPart struct {
	first, m, rows, size int // rows of the products, and of the kernel: 1 << size
	x, sums              []float32
}

// fewParts are the rows of products with arranged weights and one first operand.
type fewParts struct {
	ps      []product
	weights [mostProducts]fewWeight
	parts   [(smallM + fewMost - 1) / fewMost]fewPart
	n       int       // of parts
	unit    int       // columns of a job
	glu     []float32 // see Backend.multiplyPanels
}

// A fewWeight is the rows of s from first on.
type fewWeight struct {
	s     *stored
	first int
	end   int // number of the job after the last one of the product
}

// multiplyFew computes products of at most 16 rows with arranged weights, with
// one first operand and one precision, and reports whether it can.
func (b *Backend) multiplyFew(ps []product, glu []float32) bool {
	few := &b.op.few
	*few = fewParts{ps: ps, glu: glu, unit: 16 * fewGroup}
	jobs, minimum := 0, false
	for q := range ps {
		p, w := &ps[q], &few.weights[q]
		if !b.k.fewRows(p) {
			return false
		}
		if w.s, w.first = b.storedPanels(p); w.s == nil {
			return false
		}
		minimum = minimum || w.s.f.minimum
		if p.low == nil && p.turn%few.unit == 0 {
			few.unit = max(few.unit, p.turn)
		}
	}
	for q := range ps {
		if q == 0 || glu == nil {
			jobs += (ps[q].n + few.unit - 1) / few.unit
		}
		few.weights[q].end = jobs
	}
	p := &ps[0]
	terms := b.k.terms(p.k, p.w.half)
	buf := grow(&b.shared.rows, fewScratch(p.m, p.k))
	for i := 0; i < p.m; i += fewMost {
		f := &few.parts[few.n]
		few.n++
		*f = fewPart{first: i, m: min(fewMost, p.m-i), rows: 1}
		for f.rows < f.m {
			f.rows *= 2
			f.size++
		}
		f.x, buf = buf[:terms*f.rows], buf[terms*f.rows:]
		f.sums, buf = buf[:p.k/32*f.rows], buf[p.k/32*f.rows:]
		b.fewLeft(p, f, buf, minimum)
	}
	cost := float64(few.unit*p.k) * (0.05 + 0.01*float64(p.m))
	if glu != nil {
		cost *= 2
	}
	b.split(jobs, 1, cost, args{}, func(a *args, lo, hi, thread int) {
		tmp := grow(&a.b.work[thread].rows, fewMost*16*fewGroup)
		for job := lo; job < hi; job++ {
			a.b.op.few.multiply(a.b, job, tmp)
		}
	})
	return true
}

// finishes reports whether the job that computes columns of p also finishes
// them: nothing is added to them later, and heads are in it as a whole.
func (f *fewParts) finishes(p *product) bool { return p.low == nil && p.inBlocks(f.unit) }

// multiply does one of the jobs.
func (f *fewParts) multiply(b *Backend, job int, tmp []float32) {
	q, begin := 0, 0
	for f.glu == nil && job >= f.weights[q].end {
		begin = f.weights[q].end
		q++
	}
	lo := (job - begin) * f.unit
	hi := min(lo+f.unit, f.ps[q].n)
	f.columns(b, q, lo, hi, tmp)
	if f.glu == nil {
		return
	}
	f.columns(b, 1, lo, hi, tmp)
	gate, up := &f.ps[0], &f.ps[1]
	for i := range gate.m {
		lo, hi := i*gate.n+lo, i*gate.n+hi
		b.k.swiglu(f.glu[lo:hi], gate.c[lo:hi], up.c[lo:hi])
	}
}

// columns computes columns lo..hi of product q.
func (f *fewParts) columns(b *Backend, q, lo, hi int, tmp []float32) {
	p, w := &f.ps[q], &f.weights[q]
	for j := lo; j < hi; j += 16 * fewGroup {
		for i := range f.parts[:f.n] {
			f.parts[i].columns(p, w, j, min(j+16*fewGroup, hi), tmp)
		}
	}
	if p.follows() && f.finishes(p) {
		b.finish(p, 0, p.m, lo, hi)
	}
}

// columns computes the columns j..end.
func (f *fewPart) columns(p *product, w *fewWeight, j, end int, tmp []float32) {
	beta, precision, s := p.beta != 0, 0, w.s
	if p.w.half {
		precision = 1
	}
	panels, kernel := fewPanels[f.size], s.f.kernels[precision][f.size]
	for ; j < end; j += 16 * panels {
		n := min(16*panels, end-j)
		c, ldc, add := p.c[f.first*p.ldc+j:], p.ldc, 0
		if f.rows != f.m {
			c, ldc = tmp, 16*panels
			for i := 0; beta && i < f.m; i++ {
				copy(tmp[i*ldc:][:n], p.c[(f.first+i)*p.ldc+j:])
			}
		}
		if beta {
			add = 1
		}
		data := s.data[(w.first+j)/16*s.panel:]
		_, _ = c[(f.rows-1)*ldc+n-1], data[panels*s.panel-1]
		kernel(s.k/32, &f.x[0], &f.sums[0], &data[0], s.panel, &c[0], 4*ldc, int(uint64(1)<<n-1), add, p.alpha)
		for i := 0; f.rows != f.m && i < f.m; i++ {
			copy(p.c[(f.first+i)*p.ldc+j:][:n], tmp[i*ldc:])
		}
	}
}

// fewScratch is how many elements the first operand takes: arranged, the sums
// of its blocks, and as many rows as a kernel has.
func fewScratch(m, k int) int { return 2*fewMost*(k+k/32) + fewMost*k }

// fewLeft fills the first operand of f, [terms, rows], pairs of bfloat16 if the
// weight has that precision; rows beyond those of the product are zero. tmp has
// room for the rows of a kernel.
func (b *Backend) fewLeft(p *product, f *fewPart, tmp []float32, sums bool) {
	terms := len(f.x) / f.rows
	src, ld := p.a[f.first*p.lda:], p.lda
	if sums {
		b.fewSums(p, f, tmp)
	}
	if p.w.half || f.m < f.rows {
		for i := range f.m {
			if row := src[i*ld:][:p.k]; p.w.half {
				b.k.halves(tmp[i*terms:][:terms], row)
			} else {
				copy(tmp[i*terms:][:terms], row)
			}
		}
		clear(tmp[f.m*terms : f.rows*terms])
		src, ld = tmp, terms
	}
	switch f.rows {
	case 1:
		copy(f.x, src[:terms])
	case fewMost:
		b.k.pack8(terms, f.x, src, ld)
	default:
		for i := range f.rows {
			for t, v := range src[i*ld:][:terms] {
				f.x[t*f.rows+i] = v
			}
		}
	}
}

// fewSums fills the sums of the blocks of f, of the numbers that are multiplied.
func (b *Backend) fewSums(p *product, f *fewPart, tmp []float32) {
	if f.m < f.rows {
		clear(f.sums)
	}
	for i := range f.m {
		row := p.a[(f.first+i)*p.lda:][:p.k]
		if p.w.half {
			b.k.round(tmp[:p.k], row)
			row = tmp[:p.k]
		}
		for j := range p.k / 32 {
			var sum [8]float32
			for k, v := range row[32*j:][:32] {
				sum[k%8] += v
			}
			f.sums[j*f.rows+i] = sum[0] + sum[4] + (sum[2] + sum[6]) + (sum[1] + sum[5] + (sum[3] + sum[7]))
		}
	}
}

// arrangeNibbles arranges blocks of 32 codes of 4 bits behind head bytes, of
// which byte j holds codes j and j+16: eight of a row lie in 32 bits, those of
// even places in the lower half.
func arrangeNibbles(head int) func(dst []byte, src [][]byte) {
	return func(dst []byte, src [][]byte) {
		for r, row := range src {
			if row == nil {
				continue
			}
			for h := 0; h < head; h += 2 {
				copy(dst[16*h+2*r:][:2], row[h:])
			}
			d := dst[16*head+4*r:]
			for g := range 2 {
				v := binary.LittleEndian.Uint64(row[head+8*g:])
				binary.LittleEndian.PutUint32(d[64*g:], eight(v))
				binary.LittleEndian.PutUint32(d[64*(g+2):], eight(v>>4))
			}
		}
	}
}

// eight gathers the low nibbles of eight bytes, those of even bytes in the lower
// half.
func eight(v uint64) uint32 {
	return four(v) | four(v>>8)<<16
}

// four gathers the low nibbles of bytes 0, 2, 4 and 6.
func four(v uint64) uint32 {
	v &= 0x000f000f000f000f
	v = (v | v>>12) & 0x000000ff000000ff
	return uint32(v|v>>24) & 0xffff
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
			for g := range 4 {
				v := uint64(binary.LittleEndian.Uint32(row[4+16*block+4*g:]))
				v = (v | v<<16) & 0x0000ffff0000ffff // two bytes a half: byte j at 16·j
				v = (v | v<<8) & 0x00ff00ff00ff00ff
				binary.LittleEndian.PutUint32(d[64+64*g+4*r:], four(v>>4)|four(v)<<16)
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
