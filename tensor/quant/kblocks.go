package quant

import (
	"math"
)

// The K formats: super-blocks of 256 elements, divided into sub-blocks of 32
// (Q4_K, Q5_K: scale and minimum of 6 bits each) or 16 (Q6_K: scale of 8 bits).

// scaleMin returns the 6-bit scale and minimum of sub-block j, packed into 12
// bytes.
func scaleMin(q *[12]byte, j int) (sc, m byte) {
	if j < 4 {
		return q[j] & 63, q[j+4] & 63
	}
	return q[j+4]&15 | q[j-4]>>6<<4, q[j+4]>>4 | q[j]>>6<<4
}

func dequantizeQ4_K(dst []float32, src []byte) {
	for ; len(dst) >= 256; dst, src = dst[256:], src[144:] {
		y, b := (*[256]float32)(dst), (*[144]byte)(src)
		d, dmin, scales := half(b[:]), half(b[2:]), (*[12]byte)(b[4:])
		for g := range 4 { // 64 elements: low nibbles, then high nibbles
			q := (*[32]byte)(b[16+32*g:])
			lo, hi := (*[32]float32)(y[64*g:]), (*[32]float32)(y[64*g+32:])
			var v0, v1 [16]float32
			subValues(v0[:], d, dmin, scales, 2*g)
			subValues(v1[:], d, dmin, scales, 2*g+1)
			for l, c := range q {
				lo[l], hi[l] = v0[c&15], v1[c>>4]
			}
		}
	}
}

// subValues sets v to the values of all codes of sub-block j.
func subValues(v []float32, d, dmin float32, scales *[12]byte, j int) {
	sc, mn := scaleMin(scales, j)
	s, m := d*float32(sc), dmin*float32(mn)
	for q := range v {
		v[q] = float32(s*float32(q)) - m
	}
}

func dequantizeQ5_K(dst []float32, src []byte) {
	for ; len(dst) >= 256; dst, src = dst[256:], src[176:] {
		y, b := (*[256]float32)(dst), (*[176]byte)(src)
		d, dmin, scales := half(b[:]), half(b[2:]), (*[12]byte)(b[4:])
		qh := (*[32]byte)(b[16:])
		for g := range 4 {
			q := (*[32]byte)(b[48+32*g:])
			lo, hi := (*[32]float32)(y[64*g:]), (*[32]float32)(y[64*g+32:])
			var v0, v1 [32]float32
			subValues(v0[:], d, dmin, scales, 2*g)
			subValues(v1[:], d, dmin, scales, 2*g+1)
			for l, c := range q {
				h := qh[l] >> (2 * g)
				lo[l], hi[l] = v0[c&15|h&1<<4], v1[c>>4|h>>1&1<<4]
			}
		}
	}
}

func dequantizeQ6_K(dst []float32, src []byte) {
	for ; len(dst) >= 256; dst, src = dst[256:], src[210:] {
		y, b := (*[256]float32)(dst), (*[210]byte)(src)
		d := half(b[208:])
		for n := range 2 {
			ql, qh, out := (*[64]byte)(b[64*n:]), (*[32]byte)(b[128+32*n:]), (*[128]float32)(y[128*n:])
			var s [8]float32
			for i := range s {
				s[i] = d * float32(int8(b[192+8*n+i]))
			}
			for l := range 32 {
				h, is := qh[l], l/16
				out[l] = s[is] * float32(int(ql[l]&15|h&3<<4)-32)
				out[l+32] = s[is+2] * float32(int(ql[l+32]&15|h>>2&3<<4)-32)
				out[l+64] = s[is+4] * float32(int(ql[l]>>4|h>>4&3<<4)-32)
				out[l+96] = s[is+6] * float32(int(ql[l+32]>>4|h>>6<<4)-32)
			}
		}
	}
}

// nearest returns the nearest integer, ties to even.
func nearest(x float32) int { return int(math.RoundToEven(float64(x))) }

func clamp(x, lo, hi int) int { return max(lo, min(hi, x)) }

func quantizeQ4_K(dst []byte, src []float32) {
	for ; len(src) >= 256; dst, src = dst[144:], src[256:] {
		x, b := (*[256]float32)(src), (*[144]byte)(dst)
		*b = [144]byte{}
		var (
			codes        [256]byte
			scales, mins [8]float32
			top, topMin  float32
		)
		for j := range 8 {
			scales[j], mins[j] = search4((*[32]float32)(x[32*j:]), (*[32]byte)(codes[32*j:]))
			top, topMin = max(top, scales[j]), max(topMin, mins[j])
		}
		packed := (*[12]byte)(b[4:])
		packScales(packed, &scales, &mins, top, topMin)
		putHalf(b[:], top/63)
		putHalf(b[2:], topMin/63)
		d, dmin := half(b[:]), half(b[2:])
		for j := range 8 {
			sc, mn := scaleMin(packed, j)
			s, m := d*float32(sc), dmin*float32(mn)
			if s == 0 {
				continue // the codes of the search stay
			}
			for l := range 32 {
				codes[32*j+l] = byte(clamp(nearest((x[32*j+l]+m)/s), 0, 15))
			}
		}
		for g := range 4 {
			for l := range 32 {
				b[16+32*g+l] = codes[64*g+l] | codes[64*g+32+l]<<4
			}
		}
	}
}

