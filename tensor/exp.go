package tensor

import "math"

// ExpNegative returns exp(x) for x ≤ 0, with a relative error below 1e-10, in a
// quarter of the time of math.Exp; 0 for NaN. Its steps are rounded one by one,
// so that the result is the same on every processor.
//
// exp(x) = 2^(n/128) · exp(r), with |r| ≤ ln(2)/256: the first is in a table,
// the second a polynomial (Tang 1989).
func ExpNegative(x float64) float64 {
	if !(x > -700) {
		return 0
	}
	const round = 3 << 51 // adding it rounds to an integer, in the low bits
	k := float64(x*(128/math.Ln2)) + round
	n := int64(math.Float64bits(k)) << 16 >> 16
	r := x - float64((k-round)*(math.Ln2/128))
	p := 1 + float64(r*(1+float64(r*(0.5+float64(r*(1./6))))))
	return math.Float64frombits(Exp2Bits[n&127]+uint64(n>>7)<<52) * p
}

// Exp2Bits are the bits of 2^(i/128).
var Exp2Bits = func() (t [128]uint64) {
	for i := range t {
		t[i] = math.Float64bits(math.Exp2(float64(i) / 128))
	}
	return t
}()
