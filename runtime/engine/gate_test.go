package engine

import (
	"os"
	"strings"
	"testing"
)

const gated = tuned + `
judge "gated" {
  id    = "gated"
  model = model.base
  score = 0.75
  gate "better" {
    condition     = self.metrics["qa.acc"] > baseline.metrics["qa.acc"]
    error_message = "worse than the base"
  }
  gate "good" {
    condition     = self.metrics["qa.acc"] >= 0.9
    error_message = "not good enough"
  }
}
`

func TestGatesAreJudgedInEveryRun(t *testing.T) {
	l := newLab(t)
	l.write("weights", "w")
	want := []GateResult{
		{Stage: "judge.gated", Name: "better", Pass: true, Values: "qa.acc 0.75 > baseline 0.5"},
		{Stage: "judge.gated", Name: "good", Message: "not good enough", Values: "qa.acc 0.75 < 0.9"},
	}
	for _, ran := range []string{"adapter again gated judge", ""} {
		l.events = nil
		res := l.must(gated, ran)
		equal(t, "gates", res.Gates, want)
		if res.GatesPassed() {
			t.Error("GatesPassed")
		}
		seen := 0
		for _, e := range l.events {
			if e.Type == GateEvent {
				equal(t, "event", *e.Gate, want[seen])
				seen++
			}
		}
		equal(t, "events", seen, 2)
	}
	// A threshold is no part of the key.
	if res := l.must(strings.Replace(gated, ">= 0.9", ">= 0.7", 1), ""); !res.GatesPassed() {
		t.Errorf("gates are %+v", res.Gates)
	}
}

func TestGateWithoutItsMetricFails(t *testing.T) {
	l := newLab(t)
	l.write("weights", "w")
	res := l.must(strings.Replace(gated, `self.metrics["qa.acc"] >=`, `self.metrics["qa.f1"] >=`, 1), "adapter again gated judge")
	g := res.Gates[1]
	if g.Pass || !strings.Contains(g.Message, `no metric "qa.f1"`) || !g.Diags.HasErrors() {
		t.Errorf("%+v", g)
	}
}

// baseline is the pinned run of the same stage, and base always the base model.
func TestGatesJudgeAgainstThePinnedRun(t *testing.T) {
	l := newLab(t)
	l.write("weights", "w")
	src := strings.Replace(gated, `self.metrics["qa.acc"] >= 0.9`, `self.metrics["qa.acc"] > base.metrics["qa.acc"]`, 1)
	src = strings.Replace(src, "score = 0.75\n  gate", "score = 0.8\n  gate", 1)
	first := l.must(src, "adapter again gated judge")
	run, err := FindRunOf(l.store, l.load(src), first.Run[len(first.Run)-6:])
	if err != nil {
		t.Fatal(err)
	}
	if err := SetBaseline(l.store, l.load(src), run); err != nil {
		t.Fatal(err)
	}
	worse := strings.Replace(src, "score = 0.8\n", "score = 0.7\n", 1)
	res := l.must(worse, "gated")
	equal(t, "gates", res.Gates, []GateResult{
		{Stage: "judge.gated", Name: "better", Message: "worse than the base", Values: "qa.acc 0.7 <= baseline 0.8", Baseline: first.Run},
		{Stage: "judge.gated", Name: "good", Pass: true, Values: "qa.acc 0.7 > base 0.5"},
	})
	// A stage that the pinned run does not have is judged against the base model, and says so.
	res = l.must(strings.Replace(worse, `judge "gated"`, `judge "renamed"`, 1), "")
	if g := res.Gates[0]; !g.Pass || !strings.Contains(g.Note, "has no judge.renamed") {
		t.Errorf("%+v", g)
	}
	// A baseline whose metrics are lost passes nothing.
	d := run.Outputs()["judge.gated"]["metrics"].Digest
	if err := os.RemoveAll(l.store.ObjectDir(d)); err != nil {
		t.Fatal(err)
	}
	res = l.must(worse, "")
	if g := res.Gates[0]; g.Pass || !strings.Contains(g.Message, "pin another run") {
		t.Errorf("%+v", g)
	}
	if err := SetBaseline(l.store, l.load(src), run); err == nil {
		t.Error("a run without its metrics was pinned")
	}
	if was, err := ClearBaseline(l.store, l.load(src)); !was || err != nil {
		t.Error(was, err)
	}
	equal(t, "gate", l.must(worse, "").Gates[0].Values, "qa.acc 0.7 > baseline 0.5")
}

// With nothing to be judged against, a gate passes and says that it was not
// judged; with a pinned run that lacks the metric it fails and says what to do.
func TestGateWithoutABaseline(t *testing.T) {
	l := newLab(t)
	l.write("weights", "w")
	src := strings.Replace(gated, `  score = 0.75
  gate "better"`, `  score = 0.75
  alone = true
  gate "better"`, 1)
	res := l.must(src, "adapter again gated judge")
	if g := res.Gates[0]; !g.Pass || g.Values != "" || !strings.Contains(g.Note, "not judged") {
		t.Errorf("%+v", g)
	}
	run, err := FindRunOf(l.store, l.load(src), "last")
	if err == nil {
		err = SetBaseline(l.store, l.load(src), run)
	}
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "values", l.must(src, "").Gates[0].Values, "qa.acc 0.75 <= baseline 0.75")
	res = l.must(strings.Replace(src, `baseline.metrics["qa.acc"]`, `baseline.metrics["qa.f1"]`, 1), "")
	if g := res.Gates[0]; g.Pass || !strings.Contains(g.Note, "pins a newer one") {
		t.Errorf("%+v", g)
	}
}

func TestRunsAreFoundByPartOfTheirName(t *testing.T) {
	l := newLab(t)
	prog := l.load(chainless)
	if _, err := FindRunOf(l.store, prog, ""); err == nil {
		t.Error("a run was found in an empty store")
	}
	a, b := l.must(chainless, "a"), l.must(chainless, "")
	for name, want := range map[string]string{"": b.Run, "last": b.Run, a.Run: a.Run, a.Run[16:]: a.Run} {
		f, err := FindRunOf(l.store, prog, name)
		if err != nil || f.Run != want {
			t.Errorf("%q: %v, %v", name, f, err)
		}
	}
	for _, name := range []string{a.Run[:4], "nothing", "baseline", "../x"} {
		if f, err := FindRunOf(l.store, prog, name); err == nil {
			t.Errorf("%q is run %s", name, f.Run)
		}
	}
	other := l.load("pipeline \"other\" {}\n" + chainless)
	if f, err := FindRunOf(l.store, other, a.Run); err == nil {
		t.Errorf("another pipeline has run %s", f.Run)
	}
	// A damaged note is no run.
	l.write("store/runs/"+b.Run+".json", "{")
	if f, err := FindRunOf(l.store, prog, ""); err != nil || f.Run != a.Run {
		t.Errorf("%v, %v", f, err)
	}
	if err := SetBaseline(l.store, prog, &RunFile{Result: *a}); err == nil {
		t.Error("a run without metrics was pinned")
	}
}

const chainless = `step "a" { id = "a" }`
