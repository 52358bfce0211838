package cpu

import (
	"math"
	"unsafe"

	"golang.org/x/sys/cpu"

	"pipe/tensor"
	"pipe/tensor/quant"
)

// accelerated returns the fastest kernels of the processor up to limit, nil if
// it lacks AVX2. The tiles of AVX-512 give the same bits, but its products of
// few rows, its attention to keys in bfloat16 and its products of bfloat16 do
// not, and have other names.
func accelerated(limit string) *kernels {
	x := &cpu.X86
	if !x.HasAVX2 || !x.HasFMA || !x.HasF16C {
		return nil
	}
	k := avx2()
	if limit == "avx2" || !x.HasAVX512F || !x.HasAVX512BW || !x.HasAVX512DQ || !x.HasAVX512VL {
		return k
	}
	k.name += "+few"
	k.rows, k.cols, k.tile, k.step, k.few = 14, 32, tileAVX512, stepAVX512, fewAVX512
	k.scores, k.mix = scoresAVX512, mixAVX512
	if limit != "avx512" && x.HasAVX512BF16 {
		k.name += "+pairs"
		k.halfTile, k.halves, k.halfPairs, k.roundBF16 = halfTileAVX512, halvesAVX512, halfPairsAVX512, roundBF16AVX512
	}
	return k
}

func avx2() *kernels {
	return &kernels{
		name: "fma",
		rows: 6, cols: 16, tile: tileAVX2, step: func(n int) int { return min(n, 6) },
		halves: halvesGo, halfPairs: halfPairsGo, round: roundGo, roundBF16: roundBF16Go,
		dots: dotsAVX2, pack: packAVX2, pack8: pack8AVX2, expand: expandAVX2, rowDots: rowDotsAVX2,
		dot: dotAVX2, dot64: dot64AVX2, max: maxAVX2,
		addScaled: func(dst, a, b []float32, s float32) {
			if n := len(dst); n > 0 {
				addScaled8(n, &dst[0], &a[:n][0], &b[:n][0], s)
			}
		},
		scale: func(dst, x []float32, s float32) {
			if n := len(dst); n > 0 {
				scale8(n, &dst[0], &x[:n][0], s)
			}
		},
		mul: func(dst, x, y []float32, s float32) {
			if n := len(dst); n > 0 {
				mul8(n, &dst[0], &x[:n][0], &y[:n][0], s)
			}
		},
		scaleDot: func(dst, sum, x, y, s []float32) {
			if n := len(dst); n > 0 {
				scaleDot8(n, &dst[0], &sum[:n][0], &x[:n][0], &y[:n][0], &s[:n][0])
			}
		},
		addMul: func(dst, x, y []float32, s float32) {
			if n := len(dst); n > 0 {
				addMul8(n, &dst[0], &x[:n][0], &y[:n][0], s)
			}
		},
		rotate: func(x, y, cos, sin []float32, sign float32) {
			if n := len(x); n > 0 {
				rotate8(n, &x[0], &y[:n][0], &cos[:n][0], &sin[:n][0], sign)
			}
		},
		exp: expAVX2,
		swiglu: func(dst, g, u []float32) {
			if n := len(dst); n > 0 {
				swiglu8(n, &dst[0], &g[:n][0], &u[:n][0])
			}
		},
		swigluGrad: func(dg, du, g, u, dy []float32) {
			if n := len(dg); n > 0 {
				swigluGrad8(n, &dg[0], &du[:n][0], &g[:n][0], &u[:n][0], &dy[:n][0])
			}
		},
		scoreGrad: func(dp, p []float32, delta, s float32) {
			if n := len(dp); n > 0 {
				scoreGrad8(n, &dp[0], &p[:n][0], delta, s)
			}
		},
		adamw: func(w, g, m, v []float32, c *adamw) {
			if n := len(w); n > 0 {
				adamw8(n, &w[0], &m[:n][0], &v[:n][0], &g[:n][0],
					c.gradScale, c.decay, c.beta1c, c.beta2, c.beta2c, c.step, c.root, c.eps)
			}
		},
	}
}

func tileAVX2(rows, cols, k int, a []float32, ar, ac int, b []float32, br int, c []float32, cr int, alpha float32, add bool, _ ahead) {
	if rows == 0 {
		return
	}
	// The last elements, so that a wrong size panics here.
	_, _, _ = a[(rows-1)*ar+(k-1)*ac], b[(k-1)*br+cols-1], c[(rows-1)*cr+cols-1]
	plus := 0
	if add {
		plus = 1
	}
	if cols < 16 {
		edgeAVX2(rows, cols, k, a, ar, ac, b, br, c, cr, plus, alpha)
		return
	}
	switch rows {
	case 1:
		tile1(k, &a[0], 4*ar, 4*ac, &b[0], 4*br, &c[0], 4*cr, plus, alpha)
	case 2:
		tile2(k, &a[0], 4*ar, 4*ac, &b[0], 4*br, &c[0], 4*cr, plus, alpha)
	case 3:
		tile3(k, &a[0], 4*ar, 4*ac, &b[0], 4*br, &c[0], 4*cr, plus, alpha)
	case 4:
		tile4(k, &a[0], 4*ar, 4*ac, &b[0], 4*br, &c[0], 4*cr, plus, alpha)
	case 5:
		tile5(k, &a[0], 4*ar, 4*ac, &b[0], 4*br, &c[0], 4*cr, plus, alpha)
	default:
		tile6(k, &a[0], 4*ar, 4*ac, &b[0], 4*br, &c[0], 4*cr, plus, alpha)
	}
}

