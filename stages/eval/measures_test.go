package eval

import (
	"slices"
	"strings"
	"testing"
)

// TestMeasures: what is measured is what was said before, of suites whose type is
// known and of others.
func TestMeasures(t *testing.T) {
	b, s := everything(t)
	m, _, err := b.run(s)
	if err != nil {
		t.Fatal(err)
	}
	open := s.Measures()
	for i, kind := range []string{"multiple_choice", "generate", "preference", "perplexity"} {
		s.Suites[i].Type = kind
	}
	exact := s.Measures()
	made := map[string][]string{}
	for name := range m.Metrics {
		suite, metric, _ := strings.Cut(name, ".")
		made[suite] = append(made[suite], metric)
		if !slices.Contains(open[suite], metric) {
			t.Errorf("%s was measured, and not foreseen", name)
		}
	}
	if len(made) != len(exact) {
		t.Errorf("measured %v, foreseen %v", made, exact)
	}
	for suite, want := range exact {
		want = slices.Sorted(slices.Values(want))
		slices.Sort(made[suite])
		if !slices.Equal(made[suite], want) {
			t.Errorf("%s: measured %v, foreseen %v", suite, made[suite], want)
		}
	}
	for kind := range suiteTypes {
		if measures[kind] == nil {
			t.Errorf("the metrics of %s are not known", kind)
		}
	}
}
