//go:build cuda

package gpu

import (
	"fmt"
	"math"
	"slices"
	"testing"

	"pipe/tensor"
	"pipe/tensor/tensortest"
)

func TestFewRows(t *testing.T) {
	s := newBench(t)
	const n, r, most = 150, 5, fewRows
	whole := s.b.shared
	for _, dt := range weightTypes {
		k := 2304
		switch {
		case !dt.Quantized():
			k = 1157
		case dt.Block() < 256: // rows begin anywhere, and end within a chunk
			k += dt.Block()
		}
		for _, precision := range []tensor.DType{tensor.F32, tensor.BF16} {
			wt, w := s.load(dt, s.normal(n*k), n, k)
			s.b.Precision(wt, precision)
			x, u, v, scale, bias := s.normal(most*k), s.normal(most*r), s.normal(n*r), s.normal(n), s.normal(n)
			xt, ut := s.put(x, most, k), s.put(u, most, r)
			o := tensor.MatMul{TransB: true, Alpha: 0.5, ColScale: s.put(scale, n), Bias: s.put(bias, n)}
			low := tensor.LowRank{V: s.put(v, n, r), TransV: true, Alpha: 2}
			var all []float32
			for _, m := range []int{most, most - 1, 33, 16, 9, 8, 3, 2, 1} {
				s.b.shared = whole
				if m == most-1 {
					s.b.shared = 99 << 10 // fewer rows at a time
				}
				low.U, o.LowRank = s.b.View(ut, 0, m, r), &low
				y := s.put(nan(m*n), m, n)
				s.b.MatMul(y, s.b.View(xt, 0, m, k), wt, o)
				got := s.get(y)
				if all == nil {
					all = got
					if precision == tensor.BF16 {
						x, w = rounded(x), codesRounded(dt, w)
					}
					want := refProduct(nil, x, w, m, n, k, tensor.MatMul{TransB: true, Alpha: 0.5})
					for i, l := range refProduct(nil, u, v, m, n, r, tensor.MatMul{TransB: true, Alpha: 2}) {
						want[i] = (want[i]+l)*float64(scale[i%n]) + float64(bias[i%n])
					}
					tensortest.Close(s, fmt.Sprintf("%s in %s", dt, precision), got, want, tensortest.F32)
				}
				s.same(fmt.Sprintf("%s in %s, %d rows", dt, precision, m), got, all[:m*n])
			}
		}
	}
}

func TestFewChains(t *testing.T) {
	s := newBench(t)
	defer func(n int) { busyBlocks = n }(busyBlocks)
	const n, k, m = 260, 1792, 3
	for _, dt := range []tensor.DType{tensor.BF16, tensor.Q4_1} {
		wt, w := s.load(dt, s.normal(n*k), n, k)
		s.b.Precision(wt, tensor.BF16)
		x := s.normal(m * k)
		xt := s.put(x, m, k)
		want := refProduct(nil, rounded(x), codesRounded(dt, w), m, n, k, tensor.MatMul{TransB: true, Alpha: 1})
		s.b.noWgmma = true
		for _, busyBlocks = range []int{1, 4, 12, 24} { // 1, 2, 4 and 8 chains
			y, one := s.put(nan(m*n), m, n), s.put(nan(n), 1, n)
			s.b.MatMul(y, xt, wt, tensor.MatMul{TransB: true, Alpha: 1})
			s.b.MatMul(one, s.b.View(xt, k, 1, k), wt, tensor.MatMul{TransB: true, Alpha: 1})
			got := s.get(y)
			tensortest.Close(s, fmt.Sprintf("%s, %d blocks", dt, busyBlocks), got, want, tensortest.F32)
			s.same(fmt.Sprintf("%s, %d blocks, one row", dt, busyBlocks), s.get(one), got[n:2*n])
		}
	}
}

func TestFewTiles(t *testing.T) {
	s := newBench(t)
	sms := s.b.sms
	defer func() { s.b.sms = sms }()
	for _, z := range [][2]int{{1, 8}, {130, 72}, {300, 1160}, {700, 520}, {128, 1544}} {
		n, k := z[0], z[1]
		const most, r = fewRows, 3
		wt, w := s.load(tensor.BF16, s.normal(n*k), n, k)
		other, _ := s.load(tensor.BF16, s.normal(200*k), 200, k)
		s.b.Precision(wt, tensor.BF16)
		s.b.Precision(other, tensor.BF16)
		x, u, v, scale, bias := s.normal(most*k), s.normal(most*r), s.normal(n*r), s.normal(n), s.normal(n)
		xt, ut, vt := s.put(x, most, k), s.put(u, most, r), s.put(v, n, r)
		want := refProduct(nil, rounded(x), rounded(w), most, n, k, tensor.MatMul{TransB: true, Alpha: 0.5})
		for i, l := range refProduct(nil, u, v, most, n, r, tensor.MatMul{TransB: true, Alpha: 2}) {
			want[i] = (want[i]+l)*float64(scale[i%n]) + float64(bias[i%n])
		}
		factors, added := s.put(scale, n), s.put(bias, n)
		for _, s.b.sms = range []int{1, 2, 5, 132} {
			var all []float32
			for _, m := range []int{most, most - 1, 33, 17, 8, 3, 1} {
				name := fmt.Sprintf("%v, %d blocks, %d rows", z, s.b.sms, m)
				some := s.b.View(xt, 0, m, k)
				o := tensor.MatMul{TransB: true, Alpha: 0.5, ColScale: factors, Bias: added, LowRank: &tensor.LowRank{U: s.b.View(ut, 0, m, r), V: vt, TransV: true, Alpha: 2}}
				y, beside := s.put(nan(m*n), m, n), s.put(nan(m*n), m, n)
				p := s.b.product(y, some, wt, &o)
				if !p.codes() || !s.b.streams(&p) {
					t.Fatalf("%s: of another kernel", name)
				}
				s.b.MatMul(y, some, wt, o)
				got := s.get(y)
				if all == nil {
					all = got
					tensortest.Close(s, name, got, want, tensortest.F32)
				}
				s.same(name, got, all[:m*n])
				plain := tensor.MatMul{TransB: true, Alpha: 1}
				s.b.Project(some, &tensor.Projection{Products: []tensor.Product{
					{Dst: s.put(nan(m*200), m, 200), W: other, MatMul: plain}, {Dst: beside, W: wt, MatMul: o}, {Dst: s.put(nan(m*200), m, 200), W: other, MatMul: plain},
				}})
				s.same(name+", beside others", s.get(beside), got)
			}
		}
	}
}

func codesRounded(dt tensor.DType, w []float32) []float32 {
	switch {
	case dt == tensor.NF4:
		scale := math.Float32frombits(0x3dcc0000)
		y := slices.Clone(w)
		for i := range y {
			y[i] /= scale
		}
		for i, v := range rounded(y) {
			y[i] = v * scale
		}
		return y
	case dt.Quantized():
		return w
	}
	return rounded(w)
}
