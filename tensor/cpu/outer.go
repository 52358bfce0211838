package cpu

// A job takes outerStrip rows or columns of the long side, outerTerms terms at a
// time, so that its part of c is in the first-level cache meanwhile.
const (
	outerStrip = 128
	outerTerms = 128
)

// multiplyOuter computes a product of a transposed operand, one of whose sides
// is at most skinny: the gradient of an adapter from many tokens. Both operands
// are read in place, the long one once.
func (b *Backend) multiplyOuter(p *product) {
	long := p.n
	if p.m > skinny {
		long = p.m
	}
	cost := 2 * float64(p.m) * float64(p.n) * float64(p.k) / 40
	b.each((long+outerStrip-1)/outerStrip, cost, args{p: p}, func(a *args, job, _, thread int) { a.b.outerJob(a.p, job, thread) })
}

func (b *Backend) outerJob(p *product, job, thread int) {
	lo := job * outerStrip
	if p.m <= skinny {
		n := min(outerStrip, p.n-lo)
		b.outer(p.m, n, p.k, p.a, p.lda, p.w.f[lo:], p.w.ld, p.c[lo:], p.ldc, p.alpha, p.beta != 0)
		return
	}
	hi := min(p.m, lo+outerStrip)
	c := grow(&b.work[thread].rows, p.n*outerStrip)
	b.outer(p.n, hi-lo, p.k, p.w.f, p.w.ld, p.a[lo:], p.lda, c, outerStrip, p.alpha, false)
	for i := lo; i < hi; i++ {
		row := p.c[i*p.ldc:][:p.n]
		for j := range row {
			if v := c[j*outerStrip+i-lo]; p.beta != 0 {
				row[j] += v
			} else {
				row[j] = v
			}
		}
	}
}

// outer sets c [rows,cols] to alpha*aᵀ·b, or adds it: a [k,rows] and b [k,cols].
func (b *Backend) outer(rows, cols, k int, a []float32, lda int, x []float32, ldx int, c []float32, ldc int, alpha float32, add bool) {
	for t := 0; t < k; t += outerTerms {
		n := min(outerTerms, k-t)
		for j := 0; j < cols; j += b.k.cols {
			for i, r := 0, 0; i < rows; i += r {
				r = b.k.step(rows - i)
				b.k.tile(r, min(b.k.cols, cols-j), n, a[t*lda+i:], 1, lda, x[t*ldx+j:], ldx, c[i*ldc+j:], ldc, alpha, add || t > 0, ahead{})
			}
		}
	}
}
