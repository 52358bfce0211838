package dedup

import (
	"context"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"

	"golang.org/x/text/unicode/norm"

	"pipe/model/modeltest"
	"pipe/runtime/artifact"
	"pipe/runtime/stage/stagetest"
	"pipe/tensor/cpu"
)

func TestEmptyAndSmall(t *testing.T) {
	if _, err := try(t, nil, plain); err == nil || !strings.Contains(err.Error(), "input: data.test has no rows") {
		t.Errorf("no rows: %v", err)
	}
	for _, index := range []string{"auto", "exact", "hnsw", "coder"} {
		edit := func(_ *stagetest.Bench, s *spec) { s.Index = index }
		if kept, _, _ := run(t, []artifact.Row{document("a", fox)}, edit); !slices.Equal(kept, []string{"a"}) {
			t.Errorf("%s: one row: kept %q", index, kept)
		}
		// White space alone is one text; what has no words is near to nothing.
		rows := []artifact.Row{document("a", " "), document("b", "\n\t\u00a0 "), document("c", ""), document("d", "\u200b"), document("e", "\u00ad")}
		if kept, drops, _ := run(t, rows, edit); !slices.Equal(kept, []string{"a", "d", "e"}) || drops["c"].Reason != "exact" {
			t.Errorf("%s: white space: kept %q, drops %v", index, kept, drops)
		}
	}
	rows := []artifact.Row{document("a", " "), document("b", fox), document("c", "\u200b")}
	kept, _, _ := run(t, rows, func(b *stagetest.Bench, s *spec) {
		s.against(stagetest.Dataset(b, document("blank", "  "), document("q", ships))).Threshold = 0.01
	})
	if !slices.Contains(kept, "a") || !slices.Contains(kept, "c") {
		t.Errorf("blank rows against a blank item: kept %q", kept)
	}
}

func TestUnicodeForms(t *testing.T) {
	const text = "Café naïve Ångström: the señor's résumé, in 3 parts, was sent to Zürich in the early morning of that day."
	rows := []artifact.Row{document("a", text), document("b", norm.NFD.String(text)), document("c", strings.ReplaceAll(text, " ", "\u3000")),
		document("d", strings.ToUpper(text)), document("e", strings.ReplaceAll(text, "i", "\uff49"))}
	kept, drops, _ := run(t, rows, plain)
	if !slices.Equal(kept, []string{"a"}) {
		t.Errorf("kept %q", kept)
	}
	for id, reason := range map[string]string{"b": "exact", "c": "exact", "d": "near", "e": "near"} {
		if d := drops[id]; d.Reason != reason || d.Partner != "a" || !(d.Score == 1) {
			t.Errorf("%s: %+v", id, d)
		}
	}
	if kept, _, _ := run(t, []artifact.Row{document("bad", "\xff\xfe broken"), document("bad2", "\xff broken")}, plain); len(kept) == 0 {
		t.Error("rows of broken UTF-8 are all gone")
	}
}

func TestThresholdOne(t *testing.T) {
	rows := []artifact.Row{document("a", fox), document("b", strings.ToUpper(fox)), document("c", fox2)}
	for _, index := range []string{"exact", "hnsw"} {
		kept, drops, _ := run(t, rows, func(_ *stagetest.Bench, s *spec) { s.Index, s.Threshold = index, 1 })
		if !slices.Equal(kept, []string{"a", "c"}) || drops["b"].Score != 1 {
			t.Errorf("%s: kept %q, drops %v", index, kept, drops)
		}
	}
	s := newStage().(*spec)
	if s.Threshold = 0; s.Check() == nil {
		t.Error("threshold 0 is taken: all rows would be one group")
	}
}

