package quant

import (
	"math"
	"math/rand/v2"
	"testing"
)

// TestDynamicCode compares the table with a search of all codes: at every
// value, at and beside every middle, and at random numbers of all sizes.
func TestDynamicCode(t *testing.T) {
	for _, signed := range []bool{false, true} {
		d := NewDynamic(signed)
		var xs []float32
		for i := range 256 {
			for _, v := range []float32{d.Values[i], d.middle[i]} {
				xs = append(xs, v, -v, math.Nextafter32(v, 2), math.Nextafter32(v, -2))
			}
		}
		rng := rand.New(rand.NewPCG(1, 2))
		for range 20000 {
			x := float32(math.Pow(10, -9*rng.Float64()))
			xs = append(xs, x, -x)
		}
		for _, x := range append(xs, 2, -2, float32(math.Inf(-1)), math.SmallestNonzeroFloat32) {
			if got, want := d.Code(x), d.search(x); got != want {
				t.Fatalf("signed %v: code of %v is %d; want %d", signed, x, got, want)
			}
		}
		if d.Values[d.Zero] != 0 || d.Code(0) != d.Zero || d.Code(float32(math.Copysign(0, -1))) != d.Zero {
			t.Errorf("signed %v: 0 has code %d of value %v", signed, d.Code(0), d.Values[d.Zero])
		}
	}
}

// TestDynamicValues compares with numbers printed by bitsandbytes; the fixture
// of package tensortest holds all of them.
func TestDynamicValues(t *testing.T) {
	s, u := NewDynamic(true).Values, NewDynamic(false).Values
	for _, c := range []struct{ got, want float32 }{
		{s[0], -0.992968738}, {s[1], -0.978906274}, {s[127], 0}, {s[128], 5.5e-7}, {s[129], 3.25e-6}, {s[130], 7.75e-6},
		{s[131], 2.125e-5}, {s[255], 1}, {u[0], 0}, {u[1], 3.25e-7}, {u[2], 7.75e-7}, {u[3], 2.125e-6}, {u[4], 4.375e-6},
		{u[253], 0.98945308}, {u[254], 0.99648437}, {u[255], 1},
	} {
		if c.got != c.want && !(math.Abs(float64(c.got-c.want)) <= 1e-6*math.Abs(float64(c.want))) {
			t.Errorf("got %v, want %v", c.got, c.want)
		}
	}
}