// packScales rounds scales and minima to 6 bits and stores them in 12 bytes.
func packScales(q *[12]byte, scales, mins *[8]float32, top, topMin float32) {
	is, im := float32(0), float32(0)
	if top > 0 {
		is = 63 / top
	}
	if topMin > 0 {
		im = 63 / topMin
	}
	for j := range 8 {
		sc := byte(min(63, nearest(is*scales[j])))
		mn := byte(min(63, nearest(im*mins[j])))
		if j < 4 {
			q[j], q[j+4] = sc, mn
			continue
		}
		q[j+4] = sc&15 | mn&15<<4
		q[j-4] |= sc >> 4 << 6
		q[j] |= mn >> 4 << 6
	}
}

// search4 finds the scale and the (negated, non-negative) minimum of 32
// elements whose 4-bit codes lose the least, weighted by magnitude: it tries
// 21 scales and fits scale and minimum to each by least squares.
func search4(x *[32]float32, codes *[32]byte) (scale, minimum float32) {
	var w [32]float32
	var sumSq float32
	for _, v := range x {
		sumSq += float32(v * v)
	}
	mean := float32(math.Sqrt(float64(sumSq / 32)))
	lo, hi := x[0], x[0]
	var sumW, sumX float32
	for i, v := range x {
		w[i] = mean + abs(v)
		lo, hi = min(lo, v), max(hi, v)
		sumW += w[i]
		sumX += float32(w[i] * v)
	}
	lo = min(lo, 0)
	if hi == lo {
		*codes = [32]byte{}
		return 0, -lo
	}
	iscale := 15 / (hi - lo)
	scale = 1 / iscale
	for i, v := range x {
		codes[i] = byte(clamp(nearest(iscale*(v-lo)), 0, 15))
	}
	best := loss(x, &w, codes, scale, lo)
	for step := range 21 {
		iscale = (float32(-1+float32(0.1*float32(step))) + 15) / (hi - lo)
		var trial [32]byte
		var sl, sl2, sxl float32
		for i, v := range x {
			l := clamp(nearest(iscale*(v-lo)), 0, 15)
			trial[i] = byte(l)
			f := float32(l)
			sl += float32(w[i] * f)
			sl2 += float32(float32(w[i]*f) * f)
			sxl += float32(float32(w[i]*f) * v)
		}
		det := float32(sumW*sl2) - float32(sl*sl)
		if !(det > 0) {
			continue
		}
		s := (float32(sumW*sxl) - float32(sumX*sl)) / det
		m := (float32(sl2*sumX) - float32(sl*sxl)) / det
		if m > 0 {
			m = 0
			s = sxl / sl2
		}
		if e := loss(x, &w, &trial, s, m); e < best {
			best, scale, lo = e, s, m
			*codes = trial
		}
	}
	return scale, -lo
}

// loss is the weighted square error of codes.
func loss(x, w *[32]float32, codes *[32]byte, scale, minimum float32) (sum float32) {
	for i, v := range x {
		diff := float32(scale*float32(codes[i])) + minimum - v
		sum += float32(w[i] * float32(diff*diff))
	}
	return sum
}

// tiny is the magnitude below which a Q6_K block counts as zero.
const tiny = 1e-15

func quantizeQ6_K(dst []byte, src []float32) {
	for ; len(src) >= 256; dst, src = dst[210:], src[256:] {
		x, b := (*[256]float32)(src), (*[210]byte)(dst)
		*b = [210]byte{}
		var (
			codes  [256]byte // code + 32
			scales [16]float32
		)
		for i := range scales {
			scales[i] = search6((*[16]float32)(x[16*i:]), (*[16]byte)(codes[16*i:]))
		}
		top := extreme(scales[:])
		if abs(top) < tiny {
			continue
		}
		iscale := -128 / top
		putHalf(b[208:], 1/iscale)
		d := half(b[208:])
		for i, s := range scales {
			sc := int8(min(127, nearest(iscale*s)))
			b[192+i] = byte(sc)
			s := d * float32(sc)
			if s == 0 {
				continue
			}
			for l := range 16 {
				codes[16*i+l] = byte(clamp(nearest(x[16*i+l]/s), -32, 31) + 32)
			}
		}
		for n := range 2 {
			ql, qh, c := b[64*n:], b[128+32*n:], codes[128*n:]
			for l := range 32 {
				ql[l] = c[l]&15 | c[l+64]&15<<4
				ql[l+32] = c[l+32]&15 | c[l+96]&15<<4
				qh[l] = c[l]>>4 | c[l+32]>>4<<2 | c[l+64]>>4<<4 | c[l+96]>>4<<6
			}
		}
	}
}

// search6 finds the scale of 16 elements whose 6-bit codes lose the least,
// weighted by x²: it tries 19 scales around the one that maps the extreme to
// -32 and fits each by least squares. codes are shifted by 32.
func search6(x *[16]float32, codes *[16]byte) float32 {
	top := extreme(x[:])
	if abs(top) < tiny {
		*codes = [16]byte{}
		return 0
	}
	try := func(iscale float32, keep bool) (sumLX, sumL2 float32) {
		for i, v := range x {
			l := clamp(nearest(iscale*v), -32, 31)
			if keep {
				codes[i] = byte(l + 32)
			}
			w, f := float32(v*v), float32(l)
			sumLX += float32(float32(w*v) * f)
			sumL2 += float32(float32(w*f) * f)
		}
		return
	}
	lx, l2 := try(-32/top, true)
	var scale float32
	if l2 != 0 {
		scale = lx / l2
	}
	best := scale * lx
	for k := -9; k <= 9; k++ {
		if k == 0 {
			continue
		}
		iscale := -(32 + float32(0.1*float32(k))) / top
		lx, l2 := try(iscale, false)
		if l2 > 0 && float32(lx*lx) > float32(best*l2) {
			try(iscale, true)
			scale = lx / l2
			best = scale * lx
		}
	}
	return scale
}