// edgeAVX2 is a tile of fewer than 16 columns, four rows at a time.
func edgeAVX2(rows, cols, k int, a []float32, ar, ac int, b []float32, br int, c []float32, cr, plus int, alpha float32) {
	for i := 0; i < rows; i += 4 {
		a, c := &a[i*ar], &c[i*cr]
		switch rows - i {
		case 1:
			edge1(k, a, 4*ar, 4*ac, &b[0], 4*br, c, 4*cr, plus, cols, alpha)
		case 2:
			edge2(k, a, 4*ar, 4*ac, &b[0], 4*br, c, 4*cr, plus, cols, alpha)
		case 3:
			edge3(k, a, 4*ar, 4*ac, &b[0], 4*br, c, 4*cr, plus, cols, alpha)
		default:
			edge4(k, a, 4*ar, 4*ac, &b[0], 4*br, c, 4*cr, plus, cols, alpha)
		}
	}
}

func dotsAVX2(n, k int, w []float32, wr int, x []float32, xr int, out *[dotRows * dotCols]float32) {
	_, _ = w[3*wr+k-1], x[(n-1)*xr+k-1]
	const group = 8
	f := dots3
	switch n {
	case 1:
		f = dots1
	case 2:
		f = dots2
	}
	whole := k / group * group
	if whole == 0 {
		clear(out[:])
	} else {
		f(k/group, &w[0], 4*wr, &x[0], 4*xr, &out[0])
	}
	if whole == k {
		return
	}
	for j := range n {
		for i := range dotRows {
			out[dotRows*j+i] += dotGo(w[i*wr+whole:i*wr+k], x[j*xr+whole:])
		}
	}
}

func packAVX2(k int, dst []float32, dr int, src []float32, sr int) {
	_, _ = dst[(k-1)*dr+packRows-1], src[(packRows-1)*sr+k-1]
	whole := k &^ 7
	if whole > 0 {
		pack16(k/8, &dst[0], 4*dr, &src[0], 4*sr)
	}
	for p := whole; p < k; p++ {
		for j := range packRows {
			dst[p*dr+j] = src[j*sr+p]
		}
	}
}

func pack8AVX2(k int, dst, src []float32, sr int) {
	_, _ = dst[8*k-1], src[7*sr+k-1]
	whole := k &^ 7
	if whole > 0 {
		pack8(k/8, &dst[0], 32, &src[0], 4*sr)
	}
	for p := whole; p < k; p++ {
		for j := range 8 {
			dst[p*8+j] = src[j*sr+p]
		}
	}
}

func sum8(s *[8]float32) float32 {
	return s[0] + s[4] + (s[2] + s[6]) + (s[1] + s[5] + (s[3] + s[7]))
}

func dotAVX2(x, y []float32) float32 {
	y = y[:len(x)]
	whole := len(x) &^ 7
	var s [8]float32
	if whole > 0 {
		dot32(whole/8, &x[0], &y[0], &s[0])
	}
	return sum8(&s) + dotGo(x[whole:], y[whole:])
}

func dot64AVX2(x, y []float32) float64 {
	y = y[:len(x)]
	whole := len(x) &^ 3
	var s [4]float64
	if whole > 0 {
		dot64(whole/4, &x[0], &y[0], &s[0])
	}
	return s[0] + s[2] + (s[1] + s[3]) + dot64Go(x[whole:], y[whole:])
}

func maxAVX2(x []float32) float32 {
	m := float32(math.Inf(-1))
	if len(x) > 0 {
		max8(len(x), &x[0], &m)
	}
	return m
}

func expAVX2(dst, x []float32, by float32) float32 {
	n := len(dst)
	if n == 0 {
		return 0
	}
	var s [8]float32
	exp8(n, &dst[0], &x[:n][0], &s[0], by)
	return sum8(&s)
}

func expandAVX2(dst []float32, dt tensor.DType, src []byte) {
	var f func(n int, dst *float32, src *byte)
	switch dt {
	case tensor.F16:
		f = expandF16
	case tensor.BF16:
		f = expandBF16
	case tensor.Q8_0:
		f = expandQ8_0
	case tensor.Q4_0:
		f = expandQ4_0
	case tensor.Q4_1:
		f = expandQ4_1
	case tensor.NF4:
		f = expandNF4
	}
	group := max(32, dt.Block())
	whole := len(dst) / group * group
	if f == nil || whole == 0 {
		quant.Dequantize(dst, dt, src)
		return
	}
	at := dt.Bytes(whole)
	_ = src[at-1]
	f(whole/group, &dst[0], unsafe.SliceData(src))
	if whole < len(dst) {
		quant.Dequantize(dst[whole:], dt, src[at:])
	}
}

func rowDotsAVX2(k int, w []byte, wr int, x []float32, dt tensor.DType, out *[dotRows * dotCols]float32) bool {
	if k%32 != 0 || k == 0 {
		return false
	}
	_, _ = w[3*wr+dt.Bytes(k)-1], x[k-1]
	switch dt {
	case tensor.F16:
		dotsF16(k/32, &x[0], &w[0], wr, &out[0])
	case tensor.BF16:
		dotsBF16(k/32, &x[0], &w[0], wr, &out[0])
	case tensor.Q8_0:
		dotsQ8_0(k/32, &x[0], &w[0], wr, &out[0])
	case tensor.Q4_0:
		dotsQ4_0(k/32, &x[0], &w[0], wr, &out[0])
	case tensor.Q4_1:
		dotsQ4_1(k/32, &x[0], &w[0], wr, &out[0])
	default:
		return false
	}
	return true
}
