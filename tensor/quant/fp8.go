package quant

import "math"

// MaxE4M3 is the largest number of e4m3.
const MaxE4M3 = 448

// FromE4M3 returns the value of a number of 8 bits with a sign, 4 bits of exponent
// and 3 of mantissa, which has subnormal numbers, no infinity and one NaN of each sign:
// E4M3 of Micikevicius et al. 2022 (FP8 formats for deep learning), float8_e4m3fn of PyTorch.
func FromE4M3(c uint8) float32 {
	sign, e, m := uint32(c&0x80)<<24, uint32(c>>3&15), uint32(c&7)
	switch {
	case e == 15 && m == 7:
		return math.Float32frombits(sign | 0x7fc00000)
	case e == 0: // multiples of 2^-9
		return math.Float32frombits(sign | math.Float32bits(float32(m)*0x1p-9))
	}
	return math.Float32frombits(sign | (e+120)<<23 | m<<20)
}

// ToE4M3 rounds to the nearest number of e4m3, ties to even; what is too large
// becomes the largest number of its sign, also an infinity; a NaN stays one.
func ToE4M3(f float32) uint8 {
	b := math.Float32bits(f)
	sign, b := uint8(b>>24&0x80), b&0x7fffffff
	switch {
	case b > 0x7f800000:
		return sign | 0x7f
	case b >= 0x43e00000: // 448
		return sign | 0x7e
	case b < 0x3c800000: // below 2^-6: adding 2^14 rounds to a multiple of 2^-9
		return sign | uint8(math.Float32bits(math.Float32frombits(b)+0x1p14)-0x46800000)
	}
	return sign | uint8((b+0x7ffff+b>>20&1-120<<23)>>20)
}

// RoundE4M3 is FromE4M3 of ToE4M3.
func RoundE4M3(f float32) float32 {
	b := math.Float32bits(f)
	sign, b := b&0x80000000, b&0x7fffffff
	switch {
	case b > 0x7f800000:
		return f
	case b >= 0x43e00000:
		b = 0x43e00000
	case b < 0x3c800000:
		b = math.Float32bits(float32(math.Float32frombits(b)+0x1p14) - 0x1p14)
	default:
		b = (b + 0x7ffff + b>>20&1) &^ 0xfffff
	}
	return math.Float32frombits(sign | b)
}

// ScaleE4M3 returns the scale of a row whose largest absolute value is most: the
// least power of two s, at least 2^-126, for which most/s is at most 448; of 0, 1.
// It is NaN if most is NaN or infinite.
func ScaleE4M3(most float32) float32 {
	b := math.Float32bits(most) & 0x7fffffff
	switch {
	case b >= 0x7f800000:
		return float32(math.NaN())
	case b == 0:
		return 1
	}
	e := b >> 23
	if b&0x7fffff > 0x600000 { // more than 1.75
		e++
	}
	return math.Float32frombits((max(e, 9) - 8) << 23)
}
