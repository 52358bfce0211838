package quant

import "math"

// FromF16 returns the value of an IEEE 754 half-precision number, exactly.
func FromF16(h uint16) float32 {
	b := uint32(h) << 16 & 0x80000000
	if h&0x7c00 == 0x7c00 { // Inf and NaN keep their payload; NaN becomes quiet
		b |= 0x7f800000 | uint32(h&0x3ff)<<13
		if h&0x3ff != 0 {
			b |= 0x400000
		}
		return math.Float32frombits(b)
	}
	// Half and single differ by 112 in exponent bias: an exact product moves
	// normal and subnormal numbers alike.
	f := math.Float32frombits(uint32(h&0x7fff)<<13) * 0x1p112
	return math.Float32frombits(b | math.Float32bits(f))
}

// ToF16 rounds to the nearest half-precision number, ties to even; what is
// too large becomes infinite.
func ToF16(f float32) uint16 {
	b := math.Float32bits(f)
	sign, b := uint16(b>>16&0x8000), b&0x7fffffff
	switch {
	case b > 0x7f800000:
		return sign | 0x7e00 | uint16(b>>13&0x1ff)
	case b >= 0x477ff000: // 65520, halfway beyond the largest finite number
		return sign | 0x7c00
	case b < 0x38800000: // below 2^-14: adding 0.5 rounds to a multiple of 2^-24
		return sign | uint16(math.Float32bits(math.Float32frombits(b)+0.5)-0x3f000000)
	}
	return sign | uint16((b+0xfff+b>>13&1-0x38000000)>>13)
}

// FromBF16 returns the value of a bfloat16 number, exactly.
func FromBF16(h uint16) float32 { return math.Float32frombits(uint32(h) << 16) }

// ToBF16 rounds to the nearest bfloat16 number, ties to even; a NaN stays one.
func ToBF16(f float32) uint16 {
	b := math.Float32bits(f)
	if b&0x7fffffff > 0x7f800000 {
		return uint16(b>>16) | 0x40
	}
	return uint16((b + 0x7fff + b>>16&1) >> 16)
}
