package eval

import (
	"fmt"
	"math"
	"testing"

	"pipe/runtime/artifact"
	"pipe/runtime/stage"
)

// TestBlindAnswers: the blind guesser's answers are counted as they are scored.
func TestBlindAnswers(t *testing.T) {
	for _, c := range []struct {
		normalizer        string
		answers           []string
		exact, within, f1 float64
	}{
		{"text", []string{"Yes", "yes", "YES.", "no", "no"}, 0.6, 0.6, 0.6},
		{"exact", []string{"Yes", "yes", "YES.", "no", "no"}, 0.4, 0.4, 0.4},
		{"number", []string{"it is 7", "1,000", "1000.0", "none", "nothing", "never"}, 2.0 / 6, 2.0 / 6, 2.0 / 6}, // no number is no answer
		{"text", []string{"red", "red", "red car", "car", "blue"}, 0.4, 0.8, (2.0/3 + 2.0/3 + 1 + 2.0/3) / 5},
		{"text", []string{"!", "?"}, 0, 0, 0},
	} {
		rows := make([]artifact.Row, len(c.answers))
		for i, a := range c.answers {
			rows[i] = artifact.Row{ID: fmt.Sprint(i), Answer: a}
		}
		u := newSuite("a", stage.Dataset{})
		u.Normalizer = c.normalizer
		res, err := generate(&runner{blind: true}, &u, rows)
		if err != nil {
			t.Fatal(err)
		}
		for i, want := range []float64{c.exact, c.within, c.f1} {
			if got := res.metrics[i]; got.N != len(rows) || !(math.Abs(got.Value-want) < 1e-12) {
				t.Errorf("%s of %q: %s %v, want %v", c.normalizer, c.answers, got.name, got.Value, want)
			}
		}
	}
}
