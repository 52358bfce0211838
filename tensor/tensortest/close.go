// Package tensortest holds every implementation of [tensor.Backend] to the
// same suite, Run, and compares numbers: with a plain float64 reference of
// each operation, with finite differences of that reference, and with
// fixtures made by PyTorch.
package tensortest

import (
	"fmt"
	"math"
	"strings"
	"testing"

	"pipe/tensor"
)

// A Tolerance bounds the error of each element: Abs plus Rel times the larger
// of the element and the root mean square of all elements, because the error
// of a sum follows its terms, not its result. When Cosine is not 0, the
// cosine of the two vectors must be larger.
type Tolerance struct{ Abs, Rel, Cosine float64 }

// The tolerances of all numerical tests, and why they are what they are.
var (
	// Exact is for operations that move or select numbers.
	Exact = Tolerance{}
	// F32 is for one float32 operation: sums of up to some thousand terms
	// in any order, and exponentials of two units in the last place.
	F32 = Tolerance{Abs: 1e-6, Rel: 1e-5}
	// F32Grad is for gradients that chain several float32 sums.
	F32Grad = Tolerance{Abs: 2e-6, Rel: 3e-5}
	// F32Model is for whole models, in which errors of layers add up.
	F32Model = Tolerance{Abs: 1e-5, Rel: 1e-4}
	// FP8 is for a sum that a device forms of rounded operands: of 128 terms with 14
	// bits, which leaves 2^-13 of the largest of them for each addition.
	FP8 = Tolerance{Abs: 1e-4, Rel: 1e-2, Cosine: 0.99999}
	// FP8Model is for whole models whose products round to 4 significant bits: where
	// the last bit of an activation differs, a number is 2^-4 of it off. On fixture
	// models of at most 64 columns it tells a mistake from noise, no more.
	FP8Model = Tolerance{Abs: 0.1, Rel: 4, Cosine: 0.8}
	// BF16 is for operands rounded to 8 significant bits.
	BF16 = Tolerance{Abs: 1e-3, Rel: 2e-2, Cosine: 0.9999}
	// BF16Model is for whole models, of which every layer rounds activations
	// and gradients: single elements are noisy, the direction is not.
	BF16Model = Tolerance{Abs: 2e-3, Rel: 0.2, Cosine: 0.998}
)

// For returns t, or BF16 if b multiplies in bfloat16, as its name tells.
func For(b tensor.Backend, t Tolerance) Tolerance {
	if t != Exact && strings.Contains(b.Name(), "bf16") {
		return BF16
	}
	return t
}

// Float is a type of numbers that Close compares.
type Float interface{ ~float32 | ~float64 }

// Close reports an error unless got and want have the same length, hold only
// finite numbers, and agree within tol. A NaN on either side fails.
func Close[G, W Float](t testing.TB, name string, got []G, want []W, tol Tolerance) {
	t.Helper()
	if err := compare(got, want, tol); err != nil {
		t.Errorf("%s: %v", name, err)
	}
}

func compare[G, W Float](got []G, want []W, tol Tolerance) error {
	if len(got) != len(want) {
		return fmt.Errorf("%d elements; want %d", len(got), len(want))
	}
	var gg, ww, gw, maxAbs, maxRel float64
	for i := range want {
		g, w := float64(got[i]), float64(want[i])
		gg, ww, gw = gg+g*g, ww+w*w, gw+g*w
	}
	rms := math.Sqrt(ww / max(1, float64(len(want))))
	bad, first := 0, -1
	for i := range want {
		g, w := float64(got[i]), float64(want[i])
		diff := math.Abs(g - w)
		if !(diff <= tol.Abs+tol.Rel*max(math.Abs(w), rms)) {
			if bad++; first < 0 {
				first = i
			}
		}
		maxAbs, maxRel = math.Max(maxAbs, diff), math.Max(maxRel, diff/math.Max(math.Abs(w), rms))
	}
	cosine := gw / math.Sqrt(gg*ww)
	switch {
	case first >= 0:
		return fmt.Errorf("%d of %d elements differ, first %d: got %v, want %v; max abs %.3g, max rel %.3g, cosine %.6f",
			bad, len(want), first, got[first], want[first], maxAbs, maxRel, cosine)
	case tol.Cosine != 0 && len(want) > 0 && ww > 0 && !(cosine > tol.Cosine):
		return fmt.Errorf("cosine is %.6f; want more than %v; max abs %.3g, max rel %.3g", cosine, tol.Cosine, maxAbs, maxRel)
	}
	return nil
}
