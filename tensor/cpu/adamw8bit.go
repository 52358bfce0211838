package cpu

import (
	"math"

	"pipe/tensor"
	"pipe/tensor/quant"
)

// momentMaps are the codes of first and second moments.
type momentMaps struct{ m, v *quant.Dynamic }

// moments are the stored states of an update, and its constants.
type moments struct {
	*momentMaps
	w, g       []float32
	m, v       []byte
	mMax, vMax []float32
	adamw      adamw   // without the decay
	decay      float32 // 1 - lr*wd
}

// AdamW8bit implements [tensor.Optimizer]. A block is expanded, updated as by
// AdamW while it is in the first-level cache, and rounded again.
func (b *Backend) AdamW8bit(ps []tensor.AdamWParam, o tensor.AdamW) {
	const op = "adamw8bit"
	for i := range ps {
		newMoments(op, &ps[i])
	}
	checkStep(op, o.Step)
	if b.err != nil {
		return
	}
	if b.maps == nil {
		b.maps = &momentMaps{quant.NewDynamic(true), quant.NewDynamic(false)}
	}
	for i := range ps {
		s := newMoments(op, &ps[i])
		s.momentMaps, s.adamw = b.maps, newAdamW(o.For(&ps[i]))
		s.decay, s.adamw.decay = s.adamw.decay, 1
		b.op.moments = s
		b.split(len(s.mMax), 1, 8*tensor.AdamWBlock, args{}, func(a *args, lo, hi, thread int) {
			buf := grow(&a.b.work[thread].rows, 4*tensor.AdamWBlock)
			for i := lo; i < hi; i++ {
				a.b.op.moments.step(a.b.k, i, buf)
			}
		})
	}
}

// newMoments checks p and returns what is stored.
func newMoments(op string, p *tensor.AdamWParam) moments {
	m, v := wantType(op, p.M, tensor.U8), wantType(op, p.V, tensor.U8)
	writable(op, m)
	writable(op, v)
	s := moments{w: output(op, p.W), g: input(op, p.G), m: m.raw, v: v.raw, mMax: output(op, p.MMax), vMax: output(op, p.VMax)}
	sameShape(op, p.W, p.G, p.M, p.V)
	blocks := tensor.AdamWBlocks(len(s.w))
	checkLen(op, len(s.mMax), blocks)
	checkLen(op, len(s.vMax), blocks)
	return s
}

// step updates block i.
func (s *moments) step(k *kernels, i int, buf []float32) {
	const size = tensor.AdamWBlock
	from, to := i*size, min((i+1)*size, len(s.w))
	w, g, mc, vc := s.w[from:to], s.g[from:to], s.m[from:to], s.v[from:to]
	m, v := buf[:len(w)], buf[size:][:len(w)]
	decode(s.momentMaps.m, m, mc, s.mMax[i])
	decode(s.momentMaps.v, v, vc, s.vMax[i])
	// Squares of finite float32 numbers do not overflow in float64.
	norm := math.Sqrt(k.dot64(g, g)) * math.Abs(float64(s.adamw.gradScale))
	if norm < math.MaxFloat32 {
		s.update(k, w, g, m, v)
	} else {
		s.updateFinite(k, w, g, m, v, buf[2*size:][:len(w)], buf[3*size:][:len(w)])
	}
	s.mMax[i], s.vMax[i] = absMax(k, m, buf[2*size:]), absMax(k, v, buf[2*size:])
	encode(s.momentMaps.m, mc, m, s.mMax[i])
	encode(s.momentMaps.v, vc, v, s.vMax[i])
}

func (s *moments) update(k *kernels, w, g, m, v []float32) {
	k.adamw(w, g, m, v, &s.adamw)
	if s.decay != 1 {
		k.scale(w, w, s.decay)
	}
}

// updateFinite is update for the elements whose scaled gradient is finite.
func (s *moments) updateFinite(k *kernels, w, g, m, v, gs, ws []float32) {
	copy(ws, w)
	copy(gs, g)
	finite := func(j int) bool {
		x := g[j] * s.adamw.gradScale
		return x-x == 0
	}
	for j := range gs {
		if !finite(j) {
			gs[j], m[j], v[j] = 0, 0, 0
		}
	}
	s.update(k, w, gs, m, v)
	for j := range gs {
		if !finite(j) {
			w[j] = ws[j]
		}
	}
}

// absMax returns the largest absolute value of x, NaN if there is one.
func absMax(k *kernels, x, buf []float32) float32 {
	if s := k.dot64(x, x); s != s {
		return float32(s)
	}
	k.scale(buf[:len(x)], x, -1)
	return max(k.max(x), k.max(buf[:len(x)]))
}

// decode sets x to what codes stand for, times most.
func decode(d *quant.Dynamic, x []float32, codes []byte, most float32) {
	x = x[:len(codes)]
	for j, c := range codes {
		x[j] = d.Values[c] * most
	}
}

// encode sets codes to those of x/most. A negative number that would round to
// 0 has the first negative code.
func encode(d *quant.Dynamic, codes []byte, x []float32, most float32) {
	x = x[:len(codes)]
	for j, v := range x {
		c := d.Zero
		if most != 0 {
			c = d.Code(v / most)
		}
		if v < 0 && c == d.Zero {
			c--
		}
		codes[j] = c
	}
}
