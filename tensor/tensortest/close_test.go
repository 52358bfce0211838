package tensortest

import (
	"math"
	"strings"
	"testing"
)

func TestCompare(t *testing.T) {
	nan, inf := math.NaN(), math.Inf(1)
	for _, c := range []struct {
		name      string
		got, want []float64
		tol       Tolerance
		err       string // "" for none
	}{
		{"equal", []float64{1, -2}, []float64{1, -2}, Exact, ""},
		{"empty", nil, nil, F32, ""},
		{"within", []float64{1.000001}, []float64{1}, F32, ""},
		{"beyond", []float64{1, 1.1}, []float64{1, 1}, F32, "first 1: got 1.1, want 1"},
		{"length", []float64{1}, []float64{1, 2}, F32, "1 elements; want 2"},
		{"nan got", []float64{nan}, []float64{1}, BF16, "first 0"},
		{"nan want", []float64{1}, []float64{nan}, BF16, "first 0"},
		{"nan both", []float64{nan}, []float64{nan}, BF16, "first 0"},
		{"inf both", []float64{inf}, []float64{inf}, F32, "first 0"},
		{"small beside large", []float64{100, 1e-4}, []float64{100, 0}, F32, ""},
		{"cosine", []float64{1, 0.9}, []float64{1, 1}, Tolerance{Abs: 1, Cosine: 0.9999}, "cosine is 0.998"},
	} {
		err := compare(c.got, c.want, c.tol)
		if c.err == "" && err != nil || c.err != "" && (err == nil || !strings.Contains(err.Error(), c.err)) {
			t.Errorf("%s: got %v; want %q", c.name, err, c.err)
		}
	}
}
