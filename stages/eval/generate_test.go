package eval

import (
	"fmt"
	"math"
	"strings"
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

// TestThoughts: what is thought before an answer is not compared, and thoughts that do not
// end are no answer, which a note says.
func TestThoughts(t *testing.T) {
	b := newBench(t, nil)
	r, u := &runner{env: b.env(nil)}, newSuite("a", stage.Dataset{})
	rows := []artifact.Row{{ID: "0", Answer: "Yes"}, {ID: "1", Answer: "yes"}, {ID: "2", Answer: "yes"}, {ID: "3", Answer: "yes"}}
	res := r.judge(&u, rows, []string{"yes", "yes", "yes", "yes"}, []string{"<think>\n\n</think>\n\nYes.", "No? No.</think>Yes", "<think>Is it yes", "yes"})
	if m := res.metrics[0]; m.name != "exact_match" || m.Value != 0.75 {
		t.Errorf("%+v", res.metrics)
	}
	if got := res.items[0].details["got"]; got != "<think>\n\n</think>\n\nYes." {
		t.Errorf("an item says %q", got)
	}
	r.tally.Rows = len(rows)
	r.tell(job{name: "a", field: "suite"}, r.tally)
	if want := `suite "a": 1 of 4 answers of the model ended while it was thinking, and count as empty; raise max_tokens`; len(b.notes) != 1 || !strings.HasPrefix(b.notes[0], want) {
		t.Errorf("notes %q", b.notes)
	}
}
