//go:build cuda

package gpu

import (
	"fmt"

	"pipe/tensor"
)

// An operand is a stored weight or matrix, row-major.
type operand struct {
	dt         tensor.DType
	ptr        uint64
	rows, cols int
	half       bool    // products round both operands to bfloat16,
	eight      bool    // and those of many rows to 8 bits
	m          *memory // a whole weight, of which a copy may be kept; nil: none
}

func (b *Backend) operand(op string, t *tensor.Tensor) operand {
	m := mem(op, t)
	rows, cols := matrix(op, t)
	if t.DType == tensor.I32 || t.DType == tensor.U8 {
		panic(fmt.Sprintf("gpu: %s: operand is %s", op, t.DType))
	}
	o := operand{dt: t.DType, ptr: m.ptr, rows: rows, cols: cols, half: m.half, eight: m.eight}
	if m.keep {
		o.m = m
	}
	return o
}

// slice returns rows lo..hi.
func (o operand) slice(lo, hi int) operand {
	o.ptr += uint64(o.dt.Bytes(o.cols) * lo)
	o.rows, o.m = hi-lo, nil
	return o
}

// product is c [m,n] = scale ⊙ (alpha*op(a)·op(w) + low) + bias + beta*c with row
// distances in elements, and then what follows.
type product struct {
	m, n, k     int
	c           uint64
	ldc         int
	a           uint64
	lda         int
	transA      bool
	w           operand
	transW      bool // w is stored [n,k]
	alpha, beta float32
	uniform     bool // see tensor.MatMul
	low         lowRank
	aHalf       bool      // a is bfloat16
	outHalf     bool      // c is bfloat16, which needs beta 0
	coded       eightRows // a in 8 bits; the zero value: not yet

	// These need beta 0.
	scale, bias uint64 // [n]; 0: none
	rope        *tensor.Rope
	grad        *tensor.SwiGLUGrad
	dst         *tensor.Tensor // c, for rope and grad
	fused       bool           // the kernel that stores c does rope and grad
}

// lowRank is a further product of r terms, F32: alpha*u·op(v), u [m,r].
type lowRank struct {
	u, v  uint64
	down  operand // that u is first set with; ptr 0: u is there
	r     int     // 0: none
	trans bool    // v is stored [n,r]
	cols  int     // row distance of v if not trans; 0: n
	alpha float32
}

// MatMul implements [tensor.Linear].
func (b *Backend) MatMul(dst, a, w *tensor.Tensor, o tensor.MatMul) {
	p := b.product(dst, a, w, &o)
	if b.err == nil {
		if p.low.down.ptr != 0 {
			b.downs([]product{p})
		}
		b.multiply(&p)
	}
}

// product checks the operands of a product.
func (b *Backend) product(dst, a, w *tensor.Tensor, o *tensor.MatMul) product {
	const op = "matmul"
	m, k := matrix(op, a)
	p := product{m: m, k: k, lda: k, transA: o.TransA, w: b.operand(op, w), transW: o.TransB, alpha: o.Alpha, beta: o.Beta, uniform: o.Uniform, dst: dst}
	var halfA, halfC int
	p.a, halfA = numbers(op, a)
	p.c, halfC = numbersOut(op, dst)
	p.aHalf, p.outHalf = halfA == 1, halfC == 1
	if p.outHalf && o.Beta != 0 {
		panic("gpu: matmul: a result in bf16 needs Beta 0")
	}
	if o.TransA {
		p.m, p.k = k, m
	}
	kw := p.w.rows
	p.n = p.w.cols
	if o.TransB {
		kw, p.n = p.w.cols, p.w.rows
	}
	if kw != p.k {
		panic(fmt.Sprintf("gpu: matmul: inner dimensions of %v and %v differ (%+v)", a.Shape, w.Shape, *o))
	}
	checkMatrix(op, dst, p.m, p.n)
	p.ldc = p.n
	b.epilogue(&p, o)
	return p
}

// epilogue checks and takes over what follows a product.
func (b *Backend) epilogue(p *product, o *tensor.MatMul) {
	const op = "matmul"
	if o.Beta != 0 && (o.ColScale != nil || o.Bias != nil || o.Rope != nil || o.SwiGLUGrad != nil) {
		panic("gpu: matmul: what follows the product needs Beta 0")
	}
	if o.ColScale != nil {
		p.scale = input(op, o.ColScale)
		checkLen(op, o.ColScale.Len(), p.n)
	}
	if o.Bias != nil {
		p.bias = input(op, o.Bias)
		checkLen(op, o.Bias.Len(), p.n)
	}
	if r := o.Rope; r != nil {
		ints(op, r.Positions)
		input(op, r.InvFreq)
		checkLen(op, r.Positions.Len(), p.m)
		if h := 2 * r.InvFreq.Len(); h == 0 || p.n%h != 0 {
			panic(fmt.Sprintf("gpu: matmul: %d columns are no whole heads of %d", p.n, h))
		}
		p.rope = r
	}
	if g := o.SwiGLUGrad; g != nil {
		for _, t := range [...]*tensor.Tensor{g.Gate, g.Up, g.DGate, g.DUp} {
			checkMatrix(op, t, p.m, p.n)
			numbers(op, t)
		}
		writable(op, mem(op, g.DGate))
		writable(op, mem(op, g.DUp))
		p.grad = g
	}
	if o.LowRank == nil {
		return
	}
	u, v := o.LowRank.U, o.LowRank.V
	p.low = lowRank{u: input(op, u), v: input(op, v), trans: o.LowRank.TransV, alpha: o.LowRank.Alpha}
	_, p.low.r = matrix(op, u)
	checkMatrix(op, u, p.m, p.low.r)
	if p.low.trans {
		checkMatrix(op, v, p.n, p.low.r)
	} else {
		checkMatrix(op, v, p.low.r, p.n)
	}
	if a := o.LowRank.A; a != nil {
		if o.TransA {
			panic("gpu: matmul: an update of low rank with A needs no TransA")
		}
		checkMatrix(op, a, p.low.r, p.k)
		input(op, a)
		writable(op, mem(op, u))
		p.low.down = b.operand(op, a)
	}
}
