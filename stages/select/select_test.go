package selector

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"pipe/runtime/artifact"
	"pipe/runtime/stage"
)

// inputs is a store as stages see it.
type inputs struct{ store *artifact.Store }

func (in inputs) Open(r artifact.Ref) (*artifact.Artifact, error) { return in.store.Open(r.Digest) }

func (in inputs) Model(artifact.Ref) (stage.ModelPath, error) {
	return stage.ModelPath{}, errors.New("select opens no model")
}

type bench struct {
	t     *testing.T
	store *artifact.Store
	note  string // the last one
}

func newBench(t *testing.T) *bench {
	t.Helper()
	store, err := artifact.OpenStore(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return &bench{t: t, store: store}
}

func (b *bench) commit(w *artifact.Writer, err error) artifact.Digest {
	b.t.Helper()
	if err != nil {
		b.t.Fatal(err)
	}
	o, err := w.Commit()
	if err != nil {
		b.t.Fatal(err)
	}
	return o.Digest
}

// candidate stores metrics and an adapter-like model of two files.
func (b *bench) candidate(key string, m artifact.Metric) stage.Candidate {
	b.t.Helper()
	w, err := b.store.Create(artifact.Metrics)
	if err == nil {
		err = w.WriteJSON(artifact.MetricsName, artifact.MetricsFile{
			Metrics:  map[string]artifact.Metric{"qa.acc": m, "other.nll": {N: 1, Value: 2, Better: -1}},
			Baseline: map[string]artifact.Metric{"qa.acc": {N: 3, Value: 0.125, Better: 1}},
		})
	}
	c := stage.Candidate{Key: key}
	c.Metrics.Ref = artifact.Ref{Type: artifact.Metrics, Addr: "eval.sweep", Output: "metrics", Digest: b.commit(w, err)}
	w, err = b.store.Create(artifact.Model)
	if err == nil {
		err = errors.Join(w.WriteJSON(artifact.ModelFile, artifact.ModelManifest{Base: artifact.Digest{9}}),
			os.WriteFile(filepath.Join(w.Dir(), "weights"), []byte("weights of "+key), 0o666))
	}
	c.Model.Ref = artifact.Ref{Type: artifact.Model, Addr: "sft.legal", Output: "model", Digest: b.commit(w, err)}
	return c
}

// run returns the digest of the model and the metrics.
func (b *bench) run(s *spec) (d artifact.Digest, m artifact.MetricsFile, err error) {
	b.t.Helper()
	if err := s.Check(); err != nil {
		b.t.Fatal(err)
	}
	writers := map[string]*artifact.Writer{}
	env := &stage.Env{
		Store: inputs{b.store},
		Create: func(output string) (*artifact.Writer, error) {
			w, err := b.store.Create(map[string]artifact.Type{"model": artifact.Model, "metrics": artifact.Metrics}[output])
			writers[output] = w
			return w, err
		},
		Note: func(format string, args ...any) { b.note = fmt.Sprintf(format, args...) },
	}
	if err := s.Run(context.Background(), env); err != nil {
		return d, m, err
	}
	a, err := b.store.Open(b.commit(writers["metrics"], nil))
	if err == nil {
		err = artifact.ReadJSON(a, artifact.MetricsName, &m)
	}
	return b.commit(writers["model"], nil), m, err
}

// TestBest: the best candidate's model comes out, byte for byte, so that its
// digest is the winner's own.
func TestBest(t *testing.T) {
	b := newBench(t)
	acc := func(v float64, better int) artifact.Metric {
		return artifact.Metric{N: 4, Value: v, Stderr: 0.1, Better: better}
	}
	for name, c := range map[string]struct {
		mode   string
		better int
		values []float64
		want   int
	}{
		"more is better": {"", 1, []float64{0.25, 0.75, 0.5}, 1},
		"less is better": {"", -1, []float64{0.25, 0.75, 0.125}, 2},
		"mode wins":      {"min", 1, []float64{0.25, 0.75, 0.5}, 0},
		"a tie":          {"max", 0, []float64{0.5, 0.75, 0.75}, 1},
	} {
		s := &spec{Metric: "qa.acc", Mode: c.mode}
		for i, v := range c.values {
			s.From = append(s.From, b.candidate(string(rune('a'+i)), acc(v, c.better)))
		}
		d, m, err := b.run(s)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if d != s.From[c.want].Model.Digest {
			t.Errorf("%s: the model is not that of candidate %d", name, c.want)
		}
		if m.Metrics["qa.acc"].Value != c.values[c.want] || m.Metrics["qa.acc@c"].Value != c.values[2] || m.Baseline["qa.acc"].Value != 0.125 {
			t.Errorf("%s: metrics %+v", name, m)
		}
		// The order of the candidates does not matter.
		s.From[0], s.From[2] = s.From[2], s.From[0]
		if again, _, err := b.run(s); err != nil || again != d {
			t.Errorf("%s: another order, another winner (%v)", name, err)
		}
	}
}

// TestPlainModel: the winner is a model block; the output names it.
func TestPlainModel(t *testing.T) {
	b := newBench(t)
	c := b.candidate("", artifact.Metric{N: 1, Value: 1, Better: 1})
	c.Model.Ref = artifact.Ref{Type: artifact.Model, Addr: "model.base", Digest: artifact.Digest{7}}
	d, _, err := b.run(&spec{From: stage.Candidates{c}, Metric: "qa.acc"})
	if err != nil {
		t.Fatal(err)
	}
	if want := "the only candidate wins with qa.acc = 1, of 1 candidate"; b.note != want {
		t.Errorf("note %q; want %q", b.note, want)
	}
	a, err := b.store.Open(d)
	if err != nil {
		t.Fatal(err)
	}
	var m artifact.ModelManifest
	if err := artifact.ReadJSON(a, artifact.ModelFile, &m); err != nil || m.Base != (artifact.Digest{7}) {
		t.Errorf("%+v, %v", m, err)
	}
}

func TestErrors(t *testing.T) {
	b := newBench(t)
	fields := func(err error) string {
		var f *stage.FieldError
		if errors.As(err, &f) {
			return f.Field
		}
		return ""
	}
	if err := (&spec{Metric: "x", Mode: "best"}).Check(); fields(err) != "mode" {
		t.Errorf("mode: %v", err)
	}
	if err := (&spec{}).Check(); fields(err) != "metric" {
		t.Errorf("no metric: %v", err)
	}
	if _, _, err := b.run(&spec{Metric: "qa.acc"}); fields(err) != "from" {
		t.Errorf("no candidates: %v", err)
	}
	c := b.candidate("a", artifact.Metric{N: 1, Value: 1})
	if _, _, err := b.run(&spec{From: stage.Candidates{c}, Metric: "qa.f1"}); fields(err) != "metric" || !strings.Contains(err.Error(), "other.nll, qa.acc") {
		t.Errorf("unknown metric: %v", err)
	}
	if _, _, err := b.run(&spec{From: stage.Candidates{c}, Metric: "qa.acc"}); fields(err) != "mode" {
		t.Errorf("neither better nor mode: %v", err)
	}
	s := &spec{From: stage.Candidates{c}, Metric: "m", Mode: "max"}
	if _, err := s.best([]artifact.MetricsFile{{Metrics: map[string]artifact.Metric{"m": {Value: math.NaN()}}}}); err == nil {
		t.Error("NaN wins")
	}
}
