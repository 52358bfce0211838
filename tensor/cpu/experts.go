package cpu

import (
	"fmt"
	"math"

	"pipe/tensor"
)

// Route implements [tensor.Experts].
func (b *Backend) Route(r *tensor.Routing, logits *tensor.Tensor) {
	const op = "route"
	z := input(op, logits)
	n, experts := matrix(op, logits)
	k := b.routing(op, r, n)
	checkMatrix(op, logits, n, r.Experts)
	gates, rows, slots, starts := output(op, r.Gates), ints(op, r.Rows), ints(op, r.Slots), ints(op, r.Starts)
	if b.err != nil {
		return
	}
	clear(starts)
	for t := range n {
		row, chosen := z[t*experts:][:experts], slots[t*k:][:k]
		chooseExperts(chosen, row)
		for _, e := range chosen {
			starts[e+1]++
		}
	}
	for e := range experts {
		starts[e+1] += starts[e]
	}
	// Each choice takes the next row of its expert: starts[e] runs to the first of e+1,
	// and is moved back then.
	for t := range n {
		row, chosen := z[t*experts:][:experts], slots[t*k:][:k]
		most, sum := row[chosen[0]], gateSum(r.Gating, chosen, row)
		for j, e := range chosen {
			at := starts[e]
			starts[e]++
			rows[at], gates[at] = int32(t), gate(r.Gating, row[e], most, sum)
			chosen[j] = at
		}
	}
	copy(starts[1:], starts[:experts])
	starts[0] = 0
}

// chooseExperts sets to to the experts with the largest logits z, the largest first, of equals
// the first; if z has a NaN, to the first ones.
func chooseExperts(to []int32, z []float32) {
	n := 0
	for e, v := range z {
		if v != v {
			for j := range to {
				to[j] = int32(j)
			}
			return
		}
		j := n
		for ; j > 0 && z[to[j-1]] < v; j-- {
			if j < len(to) {
				to[j] = to[j-1]
			}
		}
		if j < len(to) {
			to[j] = int32(e)
			n = min(n+1, len(to))
		}
	}
}

// gateSum is what divides the gates of a row with these choices: NaN if its logits
// have one.
func gateSum(g tensor.Gating, chosen []int32, z []float32) (sum float32) {
	for _, v := range z {
		if v != v {
			return v
		}
	}
	if g == tensor.Sigmoid {
		return 1
	}
	for _, e := range chosen {
		sum += exponential(z[e], z[chosen[0]])
	}
	return sum
}

// exponential is exp(z - most); of equals, also of infinities, it is 1.
func exponential(z, most float32) float32 {
	if z == most {
		return 1
	}
	return float32(math.Exp(float64(z) - float64(most)))
}

func gate(g tensor.Gating, z, most, sum float32) float32 {
	if g == tensor.Sigmoid {
		return float32(1/(1+math.Exp(-float64(z)))) / sum
	}
	return exponential(z, most) / sum
}

// routing checks r for a batch of n rows.
func (b *Backend) routing(op string, r *tensor.Routing, n int) (k int) {
	k = r.Check("cpu", op, n)
	input(op, r.Gates)
	for _, t := range []*tensor.Tensor{r.Rows, r.Slots, r.Starts} {
		writable(op, wantType(op, t, tensor.I32))
	}
	return k
}

// RouteGrad implements [tensor.Experts].
func (b *Backend) RouteGrad(dlogits, dgates *tensor.Tensor, r *tensor.Routing) {
	const op = "route gradient"
	d, dg := output(op, dlogits), input(op, dgates)
	n, experts := matrix(op, dlogits)
	k := b.routing(op, r, n)
	checkMatrix(op, dlogits, n, r.Experts)
	checkLen(op, len(dg), n*k)
	gates, slots, starts := input(op, r.Gates), ints(op, r.Slots), ints(op, r.Starts)
	if b.err != nil || !b.routed(op, r, n) {
		return
	}
	clear(d)
	for t := range n {
		chosen := slots[t*k:][:k]
		dot := float32(0) // of softmax
		if r.Gating == tensor.Softmax {
			for _, at := range chosen {
				dot += gates[at] * dg[at]
			}
		}
		for _, at := range chosen {
			g := gates[at]
			v := g * (dg[at] - dot)
			if r.Gating == tensor.Sigmoid {
				v = g * (1 - g) * dg[at]
			}
			d[t*experts+expertOf(starts, at)] = v
		}
	}
}

