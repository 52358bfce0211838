package dedup

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"pipe/model/modeltest"
	"pipe/runtime/artifact"
	"pipe/runtime/stage"
	"pipe/runtime/stage/stagetest"
	"pipe/stages/dedup/embed"
	"pipe/stages/dedup/index"
	"pipe/tensor"
	"pipe/tensor/cpu"
)

func document(id, text string) artifact.Row { return artifact.Row{ID: id, Text: text, Gold: -1} }

func talk(id string, turns ...string) artifact.Row {
	r := artifact.Row{ID: id, Gold: -1}
	for i, s := range turns {
		r.Messages = append(r.Messages, artifact.Message{Role: []string{"user", "assistant"}[i%2], Content: s})
	}
	return r
}

func bench(t *testing.T) *stagetest.Bench {
	b := stagetest.New(t)
	be := cpu.New(0)
	t.Cleanup(func() { be.Close() })
	b.Backend = be
	return b
}

func try(t *testing.T, rows []artifact.Row, edit func(b *stagetest.Bench, s *spec)) (*stagetest.Result, error) {
	t.Helper()
	b := bench(t)
	s := newStage().(*spec)
	s.Input = stagetest.Dataset(b, rows...)
	edit(b, s)
	return b.Try(context.Background(), Kind, s)
}

func run(t *testing.T, rows []artifact.Row, edit func(b *stagetest.Bench, s *spec)) (kept []string, drops map[string]artifact.Drop, r *stagetest.Result) {
	t.Helper()
	r, err := try(t, rows, edit)
	if err != nil {
		t.Fatal(err)
	}
	drops = map[string]artifact.Drop{}
	for _, row := range stagetest.Rows[artifact.Row](r, "dataset") {
		kept = append(kept, row.ID)
	}
	for _, d := range stagetest.Rows[artifact.Drop](r, "drops") {
		drops[d.ID] = d
	}
	if len(kept)+len(drops) != len(rows) {
		t.Errorf("%d rows became %d kept and %d dropped", len(rows), len(kept), len(drops))
	}
	return kept, drops, r
}

// against adds a decontaminate block with its defaults.
func (s *spec) against(d ...stage.Dataset) *decontaminate {
	s.Decontaminate = &decontaminate{Against: d}
	s.Decontaminate.SetDefaults()
	return s.Decontaminate
}

func plain(*stagetest.Bench, *spec) {}

const (
	fox   = "The quick brown fox jumps over the lazy dog near the quiet river bank while the old farmer watches from his porch."
	fox2  = "The quick brown fox jumps over the lazy dog near the quiet river bank while the old farmer watches from the porch."
	ships = "Ships that pass in the night and speak each other in passing, only a signal shown and a distant voice in the darkness."
)

func TestExactAndNear(t *testing.T) {
	rows := []artifact.Row{document("c", fox), document("a", ships), document("b", "The quick  brown\nfox"+fox[19:]), document("d", fox2), document("e", strings.ToUpper(fox))}
	kept, drops, r := run(t, rows, plain)
	if !slices.Equal(kept, []string{"a", "b"}) {
		t.Errorf("kept %q", kept)
	}
	if d := drops["c"]; d.Reason != "exact" || d.Partner != "b" || d.Score != 1 || !strings.HasPrefix(d.Text, "The quick") {
		t.Errorf("c: %+v", d)
	}
	if d := drops["d"]; d.Reason != "near" || d.Partner != "b" || !(d.Score > 0.92 && d.Score < 1) {
		t.Errorf("d: %+v", d)
	}
	if d := drops["e"]; d.Reason != "near" { // case is not exact, but near
		t.Errorf("e: %+v", d)
	}
	m := r.Metrics("metrics").Metrics
	if m["dedup.rows_in"].Value != 5 || m["dedup.rows_out"].Value != 2 || m["dedup.exact"].Value != 1 || m["dedup.near"].Value != 2 || m["dedup.recall"].Value != 1 || m["dedup.recall"].N == 0 {
		t.Errorf("metrics %+v", m)
	}
	if n := m["dedup.recall"].N; n != 3 { // of b, d and e, which are all near to each other
		t.Errorf("%d near pairs; want 3", n)
	}
	if !slices.ContainsFunc(r.Notes, func(n string) bool { return strings.Contains(n, "found 3 of 3 near pairs of the 4 rows") }) {
		t.Errorf("notes %q", r.Notes)
	}
}

