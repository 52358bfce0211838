// Package stagetest runs one stage in a test, on artifacts made from Go values,
// without a pipeline file or the engine.
package stagetest

import (
	"context"
	"crypto/sha256"
	"fmt"
	"os"
	"sync"
	"testing"

	"github.com/rs/zerolog"

	"pipe/runtime/artifact"
	"pipe/runtime/stage"
	"pipe/tensor"
)

// A Bench is a store and what lies in it. Handles it makes are valid for
// stages it runs.
type Bench struct {
	TB      testing.TB
	Store   *artifact.Store
	Backend tensor.Backend // nil for stages that compute nothing
	Seed    uint64
	Dir     string // the directory of the pipeline file; a temporary one

	mu     sync.Mutex
	models map[artifact.Digest]stage.ModelPath
	work   string
}

// New returns a bench with an empty store.
func New(tb testing.TB) *Bench {
	tb.Helper()
	s, err := artifact.OpenStore(tb.TempDir())
	if err != nil {
		tb.Fatal(err)
	}
	return &Bench{TB: tb, Store: s, Seed: 1, Dir: tb.TempDir(), work: tb.TempDir(), models: map[artifact.Digest]stage.ModelPath{}}
}

// Dataset stores rows and returns their handle.
func Dataset[T any](b *Bench, rows ...T) stage.Dataset {
	b.TB.Helper()
	w, err := b.Store.Create(artifact.Dataset)
	if err != nil {
		b.TB.Fatal(err)
	}
	if err := artifact.Append(w, rows...); err != nil {
		b.TB.Fatal(err)
	}
	o, err := w.Commit()
	if err != nil {
		b.TB.Fatal(err)
	}
	return stage.Dataset{Ref: artifact.Ref{Type: artifact.Dataset, Addr: "data.test", Digest: o.Digest}}
}

// Model returns the handle of a model block whose source is path (a directory
// or a .gguf file).
func (b *Bench) Model(path string) stage.Model { return b.Quantized(path, "") }

// Quantized is Model for a block with that quantize attribute.
func (b *Bench) Quantized(path, how string) stage.Model {
	d := artifact.Digest(sha256.Sum256([]byte("model at " + path + how)))
	b.mu.Lock()
	defer b.mu.Unlock()
	b.models[d] = stage.ModelPath{Base: path, Root: d, Quantize: how}
	return stage.Model{Ref: artifact.Ref{Type: artifact.Model, Addr: "model.test", Digest: d}}
}

// Metrics stores a metrics file and returns its handle.
func (b *Bench) Metrics(m artifact.MetricsFile) stage.Metrics {
	b.TB.Helper()
	w, err := b.Store.Create(artifact.Metrics)
	if err != nil {
		b.TB.Fatal(err)
	}
	if err := w.WriteJSON(artifact.MetricsName, m); err != nil {
		b.TB.Fatal(err)
	}
	o, err := w.Commit()
	if err != nil {
		b.TB.Fatal(err)
	}
	return stage.Metrics{Ref: artifact.Ref{Type: artifact.Metrics, Addr: "eval.test", Output: "metrics", Digest: o.Digest}}
}

// Journals returns the directory that the stages get as Env.Journals.
func (b *Bench) Journals() string { return b.work }

// A Result is what one Run of a stage made.
type Result struct {
	Outputs map[string]*artifact.Artifact
	Series  map[string][]artifact.Point
	Notes   []string
	bench   *Bench
}

// Run checks and runs s, which must be of kind k, and fails the test on an
// error or an output that was not created.
func (b *Bench) Run(k stage.Kind, s stage.Stage) *Result {
	b.TB.Helper()
	r, err := b.Try(context.Background(), k, s)
	if err != nil {
		b.TB.Fatalf("%s: %v", k.Name, err)
	}
	return r
}

