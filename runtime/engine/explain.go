package engine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"pipe/runtime/artifact"
	"pipe/runtime/lang"
)

// A Why is why a stage did or will run, followed up to where it began.
type Why struct {
	Addr   string `json:"stage"`
	Action string `json:"action,omitempty"` // of the plan; empty for a stage that changed in the past
	Reason string `json:"reason"`

	Changes []Change `json:"-"`
	Told    []string `json:"changes,omitempty"` // the changes in words, with file and line, and rows of inputs
	Because []*Why   `json:"because,omitempty"` // of inputs that changed, or may
	Made    *Made    `json:"made,omitempty"`    // of a stage that is up to date
	Spared  []string `json:"spared,omitempty"`  // why it was not run although something before it was
}

// Made says how what is up to date came about.
type Made struct {
	Run     string    `json:"run"`
	At      time.Time `json:"at"`
	Seconds float64   `json:"seconds"`
	Reason  string    `json:"reason,omitempty"`
}

// Explain says why the stage at addr did or will run. Like [Plan] it runs
// nothing and stays off the network. There is an explanation beside errors of
// other stages; it is nil when the stage itself could not be planned.
func Explain(ctx context.Context, prog *lang.Program, o Options, addr string) (*Why, error) {
	p, err := plan(ctx, prog, o)
	if p == nil {
		return nil, err
	}
	if _, ok := p.steps[addr]; !ok {
		return nil, errors.Join(err, fmt.Errorf("there is no stage %q", addr))
	}
	x := explainer{planner: p, seen: map[string]bool{}}
	return x.stage(addr), err
}

type explainer struct {
	*planner
	seen map[string]bool // stages told of already
	runs []*RunFile      // the newest first
	read bool
}

// history returns the runs of the pipeline.
func (x *explainer) history() []*RunFile {
	if !x.read {
		x.read = true
		x.pastRuns(func(r *RunFile) bool { x.runs = append(x.runs, r); return true })
	}
	return x.runs
}

// stage explains what the plan says of a stage.
func (x *explainer) stage(addr string) *Why {
	s, n := x.steps[addr], x.prog.Node(addr)
	w := &Why{Addr: addr, Action: s.Action, Reason: s.Reason}
	if x.seen[addr] {
		return w
	}
	x.seen[addr] = true
	if s.Action == PlanCached {
		x.made(w, n, x.records[addr])
		return w
	}
	if old := x.lastOf(n); old != nil && !x.forced[addr] {
		w.Changes = x.view(n).changes(old, x.pretend(x.actions[addr], old))
		x.follow(w, nil)
	}
	for _, r := range x.unknown[addr] {
		if _, ok := x.steps[r.Addr]; ok && !x.seen[r.Addr] {
			w.Because = append(w.Because, x.stage(r.Addr))
		}
	}
	return w
}

// follow tells the changes, counts rows, and goes on to the stages whose
// outputs changed. runs are those up to the one that is explained, the newest
// first; nil for what is planned now.
func (x *explainer) follow(w *Why, runs []*RunFile) {
	for _, c := range w.Changes {
		text := c.placed()
		if c.Input != "" && c.Source.Type == artifact.Dataset && !c.Was.IsZero() && !c.Is.IsZero() {
			if d, err := DiffRows(x.Store, c.Was, c.Is, 0); err == nil {
				text += ": " + d.String()
			}
		}
		w.Told = append(w.Told, text)
		if up := x.between(c, runs); up != nil {
			w.Because = append(w.Because, up)
		}
	}
}

// between explains why the stage behind an input made something else. It is
// nil when no record tells.
func (x *explainer) between(c Change, runs []*RunFile) *Why {
	n := x.prog.Node(c.Source.Addr)
	if c.Input == "" || n == nil || n.Kind == nil || x.seen[n.Addr] {
		return nil
	}
	was, is := x.maker(c.Source, c.Was, runs), x.maker(c.Source, c.Is, runs)
	if was == nil || is == nil {
		return nil
	}
	x.seen[n.Addr] = true
	return x.past(n, was, is, runs)
}

// maker returns the record of the stage of r, of this pipeline, that made d:
// that of the newest of runs, since other actions may make the same.
func (x *explainer) maker(r artifact.Ref, d artifact.Digest, runs []*RunFile) *artifact.Record {
	if d.IsZero() {
		return nil
	}
	now := x.records[r.Addr]
	if runs == nil && now != nil && now.Outputs[r.Output].Digest == d {
		return now
	}
	for _, list := range [][]*RunFile{runs, x.history()} {
		for _, run := range list {
			if s := run.entry(r.Addr); s != nil && s.Outputs[r.Output].Digest == d {
				if rec, err := x.Store.Record(s.Key); err == nil && rec.Outputs[r.Output].Digest == d {
					return rec
				}
			}
		}
	}
	return nil
}

