package stages

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"pipe/model/pretrained"
	"pipe/runtime/artifact"
	"pipe/runtime/engine"
)

// traceRecipe sends equal texts and long documents through all stages between a
// file and a training step.
const traceRecipe = `
pipeline "trace" { seed = 5 }
model "tiny" { source = "embedded://tiny" }
teacher "t" {
  provider = "openai"
  endpoint = "ENDPOINT/v1"
  model_id = "big"
  retries  = 0
}
data "docs" { source = "./docs/*.txt" }
data "book" {
  source    = "./book.txt"
  split     = "paragraph"
  max_chars = 60
}
data "twins" { source = "./twins.jsonl" }
data "bench" { source = "./bench.jsonl" }
data "prefs" { source = "./prefs.jsonl" }
synth "cot" {
  teacher   = teacher.t
  documents = data.docs
  method    = "document_to_dialogue"
  count     = 4
}
dedup "clean" {
  input     = data.twins
  embedder  = "none"
  decontaminate { against = [data.bench] }
}
mix "all" {
  source "one" {
    input  = dedup.clean.dataset
    weight = 1.0
  }
  source "two" {
    input  = data.twins
    weight = 1.2
  }
  source "cot" {
    input  = synth.cot.dataset
    weight = 0.2
  }
}
pack "fit" {
  input   = mix.all.dataset
  model   = model.tiny
  seq_len = 96
}
pack "wrapped" {
  input    = data.book
  model    = model.tiny
  seq_len  = 24
  strategy = "wrapped"
}
pack "pieces" {
  input    = data.book
  model    = model.tiny
  seq_len  = 10
  overflow = "split"
}
dpo "final" {
  base       = model.tiny
  data       = data.prefs
  epochs     = 2
  batch_size = 2
  eval_split = 0.3
  max_len    = 64
  adapter "lora" {
    rank    = 1
    targets = ["q_proj"]
  }
}
sft "tuned" {
  base       = model.tiny
  data       = pack.fit.dataset
  epochs     = 2
  batch_size = 1
  eval_split = 0.3
  adapter "lora" {
    rank    = 1
    targets = ["q_proj"]
  }
}
`

// book has equal paragraphs at different lines, and a long one.
const book = `The mill is old.

The river is wide and it runs past the old mill at night.


The mill is old.

A long day at the quay: the boats come in, the boats go out, and the man at the gate counts every one of them twice before he writes it down.

The mill is old.
`

func traceKitchen(t *testing.T) (*kitchen, *engine.Tracing) {
	t.Helper()
	calls := 0
	k := newKitchen(t)
	k.write("book.txt", book)
	var twins strings.Builder
	for i := range 12 {
		fmt.Fprintf(&twins, "{\"id\":\"t%d\",\"text\":\"Row of the twins, number %d, which is not long.\"}\n", i, i/2)
	}
	twins.WriteString(`{"id":"leak","text":"It is known that the notice of the authors is kept by all who copy it today."}` + "\n")
	k.write("twins.jsonl", twins.String())
	k.write("bench.jsonl", `{"id":"b0","text":"the notice of the authors is kept by all who copy it"}`+"\n")
	var prefs strings.Builder
	for i, rejected := range []string{"no", "no", "the same", "no", "no", "no", "no"} {
		fmt.Fprintf(&prefs, "{\"messages\":[{\"role\":\"user\",\"content\":\"Question %d?\"}],\"chosen\":[{\"role\":\"assistant\",\"content\":\"the same\"}],\"rejected\":[{\"role\":\"assistant\",\"content\":%q}]}\n", i, rejected)
	}
	k.write("prefs.jsonl", prefs.String())
	recipe := strings.ReplaceAll(traceRecipe, "ENDPOINT", lecture(t, &calls).URL)
	if _, err := engine.Run(context.Background(), k.load(recipe), k.o); err != nil {
		t.Fatal(err)
	}
	paid := calls
	x, err := engine.NewTracing(context.Background(), k.load(recipe), k.o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if calls != paid {
			t.Errorf("tracing asked the teacher %d times", calls-paid)
		}
	})
	return k, x
}

// end is the last row of the only way back.
func end(t *testing.T, tr *engine.Trace) *engine.Trace {
	t.Helper()
	for len(tr.From) > 0 {
		if len(tr.From) > 1 {
			t.Fatalf("%s row %d has %d parents", tr.Ref(), tr.Row, len(tr.From))
		}
		tr = tr.From[0]
	}
	return tr
}

func fact(tr *engine.Trace, what string) string {
	for _, f := range tr.Facts {
		if f.What == what {
			return f.Text
		}
	}
	return ""
}

