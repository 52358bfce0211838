package quant

import (
	"encoding/binary"
	"math"
)

// The formats of 32 elements: a scale d, perhaps a minimum m, and 4, 5 or 8
// bits an element. With 4 and 5 bits, byte j holds element j in its low and
// element j+16 in its high nibble; the fifth bits lie together in 32 bits.

func half(b []byte) float32 { return FromF16(binary.LittleEndian.Uint16(b)) }

func putHalf(b []byte, f float32) { binary.LittleEndian.PutUint16(b, ToF16(f)) }

func dequantizeQ4_0(dst []float32, src []byte) {
	for ; len(dst) >= 32; dst, src = dst[32:], src[18:] {
		y, b := (*[32]float32)(dst), (*[18]byte)(src)
		var v [16]float32 // the values of the 16 codes
		d := half(b[:])
		for q := range v {
			v[q] = d * float32(q-8)
		}
		for j := range 16 {
			q := b[2+j]
			y[j], y[j+16] = v[q&15], v[q>>4]
		}
	}
}

func dequantizeQ4_1(dst []float32, src []byte) {
	for ; len(dst) >= 32; dst, src = dst[32:], src[20:] {
		y, b := (*[32]float32)(dst), (*[20]byte)(src)
		var v [16]float32
		d, m := half(b[:]), half(b[2:])
		for q := range v {
			v[q] = float32(d*float32(q)) + m
		}
		for j := range 16 {
			q := b[4+j]
			y[j], y[j+16] = v[q&15], v[q>>4]
		}
	}
}

func dequantizeQ5_0(dst []float32, src []byte) {
	for ; len(dst) >= 32; dst, src = dst[32:], src[22:] {
		y, b := (*[32]float32)(dst), (*[22]byte)(src)
		var v [32]float32
		d, qh := half(b[:]), binary.LittleEndian.Uint32(b[2:])
		for q := range v {
			v[q] = d * float32(q-16)
		}
		for j := range 16 {
			q := uint32(b[6+j])
			y[j], y[j+16] = v[q&15|qh>>j<<4&16], v[q>>4|qh>>(j+16)<<4&16]
		}
	}
}

func dequantizeQ5_1(dst []float32, src []byte) {
	for ; len(dst) >= 32; dst, src = dst[32:], src[24:] {
		y, b := (*[32]float32)(dst), (*[24]byte)(src)
		var v [32]float32
		d, m, qh := half(b[:]), half(b[2:]), binary.LittleEndian.Uint32(b[4:])
		for q := range v {
			v[q] = float32(d*float32(q)) + m
		}
		for j := range 16 {
			q := uint32(b[8+j])
			y[j], y[j+16] = v[q&15|qh>>j<<4&16], v[q>>4|qh>>(j+16)<<4&16]
		}
	}
}

func dequantizeQ8_0(dst []float32, src []byte) {
	for ; len(dst) >= 32; dst, src = dst[32:], src[34:] {
		y, b := (*[32]float32)(dst), (*[34]byte)(src)
		d := half(b[:])
		for j := range y {
			y[j] = d * float32(int8(b[2+j]))
		}
	}
}

// extreme returns the element of largest magnitude with its sign, the first
// on ties.
func extreme(x []float32) float32 {
	var top, signed float32
	for _, v := range x {
		if a := abs(v); a > top {
			top, signed = a, v
		}
	}
	return signed
}

func abs(x float32) float32 { return math.Float32frombits(math.Float32bits(x) &^ (1 << 31)) }

// inverse returns 1/d, or 0 for 0.
func inverse(d float32) float32 {
	if d == 0 {
		return 0
	}
	return 1 / d
}

func bounds(x *[32]float32) (lo, hi float32) {
	lo, hi = math.MaxFloat32, -math.MaxFloat32
	for _, v := range x {
		if v < lo {
			lo = v
		}
		if v > hi {
			hi = v
		}
	}
	return lo, hi
}

func quantizeQ4_0(dst []byte, src []float32) {
	for ; len(src) >= 32; dst, src = dst[18:], src[32:] {
		x, b := (*[32]float32)(src), (*[18]byte)(dst)
		d := extreme(x[:]) / -8
		id := inverse(d)
		putHalf(b[:], d)
		code := func(v float32) byte { return byte(min(15, int(float32(v*id)+8.5))) }
		for j := range 16 {
			b[2+j] = code(x[j]) | code(x[j+16])<<4
		}
	}
}

func quantizeQ4_1(dst []byte, src []float32) {
	for ; len(src) >= 32; dst, src = dst[20:], src[32:] {
		x, b := (*[32]float32)(src), (*[20]byte)(dst)
		lo, hi := bounds(x)
		d := (hi - lo) / 15
		id := inverse(d)
		putHalf(b[:], d)
		putHalf(b[2:], lo)
		code := func(v float32) byte { return byte(min(15, int(float32((v-lo)*id)+0.5))) }
		for j := range 16 {
			b[4+j] = code(x[j]) | code(x[j+16])<<4
		}
	}
}

func quantizeQ5_0(dst []byte, src []float32) {
	for ; len(src) >= 32; dst, src = dst[22:], src[32:] {
		x, b := (*[32]float32)(src), (*[22]byte)(dst)
		d := extreme(x[:]) / -16
		id := inverse(d)
		putHalf(b[:], d)
		putFive(b[2:], func(j int) uint32 { return uint32(min(31, int(float32(x[j]*id)+16.5))) })
	}
}

func quantizeQ5_1(dst []byte, src []float32) {
	for ; len(src) >= 32; dst, src = dst[24:], src[32:] {
		x, b := (*[32]float32)(src), (*[24]byte)(dst)
		lo, hi := bounds(x)
		d := (hi - lo) / 31
		id := inverse(d)
		putHalf(b[:], d)
		putHalf(b[2:], lo)
		putFive(b[4:], func(j int) uint32 { return uint32(min(31, int(float32((x[j]-lo)*id)+0.5))) })
	}
}

// putFive stores 32 codes of 5 bits: 4 bytes of fifth bits, 16 of nibbles.
func putFive(b []byte, code func(j int) uint32) {
	var qh uint32
	for j := range 16 {
		q0, q1 := code(j), code(j+16)
		b[4+j] = byte(q0&15 | q1&15<<4)
		qh |= q0>>4<<j | q1>>4<<(j+16)
	}
	binary.LittleEndian.PutUint32(b, qh)
}

func quantizeQ8_0(dst []byte, src []float32) {
	for ; len(src) >= 32; dst, src = dst[34:], src[32:] {
		x, b := (*[32]float32)(src), (*[34]byte)(dst)
		d := abs(extreme(x[:])) / 127
		id := inverse(d)
		putHalf(b[:], d)
		for j, v := range x {
			b[2+j] = byte(int8(round(v * id)))
		}
	}
}

// round returns the nearest integer, halves away from zero.
func round(x float32) int {
	if x < 0 {
		return int(float64(x) - 0.5)
	}
	return int(float64(x) + 0.5)
}
