package engine

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/hashicorp/hcl/v2"
	"github.com/rs/zerolog"

	"pipe/runtime/artifact"
	"pipe/runtime/lang"
	"pipe/runtime/stage"
	"pipe/tensor"
)

// A lab is a directory with a pipeline and a store, and small kinds that note
// when they run.
type lab struct {
	t     *testing.T
	dir   string
	store *artifact.Store
	hook  func(ctx context.Context, id string, env *stage.Env) error // called by each Run

	mu        sync.Mutex
	ran       []string // ids, sorted by taken
	events    []Event
	computing atomic.Int32
	overlap   atomic.Bool
	opened    atomic.Int32 // backends
}

func newLab(t *testing.T) *lab {
	t.Helper()
	dir := t.TempDir()
	s, err := artifact.OpenStore(filepath.Join(dir, "store"))
	if err != nil {
		t.Fatal(err)
	}
	return &lab{t: t, dir: dir, store: s}
}

func (l *lab) write(name, text string) {
	l.t.Helper()
	if err := os.WriteFile(filepath.Join(l.dir, name), []byte(text), 0o666); err != nil {
		l.t.Fatal(err)
	}
}

func (l *lab) load(src string) *lang.Program {
	l.t.Helper()
	p, diags := lang.LoadSource([]byte(src), "test.hcl", l.dir, l.kinds(), lang.Options{})
	if diags.HasErrors() {
		l.t.Fatal(diags)
	}
	return p
}

func (l *lab) options() Options {
	return Options{
		Store: l.store, BackendName: "fake", Parallelism: 4, Log: zerolog.Nop(), Resolve: l.resolve,
		Backend:  func() (tensor.Backend, error) { l.opened.Add(1); return fakeBackend{}, nil },
		Observer: func(e Event) { l.events = append(l.events, e) },
	}
}

// resolve knows models by the files of their names.
func (l *lab) resolve(_ context.Context, source, dir string, _ func(done, total int64)) (string, [32]byte, error) {
	path := filepath.Join(dir, source)
	d, err := hashFile(context.Background(), path)
	return path, d, err
}

// run runs src and returns the ids of the stages that ran, sorted.
func (l *lab) run(src string, set ...func(*Options)) (*Result, []string, error) {
	l.t.Helper()
	o := l.options()
	for _, f := range set {
		f(&o)
	}
	res, err := Run(context.Background(), l.load(src), o)
	return res, l.taken(), err
}

// must is run for a run that must succeed, and wants these stages to run.
func (l *lab) must(src string, want string, set ...func(*Options)) *Result {
	l.t.Helper()
	res, ran, err := l.run(src, set...)
	if err != nil {
		l.t.Fatal(err)
	}
	if got := strings.Join(ran, " "); got != want {
		l.t.Errorf("ran %q, want %q", got, want)
	}
	return res
}

func (l *lab) taken() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	ran := l.ran
	l.ran = nil
	slices.Sort(ran)
	return ran
}

func (l *lab) enter(ctx context.Context, id string, env *stage.Env) error {
	l.mu.Lock()
	l.ran = append(l.ran, id)
	hook := l.hook
	l.mu.Unlock()
	if hook != nil {
		return hook(ctx, id, env)
	}
	return nil
}

type fakeBackend struct{ tensor.Backend }

func (fakeBackend) Name() string { return "fake" }

