package engine

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"pipe/runtime/artifact"
	"pipe/runtime/stage"
)

func TestTwoRunsOnOneStoreShareTheWork(t *testing.T) {
	l := newLab(t)
	l.write("a.txt", "a")
	other, err := artifact.OpenStore(l.store.Dir())
	if err != nil {
		t.Fatal(err)
	}
	l.hook = func(context.Context, string, *stage.Env) error {
		time.Sleep(10 * time.Millisecond) // so that the other is waiting
		return nil
	}
	results := make([]*Result, 2)
	var wg sync.WaitGroup
	for i, s := range []*artifact.Store{l.store, other} {
		o := l.options()
		o.Store, o.Observer = s, nil
		prog := l.load(chain)
		wg.Go(func() {
			res, err := Run(context.Background(), prog, o)
			if err != nil {
				t.Error(err)
			}
			results[i] = res
		})
	}
	wg.Wait()
	equal(t, "ran", l.taken(), []string{"docs", "one", "side", "two"})
	if ran := results[0].Ran + results[1].Ran; ran != 4 {
		t.Errorf("%d and %d ran", results[0].Ran, results[1].Ran)
	}
	for _, s := range results[0].Stages {
		equal(t, s.Addr, s.Outputs, results[1].stage(t, s.Addr).Outputs)
	}
}

func TestEqualStagesRunOnce(t *testing.T) {
	l := newLab(t)
	const twins = `
step "a" {
  id   = "x"
  text = "t"
}
step "b" {
  id   = "x"
  text = "t"
}`
	for _, p := range []int{1, 2} {
		res := l.must(twins, "x", func(o *Options) {
			o.Parallelism = p
			o.Force = []string{"step.a", "step.b"}
		})
		if res.Ran != 1 || res.Cached != 1 {
			t.Errorf("ran %d, cached %d", res.Ran, res.Cached)
		}
	}
}

func TestWaitingForALeaseStopsWithTheContext(t *testing.T) {
	l := newLab(t)
	const src = `step "a" { id = "a" }`
	prog := l.load(src)
	e, err := newEngine(prog, l.options())
	if err != nil {
		t.Fatal(err)
	}
	a, err := e.action(context.Background(), prog.Nodes[0])
	if err != nil {
		t.Fatal(err)
	}
	release, err := l.store.Lease(context.Background(), a.key)
	if err != nil {
		t.Fatal(err)
	}
	defer release()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
	defer cancel()
	res, err := Run(ctx, prog, l.options())
	if err != context.DeadlineExceeded || res.Stages[0].State != Cancelled {
		t.Errorf("%+v, %v", res, err)
	}
}

func TestRunIsNoted(t *testing.T) {
	l := newLab(t)
	res := l.must(`step "a" { id = "a" }`, "a")
	b, err := os.ReadFile(filepath.Join(l.store.Dir(), "runs", res.Run+".json"))
	if err != nil {
		t.Fatal(err)
	}
	var f RunFile
	if err := json.Unmarshal(b, &f); err != nil {
		t.Fatal(err)
	}
	equal(t, "run", f.Run, res.Run)
	equal(t, "pipeline", f.Pipeline, "test")
	equal(t, "stage", f.Stages[0], res.Stages[0])
	equal(t, "recipe", f.Recipe[0].Name, "test.hcl")
	if text, err := ReadRecipe(l.store, f.Recipe[0]); err != nil || string(text) != `step "a" { id = "a" }` {
		t.Errorf("the recipe is %q, %v", text, err)
	}
	if b := f.Stages[0].Began; b.Before(f.Started) || b.Location() != time.UTC {
		t.Errorf("the stage began at %v, the run at %v", b, f.Started)
	}
	if r := l.must(`step "a" { id = "a" }`, ""); !r.Stages[0].Began.IsZero() {
		t.Errorf("a stage that is up to date began at %v", r.Stages[0].Began)
	}
}

