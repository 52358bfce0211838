package sft

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"pipe/model"
	"pipe/model/adapter"
	"pipe/model/modeltest"
	"pipe/model/pretrained"
	"pipe/runtime/artifact"
	"pipe/runtime/stage"
)

// packed rows: texts of bytes, each another one, all but the first token of
// each learned.
func packedRows(n int) []artifact.Packed {
	var rows []artifact.Packed
	for i := range n {
		var r artifact.Packed
		for _, text := range []string{"abcabcabcabc", "hello hello hello", "0123456789"}[:1+i%3] {
			text += string(rune('A' + i%26))
			from := int32(len(r.IDs))
			r.Starts = append(r.Starts, from)
			for _, b := range []byte(text) {
				r.IDs = append(r.IDs, int32(b))
			}
			r.Loss = append(r.Loss, from+1, int32(len(r.IDs)))
			r.Rows = append(r.Rows, text)
		}
		rows = append(rows, r)
	}
	return rows
}

// block returns a spec with the defaults, changed.
func block(change func(*spec)) *spec {
	s := newStage().(*spec)
	s.Epochs, s.LR, s.EvalSplit = 3, 0.01, 0.2
	s.Adapter = &adapterBlock{}
	s.Adapter.SetDefaults()
	s.Adapter.Rank = 4
	change(s)
	return s
}

func metrics(t *testing.T, dir string) artifact.MetricsFile {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(dir, artifact.MetricsName))
	if err != nil {
		t.Fatal(err)
	}
	var m artifact.MetricsFile
	if err := json.Unmarshal(data, &m); err != nil {
		t.Fatal(err)
	}
	return m
}

// TestAdapters trains LoRA and DoRA: the held-out loss falls, the adapter
// loads again, and what the metrics say is what the saved model has.
func TestAdapters(t *testing.T) {
	base := modeltest.Directory(t, true)
	for _, kind := range []string{"lora", "dora"} {
		s := block(func(s *spec) { s.Adapter.Type = kind })
		out, err := runStage(t, s, base, "", packedRows(15))
		if err != nil {
			t.Fatal(err)
		}
		m := metrics(t, out["metrics"])
		before, after := m.Baseline["eval.loss"], m.Metrics["eval.loss"]
		if c := m.Change["eval.loss"]; c.N != after.N || !(math.Abs(c.Value-(after.Value-before.Value)) < 1e-12) || !(c.Stderr > 0) {
			t.Errorf("changed by %+v from %+v to %+v", c, before, after)
		}
		if !(after.Value < before.Value-0.5) || after.N < 3 || !(after.Stderr > 0) || after.Better != -1 {
			t.Errorf("%s: loss %+v before, %+v after", kind, before, after)
		}
		for _, name := range []string{adapter.ConfigName, adapter.WeightsName, artifact.ModelFile} {
			if _, err := os.Stat(filepath.Join(out["model"], name)); err != nil {
				t.Error(err)
			}
		}
		var manifest artifact.ModelManifest
		if data, err := os.ReadFile(filepath.Join(out["model"], artifact.ModelFile)); err != nil {
			t.Error(err)
		} else if err := json.Unmarshal(data, &manifest); err != nil {
			t.Error(err)
		}
		if tr := manifest.Training; len(tr) != 1 || tr[0].Kind != "sft" || tr[0].Settings["learning_rate"] != "0.01" || tr[0].Settings["epochs"] != "3" || tr[0].Settings["seed"] != "5" || tr[0].Settings["steps"] == "" {
			t.Errorf("%s: trained as %+v", kind, tr)
		}
		if got := evalLoss(t, base, out["model"], s); !(math.Abs(got-after.Value) <= 1e-5) {
			t.Errorf("%s: the saved adapter has loss %v, the metrics say %v", kind, got, after.Value)
		}
		// Going on from the adapter takes it further.
		more, err := runStage(t, block(func(s *spec) { s.Adapter = nil }), base, out["model"], packedRows(15))
		if err != nil {
			t.Fatal(err)
		}
		next := metrics(t, more["metrics"])
		if b := next.Baseline["eval.loss"].Value; !(math.Abs(b-after.Value) <= 1e-5) || !(next.Metrics["eval.loss"].Value < after.Value) {
			t.Errorf("%s: goes on from loss %v to %v, the adapter had %v", kind, b, next.Metrics["eval.loss"].Value, after.Value)
		}
		_, err = runStage(t, s, base, out["model"], packedRows(15))
		var fe *stage.FieldError
		if !errors.As(err, &fe) || fe.Field != "adapter" || !strings.Contains(err.Error(), "carries an adapter already") {
			t.Errorf("an adapter block over an adapter: %v", err)
		}
	}
}