func (l *lab) kinds() []stage.Kind {
	dataset := func(name string) stage.Output { return stage.Output{Name: name, Type: artifact.Dataset} }
	return []stage.Kind{
		{Name: "data", Version: 1, Outputs: []stage.Output{dataset("")}, New: func() stage.Stage { return &dataStage{lab: l} }},
		{Name: "step", Version: 1, Outputs: []stage.Output{dataset("out")}, New: func() stage.Stage { return &stepStage{lab: l, Scale: 1} }},
		{Name: "tune", Version: 1, Compute: true, Outputs: []stage.Output{{Name: "model", Type: artifact.Model}}, New: func() stage.Stage { return &tuneStage{lab: l} }},
		{Name: "judge", Version: 1, Outputs: []stage.Output{{Name: "metrics", Type: artifact.Metrics}, {Name: "model", Type: artifact.Model, Alias: "model"}},
			New: func() stage.Stage { return &judgeStage{lab: l} }},
		{Name: "pair", Version: 1, Outputs: []stage.Output{dataset("a"), dataset("b")}, New: func() stage.Stage { return &pairStage{lab: l} }},
	}
}

type dataStage struct {
	lab    *lab
	ID     string `hcl:"id" json:"-" doc:"Name in the test"`
	Source string `hcl:"source" doc:"Pattern"`
}

func (*dataStage) Check() error { return nil }

func (s *dataStage) Sources(dir string) ([]string, error) {
	return filepath.Glob(filepath.Join(dir, s.Source))
}

func (s *dataStage) Run(ctx context.Context, env *stage.Env) error {
	paths, err := s.Sources(env.Dir)
	if err != nil {
		return err
	}
	var rows []artifact.Row
	for _, p := range paths {
		b, err := os.ReadFile(p)
		if err != nil {
			return err
		}
		rows = append(rows, artifact.Row{ID: filepath.Base(p), Text: string(b)})
	}
	if err := s.lab.enter(ctx, s.ID, env); err != nil {
		return err
	}
	w, err := env.Create("")
	if err != nil {
		return err
	}
	return artifact.Append(w, rows...)
}

// stepStage joins the texts of its inputs and adds its own.
type stepStage struct {
	lab     *lab
	ID      string          `hcl:"id" json:"-" doc:"Name in the test"`
	Text    string          `hcl:"text,optional" doc:"Added"`
	Scale   float64         `hcl:"scale,optional" doc:"Changes the key and nothing else"`
	Leak    string          `hcl:"leak,optional" json:"-" doc:"Added, but wrongly not part of the key"`
	From    []stage.Dataset `hcl:"from,optional" doc:"Inputs"`
	Teacher *stage.Teacher  `hcl:"teacher,optional" doc:"Teacher"`
	Shape   *shapeBlock     `hcl:"shape,block" doc:"Nested"`
}

type shapeBlock struct {
	Size int `hcl:"size" doc:"Nested"`
}

func (*stepStage) Check() error { return nil }

func (s *stepStage) Run(ctx context.Context, env *stage.Env) error {
	text := ""
	for _, f := range s.From {
		a, err := env.Store.Open(f.Ref)
		if err != nil {
			return err
		}
		for r, err := range artifact.Rows[artifact.Row](a) {
			if err != nil {
				return err
			}
			text += r.Text
		}
	}
	if err := s.lab.enter(ctx, s.ID, env); err != nil {
		return err
	}
	w, err := env.Create("out")
	if err != nil {
		return err
	}
	return artifact.Append(w, artifact.Row{Text: text + s.Text + s.Leak})
}

// tuneStage makes an adapter, or all weights.
type tuneStage struct {
	lab  *lab
	ID   string      `hcl:"id" json:"-" doc:"Name in the test"`
	Base stage.Model `hcl:"base" doc:"Model"`
	Rank int         `hcl:"rank,optional" doc:"0: all weights; -1: passes the base on"`

	Precision string `hcl:"precision,optional" json:"-" doc:"Of products"`
}

func (s *tuneStage) Products() tensor.DType { return tensor.Precision(s.Precision) }

func (*tuneStage) Check() error { return nil }

