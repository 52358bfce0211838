package synth

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"pipe/runtime/artifact"
	"pipe/runtime/stage"
	"pipe/runtime/stage/stagetest"
)

// Prompts are asked as they are, and replies kept as they are when they say the
// reference answer.
func TestResponses(t *testing.T) {
	user := func(s string) artifact.Message { return artifact.Message{Role: "user", Content: s} }
	rows := []artifact.Row{
		{ID: "twice", Gold: -1, Messages: []artifact.Message{user("6*7?")}, Answer: "<think>6*7</think>#### 42"},
		{ID: "own", Gold: -1, Messages: []artifact.Message{user("40+2?"), {Role: "assistant", Content: "I forgot."}}, Answer: "42.0"},
		{ID: "never", Gold: -1, Text: "7*8?", Answer: "56"},
	}
	reply := func(prompt string, n int) string { // another answer each time that the same is asked
		return fmt.Sprintf("<think>hm, 42?</think>Answer: it\n\nis %d.", 41+n+len(prompt)/5)
	}
	for _, c := range []struct {
		verify, reasoning string
		want              []string // what is said, by source; "": rejected
		calls             int
	}{
		{"", "none", []string{"Answer: it\n\nis 41.", "Answer: it\n\nis 42.", "Answer: it\n\nis 41."}, 3},
		{"number", "none", []string{"Answer: it\n\nis 42.", "Answer: it\n\nis 42.", ""}, 6},
		{"number", "own", []string{"<think>\nhm, 42?\n</think>\n\nAnswer: it\n\nis 42.", "<think>\nhm, 42?\n</think>\n\nAnswer: it\n\nis 42.", ""}, 6},
	} {
		s := serve(t, reply)
		b := stagetest.New(t)
		d := stagetest.Dataset(b, rows...)
		x := spec1(s, responses)
		x.Prompts, x.Verify, x.Reasoning, x.Count = &d, c.verify, c.reasoning, 10
		r := b.Run(Kind, x)
		got := map[string]artifact.Row{}
		for _, row := range stagetest.Rows[artifact.Row](r, "dataset") {
			got[row.Source] = row
		}
		for i, want := range c.want {
			row, ok := got[rows[i].ID]
			if ok != (want != "") {
				t.Errorf("%+v: row %s is there: %v", c, rows[i].ID, ok)
			} else if ok && (len(row.Messages) != 2 || row.Messages[0].Role != "user" || row.Messages[1].Content != want || row.Answer != "") {
				t.Errorf("%+v: row %s is %+v; want %q", c, rows[i].ID, row, want)
			}
		}
		if s.count() != c.calls {
			t.Errorf("%+v: %d calls", c, s.count())
		}
		for _, drop := range stagetest.Rows[artifact.Drop](r, "rejects") {
			if drop.Partner != "never" || !strings.Contains(drop.Detail, `it does not say the reference answer, "56"`) {
				t.Errorf("%+v: reject %+v", c, drop)
			}
		}
		if said := slices.ContainsFunc(r.Notes, func(n string) bool { return strings.Contains(n, "1 rejected") }); said != slices.Contains(c.want, "") {
			t.Errorf("%+v: notes %q", c, r.Notes)
		}
	}
}

func TestResponsesRefuse(t *testing.T) {
	s := serve(t, good)
	b := stagetest.New(t)
	for want, rows := range map[string][]artifact.Row{
		"row a has no reference answer to verify with": {{ID: "a", Gold: -1, Text: "q"}},
		"row b does not end with a user turn":          {{ID: "b", Gold: -1, Messages: []artifact.Message{{Role: "system", Content: "s"}}}},
		"has no rows":                                  nil,
	} {
		d := stagetest.Dataset(b, rows...)
		x := spec1(s, responses)
		x.Prompts, x.Verify = &d, "text"
		if _, err := b.Try(t.Context(), Kind, x); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v; want %q", err, want)
		}
	}
	x := spec1(s, responses)
	x.Documents, x.SelfCorrect, x.Reasoning, x.Verify = &stage.Dataset{}, true, "think", "near"
	err := x.Check()
	for _, want := range []string{"needs prompts", "documents is not used", "self_correct is not used", `reasoning is "think"`, `verify is "near"`} {
		if err == nil || !strings.Contains(strings.ReplaceAll(err.Error(), ": ", " "), want) {
			t.Errorf("%v; want %q", err, want)
		}
	}
	x = spec1(s, pairs)
	x.Prompts, x.Verify = &stage.Dataset{}, "text"
	if err := x.Check(); err == nil || !strings.Contains(err.Error(), "is used by method \"responses\" only") {
		t.Errorf("verify of pairs: %v", err)
	}
}

func TestAcceptResponse(t *testing.T) {
	for _, c := range []struct {
		verify, reply, reference string
		ok                       bool
	}{
		{"", "anything", "", true}, {"", " \n", "", false}, {"", "I'm sorry, no.", "", false}, {"", strings.Repeat("a", 41), "", false},
		{"text", "So it is the licence notice.", "Licence notice", true}, {"text", "So it is a licence.", "Licence notice", false}, {"text", "So.", "the", false},
		{"number", "6 by 7 is 1,042", "so: 1042.0", true}, {"number", "42, not 41", "42", false}, {"number", "none", "no number", false},
		{"exact", "B", " B ", true}, {"exact", "b", "B", false},
	} {
		x := &spec{Verify: c.verify, MaxAnswer: 40}
		if got, err := x.acceptResponse(c.reply, c.reference); (err == nil) != c.ok || c.ok && got != c.reply {
			t.Errorf("%+v: %q, %v", c, got, err)
		}
	}
}