func TestNumbersAreNotNear(t *testing.T) {
	kept, _, _ := run(t, []artifact.Row{document("a", "what is 2+2"), document("b", "what is 2-2"), document("c", "what is 7+9")}, plain)
	if len(kept) != 3 {
		t.Errorf("kept %q", kept)
	}
}

func TestQuality(t *testing.T) {
	rows := []artifact.Row{document("a", fox), document("b", fox2), document("c", fox)}
	rows[1].Meta, rows[2].Meta = `{"score": 2.5}`, `{"score": 1}`
	quality := func(_ *stagetest.Bench, s *spec) { s.Quality = "score" }
	if kept, drops, _ := run(t, rows, quality); !slices.Equal(kept, []string{"b"}) || drops["a"].Partner != "c" {
		t.Errorf("kept %q, drops %v", kept, drops)
	}
	for i, score := range []string{`"2"`, `" 10.5"`, `"NaN"`} { // as tables hold numbers
		rows[i].Meta = `{"score":` + score + `}`
	}
	if kept, _, _ := run(t, rows[:3], quality); !slices.Equal(kept, []string{rows[1].ID}) {
		t.Errorf("of numbers in text %q is kept; want %q", kept, rows[1].ID)
	}
	if _, err := try(t, []artifact.Row{document("a", fox)}, quality); err == nil || !strings.Contains(err.Error(), `quality: is "score", and no row`) {
		t.Errorf("got %v", err)
	}
}

// A chain of neighbours is one group, and the drop says through whom.
func TestChain(t *testing.T) {
	words := strings.Fields(strings.Repeat(ships+" ", 1))
	var rows []artifact.Row
	for i := range 6 {
		w := slices.Clone(words)
		for k := range i * 2 {
			w[k] = fmt.Sprint("changed", k)
		}
		rows = append(rows, document(fmt.Sprint("r", i), strings.Join(w, " ")))
	}
	kept, drops, _ := run(t, rows, func(_ *stagetest.Bench, s *spec) { s.Threshold = 0.85 })
	if !slices.Equal(kept, []string{"r0"}) {
		t.Fatalf("kept %q, drops %+v", kept, drops)
	}
	if d := drops["r5"]; d.Partner != "r0" || !(d.Score < 0.85) || !strings.Contains(d.Detail, "near to it through r") {
		t.Errorf("r5: %+v", d)
	}
}

func TestWhatIsCompared(t *testing.T) {
	a, b := talk("a", ships, "Yes."), talk("b", ships, fox)
	a.Messages = append([]artifact.Message{{Role: "system", Content: fox}}, a.Messages...)
	if kept, _, _ := run(t, []artifact.Row{a, b}, plain); len(kept) != 2 {
		t.Errorf("text: kept %q", kept)
	}
	if kept, _, _ := run(t, []artifact.Row{a, b}, func(_ *stagetest.Bench, s *spec) { s.Compare = "user" }); len(kept) != 1 {
		t.Errorf("user: kept %q", kept)
	}
	// System turns alone tell exact copies apart, not near ones.
	c, d := talk("c", ships, fox), talk("d", ships, fox)
	d.Messages = append([]artifact.Message{{Role: "system", Content: "S"}}, d.Messages...)
	if _, drops, _ := run(t, []artifact.Row{c, d}, plain); drops["d"].Reason != "near" || drops["d"].Score != 1 {
		t.Errorf("drops %+v", drops)
	}
	p, q := talk("p", ships), talk("q", ships)
	p.Chosen, p.Rejected = talk("", "", fox).Messages[1:], talk("", "", "No.").Messages[1:]
	q.Chosen, q.Rejected = talk("", "", "A short answer.").Messages[1:], talk("", "", "Never mind that now.").Messages[1:]
	if kept, _, _ := run(t, []artifact.Row{p, q}, plain); len(kept) != 2 {
		t.Errorf("preferences: kept %q", kept)
	}
}

// corpus returns documents with planted copies and near copies.
func corpus(n int, seed uint64) []artifact.Row {
	r := rand.New(rand.NewPCG(seed, 3))
	words := func() []string {
		w := make([]string, 30+r.IntN(20))
		for i := range w {
			w[i] = fmt.Sprintf("w%d", r.IntN(400))
		}
		return w
	}
	var rows []artifact.Row
	last := words()
	for i := range n {
		switch r.IntN(4) {
		case 0:
		case 1:
			last = slices.Clone(last)
			last[r.IntN(len(last))] = "other"
		default:
			last = words()
		}
		rows = append(rows, document(fmt.Sprintf("r%03d", r.IntN(1000)*1000+i), strings.Join(last, " ")))
	}
	return rows
}