func TestDigestsAreRememberedOnlyWhenOld(t *testing.T) {
	l := newLab(t)
	l.write("a.txt", "a")
	e, err := newEngine(l.load(chain), l.options())
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(l.dir, "a.txt")
	_, id, fresh, err := e.fileDigest(context.Background(), path)
	if err != nil || !fresh {
		t.Errorf("fresh %v, %v", fresh, err)
	}
	memo := "sources/" + id
	if _, err := os.Stat(filepath.Join(l.store.Dir(), memo)); err == nil {
		t.Error("the digest of a fresh file was remembered")
	}
	// A memo of a fresh file is not believed, whoever wrote it.
	if err := l.store.Remember(memo, []byte(artifact.Digest{1}.String())); err != nil {
		t.Fatal(err)
	}
	if d, _, _, err := e.fileDigest(context.Background(), path); err != nil || d == (artifact.Digest{1}) {
		t.Errorf("%v, %v", d, err)
	}
	if !remembers {
		return
	}
	// The Go distribution's files have been left alone for long.
	old, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(old)
	if err != nil {
		t.Fatal(err)
	}
	if wait := racy - time.Since(changed(info)) + 10*time.Millisecond; wait > 0 {
		time.Sleep(wait)
	}
	want, id, fresh, err := e.fileDigest(context.Background(), old)
	if err != nil || fresh {
		t.Fatalf("fresh %v, %v", fresh, err)
	}
	memo = "sources/" + id
	if b, err := os.ReadFile(filepath.Join(l.store.Dir(), memo)); err != nil || string(b) != want.String() {
		t.Errorf("memo %q, %v", b, err)
	}
	if err := l.store.Remember(memo, []byte(artifact.Digest{2}.String())); err != nil {
		t.Fatal(err)
	}
	if d, _, _, err := e.fileDigest(context.Background(), old); err != nil || d != (artifact.Digest{2}) {
		t.Errorf("the memo was not used: %v, %v", d, err)
	}
}

// A file may change twice within a tick of its clock: then only its content
// tells.
func TestFreshSourceIsHashedAgainAfterTheRun(t *testing.T) {
	l := newLab(t)
	l.write("a.txt", "a")
	prog := l.load(chain)
	e, err := newEngine(prog, l.options())
	if err != nil {
		t.Fatal(err)
	}
	n := prog.Node("data.docs")
	a, err := e.action(context.Background(), n)
	if err != nil {
		t.Fatal(err)
	}
	if err := e.unchanged(context.Background(), n, a); err != nil {
		t.Error(err)
	}
	a.files[0].Digest = artifact.Digest{1} // as if it had been another content then
	contains(t, "fresh", e.unchanged(context.Background(), n, a), "a.txt changed while it was read")
	a.files[0].fresh = false
	if err := e.unchanged(context.Background(), n, a); err != nil {
		t.Errorf("a file left alone for long was read again: %v", err)
	}
}

// Who sees nothing happen is told what is awaited.
func TestWaitingForAnotherRunIsSaid(t *testing.T) {
	l := newLab(t)
	const src = `step "a" { id = "a" }`
	prog := l.load(src)
	e, err := newEngine(prog, l.options())
	if err != nil {
		t.Fatal(err)
	}
	a, err := e.action(context.Background(), prog.Nodes[0])
	if err != nil {
		t.Fatal(err)
	}
	release, err := l.store.Lease(context.Background(), a.key)
	if err != nil {
		t.Fatal(err)
	}
	o := l.options()
	var seen []EventType
	o.Observer = func(ev Event) {
		seen = append(seen, ev.Type)
		if ev.Type == WaitEvent {
			equal(t, "address", ev.Addr, "step.a")
			release()
		}
	}
	if _, err := Run(context.Background(), prog, o); err != nil {
		t.Fatal(err)
	}
	equal(t, "events", seen, []EventType{WaitEvent, StageEvent, StageEvent})
}
