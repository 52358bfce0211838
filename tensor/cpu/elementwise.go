package cpu

import "pipe/tensor"

// rowCost is the nanoseconds of one call of a kernel on a row, each of whose
// elements takes so many.
func rowCost(cols int, each float64) float64 { return 8 + each*float64(cols) }

// Add implements [tensor.Linear].
func (b *Backend) Add(dst, x, y *tensor.Tensor, scale float32) {
	const op = "add"
	d, p, q := output(op, dst), input(op, x), input(op, y)
	sameShape(op, dst, x, y)
	if b.err != nil {
		return
	}
	b.split(len(d), 16, 0.3, args{dst: d, x: p, y: q, scale: scale}, func(a *args, lo, hi, _ int) {
		a.b.k.addScaled(a.dst[lo:hi], a.x[lo:hi], a.y[lo:hi], a.scale)
	})
}

// AddRow implements [tensor.Linear].
func (b *Backend) AddRow(dst, r *tensor.Tensor) {
	const op = "add row"
	d, v := output(op, dst), input(op, r)
	rows, cols := matrix(op, dst)
	checkLen(op, len(v), cols)
	if b.err != nil {
		return
	}
	b.split(rows, 1, float64(cols)*0.3, args{dst: d, x: v, cols: cols}, func(a *args, lo, hi, _ int) {
		for t := lo; t < hi; t++ {
			row := a.dst[t*a.cols:][:a.cols]
			a.b.k.addScaled(row, row, a.x, 1)
		}
	})
}

// ColSum implements [tensor.Linear].
func (b *Backend) ColSum(dst, x *tensor.Tensor) {
	const op = "column sums"
	d, v := output(op, dst), input(op, x)
	rows, cols := matrix(op, x)
	checkLen(op, len(d), cols)
	if b.err != nil {
		return
	}
	b.split(cols, 16, float64(rows), args{dst: d, x: v, rows: rows, cols: cols}, func(a *args, lo, hi, thread int) {
		sum := grow(&a.b.work[thread].wide, hi-lo)
		clear(sum)
		for t := range a.rows {
			for j, v := range a.x[t*a.cols+lo:][:len(sum)] {
				sum[j] += float64(v)
			}
		}
		for j, s := range sum {
			a.dst[lo+j] += float32(s)
		}
	})
}

// Dropout implements [tensor.Linear]. Element i is kept when a 24-bit uniform
// number, the top of SplitMix64's output i+1 from state seed, is at least p.
func (b *Backend) Dropout(dst, x *tensor.Tensor, p float32, seed uint64) {
	const op = "dropout"
	d, v := output(op, dst), input(op, x)
	sameShape(op, dst, x)
	if !(p >= 0 && p < 1) {
		panic("cpu: dropout: p must be at least 0 and below 1")
	}
	if b.err != nil {
		return
	}
	b.split(len(d), 1, 1.5, args{dst: d, x: v, scale: p, seed: seed}, func(a *args, lo, hi, _ int) {
		p, seed, scale := a.scale, a.seed, 1/(1-a.scale)
		d, v := a.dst[lo:hi], a.x[lo:hi]
		for i := range d {
			if uniform(seed, lo+i) >= p {
				d[i] = scale * v[i]
			} else {
				d[i] = 0
			}
		}
	})
}

// uniform returns number i of a sequence in [0, 1) (Steele et al. 2014,
// SplitMix64).
func uniform(seed uint64, i int) float32 {
	z := seed + uint64(i+1)*0x9e3779b97f4a7c15
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	return float32((z^z>>31)>>40) * 0x1p-24
}

