package report

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"pipe/runtime/artifact"
	"pipe/runtime/compare"
	"pipe/runtime/engine"
	"pipe/runtime/lang"
)

// hostile is text as an untrusted dataset may hold it: markup, the ends of what
// it may stand in, control characters, another direction, half a character.
const hostile = `<script>alert(1)</script>"><img src=https://evil.example/x onerror=alert(1)>'` +
	"</style></title><!-- ]]> {{.}} \x1b[31m \u202egnp.exe \x00 \xff javascript:alert(1) & &amp;"

// A lab is a store with a run of every kind of stage.
type lab struct {
	t     *testing.T
	store *artifact.Store
	prog  *lang.Program
	run   engine.RunFile
	start time.Time
}

func newLab(t *testing.T) *lab {
	t.Helper()
	dir := t.TempDir()
	s, err := artifact.OpenStore(filepath.Join(dir, "store"))
	if err != nil {
		t.Fatal(err)
	}
	prog, diags := lang.LoadSource([]byte("pipeline \"night\" {\n  description = \"A <b>bold</b> recipe\"\n}\n"), "night.hcl", dir, nil, lang.Options{})
	if diags.HasErrors() {
		t.Fatal(diags)
	}
	l := &lab{t: t, store: s, prog: prog, start: time.Date(2026, 11, 27, 3, 0, 0, 0, time.UTC)}
	l.run = engine.RunFile{Pipeline: "night", Dir: dir, Started: l.start, Seed: 7, Backend: "cpu:test"}
	l.run.Run, l.run.Seconds = "20261127-030000-aaaaaa", 100
	return l
}

// put publishes an artifact.
func (l *lab) put(typ artifact.Type, fill func(w *artifact.Writer) error) artifact.Object {
	l.t.Helper()
	w, err := l.store.Create(typ)
	if err == nil {
		err = fill(w)
	}
	if err != nil {
		l.t.Fatal(err)
	}
	o, err := w.Commit()
	if err != nil {
		l.t.Fatal(err)
	}
	return o
}

func rows[T any](l *lab, list ...T) artifact.Object {
	l.t.Helper()
	return l.put(artifact.Dataset, func(w *artifact.Writer) error { return artifact.Append(w, list...) })
}

func (l *lab) metrics(m artifact.MetricsFile) artifact.Object {
	l.t.Helper()
	return l.put(artifact.Metrics, func(w *artifact.Writer) error { return w.WriteJSON(artifact.MetricsName, m) })
}

// stage adds a stage that ran, with its record.
func (l *lab) stage(addr, kind string, needs []string, inputs map[string]artifact.Digest, outputs map[string]artifact.Object, series ...artifact.Point) *engine.StageResult {
	l.t.Helper()
	n := len(l.run.Stages)
	key := artifact.Key{byte(n + 1)}
	pre, err := json.Marshal(map[string]any{"version": 3, "spec": map[string]any{}, "inputs": inputs, "seed": 99, "backend": "cpu:test"})
	if err != nil {
		l.t.Fatal(err)
	}
	if err := l.store.PutRecord(&artifact.Record{Key: key, Addr: addr, Kind: kind, Preimage: pre, Outputs: outputs, Series: series, Run: l.run.Run}); err != nil {
		l.t.Fatal(err)
	}
	l.run.Stages = append(l.run.Stages, engine.StageResult{
		Addr: addr, Kind: kind, State: engine.Done, Key: key, Reason: "because " + hostile, Needs: needs, Outputs: outputs,
		Notes: []string{"note " + hostile, "two", "three"}, Began: l.start.Add(time.Duration(n) * 5 * time.Second), Seconds: 4,
	})
	return &l.run.Stages[n]
}

// everything runs a pipeline of every kind, with hostile text wherever text of a
// dataset can get to.
func everything(t *testing.T) *lab {
	l := newLab(t)
	docs := rows(l, artifact.Row{ID: hostile, Text: hostile, Source: "a" + hostile, Meta: `{"x":1}`, Gold: -1}, artifact.Row{ID: "kept", Text: "kept text", Gold: -1})
	l.stage("data.docs", "data", nil, nil, map[string]artifact.Object{"": docs})
	clean := rows(l, artifact.Row{ID: "kept", Messages: []artifact.Message{{Role: hostile, Content: hostile}}, Gold: -1})
	drops := rows(l, artifact.Drop{ID: hostile, Reason: "near" + hostile, Partner: "kept", Score: 0.97, Detail: hostile, Text: hostile}, artifact.Drop{ID: "b", Reason: "exact", Partner: "nowhere", Score: 1})
	l.stage("dedup.clean", "dedup", []string{"data.docs"}, map[string]artifact.Digest{"input": docs.Digest}, map[string]artifact.Object{"dataset": clean, "drops": drops})
	packed := rows(l, artifact.Packed{IDs: make([]int32, 64), Starts: []int32{0, 40}, Loss: []int32{10, 40, 50, 64, 90, 7}, Rows: []string{"kept", hostile}})
	l.stage("pack.train", "pack", []string{"dedup.clean"}, map[string]artifact.Digest{"input": clean.Digest}, map[string]artifact.Object{"dataset": packed})
	var series []artifact.Point
	for i := range 300 {
		series = append(series, artifact.Point{Series: "loss" + hostile, Step: int64(i + 1), Value: 3 / float64(i+1)}, artifact.Point{Series: "grad", Step: int64(i + 1), Value: float64(i%7) - 3})
	}
	for _, key := range []string{"lr=0.1,rank=8", "lr=0.2,rank=8"} {
		addr := fmt.Sprintf("sft.tuned[%q]", key)
		l.stage(addr, "sft", []string{"pack.train"}, map[string]artifact.Digest{"data": packed.Digest}, nil, series...)
		l.eval(fmt.Sprintf("eval.sweep[%q]", key), addr, len(key))
	}
	m := artifact.Metric{N: 40, Value: 0.7, Stderr: 0.07, Better: 1}
	low := m
	low.Value = 0.5
	l.stage("select.best", "select", []string{`eval.sweep["lr=0.1,rank=8"]`}, nil, map[string]artifact.Object{"metrics": l.metrics(artifact.MetricsFile{
		Metrics: map[string]artifact.Metric{"qa.acc": m, "qa.acc@lr=0.1,rank=8": m, "qa.acc@lr=0.2,rank=8": low},
	})})
	l.run.Stages = append(l.run.Stages,
		engine.StageResult{Addr: "export.a", Kind: "export", State: engine.Failed, Error: "failed " + hostile, Needs: []string{"select.best"}},
		engine.StageResult{Addr: "export.b", Kind: "export", State: engine.Skipped, Blame: "export.a", Needs: []string{"export.a"}},
		engine.StageResult{Addr: "data.kept", Kind: "data", State: engine.Cached, Saved: 12, Spent: &artifact.Spent{Calls: 3, InputTokens: 1200, OutputTokens: 340, USD: 0.0012, Replayed: 40}},
		engine.StageResult{Addr: "data.stop", Kind: "data", State: engine.Cancelled, Error: "context canceled"})
	l.run.Gates = []engine.GateResult{{Stage: "eval.sweep", Name: hostile, Message: "worse: " + hostile, Values: "qa.acc 0.5 < 0.7"}, {Stage: "eval.sweep", Name: "fine", Pass: true}}
	l.recipe("night.hcl", "pipeline \"night\" {} # "+hostile)
	return l
}