// past explains what changed between two records of a stage.
func (x *explainer) past(n *lang.Node, was, is *artifact.Record, runs []*RunFile) *Why {
	w := &Why{Addr: n.Addr}
	old := pastOf(was)
	var now preimage
	if old == nil || json.Unmarshal(is.Preimage, &now) != nil {
		w.Reason = "its record cannot be read"
		return w
	}
	if w.Changes = x.view(n).changes(old, &now); len(w.Changes) == 0 {
		w.Reason = "it made something else out of the same: it is not deterministic, or was forced after a change of its own"
		return w
	}
	w.Reason = sentence(w.Changes)
	x.follow(w, runs)
	return w
}

// made tells how what is up to date came about, and what was spared since.
func (x *explainer) made(w *Why, n *lang.Node, rec *artifact.Record) {
	w.Made = &Made{Run: rec.Run, At: rec.Created, Seconds: rec.Seconds}
	runs := x.history()
	made := len(runs) // place of the run that made it
	for i, r := range runs {
		if r.Run == rec.Run {
			made = i
			break
		}
	}
	if made < len(runs) {
		for _, s := range runs[made].Stages { // it may have had another name
			if s.Key == rec.Key && s.State == Done {
				w.Made.Reason = s.Reason
			}
		}
		if before := x.before(n.Addr, rec.Key, runs[made+1:]); before != nil {
			if up := x.past(n, before, rec, runs[made:]); len(up.Changes) > 0 {
				w.Changes, w.Told, w.Because, w.Made.Reason = up.Changes, up.Told, up.Because, up.Reason
			}
		}
	}
	w.Spared = x.spared(n, rec.Key, runs[:made])
}

// before returns the newest record of a stage under another key.
func (x *explainer) before(addr string, key artifact.Key, runs []*RunFile) *artifact.Record {
	for _, r := range runs {
		if s := r.entry(addr); s != nil && s.Key != key && (s.State == Done || s.State == Cached) {
			if rec, err := x.Store.Record(s.Key); err == nil {
				return rec
			}
		}
	}
	return nil
}

// spared looks for the newest run in which a stage that n needs ran, and n did
// not have to.
func (x *explainer) spared(n *lang.Node, key artifact.Key, runs []*RunFile) (out []string) {
	for i, r := range runs {
		s := r.entry(n.Addr)
		if s == nil || s.State != Cached || s.Key != key {
			continue
		}
		for _, need := range n.Needs {
			up := r.entry(need)
			if up == nil || up.State != Done {
				continue
			}
			what := "made the same bytes"
			if older := entryIn(runs[i+1:], n.Addr); older != nil && older.Key != key {
				what = "made bytes that " + n.Addr + " had met before"
			}
			out = append(out, fmt.Sprintf("%s ran again in run %s (%s) but %s, so %s was not run", need, r.Run, up.Reason, what, n.Addr))
		}
		if len(out) > 0 {
			return out
		}
	}
	return nil
}

func entryIn(runs []*RunFile, addr string) *StageResult {
	for _, r := range runs {
		if s := r.entry(addr); s != nil && (s.State == Done || s.State == Cached) {
			return s
		}
	}
	return nil
}

// Write writes the explanation for people, clean being applied to every line.
func (w *Why) Write(out io.Writer, clean func(string) string) {
	say := func(depth int, format string, args ...any) {
		fmt.Fprintf(out, "%s%s\n", strings.Repeat("  ", depth), clean(fmt.Sprintf(format, args...)))
	}
	if m := w.Made; m != nil {
		say(0, "%s: %s: %s", w.Addr, w.Action, w.Reason)
		text := fmt.Sprintf("it ran on %s in %.1f s, in run %s", m.At.Local().Format("2006-01-02 15:04:05"), m.Seconds, m.Run)
		if m.Reason != "" {
			text += ", because: " + w.told(m.Reason)
		}
		say(1, "%s", text)
	} else {
		say(0, "%s: %s: %s", w.Addr, w.Action, w.told(w.Reason))
	}
	w.details(0, say)
	for _, s := range w.Spared {
		say(1, "%s", s)
	}
}

// inOneLine is how many changes stand in one line.
const inOneLine = 3

// told returns the changes, where they fit one line, in place of a reason that
// says less of them.
func (w *Why) told(reason string) string {
	if n := len(w.Told); n == 0 || n > inOneLine || w.Action == PlanMaybe {
		return reason
	}
	return strings.Join(w.Told, ", ")
}

// details writes the changes that do not fit one line, and what is behind them.
func (w *Why) details(depth int, say func(depth int, format string, args ...any)) {
	if len(w.Told) > inOneLine || w.Action == PlanMaybe {
		for _, told := range w.Told {
			say(depth+1, "%s", told)
		}
	}
	for _, up := range w.Because {
		verb := "changed"
		switch up.Action {
		case PlanRun:
			verb = "will run"
		case PlanMaybe:
			verb = "may run"
		case PlanCached:
			verb = "is up to date"
		}
		say(depth+1, "because %s %s: %s", up.Addr, verb, up.told(up.Reason))
		up.details(depth+1, say)
	}
}
