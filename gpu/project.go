//go:build cuda

package gpu

import "pipe/tensor"

// mostProducts is how many products a projection has at most.
const mostProducts = 3

// Project implements [tensor.Linear]: a is rounded to bfloat16 once.
func (b *Backend) Project(a *tensor.Tensor, o *tensor.Projection) {
	const op = "project"
	n := len(o.Products)
	if n == 0 || n > mostProducts {
		panic("gpu: project: needs one to three products")
	}
	var ps [mostProducts]product
	for i := range o.Products {
		x := &o.Products[i]
		if x.TransA || x.Beta != 0 || x.SwiGLUGrad != nil || x.Rope != nil && o.SwiGLU != nil {
			panic("gpu: project: products cannot have TransA, Beta or SwiGLUGrad, nor Rope before SwiGLU")
		}
		ps[i] = b.product(x.Dst, a, x.W, &x.MatMul)
	}
	if o.SwiGLU != nil {
		if n != 2 {
			panic("gpu: project: SwiGLU needs two products")
		}
		numbersOut(op, o.SwiGLU)
		sameShape(op, o.SwiGLU, o.Products[0].Dst, o.Products[1].Dst)
	}
	if b.err != nil {
		return
	}
	b.downs(ps[:n])
	rounded := false // a is in scratchLeft
	var coded eightRows
	for i := 0; i < n; i++ {
		p := &ps[i]
		if j := together(ps[i:n]); j > 1 {
			b.multiplyCodes(ps[i : i+j])
			b.followAll(ps[i : i+j])
			i += j - 1
			rounded = false
			continue
		}
		if p.eight() && p.transW && p.m > 0 && p.n > 0 {
			if coded == (eightRows{}) {
				coded = b.eightLeft(p, 0)
			}
			p.coded = coded
			b.multiply(p)
			continue
		}
		if p.w.half && !p.few() && p.m > 0 && p.k > 0 && !p.aHalf {
			if !rounded {
				b.left(p)
				rounded = true
			}
			p.a, p.lda, p.aHalf = b.scratch(scratchLeft, 0), roundUp(p.k, 8), true
		} else {
			rounded = false
		}
		b.multiply(p)
	}
	if o.SwiGLU != nil {
		b.SwiGLU(o.SwiGLU, o.Products[0].Dst, o.Products[1].Dst)
	}
}

// ProjectGrad implements [tensor.Linear]: one kernel adds the products where it can.
func (b *Backend) ProjectGrad(dst *tensor.Tensor, of []tensor.GradProduct) {
	n := len(of)
	if n == 0 || n > mostProducts {
		panic("gpu: gradient of project: needs one to three products")
	}
	var ps [mostProducts]product
	for i := range of {
		o := tensor.MatMul{Alpha: 1, Beta: float32(min(i, 1)), LowRank: of[i].LowRank}
		if o.LowRank != nil && o.LowRank.A != nil {
			panic("gpu: gradient of project: an update of low rank cannot have A")
		}
		ps[i] = b.product(dst, of[i].DY, of[i].W, &o)
	}
	if b.err != nil {
		return
	}
	if n > 1 && b.joins(ps[:n]) {
		b.multiplyJoined(ps[:n])
		return
	}
	for i := range ps[:n] {
		b.multiply(&ps[i])
	}
}

// together returns how many of ps, from the first on, one kernel computes.
func together(ps []product) (n int) {
	for n < len(ps) && ps[n].codes() && ps[n].w.dt == ps[0].w.dt && ps[n].m > 0 && ps[n].n > 0 {
		n++
	}
	return n
}

// followAll is follow for all of ps, of which two next to each other are often
// rotated alike.
func (b *Backend) followAll(ps []product) {
	for i := 0; i < len(ps); i++ {
		p := &ps[i]
		if r := p.rope; r != nil && i+1 < len(ps) {
			if q := &ps[i+1]; q.rope != nil && *q.rope == *r && q.outHalf == p.outHalf {
				b.rope(p.dst, q.dst, r.Positions, r.InvFreq, false)
				i++
				continue
			}
		}
		b.follow(p)
	}
}