// Try is Run for a stage that may fail: it returns the stage's error. The work
// directory is the same in every call, as after a crash.
func (b *Bench) Try(ctx context.Context, k stage.Kind, s stage.Stage) (*Result, error) {
	b.TB.Helper()
	if err := s.Check(); err != nil {
		return nil, err
	}
	if m, ok := s.(stage.Maker); ok {
		k.Outputs = m.Outputs()
	}
	r := &Result{Outputs: map[string]*artifact.Artifact{}, Series: map[string][]artifact.Point{}, bench: b}
	writers := map[string]*artifact.Writer{}
	defer func() {
		for _, w := range writers {
			w.Abort()
		}
	}()
	var mu sync.Mutex
	env := &stage.Env{
		Log: zerolog.New(zerolog.NewTestWriter(b.TB)), Seed: b.Seed, Backend: b.Backend, Dir: b.Dir, Work: b.work, Journals: b.work, Store: inputs{b},
		Create: func(name string) (*artifact.Writer, error) {
			for _, o := range k.Outputs {
				if o.Name == name && o.Alias == "" {
					if writers[name] != nil {
						return nil, fmt.Errorf("output %q is created twice", name)
					}
					w, err := b.Store.Create(o.Type)
					writers[name] = w
					return w, err
				}
			}
			return nil, fmt.Errorf("%s has no output %q", k.Name, name)
		},
		Metric: func(series string, step int64, v float64) {
			mu.Lock()
			defer mu.Unlock()
			r.Series[series] = append(r.Series[series], artifact.Point{Series: series, Step: step, Value: v})
		},
		Progress: func(int64, int64, string) {},
		Note: func(format string, args ...any) {
			mu.Lock()
			defer mu.Unlock()
			r.Notes = append(r.Notes, fmt.Sprintf(format, args...))
		},
	}
	if err := s.Run(ctx, env); err != nil {
		return nil, err
	}
	for _, o := range k.Outputs {
		if o.Alias != "" {
			continue
		}
		w := writers[o.Name]
		if w == nil {
			return nil, fmt.Errorf("%s did not create its output %q", k.Name, o.Name)
		}
		obj, err := w.Commit()
		if err != nil {
			return nil, err
		}
		if r.Outputs[o.Name], err = b.Store.Open(obj.Digest); err != nil {
			return nil, err
		}
	}
	return r, nil
}

// Rows returns the rows of the named output.
func Rows[T any](r *Result, output string) []T {
	r.bench.TB.Helper()
	a := r.Outputs[output]
	if a == nil {
		r.bench.TB.Fatalf("there is no output %q", output)
	}
	rows, err := artifact.All[T](a)
	if err != nil {
		r.bench.TB.Fatal(err)
	}
	return rows
}

// Ref returns the named output as a reference for another stage.
func (r *Result) Ref(output string) artifact.Ref {
	a := r.Outputs[output]
	if a == nil {
		r.bench.TB.Fatalf("there is no output %q", output)
	}
	return artifact.Ref{Type: a.Type(), Addr: "test.stage", Output: output, Digest: a.Digest()}
}

// Metrics returns the named output's metrics file.
func (r *Result) Metrics(output string) artifact.MetricsFile {
	r.bench.TB.Helper()
	var m artifact.MetricsFile
	if err := artifact.ReadJSON(r.Outputs[output], artifact.MetricsName, &m); err != nil {
		r.bench.TB.Fatal(err)
	}
	return m
}

// inputs is the bench as stages see it.
type inputs struct{ *Bench }

func (b inputs) Open(r artifact.Ref) (*artifact.Artifact, error) { return b.Store.Open(r.Digest) }

func (b inputs) Model(r artifact.Ref) (stage.ModelPath, error) {
	b.mu.Lock()
	p, ok := b.models[r.Digest]
	b.mu.Unlock()
	if ok {
		return p, nil
	}
	a, err := b.Store.Open(r.Digest)
	if err != nil {
		return stage.ModelPath{}, fmt.Errorf("model %s: %w", r, err)
	}
	dir, err := a.Dir()
	if err != nil {
		return stage.ModelPath{}, err
	}
	var m artifact.ModelManifest
	if err := artifact.ReadJSON(a, artifact.ModelFile, &m); err != nil {
		return stage.ModelPath{}, err
	}
	if m.Base.IsZero() {
		return stage.ModelPath{Base: dir, Root: r.Digest, Training: m.Training}, nil
	}
	base, err := b.Model(artifact.Ref{Type: artifact.Model, Digest: m.Base})
	if err != nil {
		return stage.ModelPath{}, err
	}
	if a.Has("adapter_config.json") {
		base.Adapter = dir
	}
	if len(m.Training) > 0 {
		base.Training = m.Training
	}
	return base, nil
}

// WriteFile writes a file below the bench's pipeline directory.
func (b *Bench) WriteFile(name, content string) {
	b.TB.Helper()
	if err := os.WriteFile(b.Dir+"/"+name, []byte(content), 0o666); err != nil {
		b.TB.Fatal(err)
	}
}
