package cpu

import (
	"encoding/binary"
	"math"
	"runtime"

	"pipe/tensor"
	"pipe/tensor/quant"
)

// portable returns the kernels in plain Go.
func portable() *kernels {
	return &kernels{
		name: "generic:" + runtime.GOARCH,
		rows: 6, cols: 16, tile: tileGo, step: func(n int) int { return min(n, 6) },
		halves: halvesGo, halfPairs: halfPairsGo, round: roundGo, roundBF16: roundBF16Go,
		dots: dotsGo, pack: packGo, pack8: pack8Go, expand: quant.Dequantize, rowDots: rowDotsGo,
		dot: dotGo, dot64: dot64Go, max: maxGo,
		addScaled: addScaledGo, scale: scaleGo, mul: mulGo, addMul: addMulGo, scaleDot: scaleDotGo, rotate: rotateGo,
		exp: expGo, swiglu: swigluGo, swigluGrad: swigluGradGo, scoreGrad: scoreGradGo, adamw: adamwGo,
	}
}

func tileGo(rows, cols, k int, a []float32, ar, ac int, b []float32, br int, c []float32, cr int, alpha float32, add bool, _ ahead) {
	for i := range rows {
		j := 0
		for ; j+8 <= cols; j += 8 {
			c := (*[8]float32)(c[i*cr+j:])
			var s0, s1, s2, s3, s4, s5, s6, s7 float32
			for p := range k {
				x, b := a[i*ar+p*ac], (*[8]float32)(b[p*br+j:])
				s0 += x * b[0]
				s1 += x * b[1]
				s2 += x * b[2]
				s3 += x * b[3]
				s4 += x * b[4]
				s5 += x * b[5]
				s6 += x * b[6]
				s7 += x * b[7]
			}
			for j, s := range [8]float32{s0, s1, s2, s3, s4, s5, s6, s7} {
				s *= alpha
				if add {
					s += c[j]
				}
				c[j] = s
			}
		}
		for ; j < cols; j++ {
			var s float32
			for p := range k {
				s += a[i*ar+p*ac] * b[p*br+j]
			}
			s *= alpha
			if add {
				s += c[i*cr+j]
			}
			c[i*cr+j] = s
		}
	}
}

// half returns the bits of x rounded to the nearest bfloat16, ties to even;
// denormal numbers become zeros, as processors have it.
func half(x float32) uint32 {
	u := math.Float32bits(x)
	switch {
	case x != x:
		return u>>16 | 0x40
	case u&0x7f800000 == 0:
		return u >> 31 << 15
	}
	return (u + 0x7fff + u>>16&1) >> 16
}

func halvesGo(dst, x []float32) {
	for i := range dst {
		u := half(x[2*i])
		if 2*i+1 < len(x) {
			u |= half(x[2*i+1]) << 16
		}
		dst[i] = math.Float32frombits(u)
	}
}

func halfPairsGo(dst, low, high []float32) {
	for i := range dst {
		dst[i] = math.Float32frombits(half(low[i]) | half(high[i])<<16)
	}
}

func rotateGo(x, y, cos, sin []float32, sign float32) {
	y, cos, sin = y[:len(x)], cos[:len(x)], sin[:len(x)]
	for i := range x {
		a, b, c, s := x[i], y[i], cos[i], sign*sin[i]
		x[i], y[i] = float32(a*c)-float32(b*s), float32(b*c)+float32(a*s)
	}
}

func roundGo(dst, x []float32) {
	for i, v := range x {
		dst[i] = math.Float32frombits(half(v) << 16)
	}
}

func roundBF16Go(dst []byte, x []float32) {
	for i, v := range x {
		binary.LittleEndian.PutUint16(dst[2*i:], uint16(half(v)))
	}
}

func dotsGo(n, k int, w []float32, wr int, x []float32, xr int, out *[dotRows * dotCols]float32) {
	for j := range n {
		x := x[j*xr:][:k]
		w0, w1, w2, w3 := w[:k], w[wr:][:k], w[2*wr:][:k], w[3*wr:][:k]
		var s0, s1, s2, s3 float32
		for p, x := range x {
			s0 += x * w0[p]
			s1 += x * w1[p]
			s2 += x * w2[p]
			s3 += x * w3[p]
		}
		out[4*j], out[4*j+1], out[4*j+2], out[4*j+3] = s0, s1, s2, s3
	}
}

func rowDotsGo(int, []byte, int, []float32, tensor.DType, *[dotRows * dotCols]float32) bool {
	return false
}

func packGo(k int, dst []float32, dr int, src []float32, sr int) {
	for j := range packRows {
		for p, v := range src[j*sr:][:k] {
			dst[p*dr+j] = v
		}
	}
}

func pack8Go(k int, dst, src []float32, sr int) {
	for j := range 8 {
		for p, v := range src[j*sr:][:k] {
			dst[p*8+j] = v
		}
	}
}