// TestTraceOfTokens: every token of every packed row, of documents that were
// cut and of such that are equal, leads to the line that it stands in.
func TestTraceOfTokens(t *testing.T) {
	k, x := traceKitchen(t)
	model, err := pretrained.Open(tinyDir(t, k))
	if err != nil {
		t.Fatal(err)
	}
	defer model.Close()
	lines := strings.Split(book, "\n")
	for _, pack := range []string{"pack.wrapped", "pack.pieces"} {
		parts := map[string]int{} // documents that were cut
		for row, r := range packedRows(t, k, x, pack) {
			for at, id := range r.IDs {
				tr, err := x.Back(pack, "dataset", row, at)
				if err != nil {
					t.Fatal(err)
				}
				source := fact(end(t, tr), "source")
				var line int
				if _, err := fmt.Sscanf(source, "book.txt:%d", &line); err != nil {
					t.Fatalf("%s row %d token %d comes from %q", pack, row, at, source)
				}
				token := strings.TrimSpace(model.Tokenizer.Decode([]int32{id}))
				if !model.Tokenizer.IsSpecial(id) && !strings.Contains(lines[line-1], token) {
					t.Errorf("%s row %d token %d is %q and comes from line %d, %q", pack, row, at, token, line, lines[line-1])
				}
			}
			for _, id := range r.Rows {
				parts[id]++
			}
		}
		if n := slices.Max(slices.Collect(maps.Values(parts))); n < 2 {
			t.Errorf("%s cuts no document: the test proves nothing", pack)
		}
	}
	// The equal paragraphs keep apart: the first token of each says its own line.
	var got []string
	for i := range packedDocs(t, x, "data.book") {
		tr, err := x.Back("data.book", "", i, 0)
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, fact(tr, "source"))
	}
	// Short paragraphs are joined with what follows, as long as it fits.
	if want := []string{"book.txt:1", "book.txt:3", "book.txt:6", "book.txt:8", "book.txt:8", "book.txt:8"}; !slices.Equal(got, want) {
		t.Errorf("the pieces of the book stand at %q, want %q", got, want)
	}
}

// TestTraceBack: through the mix, the drops and the teacher.
func TestTraceBack(t *testing.T) {
	_, x := traceKitchen(t)
	rows, err := x.Dataset("mix.all", "dataset")
	if err != nil {
		t.Fatal(err)
	}
	repeated := 0
	for i, r := range rows {
		tr, err := x.Back("mix.all", "dataset", i, -1)
		if err != nil {
			t.Fatal(err)
		}
		from := end(t, tr)
		name, id, ok := strings.Cut(r.ID, ":")
		if base, _, again := strings.Cut(r.ID, "~"); again {
			repeated++
			id = strings.TrimPrefix(base, name+":")
		}
		switch {
		case !ok: // of a single source
		case from.ID != id || from.Stage != "data.twins":
			t.Errorf("%s comes from %s of %s", r.ID, from.ID, from.Stage)
		case (tr.From[0].Stage == "dedup.clean") != (name == "one"):
			t.Errorf("%s comes by %s", r.ID, tr.From[0].Stage)
		}
		if !strings.HasPrefix(fact(tr, "mix source"), cutName(r.ID, tr)) {
			t.Errorf("%s: mix source %q", r.ID, fact(tr, "mix source"))
		}
	}
	if repeated == 0 {
		t.Error("no row was drawn twice: the test proves nothing")
	}

	tr, err := x.Back("synth.cot", "dataset", 3, -1) // the passage of row 0 once more
	if err != nil {
		t.Fatal(err)
	}
	if got := fact(tr, "question, attempt 1: teacher answered"); got != "Question: "+lessons[0][1] {
		t.Errorf("the teacher answered %q", got)
	}
	if got := fact(tr, "answer, attempt 1: asked"); !strings.Contains(got, lessons[0][0]) || !strings.Contains(got, lessons[0][2]) {
		t.Errorf("the teacher was asked %q", got)
	}
	if got := fact(end(t, tr), "source"); got != "docs/0.txt:1" || tr.From[0].Part != "passage 0" {
		t.Errorf("it comes from %q, %s", got, tr.From[0].Part)
	}

	row, ok, err := x.Find("dedup.clean", "drops", "leak")
	if err != nil || !ok {
		t.Fatal(ok, err)
	}
	if tr, err = x.Back("dedup.clean", "drops", row, -1); err != nil {
		t.Fatal(err)
	}
	if got := fact(tr, "dropped: contaminated"); !strings.Contains(got, "for b0") || fact(end(t, tr), "source") != "twins.jsonl:13" {
		t.Errorf("the leak: %q, %+v", got, end(t, tr))
	}
	kept, _, _ := x.Find("dedup.clean", "dataset", "t4")
	if tr, err = x.Back("dedup.clean", "dataset", kept, -1); err != nil || !strings.Contains(fact(tr, "kept"), "t5 (exact, 1.0000)") {
		t.Errorf("kept: %q, %v", fact(tr, "kept"), err)
	}
	for _, bad := range [][2]int{{99, -1}, {-1, -1}, {0, 99999}} {
		if _, err := x.Back("pack.fit", "dataset", bad[0], bad[1]); err == nil {
			t.Errorf("row %d token %d was traced", bad[0], bad[1])
		}
	}
}