func (s *tuneStage) Run(ctx context.Context, env *stage.Env) error {
	if s.lab.computing.Add(1) > 1 {
		s.lab.overlap.Store(true)
	}
	defer s.lab.computing.Add(-1)
	if env.Backend.Name() != "fake" {
		return fmt.Errorf("backend is %v", env.Backend)
	}
	base, err := env.Store.Model(s.Base.Ref)
	if err != nil {
		return err
	}
	if err := s.lab.enter(ctx, s.ID, env); err != nil {
		return err
	}
	w, err := env.Create("model")
	if err != nil {
		return err
	}
	if s.Rank == 0 {
		return w.WriteJSON(artifact.ModelFile, artifact.ModelManifest{})
	}
	if s.Rank > 0 {
		if err := w.WriteJSON(adapterConfig, s.Rank); err != nil {
			return err
		}
	}
	return w.WriteJSON(artifact.ModelFile, artifact.ModelManifest{Base: base.Root})
}

// judgeStage measures its attribute.
type judgeStage struct {
	lab      *lab
	ID       string       `hcl:"id" json:"-" doc:"Name in the test"`
	Model    stage.Model  `hcl:"model" doc:"Model"`
	Score    float64      `hcl:"score" doc:"The metric"`
	Alone    bool         `hcl:"alone,optional" doc:"Without a base model"`
	Gates    []stage.Gate `hcl:"gate,block" json:"-" doc:"Gates"`
	lastPath stage.ModelPath
	Refuses  string `hcl:"refuses,optional" json:"-" doc:"File of a model block of which no model is taken"`
}

// Takes implements stage.Demanding.
func (s *judgeStage) Takes(m stage.ModelPath) error {
	if name := filepath.Base(m.Base); name == s.Refuses {
		return stage.Fieldf("model", "is made of %s", name)
	}
	return nil
}

func (*judgeStage) Check() error { return nil }

func (s *judgeStage) Run(ctx context.Context, env *stage.Env) error {
	var err error
	if s.lastPath, err = env.Store.Model(s.Model.Ref); err != nil {
		return err
	}
	if err := s.lab.enter(ctx, s.ID, env); err != nil {
		return err
	}
	w, err := env.Create("metrics")
	if err != nil {
		return err
	}
	m := artifact.MetricsFile{Metrics: map[string]artifact.Metric{"qa.acc": {N: 1, Value: s.Score}}}
	if !s.Alone {
		m.Baseline = map[string]artifact.Metric{"qa.acc": {N: 1, Value: 0.5}}
	}
	return w.WriteJSON(artifact.MetricsName, m)
}

// pairStage creates what its attribute lists.
type pairStage struct {
	lab    *lab
	ID     string   `hcl:"id" json:"-" doc:"Name in the test"`
	Create []string `hcl:"create" doc:"Outputs"`
}

func (*pairStage) Check() error { return nil }

func (s *pairStage) Run(ctx context.Context, env *stage.Env) error {
	for _, name := range s.Create {
		w, err := env.Create(name)
		if err != nil {
			return err
		}
		if err := artifact.Append(w, artifact.Row{Text: name}); err != nil {
			return err
		}
	}
	return s.lab.enter(ctx, s.ID, env)
}

func (r *Result) stage(t *testing.T, addr string) StageResult {
	t.Helper()
	for _, s := range r.Stages {
		if s.Addr == addr {
			return s
		}
	}
	t.Fatalf("no stage %s in the result", addr)
	return StageResult{}
}

func states(r *Result) map[string]State {
	m := map[string]State{}
	for _, s := range r.Stages {
		m[s.Addr] = s.State
	}
	return m
}

func equal[T any](t *testing.T, what string, got, want T) {
	t.Helper()
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%s: got %+v, want %+v", what, got, want)
	}
}

func contains(t *testing.T, what string, err error, wants ...string) {
	t.Helper()
	if err == nil {
		t.Errorf("%s: no error, want one with %q", what, wants)
		return
	}
	for _, w := range wants {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("%s: error %q does not say %q", what, err, w)
		}
	}
}

func lineOf(d *hcl.Diagnostic) int { return d.Subject.Start.Line }
