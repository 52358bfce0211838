package cpu

import (
	"fmt"
	"math"
	"slices"
	"testing"

	"pipe/tensor"
	"pipe/tensor/quant"
	"pipe/tensor/tensortest"
)

// accelerate returns both tables, or skips.
func accelerate(t *testing.T) (slow, fast *kernels) {
	t.Helper()
	if fast = accelerated(""); fast == nil {
		t.Skip("this processor has no accelerated kernels")
	}
	return portable(), fast
}

// Lengths around the kernels' groups of 4, 8, 16 and 32.
var lengths = []int{1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 23, 31, 32, 33, 63, 64, 65, 100, 129}

// odd returns n numbers of which some are NaN, infinite, -0 and denormal.
func odd(n, seed int) []float32 {
	x := wave(n + seed)[seed:]
	special := []float32{float32(math.NaN()), float32(math.Inf(1)), float32(math.Inf(-1)), float32(math.Copysign(0, -1)), 1e-41, -3e-42, 0, 3e38}
	for i := range x {
		if h := uniform(uint64(seed), i); h < 0.3 {
			x[i] = special[int(h*1e6)%len(special)]
		}
	}
	return x
}

// agree compares element by element: the same class of number, and finite
// ones within rel, or, for sums, within abs.
func agree(t *testing.T, name string, got, want []float32, rel, abs float64) {
	t.Helper()
	for i := range want {
		g, w := float64(got[i]), float64(want[i])
		switch {
		case math.IsNaN(w) && math.IsNaN(g), g == w && math.Signbit(g) == math.Signbit(w):
		case math.Abs(w) > 3e38 && math.Abs(g) > 3e38 && math.Signbit(g) == math.Signbit(w): // one may round to infinity
		case !(math.Abs(g-w) <= rel*math.Abs(w)+abs):
			t.Fatalf("%s: element %d of %d is %v; portable %v", name, i, len(want), g, w)
		}
	}
}

// guarded returns a copy of x with room behind it that check wants unchanged.
func guarded(x []float32) (s []float32, check func(t *testing.T, name string)) {
	all := append(append([]float32{}, x...), make([]float32, 40)...)
	for i := len(x); i < len(all); i++ {
		all[i] = 12345
	}
	return all[:len(x):len(x)], func(t *testing.T, name string) {
		t.Helper()
		for i, v := range all[len(x):] {
			if v != 12345 {
				t.Fatalf("%s: wrote %d elements past the end", name, i+1)
			}
		}
	}
}

