package engine

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"pipe/runtime/artifact"
)

// putNote writes a small file of a store.
func putNote(t testing.TB, s *artifact.Store, name, text string) {
	t.Helper()
	path := filepath.Join(s.Dir(), filepath.FromSlash(name))
	if err := os.MkdirAll(filepath.Dir(path), 0o777); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o666); err != nil {
		t.Fatal(err)
	}
}

func findRoots(t *testing.T, s *artifact.Store, keepRuns int) *Roots {
	t.Helper()
	r, err := FindRoots(s, keepRuns)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// The last runs of each pipeline are kept, and those that are pinned or a
// baseline, and what each stage was last up to date with.
func TestRoots(t *testing.T) {
	l := newLab(t)
	var runs []string
	var keys []artifact.Key
	for _, text := range []string{"0", "1", "2", "3", "4"} {
		res := l.must(strings.Replace(`step "a" {
  id = "a"
  text = "TEXT"
}`, "TEXT", text, 1), "a")
		runs, keys = append(runs, res.Run), append(keys, res.Stages[0].Key)
	}
	kept := func(what string, r *Roots, want ...int) {
		t.Helper()
		got := []int{}
		for i, k := range keys {
			if r.Keys[k] {
				got = append(got, i)
			}
		}
		equal(t, what, got, want)
	}
	r := findRoots(t, l.store, 2)
	kept("two runs", r, 3, 4)
	equal(t, "runs", r.Runs, 2)
	equal(t, "pipelines", r.Pipelines, 1)
	kept("no runs, but what is up to date", findRoots(t, l.store, 0), 4)

	if err := Pin(l.store, runs[0]); err != nil {
		t.Fatal(err)
	}
	putNote(t, l.store, "baselines/x.json", `{"pipeline":"test","dir":"/","run":"`+runs[1]+`","set":"2026-11-27T00:00:00Z"}`)
	r = findRoots(t, l.store, 0)
	kept("a pin and a baseline", r, 0, 1, 4)
	equal(t, "warnings", r.Warnings, nil)
	equal(t, "pinned and baselines", [2]int{r.Pinned, r.Baselines}, [2]int{1, 1})
	if err := Unpin(l.store, runs[0]); err != nil {
		t.Fatal(err)
	}
	kept("no pin", findRoots(t, l.store, 0), 1, 4)

	// What is damaged or names nothing keeps nothing, and is told of.
	if err := os.Remove(filepath.Join(l.store.Dir(), "runs", runs[1]+".json")); err != nil {
		t.Fatal(err)
	}
	putNote(t, l.store, "baselines/y.json", `{"run":"../runs/`+runs[2]+`"}`)
	putNote(t, l.store, "runs/"+runs[3]+".json", "")
	putNote(t, l.store, "pins/z.json", "")
	r = findRoots(t, l.store, 9)
	kept("damage", r, 0, 2, 4)
	all := strings.Join(r.Warnings, "\n")
	for _, w := range []string{"baselines/x.json keeps nothing: run " + runs[1] + " is not in the store", "is not the name of a run", runs[3] + ".json keeps nothing: it is damaged", "pins/z.json keeps nothing"} {
		if !strings.Contains(all, w) {
			t.Errorf("no warning says %q:\n%s", w, all)
		}
	}
}

// A file that cannot be read might name what is needed.
func TestRootsStopAtWhatTheyCannotRead(t *testing.T) {
	l := newLab(t)
	dir := filepath.Join(l.store.Dir(), "runs")
	if err := os.MkdirAll(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(dir, filepath.Join(dir, "x.json")); err != nil {
		t.Fatal(err)
	}
	if _, err := FindRoots(l.store, 1); err == nil || !strings.Contains(err.Error(), "x.json") {
		t.Errorf("error is %v", err)
	}
}

// A pipeline is collected while it is run again and again: each run completes,
// and what is up to date stays so.
func TestCollectedPipelinesRun(t *testing.T) {
	l := newLab(t)
	l.write("a.txt", "a")
	first := l.must(chain, "docs one side two")
	l.must(strings.Replace(chain, `"1"`, `"changed"`, 1), "one two")
	o := artifact.CollectOptions{Keep: findRoots(t, l.store, 1).Keys, Now: time.Now().Add(48 * time.Hour), Grace: 24 * time.Hour}
	got, err := l.store.Collect(t.Context(), o)
	if err != nil || got.Objects.N == 0 || got.Records.N == 0 {
		t.Fatalf("%+v, %v", got, err)
	}
	l.must(strings.Replace(chain, `"1"`, `"changed"`, 1), "")
	again := l.must(chain, "one two")
	for _, s := range first.Stages {
		equal(t, s.Addr, again.stage(t, s.Addr).Outputs, s.Outputs)
	}
}

// FuzzNotes: whatever lies in the files that say what is needed, they are
// passed over or read, and no name in them leads out of the store.
func FuzzNotes(f *testing.F) {
	for _, s := range []string{`{}`, `{"run":"../../x"}`, `{"pipeline":"p","dir":"/","run":"20261127-000000-aaaaaa","stages":[{"stage":"a","key":"00"}]}`,
		`{"keys":{"a":"0000000000000000000000000000000000000000000000000000000000000001"}}`, `{"started":"never"}`, `[`, ``} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := artifact.OpenStore(t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"runs/20261127-000000-aaaaaa.json", "heads/x.json", "baselines/x.json", "pins/20261127-000000-aaaaaa.json"} {
			putNote(t, s, name, string(b))
		}
		r, err := FindRoots(s, 1)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.Collect(t.Context(), artifact.CollectOptions{Keep: r.Keys}); err != nil {
			t.Error(err)
		}
		rec := artifact.Record{Preimage: json.RawMessage(b)}
		_ = CheckRecord(&rec) // any error is right
		var run struct{ Run string }
		if json.Unmarshal(b, &run) == nil && checkRunName(run.Run) == nil && filepath.Base(run.Run) != run.Run {
			t.Errorf("%q was taken as the name of a run", run.Run)
		}
	})
}
