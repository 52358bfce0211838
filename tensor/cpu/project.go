package cpu

import "pipe/tensor"

// Project implements [tensor.Linear]. What can share the first operand and one
// round of jobs does; the results have the bits of the products one by one.
func (b *Backend) Project(a *tensor.Tensor, o *tensor.Projection) {
	const op = "project"
	n := len(o.Products)
	if n == 0 || n > mostProducts {
		panic("cpu: project: needs one to three products")
	}
	for i := range o.Products {
		x := &o.Products[i]
		if x.TransA || x.Beta != 0 || x.SwiGLUGrad != nil || x.Rope != nil && o.SwiGLU != nil {
			panic("cpu: project: products cannot have TransA, Beta or SwiGLUGrad, nor Rope before SwiGLU")
		}
		b.product(i, x.Dst, a, x.W, &x.MatMul)
	}
	var glu []float32
	if o.SwiGLU != nil {
		if n != 2 {
			panic("cpu: project: SwiGLU needs two products")
		}
		glu = output(op, o.SwiGLU)
		sameShape(op, o.SwiGLU, o.Products[0].Dst, o.Products[1].Dst)
	}
	again := false
	for i := range o.Products {
		again = b.down(a, &o.Products[i].MatMul) || again
	}
	for i := range o.Products {
		if again {
			b.product(i, o.Products[i].Dst, a, o.Products[i].W, &o.Products[i].MatMul)
		}
	}
	if b.err != nil {
		return
	}
	ps := b.op.products[:n]
	switch p := &ps[0]; {
	case p.m == 0 || p.k == 0 || !alike(ps) || p.inPlace() && !b.k.fewRows(p):
		b.oneByOne(n, glu)
	case glu != nil && (ps[0].low != nil || ps[1].low != nil) && b.k.fewRows(p):
		b.oneByOne(n, glu)
	case b.multiplyFew(ps, glu):
		for i := range ps {
			b.addLow(&ps[i])
			if !b.op.few.finishes(&ps[i]) {
				b.finishAll(&ps[i])
			}
		}
	case p.inPlace():
		b.oneByOne(n, glu)
	default:
		b.multiplyPanels(ps, glu)
	}
}

// alike reports whether products can have their operands in one form.
func alike(ps []product) bool {
	for i := range ps {
		p, q := &ps[0], &ps[i]
		if q.eight() && !q.transW || p.eight() != q.eight() { // rows are rounded by the weight's scales
			return false
		}
		if p.w.half != q.w.half || p.transW != q.transW || p.uniform != q.uniform || q.n == 0 {
			return false
		}
	}
	return true
}

// oneByOne computes the first products of the operation, and then the SwiGLU.
func (b *Backend) oneByOne(n int, glu []float32) {
	gate := b.op.products[0].c
	for i := range n {
		b.multiply(&b.op.products[i])
	}
	if glu != nil {
		b.swiglu(glu, gate, b.op.products[1].c)
	}
}
