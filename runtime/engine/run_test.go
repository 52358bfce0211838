package engine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"pipe/runtime/artifact"
	"pipe/runtime/stage"
	"pipe/tensor"
)

const chain = `
data "docs" {
  id     = "docs"
  source = "*.txt"
}
step "one" {
  id   = "one"
  from = [data.docs]
  text = "1"
}
step "side" {
  id   = "side"
  text = "s"
}
step "two" {
  id   = "two"
  from = [step.one.out, step.side.out]
  text = "2"
}
`

func TestSecondRunDoesNothing(t *testing.T) {
	l := newLab(t)
	l.write("a.txt", "a")
	first := l.must(chain, "docs one side two")
	second := l.must(chain, "")
	if first.Ran != 4 || second.Ran != 0 || second.Cached != 4 || first.Run == second.Run {
		t.Errorf("first %+v, second %+v", first, second)
	}
	for _, s := range second.Stages {
		if s.State != Cached || s.Saved <= 0 || s.Key != first.stage(t, s.Addr).Key {
			t.Errorf("%+v", s)
		}
		equal(t, s.Addr, s.Outputs, first.stage(t, s.Addr).Outputs)
	}
	a, err := l.store.Open(second.stage(t, "step.two").Outputs["out"].Digest)
	if err != nil {
		t.Fatal(err)
	}
	for r := range artifact.Rows[artifact.Row](a) {
		equal(t, "text", r.Text, "a1s2")
	}
	work, err := os.ReadDir(filepath.Join(l.store.Dir(), "work"))
	if err != nil || len(work) != 0 {
		t.Errorf("work directories are left: %v, %v", work, err)
	}
}

func TestWhatRunsAgain(t *testing.T) {
	for name, c := range map[string]struct{ old, new, want string }{
		"attribute":         {`text = "s"`, `text = "x"`, "side two"},
		"attribute at end":  {`text = "2"`, `text = "x"`, "two"},
		"early cutoff":      {`text = "1"`, "text = \"1\"\n  scale = 2", "one"},
		"comment":           {`text = "1"`, "# a comment\n  text = \"1\"", ""},
		"default spelled":   {`text = "1"`, "text = \"1\"\n  scale = 1.0", ""},
		"rename":            {`step "side"`, `step "aside"`, ""},
		"keyless attribute": {`id   = "one"`, `id   = "uno"`, ""},
		"seed":              {"\ndata", "\npipeline \"p\" { seed = 7 }\ndata", "docs one side two"},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLab(t)
			l.write("a.txt", "a")
			l.must(chain, "docs one side two")
			src := strings.Replace(chain, c.old, c.new, 1)
			if src == chain {
				t.Fatal("nothing was replaced")
			}
			if name == "rename" {
				src = strings.Replace(src, "step.side.out", "step.aside.out", 1)
			}
			l.must(src, c.want)
			l.must(src, "")
			l.must(chain, "") // both results are there
		})
	}
}

func TestSourcesDecideByContent(t *testing.T) {
	l := newLab(t)
	l.write("a.txt", "a")
	l.must(chain, "docs one side two")
	l.write("a.txt", "a") // same content, new times
	l.must(chain, "")
	l.write("a.txt", "b")
	l.must(chain, "docs one two")
	l.write("b.txt", "c")
	l.must(chain, "docs one two")
	if err := os.Remove(filepath.Join(l.dir, "b.txt")); err != nil {
		t.Fatal(err)
	}
	l.must(chain, "")
}