// expertOf returns the expert that has a row.
func expertOf(starts []int32, at int32) int {
	lo, hi := 0, len(starts)-1
	for lo+1 < hi { // starts[lo] <= at < starts[hi]
		if mid := (lo + hi) / 2; starts[mid] <= at {
			lo = mid
		} else {
			hi = mid
		}
	}
	return lo
}

// routed records a failure and returns false unless r is what Route makes of n rows:
// its lists are data.
func (b *Backend) routed(op string, r *tensor.Routing, n int) bool {
	rows, slots, starts := ints(op, r.Rows), ints(op, r.Slots), ints(op, r.Starts)
	ok := starts[0] == 0 && int(starts[r.Experts]) == len(rows)
	for e := range r.Experts {
		ok = ok && starts[e] <= starts[e+1]
	}
	if !ok {
		b.fail(fmt.Errorf("cpu: %s: the rows of experts begin at %v; must ascend from 0 to %d", op, starts, len(rows)))
		return false
	}
	return b.checkIndex(op, rows, n) && b.checkIndex(op, slots, len(rows))
}

// Dispatch implements [tensor.Experts].
func (b *Backend) Dispatch(dst, x *tensor.Tensor, r *tensor.Routing, gated bool) {
	const op = "dispatch"
	d, s := output(op, dst), input(op, x)
	n, cols := matrix(op, x)
	k := b.routing(op, r, n)
	checkMatrix(op, dst, n*k, cols)
	if b.err != nil || !b.routed(op, r, n) {
		return
	}
	b.split(n*k, 1, float64(cols)*0.3, args{dst: d, x: s, y: input(op, r.Gates), ids: ints(op, r.Rows), cols: cols, on: gated}, func(a *args, lo, hi, _ int) {
		for i := lo; i < hi; i++ {
			to, from := a.dst[i*a.cols:][:a.cols], a.x[int(a.ids[i])*a.cols:][:a.cols]
			if a.on {
				a.b.k.scale(to, from, a.y[i])
			} else {
				copy(to, from)
			}
		}
	})
}

// Combine implements [tensor.Experts].
func (b *Backend) Combine(dst, rows, add *tensor.Tensor, r *tensor.Routing, gated bool) {
	const op = "combine"
	d, s := output(op, dst), input(op, rows)
	n, cols := matrix(op, dst)
	k := b.routing(op, r, n)
	checkMatrix(op, rows, n*k, cols)
	var sum []float32
	if add != nil {
		sum = input(op, add)
		checkMatrix(op, add, n, cols)
	}
	if b.err != nil || !b.routed(op, r, n) {
		return
	}
	b.split(n, 1, float64(k*cols)*0.4, args{dst: d, x: s, z: sum, y: input(op, r.Gates), ids: ints(op, r.Slots), rows: k, cols: cols, on: gated}, func(a *args, lo, hi, _ int) {
		for t := lo; t < hi; t++ {
			to := a.dst[t*a.cols:][:a.cols]
			if a.z != nil {
				copy(to, a.z[t*a.cols:])
			} else {
				clear(to)
			}
			for _, at := range a.ids[t*a.rows:][:a.rows] {
				g := float32(1)
				if a.on {
					g = a.y[at]
				}
				a.b.k.addScaled(to, to, a.x[int(at)*a.cols:][:a.cols], g)
			}
		}
	})
}

// GateGrad implements [tensor.Experts].
func (b *Backend) GateGrad(dgates, rows, x *tensor.Tensor, r *tensor.Routing) {
	const op = "gate gradient"
	d, s, y := output(op, dgates), input(op, rows), input(op, x)
	n, cols := matrix(op, x)
	k := b.routing(op, r, n)
	checkMatrix(op, rows, n*k, cols)
	checkLen(op, len(d), n*k)
	if b.err != nil || !b.routed(op, r, n) {
		return
	}
	b.split(n*k, 1, float64(cols)*0.3, args{dst: d, x: s, y: y, ids: ints(op, r.Rows), cols: cols}, func(a *args, lo, hi, _ int) {
		for i := lo; i < hi; i++ {
			a.dst[i] = float32(a.b.k.dot64(a.x[i*a.cols:][:a.cols], a.y[int(a.ids[i])*a.cols:][:a.cols]))
		}
	})
}