// For any corpus: the order of the rows does not matter, a second run drops
// nothing, a higher threshold drops no more, and every dropped row's partner
// is kept.
func TestProperties(t *testing.T) {
	env := &stage.Env{Backend: bench(t).Backend, Progress: func(int64, int64, string) {}}
	result := func(rows []artifact.Row, threshold float64) (kept []artifact.Row, drops map[int]artifact.Drop) {
		s := newStage().(*spec)
		s.Threshold = threshold
		j := newJob(s, rows)
		j.exact()
		if err := j.near(context.Background(), env, embed.Hash{Width: 64}); err != nil {
			t.Fatal(err)
		}
		for i := range rows {
			if _, gone := j.drops[i]; !gone {
				kept = append(kept, rows[i])
			}
		}
		return kept, j.drops
	}
	ids := func(rows []artifact.Row) (out []string) {
		for _, r := range rows {
			out = append(out, r.ID)
		}
		slices.Sort(out)
		return out
	}
	rapid.Check(t, func(rt *rapid.T) {
		rows := corpus(rapid.IntRange(1, 60).Draw(rt, "rows"), rapid.Uint64().Draw(rt, "seed"))
		threshold := rapid.Float64Range(0.5, 0.99).Draw(rt, "threshold")
		kept, drops := result(rows, threshold)
		shuffled := rapid.Permutation(rows).Draw(rt, "order")
		other, _ := result(shuffled, threshold)
		if !slices.Equal(ids(kept), ids(other)) {
			rt.Fatalf("another order keeps %q, not %q", ids(other), ids(kept))
		}
		if again, _ := result(kept, threshold); len(again) != len(kept) {
			rt.Fatalf("a second run keeps %d of %d rows", len(again), len(kept))
		}
		if fewer, _ := result(rows, (1+threshold)/2); len(fewer) < len(kept) {
			rt.Fatalf("a higher threshold keeps %d rows instead of %d", len(fewer), len(kept))
		}
		partner := map[string]bool{}
		for _, r := range kept {
			partner[r.ID] = true
		}
		for _, d := range drops {
			partner[d.ID] = partner[d.ID] || d.Reason == "exact" // its copy may be near to another row
		}
		for _, d := range drops {
			if !partner[d.Partner] && d.Reason == "near" {
				rt.Fatalf("the partner of %+v is not kept", d)
			}
		}
	})
}

func TestIndexesAgree(t *testing.T) {
	rows := corpus(400, 6)
	want, _, _ := run(t, rows, func(_ *stagetest.Bench, s *spec) { s.Index = "exact" })
	for _, index := range []string{"auto", "hnsw"} {
		if got, _, _ := run(t, rows, func(_ *stagetest.Bench, s *spec) { s.Index = index }); !slices.Equal(got, want) {
			t.Errorf("%s keeps %d rows, exact %d", index, len(got), len(want))
		}
	}
}

// coder/hnsw misses pairs; the stage notices, and gives nothing.
func TestFailsClosed(t *testing.T) {
	rows := corpus(1500, 7)
	_, err := try(t, rows, func(_ *stagetest.Bench, s *spec) { s.Index = "coder" })
	if err == nil || !strings.Contains(err.Error(), `index "coder" found`) || !strings.Contains(err.Error(), "min_recall is 0.999") {
		t.Fatalf("got %v", err)
	}
	if _, err := try(t, rows, func(_ *stagetest.Bench, s *spec) { s.Index, s.MinRecall = "coder", 0 }); err != nil {
		t.Errorf("with min_recall 0: %v", err)
	}
}

