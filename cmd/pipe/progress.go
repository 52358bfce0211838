package main

import (
	"encoding/json"
	"fmt"
	"math"
	"strings"
	"sync"
	"time"

	"pipe/runtime/engine"
	"pipe/runtime/lang"
)

// An observer shows a run while it happens: as live lines, plain lines, JSON
// lines, or not at all.
type observer struct {
	t    *terminal
	mode string // "live", "plain", "json", "none"

	mu      sync.Mutex
	running map[string]*running
	order   []string
	drawn   int // live lines on the screen
	stop    chan struct{}
	stopped sync.WaitGroup
}

// running is a stage on its way.
type running struct {
	start       time.Time
	done, total int64
	unit        string
	metric      string
	said        time.Time // plain: when it last said how far it is
}

// plainEvery is how often a plain line says how far a stage is.
const plainEvery = 10 * time.Second

func newObserver(t *terminal, o *options) (*observer, error) {
	mode := o.progress
	switch mode {
	case "auto":
		if mode = "plain"; t.live {
			mode = "live"
		}
		if o.json {
			mode = "json"
		}
	case "plain", "none", "json":
	default:
		return nil, fmt.Errorf("--progress %s: use auto, plain, json or none", mode)
	}
	return &observer{t: t, mode: mode, running: map[string]*running{}, stop: make(chan struct{})}, nil
}

func (u *observer) begin(*lang.Program) {
	if u.mode != "live" {
		return
	}
	u.stopped.Add(1)
	go func() {
		defer u.stopped.Done()
		tick := time.NewTicker(200 * time.Millisecond)
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
	}()
}

func (u *observer) end() {
	close(u.stop)
	u.stopped.Wait()
	u.mu.Lock()
	u.erase()
	u.mu.Unlock()
}

// observe is the engine's Observer.
func (u *observer) observe(e engine.Event) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.mode == "json" {
		u.json(e)
		return
	}
	switch e.Type {
	case engine.StageEvent:
		u.stage(e)
	case engine.ProgressEvent:
		if r := u.running[e.Addr]; r != nil {
			r.done, r.total, r.unit = e.Done, e.Total, e.Unit
			if now := time.Now(); u.mode == "plain" && now.Sub(r.start) > plainEvery && now.Sub(r.said) > plainEvery {
				r.said = now
				u.t.printf("%s: %s\n", e.Addr, r.String())
			}
		}
	case engine.MetricEvent:
		if r := u.running[e.Addr]; r != nil && !math.IsNaN(e.Value) {
			r.metric = fmt.Sprintf("%s %.4g", e.Name, e.Value)
		}
	}
}

func (u *observer) stage(e engine.Event) {
	switch e.Stage.State {
	case engine.Started:
		now := time.Now()
		u.running[e.Addr] = &running{start: now, said: now}
		u.order = append(u.order, e.Addr)
	case engine.Done, engine.Failed, engine.Cancelled:
		delete(u.running, e.Addr)
		for i, a := range u.order {
			if a == e.Addr {
				u.order = append(u.order[:i], u.order[i+1:]...)
				break
			}
		}
		if u.mode == "none" {
			return
		}
		mark, word := u.t.paint(green, "✓"), "done"
		if e.Stage.State != engine.Done {
			mark, word = u.t.paint(red, "✗"), string(e.Stage.State)
		}
		u.erase()
		u.t.printf("%s %s %s in %s%s\n", mark, e.Addr, word, duration(time.Duration(e.Stage.Seconds*float64(time.Second))), rows(e.Stage))
		u.draw()
	}
}

// rows lists the sizes of the tables a stage made.
func rows(s *engine.StageResult) string {
	var parts []string
	for _, name := range sortedKeys(s.Outputs) {
		if o := s.Outputs[name]; o.Type == "dataset" {
			if name == "" {
				name = "rows"
			}
			parts = append(parts, fmt.Sprintf("%s %d", name, o.Rows))
		}
	}
	if len(parts) == 0 {
		return ""
	}
	return " (" + strings.Join(parts, ", ") + ")"
}

// String says how far the stage is, how fast, and when it will be done.
func (r *running) String() string {
	took := time.Since(r.start)
	if r.done == 0 {
		return duration(took)
	}
	rate := float64(r.done) / took.Seconds()
	s := fmt.Sprintf("%d %s, %.3g/s", r.done, r.unit, rate)
	if r.total > 0 {
		eta := time.Duration(float64(r.total-r.done) / rate * float64(time.Second))
		s = fmt.Sprintf("%d/%d %s, %.3g/s, %s left", r.done, r.total, r.unit, rate, duration(eta))
	}
	if r.metric != "" {
		s += ", " + r.metric
	}
	return s
}

// erase removes the live lines, draw writes them. Both need u.mu.
func (u *observer) erase() {
	if u.drawn > 0 {
		u.t.printf("\x1b[%dA\x1b[J", u.drawn)
		u.drawn = 0
	}
}

func (u *observer) draw() {
	if u.mode != "live" {
		return
	}
	u.erase()
	for _, addr := range u.order {
		line := []rune("  " + addr + ": " + u.running[addr].String())
		if len(line) > u.t.width-1 {
			line = line[:u.t.width-1]
		}
		u.t.printf("%s\n", string(line))
		u.drawn++
	}
}

// json prints the event as one line on standard output.
func (u *observer) json(e engine.Event) {
	var line any
	switch e.Type {
	case engine.StageEvent:
		digests := map[string]string{}
		for name, o := range e.Stage.Outputs {
			digests[name] = o.Digest.String()
		}
		line = map[string]any{"type": "stage", "stage": e.Addr, "state": e.Stage.State, "key": e.Stage.Key.String(), "seconds": e.Stage.Seconds, "outputs": digests, "reason": e.Stage.Reason, "error": e.Stage.Error}
	case engine.MetricEvent:
		if math.IsNaN(e.Value) || math.IsInf(e.Value, 0) {
			line = map[string]any{"type": "metric", "stage": e.Addr, "name": e.Name, "step": e.Step, "value": fmt.Sprint(e.Value)}
			break
		}
		line = map[string]any{"type": "metric", "stage": e.Addr, "name": e.Name, "step": e.Step, "value": e.Value}
	case engine.ProgressEvent:
		line = map[string]any{"type": "progress", "stage": e.Addr, "done": e.Done, "total": e.Total, "unit": e.Unit}
	case engine.NoteEvent:
		line = map[string]any{"type": "note", "stage": e.Addr, "text": e.Text}
	case engine.GateEvent:
		line = map[string]any{"type": "gate", "stage": e.Gate.Stage, "gate": e.Gate.Name, "pass": e.Gate.Pass, "message": e.Gate.Message}
	}
	json.NewEncoder(u.t.out).Encode(line)
}