func cutName(id string, tr *engine.Trace) string {
	if name, _, ok := strings.Cut(id, ":"); ok {
		return name
	}
	if strings.HasPrefix(id, "dialogue") {
		return "cot"
	}
	return ""
}

// TestTraceForward: into all copies, packed rows and steps, and into drops.
func TestTraceForward(t *testing.T) {
	_, x := traceKitchen(t)
	leak, _, _ := x.Find("data.twins", "", "leak")
	tr, err := x.Forward("data.twins", "", leak)
	if err != nil {
		t.Fatal(err)
	}
	var reached []string
	var visit func(*engine.Trace)
	uses := map[int][]int{} // steps by packed row
	visit = func(tr *engine.Trace) {
		reached = append(reached, tr.Ref())
		for _, u := range tr.Uses {
			uses[tr.Row] = u.Steps
		}
		for _, c := range tr.Into {
			visit(c)
		}
	}
	visit(tr)
	for _, want := range []string{"dedup.clean.drops", "mix.all.dataset", "pack.fit.dataset"} { // the twins are mixed in directly, too
		if !slices.Contains(reached, want) {
			t.Errorf("the leak reached %q, not %s", reached, want)
		}
	}
	bench, err := x.Forward("data.bench", "", 0)
	if err != nil || fact(bench, "dedup.clean") != "1 row dropped because of it: leak" {
		t.Errorf("the benchmark's row: %+v, %v", bench, err)
	}

	// Every packed row is learned once an epoch, each step has one, or it is held out.
	rows, err := x.Dataset("pack.fit", "dataset")
	if err != nil {
		t.Fatal(err)
	}
	steps, held := map[int]int{}, 0
	for i := range rows {
		tr, err := x.Forward("pack.fit", "dataset", i)
		if err != nil {
			t.Fatal(err)
		}
		u := tr.Uses[0]
		if len(u.Steps) == 0 {
			held++
			continue
		}
		if len(u.Steps) != 2 {
			t.Errorf("packed row %d is learned at %v in 2 epochs", i, u.Steps)
		}
		for _, s := range u.Steps {
			steps[s]++
		}
	}
	if learned := len(rows) - held; held == 0 || len(steps) != 2*learned {
		t.Errorf("%d of %d rows held out; steps %v", held, len(rows), steps)
	}
}

func tinyDir(t *testing.T, k *kitchen) string {
	t.Helper()
	dir, _, err := k.o.Resolve(context.Background(), "embedded://tiny", k.dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

func packedDocs(t *testing.T, x *engine.Tracing, addr string) []engine.Trace {
	t.Helper()
	rows, err := x.Dataset(addr, "")
	if err != nil {
		t.Fatal(err)
	}
	return rows
}

func packedRows(t *testing.T, k *kitchen, x *engine.Tracing, addr string) []artifact.Packed {
	t.Helper()
	name := strings.TrimPrefix(addr, "pack.")
	run, err := engine.FindRun(k.o.Store, "last", "", "")
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range run.Stages {
		if s.Addr == "pack."+name {
			a, err := k.o.Store.Open(s.Outputs["dataset"].Digest)
			if err != nil {
				t.Fatal(err)
			}
			rows, err := artifact.All[artifact.Packed](a)
			if err != nil {
				t.Fatal(err)
			}
			return rows
		}
	}
	t.Fatalf("no stage %s", addr)
	return nil
}

// TestTraceOfPreferences: which pairs dpo learned from and when.
func TestTraceOfPreferences(t *testing.T) {
	_, x := traceKitchen(t)
	var steps, held, left []int
	for i := range 7 {
		tr, err := x.Forward("data.prefs", "", i)
		if err != nil {
			t.Fatal(err)
		}
		switch u := tr.Uses[0]; {
		case strings.HasPrefix(u.Note, "left out: its answers are the same"):
			left = append(left, i)
		case strings.HasPrefix(u.Note, "held out"):
			held = append(held, i)
		case len(u.Steps) != 2:
			t.Errorf("pair %d is learned at %v in 2 epochs", i, u.Steps)
		default:
			steps = append(steps, u.Steps...)
		}
	}
	slices.Sort(steps)
	if !slices.Equal(left, []int{2}) || len(held) != 2 || !slices.Equal(steps, []int{1, 1, 2, 2, 3, 3, 4, 4}) {
		t.Errorf("left out %v, held out %v, steps %v", left, held, steps)
	}
}
