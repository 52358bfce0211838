package engine

import (
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
		{Stage: "judge.gated", Name: "better", Pass: true},
		{Stage: "judge.gated", Name: "good", Message: "not good enough"},
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
