package cpu

import (
	"math"
	"slices"

	"pipe/tensor"
)

// RMSNorm implements [tensor.Transformer].
func (b *Backend) RMSNorm(dst, rstd, x, w *tensor.Tensor, eps float32) {
	b.norm(dst, rstd, nil, x, nil, w, eps)
}

// AddRMSNorm implements [tensor.Transformer].
func (b *Backend) AddRMSNorm(dst, rstd, sum, x, y, w *tensor.Tensor, eps float32) {
	b.norm(dst, rstd, sum, x, y, w, eps)
}

// norm is both; y and sum are nil in RMSNorm.
func (b *Backend) norm(dst, rstd, sum, x, y, w *tensor.Tensor, eps float32) {
	const op = "rmsnorm"
	d, r, v, g := output(op, dst), output(op, rstd), input(op, x), input(op, w)
	sameShape(op, dst, x)
	rows, cols := matrix(op, x)
	checkLen(op, len(r), rows)
	checkLen(op, len(g), cols)
	var s, u []float32
	if sum != nil {
		s, u = output(op, sum), input(op, y)
		sameShape(op, x, sum, y)
	}
	if b.err != nil {
		return
	}
	b.split(rows, 1, float64(cols)*0.6, args{dst: d, dst2: r, sum: s, x: v, y: u, w: g, cols: cols, scale: eps}, func(a *args, lo, hi, _ int) {
		for t := lo; t < hi; t++ {
			v, r, k := a.x[t*a.cols:][:a.cols], a.dst2, a.b.k
			if a.sum != nil {
				s := a.sum[t*a.cols:][:a.cols]
				k.addScaled(s, v, a.y[t*a.cols:][:a.cols], 1)
				v = s
			}
			mean := k.dot64(v, v) / float64(a.cols)
			r[t] = float32(1 / math.Sqrt(mean+float64(a.scale)))
			k.mul(a.dst[t*a.cols:][:a.cols], v, a.w, r[t])
		}
	})
}

// RMSNormGrad implements [tensor.Transformer]. With n columns,
// dx = rstd·(w⊙dy) - x·(rstd³/n)·Σ w⊙dy⊙x and dw = Σ dy⊙x·rstd.
func (b *Backend) RMSNormGrad(dx, dw, x, w, rstd, dy, add *tensor.Tensor) {
	const op = "rmsnorm gradient"
	d, v, g, r, y := output(op, dx), input(op, x), input(op, w), input(op, rstd), input(op, dy)
	sameShape(op, dx, x, dy)
	rows, cols := matrix(op, x)
	checkLen(op, len(r), rows)
	checkLen(op, len(g), cols)
	var dg, more []float32
	if dw != nil {
		dg = output(op, dw)
		checkLen(op, len(dg), cols)
	}
	if add != nil {
		more = input(op, add)
		sameShape(op, x, add)
	}
	if b.err != nil {
		return
	}
	if dw != nil { // before dx, which may be dy
		b.split(cols, 16, float64(rows)*0.4, args{dst: dg, x: v, y: y, z: r, rows: rows, cols: cols}, func(a *args, lo, hi, _ int) {
			for t := range a.rows {
				lo, hi, dw := t*a.cols+lo, t*a.cols+hi, a.dst[lo:hi]
				a.b.k.addMul(dw, a.x[lo:hi], a.y[lo:hi], a.z[t])
			}
		})
	}
	b.split(rows, 1, float64(cols), args{dst: d, x: v, y: y, z: r, w: g, sum: more, cols: cols}, func(a *args, lo, hi, thread int) {
		k, g := a.b.k, grow(&a.b.work[thread].row, a.cols)
		for t := lo; t < hi; t++ {
			d, v := a.dst[t*a.cols:][:a.cols], a.x[t*a.cols:][:a.cols]
			k.mul(g, a.y[t*a.cols:][:a.cols], a.w, a.z[t])
			s := float64(a.z[t])
			by := float32(-s * s * k.dot64(g, v) / float64(a.cols))
			if a.sum == nil {
				k.addScaled(d, g, v, by)
				continue
			}
			k.addScaled(g, g, v, by)
			k.addScaled(d, a.sum[t*a.cols:][:a.cols], g, 1)
		}
	})
}

// rotation keeps the cosines and sines of the last positions: all layers of a
// pass turn by the same angles.
type rotation struct {
	pos      []int32
	inv      []float32
	cos, sin []float32 // [tokens, headDim/2]
}

func (r *rotation) set(pos []int32, inv []float32) {
	if slices.Equal(r.pos, pos) && slices.Equal(r.inv, inv) {
		return
	}
	r.pos, r.inv = append(r.pos[:0], pos...), append(r.inv[:0], inv...)
	n := len(inv)
	r.cos, r.sin = grow(&r.cos, len(pos)*n), grow(&r.sin, len(pos)*n)
	for t, p := range pos {
		for i, f := range inv {
			s, c := math.Sincos(float64(float32(p) * f))
			r.sin[t*n+i], r.cos[t*n+i] = float32(s), float32(c)
		}
	}
}

// turns makes the rotations of rows at positions, and returns the columns of a
// head, of which cols is a multiple.
func (b *Backend) turns(op string, pos, invFreq *tensor.Tensor, rows, cols int) (head int) {
	at, inv := ints(op, pos), input(op, invFreq)
	checkLen(op, len(at), rows)
	if head = 2 * len(inv); head == 0 || cols%head != 0 {
		panic("cpu: " + op + ": width is not a multiple of twice the frequencies")
	}
	if b.err == nil {
		b.rotate.set(at, inv)
	}
	return head
}

// Rope implements [tensor.Transformer]. Angles are float32 products, as in
// Hugging Face's models; their sines are rounded from float64.
func (b *Backend) Rope(x, pos, invFreq *tensor.Tensor, inverse bool) {
	const op = "rope"
	v := output(op, x)
	rows, cols := matrix(op, x)
	b.turns(op, pos, invFreq, rows, cols)
	if b.err != nil {
		return
	}
	sign := float32(1)
	if inverse {
		sign = -1
	}
	b.split(rows, 1, float64(cols)*0.3, args{dst: v, cols: cols, scale: sign}, func(a *args, lo, hi, _ int) {
		r := &a.b.rotate
		v, half := a.dst, len(r.inv)
		for t := lo; t < hi; t++ {
			cos, sin := r.cos[t*half:][:half], r.sin[t*half:][:half]
			for h := t * a.cols; h < (t+1)*a.cols; h += 2 * half {
				a.b.k.rotate(v[h:][:half], v[h+half:][:half], cos, sin, a.scale)
			}
		}
	})
}

// newAdamW works out the constants of an update in float64.
func newAdamW(o tensor.AdamW) adamw {
	t := float64(o.Step)
	return adamw{
		gradScale: float32(o.GradScale), decay: float32(1 - o.LR*o.WeightDecay),
		beta1c: float32(1 - o.Beta1), beta2: float32(o.Beta2), beta2c: float32(1 - o.Beta2),
		step: float32(o.LR / (1 - math.Pow(o.Beta1, t))),
		root: float32(1 / math.Sqrt(1-math.Pow(o.Beta2, t))), eps: float32(o.Eps),
	}
}
