package train_test

import (
	"math"
	"testing"

	"pipe/train"
)

// near compares with golden values, which have nine digits.
func near(t *testing.T, name string, got, want float64) {
	t.Helper()
	if !(math.Abs(got-want) <= 1e-9*math.Max(1, math.Abs(want))) {
		t.Errorf("%s = %.12g, want %.12g", name, got, want)
	}
}

func TestGoldenLosses(t *testing.T) {
	policy, ref := train.Pair{Chosen: -20, Rejected: -25}, train.Pair{Chosen: -21, Rejected: -24}
	l, _ := train.DPO(0.1, policy, ref)
	near(t, "sigmoid", l, 0.598138869)
	l, _ = train.Hinge(0.1, policy, ref)
	near(t, "hinge", l, 0.8)
	l, _ = train.IPO(0.1, policy, ref, 10, 12)
	near(t, "ipo", l, 23.2002777777777)
	avg := train.Pair{Chosen: -0.5, Rejected: -1.2}
	l, _ = train.ORPO(0.1, avg)
	near(t, "orpo", 0.6+l, 0.6246553113)
	near(t, "log odds", train.LogOdds(avg), 1.274369712)
	l, _ = train.DPO(0.3, ref, ref)
	near(t, "sigmoid at the reference", l, math.Ln2)
}

// TestLossGradients compares each gradient with a difference quotient, and
// asks for finite values far out.
func TestLossGradients(t *testing.T) {
	ref := train.Pair{Chosen: -21, Rejected: -24}
	losses := map[string]func(p train.Pair) (float64, train.Pair){
		"sigmoid": func(p train.Pair) (float64, train.Pair) { return train.DPO(0.1, p, ref) },
		"hinge":   func(p train.Pair) (float64, train.Pair) { return train.Hinge(0.1, p, ref) },
		"ipo":     func(p train.Pair) (float64, train.Pair) { return train.IPO(0.1, p, ref, 7, 3) },
		"orpo":    func(p train.Pair) (float64, train.Pair) { return train.ORPO(0.1, p) },
	}
	for name, f := range losses {
		for _, p := range []train.Pair{{-20, -25}, {-0.5, -1.2}, {-3, -0.01}, {-30, -9}, {-0.2, -0.2}} {
			const h = 1e-6
			_, g := f(p)
			at := func(dc, dr float64) float64 {
				l, _ := f(train.Pair{Chosen: p.Chosen + dc, Rejected: p.Rejected + dr})
				return l
			}
			for _, x := range []struct{ got, slope float64 }{
				{g.Chosen, (at(h, 0) - at(-h, 0)) / (2 * h)}, {g.Rejected, (at(0, h) - at(0, -h)) / (2 * h)},
			} {
				if !(math.Abs(x.got-x.slope) <= 1e-5*math.Max(1, math.Abs(x.slope))) {
					t.Errorf("%s at %v: gradient %v, slope %v", name, p, x.got, x.slope)
				}
			}
		}
		for _, p := range []train.Pair{{-1e4, -1e-9}, {-1e-9, -1e4}, {0, 0}} {
			l, g := f(p)
			for _, v := range []float64{l, g.Chosen, g.Rejected} {
				if math.IsNaN(v) || math.IsInf(v, 0) {
					t.Errorf("%s at %v: loss %v, gradient %v", name, p, l, g)
				}
			}
		}
	}
}

func TestSchedule(t *testing.T) {
	at := func(name string, done int) float64 {
		return train.Schedule{Name: name, Warmup: 10, Steps: 100}.At(done)
	}
	near(t, "warm-up 0", at("linear", 0), 0)
	near(t, "warm-up 5", at("cosine", 5), 0.5)
	near(t, "linear 55", at("linear", 55), 0.5)
	near(t, "cosine 55", at("cosine", 55), 0.5)
	near(t, "linear 99", at("linear", 99), 1.0/90)
	if v := at("cosine", 99); !(math.Abs(v-0.000304586) < 1e-9) {
		t.Errorf("cosine 99 = %v", v)
	}
	near(t, "constant 70", at("constant", 70), 1)
}
