package engine

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"pipe/runtime/artifact"
	"pipe/runtime/stage"
)

const tuned = `
model "base" {
  source = "weights"
}
tune "adapter" {
  id   = "adapter"
  base = model.base
  rank = 8
}
judge "it" {
  id    = "judge"
  model = tune.adapter.model
  score = 0.75
}
tune "again" {
  id   = "again"
  base = judge.it.model
  rank = 4
}
`

func TestModelPaths(t *testing.T) {
	for name, c := range map[string]struct {
		rank, template string
		want           func(l *lab, m stage.ModelPath) bool
	}{
		"adapter over a block": {rank: "8", want: func(l *lab, m stage.ModelPath) bool {
			return m.Base == filepath.Join(l.dir, "weights") && m.Adapter != "" && m.Template == ""
		}},
		"passed on": {rank: "-1", want: func(l *lab, m stage.ModelPath) bool {
			return m.Base == filepath.Join(l.dir, "weights") && m.Adapter == ""
		}},
		"all weights": {rank: "0", want: func(l *lab, m stage.ModelPath) bool {
			return strings.HasPrefix(m.Base, l.store.Dir()) && m.Adapter == "" && !m.Root.IsZero()
		}},
		"template": {rank: "8", template: "chat_template = \"t.jinja\"", want: func(l *lab, m stage.ModelPath) bool {
			return m.Base == filepath.Join(l.dir, "weights") && m.Adapter != "" && strings.HasPrefix(m.Template, l.store.Dir())
		}},
		"quantised": {rank: "8", template: "quantize = \"nf4\"", want: func(l *lab, m stage.ModelPath) bool {
			return m.Base == filepath.Join(l.dir, "weights") && m.Adapter != "" && m.Quantize == "nf4"
		}},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLab(t)
			l.write("weights", "w")
			l.write("t.jinja", "{{ messages }}")
			src := strings.Replace(strings.Replace(tuned, "rank = 8", "rank = "+c.rank, 1), "source =", c.template+"\nsource =", 1)
			prog := l.load(src)
			if _, err := Run(context.Background(), prog, l.options()); err != nil {
				t.Fatal(err)
			}
			m := prog.Node("judge.it").Stage.(*judgeStage).lastPath
			if !c.want(l, m) {
				t.Errorf("%+v", m)
			}
			l.taken()
			l.must(src, "")
		})
	}
}

func TestAliasPassesItsHandleOn(t *testing.T) {
	l := newLab(t)
	l.write("weights", "w")
	res := l.must(tuned, "adapter again judge")
	equal(t, "alias", res.stage(t, "judge.it").Outputs["model"], res.stage(t, "tune.adapter").Outputs["model"])
	rec, err := l.store.Record(res.stage(t, "judge.it").Key)
	if err != nil || len(rec.Outputs) != 1 {
		t.Errorf("record %+v, %v", rec, err)
	}
}

func TestModelContentDecides(t *testing.T) {
	l := newLab(t)
	l.write("weights", "w")
	l.write("other", "w")
	l.write("t.jinja", "a")
	l.must(tuned, "adapter again judge")
	l.must(strings.Replace(tuned, "weights", "other", 1), "") // another name
	withTemplate := strings.Replace(tuned, "source =", "chat_template = \"t.jinja\"\nsource =", 1)
	l.must(withTemplate, "adapter again judge")
	l.write("t.jinja", "b")
	l.must(withTemplate, "adapter again judge")
	l.must(strings.Replace(withTemplate, "t.jinja", "./t.jinja", 1), "")
	l.must(strings.Replace(tuned, "source =", "quantize = \"nf4\"\nsource =", 1), "adapter again judge")
	l.must(strings.Replace(withTemplate, "source =", "quantize = \"nf4\"\nsource =", 1), "adapter again judge")
	l.write("weights", "x")
	l.must(tuned, "adapter again judge")
}

func TestModelThatIsNotThere(t *testing.T) {
	l := newLab(t)
	res, _, err := l.run(tuned)
	contains(t, "run", err, "model.base", "weights")
	equal(t, "states", states(res), map[string]State{"model.base": Failed, "tune.adapter": Skipped, "judge.it": Skipped, "tune.again": Skipped})
	l.write("weights", "w")
	_, _, err = l.run(strings.Replace(tuned, "source =", "chat_template = \"t.jinja\"\nsource =", 1))
	contains(t, "run", err, "model.base", "chat_template", "t.jinja")
}

