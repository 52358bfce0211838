package train

import (
	"math"
	"testing"
)

func near(got, want float64) bool { return math.Abs(got-want) <= 1e-12*(1+math.Abs(want)) }

func TestEstimates(t *testing.T) {
	m := MeanOf([]float64{1, 0, 0, 1, 1})
	if m.N != 5 || !near(m.Value, 0.6) || !near(m.Stderr, math.Sqrt(1.2/4/5)) {
		t.Errorf("mean: %+v", m)
	}
	if m := MeanOf([]float64{2}); m.N != 1 || m.Value != 2 || m.Stderr != 0 {
		t.Errorf("mean of one: %+v", m)
	}
	r := RatioOf([]float64{2, 5, 6}, []float64{1, 0, 2}) // 8/3; residuals ∓2/3; sqrt(8/9/1/2)/1.5
	if r.N != 2 || !near(r.Value, 8.0/3) || !near(r.Stderr, math.Sqrt(8.0/9/2)/1.5) || len(r.Each) != 2 || !near((r.Each[0]+r.Each[1])/2, r.Value) {
		t.Errorf("ratio: %+v", r)
	}
	if e := RatioOf([]float64{1}, []float64{0}); e.N != 0 || e.Value != 0 {
		t.Errorf("ratio of nothing: %+v", e)
	}
	for name, e := range map[string]Estimate{"exp": r.Exp(), "scale": r.Scale(-2)} {
		want := map[string][2]float64{"exp": {math.Exp(r.Value), math.Exp(r.Value) * r.Stderr}, "scale": {-2 * r.Value, 2 * r.Stderr}}[name]
		if !near(e.Value, want[0]) || !near(e.Stderr, want[1]) || !near(e.Stderr, stderr(e.Each, e.Value)) {
			t.Errorf("%s: %+v, want %v", name, e, want)
		}
	}
}

// TestMinus: items that are hard for both models do not blur their difference.
func TestMinus(t *testing.T) {
	a, b := MeanOf([]float64{1, 5, 9, 13}), MeanOf([]float64{2, 6, 10, 13})
	d, ok := b.Minus(a)
	if !ok || d.N != 4 || !near(d.Value, 0.75) || !near(d.Stderr, 0.25) {
		t.Errorf("difference %+v, want 0.75 ± 0.25", d)
	}
	if _, ok := a.Minus(MeanOf([]float64{1})); ok {
		t.Error("different items were paired")
	}
	// A ratio's difference over equal x is the ratio of the differences.
	x := []float64{3, 1, 4}
	d, _ = RatioOf([]float64{6, 1, 9}, x).Minus(RatioOf([]float64{5, 1, 7}, x))
	want := RatioOf([]float64{1, 0, 2}, x)
	if !near(d.Value, want.Value) || !near(d.Stderr, want.Stderr) {
		t.Errorf("difference of ratios %+v, want %+v", d, want)
	}
}
