package cpu

import (
	"fmt"

	"pipe/tensor"
)

// An operand is a stored matrix: row r begins at element r*ld of f, or at
// byte r*ld of raw when the type is not F32.
type operand struct {
	dt     tensor.DType
	f      []float32
	raw    []byte
	ld     int
	rows   int
	cols   int
	half   bool      // products round both operands to bfloat16,
	eight  bool      // and those of many rows to 8 bits
	weight *memory   // whose panels may be kept
	first  int       // row of weight that is row 0
	scales []float32 // of the rows in 8 bits, where a product needs them
}

func (b *Backend) operand(op string, t *tensor.Tensor) operand {
	m := mem(op, t)
	rows, cols := matrix(op, t)
	o := operand{dt: t.DType, f: m.f32, raw: m.raw, ld: cols, rows: rows, cols: cols, half: m.half, eight: m.eight}
	switch t.DType {
	case tensor.F32:
	case tensor.I32, tensor.U8:
		panic(fmt.Sprintf("cpu: %s: operand is %s", op, t.DType))
	default:
		o.ld = t.DType.Bytes(cols)
	}
	if m.keep || m.panels != [4]*panels{} {
		o.weight = m
	}
	return o
}

// slice returns rows lo..hi.
func (o operand) slice(lo, hi int) operand {
	if o.dt == tensor.F32 {
		o.f = o.f[lo*o.ld : hi*o.ld]
	} else {
		o.raw = o.raw[lo*o.ld : hi*o.ld]
	}
	if o.scales != nil {
		o.scales = o.scales[lo:hi]
	}
	o.rows, o.first = hi-lo, o.first+lo
	return o
}

// expandRow sets dst to elements lo..lo+len(dst) of row r; lo and len(dst)
// are whole blocks.
func (o *operand) expandRow(k *kernels, dst []float32, r, lo int) {
	if o.dt == tensor.F32 {
		copy(dst, o.f[r*o.ld+lo:])
		return
	}
	at := r*o.ld + o.dt.Bytes(lo)
	k.expand(dst, o.dt, o.raw[at:at+o.dt.Bytes(len(dst))])
}

// product is c [m,n] = scale ⊙ (alpha*op(a)·op(w) + low.alpha*low.u·op(low.v))
// + beta*c with row distances, and what finish makes of that.
type product struct {
	m, n, k     int
	c           []float32
	ldc         int
	a           []float32
	lda         int
	transA      bool
	w           operand
	transW      bool // w is stored [n,k]
	alpha, beta float32
	uniform     bool     // see tensor.MatMul
	low         *lowRank // nil: none
	paired      bool     // in a plan: computed together with another

	// These need beta 0.
	scale []float32 // of the columns [n]; nil: 1
	bias  []float32 // [n]; nil: none
	turn  int       // heads of so many columns are rotated by Backend.rotate; 0: none
	grad  *gluGrad  // nil: none
}

// gluGrad is a SwiGLU, all [m,n], whose gradient is c.
type gluGrad struct{ gate, up, dgate, dup []float32 }

// lowRank is a further product of few terms: u [m,r] and v, F32.
type lowRank struct {
	u     []float32
	r     int
	v     operand
	trans bool // v is stored [n,r]
	alpha float32
}

const (
	smallM     = 16      // up to here, weights stored [n,k] are read in place
	skinny     = 32      // up to here, a transposed product reads in place
	packFloats = 1 << 20 // panels made at a time, of each operand
	jobCols    = 256
)

// jobRows is how many rows of a product a job takes, whole tiles.
func (k *kernels) jobRows() int { return 196 / k.rows * k.rows }

// MatMul implements [tensor.Linear].
func (b *Backend) MatMul(dst, a, w *tensor.Tensor, o tensor.MatMul) {
	b.product(0, dst, a, w, &o)
	if b.down(a, &o) {
		b.product(0, dst, a, w, &o)
	}
	if b.err == nil {
		b.multiply(&b.op.products[0])
	}
}

// down sets U of an update of low rank, if that is to be set, and reports it. The
// products of the operation are others then.
func (b *Backend) down(a *tensor.Tensor, o *tensor.MatMul) bool {
	l := o.LowRank
	if l == nil || l.A == nil {
		return false
	}
	if o.TransA {
		panic("cpu: matmul: an update of low rank with A needs no TransA")
	}
	input("matmul", l.A)
	b.MatMul(l.U, a, l.A, tensor.MatMul{TransB: true, Alpha: 1, Uniform: o.Uniform})
	return true
}

// ProjectGrad implements [tensor.Linear].
func (b *Backend) ProjectGrad(dst *tensor.Tensor, of []tensor.GradProduct) {
	if len(of) == 0 || len(of) > mostProducts {
		panic("cpu: gradient of project: needs one to three products")
	}
	for i := range of { // all are checked before one is computed
		x := &of[i]
		if x.LowRank != nil && x.LowRank.A != nil {
			panic("cpu: gradient of project: an update of low rank cannot have A")
		}
		b.product(i, dst, x.DY, x.W, &tensor.MatMul{Alpha: 1, LowRank: x.LowRank})
	}
	tensor.ProjectGradByMatMul(b, dst, of)
}

// LowRankGrad implements [tensor.Linear].
func (b *Backend) LowRankGrad(du, dv, dy, u, v *tensor.Tensor, scale float32) {
	b.MatMul(dv, dy, u, tensor.MatMul{TransA: true, Alpha: scale, Beta: 1})
	b.MatMul(du, dy, v, tensor.MatMul{Alpha: scale})
}

