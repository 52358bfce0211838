package cpu

import (
	"math"
	"slices"

	"pipe/tensor"
)

// RMSNorm implements [tensor.Transformer].
func (b *Backend) RMSNorm(dst, rstd, x, w *tensor.Tensor, eps float32) {
	const op = "rmsnorm"
	d, r, v, g := output(op, dst), output(op, rstd), input(op, x), input(op, w)
	sameShape(op, dst, x)
	rows, cols := matrix(op, x)
	checkLen(op, len(r), rows)
	checkLen(op, len(g), cols)
	if b.err != nil {
		return
	}
	b.split(rows, 1, float64(cols)*0.5, args{dst: d, dst2: r, x: v, w: g, cols: cols, scale: eps}, func(a *args, lo, hi, _ int) {
		for t := lo; t < hi; t++ {
			v, r := a.x[t*a.cols:][:a.cols], a.dst2
			mean := a.b.k.dot64(v, v) / float64(a.cols)
			r[t] = float32(1 / math.Sqrt(mean+float64(a.scale)))
			a.b.k.mul(a.dst[t*a.cols:][:a.cols], v, a.w, r[t])
		}
	})
}

// RMSNormGrad implements [tensor.Transformer]. With n columns,
// dx = rstd·(w⊙dy) - x·(rstd³/n)·Σ w⊙dy⊙x and dw = Σ dy⊙x·rstd.
func (b *Backend) RMSNormGrad(dx, dw, x, w, rstd, dy *tensor.Tensor) {
	const op = "rmsnorm gradient"
	d, v, g, r, y := output(op, dx), input(op, x), input(op, w), input(op, rstd), input(op, dy)
	sameShape(op, dx, x, dy)
	rows, cols := matrix(op, x)
	checkLen(op, len(r), rows)
	checkLen(op, len(g), cols)
	var dg []float32
	if dw != nil {
		dg = output(op, dw)
		checkLen(op, len(dg), cols)
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
	b.split(rows, 1, float64(cols), args{dst: d, x: v, y: y, z: r, w: g, cols: cols}, func(a *args, lo, hi, _ int) {
		for t := lo; t < hi; t++ {
			d, v := a.dst[t*a.cols:][:a.cols], a.x[t*a.cols:][:a.cols]
			a.b.k.mul(d, a.y[t*a.cols:][:a.cols], a.w, a.z[t])
			s := float64(a.z[t])
			a.b.k.addScaled(d, d, v, float32(-s*s*a.b.k.dot64(d, v)/float64(a.cols)))
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

// Rope implements [tensor.Transformer]. Angles are float32 products, as in
// Hugging Face's models; their sines are rounded from float64.
func (b *Backend) Rope(x, pos, invFreq *tensor.Tensor, inverse bool) {
	const op = "rope"
	v, at, inv := output(op, x), ints(op, pos), input(op, invFreq)
	rows, cols := matrix(op, x)
	checkLen(op, len(at), rows)
	half := len(inv)
	if half == 0 || cols%(2*half) != 0 {
		panic("cpu: rope: width is not a multiple of twice the frequencies")
	}
	if b.err != nil {
		return
	}
	b.rotate.set(at, inv)
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
