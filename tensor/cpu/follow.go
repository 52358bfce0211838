package cpu

// follows reports whether there is something for finish to do.
func (p *product) follows() bool {
	return p.scale != nil || p.bias != nil || p.turn > 0 || p.grad != nil
}

// inBlocks reports whether finish may be called for blocks of cols columns: heads
// are rotated as a whole.
func (p *product) inBlocks(cols int) bool { return p.turn == 0 || cols%p.turn == 0 }

// finish does what follows the sums of the columns jlo..jhi of the rows
// ilo..ihi: factors, bias, rotation, and the gradient of SwiGLU.
func (b *Backend) finish(p *product, ilo, ihi, jlo, jhi int) {
	r, half := &b.rotate, p.turn/2
	for i := ilo; i < ihi; i++ {
		c := p.c[i*p.ldc+jlo : i*p.ldc+jhi]
		if p.scale != nil {
			b.k.mul(c, c, p.scale[jlo:jhi], 1)
		}
		if p.bias != nil {
			b.k.addScaled(c, c, p.bias[jlo:jhi], 1)
		}
		for h := 0; half > 0 && h < len(c); h += 2 * half {
			b.k.rotate(c[h:][:half], c[h+half:][:half], r.cos[i*half:][:half], r.sin[i*half:][:half], 1)
		}
		if g := p.grad; g != nil {
			lo, hi := i*p.n+jlo, i*p.n+jhi
			b.k.swigluGrad(g.dgate[lo:hi], g.dup[lo:hi], g.gate[lo:hi], g.up[lo:hi], c)
		}
	}
}

// finishAll is finish of all of c.
func (b *Backend) finishAll(p *product) {
	if p.follows() {
		b.split(p.m, 1, rowCost(p.n, 0.4), args{p: p}, func(a *args, lo, hi, _ int) { a.b.finish(a.p, lo, hi, 0, a.p.n) })
	}
}
