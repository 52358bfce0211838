//go:build cuda

package gpu

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"

	"pipe/tensor"
	"pipe/tensor/quant"
	"pipe/tensor/tensortest"
)

// eightRounded returns x with its rows of n numbers rounded to 8 bits, and their scales.
func eightRounded(x []float32, n int) (y, scales []float32) {
	for lo := 0; lo < len(x); lo += n {
		var most float32
		for _, v := range x[lo : lo+n] {
			most = max(most, float32(math.Abs(float64(v))))
		}
		s := quant.ScaleE4M3(most)
		scales = append(scales, s)
		for _, v := range x[lo : lo+n] {
			y = append(y, quant.RoundE4M3(v/s)*s)
		}
	}
	return y, scales
}

// newEightBench is newBench for a device that has products in 8 bits.
func newEightBench(t *testing.T) *bench {
	t.Helper()
	s := newBench(t)
	if err := s.b.HasPrecision(tensor.FP8); err != nil {
		t.Skip(err)
	}
	return s
}

// eightSums is the tolerance of sums of products in 8 bits.
func (s *bench) eightSums(r int) tensortest.Tolerance {
	switch {
	case !s.b.emulated:
		return tensortest.FP8
	case r > 0:
		return lowHalf
	}
	return tensortest.F32
}

// TestEightProducts: all kinds of kernels, at sizes around those of tiles and steps,
// also where sums are split; pairs of blocks change no bit.
func TestEightProducts(t *testing.T) {
	s := newEightBench(t)
	for _, z := range [][4]int{{65, 63, 8, 0}, {129, 130, 257, 3}, {130, 257, 130, 40}, {70, 1030, 200, 8}, {66, 64, 2072, 3}} {
		m, n, k, r := z[0], z[1], z[2], z[3]
		for _, trans := range []bool{true, false} {
			a, w := s.normal(m*k), s.normal(n*k)
			wt, _ := s.load(tensor.BF16, w, shape(trans, k, n)...)
			w = rounded(w)
			at, h := s.put(a, m, k), a
			if m%2 == 0 {
				at, h = s.half(a, m, k)
			}
			s.b.Precision(wt, tensor.FP8)
			o := tensor.MatMul{TransB: trans, Alpha: 0.7}
			w8, scales := eightRounded(w, wt.Shape[1])
			x := slices.Clone(h)
			if !trans { // the scales of the rows of w are in it
				for i := range x {
					x[i] *= scales[i%k]
				}
			}
			x, _ = eightRounded(x, k)
			if !trans {
				for i := range x {
					x[i] /= scales[i%k]
				}
			}
			want := refProduct(nil, x, w8, m, n, k, o)
			if r > 0 {
				u, v := s.normal(m*r), s.normal(n*r)
				o.LowRank = &tensor.LowRank{U: s.put(u, m, r), V: s.put(v, n, r), TransV: true, Alpha: -1.3}
				for i, y := range refProduct(nil, u, v, m, n, r, tensor.MatMul{TransB: true, Alpha: -1.3}) {
					want[i] += y
				}
			}
			var tiles [2][]float32 // whole, and in parts
			for _, kind := range []string{"tiles", "other tiles", "mma"} {
				s.b.noWgmma, s.b.group = kind == "mma", 0
				if kind == "other tiles" {
					s.b.group = 1
				}
				for i := range tiles {
					if o.Uniform = i == 0; !o.Uniform && k < 2048 {
						continue
					}
					name := fmt.Sprintf("%s %v, transposed %v, uniform %v", kind, z, trans, o.Uniform)
					y := s.put(nan(m*n), m, n)
					s.b.MatMul(y, at, wt, o)
					got := s.get(y)
					tensortest.Close(s, name, got, want, s.eightSums(r))
					switch kind {
					case "tiles":
						tiles[i] = got
					case "other tiles":
						s.same(name, got, tiles[i])
					}
				}
			}
			s.b.noWgmma, s.b.group = false, 0
		}
	}
}

// TestEightFused: what follows a product in 8 bits, by the kernel that stores it and by
// itself.
func TestEightFused(t *testing.T) {
	s := newEightBench(t)
	if !s.b.wgmma() {
		t.Skip("for sm_90")
	}
	const m, k = 70, 136
	for _, c := range []struct{ n, half int }{{1024, 128}, {640, 64}, {256, 0}} {
		w, _ := s.load(tensor.BF16, s.normal(c.n*k), c.n, k)
		s.b.Precision(w, tensor.FP8)
		x, gate, up := s.put(s.normal(m*k), m, k), s.normal(m*c.n), s.normal(m*c.n)
		o := tensor.MatMul{TransB: true, Alpha: 0.5, Uniform: true, ColScale: s.put(s.normal(c.n), c.n), Bias: s.put(s.normal(c.n), c.n)}
		if c.half > 0 {
			pos := s.alloc(tensor.I32, m)
			s.b.UploadInts(pos, make([]int32, m))
			o.Rope = &tensor.Rope{Positions: pos, InvFreq: s.put(s.normal(c.half), c.half)}
		}
		var results [2][]float32
		for i := range results {
			s.b.noWgmma = i > 0
			q, y, du := o, s.put(nan(m*c.n), m, c.n), s.put(nan(m*c.n), m, c.n)
			if c.half == 0 {
				q.SwiGLUGrad = &tensor.SwiGLUGrad{DGate: y, DUp: du, Gate: s.put(gate, m, c.n), Up: s.put(up, m, c.n)}
			}
			p := s.b.product(y, x, w, &q)
			if got := s.b.fuses(&p); got != (i == 0) {
				t.Fatalf("%v: fused %v", c, got)
			}
			s.b.MatMul(y, x, w, q)
			results[i] = append(s.get(y), s.get(du)...)
			if c.half > 0 {
				results[i] = results[i][:m*c.n]
			}
		}
		s.b.noWgmma = false
		want := make([]float64, len(results[1]))
		for i, v := range results[1] {
			want[i] = float64(v)
		}
		tensortest.Close(s, fmt.Sprint(c), results[0], want, s.eightSums(0))
	}
}

