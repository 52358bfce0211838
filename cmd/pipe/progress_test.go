package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	"pipe/runtime/artifact"
	"pipe/runtime/engine"
)

// A clock is set by hand.
type clock struct{ at time.Time }

func (c *clock) now() time.Time { return c.at }

func newTestObserver(t *testing.T, live bool, o *options) (*observer, *clock, *bytes.Buffer, *bytes.Buffer) {
	t.Helper()
	var out, err bytes.Buffer
	term := &terminal{out: &out, err: &err, live: live, width: 60, height: 24}
	u, e := newObserver(term, o)
	if e != nil {
		t.Fatal(e)
	}
	c := &clock{time.Unix(1000, 0)}
	u.now = c.now
	return u, c, &out, &err
}

func stageEvent(addr string, s engine.State) engine.Event {
	return engine.Event{Type: engine.StageEvent, Addr: addr, Stage: &engine.StageResult{Addr: addr, State: s, Seconds: 1.5}}
}

func TestProgressSaysHowFarHowFastAndHowLong(t *testing.T) {
	start := time.Unix(1000, 0)
	at := func(s float64) time.Time { return start.Add(time.Duration(s * float64(time.Second))) }
	for _, c := range []struct {
		name string
		r    running
		now  float64
		want string
	}{
		{"not counting yet", running{start: start}, 2.5, "2.5 s"},
		{"from the start", running{start: start, since: start, done: 30, total: 90, unit: "steps"}, 10, "30/90 steps, 3/s, 20.0 s left"},
		{"from a checkpoint", running{start: start, since: start, first: 60, done: 70, total: 90, unit: "steps"}, 10, "70/90 steps, 1/s, 20.0 s left"},
		{"nothing new yet", running{start: start, since: start, first: 60, done: 60, total: 90, unit: "steps"}, 10, "60/90 steps"},
		{"no end known", running{start: start, since: start, done: 12345, unit: "tokens"}, 10, "12345 tokens, 1234/s"},
		{"slow and long", running{start: start, since: start, done: 1, total: 1000, unit: "steps"}, 20, "1/1000 steps, 0.05/s, 5 h 33 m left"},
		{"a metric", running{start: start, since: start, done: 5, total: 5, unit: "steps", metric: "loss", value: 2.5}, 10, "5/5 steps, 0.5/s, loss 2.5"},
		{"a download", running{start: start, since: start, done: 1 << 20, total: 3 << 20, unit: "bytes"}, 2, "1.0 MiB/3.0 MiB, 512.0 KiB/s, 4.0 s left"},
		{"waiting", running{start: start, waits: true}, 65, "waits for another stage or run that does the same, 1 m 05 s"},
	} {
		if got := c.r.text(at(c.now)); got != c.want {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
}

func TestPlainProgressSpeaksEveryTenSeconds(t *testing.T) {
	u, c, _, err := newTestObserver(t, false, &options{progress: "auto"})
	u.observe(stageEvent("sft.a", engine.Started))
	for i := range 26 {
		c.at = time.Unix(1000+int64(i), 0)
		u.observe(engine.Event{Type: engine.ProgressEvent, Addr: "sft.a", Done: int64(i), Total: 100, Unit: "steps"})
	}
	u.observe(stageEvent("sft.a", engine.Done))
	want := "sft.a: 11/100 steps, 1/s, 1 m 29 s left\nsft.a: 22/100 steps, 1/s, 1 m 18 s left\n✓ sft.a done in 1.5 s\n"
	if err.String() != want {
		t.Errorf("%q, want %q", err, want)
	}
}

// A stage that counts one thing after another, as eval does its suites, gets a
// new rate for each.
func TestANewCountHasANewRate(t *testing.T) {
	u, c, _, _ := newTestObserver(t, true, &options{progress: "auto"})
	u.observe(stageEvent("eval.a", engine.Started))
	count := func(at, done, total int64, unit string) string {
		c.at = time.Unix(1000+at, 0)
		u.observe(engine.Event{Type: engine.ProgressEvent, Addr: "eval.a", Done: done, Total: total, Unit: unit})
		return u.running["eval.a"].text(c.at)
	}
	for _, s := range []struct {
		at, done, total int64
		unit, want      string
	}{
		{0, 0, 60, "tokens", "0 ms"},
		{100, 60, 60, "tokens", "60/60 tokens, 0.6/s"},
		{100, 0, 372, "tokens", "1 m 40 s"}, // another suite
		{110, 60, 372, "tokens", "60/372 tokens, 6/s, 52.0 s left"},
		{120, 120, 372, "tokens", "120/372 tokens, 6/s, 42.0 s left"},
		{121, 0, 10, "answers", "2 m 01 s"},
		{123, 4, 10, "answers", "4/10 answers, 2/s, 3.0 s left"},
		{124, 2, 10, "answers", "2/10 answers"}, // and again from the start
		{125, 3, 10, "answers", "3/10 answers, 1/s, 7.0 s left"},
	} {
		if got := count(s.at, s.done, s.total, s.unit); got != s.want {
			t.Errorf("after %d s: %q, want %q", s.at, got, s.want)
		}
	}
}

func TestLiveLinesComeAndGo(t *testing.T) {
	u, _, _, err := newTestObserver(t, true, &options{progress: "auto"})
	draw := func() string {
		err.Reset()
		u.draw()
		return err.String()
	}
	u.observe(stageEvent("sft.a", engine.Started))
	u.observe(engine.Event{Type: engine.MetricEvent, Addr: "sft.a", Name: "lo\x1bss", Value: 2})
	u.observe(engine.Event{Type: engine.ProgressEvent, Addr: "sft.a", Done: 5, Total: 9, Unit: strings.Repeat("long ", 20)})
	u.observe(engine.Event{Type: engine.WaitEvent, Addr: "dpo.b"})
	u.observe(engine.Event{Type: engine.ProgressEvent, Addr: "model.m", Done: 1, Total: 2, Unit: "bytes"})
	text := draw()
	lines := strings.Split(text, "\n")
	if len(lines) != 4 || !strings.HasPrefix(lines[0], "  sft.a: 5/9 long") || len([]rune(lines[0])) > 59 ||
		!strings.HasPrefix(lines[1], "  dpo.b: waits for another stage or run") || !strings.HasPrefix(lines[2], "  model.m: 1 B/2 B") {
		t.Errorf("the lines are %q", text)
	}
	if strings.Contains(text, "\x1bs") {
		t.Errorf("an escape reached the terminal: %q", text)
	}
	if again := draw(); !strings.HasPrefix(again, "\x1b[3A\x1b[J") {
		t.Errorf("the old lines were not taken away: %q", again)
	}
	err.Reset()
	u.observe(stageEvent("dpo.b", engine.Cached)) // the other run made it
	u.observe(stageEvent("sft.a", engine.Failed))
	u.observe(engine.Event{Type: engine.ProgressEvent, Addr: "model.m", Done: 2, Total: 2, Unit: "bytes"})
	for _, want := range []string{"✓ dpo.b was made by another stage or run\n", "✗ sft.a failed in 1.5 s\n"} {
		if !strings.Contains(err.String(), want) {
			t.Errorf("%q is not in %q", want, err)
		}
	}
	if text := draw(); strings.Count(text, "\n") != 0 {
		t.Errorf("lines stayed: %q", text)
	}
}

func TestTheLossIsWhatALineShows(t *testing.T) {
	for _, c := range []struct {
		series []string
		want   string
	}{
		{[]string{"loss", "grad_norm", "loss", "grad_norm"}, "loss 3"},
		{[]string{"learning_rate", "loss", "grad_norm"}, "loss 2"},
		{[]string{"reward", "margin", "reward"}, "reward 3"},
	} {
		var r running
		for i, s := range c.series {
			r.measure(s, float64(i+1))
		}
		if got := fmt.Sprintf("%s %g", r.metric, r.value); got != c.want {
			t.Errorf("%v: %s, want %s", c.series, got, c.want)
		}
	}
}

func TestDoneSaysWhatWasMade(t *testing.T) {
	rows := func(n int64) artifact.Object { return artifact.Object{Type: artifact.Dataset, Rows: n} }
	got := tableSizes(&engine.StageResult{Outputs: map[string]artifact.Object{
		"dataset": rows(295), "drops": rows(1), "series": rows(672), "model": {Type: artifact.Model}}})
	if want := " (295 rows, 1 drop)"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	if got := tableSizes(&engine.StageResult{Outputs: map[string]artifact.Object{"": rows(1)}}); got != " (1 row)" {
		t.Errorf("%q", got)
	}
}

func TestLiveLinesThatDoNotFitAreCounted(t *testing.T) {
	var err bytes.Buffer
	term := &terminal{err: &err, live: true, width: 40, height: 5}
	term.show([]string{"one", "two", "three", "four", "five", "six"})
	if got, want := err.String(), "one\ntwo\nthree\n  and 3 more\n"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	err.Reset()
	term.printf("said\n")
	if got, want := err.String(), "\x1b[4A\x1b[Jsaid\none\ntwo\nthree\n  and 3 more\n"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}

// Each event is one JSON object with its type, whatever its numbers are.
func TestEventsAreJSON(t *testing.T) {
	u, _, out, _ := newTestObserver(t, false, &options{progress: "auto", json: true})
	u.observe(engine.Event{Type: engine.MetricEvent, Addr: "sft.a", Name: "loss", Step: 3, Value: math.NaN()})
	u.observe(engine.Event{Type: engine.MetricEvent, Addr: "sft.a", Name: "loss", Step: 4, Value: math.Inf(1)})
	u.observe(engine.Event{Type: engine.ProgressEvent, Addr: "sft.a", Done: 1, Total: 2, Unit: "steps"})
	u.observe(engine.Event{Type: engine.NoteEvent, Addr: "sft.a", Text: "<b> & \u009b \u202e \x7f"})
	u.observe(engine.Event{Type: engine.GateEvent, Addr: "eval.a", Gate: &engine.GateResult{Stage: "eval.a", Name: "g", Message: "no"}})
	u.observe(engine.Event{Type: engine.WaitEvent, Addr: "sft.a"})
	done := stageEvent("sft.a", engine.Done)
	done.Stage.Outputs = map[string]artifact.Object{"model": {}}
	u.observe(done)
	want := []string{
		`{"name":"loss","stage":"sft.a","step":3,"type":"metric","value":"NaN"}`,
		`{"name":"loss","stage":"sft.a","step":4,"type":"metric","value":"+Inf"}`,
		`{"done":1,"stage":"sft.a","total":2,"type":"progress","unit":"steps"}`,
		`{"stage":"sft.a","text":"<b> & \u009b \u202e \u007f","type":"note"}`,
		`{"gate":"g","message":"no","pass":false,"stage":"eval.a","type":"gate"}`,
		`{"stage":"sft.a","type":"wait"}`,
		`{"outputs":{"model":"sha256:` + strings.Repeat("0", 64) + `"},"seconds":1.5,"stage":"sft.a","state":"done","type":"stage"}`,
	}
	got := strings.Split(strings.TrimSuffix(out.String(), "\n"), "\n")
	if len(got) != len(want) {
		t.Fatalf("%d lines, want %d:\n%s", len(got), len(want), out)
	}
	for i := range want {
		if got[i] != want[i] {
			t.Errorf("%s, want %s", got[i], want[i])
		}
		if !json.Valid([]byte(got[i])) {
			t.Errorf("%s is not JSON", got[i])
		}
	}
}

func TestDurationsAndSizesAreForPeople(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0: "0 ms", 999 * time.Millisecond: "999 ms", 12340 * time.Millisecond: "12.3 s",
		59990 * time.Millisecond: "1 m 00 s", 245 * time.Second: "4 m 05 s", 127 * time.Minute: "2 h 07 m",
	} {
		if got := duration(d); got != want {
			t.Errorf("%v is %q, want %q", d, got, want)
		}
	}
	for n, want := range map[int64]string{0: "0 B", 1023: "1023 B", 1536: "1.5 KiB", 5 << 20: "5.0 MiB", 3 << 30: "3.0 GiB"} {
		if got := size(n); got != want {
			t.Errorf("%d is %q, want %q", n, got, want)
		}
	}
}

// Tables with names that a program's author chose are counted in rows.
func TestTableSizes(t *testing.T) {
	table := func(rows int64) artifact.Object { return artifact.Object{Type: artifact.Dataset, Rows: rows} }
	for want, outputs := range map[string]map[string]artifact.Object{
		" (3 rows, 1 drop)":          {"dataset": table(3), "drops": table(1), "metrics": {Type: artifact.Metrics}},
		" (k: 80 rows, kept: 1 row)": {"kept": table(1), "k": table(80)},
		" (2 rejects, 1 row)":        {"rows": table(1), "rejects": table(2)},
		"":                           {"series": table(5)},
	} {
		if got := tableSizes(&engine.StageResult{Outputs: outputs}); got != want {
			t.Errorf("got %q; want %q", got, want)
		}
	}
}
