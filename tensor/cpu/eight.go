package cpu

import (
	"math"

	"pipe/tensor/quant"
)

// Products in 8 bits, tensor.FP8, are those of float32 with operands that are rounded
// before: scales are powers of two, so that the rounded numbers are exact.

// few reports whether p has as few rows as are computed as if each were alone.
func (p *product) few() bool { return p.m <= smallM && p.transW && !p.transA && !p.uniform }

// eight reports whether operands are rounded to 8 bits, halved whether to bfloat16.
func (p *product) eight() bool  { return p.w.eight && !p.transA && !p.few() }
func (p *product) halved() bool { return p.w.half && !p.transA && !p.eight() }

// largest returns the largest absolute value of x; of a NaN, that.
func largest(x []float32) float32 {
	var most uint32
	for _, v := range x {
		most = max(most, math.Float32bits(v)&0x7fffffff)
	}
	return math.Float32frombits(most)
}

// roundTo sets dst to x rounded to 8 bits with a scale; all is NaN if that is.
func roundTo(dst, x []float32, scale float32) {
	by := 1 / scale
	for i, v := range x {
		dst[i] = quant.RoundE4M3(v*by) * scale
	}
}

// roundEight sets dst to the row x rounded to 8 bits; unless by is nil, to that of x
// times by, divided by it again. by are powers of two.
func roundEight(dst, x, by []float32) {
	if by == nil {
		roundTo(dst, x, quant.ScaleE4M3(largest(x)))
		return
	}
	for i, v := range x {
		dst[i] = v * by[i]
	}
	roundTo(dst, dst, quant.ScaleE4M3(largest(dst)))
	for i, s := range by {
		dst[i] *= 1 / s
	}
}

// eightLeft returns rows i..i+m of a rounded to 8 bits.
func (b *Backend) eightLeft(p *product, i, m int) []float32 {
	dst := grow(&b.shared.rows, m*p.k)
	b.split(m, 1, float64(p.k)*2, args{p: p, dst: dst, first: i}, func(a *args, lo, hi, _ int) {
		for r := lo; r < hi; r++ {
			roundEight(a.dst[r*a.p.k:][:a.p.k], a.p.a[(a.first+r)*a.p.lda:][:a.p.k], a.p.w.scales)
		}
	})
	return dst
}

// scalesOf returns the scales of the rows of a weight, which a frozen one keeps.
func (b *Backend) scalesOf(o *operand) []float32 {
	m := o.weight
	if m == nil || !m.keep {
		s := grow(&b.shared.scales, o.rows)
		b.setScales(s, o)
		return s
	}
	if m.scales == nil {
		s := make([]float32, m.rows)
		b.setScales(s, &operand{dt: o.dt, f: m.f32, raw: m.raw, ld: o.ld, rows: m.rows, cols: o.cols})
		m.scales = s
	}
	return m.scales[o.first:][:o.rows]
}

func (b *Backend) setScales(s []float32, o *operand) {
	b.split(o.rows, 1, float64(o.cols), args{dst: s, o: *o}, func(a *args, lo, hi, thread int) {
		row := grow(&a.b.work[thread].row, a.o.cols)
		for r := lo; r < hi; r++ {
			a.o.expandRow(a.b.k, row, r, 0)
			a.dst[r] = quant.ScaleE4M3(largest(row))
		}
	})
}
