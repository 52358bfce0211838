package eval

import (
	"slices"
	"strings"
	"testing"

	"pipe/runtime/artifact"
	"pipe/runtime/stage"
)

// TestBaseIsAskedOnce: the model that is compared with answers once, its results are
// then the same to the byte, cuts included, and whatever they depend on asks it again.
func TestBaseIsAskedOnce(t *testing.T) {
	b, s := everything(t)
	b.seed = 7
	long := choices()
	long[1].Messages[0].Content = strings.Repeat("long ", 120)
	s.Suites[0].Data = b.data(long...)
	s.Model.Digest = artifact.Digest{1}
	run := func(what string, asked bool) (out [2]artifact.Digest) {
		t.Helper()
		b.notes = nil
		before := len(b.memos)
		if _, _, err := b.run(s); err != nil {
			t.Fatal(err)
		}
		recalled := slices.ContainsFunc(b.notes, func(n string) bool { return strings.HasSuffix(n, " was asked the same before; its results are those") })
		if b.memos != nil && (recalled == asked || len(b.memos) > before != asked) {
			t.Errorf("%s: %d memos after %d, notes %q", what, len(b.memos), before, b.notes)
		}
		b.notes = slices.DeleteFunc(b.notes, func(n string) bool { return strings.Contains(n, "asked the same") })
		return [2]artifact.Digest{b.output["metrics"].Digest(), b.output["items"].Digest()}
	}
	want := run("nothing is kept", true)
	notes := b.notes
	b.memos = map[string][]byte{}
	for _, again := range []bool{false, true} {
		s.Model.Digest = artifact.Digest{2} // another tuned model
		if got := run("once", !again); got != want || !slices.Equal(b.notes, notes) {
			t.Errorf("recalled %v: other results, or notes %q, want %q", again, b.notes, notes)
		}
	}
	for what, change := range map[string]func(){
		"batch":     func() { s.Batch = 100 },
		"precision": func() { s.Precision = "bf16" },
		"suite":     func() { s.Suites[1].MaxTokens = 5 },
		"rows":      func() { s.Suites[1].Data = b.data(questions()[:2]...) },
		"needle":    func() { s.Needle.Digits = 4 },
		"baseline":  func() { s.Baseline = &stage.Model{Ref: artifact.Ref{Addr: "model.base", Digest: artifact.Digest{3}}} },
	} {
		was, needle := *s, *s.Needle
		s.Suites = slices.Clone(was.Suites)
		change()
		run(what, true)
		run(what+" again", false)
		*s, *was.Needle = was, needle
	}
	b.in.models["model.tuned"] = stage.ModelPath{Base: b.in.models["model.tuned"].Base, Adapter: b.in.models["model.tuned"].Adapter, Root: artifact.Digest{9}}
	run("another base", true)
}