func TestElementwiseParity(t *testing.T) {
	slow, fast := accelerate(t)
	type inputs [5][]float32
	for _, c := range []struct {
		name     string
		rel, abs float64
		outs     int // of the first slices
		run      func(k *kernels, x inputs)
	}{
		{"add scaled", 1e-6, 1e-7, 1, func(k *kernels, x inputs) { k.addScaled(x[0], x[1], x[2], -0.7) }},
		{"add scaled in place", 1e-6, 1e-7, 1, func(k *kernels, x inputs) { k.addScaled(x[0], x[0], x[2], 1) }},
		{"scale", 0, 0, 1, func(k *kernels, x inputs) { k.scale(x[0], x[1], 1.3) }},
		{"mul", 0, 0, 1, func(k *kernels, x inputs) { k.mul(x[0], x[1], x[2], -1.3) }},
		{"add mul", 1e-6, 1e-7, 1, func(k *kernels, x inputs) { k.addMul(x[0], x[1], x[2], 0.3) }},
		{"scale and dot", 1e-6, 1e-7, 2, func(k *kernels, x inputs) { k.scaleDot(x[0], x[1], x[2], x[3], x[4]) }},
		{"scale and dot over x", 1e-6, 1e-7, 2, func(k *kernels, x inputs) { k.scaleDot(x[0], x[1], x[0], x[3], x[4]) }},
		{"rotate", 0, 0, 2, func(k *kernels, x inputs) { k.rotate(x[0], x[1], x[2], x[3], -1) }},
		{"exp", 3e-7, 1.5e-45, 1, func(k *kernels, x inputs) { k.exp(x[0], x[1], 0.5) }},
		{"swiglu", 1e-6, 1e-44, 1, func(k *kernels, x inputs) { k.swiglu(x[0], x[1], x[2]) }},
		{"swiglu gradient", 2e-6, 1e-6, 2, func(k *kernels, x inputs) { k.swigluGrad(x[0], x[1], x[2], x[3], x[4]) }},
		{"score gradient", 0, 0, 1, func(k *kernels, x inputs) { k.scoreGrad(x[0], x[1], 0.2, 0.125) }},
		{"adamw", 2e-6, 1e-6, 3, func(k *kernels, x inputs) {
			c := newAdamW(tensor.AdamW{LR: 0.1, Beta1: 0.9, Beta2: 0.99, Eps: 1e-8, WeightDecay: 0.1, GradScale: 0.5, Step: 3})
			k.adamw(x[0], x[3], x[1], x[2], &c)
		}},
	} {
		for _, n := range append([]int{0}, lengths...) {
			for _, special := range []bool{false, true} {
				var x, y inputs
				var checks []func(*testing.T, string)
				for i := range x {
					v := wave(n + i)[i:]
					if special && !(c.name == "adamw" && i < 3) {
						v = odd(n, i+1)
					}
					if c.name == "adamw" && i == 2 {
						for j := range v {
							v[j] = float32(math.Abs(float64(v[j])))
						}
					}
					x[i] = append([]float32{}, v...)
					s, check := guarded(v)
					y[i], checks = s, append(checks, check)
				}
				c.run(slow, x)
				c.run(fast, y)
				for i := range c.outs {
					agree(t, fmt.Sprintf("%s, result %d", c.name, i), y[i], x[i], c.rel, c.abs)
					checks[i](t, c.name)
				}
			}
		}
	}
}

func TestExpParity(t *testing.T) {
	for name, k := range tables() {
		var x, want []float32
		for v := -110.0; v < 95; v += 0.0137 {
			x = append(x, float32(v))
			want = append(want, float32(math.Exp(float64(float32(v)))))
		}
		inf := float32(math.Inf(1))
		x = append(x, -inf, inf, float32(math.NaN()), 0, float32(math.Copysign(0, -1)), 1e-42, 3e38, -3e38)
		want = append(want, 0, inf, float32(math.NaN()), 1, 1, 1, inf, 0)
		got := make([]float32, len(x))
		k.exp(got, x, 0)
		agree(t, name, got, want, 2.4e-7, 1.5e-45)
		for _, n := range lengths {
			v := wave(n)
			var sum float64
			for _, v := range v {
				sum += math.Exp(float64(v) - 0.25)
			}
			s := k.exp(make([]float32, n), v, 0.25)
			tensortest.Close(t, name+": sum", []float32{s}, []float64{sum}, tensortest.F32)
		}
	}
}

func TestReductionParity(t *testing.T) {
	slow, fast := accelerate(t)
	for _, n := range append([]int{0}, lengths...) {
		x, y := wave(n), wave(n + 3)[3:]
		agree(t, "dot", []float32{fast.dot(x, y)}, []float32{slow.dot(x, y)}, 1e-5, 1e-6)
		if g, w := fast.dot64(x, y), slow.dot64(x, y); !(math.Abs(g-w) <= 1e-13*float64(n)) {
			t.Fatalf("dot64 of %d: %v; portable %v", n, g, w)
		}
		for seed := range 6 {
			if o := odd(n, seed); fast.max(o) != slow.max(o) {
				t.Fatalf("max of %v: %v; portable %v", o, fast.max(o), slow.max(o))
			}
		}
		for i := range n { // one NaN anywhere
			z := append([]float32{}, x...)
			z[i] = float32(math.NaN())
			if v := fast.dot(z, y); v == v {
				t.Fatalf("dot of %d loses a NaN at %d", n, i)
			}
			if v := fast.dot64(z, z); v == v {
				t.Fatalf("dot64 of %d loses a NaN at %d", n, i)
			}
		}
	}
}

