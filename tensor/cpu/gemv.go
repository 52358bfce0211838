package cpu

import "pipe/tensor"

// multiplyRows computes a product of few rows: each stored row of w is read,
// and expanded, once and multiplied with all rows of a. The bits of a row of
// the result depend on that row of a alone: see [tensor.Linear].
func (b *Backend) multiplyRows(p *product) {
	unit := float64(p.k) * (0.15 + 0.04*float64(p.m)) // nanoseconds of a row of w
	b.split(p.n, dotRows, unit, args{p: p}, func(a *args, lo, hi, thread int) {
		for j := lo; j < hi; j += dotRows {
			a.b.multiplyFour(a.p, j, min(dotRows, hi-j), thread)
		}
	})
}

// multiplyFour computes columns j..j+n, n ≤ 4.
func (b *Backend) multiplyFour(p *product, j, n, thread int) {
	w, ld := p.w.f, p.w.ld
	if p.w.dt == tensor.F32 {
		w = w[j*ld:]
	} else {
		out := &b.work[thread].out
		if p.m == 1 && n == dotRows && b.k.rowDots(p.k, p.w.raw[j*ld:], ld, p.a, p.w.dt, out) {
			for c := range dotRows {
				p.put(0, j+c, out[c])
			}
			return
		}
		w, ld = grow(&b.work[thread].rows, dotRows*p.k), p.k
		for r := range n {
			p.w.expandRow(b.k, w[r*ld:][:ld], j+r, 0)
		}
	}
	if n < dotRows {
		for i := range p.m {
			for r := range n {
				p.put(i, j+r, b.k.dot(p.a[i*p.lda:][:p.k], w[r*ld:]))
			}
		}
		return
	}
	out := &b.work[thread].out
	for i := 0; i < p.m; i += dotCols {
		m := min(dotCols, p.m-i)
		b.k.dots(m, p.k, w, ld, p.a[i*p.lda:], p.lda, out)
		for r := range m {
			for c := range dotRows {
				p.put(i+r, j+c, out[r*dotRows+c])
			}
		}
	}
}

func (p *product) put(i, j int, v float32) {
	v *= p.alpha
	if p.beta != 0 {
		v += p.c[i*p.ldc+j]
	}
	p.c[i*p.ldc+j] = v
}
