package sft

import (
	"context"
	"testing"

	"pipe/runtime/artifact"
	"pipe/runtime/stage"
	"pipe/tensor/cpu"
)

const seed = 5

// inputs is a store whose model handles all lead to one model.
type inputs struct {
	store *artifact.Store
	model stage.ModelPath
}

func (in inputs) Open(r artifact.Ref) (*artifact.Artifact, error) { return in.store.Open(r.Digest) }

func (in inputs) Model(artifact.Ref) (stage.ModelPath, error) { return in.model, nil }

// runStage runs s over rows on the model at base and returns the directories
// of its outputs. It works in work, where checkpoints lie.
func runStage(t *testing.T, s *spec, base, adapter string, rows []artifact.Packed) (map[string]string, error) {
	t.Helper()
	return runIn(t, context.Background(), t.TempDir(), s, base, adapter, rows)
}

func runIn(t *testing.T, ctx context.Context, work string, s *spec, base, adapter string, rows []artifact.Packed, change ...func(*stage.Env)) (map[string]string, error) {
	t.Helper()
	return runOn(t, ctx, work, s, stage.ModelPath{Base: base, Adapter: adapter, Root: artifact.Digest{1}}, rows, change...)
}

func runOn(t *testing.T, ctx context.Context, work string, s *spec, base stage.ModelPath, rows []artifact.Packed, change ...func(*stage.Env)) (map[string]string, error) {
	t.Helper()
	store, err := artifact.OpenStore(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	w, err := store.Create(artifact.Dataset)
	if err != nil {
		t.Fatal(err)
	}
	if err := artifact.Append(w, rows...); err != nil {
		t.Fatal(err)
	}
	data, err := w.Commit()
	if err != nil {
		t.Fatal(err)
	}
	s.Data.Ref = artifact.Ref{Type: artifact.Dataset, Addr: "data.rows", Digest: data.Digest}
	b := cpu.New(2)
	defer b.Close()
	writers := map[string]*artifact.Writer{}
	env := &stage.Env{
		Seed: seed, Backend: b, Work: work,
		Store: inputs{store, base},
		Create: func(output string) (*artifact.Writer, error) {
			for _, o := range Kind.Outputs {
				if o.Name == output {
					w, err := store.Create(o.Type)
					writers[output] = w
					return w, err
				}
			}
			t.Fatalf("the kind has no output %q", output)
			return nil, nil
		},
		Metric:   func(string, int64, float64) {},
		Progress: func(int64, int64, string) {},
		Note:     func(format string, args ...any) { t.Logf(format, args...) },
	}
	for _, f := range change {
		f(env)
	}
	if err := s.Run(ctx, env); err != nil {
		return nil, err
	}
	out := map[string]string{}
	for _, o := range Kind.Outputs {
		object, err := writers[o.Name].Commit()
		if err != nil {
			t.Fatal(err)
		}
		a, err := store.Open(object.Digest)
		if err != nil {
			t.Fatal(err)
		}
		if out[o.Name], err = a.Dir(); err != nil {
			t.Fatal(err)
		}
	}
	return out, nil
}
