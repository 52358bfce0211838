package engine

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func (l *lab) plan(src string, set ...func(*Options)) map[string]string {
	l.t.Helper()
	o := l.options()
	o.Observer = func(e Event) { l.t.Errorf("a plan said %+v", e) }
	for _, f := range set {
		f(&o)
	}
	steps, err := Plan(context.Background(), l.load(src), o)
	if err != nil {
		l.t.Fatal(err)
	}
	if ran := l.taken(); len(ran) > 0 {
		l.t.Errorf("a plan ran %q", ran)
	}
	m := map[string]string{}
	for _, s := range steps {
		m[s.Addr] = s.Action + ": " + s.Reason
	}
	return m
}

func TestPlan(t *testing.T) {
	l := newLab(t)
	l.write("a.txt", "a")
	const never = "run: it has no earlier result"
	equal(t, "new", l.plan(chain), map[string]string{"data.docs": never, "step.one": never, "step.side": never, "step.two": never})
	l.must(chain, "docs one side two")
	const cached = "cached: up to date"
	equal(t, "done", l.plan(chain), map[string]string{"data.docs": cached, "step.one": cached, "step.side": cached, "step.two": cached})

	equal(t, "attribute", l.plan(strings.Replace(chain, `text = "1"`, "text = \"x\"\n  scale = 2\n  shape { size = 1 }", 1)), map[string]string{
		"data.docs": cached, "step.side": cached,
		"step.one": `run: scale 1 → 2 (test.hcl:10), shape.size (none) → 1 (test.hcl:11), text "1" → "x" (test.hcl:9)`,
		"step.two": "maybe: it needs step.one, which will run",
	})
	equal(t, "forced", l.plan(chain, func(o *Options) { o.Force = []string{"step.one"} })["step.one"], "run: forced")
	equal(t, "target", len(l.plan(chain, func(o *Options) { o.Targets = []string{"step.side"} })), 1)

	l.write("b.txt", "b")
	equal(t, "sources", l.plan(strings.Replace(chain, `text = "2"`, `text = "y"`, 1)), map[string]string{
		"data.docs": "run: b.txt is new", "step.side": cached,
		"step.one": "maybe: it needs data.docs, which will run",
		"step.two": `run: text "2" → "y" (test.hcl:18)`,
	})
	if err := os.Remove(filepath.Join(l.dir, "b.txt")); err != nil {
		t.Fatal(err)
	}
	l.must(strings.Replace(chain, `text = "1"`, `text = "one"`, 1), "one two")
	res := l.must(strings.Replace(chain, `text = "1"`, `text = "uno"`, 1), "one two")
	equal(t, "reason of a run", res.stage(t, "step.two").Reason, "input from[0] (step.one.out) changed (test.hcl:17)")
}

// What is found again under another name, or with the settings of an older run,
// does not run for sure as long as its inputs are not known.
func TestPlanDoesNotSayRunOfWhatMayBeFound(t *testing.T) {
	l := newLab(t)
	l.write("a.txt", "a")
	first := l.must(chain, "docs one side two").Run
	other := strings.Replace(chain, `text = "2"`, `text = "y"`, 1)
	l.must(other, "two")
	l.write("b.txt", "b")

	renamed := strings.Replace(other, `step "two"`, `step "second"`, 1)
	got := l.plan(renamed)["step.second"]
	if !strings.HasPrefix(got, "maybe: it needs step.one, which may run; step.two was the same in run ") {
		t.Errorf("renamed: %s", got)
	}
	equal(t, "new", l.plan(strings.Replace(renamed, `text = "y"`, `text = "z"`, 1))["step.second"], "run: it has no earlier result")
	equal(t, "as it was before", l.plan(chain)["step.two"], "maybe: it needs step.one, which may run; step.two was the same in run "+first)
	equal(t, "as it never was", l.plan(strings.Replace(chain, `text = "2"`, `text = "z"`, 1))["step.two"], `run: text "y" → "z" (test.hcl:18)`)
	equal(t, "forced", l.plan(chain, func(o *Options) { o.Force = []string{"step.two"} })["step.two"], "run: forced")
}

func TestPlanWithoutTheModel(t *testing.T) {
	l := newLab(t)
	l.write("weights", "w")
	far := strings.Replace(tuned, `"weights"`, `"hf://org/weights"`, 1)
	near := func(o *Options) {
		o.Resolve = func(ctx context.Context, _, dir string, _ func(done, total int64)) (string, [32]byte, error) {
			return l.resolve(ctx, "weights", dir, nil)
		}
	}
	l.must(far, "adapter again judge", near)
	offline := func(o *Options) {
		o.Resolve = func(context.Context, string, string, func(done, total int64)) (string, [32]byte, error) {
			return "", [32]byte{}, errors.New("not in the cache")
		}
	}
	got := l.plan(far, offline)
	equal(t, "tune", got["tune.adapter"], "maybe: model.base is not here: not in the cache")
	equal(t, "judge", got["judge.it"], "maybe: it needs tune.adapter, which may run")
	for _, s := range l.plan(far, near) {
		equal(t, "with the model", s, "cached: up to date")
	}
	o := l.options()
	offline(&o)
	_, err := Plan(context.Background(), l.load(tuned), o)
	contains(t, "a model of this machine", err, "model.base: not in the cache")
}

func TestPlanSaysWhatItCannotRead(t *testing.T) {
	l := newLab(t)
	if err := os.Mkdir(filepath.Join(l.dir, "x.txt"), 0o777); err != nil {
		t.Fatal(err)
	}
	_, err := Plan(context.Background(), l.load(chain), l.options())
	contains(t, "plan", err, "data.docs", "x.txt is not a regular file")
}

func TestChanges(t *testing.T) {
	l := newLab(t)
	l.write("a.txt", "a")
	key := func(src, addr string) []byte {
		t.Helper()
		res, _, err := l.run(src)
		if err != nil {
			t.Fatal(err)
		}
		rec, err := l.store.Record(res.stage(t, addr).Key)
		if err != nil {
			t.Fatal(err)
		}
		return rec.Preimage
	}
	a := key(chain, "step.two")
	b := key(strings.Replace(chain, `text = "2"`, "text = \"3\"\n  scale = 0.5", 1), "step.two")
	cs, err := Changes(a, b, nil)
	if err != nil || len(cs) != 2 || cs[0].String() != `Scale 1 → 0.5` || cs[1].String() != `Text "2" → "3"` {
		t.Errorf("%v, %v", cs, err)
	}
	if cs, err := Changes(a, a, nil); err != nil || len(cs) != 0 {
		t.Errorf("%v, %v", cs, err)
	}
	_, err = Changes([]byte("{"), a, nil)
	contains(t, "bad pre-image", err, "read pre-image")
}
