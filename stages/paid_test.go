package stages

import (
	"context"
	"slices"
	"strings"
	"testing"

	"pipe/runtime/engine"
)

// TestAnswersArePaidForOnce: whatever is edited around a request, its answer
// comes from the journal. Where the edit changes the rows, synth runs, for nothing.
func TestAnswersArePaidForOnce(t *testing.T) {
	calls := 0
	k := newKitchen(t)
	server := lecture(t, &calls)
	recipe := strings.Replace(rerunRecipe, "ENDPOINT", server.URL, 1)
	other := lecture(t, &calls) // the same teacher at another address
	edit := func(pairs ...string) string {
		t.Helper()
		out := recipe
		for i := 0; i < len(pairs); i += 2 {
			if !strings.Contains(out, pairs[i]) {
				t.Fatalf("the recipe has no %q", pairs[i])
			}
			out = strings.ReplaceAll(out, pairs[i], pairs[i+1])
		}
		return out
	}
	run := func(what, src string, ran bool, paid int) {
		t.Helper()
		before := calls
		var addrs []string
		for _, n := range k.load(src).Nodes {
			if n.Type == "synth" {
				addrs = append(addrs, n.Addr)
			}
		}
		o := k.o
		o.Targets = addrs
		res, err := engine.Run(context.Background(), k.load(src), o)
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		for _, s := range res.Stages {
			if !slices.Contains(addrs, s.Addr) {
				continue
			}
			if (s.State == engine.Done) != ran {
				t.Errorf("%s: %s is %s", what, s.Addr, s.State)
			}
			if ran && (s.Spent == nil || int(s.Spent.Calls) != paid || s.Spent.Replayed+s.Spent.Calls < 9) {
				t.Errorf("%s: spent %+v, want %d calls", what, s.Spent, paid)
			}
			rec, err := k.o.Store.Record(s.Key)
			if err != nil || rec.Spent == nil || ran && *rec.Spent != *s.Spent {
				t.Errorf("%s: the record has %+v, %v; the result %+v", what, rec.Spent, err, s.Spent)
			}
		}
		if calls-before != paid {
			t.Errorf("%s cost %d calls, want %d", what, calls-before, paid)
		}
	}
	run("first", recipe, true, 9)

	run("a renamed teacher", edit(`"t" {`, `"professor" {`, "teacher.t\n", "teacher.professor\n"), false, 0)
	run("a renamed synth", edit(`"cot"`, `"dialogues"`, "synth.cot", "synth.dialogues"), false, 0)
	run("another endpoint", edit(server.URL, other.URL), false, 0)
	run("prices and budgets", edit("retries  = 0", "retries  = 0\n  budget_usd = 1\n  usd_per_million_input_tokens = 2\n  budget_tokens = 9"), false, 0)

	synth := func(line string) string { return edit("count     = 3", "count     = 3\n  "+line) }
	for _, line := range []string{`system = "be brief"`, "context = true", "grounding = 0.25", "max_question_chars = 99", "max_answer_chars = 444", "attempts = 9"} {
		run(line, synth(line), true, 0)
	}
	run("another seed of the pipeline", edit("seed = 3", "seed = 4"), true, 0)
	run("several at once, all renamed", edit("seed = 3", "seed = 5", `"t" {`, `"u" {`, "teacher.t\n", "teacher.u\n", `"cot"`, `"x"`, "synth.cot", "synth.x", server.URL, other.URL, "count     = 3", "count     = 3\n  context = true"), true, 0)
	twice := strings.Replace(recipe, `dedup "clean"`, "synth \"twin\" {\n  teacher   = teacher.t\n  documents = data.docs\n  method    = \"document_to_dialogue\"\n  count     = 3\n  system    = \"twin\"\n}\ndedup \"clean\"", 1)
	before := calls
	if _, err := engine.Run(context.Background(), k.load(twice), k.o); err != nil || calls != before {
		t.Errorf("a second stage with the same requests cost %d calls, %v", calls-before, err)
	}

	run("a larger count", edit("count     = 3", "count     = 5"), true, 6)
	run("a smaller count", edit("count     = 3", "count     = 4"), true, 0)
	run("another salt", synth("salt = 1"), true, 9)
	run("another temperature", edit("retries  = 0", "retries  = 0\n  temperature = 0.1"), true, 9)

	// A document that was edited costs what is asked about it.
	k.write("docs/2.txt", lessons[2][0]+" And what a new sentence says.")
	run("one edited document", recipe, true, 3)
	run("one edited document, again", recipe, false, 0)
}