// A graph that misses pairs costs "auto" time, and nothing else.
func TestAutoComparesAllWhereTheGraphFails(t *testing.T) {
	rows := corpus(400, 6)
	be := cpu.New(0)
	defer be.Close()
	for name, c := range map[string]struct {
		how   string
		least float64
		want  []string // the searches that are made
	}{
		"auto":        {"auto", 0.999, []string{"auto", "exact"}},
		"auto, loose": {"auto", 0, []string{"auto"}},
		"hnsw":        {"hnsw", 0.999, []string{"hnsw"}},
	} {
		s := newStage().(*spec)
		s.Index, s.MinRecall = c.how, c.least
		j := newJob(s, rows)
		var asked, notes []string
		j.find = func(ctx context.Context, how string, b tensor.Backend, v index.Vectors, threshold float64, yield index.Yield) (string, error) {
			asked = append(asked, how)
			if how != "exact" {
				return "hnsw", nil // and no pair
			}
			return index.Find(ctx, how, b, v, threshold, yield)
		}
		env := &stage.Env{Backend: be, Progress: func(int64, int64, string) {}, Note: func(format string, args ...any) { notes = append(notes, fmt.Sprintf(format, args...)) }}
		err := j.near(t.Context(), env, embed.Hash{Width: s.Dimensions})
		if !slices.Equal(asked, c.want) || (err != nil) != (c.how == "hnsw") {
			t.Errorf("%s: searched %q, %v", name, asked, err)
		}
		if c.want[len(c.want)-1] != "exact" {
			continue
		}
		if j.method != "exact" || j.recall.Value() != 1 || len(j.drops) == 0 || !strings.Contains(strings.Join(notes, "\n"), "search hnsw found 0 of") {
			t.Errorf("%s: by %s, recall %+v, %d drops, notes %q", name, j.method, j.recall, len(j.drops), notes)
		}
	}
}

func TestNoEmbedder(t *testing.T) {
	kept, _, _ := run(t, []artifact.Row{document("a", fox), document("b", fox), document("c", fox2)}, func(_ *stagetest.Bench, s *spec) { s.Embedder = "none" })
	if !slices.Equal(kept, []string{"a", "c"}) {
		t.Errorf("kept %q", kept)
	}
}

func TestModelEmbedder(t *testing.T) {
	rows := []artifact.Row{document("a", fox), document("b", "0 1 2 3 4"), document("c", fox+"."), document("d", "<|im_end|>")}
	kept, drops, _ := run(t, rows, func(b *stagetest.Bench, s *spec) {
		m := b.Model(modeltest.Directory(t, true))
		s.Embedder, s.EmbedderModel, s.Threshold = "model", &m, 0.99
	})
	if !slices.Equal(kept, []string{"a", "b", "d"}) || drops["c"].Partner != "a" {
		t.Errorf("kept %q, drops %+v", kept, drops)
	}
}

func TestStaticEmbedder(t *testing.T) {
	dir := filepath.Join("..", "..", "..", "shared", "data", "model", "potion-base-4m-int8")
	if _, err := os.Stat(dir); err != nil {
		t.Skip("the test model is not there:", err)
	}
	rows := []artifact.Row{
		document("a", "How do I reset my password?"), document("b", "How can I reset my password?"),
		document("c", "What is the capital of France?"),
	}
	kept, drops, _ := run(t, rows, func(b *stagetest.Bench, s *spec) {
		m := b.Model(dir)
		s.Embedder, s.EmbedderModel, s.Threshold = "static", &m, 0.9
	})
	if !slices.Equal(kept, []string{"a", "c"}) {
		t.Errorf("kept %q, drops %+v", kept, drops)
	}
}

func TestCheck(t *testing.T) {
	for want, edit := range map[string]func(s *spec){
		"threshold: is 1.1":                       func(s *spec) { s.Threshold = 1.1 },
		`embedder: is "bert"`:                     func(s *spec) { s.Embedder = "bert" },
		`embedder_model: is needed`:               func(s *spec) { s.Embedder = "static" },
		`embedder_model: has no use`:              func(s *spec) { s.EmbedderModel = &stage.Model{} },
		"dimensions: is 8":                        func(s *spec) { s.Dimensions = 8 },
		`compare: is "all"`:                       func(s *spec) { s.Compare = "all" },
		`index: is "faiss"`:                       func(s *spec) { s.Index = "faiss" },
		"min_recall: is 2":                        func(s *spec) { s.MinRecall = 2 },
		"decontaminate.against: is empty":         func(s *spec) { s.Decontaminate = &decontaminate{Ngram: 8, Coverage: 0.5} },
		"decontaminate.ngram: is 0":               func(s *spec) { s.Decontaminate = &decontaminate{Coverage: 0.5} },
		"decontaminate.coverage: is 0":            func(s *spec) { s.Decontaminate = &decontaminate{Ngram: 8} },
		"decontaminate.threshold: needs an embed": func(s *spec) { s.Embedder, s.Decontaminate = "none", &decontaminate{Threshold: 0.9} },
	} {
		s := newStage().(*spec)
		edit(s)
		if err := s.Check(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v; want %q", err, want)
		}
	}
	if err := newStage().Check(); err != nil {
		t.Error(err)
	}
	if !reflect.DeepEqual(newStage(), newStage()) {
		t.Error("two new stages differ")
	}
}