// ScaleCols implements [tensor.Linear].
func (b *Backend) ScaleCols(dst, x, s *tensor.Tensor) {
	const op = "scale columns"
	d, v, f := output(op, dst), input(op, x), input(op, s)
	sameShape(op, dst, x)
	rows, cols := matrix(op, x)
	checkLen(op, len(f), cols)
	if b.err != nil {
		return
	}
	b.split(rows, 1, rowCost(cols, 0.3), args{dst: d, x: v, y: f, cols: cols}, func(a *args, lo, hi, _ int) {
		for t := lo; t < hi; t++ {
			a.b.k.mul(a.dst[t*a.cols:][:a.cols], a.x[t*a.cols:][:a.cols], a.y, 1)
		}
	})
}

// ScaleRows implements [tensor.Linear].
func (b *Backend) ScaleRows(dst, x, s *tensor.Tensor) {
	const op = "scale rows"
	d, v, f := output(op, dst), input(op, x), input(op, s)
	sameShape(op, dst, x)
	rows, cols := matrix(op, x)
	checkLen(op, len(f), rows)
	if b.err != nil {
		return
	}
	b.split(rows, 1, rowCost(cols, 0.3), args{dst: d, x: v, y: f, cols: cols}, func(a *args, lo, hi, _ int) {
		for t := lo; t < hi; t++ {
			a.b.k.scale(a.dst[t*a.cols:][:a.cols], a.x[t*a.cols:][:a.cols], a.y[t])
		}
	})
}

// RowSquares implements [tensor.Linear].
func (b *Backend) RowSquares(dst, w *tensor.Tensor) {
	const op = "row squares"
	d, o := output(op, dst), b.operand(op, w)
	checkLen(op, len(d), o.rows)
	if b.err != nil {
		return
	}
	b.split(o.rows, 1, float64(o.cols), args{dst: d, o: o}, func(a *args, lo, hi, thread int) {
		row := grow(&a.b.work[thread].rows, a.o.cols)
		for j := lo; j < hi; j++ {
			a.o.expandRow(a.b.k, row, j, 0)
			a.dst[j] = float32(a.b.k.dot64(row, row))
		}
	})
}

// Dequantize implements [tensor.Linear].
func (b *Backend) Dequantize(dst, src *tensor.Tensor) {
	const op = "dequantize"
	d, o := output(op, dst), b.operand(op, src)
	sameShape(op, dst, src)
	if b.err != nil {
		return
	}
	b.split(o.rows, 1, float64(o.cols), args{dst: d, o: o}, func(a *args, lo, hi, _ int) {
		for r := lo; r < hi; r++ {
			a.o.expandRow(a.b.k, a.dst[r*a.o.cols:][:a.o.cols], r, 0)
		}
	})
}

// SwiGLU implements [tensor.Transformer].
func (b *Backend) SwiGLU(dst, gate, up *tensor.Tensor) {
	const op = "swiglu"
	d, g, u := output(op, dst), input(op, gate), input(op, up)
	sameShape(op, dst, gate, up)
	if b.err == nil {
		b.swiglu(d, g, u)
	}
}

func (b *Backend) swiglu(dst, gate, up []float32) {
	b.split(len(dst), 16, 1, args{dst: dst, x: gate, y: up}, func(a *args, lo, hi, _ int) {
		a.b.k.swiglu(a.dst[lo:hi], a.x[lo:hi], a.y[lo:hi])
	})
}

// SwiGLUGrad implements [tensor.Transformer].
func (b *Backend) SwiGLUGrad(dgate, dup, gate, up, dy *tensor.Tensor) {
	const op = "swiglu gradient"
	dg, du := output(op, dgate), output(op, dup)
	g, u, y := input(op, gate), input(op, up), input(op, dy)
	sameShape(op, dgate, dup, gate, up, dy)
	if b.err != nil {
		return
	}
	b.split(len(dg), 16, 1.5, args{dst: dg, dst2: du, x: g, y: u, z: y}, func(a *args, lo, hi, _ int) {
		a.b.k.swigluGrad(a.dst[lo:hi], a.dst2[lo:hi], a.x[lo:hi], a.y[lo:hi], a.z[lo:hi])
	})
}