// product sets a product of the operation.
func (b *Backend) product(at int, dst, a, w *tensor.Tensor, o *tensor.MatMul) {
	const op = "matmul"
	c, x, wo := output(op, dst), input(op, a), b.operand(op, w)
	m, k := matrix(op, a)
	p := &b.op.products[at]
	*p = product{m: m, k: k, c: c, a: x, lda: k, transA: o.TransA, w: wo, transW: o.TransB, alpha: o.Alpha, beta: o.Beta, uniform: o.Uniform}
	if o.TransA {
		p.m, p.k = k, m
	}
	kw := wo.rows
	p.n = wo.cols
	if o.TransB {
		kw, p.n = wo.cols, wo.rows
	}
	if kw != p.k {
		panic(fmt.Sprintf("cpu: matmul: inner dimensions of %v and %v differ (%+v)", a.Shape, w.Shape, *o))
	}
	checkMatrix(op, dst, p.m, p.n)
	p.ldc = p.n
	b.epilogue(p, at, o)
}

// epilogue checks and takes over what follows a product.
func (b *Backend) epilogue(p *product, at int, o *tensor.MatMul) {
	const op = "matmul"
	if o.Beta != 0 && (o.ColScale != nil || o.Bias != nil || o.Rope != nil || o.SwiGLUGrad != nil) {
		panic("cpu: matmul: what follows the product needs Beta 0")
	}
	if o.ColScale != nil {
		p.scale = input(op, o.ColScale)
		checkLen(op, len(p.scale), p.n)
	}
	if o.Bias != nil {
		p.bias = input(op, o.Bias)
		checkLen(op, len(p.bias), p.n)
	}
	if r := o.Rope; r != nil {
		p.turn = b.turns(op, r.Positions, r.InvFreq, p.m, p.n)
	}
	if g := o.SwiGLUGrad; g != nil {
		for _, t := range []*tensor.Tensor{g.Gate, g.Up, g.DGate, g.DUp} {
			checkMatrix(op, t, p.m, p.n)
		}
		b.op.swiglu = gluGrad{input(op, g.Gate), input(op, g.Up), output(op, g.DGate), output(op, g.DUp)}
		p.grad = &b.op.swiglu
	}
	if o.LowRank == nil {
		return
	}
	u, v := o.LowRank.U, o.LowRank.V
	input(op, v)
	low := &b.op.lows[at]
	*low = lowRank{u: input(op, u), v: b.operand(op, v), trans: o.LowRank.TransV, alpha: o.LowRank.Alpha}
	_, low.r = matrix(op, u)
	checkMatrix(op, u, p.m, low.r)
	if low.trans {
		checkMatrix(op, v, p.n, low.r)
	} else {
		checkMatrix(op, v, low.r, p.n)
	}
	if low.r > 0 {
		p.low = low
	}
}

// multiply computes a product, of which it takes a copy: see operation.
func (b *Backend) multiply(wanted *product) {
	if wanted.m == 0 || wanted.n == 0 {
		return
	}
	b.op.products[0] = *wanted
	alone := b.op.products[:1]
	p := &alone[0]
	if p.k == 0 || p.beta != 0 && p.beta != 1 {
		b.prescale(p)
	}
	finished := false
	switch {
	case p.k == 0:
	case b.multiplyFew(alone, nil):
		finished = b.op.few.finishes(p)
	case p.transA && !p.transW && p.w.dt == tensor.F32 && min(p.m, p.n) <= skinny:
		b.multiplyOuter(p)
	case p.inPlace():
		b.multiplyRows(p)
	default:
		b.multiplyPanels(alone, nil)
		return
	}
	b.addLow(p)
	if !finished {
		b.finishAll(p)
	}
}

// addLow adds the product of few terms.
func (b *Backend) addLow(p *product) {
	if l := p.low; l != nil {
		b.op.second[0] = product{m: p.m, n: p.n, k: l.r, c: p.c, ldc: p.ldc, a: l.u, lda: l.r, w: l.v, transW: l.trans, alpha: l.alpha, beta: 1}
		b.multiplyPanels(b.op.second[:], nil)
	}
}

// prescale turns c into beta*c, and beta into the 1 that then is left.
func (b *Backend) prescale(p *product) {
	b.split(p.m, 1, float64(p.n)*0.2, args{p: p}, func(a *args, lo, hi, _ int) {
		for i := lo; i < hi; i++ {
			c := a.p.c[i*a.p.ldc:][:a.p.n]
			if a.p.beta == 0 {
				clear(c)
			} else {
				a.b.k.scale(c, c, a.p.beta)
			}
		}
	})
	p.beta = 1
}

// panelDepth is the number of terms, or of pairs, of one pass over the panels:
// at most 384, so that a panel stays in the caches, equal parts of k, and whole
// blocks of stored weights.
func panelDepth(k int) int {
	n := (k + 383) / 384
	return ((k+n-1)/n + 31) / 32 * 32
}

// inPlace reports whether the rows of w are read where they lie.
func (p *product) inPlace() bool {
	return p.m <= smallM && p.transW && !p.transA && !p.w.half && !p.uniform
}

// fewRows reports whether p is one for the kernels of few rows, if there are any
// for its weight.
func (k *kernels) fewRows(p *product) bool {
	return p.m <= smallM && p.transW && !p.transA && !p.uniform && p.k > 0 && (!p.w.half || k.halfTile != nil)
}

// terms is the length of a row of n numbers: the number of pairs in half
// precision.
func (k *kernels) terms(n int, half bool) int {
	if half && k.halfTile != nil {
		return (n + 1) / 2
	}
	return n
}