// eval adds an evaluation with items, n of whose 40 are right.
func (l *lab) eval(addr, of string, n int) {
	l.t.Helper()
	var items []artifact.Row
	for i := range 40 {
		items = append(items, artifact.Row{ID: fmt.Sprintf("qa/%d", i), Source: fmt.Sprint(i), Text: "question " + hostile, Answer: hostile,
			Choices: []string{hostile, "b"}, Meta: fmt.Sprintf(`{"correct":%v,"got":"x"}`, i < n)})
	}
	value := func(v float64) map[string]artifact.Metric {
		return map[string]artifact.Metric{"qa.acc": {N: 40, Value: v, Stderr: 0.07, Better: 1}, "qa." + hostile: {N: 40, Value: 1e-7, Stderr: 1e-8, Better: -1}}
	}
	l.stage(addr, "eval", []string{of}, nil, map[string]artifact.Object{
		"items": rows(l, items...),
		"metrics": l.metrics(artifact.MetricsFile{
			Metrics: value(float64(n) / 40), Baseline: value(0.9), Blind: value(0.25),
			Grids: map[string]artifact.Grid{"needle" + hostile: {RowName: hostile, ColName: "depth", Rows: []float64{128, 256}, Cols: []float64{0, 0.5}, N: 4, Values: [][]float64{{1, 0.5}, {2}}, Baseline: [][]float64{{0, 1}}}},
		}),
	})
}

func (l *lab) recipe(name, text string) {
	l.t.Helper()
	d := artifact.Digest(sha(text))
	l.write(filepath.Join("recipes", d.String()[len("sha256:"):]), text)
	l.run.Recipe = append(l.run.Recipe, engine.Recipe{Name: name, Digest: d})
}

func (l *lab) write(name, text string) {
	l.t.Helper()
	path := filepath.Join(l.store.Dir(), name)
	if err := os.MkdirAll(filepath.Dir(path), 0o777); err != nil {
		l.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o666); err != nil {
		l.t.Fatal(err)
	}
}

// note writes the note of a run, as the engine does.
func (l *lab) note(run engine.RunFile) {
	l.t.Helper()
	b, err := json.Marshal(run)
	if err != nil {
		l.t.Fatal(err)
	}
	l.write("runs/"+run.Run+".json", string(b))
}

// baseline pins an earlier run in which another number of items was right, and
// adds two nights.
func (l *lab) baseline() {
	l.t.Helper()
	was := l.run.Stages
	l.run.Stages = nil
	old := l.run
	for i := range 60 { // keys of their own
		l.run.Stages = append(l.run.Stages, engine.StageResult{Addr: fmt.Sprint("x", i)})
	}
	l.eval(`eval.sweep["lr=0.1,rank=8"]`, "x", 35)
	old.Stages, old.Run = l.run.Stages[60:], "20261126-030000-bbbbbb"
	l.run.Stages = was
	l.note(old)
	if err := engine.SetBaseline(l.store, l.prog, &old); err != nil {
		l.t.Fatal(err)
	}
	h := compare.OpenHistory(l.store, engine.PipelineName(l.store, l.prog))
	for i, n := range []string{old.Run, l.run.Run} {
		err := h.Append(compare.Night{Run: n, Time: l.start.AddDate(0, 0, i-1), Verdict: "night " + hostile, Exit: 3 * i,
			Metrics:  map[string]map[string]artifact.Metric{"eval.e": {"qa." + hostile: {N: 4, Value: float64(i)}}},
			Outcomes: map[string]map[string]compare.Outcome{"eval.e": {"qa." + hostile: compare.Worse}}})
		if err != nil {
			l.t.Fatal(err)
		}
	}
}

func (l *lab) html() []byte {
	l.t.Helper()
	var b bytes.Buffer
	if err := Write(&b, l.store, l.prog, &l.run); err != nil {
		l.t.Fatal(err)
	}
	return b.Bytes()
}
