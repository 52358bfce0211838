package stages

import (
	"context"
	"strings"
	"testing"

	"pipe/model/memory"
	"pipe/runtime/engine"
)

// TestForecast: a plan knows which rows the journal answers, and the memory that
// training and evaluation then say they need.
func TestForecast(t *testing.T) {
	calls := 0
	k := newKitchen(t)
	recipe := strings.Replace(rerunRecipe, "ENDPOINT", lecture(t, &calls).URL, 1)
	forecast := func(src string) map[string]engine.Step {
		t.Helper()
		was := calls
		steps, err := engine.Forecast(context.Background(), k.load(src), k.o)
		if err != nil {
			t.Fatal(err)
		}
		if calls != was {
			t.Fatalf("a forecast asked the teacher %d times", calls-was)
		}
		m := map[string]engine.Step{}
		for _, s := range steps {
			m[s.Addr] = s
		}
		return m
	}
	if e := forecast(recipe)["synth.cot"].Estimate; e.Rows != 0 || e.Memory != 0 { // its documents are not known
		t.Errorf("before any run: %+v", e)
	}
	res, err := engine.Run(context.Background(), k.load(recipe), k.o)
	if err != nil {
		t.Fatal(err)
	}
	more := strings.Replace(recipe, "count     = 3", "count     = 5", 1)
	got := forecast(more)
	if e := got["synth.cot"].Estimate; e.Rows != 5 || e.Recorded != 3 || !strings.HasSuffix(e.Basis, ", scaled by 1.67") {
		t.Errorf("two rows more: %+v", e)
	}
	if e := forecast(strings.Replace(recipe, "count     = 3", "count     = 2", 1))["synth.cot"].Estimate; e.Rows != 2 || e.Recorded != 2 {
		t.Errorf("one row less: %+v", e)
	}
	for _, s := range res.Stages {
		for _, note := range s.Notes {
			rest, ok := strings.CutPrefix(note, "needs ")
			if !ok {
				continue
			}
			if e := got[s.Addr].Estimate; !strings.HasPrefix(rest, memory.Size(e.Memory)+" of memory: "+e.MemoryFor) {
				t.Errorf("%s %s, and its plan was %s: %s", s.Addr, note, memory.Size(e.Memory), e.MemoryFor)
			}
			delete(got, s.Addr)
		}
	}
	if _, left := got["sft.tuned"]; left {
		t.Error("sft noted no need of memory")
	}
	if _, left := got["eval.final"]; left {
		t.Error("eval noted no need of memory")
	}
	if e := forecast(strings.Replace(recipe, "max_steps  = 2", "max_steps  = 6", 1))["sft.tuned"].Estimate; !strings.HasSuffix(e.Basis, ", scaled by 3") {
		t.Errorf("three times the steps: %+v", e)
	}
}
