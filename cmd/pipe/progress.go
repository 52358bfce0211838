package main

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"sync"
	"time"

	"pipe/runtime/artifact"
	"pipe/runtime/engine"
)

// An observer shows a run while it happens: to people as live or plain lines,
// to programs as JSON lines.
type observer struct {
	t    *terminal
	mode string       // for people: "live", "plain" or "none"
	json *lineEncoder // for programs; nil for none
	now  func() time.Time

	mu      sync.Mutex
	running map[string]*running
	order   []string // addresses of running, in the order they started
	stop    chan struct{}
	stopped sync.WaitGroup
}

// running is a stage, or a download, on its way.
type running struct {
	start       time.Time
	said        time.Time // plain: when it last said how far it is
	done, total int64
	unit        string
	metric      string // the series that its line shows
	value       float64
	waits       bool // for another run

	// Where it began to count: a stage that goes on from a checkpoint starts
	// in the middle.
	first int64
	since time.Time
}

const (
	liveEvery  = 200 * time.Millisecond
	plainEvery = 10 * time.Second // how often a plain line says how far a stage is
)

func newObserver(t *terminal, o *options) (*observer, error) {
	u := &observer{t: t, mode: o.progress, now: time.Now, running: map[string]*running{}, stop: make(chan struct{})}
	if o.json {
		u.json = jsonLines(t.out)
	}
	switch {
	case u.mode == "auto" && o.json:
		u.mode = "none"
	case u.mode == "auto" && t.live:
		u.mode = "live"
	case u.mode == "auto":
		u.mode = "plain"
	case u.mode == "json":
		u.mode = "none"
		if u.json == nil { // standard output is for results
			u.json = jsonLines(t.err)
		}
	case u.mode != "plain" && u.mode != "none":
		return nil, fmt.Errorf("--progress %s: use auto, plain, json or none", o.progress)
	}
	return u, nil
}

func (u *observer) begin() {
	if u.mode != "live" {
		return
	}
	u.stopped.Go(func() {
		tick := time.NewTicker(liveEvery)
		defer tick.Stop()
		for {
			select {
			case <-u.stop:
				return
			case <-tick.C:
				u.mu.Lock()
				u.draw()
				u.mu.Unlock()
			}
		}
	})
}

func (u *observer) end() {
	close(u.stop)
	u.stopped.Wait()
	if u.mode == "live" {
		u.t.show(nil)
	}
}

// draw puts the live lines on the screen. It needs u.mu.
func (u *observer) draw() {
	lines := make([]string, len(u.order))
	for i, addr := range u.order {
		lines[i] = clean("  " + addr + ": " + u.running[addr].text(u.now()))
	}
	u.t.show(lines)
}

// observe is the engine's Observer.
func (u *observer) observe(e engine.Event) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.json != nil {
		u.json.Encode(jsonEvent(e))
	}
	if u.mode == "none" {
		return
	}
	switch e.Type {
	case engine.StageEvent:
		u.stage(e)
	case engine.WaitEvent:
		u.add(e.Addr).waits = true
		if u.mode == "plain" {
			u.t.printf("%s waits for another stage or run that does the same\n", e.Addr)
		}
	case engine.ProgressEvent:
		u.progress(e)
	case engine.MetricEvent:
		if r := u.running[e.Addr]; r != nil && !math.IsNaN(e.Value) {
			r.measure(e.Name, e.Value)
		}
	}
}

func (u *observer) add(addr string) *running {
	now := u.now()
	r := &running{start: now, said: now}
	u.running[addr] = r
	u.order = append(u.order, addr)
	return r
}

func (u *observer) remove(addr string) {
	delete(u.running, addr)
	if i := slices.Index(u.order, addr); i >= 0 {
		u.order = slices.Delete(u.order, i, i+1)
	}
}

func (u *observer) stage(e engine.Event) {
	switch e.Stage.State {
	case engine.Started:
		u.remove(e.Addr) // it may have waited
		u.add(e.Addr)
	case engine.Cached:
		if u.running[e.Addr] == nil {
			return
		}
		u.remove(e.Addr)
		if u.mode == "live" {
			u.draw()
		}
		u.t.printf("%s %s was made by another stage or run\n", u.t.errInk.paint(green, "✓"), e.Addr)
	case engine.Done, engine.Failed, engine.Cancelled:
		u.remove(e.Addr)
		mark, word := u.t.errInk.paint(green, "✓"), "done"
		if e.Stage.State != engine.Done {
			mark, word = u.t.errInk.paint(red, "✗"), string(e.Stage.State)
		}
		took := time.Duration(e.Stage.Seconds * float64(time.Second))
		if u.mode == "live" {
			u.draw()
		}
		u.t.printf("%s %s %s in %s%s\n", mark, e.Addr, word, duration(took), tableSizes(e.Stage))
	}
}