func TestSourceEditedDuringRunIsNotPublished(t *testing.T) {
	for name, edit := range map[string]func(l *lab){
		"edited":  func(l *lab) { l.write("a.txt", "b") },
		"added":   func(l *lab) { l.write("b.txt", "b") },
		"removed": func(l *lab) { os.Remove(filepath.Join(l.dir, "a.txt")) },
	} {
		t.Run(name, func(t *testing.T) {
			l := newLab(t)
			l.write("a.txt", "a")
			l.hook = func(_ context.Context, id string, _ *stage.Env) error {
				if id == "docs" {
					edit(l)
				}
				return nil
			}
			res, _, err := l.run(chain)
			contains(t, "run", err, "while", "nothing was kept")
			if _, err := l.store.Record(res.stage(t, "data.docs").Key); !errors.Is(err, artifact.ErrNotFound) {
				t.Errorf("the record is %v", err)
			}
			l.hook = nil
			l.write("a.txt", "b")
			if _, _, err := l.run(chain); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestMissingObjectRunsAgain(t *testing.T) {
	l := newLab(t)
	l.write("a.txt", "a")
	res := l.must(chain, "docs one side two")
	a, err := l.store.Open(res.stage(t, "step.one").Outputs["out"].Digest)
	if err != nil {
		t.Fatal(err)
	}
	path, err := a.Path(artifact.TableName)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	again := l.must(chain, "one")
	equal(t, "reason", again.stage(t, "step.one").Reason, "its result is no longer in the store")
	l.must(chain, "")
}

func TestFailureStopsOnlyWhatNeedsIt(t *testing.T) {
	l := newLab(t)
	l.write("a.txt", "a")
	fail := true
	l.hook = func(_ context.Context, id string, _ *stage.Env) error {
		if id == "one" && fail {
			return stage.Fieldf("text", "is not to my taste")
		}
		return nil
	}
	keepGoing := func(o *Options) { o.KeepGoing = true }
	res, _, err := l.run(chain, keepGoing)
	equal(t, "states", states(res), map[string]State{"data.docs": Done, "step.one": Failed, "step.side": Done, "step.two": Skipped})
	equal(t, "blame", res.stage(t, "step.two").Blame, "step.one")
	contains(t, "run", err, "step.one: text: is not to my taste")
	var serr *StageError
	if !errors.As(err, &serr) || serr.Addr != "step.one" || len(serr.Diags) != 1 || lineOf(serr.Diags[0]) != 9 {
		t.Errorf("error is %+v", serr)
	}
	fail = false
	l.must(chain, "one two")
}

func TestFailureStopsTheRunByDefault(t *testing.T) {
	l := newLab(t)
	l.hook = func(context.Context, string, *stage.Env) error { return errors.New("no") }
	res, ran, err := l.run(`
step "a" { id = "a" }
step "b" {
  id   = "b"
  text = "b"
}`, func(o *Options) { o.Parallelism = 1 })
	contains(t, "run", err, "step.a: no")
	equal(t, "ran", ran, []string{"a"})
	equal(t, "states", states(res), map[string]State{"step.a": Failed, "step.b": Skipped})
}

func TestPanicIsAnErrorOfTheStage(t *testing.T) {
	l := newLab(t)
	l.hook = func(_ context.Context, id string, _ *stage.Env) error { panic("boom in " + id) }
	_, _, err := l.run(`step "a" { id = "x" }`)
	contains(t, "run", err, "step.a", "boom in x")
}

func TestEveryOutputMustBeCreatedOnce(t *testing.T) {
	for list, want := range map[string]string{
		`["a", "b"]`:      "",
		`["a"]`:           `without creating its output "b"`,
		`["a", "b", "a"]`: `output "a" was created already`,
		`["a", "c"]`:      `no output "c"; they have "a", "b"`,
	} {
		l := newLab(t)
		_, _, err := l.run(`pair "p" {
  id     = "p"
  create = ` + list + "\n}")
		if want == "" {
			if err != nil {
				t.Error(err)
			}
			continue
		}
		contains(t, list, err, want)
		left, err := os.ReadDir(filepath.Join(l.store.Dir(), "tmp"))
		if err != nil || len(left) != 0 {
			t.Errorf("%s: %d temporary directories are left, %v", list, len(left), err)
		}
	}
}

func TestCancellation(t *testing.T) {
	l := newLab(t)
	l.write("a.txt", "a")
	ctx, cancel := context.WithCancel(context.Background())
	work := ""
	l.hook = func(ctx context.Context, id string, env *stage.Env) error {
		if id != "one" {
			return nil
		}
		work = env.Work
		if err := os.WriteFile(filepath.Join(env.Work, "state"), nil, 0o666); err != nil {
			return err
		}
		cancel()
		<-ctx.Done()
		return ctx.Err()
	}
	o := l.options()
	o.Parallelism = 1
	res, err := Run(ctx, l.load(chain), o)
	if !errors.Is(err, context.Canceled) {
		t.Errorf("error is %v", err)
	}
	equal(t, "states", states(res), map[string]State{"data.docs": Done, "step.one": Cancelled, "step.side": Skipped, "step.two": Skipped})
	l.taken()
	l.hook = func(_ context.Context, id string, env *stage.Env) error {
		if id == "one" {
			if _, err := os.Stat(filepath.Join(env.Work, "state")); err != nil || env.Work != work {
				t.Errorf("the work directory is not found again: %v", err)
			}
		}
		return nil
	}
	l.must(chain, "one side two")
}

func TestForceAndTarget(t *testing.T) {
	l := newLab(t)
	l.write("a.txt", "a")
	res := l.must(chain, "docs one", func(o *Options) { o.Targets = []string{"step.one"} })
	if len(res.Stages) != 2 {
		t.Errorf("%+v", res.Stages)
	}
	l.must(chain, "side two")
	res = l.must(chain, "one", func(o *Options) { o.Force = []string{"step.one"} })
	equal(t, "reason", res.stage(t, "step.one").Reason, "forced")
	_, _, err := l.run(chain, func(o *Options) { o.Force = []string{"step.none"} })
	contains(t, "force", err, "step.none")
	_, _, err = l.run(chain, func(o *Options) { o.Targets = []string{"step.none"} })
	contains(t, "target", err, "step.none")
}

func TestForceFindsStagesThatAreNotDeterministic(t *testing.T) {
	l := newLab(t)
	const src = `step "a" {
  id   = "a"
  leak = "1"
}`
	force := func(o *Options) { o.Force = []string{"step.a"} }
	l.must(src, "a")
	if s := l.must(src, "a", force).stage(t, "step.a"); len(s.Notes) != 0 {
		t.Errorf("notes %q of a deterministic stage", s.Notes)
	}
	s := l.must(strings.Replace(src, "1", "2", 1), "a", force).stage(t, "step.a")
	if len(s.Notes) != 1 || !strings.Contains(s.Notes[0], "not deterministic") {
		t.Errorf("notes %q", s.Notes)
	}
}

func TestForceReachesEveryInstance(t *testing.T) {
	l := newLab(t)
	const sweep = `step "s" {
  for_each = { a = "1", b = "2" }
  id       = each.key
  text     = each.value
}`
	l.must(sweep, "a b")
	l.must(sweep, "a b", func(o *Options) { o.Force = []string{"step.s"} })
	l.must(sweep, "b", func(o *Options) { o.Force = []string{`step.s["b"]`} })
}

func TestNotesAndSeriesComeBack(t *testing.T) {
	l := newLab(t)
	l.hook = func(_ context.Context, _ string, env *stage.Env) error {
		env.Note("%d rows", 3)
		env.Metric("loss", 1, 0.5)
		env.Metric("loss", 2, math.NaN())
		env.Metric("loss", 3, math.Inf(1))
		env.Progress(1, 2, "rows")
		env.Progress(2, 2, "rows")
		return nil
	}
	const src = `step "a" { id = "a" }`
	l.must(src, "a")
	var types []string
	for _, e := range l.events {
		s := string(e.Type)
		if e.Stage != nil {
			s += ":" + string(e.Stage.State)
		}
		types = append(types, s)
	}
	equal(t, "events", strings.Join(types, " "), "stage:start note metric metric note metric progress progress stage:done")
	l.events = nil
	s := l.must(src, "").stage(t, "step.a")
	equal(t, "notes", s.Notes, []string{"3 rows", "loss is NaN at step 2"})
	series, err := l.store.Series(s.Key)
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "series", series, []artifact.Point{{Series: "loss", Step: 1, Value: 0.5}})
	if len(l.events) != 1 || l.events[0].Stage.State != Cached || len(l.events[0].Stage.Notes) != 2 {
		t.Errorf("events are %+v", l.events)
	}
}

func TestLongSeriesAreThinned(t *testing.T) {
	s := series{byName: map[string]*thinned{}}
	for i := range int64(100_000) {
		s.add(artifact.Point{Series: "loss", Step: i})
		s.add(artifact.Point{Series: fmt.Sprint("rare", i%2), Step: i})
	}
	points := map[string][]int64{}
	for _, p := range s.points() {
		points[p.Series] = append(points[p.Series], p.Step)
	}
	loss := points["loss"]
	if len(points) != 3 || len(loss) > maxPoints || len(loss) < maxPoints/2 {
		t.Fatalf("%d series, %d points", len(points), len(loss))
	}
	for i, step := range loss {
		if step != int64(i)*(loss[1]-loss[0]) {
			t.Fatalf("point %d is of step %d", i, step)
		}
	}
}

func TestRetry(t *testing.T) {
	l := newLab(t)
	left := 2
	l.hook = func(context.Context, string, *stage.Env) error {
		if left--; left >= 0 {
			return errors.New("flaky")
		}
		return nil
	}
	const src = `step "a" {
  id = "a"
  retry {
    attempts = 2
    delay    = "1ms"
  }
}`
	l.must(src, "a a a")
	_, _, err := l.run(strings.Replace(src, "1ms", "soon", 1))
	contains(t, "delay", err, "retry.delay", "soon")
	left = 3
	_, ran, err := l.run(strings.Replace(src, `id = "a"`, "id = \"a\"\n  text = \"x\"", 1))
	contains(t, "run", err, "flaky")
	equal(t, "ran", ran, []string{"a", "a", "a"})
}

// A chain of a thousand stages that are up to date costs one look each, and
// nothing is written for them.
func TestNoOpIsOneLookAStage(t *testing.T) {
	const n = 1000
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "step \"s%d\" {\n  id = \"x\"\n  text = \"%d\"\n", i, i%2)
		if i > 0 {
			fmt.Fprintf(&b, "  from = [step.s%d.out]\n", i-1)
		}
		b.WriteString("}\n")
	}
	l := newLab(t)
	prog := l.load(b.String())
	e, err := newEngine(prog, l.options())
	if err != nil {
		t.Fatal(err)
	}
	// Publish records as if all had run: each stage made the same object.
	w, err := l.store.Create(artifact.Dataset)
	if err != nil {
		t.Fatal(err)
	}
	if err := artifact.Append(w, artifact.Row{Text: "x"}); err != nil {
		t.Fatal(err)
	}
	obj, err := w.Commit()
	if err != nil {
		t.Fatal(err)
	}
	for _, node := range prog.Nodes {
		e.bind(node)
		a, err := e.action(context.Background(), node)
		if err != nil {
			t.Fatal(err)
		}
		out := map[string]artifact.Object{"out": obj}
		e.made(node.Addr, out)
		if _, err := l.store.Record(a.key); err == nil {
			continue // equal to one before it: their inputs are all the same
		}
		if err := l.store.PutRecord(&artifact.Record{Key: a.key, Outputs: out, Preimage: json.RawMessage("{}")}); err != nil {
			t.Fatal(err)
		}
	}
	fresh, err := newEngine(l.load(b.String()), l.options())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := fresh.walk(context.Background(), 4, false, fresh.visit); err != nil {
		t.Fatal(err)
	}
	if ran := l.taken(); len(ran) != 0 || fresh.lookups != n || len(fresh.results) != n {
		t.Errorf("%d stages ran, %d lookups, %d results", len(ran), fresh.lookups, len(fresh.results))
	}
}

// TestPrecision: a precision that the device does not have is refused before anything
// runs, with its place.
func TestPrecision(t *testing.T) {
	l := newLab(t)
	l.write("base", "weights")
	old := func(o *Options) {
		o.HasPrecision = func(dt tensor.DType) error {
			if dt == tensor.FP8 {
				return errors.New("the device is too old")
			}
			return nil
		}
	}
	pipeline := func(stage, teacher string) string {
		return `
model "m" { source = "base" }
tune "t" {
  id   = "t"
  base = model.m
  ` + stage + `
}
teacher "x" {
  provider = "local"
  model    = model.m
  ` + teacher + `
}
`
	}
	for _, c := range []struct{ src, line string }{
		{pipeline(`precision = "fp8"`, ""), "test.hcl:6"}, {pipeline("", `precision = "fp8"`), "test.hcl:11"},
	} {
		_, ran, err := l.run(c.src, old)
		var failed *StageError
		if !errors.As(err, &failed) || !strings.Contains(err.Error(), "the device is too old") || len(ran) > 0 {
			t.Fatalf("%v; %v ran", err, ran)
		}
		if at := failed.Diags[0].Subject; at == nil || fmt.Sprintf("%s:%d", at.Filename, at.Start.Line) != c.line {
			t.Errorf("the error points at %v; want %s", at, c.line)
		}
	}
	l.must(pipeline(`precision = "bf16"`, ""), "t", old)
}