// TestLlama4: an adapter on a Llama 4, and all weights of a new one.
func TestLlama4(t *testing.T) {
	base := modeltest.Llama4Directory(t, true)
	s := block(func(s *spec) { s.Adapter.Type = "dora" })
	out, err := runStage(t, s, base, "", packedRows(15))
	if err != nil {
		t.Fatal(err)
	}
	m := metrics(t, out["metrics"])
	before, after := m.Baseline["eval.loss"], m.Metrics["eval.loss"]
	if !(after.Value < before.Value-0.5) {
		t.Errorf("loss %+v before, %+v after", before, after)
	}
	if got := evalLoss(t, base, out["model"], s); !(math.Abs(got-after.Value) <= 1e-5) {
		t.Errorf("the saved adapter has loss %v, the metrics say %v", got, after.Value)
	}
	s = block(func(s *spec) { s.Init, s.Adapter.Type, s.Epochs = "random", "none", 8 })
	out, err = runStage(t, s, modeltest.Llama4Directory(t, false), "", packedRows(15))
	if err != nil {
		t.Fatal(err)
	}
	m = metrics(t, out["metrics"])
	if got, want := evalLoss(t, out["model"], "", s), m.Metrics["eval.loss"].Value; !(math.Abs(got-want) <= 1e-5) {
		t.Errorf("the saved model has loss %v, the metrics say %v", got, want)
	}
}

// evalLoss is the loss of a saved adapter on the rows that s holds out.
func evalLoss(t *testing.T, base, dir string, s *spec) float64 {
	t.Helper()
	p, err := pretrained.Open(base)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	d, err := model.Load(modeltest.Reference{}, p.Config, p.Weights, false)
	if err != nil {
		t.Fatal(err)
	}
	if dir != "" {
		if _, err := adapter.Load(d, dir); err != nil {
			t.Fatal(err)
		}
	}
	var rows []model.Batch
	for _, r := range packedRows(15) {
		b, err := batch(r, p.Config)
		if err != nil {
			t.Fatal(err)
		}
		rows = append(rows, b)
	}
	_, held := split(rows, nil, s.EvalSplit, seed)
	e, err := measure(context.Background(), d, held)
	if err != nil {
		t.Fatal(err)
	}
	return e.Value
}

// TestPretrain starts from a directory without weights and ends with a
// complete model.
func TestPretrain(t *testing.T) {
	base := modeltest.Directory(t, false)
	s := block(func(s *spec) {
		s.Init, s.Adapter.Type, s.Epochs = "random", "none", 8
		s.GradAccum, s.BatchSize, s.WeightDecay = 2, 2, 0.1
	})
	if err := s.Check(); err != nil {
		t.Fatal(err)
	}
	out, err := runStage(t, s, base, "", packedRows(15))
	if err != nil {
		t.Fatal(err)
	}
	m := metrics(t, out["metrics"])
	if before, after := m.Baseline["eval.loss"].Value, m.Metrics["eval.loss"].Value; !(before > 5 && after < 2.5) {
		t.Errorf("loss %v before, %v after", before, after)
	}
	if got, want := evalLoss(t, out["model"], "", s), m.Metrics["eval.loss"].Value; !(math.Abs(got-want) <= 1e-5) {
		t.Errorf("the saved model has loss %v, the metrics say %v", got, want)
	}
	if _, err := os.Stat(filepath.Join(out["model"], adapter.ConfigName)); err == nil {
		t.Error("a full model has an adapter_config.json")
	}
}

// TestInterrupted: a stage that was cancelled goes on from its checkpoint and
// writes the same bytes.
func TestInterrupted(t *testing.T) {
	base := modeltest.Directory(t, true)
	s := block(func(s *spec) { s.CheckpointEvery, s.Adapter.Dropout = 3, 0.1 })
	whole, err := runStage(t, s, base, "", packedRows(15))
	if err != nil {
		t.Fatal(err)
	}
	work := t.TempDir()
	for n := range 4 {
		ctx, cancel := context.WithCancel(context.Background())
		c := &counting{Context: ctx, left: 20 + 9*n, cancel: cancel}
		if _, err := runIn(t, c, work, s, base, "", packedRows(15)); err != nil && !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
		cancel()
	}
	got, err := runIn(t, context.Background(), work, s, base, "", packedRows(15))
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range []string{"model", "series", "metrics"} {
		if filepath.Base(got[o]) != filepath.Base(whole[o]) { // directories are named by content
			t.Errorf("%s differs from that of a run that was not interrupted", o)
		}
	}
}

// counting is a context that is cancelled when it has been asked often enough.
type counting struct {
	context.Context
	left   int
	cancel func()
}

func (c *counting) Err() error {
	if c.left--; c.left < 0 {
		c.cancel()
	}
	return c.Context.Err()
}

