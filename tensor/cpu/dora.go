package cpu

import (
	"math"

	"pipe/tensor"
)

// dotRowsAtOnce is how many rows ScaleColsGrad sums in float32; these sums are
// added in float64, in order.
const dotRowsAtOnce = 64

// ScaleColsGrad implements [tensor.Linear]. A job takes whole rows, which lie
// together.
func (b *Backend) ScaleColsGrad(dx, dm, dy, y, s, m *tensor.Tensor) {
	const op = "scale columns gradient"
	d, g, p, q, f, w := output(op, dx), output(op, dm), input(op, dy), input(op, y), input(op, s), input(op, m)
	sameShape(op, dx, dy, y)
	rows, cols := matrix(op, dy)
	checkLen(op, len(g), cols)
	checkLen(op, len(f), cols)
	checkLen(op, len(w), cols)
	if b.err != nil {
		return
	}
	blocks := (rows + dotRowsAtOnce - 1) / dotRowsAtOnce
	parts := grow(&b.shared.panels, blocks*cols)
	b.each(blocks, float64(rows*cols)*0.6, args{dst: d, dst2: parts, x: p, y: q, z: f, rows: rows, cols: cols}, (*args).scaleColsGrad)
	b.split(cols, 16, 2+1.5*float64(blocks), args{dst: g, x: parts, y: w, rows: blocks, cols: cols}, func(a *args, lo, hi, _ int) {
		for j := lo; j < hi; j++ {
			sum := 0.0
			for i := range a.rows {
				sum += float64(a.x[i*a.cols+j])
			}
			if m := float64(a.y[j]); m != 0 || sum != 0 {
				a.dst[j] += float32(sum / m)
			}
		}
	})
}

// DoRAGrad implements [tensor.Linear].
func (b *Backend) DoRAGrad(g tensor.DoRAGrad) {
	b.ScaleColsGrad(g.DZ, g.DM, g.DY, g.Y, g.Ratio, g.M)
	b.LowRankGrad(g.DU, g.DV, g.DZ, g.U, g.V, g.Scale)
}

func (a *args) scaleColsGrad(block, _, _ int) {
	part := a.dst2[block*a.cols:][:a.cols]
	clear(part)
	for t := block * dotRowsAtOnce; t < min(a.rows, (block+1)*dotRowsAtOnce); t++ {
		at, end := t*a.cols, (t+1)*a.cols
		a.b.k.scaleDot(a.dst[at:end], part, a.x[at:end], a.y[at:end], a.z)
	}
}

// normRows is how many rows of B a job of DoRANorm takes.
const normRows = 256

// DoRANorm implements [tensor.Linear]: A·Wᵀ [r,out] as training forms it, A·Aᵀ,
// and then the norms of a few rows at a time.
func (b *Backend) DoRANorm(ratio, c, w2, w, a, bb, m *tensor.Tensor, scale float32) {
	const op = "dora norm"
	out, norm := output(op, ratio), output(op, c)
	sq, mag, x, y, wo := input(op, w2), input(op, m), input(op, a), input(op, bb), b.operand(op, w)
	wo.eight = false
	r, in := matrix(op, a)
	n := wo.rows
	checkMatrix(op, w, n, in)
	checkMatrix(op, bb, n, r)
	for _, v := range [][]float32{out, norm, sq, mag} {
		checkLen(op, len(v), n)
	}
	if b.err != nil {
		return
	}
	buf := grow(&b.shared.values, r*n+r*r)
	aw, aa := buf[:r*n], buf[r*n:]
	b.multiply(&product{m: r, n: n, k: in, c: aw, ldc: n, a: x, lda: in, w: wo, transW: true, alpha: 1, uniform: true})
	b.multiply(&product{m: r, n: r, k: in, c: aa, ldc: r, a: x, lda: in, w: operand{f: x, ld: in, rows: r, cols: in}, transW: true, alpha: 1, uniform: true})
	b.split(n, normRows, float64(2*r*r), args{dst: out, dst2: norm, x: y, y: aw, z: aa, w: mag, sq: sq, rows: r, cols: n, scale: scale}, (*args).doraNorm)
}

// doraNorm sets the norms of rows lo..hi: dst = w/dst2, dst2 = sqrt(sq +
// 2·scale·B·(A·Wᵀ) + scale²·B·(A·Aᵀ)·B) with rows of B in x, A·Wᵀ in y and A·Aᵀ
// in z.
func (a *args) doraNorm(lo, hi, thread int) {
	r, k, s := a.rows, a.b.k, float64(a.scale)
	buf := grow(&a.b.work[thread].rows, (normRows+1)*r)
	baa, wa := buf[:normRows*r], buf[normRows*r:]
	for ; lo < hi; lo += normRows {
		n := min(normRows, hi-lo)
		for j := 0; j < r; j += k.cols {
			for i, step := 0, 0; i < n; i += step {
				step = k.step(n - i)
				k.tile(step, min(k.cols, r-j), r, a.x[(lo+i)*r:], r, 1, a.z[j:], r, baa[i*r+j:], r, 1, false, ahead{})
			}
		}
		for j := lo; j < lo+n; j++ {
			for i := range wa {
				wa[i] = a.y[i*a.cols+j]
			}
			row := a.x[j*r:][:r]
			sum := float64(a.sq[j]) + 2*s*k.dot64(row, wa) + s*s*k.dot64(baa[(j-lo)*r:][:r], row)
			a.dst2[j] = float32(math.Sqrt(sum))
			a.dst[j] = float32(float64(a.w[j]) / math.Sqrt(sum))
		}
	}
}