func dotGo(x, y []float32) float32 {
	y = y[:len(x)]
	var s [4]float32
	i := 0
	for ; i+4 <= len(x); i += 4 {
		s[0] += x[i] * y[i]
		s[1] += x[i+1] * y[i+1]
		s[2] += x[i+2] * y[i+2]
		s[3] += x[i+3] * y[i+3]
	}
	for ; i < len(x); i++ {
		s[0] += x[i] * y[i]
	}
	return s[0] + s[1] + (s[2] + s[3])
}

func dot64Go(x, y []float32) float64 {
	y = y[:len(x)]
	var s [4]float64
	i := 0
	for ; i+4 <= len(x); i += 4 {
		s[0] += float64(x[i]) * float64(y[i])
		s[1] += float64(x[i+1]) * float64(y[i+1])
		s[2] += float64(x[i+2]) * float64(y[i+2])
		s[3] += float64(x[i+3]) * float64(y[i+3])
	}
	for ; i < len(x); i++ {
		s[0] += float64(x[i]) * float64(y[i])
	}
	return s[0] + s[1] + (s[2] + s[3])
}

func maxGo(x []float32) float32 {
	m := float32(math.Inf(-1))
	for _, v := range x {
		if v > m {
			m = v
		}
	}
	return m
}

func addScaledGo(dst, a, b []float32, s float32) {
	a, b = a[:len(dst)], b[:len(dst)]
	for i := range dst {
		dst[i] = a[i] + s*b[i]
	}
}

func scaleGo(dst, x []float32, s float32) {
	x = x[:len(dst)]
	for i := range dst {
		dst[i] = s * x[i]
	}
}

func mulGo(dst, x, y []float32, s float32) {
	x, y = x[:len(dst)], y[:len(dst)]
	for i := range dst {
		dst[i] = s * x[i] * y[i]
	}
}

func addMulGo(dst, x, y []float32, s float32) {
	x, y = x[:len(dst)], y[:len(dst)]
	for i := range dst {
		dst[i] += s * x[i] * y[i]
	}
}

func scaleDotGo(dst, sum, x, y, s []float32) {
	sum, x, y, s = sum[:len(dst)], x[:len(dst)], y[:len(dst)], s[:len(dst)]
	for i, v := range x {
		sum[i] += v * y[i]
		dst[i] = s[i] * v
	}
}

// Constants of exp: x = n·ln 2 + r, with ln 2 in two parts so that n·ln2Hi is
// exact, and the polynomial of Cephes' expf for (exp(r)-1-r)/r².
const (
	log2E, ln2Hi, ln2Lo    = 1.44269504088896341, 0.693359375, -2.12194440e-4
	exp0, exp1, exp2, exp3 = 1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2
	exp4, exp5             = 1.6666665459e-1, 5.0000001201e-1
	expMax, expMin         = 88.72283905206835, -103.972084045410 // beyond: +Inf, 0
)

// exp32 returns e^x within 2 units in the last place, for every x: -Inf gives
// 0 and NaN stays. The power of two is applied in two factors, so results
// below the smallest normal number are right too.
func exp32(x float32) float32 {
	switch {
	case x != x:
		return x
	case x > expMax:
		return float32(math.Inf(1))
	case x < expMin:
		return 0
	}
	n := float32(math.RoundToEven(float64(x * log2E)))
	r := x - n*ln2Hi - n*ln2Lo
	p := float32(exp0)
	p = p*r + exp1
	p = p*r + exp2
	p = p*r + exp3
	p = p*r + exp4
	p = p*r + exp5
	p = p*(r*r) + r + 1
	h := int32(n) >> 1
	return p * power2(h) * power2(int32(n)-h)
}

// power2 returns 2^n for -126 ≤ n ≤ 127.
func power2(n int32) float32 { return math.Float32frombits(uint32(n+127) << 23) }

func expGo(dst, x []float32, by float32) float32 {
	x = x[:len(dst)]
	var s float32
	for i := range dst {
		dst[i] = exp32(x[i] - by)
		s += dst[i]
	}
	return s
}

// sigmoid is 1/(1+e^-x).
func sigmoid(x float32) float32 { return 1 / (1 + exp32(-x)) }

func swigluGo(dst, g, u []float32) {
	g, u = g[:len(dst)], u[:len(dst)]
	for i := range dst {
		dst[i] = g[i] * sigmoid(g[i]) * u[i]
	}
}

func swigluGradGo(dg, du, g, u, dy []float32) {
	for i := range dg {
		g, u, dy := g[i], u[i], dy[i]
		s := sigmoid(g)
		dg[i] = dy * u * s * (1 + g*(1-s))
		du[i] = dy * (g * s)
	}
}

func scoreGradGo(dp, p []float32, delta, s float32) {
	p = p[:len(dp)]
	for i := range dp {
		dp[i] = p[i] * (dp[i] - delta) * s
	}
}

func adamwGo(w, g, m, v []float32, c *adamw) {
	g, m, v = g[:len(w)], m[:len(w)], v[:len(w)]
	for i := range w {
		g := g[i] * c.gradScale
		m[i] += (g - m[i]) * c.beta1c
		v[i] = c.beta2*v[i] + c.beta2c*g*g
		d := float32(math.Sqrt(float64(v[i])))*c.root + c.eps
		w[i] = w[i]*c.decay - c.step*(m[i]/d)
	}
}