func TestRefusedRows(t *testing.T) {
	base := modeltest.Directory(t, true)
	good := packedRows(3)
	for want, change := range map[string]func(r *artifact.Packed){
		"row 1: 31 tokens, 2 documents and 3 ends of spans": func(r *artifact.Packed) { r.Loss = r.Loss[:3] },
		"token id 300 is outside the model's vocabulary":    func(r *artifact.Packed) { r.IDs[3] = 300 },
		"document 0 goes from token 0 to 99 of 31":          func(r *artifact.Packed) { r.Starts[1] = 99 },
		"learned span 0 goes from token 5 to 2":             func(r *artifact.Packed) { r.Loss[0], r.Loss[1] = 5, 2 },
		"document 0 has 200 tokens; the model's context is 128": func(r *artifact.Packed) {
			*r = artifact.Packed{IDs: make([]int32, 200), Starts: []int32{0}}
		},
	} {
		rows := packedRows(3)
		change(&rows[1])
		_, err := runStage(t, block(func(*spec) {}), base, "", rows)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want one with %q", err, want)
		}
	}
	_, err := runStage(t, block(func(s *spec) { s.Adapter.Targets = []string{"q_prj"} }), base, "", good)
	if err == nil || !strings.Contains(err.Error(), `did you mean "q_proj"`) {
		t.Errorf("a misspelt target: %v", err)
	}
	_, err = runStage(t, block(func(*spec) {}), base, "", []artifact.Packed{})
	if err == nil || !strings.Contains(err.Error(), "has no rows") {
		t.Errorf("no rows: %v", err)
	}
}

func TestCheck(t *testing.T) {
	if err := block(func(*spec) {}).Check(); err != nil {
		t.Error(err)
	}
	for field, change := range map[string]func(*spec){
		"lr": func(s *spec) { s.LR = math.NaN() }, "schedule": func(s *spec) { s.Schedule = "cubic" },
		"epochs": func(s *spec) { s.Epochs = 0 }, "batch_size": func(s *spec) { s.BatchSize = 0 },
		"betas": func(s *spec) { s.Betas = []float64{0.9} }, "eval_split": func(s *spec) { s.EvalSplit = 0.9 },
		"adapter.rank": func(s *spec) { s.Adapter.Rank = 0 }, "adapter.type": func(s *spec) { s.Adapter.Type = "ia3" },
		"adapter.dropout": func(s *spec) { s.Adapter.Dropout = 1 }, "adapter.targets": func(s *spec) { s.Adapter.Targets = nil },
		"init": func(s *spec) { s.Init = "random" }, "warmup_ratio": func(s *spec) { s.WarmupRatio = 1 },
	} {
		err := block(change).Check()
		if err == nil || !strings.HasPrefix(err.Error(), field+": ") {
			t.Errorf("%s: %v", field, err)
		}
	}
}

// TestSplit holds rows out whose documents other rows have too: nothing of
// them is learned anywhere, and everything else is.
func TestSplit(t *testing.T) {
	packed := packedRows(12)
	again := packed[2] // three documents
	packed = append(packed, again, again)
	packed[4] = artifact.Packed{ // a document of the repeated row, and one of its own
		IDs: slices.Concat(again.IDs[:13], []int32{1, 2, 3}), Starts: []int32{0, 13}, Loss: []int32{1, 13, 14, 16}, Rows: []string{"a", "b"},
	}
	var rows []model.Batch
	for i, r := range packed {
		b, err := batch(r, model.Config{VocabSize: 256, MaxPositions: 64})
		if err != nil {
			t.Fatalf("row %d: %v", i, err)
		}
		rows = append(rows, b)
	}
	texts := func(rows []model.Batch) map[string]int { // documents with their scored tokens
		n := map[string]int{}
		for _, r := range rows {
			for from, ids := range documents(r) {
				for _, at := range r.Rows {
					if at >= from && int(at) < int(from)+len(ids) {
						n[fmt.Sprint(ids)]++
					}
				}
			}
		}
		return n
	}
	all, met := texts(rows), false
	for seed := range uint64(30) {
		learn, held := split(rows, nil, 0.2, seed)
		l, h := texts(learn), texts(held)
		if len(held) != 3 {
			t.Fatalf("seed %d: %d of %d rows held out, want 3", seed, len(held), len(rows))
		}
		for text, n := range all {
			switch {
			case l[text] > 0 && h[text] > 0:
				t.Errorf("seed %d: %s is learned and held out", seed, text)
			case h[text] == 0 && l[text] != n:
				t.Errorf("seed %d: %d of %d tokens of %s are learned", seed, l[text], n, text)
			}
		}
		met = met || len(learn)+len(held) < len(rows)
		for _, r := range learn {
			if len(r.Rows) == 0 || len(r.Rows) != len(r.Targets) {
				t.Fatalf("seed %d: a row to learn scores %d tokens at %d places", seed, len(r.Targets), len(r.Rows))
			}
		}
	}
	if !met {
		t.Error("no seed held out a repeated row")
	}
	if learn, held := split(rows[12:], nil, 0.5, 1); len(learn) != 2 || held != nil {
		t.Errorf("two equal rows: %d to learn, %d held out; want both to learn", len(learn), len(held))
	}
	if learn, held := split(rows[:1], nil, 0.5, 1); len(learn) != 1 || held != nil {
		t.Errorf("one row: %d to learn, %d held out", len(learn), len(held))
	}
}

