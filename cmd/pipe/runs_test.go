package main

import (
	"testing"
	"time"

	"pipe/runtime/engine"
)

// Times are noted in UTC, and told as clocks here show them.
func TestMomentsAreLocal(t *testing.T) {
	was := time.Local
	time.Local = time.FixedZone("there", -5*3600)
	defer func() { time.Local = was }()
	if got := moment(time.Date(2026, 11, 28, 2, 30, 0, 0, time.UTC)); got != "2026-11-27 21:30:00" {
		t.Error(got)
	}
}

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
	if got, want := verdicts(&r), "step.a failed, step.b failed, gate g of score.s failed and 39 more"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}
