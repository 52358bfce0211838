package train_test

import (
	"bytes"
	"context"
	"testing"

	"pipe/train"
)

// TestShortRuns: a warm-up that is a share of the steps leaves one for the full
// rate, and one that is a number of steps is what it says.
func TestShortRuns(t *testing.T) {
	for _, c := range []struct {
		warmup float64
		steps  int
		rates  []float64 // of an lr of 1, by the constant schedule
		note   string
	}{
		{0.03, 1, []float64{1}, ""},
		{0.9, 1, []float64{1}, ""},
		{0.03, 3, []float64{0, 1, 1}, ""},
		{0.99, 3, []float64{0, 0.5, 1}, ""},
		{0, 2, []float64{1, 1}, ""},
		{2, 3, []float64{0, 0.5, 1}, ""},
		{1, 1, []float64{0}, "warmup_steps = 1 is not over after the one step of this run: its rate is 0, and nothing is learned"},
		{4, 4, []float64{0, 0.25, 0.5, 0.75}, "warmup_steps = 4 is not over after the 4 steps of this run: the rate reaches at most 75% of lr"},
		{100, 3, []float64{0, 0.01, 0.02}, "warmup_steps = 100 is not over after the 3 steps of this run: the rate reaches at most 2% of lr"},
	} {
		d := student(t, "lora")
		o := train.NewOptions()
		o.LR, o.Schedule, o.Warmup, o.MaxSteps, o.BatchSize = 1, "constant", c.warmup, c.steps, 3
		o.MaxGradNorm = 1e-3
		if got := o.ShortOfRate(3); got != c.note {
			t.Errorf("warm-up %v of %d steps: %q", c.warmup, c.steps, got)
		}
		before := bits(d)
		r, err := train.Run(context.Background(), d, &train.Likelihood{Model: d, Rows: rows()}, o)
		if err != nil {
			t.Fatal(err)
		}
		at := 0
		for _, p := range r.Series {
			if p.Series == "learning_rate" {
				near(t, "rate", p.Value, c.rates[at])
				at++
			}
		}
		if learned := !bytes.Equal(bits(d), before); at != c.steps || learned != (c.rates[c.steps-1] > 0) {
			t.Errorf("warm-up %v of %d steps: %d rates, learned %t", c.warmup, c.steps, at, learned)
		}
	}
}