// Every row says the same, in as many spellings: one group, found with memory
// that does not grow with the number of pairs.
func TestAllAlike(t *testing.T) {
	const n = 2000
	var rows []artifact.Row
	for i := range n {
		w := []byte(fox)
		for k := range 12 {
			if i>>k&1 == 1 && w[20+k] >= 'a' {
				w[20+k] -= 'a' - 'A'
			}
		}
		rows = append(rows, document(fmt.Sprintf("r%04d", i), string(w)))
	}
	for _, index := range []string{"auto", "hnsw"} {
		kept, drops, r := run(t, rows, func(_ *stagetest.Bench, s *spec) { s.Index, s.Dimensions = index, 64 })
		if !slices.Equal(kept, []string{"r0000"}) || drops["r1999"].Partner == "" {
			t.Errorf("%s: kept %d rows", index, len(kept))
		}
		if m := r.Metrics("metrics").Metrics; m["dedup.exact"].Value+m["dedup.near"].Value != n-1 || m["dedup.near"].Value < 100 {
			t.Errorf("%s: metrics %+v", index, m)
		}
	}
}

// Rows that share only what fits into the model's context are not copies.
func TestLongRowsWithModel(t *testing.T) {
	start := strings.Repeat(fox+" ", 2)
	rows := []artifact.Row{document("a", start+strings.Repeat("0123456789", 60)), document("b", start+strings.Repeat("zyxwvut!", 80)),
		document("c", start+strings.Repeat("0123456789", 60)+".")}
	kept, drops, _ := run(t, rows, func(b *stagetest.Bench, s *spec) {
		m := b.Model(modeltest.Directory(t, true))
		s.Embedder, s.EmbedderModel, s.Threshold = "model", &m, 0.99
	})
	if !slices.Equal(kept, []string{"a", "b"}) || drops["c"].Partner != "a" {
		t.Errorf("kept %q, drops %+v", kept, drops)
	}
}

func TestPreferencesAndDialogues(t *testing.T) {
	pair := func(id, chosen, rejected string) artifact.Row {
		r := talk(id, ships)
		r.Chosen, r.Rejected = []artifact.Message{{Role: "assistant", Content: chosen}}, []artifact.Message{{Role: "assistant", Content: rejected}}
		return r
	}
	// Exchanging chosen and rejected is another row, word for word.
	kept, drops, _ := run(t, []artifact.Row{pair("a", "Yes.", "No."), pair("b", "Yes.", "No."), pair("c", "No.", "Yes.")},
		func(_ *stagetest.Bench, s *spec) { s.Embedder = "none" })
	if !slices.Equal(kept, []string{"a", "c"}) || drops["b"].Reason != "exact" {
		t.Errorf("kept %q, drops %v", kept, drops)
	}
	// An item in a rejected answer, or across the turns of a dialogue, is found.
	rows := []artifact.Row{pair("rejected", "I don't know.", "Sure: "+asks), pair("chosen", asks, "No."), talk("turns", "Hello", "Hi", asks, "Half past ten."),
		talk("clean", "Hello", "Hi", fox, "Nice.")}
	kept, drops, _ = run(t, rows, func(b *stagetest.Bench, s *spec) { s.against(stagetest.Dataset(b, talk("q1", asks))) })
	if !slices.Equal(kept, []string{"clean"}) || drops["turns"].Partner != "q1" {
		t.Errorf("kept %q, drops %v", kept, drops)
	}
}

// A multiple-choice item is found by its question, and by its choices when
// they make up most of it; its right choice is its answer.
func TestBenchmarkWithChoices(t *testing.T) {
	choices := []string{"the harbour master keeps the key of the old lighthouse", "the mayor of the small town upon the hill keeps it",
		"nobody has seen the key since the storm of that winter", "the baker hid it under the third stone of the bridge"}
	item := talk("mc", "Who keeps the key?")
	item.Choices, item.Gold = choices, 3
	rows := []artifact.Row{talk("question", "Who keeps the key?", "I do."), talk("choices", strings.Join(choices, "\n"), "Well."),
		talk("gold", "Tell me.", "The baker hid it under the third stone of the bridge!"), talk("clean", ships, fox)}
	for answers, want := range map[bool][]string{false: {"gold", "clean"}, true: {"clean"}} {
		kept, drops, _ := run(t, rows, func(b *stagetest.Bench, s *spec) { s.against(stagetest.Dataset(b, item)).Answers = answers })
		if !slices.Equal(kept, want) {
			t.Errorf("answers %v: kept %q, drops %+v", answers, kept, drops)
		}
	}
	broken := item
	broken.Gold, broken.Choices = 9, []string{"a"}
	if kept, _, _ := run(t, rows, func(b *stagetest.Bench, s *spec) { s.against(stagetest.Dataset(b, broken)).Answers = true }); slices.Contains(kept, "question") {
		t.Errorf("an item whose gold is out of range: kept %q", kept)
	}
}