// ExpertMatMul implements [tensor.Experts], expert by expert.
func (b *Backend) ExpertMatMul(dst, a, w *tensor.Tensor, r *tensor.Routing, o tensor.MatMul) {
	const op = "expert matmul"
	c, x, all := output(op, dst), input(op, a), b.operand(op, w)
	rows, in := matrix(op, a)
	n, out := expertShapes(op, r, &o, rows, all.rows, all.cols, in)
	b.routing(op, r, n)
	checkMatrix(op, dst, rows, out)
	if b.err != nil || !b.routed(op, r, n) {
		return
	}
	height := all.rows / r.Experts
	starts := ints(op, r.Starts)
	for e := range r.Experts {
		lo, hi := int(starts[e]), int(starts[e+1])
		p := product{m: hi - lo, n: out, k: in, c: c[lo*out:], ldc: out, a: x[lo*in:], lda: in, w: all.slice(e*height, (e+1)*height),
			transW: o.TransB, alpha: o.Alpha, beta: o.Beta, uniform: o.Uniform}
		if !b.k.keepsExperts(o.TransB, height) {
			p.w.weight = nil
		}
		b.multiply(&p)
	}
}

// keepsExperts reports whether panels of all experts' matrices, of so many rows each, can be
// kept: those of an expert begin a panel. Of matrices that are not transposed they would
// begin in the middle of a pass.
func (k *kernels) keepsExperts(trans bool, height int) bool { return trans && height%k.cols == 0 }

// expertShapes checks a product of rows [rows,in] with the matrices of all experts [height,width] and returns the
// rows of the batch and the columns of the result.
func expertShapes(op string, r *tensor.Routing, o *tensor.MatMul, rows, height, width, in int) (n, out int) {
	if o.TransA || o.LowRank != nil || o.ColScale != nil || o.Bias != nil || o.Rope != nil || o.SwiGLUGrad != nil {
		panic(fmt.Sprintf("cpu: %s: takes TransB, Alpha, Beta and Uniform only (%+v)", op, *o))
	}
	if r == nil || r.Slots == nil || len(r.Slots.Shape) != 2 || r.Experts < 1 || height%r.Experts != 0 {
		panic(fmt.Sprintf("cpu: %s: a weight of %d rows is no matrices of %d experts", op, height, r.Experts))
	}
	n, out = r.Slots.Shape[0], width
	k := height / r.Experts
	if o.TransB {
		k, out = width, height/r.Experts
	}
	if k != in || rows != r.Slots.Len() {
		panic(fmt.Sprintf("cpu: %s: %d rows of %d elements with matrices [%d,%d] of experts that %d rows go to (%+v)", op, rows, in, height/r.Experts, width, r.Slots.Len(), *o))
	}
	return n, out
}

// ExpertOuter implements [tensor.Experts].
func (b *Backend) ExpertOuter(dw, dy, x *tensor.Tensor, r *tensor.Routing) {
	const op = "expert outer"
	d, g, s := output(op, dw), input(op, dy), input(op, x)
	rows, in := matrix(op, x)
	_, out := matrix(op, dy)
	n := r.Slots.Rows()
	k := b.routing(op, r, n)
	checkMatrix(op, x, n*k, in)
	checkMatrix(op, dy, rows, out)
	checkMatrix(op, dw, r.Experts*out, in)
	if b.err != nil || !b.routed(op, r, n) {
		return
	}
	starts := ints(op, r.Starts)
	for e := range r.Experts {
		lo, hi := int(starts[e]), int(starts[e+1])
		if lo == hi {
			continue
		}
		b.multiply(&product{m: out, n: in, k: hi - lo, c: d[e*out*in:], ldc: in, a: g[lo*out:], lda: out, transA: true,
			w: floatOperand(s[lo*in:hi*in], in), alpha: 1, beta: 1})
	}
}