func TestTileParity(t *testing.T) {
	slow, _ := accelerate(t)
	wide, narrow := accelerated(""), accelerated("avx2")
	for rows := 1; rows <= wide.rows; rows++ {
		for _, k := range []int{1, 2, 3, 4, 5, 8, 31, 100} {
			for _, s := range []struct{ ar, ac, br, cr int }{{k, 1, 32, 32}, {1, 14, 32, 40}, {k + 3, 1, 37, 33}, {1, 16, 41, 32}} {
				for _, cols := range []int{1, 5, 7, 8, 9, 15, 16, 17, 24, 31, 32} {
					for _, add := range []bool{false, true} {
						a, b := wave((rows-1)*s.ar+(k-1)*s.ac+1), wave((k-1)*s.br+cols)
						if k == 31 {
							a[0], b[len(b)-1] = float32(math.Inf(1)), float32(math.NaN())
						}
						x := wave((rows-1)*s.cr + cols)
						y, check := guarded(x)
						z, check2 := guarded(x)
						whole(slow, rows, cols, k, a, s.ar, s.ac, b, s.br, x, s.cr, add)
						whole(narrow, rows, cols, k, a, s.ar, s.ac, b, s.br, y, s.cr, add)
						whole(wide, rows, cols, k, a, s.ar, s.ac, b, s.br, z, s.cr, add)
						name := fmt.Sprintf("%d rows, %d columns, k %d, %+v, add %v", rows, cols, k, s, add)
						agree(t, name, y, x, 1e-5, 1e-5)
						agree(t, name+": AVX-512 and AVX2", z, y, 0, 0)
						check(t, name)
						check2(t, name)
					}
				}
			}
		}
	}
}

// whole runs tiles over rows and columns as products do.
func whole(kn *kernels, rows, cols, k int, a []float32, ar, ac int, b []float32, br int, c []float32, cr int, add bool) {
	for i, r := 0, 0; i < rows; i += r {
		r = kn.step(rows - i)
		for j := 0; j < cols; j += kn.cols {
			kn.tile(r, min(kn.cols, cols-j), k, a[i*ar:], ar, ac, b[j:], br, c[i*cr+j:], cr, -1.5, add, ahead{})
		}
	}
}

// TestHalfParity: roundings have the same bits everywhere, and the tile of
// pairs agrees with sums in float64 of the rounded numbers.
func TestHalfParity(t *testing.T) {
	slow, _ := accelerate(t)
	for name, fast := range tables() {
		for _, n := range lengths {
			for seed := range 3 {
				x, y := odd(n, seed), odd(n, seed+5)
				got, want := make([]float32, (n+1)/2), make([]float32, (n+1)/2)
				slow.halves(want, x)
				fast.halves(got, x)
				sameBits(t, name+": halves", got, want)
				got, want = make([]float32, n), make([]float32, n)
				slow.halfPairs(want, x, y)
				fast.halfPairs(got, x, y)
				sameBits(t, name+": half pairs", got, want)
				slow.round(want, x)
				fast.round(got, x)
				sameBits(t, name+": round", got, want)
			}
		}
		if fast.halfTile == nil {
			continue
		}
		for rows := 1; rows <= fast.rows; rows++ {
			for _, pairs := range []int{1, 2, 7, 100} {
				for _, cols := range []int{1, 15, 16, 17, 31, 32} {
					a, bt := wave(rows*2*pairs), wave(cols*2*pairs)
					slow.round(a, a)
					slow.round(bt, bt)
					ah, b := make([]float32, rows*pairs), make([]float32, 32*pairs)
					for i := range rows {
						slow.halves(ah[i*pairs:][:pairs], a[i*2*pairs:][:2*pairs])
					}
					for j := range cols {
						for p := range pairs {
							slow.halfPairs(b[p*32+j:][:1], bt[j*2*pairs+2*p:], bt[j*2*pairs+2*p+1:])
						}
					}
					for _, add := range []bool{false, true} {
						c := wave((rows-1)*35 + cols)
						got, check := guarded(c)
						for i, r := 0, 0; i < rows; i += r {
							r = fast.step(rows - i)
							fast.halfTile(r, cols, pairs, ah[i*pairs:], pairs, 1, b, 32, got[i*35:], 35, 0.5, add, ahead{at: 64, by: 8})
						}
						for i := range rows {
							for j := range cols {
								s := 0.0
								for p := range 2 * pairs {
									s += float64(a[i*2*pairs+p]) * float64(bt[j*2*pairs+p])
								}
								s *= 0.5
								if add {
									s += float64(c[i*35+j])
								}
								if g := float64(got[i*35+j]); !(math.Abs(g-s) <= 2e-5) {
									t.Fatalf("%s: %d rows, %d columns, %d pairs, add %v: (%d,%d) is %v; want %v", name, rows, cols, pairs, add, i, j, g, s)
								}
							}
						}
						check(t, name)
					}
				}
			}
		}
	}
}