// A chat template that is none is found before anything is fetched or runs, and
// named as the user does.
func TestTemplatesAreCheckedFirst(t *testing.T) {
	l := newLab(t)
	l.write("weights", "w")
	l.write("t.jinja", "{%")
	src := strings.Replace(tuned, "source =", "chat_template = \"./t.jinja\"\nsource =", 1)
	name := filepath.Join(l.dir, "t.jinja")
	check := func(got, text string) error {
		if got != name || text != "{%" {
			t.Errorf("checks %s, %q", got, text)
		}
		return fmt.Errorf("%s:1: no tag", got)
	}
	bad := func(o *Options) {
		o.CheckTemplate = check
		o.Resolve = func(context.Context, string, string, func(done, total int64)) (string, [32]byte, error) {
			t.Error("the model is resolved")
			return "", [32]byte{}, nil
		}
	}
	res, ran, err := l.run(src, bad)
	contains(t, "run", err, "model.base", "chat_template: "+name+":1: no tag")
	if len(ran) > 0 || res.stage(t, "model.base").State != Failed {
		t.Errorf("%v ran", ran)
	}
	o := l.options()
	bad(&o)
	for _, source := range []string{"weights", "hf://org/name"} {
		_, err = Plan(context.Background(), l.load(strings.Replace(src, "weights", source, 1)), o)
		contains(t, "plan", err, "model.base", "chat_template: "+name+":1: no tag")
	}
	none := func(string, string) error { return nil }
	contains(t, "check", Check(l.load(src), l.store.Dir(), none, check), "model.base", "chat_template: "+name+":1: no tag")
	if err := Check(l.load(strings.Replace(src, "t.jinja", "gone.jinja", 1)), l.store.Dir(), none, check); err != nil {
		t.Errorf("a template of another machine: %v", err)
	}
}

func TestBaseOutsideThePipeline(t *testing.T) {
	l := newLab(t)
	l.write("weights", "w")
	e, err := newEngine(l.load(tuned), l.options())
	if err != nil {
		t.Fatal(err)
	}
	model := func(m artifact.ModelManifest) artifact.Ref {
		w, err := l.store.Create(artifact.Model)
		if err != nil {
			t.Fatal(err)
		}
		if err := w.WriteJSON(artifact.ModelFile, m); err != nil {
			t.Fatal(err)
		}
		if err := w.WriteJSON(adapterConfig, 1); err != nil {
			t.Fatal(err)
		}
		o, err := w.Commit()
		if err != nil {
			t.Fatal(err)
		}
		return artifact.Ref{Type: artifact.Model, Addr: "x", Digest: o.Digest}
	}
	in := inputs{e}
	full := model(artifact.ModelManifest{})
	over := model(artifact.ModelManifest{Base: full.Digest})
	m, err := in.Model(over)
	if err != nil || m.Root != full.Digest || m.Adapter == "" || m.Base == m.Adapter {
		t.Errorf("%+v, %v", m, err)
	}
	_, err = in.Model(model(artifact.ModelManifest{Base: over.Digest}))
	contains(t, "adapter over an adapter", err, "is an adapter itself")
	_, err = in.Model(model(artifact.ModelManifest{Base: artifact.Digest{1}}))
	contains(t, "no base", err, "neither a model block")
	_, err = in.Open(artifact.Ref{Type: artifact.Dataset, Addr: "x", Digest: full.Digest})
	contains(t, "wrong type", err, "it is a model, not a dataset")
	_, err = in.Open(artifact.Ref{Type: artifact.Dataset, Addr: "x"})
	contains(t, "no digest", err, "x has no content")
}

func TestTeacherIsConfiguration(t *testing.T) {
	l := newLab(t)
	l.write("weights", "w")
	const src = `
model "base" { source = "weights" }
teacher "t" {
  provider    = "local"
  model       = model.base
  temperature = 0.5
  concurrency = 2
}
step "a" {
  id      = "a"
  teacher = teacher.t
}`
	l.must(src, "a")
	l.must(strings.Replace(src, "concurrency = 2", "concurrency = 3", 1), "")
	l.must(strings.ReplaceAll(strings.Replace(src, `teacher "t"`, `teacher "u"`, 1), "teacher.t", "teacher.u"), "")
	l.must(strings.Replace(src, "temperature = 0.5", "temperature = 0.6", 1), "a")
	l.write("weights", "v")
	l.must(src, "a")
}

func TestComputeStagesNeverOverlap(t *testing.T) {
	l := newLab(t)
	l.write("weights", "w")
	l.hook = func(context.Context, string, *stage.Env) error {
		time.Sleep(2 * time.Millisecond) // gives another the time to begin
		return nil
	}
	var b strings.Builder
	b.WriteString("model \"base\" { source = \"weights\" }\n")
	b.WriteString("tune \"s\" {\n  for_each = { a = 1, b = 2, c = 3, d = 4, e = 5, f = 6 }\n  id = each.key\n  base = model.base\n  rank = each.value\n}\n")
	l.must(b.String(), "a b c d e f")
	if l.overlap.Load() {
		t.Error("two stages used the backend at once")
	}
	if n := l.opened.Load(); n != 1 {
		t.Errorf("the backend was opened %d times", n)
	}
	l.must(b.String(), "")
	if n := l.opened.Load(); n != 1 {
		t.Error("the backend was opened for nothing")
	}
}

func TestBackendIsPartOfTheKey(t *testing.T) {
	l := newLab(t)
	l.write("weights", "w")
	l.must(tuned, "adapter again judge")
	_, ran, err := l.run(tuned, func(o *Options) { o.BackendName = "other" })
	contains(t, "run", err, `the backend is "fake", not "other"`)
	equal(t, "ran", len(ran), 0)
	_, _, err = l.run(tuned, func(o *Options) { o.BackendName = "" })
	contains(t, "run", err, "tune.adapter computes, but no backend was given")
}
