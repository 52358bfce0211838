package eval

import (
	"slices"
	"strings"
	"testing"

	"pipe/runtime/artifact"
	"pipe/runtime/stage"
)

// TestCutsAreCounted: what does not fit the context is said, once for a model and
// again only for a baseline to which other things happen.
func TestCutsAreCounted(t *testing.T) {
	small, large := directory(t, 64), directory(t, 512)
	long := strings.Repeat("long ", 20)
	choice, question, pair := choices(), questions(), preferences()
	choice[1].Messages[0].Content, choice[4].Choices[1] = long, long
	question[2].Messages[0].Content = long
	pair[0].Rejected = said(long)
	for _, c := range []struct {
		model, baseline string
		adapter         bool
		want            []string
	}{
		{small, "", true, []string{
			`suite "choice": 1 of 6 questions lost their beginning, since with the answer they are longer than the model's context of 64 tokens`,
			`suite "choice": answers to 1 of 6 questions lost their end, since with the question they are longer than the model's context of 64 tokens`,
			`suite "answer": 1 of 3 questions lost their beginning, since with the answer they are longer than the model's context of 64 tokens`,
			`suite "prefer": answers to 1 of 4 questions lost their end, since with the question they are longer than the model's context of 64 tokens`,
		}},
		{large, small, false, []string{
			`suite "choice": 1 of 6 questions lost their beginning, since with the answer they are longer than the baseline's context of 64 tokens`,
			`suite "choice": answers to 1 of 6 questions lost their end, since with the question they are longer than the baseline's context of 64 tokens`,
			`suite "answer": 1 of 3 questions lost their beginning, since with the answer they are longer than the baseline's context of 64 tokens`,
			`suite "prefer": answers to 1 of 4 questions lost their end, since with the question they are longer than the baseline's context of 64 tokens`,
		}},
		{large, "", false, nil},
	} {
		paths := stage.ModelPath{Base: c.model}
		if c.adapter {
			paths.Adapter = untrained(t, c.model)
		}
		b := newBench(t, map[string]stage.ModelPath{"model.tuned": paths, "model.base": {Base: c.baseline}})
		s := newStage().(*spec)
		s.Model.Addr = "model.tuned"
		if c.baseline != "" {
			s.Baseline = &stage.Model{Ref: artifact.Ref{Addr: "model.base"}}
		}
		s.Suites = []suite{newSuite("choice", b.data(choice...)), newSuite("answer", b.data(question...)), newSuite("prefer", b.data(pair...))}
		if _, _, err := b.run(s); err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, n := range b.notes {
			if strings.Contains(n, " lost their ") {
				got = append(got, n)
			}
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%+v:\n%s", c, strings.Join(got, "\n"))
		}
	}
}
