package main

import (
	"testing"

	"pipe/runtime/engine"
)

// A sweep of which every member fails takes one line of the list of runs.
func TestVerdictsAreFew(t *testing.T) {
	var r engine.RunFile
	for _, name := range []string{"a", "b"} {
		r.Stages = append(r.Stages, engine.StageResult{Addr: "step." + name, State: engine.Failed})
	}
	if got, want := verdicts(&r), "step.a failed, step.b failed"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	for range 40 {
		r.Gates = append(r.Gates, engine.GateResult{Name: "g", Stage: "score.s"})
	}
	if got, want := verdicts(&r), "step.a failed, step.b failed, gate g of score.s failed, and 39 more"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}