// Every drop names a row of the input (or an item of a benchmark), with a
// reason and a score that its texts bear out.
func TestDropsAreComplete(t *testing.T) {
	rows := append(corpus(300, 9), document("bench", ships+" And so on to the end of the night."))
	_, drops, _ := run(t, rows, func(b *stagetest.Bench, s *spec) { s.against(stagetest.Dataset(b, document("item", ships))) })
	byID := map[string]artifact.Row{}
	for _, r := range rows {
		byID[r.ID] = r
	}
	reasons := map[string]int{}
	for id, d := range drops {
		reasons[d.Reason]++
		partner, known := byID[d.Partner]
		row := byID[id]
		switch {
		case d.Text == "" || !strings.HasPrefix(compared(&row), strings.TrimSuffix(d.Text, "…")):
			t.Errorf("%+v does not show its row", d)
		case d.Reason == "exact" && (!known || d.Score != 1 || content(&partner) != content(&row)):
			t.Errorf("%+v is not a copy", d)
		case d.Reason == "near" && (!known || !(d.Score >= 0.92) && d.Detail == ""):
			t.Errorf("%+v is not near", d)
		case d.Reason == "contaminated" && (d.Partner != "item" || !(d.Score >= 0.5) || d.Detail == ""):
			t.Errorf("%+v does not say where", d)
		}
	}
	if reasons["exact"] == 0 || reasons["near"] == 0 || reasons["contaminated"] != 1 || len(reasons) != 3 {
		t.Errorf("reasons %v", reasons)
	}
}

// The drops are the same bytes on 1, 2 and 7 processors, and when other
// goroutines take processors away at random; in another order of the input,
// they are the same drops.
func TestSameDrops(t *testing.T) {
	rows := corpus(300, 5)
	for _, index := range []string{"exact", "hnsw"} {
		drops := func(procs int, noise bool, rows []artifact.Row) (artifact.Digest, map[string]artifact.Drop) {
			defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(procs))
			be := cpu.New(procs)
			defer be.Close()
			ctx, cancel := context.WithCancel(context.Background())
			var wg sync.WaitGroup
			defer wg.Wait()
			defer cancel()
			for range 2 * procs {
				if noise {
					wg.Go(func() {
						for ; ctx.Err() == nil; runtime.Gosched() {
							for range rand.IntN(1000) {
								rand.Uint64()
							}
						}
					})
				}
			}
			_, d, r := run(t, rows, func(b *stagetest.Bench, s *spec) {
				b.Backend, s.Index = be, index
				s.against(stagetest.Dataset(b, corpus(300, 5)[:20]...)).Threshold = 0.95
			})
			return r.Outputs["drops"].Digest(), d
		}
		first, want := drops(1, false, rows)
		for _, c := range []struct {
			procs int
			noise bool
		}{{2, false}, {7, false}, {7, true}} {
			if got, _ := drops(c.procs, c.noise, rows); got != first {
				t.Errorf("%s: %d processors (noise %v) give other bytes than one", index, c.procs, c.noise)
			}
		}
		mixed := slices.Clone(rows)
		rand.New(rand.NewPCG(4, 4)).Shuffle(len(mixed), func(i, j int) { mixed[i], mixed[j] = mixed[j], mixed[i] })
		_, got := drops(7, true, mixed)
		for id, d := range want {
			if got[id].Reason != d.Reason || got[id].Partner != d.Partner || got[id].Score != d.Score {
				t.Errorf("%s: in another order, %+v became %+v", index, d, got[id])
			}
		}
		if len(got) != len(want) || len(want) == 0 {
			t.Errorf("%s: %d drops in another order, not %d", index, len(got), len(want))
		}
	}
}
