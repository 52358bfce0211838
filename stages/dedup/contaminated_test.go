package dedup

import (
	"slices"
	"strings"
	"testing"

	"pipe/runtime/artifact"
	"pipe/runtime/stage/stagetest"
)

const asks = "A train leaves the station at nine and travels sixty miles an hour; when does it reach the harbour ninety miles away?"

func question(id, q, answer string) artifact.Row {
	r := talk(id, q)
	r.Answer = answer
	return r
}

func TestDecontaminate(t *testing.T) {
	rows := []artifact.Row{
		talk("verbatim", asks, "At half past ten."),
		talk("hidden", "Solve this.\n"+strings.ToUpper(strings.ReplaceAll(asks, " ", "\n  ")), "Half past ten, I think, but let me check it."),
		talk("half", "A train leaves the station at nine and travels sixty miles an hour. How many wheels does it have?", "Many."),
		talk("little", "At the harbour a train leaves the station at nine and travels every day. Who drives it, and where to?", "Nobody."),
		talk("assistant", "Give me a puzzle about trains.", "Certainly! "+asks),
		talk("clean", ships, fox),
		talk("answer", "Tell me something.", "It arrives at half past ten."),
	}
	edit := func(b *stagetest.Bench, s *spec) {
		s.against(stagetest.Dataset(b, question("q1", asks, "It arrives at half past ten."), question("q2", "Why is the sea salt?", "Rivers.")))
	}
	kept, drops, r := run(t, rows, edit)
	if !slices.Equal(kept, []string{"little", "clean", "answer"}) {
		t.Errorf("kept %q", kept)
	}
	if d := drops["verbatim"]; d.Reason != "contaminated" || d.Partner != "q1" || d.Score != 1 || !strings.Contains(d.Detail, "covers 100% of q1 of against[0]: words 1-22 of 22") {
		t.Errorf("verbatim: %+v", d)
	}
	if d := drops["half"]; !(d.Score >= 0.5 && d.Score < 0.7) || !strings.Contains(d.Detail, "words 1-13 of 22") {
		t.Errorf("half: %+v", d)
	}
	m := r.Metrics("metrics").Metrics
	if m["dedup.contaminated"].Value != 4 || m["dedup.benchmark_items_hit"].Value != 1 || m["dedup.rows_with_13gram"].Value != 4 {
		t.Errorf("metrics %+v", m)
	}
	if c := m["dedup.canary_recall"]; c.N != 2 || c.Value != 1 {
		t.Errorf("canaries %+v", c)
	}
	kept, drops, _ = run(t, rows, func(b *stagetest.Bench, s *spec) { edit(b, s); s.Decontaminate.Answers = true })
	if slices.Contains(kept, "answer") || !strings.Contains(drops["answer"].Detail, "is the answer to q1") {
		t.Errorf("answers: kept %q, drop %+v", kept, drops["answer"])
	}
	kept, _, _ = run(t, rows, func(b *stagetest.Bench, s *spec) { edit(b, s); s.Decontaminate.Coverage = 0.2 })
	if slices.Contains(kept, "little") {
		t.Errorf("coverage 0.2: kept %q", kept)
	}
}

func TestDecontaminateByEmbedding(t *testing.T) {
	// Every seventh word is another: no eight words in a row are left.
	words := strings.Fields(strings.Repeat(ships+" ", 2))
	for i := 5; i < len(words); i += 7 {
		words[i] = "something"
	}
	rows := []artifact.Row{document("paraphrase", strings.Join(words, " ")), document("clean", fox)}
	edit := func(b *stagetest.Bench, s *spec) {
		s.against(stagetest.Dataset(b, document("item", strings.Repeat(ships+" ", 2))))
	}
	if kept, _, _ := run(t, rows, edit); len(kept) != 2 {
		t.Errorf("n-grams: kept %q", kept)
	}
	kept, drops, _ := run(t, rows, func(b *stagetest.Bench, s *spec) { edit(b, s); s.Decontaminate.Threshold = 0.6 })
	if d := drops["paraphrase"]; !slices.Equal(kept, []string{"clean"}) || d.Partner != "item" || !(d.Score >= 0.6) || !strings.HasPrefix(d.Detail, "cosine to item") {
		t.Errorf("kept %q, drop %+v", kept, d)
	}
}

func TestDecontaminateErrors(t *testing.T) {
	rows := []artifact.Row{talk("a", asks, "x")}
	_, err := try(t, rows, func(b *stagetest.Bench, s *spec) { s.against(stagetest.Dataset[artifact.Row](b)) })
	if err == nil || !strings.Contains(err.Error(), "decontaminate.against[0]: data.test has no rows") {
		t.Errorf("empty benchmark: %v", err)
	}
	_, err = try(t, rows, func(b *stagetest.Bench, s *spec) { s.against(stagetest.Dataset(b, question("q", asks, "y"))) })
	if err == nil || !strings.Contains(err.Error(), "all of them are contaminated") {
		t.Errorf("nothing left: %v", err)
	}
}