func sameBits(t *testing.T, name string, got, want []float32) {
	t.Helper()
	for i := range want {
		if g, w := math.Float32bits(got[i]), math.Float32bits(want[i]); g != w {
			t.Fatalf("%s: element %d of %d is %08x; want %08x", name, i, len(want), g, w)
		}
	}
}

func TestDotsParity(t *testing.T) {
	slow, fast := accelerate(t)
	for n := 1; n <= dotCols; n++ {
		for _, k := range lengths {
			w, x := wave(3*(k+5)+k), wave((n-1)*(k+2)+k)
			if k == 65 {
				w[64], x[3] = float32(math.NaN()), float32(math.Inf(-1))
			}
			var g, p [dotRows * dotCols]float32
			fast.dots(n, k, w, k+5, x, k+2, &g)
			slow.dots(n, k, w, k+5, x, k+2, &p)
			agree(t, fmt.Sprintf("%d vectors of %d", n, k), g[:4*n], p[:4*n], 1e-5, 1e-5)
		}
	}
}

func TestPackParity(t *testing.T) {
	slow, fast := accelerate(t)
	for _, k := range lengths {
		src := odd(15*(k+3)+k, k)
		x := make([]float32, 16*k)
		y, check := guarded(x)
		slow.pack(k, x, 16, src, k+3)
		fast.pack(k, y, 16, src, k+3)
		agree(t, fmt.Sprintf("pack %d", k), y, x, 0, 0)
		x = make([]float32, 8*k)
		z, check8 := guarded(x)
		slow.pack8(k, x, src, k+3)
		fast.pack8(k, z, src, k+3)
		agree(t, fmt.Sprintf("pack8 %d", k), z, x, 0, 0)
		check8(t, "pack8")
		check(t, "pack")
	}
}

// Expansion is exact: the bits are those of package quant.
func TestWeightParity(t *testing.T) {
	slow, fast := accelerate(t)
	for dt := tensor.F16; dt <= tensor.NF4; dt++ {
		for _, n := range []int{1, 31, 32, 33, 64, 96, 256, 768} {
			if dt == tensor.I32 || dt == tensor.U8 || n%dt.Block() != 0 {
				continue
			}
			data := make([]byte, dt.Bytes(n))
			quantised := wave(n)
			if quant.CanQuantize(dt) {
				quant.Quantize(data, dt, quantised)
			}
			if dt == tensor.F16 || dt == tensor.BF16 {
				quant.Quantize(data, dt, odd(n, 5))
			}
			x := make([]float32, n)
			y, check := guarded(x)
			slow.expand(x, dt, data)
			fast.expand(y, dt, data)
			agree(t, fmt.Sprintf("%s of %d", dt, n), y, x, 0, 0)
			check(t, dt.String())
			rows := slices.Repeat(data, 4)
			quant.Dequantize(x, dt, data)
			v := wave(n + 1)[1:]
			var got, want [dotRows * dotCols]float32
			if fast.rowDots(n, rows, len(data), v, dt, &got) {
				fast.dots(1, n, slices.Repeat(x, 4), n, v, n, &want)
				agree(t, "products with "+dt.String(), got[:dotRows], want[:dotRows], 0, 0)
			}
		}
	}
}
