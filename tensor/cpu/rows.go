package cpu

import (
	"fmt"

	"pipe/tensor"
)

// Embed implements [tensor.Transformer].
func (b *Backend) Embed(dst, table, ids *tensor.Tensor) {
	const op = "embed"
	d, o, idx := output(op, dst), b.operand(op, table), ints(op, ids)
	checkMatrix(op, dst, len(idx), o.cols)
	if b.err != nil || !b.checkIndex(op, idx, o.rows) {
		return
	}
	b.split(len(idx), 1, float64(o.cols), args{dst: d, o: o, ids: idx}, func(a *args, lo, hi, _ int) {
		for t := lo; t < hi; t++ {
			a.o.expandRow(a.b.k, a.dst[t*a.o.cols:][:a.o.cols], int(a.ids[t]), 0)
		}
	})
}

// EmbedGrad implements [tensor.Transformer].
func (b *Backend) EmbedGrad(dtable, ids, dy *tensor.Tensor) {
	b.addRows("embed gradient", dtable, dy, ids)
}

// GatherRows implements [tensor.Transformer].
func (b *Backend) GatherRows(dst, x, idx *tensor.Tensor) {
	const op = "gather rows"
	input(op, x)
	b.gather(op, dst, x, idx)
}

func (b *Backend) gather(op string, dst, x, idx *tensor.Tensor) {
	d, s, at := output(op, dst), input(op, x), ints(op, idx)
	rows, cols := matrix(op, x)
	checkMatrix(op, dst, len(at), cols)
	if b.err != nil || !b.checkIndex(op, at, rows) {
		return
	}
	for i, r := range at {
		copy(d[i*cols:][:cols], s[int(r)*cols:])
	}
}

// ScatterRows implements [tensor.Transformer].
func (b *Backend) ScatterRows(dst, src, idx *tensor.Tensor) {
	const op = "scatter rows"
	m, s, at := mem(op, dst), input(op, src), ints(op, idx)
	writable(op, m)
	if dst.DType != tensor.F32 && dst.DType != tensor.BF16 {
		panic(fmt.Sprintf("cpu: %s: the result is %s; must be f32 or bf16", op, dst.DType))
	}
	rows, cols := matrix(op, dst)
	checkMatrix(op, src, len(at), cols)
	if b.err != nil || !b.checkIndex(op, at, rows) {
		return
	}
	// Each thread takes some of the columns; rows of a cache are seldom in the
	// caches of a processor.
	o := operand{dt: dst.DType, f: m.f32, raw: m.raw}
	b.split(cols, 64, float64(len(at))*5, args{o: o, x: s, ids: at, cols: cols}, func(a *args, lo, hi, _ int) {
		for i, r := range a.ids {
			row, to := a.x[i*a.cols+lo:i*a.cols+hi], int(r)*a.cols+lo
			if a.o.dt == tensor.F32 {
				copy(a.o.f[to:], row)
			} else {
				a.b.k.roundBF16(a.o.raw[2*to:][:2*len(row)], row)
			}
		}
	})
}

// ScatterAddRows implements [tensor.Transformer].
func (b *Backend) ScatterAddRows(dst, src, idx *tensor.Tensor) {
	b.addRows("scatter add rows", dst, src, idx)
}

// addRows adds row i of src to row idx[i] of dst, in order of i: each thread
// takes some of the columns.
func (b *Backend) addRows(op string, dst, src, idx *tensor.Tensor) {
	d, s, at := output(op, dst), input(op, src), ints(op, idx)
	rows, cols := matrix(op, dst)
	checkMatrix(op, src, len(at), cols)
	if b.err != nil || !b.checkIndex(op, at, rows) {
		return
	}
	b.split(cols, 16, float64(len(at))*0.5, args{dst: d, x: s, ids: at, cols: cols}, func(a *args, lo, hi, _ int) {
		for i, r := range a.ids {
			row := a.dst[int(r)*a.cols+lo : int(r)*a.cols+hi]
			a.b.k.addScaled(row, row, a.x[i*a.cols+lo:i*a.cols+hi], 1)
		}
	})
}

// squares is how many numbers are squared and added up at a time.
const squares = 1 << 15

// SumSquares implements [tensor.Optimizer].
func (b *Backend) SumSquares(dst *tensor.Tensor, xs ...*tensor.Tensor) {
	const op = "sum of squares"
	d := output(op, dst)
	checkLen(op, len(d), 1)
	for _, x := range xs {
		input(op, x)
	}
	for _, x := range xs {
		b.sumSquares(d, input(op, x))
	}
}

func (b *Backend) sumSquares(d, v []float32) {
	if b.err != nil || len(v) == 0 {
		return
	}
	n := (len(v) + squares - 1) / squares
	parts := grow(&b.shared.wide, n)
	b.split(n, 1, squares*0.3, args{wide: parts, x: v}, func(a *args, lo, hi, _ int) {
		for i := lo; i < hi; i++ {
			v := a.x[i*squares : min(len(a.x), (i+1)*squares)]
			a.wide[i] = a.b.k.dot64(v, v)
		}
	})
	sum := float64(d[0])
	for _, s := range parts {
		sum += s
	}
	d[0] = float32(sum)
}

// AdamW implements [tensor.Optimizer].
func (b *Backend) AdamW(ps []tensor.AdamWParam, o tensor.AdamW) {
	const op = "adamw"
	for i := range ps {
		p := &ps[i]
		output(op, p.W)
		input(op, p.G)
		output(op, p.M)
		output(op, p.V)
		sameShape(op, p.W, p.G, p.M, p.V)
	}
	checkStep(op, o.Step)
	if b.err != nil {
		return
	}
	for i := range ps {
		p := &ps[i]
		b.op.adamw = newAdamW(o.For(p))
		w, g, m, v := output(op, p.W), input(op, p.G), output(op, p.M), output(op, p.V)
		b.split(len(w), 16, 1, args{dst: w, x: g, y: m, z: v}, func(a *args, lo, hi, _ int) {
			a.b.k.adamw(a.dst[lo:hi], a.x[lo:hi], a.y[lo:hi], a.z[lo:hi], &a.b.op.adamw)
		})
	}
}

func checkStep(op string, step int) {
	if step < 1 {
		panic(fmt.Sprintf("cpu: %s: step is %d; must be 1 or more", op, step))
	}
}