// TestSplitConversations: no turn of a conversation is learned when another one is held out.
func TestSplitConversations(t *testing.T) {
	var rows []model.Batch
	var of [][]string
	for i := range 12 {
		rows = append(rows, model.Batch{IDs: []int32{int32(i), 50, int32(i), 51, 52}, Starts: []int32{0, 2}, Rows: []int32{0, 2, 3}, Targets: []int32{50, 51, 52}})
		of = append(of, []string{fmt.Sprint("talk ", i/2), fmt.Sprint("more ", i%4)})
	}
	whose := func(r model.Batch) (all []string) { // conversations that are scored in a row
		for _, at := range r.Rows {
			all = append(all, of[r.IDs[0]][min(at/2, 1)])
		}
		return all
	}
	for seed := range uint64(20) {
		learn, held := split(rows, of, 0.1, seed)
		if len(held) != 1 || len(learn) != 11 {
			t.Fatalf("seed %d: %d held out, %d to learn", seed, len(held), len(learn))
		}
		cut := 0
		for _, r := range learn {
			if len(r.Rows) < 3 {
				cut++
			}
			for _, name := range whose(r) {
				if slices.Contains(whose(held[0]), name) {
					t.Errorf("seed %d: %s is learned and held out", seed, name)
				}
			}
		}
		if cut != 3 { // the other row of the talk, and two of the other conversation
			t.Errorf("seed %d: %d rows were cut", seed, cut)
		}
		if alone, _ := split(rows, nil, 0.1, seed); len(alone) != 11 || slices.ContainsFunc(alone, func(r model.Batch) bool { return len(r.Rows) < 3 }) {
			t.Errorf("seed %d: documents that stand alone are cut", seed)
		}
	}
}

// TestOneStep: a run of one step learns, and one that is over before its warm-up
// says so.
func TestOneStep(t *testing.T) {
	base := modeltest.Directory(t, true)
	for _, c := range []struct {
		warmup int
		note   string
	}{{0, ""}, {1, "warmup_steps = 1 is not over after the one step of this run"}} {
		var notes []string
		s := block(func(s *spec) { s.Epochs, s.GradAccum, s.WarmupSteps = 1, 100, c.warmup })
		out, err := runIn(t, context.Background(), t.TempDir(), s, base, "", packedRows(15), func(env *stage.Env) {
			env.Note = func(format string, args ...any) { notes = append(notes, fmt.Sprintf(format, args...)) }
		})
		if err != nil {
			t.Fatal(err)
		}
		m := metrics(t, out["metrics"])
		learned := m.Metrics["eval.loss"].Value != m.Baseline["eval.loss"].Value
		if said := strings.Contains(strings.Join(notes, "\n"), "warmup_steps"); learned == said || !strings.Contains(strings.Join(notes, "\n"), c.note) {
			t.Errorf("warmup_steps %d: learned %t, notes %q", c.warmup, learned, notes)
		}
	}
}

// TestOverRanked: a rank that some layers cannot have is noted, of an adapter that
// is new.
func TestOverRanked(t *testing.T) {
	base := modeltest.Directory(t, true)
	var notes []string
	once := func(s *spec, adapter string) string {
		notes = nil
		out, err := runIn(t, context.Background(), t.TempDir(), s, base, adapter, packedRows(3), func(env *stage.Env) {
			env.Note = func(format string, args ...any) {
				if n := fmt.Sprintf(format, args...); strings.HasPrefix(n, "rank") {
					notes = append(notes, n)
				}
			}
		})
		if err != nil {
			t.Fatal(err)
		}
		return out["model"]
	}
	of := func(rank int) *spec { return block(func(s *spec) { s.Adapter.Rank, s.MaxSteps = rank, 1 }) }
	if once(of(16), ""); notes != nil {
		t.Errorf("rank 16: %q", notes)
	}
	wide := once(of(20), "")
	want := "rank = 20 is more than an update can have in 4 of 14 layers, the least 16 in model.layers.0.self_attn.k_proj: what is beyond learns nothing more and takes memory and time"
	if !slices.Equal(notes, []string{want}) {
		t.Errorf("rank 20: %q", notes)
	}
	if once(block(func(s *spec) { s.Adapter, s.MaxSteps = nil, 1 }), wide); notes != nil {
		t.Errorf("trained on: %q", notes)
	}
}
