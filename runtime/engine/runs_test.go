package engine

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"pipe/runtime/artifact"
)

func TestFindRun(t *testing.T) {
	l := newLab(t)
	l.write("a.txt", "a")
	if _, err := FindRun(l.store, "last", "", ""); err == nil {
		t.Error("an empty store has a last run")
	}
	first, second := l.must(chain, "docs one side two"), l.must(chain, "")
	find := func(name, dir, want string) {
		t.Helper()
		if r, err := FindRun(l.store, name, dir, ""); err != nil || r.Run != want {
			t.Errorf("%s is %+v, %v, want %s", name, r, err, want)
		}
	}
	find("last", "", second.Run)
	find("last", l.dir, second.Run)
	find("last~1", "", first.Run)
	find(first.Run, "", first.Run)
	find(first.Run[:len(first.Run)-1], "", first.Run)
	for name, want := range map[string]string{"last~2": "has only 2 runs", "last~-1": "write last", "lastly": "write last", "nope": "no run", "2": "means 2 runs"} {
		_, err := FindRun(l.store, name, "", "")
		contains(t, name, err, want)
	}
	_, err := FindRun(l.store, "last", "/elsewhere", "")
	contains(t, "another directory", err, "directory /elsewhere has no run yet")
	_, err = FindRun(l.store, "last", l.dir, "other")
	contains(t, "another pipeline", err, `pipeline "other" has no run yet`)
	_, err = FindRun(l.store, "last~9", l.dir, "")
	contains(t, "too far back", err, "directory "+l.dir+" has only 2 runs")
	_, err = FindRunOf(l.store, l.load("pipeline \"other\" {}\n"+chain), first.Run)
	contains(t, "a run of another pipeline", err, `pipeline "other" has no run "`+first.Run)

	// Notes that are damaged, or lead elsewhere, are passed over or refused.
	for _, name := range []string{"../a", "", "a/b", "none"} {
		if _, err := ReadRun(l.store, name); err == nil {
			t.Errorf("run %q was read", name)
		}
	}
	bad := filepath.Join(l.store.Dir(), "runs", "29990101-000000-x.json")
	for _, text := range []string{"{", `{"run":"other"}`, `{"run":"29990101-000000-x","stages":[{"key":"zz"}]}`} {
		if err := os.WriteFile(bad, []byte(text), 0o666); err != nil {
			t.Fatal(err)
		}
		if _, err := ReadRun(l.store, "29990101-000000-x"); err == nil {
			t.Errorf("%s was read", text)
		}
		find("last", "", second.Run)
	}
	l.plan(chain)
}

func TestDiffRows(t *testing.T) {
	l := newLab(t)
	store := func(rows ...artifact.Row) artifact.Digest {
		w, err := l.store.Create(artifact.Dataset)
		if err == nil {
			err = artifact.Append(w, rows...)
		}
		if err != nil {
			t.Fatal(err)
		}
		o, err := w.Commit()
		if err != nil {
			t.Fatal(err)
		}
		return o.Digest
	}
	row := func(id, text string) artifact.Row { return artifact.Row{ID: id, Text: text, Source: "f:" + id} }
	a := store(row("1", "a"), row("2", "b"), row("3", "b"), row("4", "d"))
	for want, rows := range map[string][]artifact.Row{
		"the same rows":                   {row("1", "a"), row("2", "b"), row("3", "b"), row("4", "d")},
		"1 of 4 rows changed":             {row("1", "a"), row("2", "x"), row("3", "b"), row("4", "d")},
		"1 row more":                      {row("0", "new"), row("1", "a"), row("2", "b"), row("3", "b"), row("4", "d")},
		"2 rows fewer":                    {row("1", "a"), row("4", "d")},
		"1 row fewer":                     {row("1", "a"), row("2", "b"), row("3", "d")}, // lines moved up: the ids tell nothing
		"1 of 4 rows changed, 1 row more": {row("1", "A"), row("2", "b"), row("3", "b"), row("4", "d"), row("5", "e")},
		"2 rows more, 4 rows fewer":       {row("8", "y"), row("9", "z")},
		"4 rows fewer":                    nil,
		"the same rows in another order, or with other ids": {row("4", "d"), row("1", "a"), row("2", "b"), row("3", "b")},
	} {
		d, err := DiffRows(l.store, a, store(rows...), 1)
		if err != nil || d.String() != want {
			t.Errorf("got %q, %v, want %q", d, err, want)
		}
		for _, sign := range []string{"+", "-", "~"} {
			n := 0
			for _, s := range d.Samples {
				if s.Sign == sign {
					n++
				}
			}
			if n > 1 {
				t.Errorf("%s: %d samples of %q", want, n, sign)
			}
		}
	}
	if _, err := DiffRows(l.store, a, artifact.Digest{1}, 0); err == nil {
		t.Error("a dataset that is gone was compared")
	}
}

func TestExcerpts(t *testing.T) {
	long := strings.Repeat("word ", 40)
	for _, c := range [][4]string{
		{"a", "b", "a", "b"},
		{"", long, "", "word word word word word word word word word word word word word … ord word word word word word word word word word word word word "},
		{long + "one" + long, long + "two" + long, "…word word word word oneword word word word word…", "…word word word word twoword word word word word…"},
		{long + "ä", long + "ö", "…word word word word ä", "…word word word word ö"},
	} {
		a, b := excerpts(c[0], c[1])
		if c[0] == "" {
			if a != "" || len(b) > 150 || !strings.Contains(b, " … ") {
				t.Errorf("got %q, %q", a, b)
			}
			continue
		}
		if a != c[2] || b != c[3] {
			t.Errorf("got %q and %q, want %q and %q", a, b, c[2], c[3])
		}
	}
}

// TestCompareRunsOfOneAction: a stage that made something else of the same.
func TestCompareRunsOfOneAction(t *testing.T) {
	l := newLab(t)
	run := func(d byte) *RunFile {
		s := StageResult{Addr: "step.a", Kind: "step", State: Done, Key: artifact.Key{1}, Outputs: map[string]artifact.Object{"out": {Type: artifact.File, Digest: artifact.Digest{d}}}}
		return &RunFile{Result: Result{Stages: []StageResult{s}}}
	}
	if d := CompareRuns(l.store, nil, run(1), run(1), 1); len(d.Stages) != 0 {
		t.Errorf("the same: %+v", d.Stages)
	}
	d := CompareRuns(l.store, nil, run(1), run(2), 1)
	if len(d.Stages) != 1 || !strings.Contains(strings.Join(d.Stages[0].Changes, ""), "not deterministic") {
		t.Errorf("another result: %+v", d.Stages)
	}
}