// TestEightKeeps: codes of plain weights are kept, once, and given back; those of
// weights in blocks are made each time. When there is no memory for them, they are
// made each time too.
func TestEightKeeps(t *testing.T) {
	s := newEightBench(t)
	const m, out, in = 70, 96, 256
	x, y, dx := s.put(s.normal(m*in), m, in), s.alloc(tensor.F32, m, out), s.alloc(tensor.F32, m, in)
	var first [2][]float32
	for _, dt := range []tensor.DType{tensor.BF16, tensor.Q8_0} {
		w, _ := s.load(dt, s.normal(out*in), out, in)
		s.b.Precision(w, tensor.FP8)
		both := func() {
			s.b.MatMul(y, x, w, tensor.MatMul{TransB: true, Alpha: 1})
			s.b.MatMul(dx, y, w, tensor.MatMul{Alpha: 1})
		}
		mw := mem("test", w)
		both()
		kept := dt == tensor.BF16
		codes, turned := mw.codes, mw.turned
		if kept != (codes != 0) || kept != (turned != 0) {
			t.Errorf("%s: codes at %#x and %#x", dt, codes, turned)
		}
		both()
		if mw.codes != codes || mw.turned != turned {
			t.Errorf("%s: codes are made again", dt)
		}
		if !kept {
			break
		}
		first = [2][]float32{s.get(y), s.get(dx)}
		s.b.Precision(w, tensor.FP8)
		if mw.codes != 0 || mw.turned != 0 {
			t.Error("codes are kept for another precision")
		}
		if s.b.emulated {
			for _, fail := range []string{"cuMemAlloc_v2:1", "cuMemAlloc_v2:1,cuMemAlloc_v2:3", "cuMemAlloc_v2:2"} {
				s.b.Precision(w, tensor.FP8)
				t.Setenv("PIPE_EMU_FAIL", fail)
				both()
				t.Setenv("PIPE_EMU_FAIL", "")
				s.same(fail+", product", s.get(y), first[0])
				s.same(fail+", gradient", s.get(dx), first[1])
			}
		}
	}
	plan := planned()
	w, _ := plan.Load(tensor.BF16, nil, out, in)
	plan.Precision(w, tensor.FP8)
	px, _ := plan.Alloc(tensor.F32, m, in)
	py, _ := plan.Alloc(tensor.F32, m, out)
	plan.MatMul(py, px, w, tensor.MatMul{TransB: true, Alpha: 1})
	plan.MatMul(px, py, w, tensor.MatMul{Alpha: 1})
	if got, want := plan.counts.tally.Of(tensor.ForPanels), granted(out*in+4*out)+granted(out*in); got != want {
		t.Errorf("the plan has %d bytes of codes; want %d", got, want)
	}
}

// TestEightRefused: a device without products in 8 bits says so.
func TestEightRefused(t *testing.T) {
	s := newBench(t)
	for at, want := range map[[2]int]bool{{8, 0}: false, {8, 6}: false, {8, 9}: true, {9, 0}: true, {10, 0}: true, {12, 1}: true} {
		err := Info{Device: "a GPU", Major: at[0], Minor: at[1]}.HasPrecision(tensor.FP8)
		if (err == nil) != want {
			t.Errorf("%v: %v", at, err)
		}
		if !want {
			s.b.noEight = err
		}
	}
	if tensor.HasPrecision(s.b, tensor.FP8) == nil || tensor.HasPrecision(s.b.Plan(), tensor.FP8) == nil || tensor.HasPrecision(s.b, tensor.BF16) != nil {
		t.Error("the backend or its plan does not say what it can")
	}
	w := s.alloc(tensor.F32, 8, 8)
	s.b.Precision(w, tensor.BF16)
	if err := s.b.Sync(); err != nil {
		t.Fatal(err)
	}
	s.b.Precision(w, tensor.FP8)
	if err := s.b.Sync(); err == nil || !strings.Contains(err.Error(), "8.9 or newer") {
		t.Error(err)
	}
}
