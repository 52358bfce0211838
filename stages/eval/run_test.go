package eval

import (
	"context"
	"encoding/json"
	"fmt"
	"testing"

	"pipe/runtime/artifact"
	"pipe/runtime/stage"
	"pipe/tensor/cpu"
)

// inputs is a store whose model handles lead to paths by their address.
type inputs struct {
	store  *artifact.Store
	models map[string]stage.ModelPath
}

func (in inputs) Open(r artifact.Ref) (*artifact.Artifact, error) { return in.store.Open(r.Digest) }

func (in inputs) Model(r artifact.Ref) (stage.ModelPath, error) { return in.models[r.Addr], nil }

// bench is a place to run evals in.
type bench struct {
	t      *testing.T
	in     inputs
	seed   uint64
	output map[string]*artifact.Artifact
	notes  []string
	memos  map[string][]byte // unless nil, what is measured once, by what it depends on
}

func newBench(t *testing.T, models map[string]stage.ModelPath) *bench {
	t.Helper()
	store, err := artifact.OpenStore(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return &bench{t: t, in: inputs{store, models}, seed: 7}
}

// data stores rows.
func (b *bench) data(rows ...artifact.Row) stage.Dataset {
	b.t.Helper()
	w, err := b.in.store.Create(artifact.Dataset)
	if err == nil {
		err = artifact.Append(w, rows...)
	}
	if err != nil {
		b.t.Fatal(err)
	}
	o, err := w.Commit()
	if err != nil {
		b.t.Fatal(err)
	}
	return stage.Dataset{Ref: artifact.Ref{Type: artifact.Dataset, Addr: "data.rows", Digest: o.Digest}}
}

// once is stage.Env.Once.
func (b *bench) once(of, v any, measure func() error) (bool, error) {
	key, err := json.Marshal(of)
	if err != nil {
		return false, err
	}
	if kept, ok := b.memos[string(key)]; ok {
		return true, json.Unmarshal(kept, v)
	}
	if err := measure(); err != nil {
		return false, err
	}
	b.memos[string(key)], err = json.Marshal(v)
	return false, err
}

func (b *bench) env(writers map[string]*artifact.Writer) *stage.Env {
	e := &stage.Env{
		Seed: b.seed, Store: b.in,
		Create: func(output string) (*artifact.Writer, error) {
			for _, o := range Kind.Outputs {
				if o.Name == output && o.Alias == "" {
					w, err := b.in.store.Create(o.Type)
					writers[output] = w
					return w, err
				}
			}
			b.t.Fatalf("no output %q to create", output)
			return nil, nil
		},
		Metric: func(string, int64, float64) {}, Progress: func(int64, int64, string) {},
		Note: func(format string, args ...any) { b.notes = append(b.notes, fmt.Sprintf(format, args...)) },
	}
	if b.memos != nil {
		e.Once = b.once
	}
	return e
}

// run runs s and returns its metrics and items.
func (b *bench) run(s *spec) (m artifact.MetricsFile, items []artifact.Row, err error) {
	b.t.Helper()
	if err := s.Check(); err != nil {
		b.t.Fatal(err)
	}
	backend := cpu.New(2)
	defer backend.Close()
	writers := map[string]*artifact.Writer{}
	env := b.env(writers)
	env.Backend = backend
	if err := s.Run(context.Background(), env); err != nil {
		return m, nil, err
	}
	b.output = map[string]*artifact.Artifact{}
	for name, w := range writers {
		o, err := w.Commit()
		if err != nil {
			b.t.Fatal(err)
		}
		if b.output[name], err = b.in.store.Open(o.Digest); err != nil {
			b.t.Fatal(err)
		}
	}
	if err := artifact.ReadJSON(b.output["metrics"], artifact.MetricsName, &m); err != nil {
		b.t.Fatal(err)
	}
	for row, err := range artifact.Rows[artifact.Row](b.output["items"]) {
		if err != nil {
			b.t.Fatal(err)
		}
		items = append(items, row)
	}
	return m, items, nil
}
