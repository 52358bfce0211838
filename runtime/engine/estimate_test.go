package engine

import (
	"context"
	"encoding/json"
	"math"
	"strings"
	"testing"

	"pipe/runtime/artifact"
)

func (l *lab) forecast(src string) map[string]Step {
	l.t.Helper()
	steps, err := Forecast(context.Background(), l.load(src), l.options())
	if err != nil {
		l.t.Fatal(err)
	}
	if ran := l.taken(); len(ran) > 0 {
		l.t.Errorf("a forecast ran %q", ran)
	}
	m := map[string]Step{}
	for _, s := range steps {
		m[s.Addr] = s
	}
	return m
}

// rewrite changes the record of a stage.
func (l *lab) rewrite(k artifact.Key, change func(*artifact.Record)) {
	l.t.Helper()
	rec, err := l.store.Record(k)
	if err != nil {
		l.t.Fatal(err)
	}
	change(rec)
	if err := l.store.PutRecord(rec); err != nil {
		l.t.Fatal(err)
	}
}

// TestEstimates: from the last run of a stage, else from one of its kind, both
// by the rows of their inputs.
func TestEstimates(t *testing.T) {
	l := newLab(t)
	l.write("a.txt", "a")
	l.write("b.txt", "b")
	for _, s := range l.forecast(chain) {
		if s.Estimate == nil || *s.Estimate != (Estimate{Basis: noEarlierRun}) {
			t.Errorf("before any run %s takes %+v", s.Addr, s.Estimate)
		}
	}
	res := l.must(chain, "docs one side two")
	key := res.stage(t, "step.one").Key
	l.rewrite(key, func(r *artifact.Record) {
		r.Seconds = 10
		r.Spent = &artifact.Spent{Calls: 30, InputTokens: 3000, OutputTokens: 300, USD: 0.6, Replayed: 10, ReplayedInputTokens: 1000, ReplayedOutputTokens: 100}
	})
	got := l.forecast(chain)["step.one"]
	if got.Saved == nil || *got.Saved != (Savings{Seconds: 10, Calls: 40, USD: 0.6}) || got.Estimate != nil {
		t.Errorf("up to date: %+v, %+v", got.Saved, got.Estimate)
	}

	changed := strings.Replace(chain, `text = "1"`, `text = "x"`, 1)
	e := l.forecast(changed)["step.one"].Estimate
	if e.Seconds != 10 || e.Calls != 40 || e.InputTokens != 4000 || e.OutputTokens != 400 || math.Abs(e.USD-0.8) > 1e-12 || e.Disk == 0 || e.Basis != "run "+res.Run {
		t.Errorf("another text: %+v", e)
	}

	// Twice the rows, and another address.
	l.write("c.txt", "c")
	l.write("d.txt", "d")
	res = l.must(chain, "docs one two") // the files have another content as well
	l.rewrite(res.stage(t, "step.one").Key, func(r *artifact.Record) { r.Seconds = 20 })
	l.rewrite(res.stage(t, "step.two").Key, func(r *artifact.Record) { r.Seconds = 6 })
	other := chain + "step \"new\" {\n  id = \"new\"\n  text = \"n\"\n  from = [data.docs, step.one.out]\n}\n"
	e = l.forecast(other)["step.new"].Estimate
	if want := "run " + res.Run + " of step.one, scaled by 1.25"; e.Basis != want || e.Seconds != 25 {
		t.Errorf("one of the kind: %+v, want 25 s of %q", e, want)
	}

	// What a record says is not trusted.
	l.rewrite(res.stage(t, "step.one").Key, func(r *artifact.Record) { r.Preimage = json.RawMessage(`{"spec":[1]}`) })
	if e := l.forecast(other)["step.new"].Estimate; e.Basis != "run "+res.Run+" of step.one" || e.Seconds != 20 {
		t.Errorf("a damaged pre-image: %+v", e)
	}
}