func (u *observer) progress(e engine.Event) {
	r := u.running[e.Addr]
	if r == nil { // a model block: it tells of its download and never starts
		r = u.add(e.Addr)
	}
	now := u.now()
	if r.since.IsZero() || e.Done < r.done || e.Total != r.total || e.Unit != r.unit {
		r.first, r.since = e.Done, now // it counts something, or something else
	}
	r.done, r.total, r.unit = e.Done, e.Total, e.Unit
	if u.mode == "plain" && now.Sub(r.start) > plainEvery && now.Sub(r.said) > plainEvery {
		r.said = now
		u.t.printf("%s: %s\n", e.Addr, r.text(now))
	}
	if e.Unit == "bytes" && e.Done == e.Total {
		u.remove(e.Addr)
	}
}

// tableSizes lists the sizes of the tables that a stage made.
func tableSizes(s *engine.StageResult) string {
	var parts []string
	for _, name := range sortedKeys(s.Outputs) {
		if o := s.Outputs[name]; o.Type == artifact.Dataset {
			switch name {
			case "series": // of no interest to people by its length
			case "", "rows", "dataset":
				parts = append(parts, counted(o.Rows, "row"))
			case "drops", "rejects", "items":
				parts = append(parts, counted(o.Rows, strings.TrimSuffix(name, "s")))
			default: // a name that a program's author chose
				parts = append(parts, clean(name)+": "+counted(o.Rows, "row"))
			}
		}
	}
	if len(parts) == 0 {
		return ""
	}
	return " (" + strings.Join(parts, ", ") + ")"
}

// measure keeps a value to show: of the loss, else of the first series there is.
func (r *running) measure(series string, v float64) {
	if series == "loss" || r.metric == "" {
		r.metric = series
	}
	if series == r.metric {
		r.value = v
	}
}

// text says how far the stage is, how fast, and when it will be done.
func (r *running) text(now time.Time) string {
	if r.waits {
		return "waits for another stage or run that does the same, " + duration(now.Sub(r.start))
	}
	if r.since.IsZero() || r.done == 0 {
		return duration(now.Sub(r.start))
	}
	count := func(n int64) string { return fmt.Sprint(n) }
	unit, speed := " "+r.unit, perSecond
	if r.unit == "bytes" {
		unit, count = "", size
		speed = func(v float64) string { return size(int64(v)) + "/s" }
	}
	s := count(r.done)
	if r.total > 0 {
		s += "/" + count(r.total)
	}
	s += unit
	if took := now.Sub(r.since).Seconds(); took > 0 && r.done > r.first {
		rate := float64(r.done-r.first) / took
		s += ", " + speed(rate)
		if r.total > r.done {
			s += ", " + duration(time.Duration(float64(r.total-r.done)/rate*float64(time.Second))) + " left"
		}
	}
	if r.metric != "" {
		s += fmt.Sprintf(", %s %.4g", r.metric, r.value)
	}
	return s
}

// perSecond prints a rate with three digits, or all that stand before the point.
func perSecond(v float64) string {
	if v >= 1000 {
		return fmt.Sprintf("%.0f/s", v)
	}
	return fmt.Sprintf("%.3g/s", v)
}

// jsonEvent is the event as programs read it: an object with a type.
func jsonEvent(e engine.Event) any {
	type line = map[string]any
	switch e.Type {
	case engine.StageEvent:
		digests := map[string]string{}
		for name, o := range e.Stage.Outputs {
			digests[name] = o.Digest.String()
		}
		l := line{"type": "stage", "stage": e.Addr, "state": e.Stage.State, "seconds": e.Stage.Seconds, "outputs": digests}
		if e.Stage.Key != (artifact.Key{}) {
			l["key"] = e.Stage.Key.String()
		}
		if e.Stage.Spent != nil {
			l["spent"] = e.Stage.Spent
		}
		for name, s := range map[string]string{"reason": e.Stage.Reason, "error": e.Stage.Error, "blame": e.Stage.Blame} {
			if s != "" {
				l[name] = s
			}
		}
		return l
	case engine.MetricEvent:
		l := line{"type": "metric", "stage": e.Addr, "name": e.Name, "step": e.Step, "value": e.Value}
		if math.IsNaN(e.Value) || math.IsInf(e.Value, 0) {
			l["value"] = fmt.Sprint(e.Value) // JSON has no such numbers
		}
		return l
	case engine.ProgressEvent:
		return line{"type": "progress", "stage": e.Addr, "done": e.Done, "total": e.Total, "unit": e.Unit}
	case engine.NoteEvent:
		return line{"type": "note", "stage": e.Addr, "text": e.Text}
	case engine.GateEvent:
		l := line{"type": "gate", "stage": e.Gate.Stage, "gate": e.Gate.Name, "pass": e.Gate.Pass}
		for name, s := range map[string]string{"message": e.Gate.Message, "values": e.Gate.Values, "baseline": e.Gate.Baseline, "note": e.Gate.Note} {
			if s != "" {
				l[name] = s
			}
		}
		return l
	}
	return line{"type": string(e.Type), "stage": e.Addr}
}
