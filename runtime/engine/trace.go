package engine

import (
	"context"
	"fmt"
	"strings"

	"pipe/runtime/artifact"
	"pipe/runtime/lang"
	"pipe/runtime/stage"
)

// A Trace is a row of a dataset with what is known of it.
type Trace struct {
	Stage  string       `json:"stage"`
	Output string       `json:"output,omitempty"`
	Row    int          `json:"row"` // from 0; -1: nothing was made there
	ID     string       `json:"id,omitempty"`
	Part   string       `json:"part,omitempty"` // which part of it went on
	Text   string       `json:"text,omitempty"` // its beginning
	Facts  []stage.Fact `json:"facts,omitempty"`
	Uses   []TraceUse   `json:"uses,omitempty"` // of training, going forward
	From   []*Trace     `json:"from,omitempty"` // the rows it was made from, going back
	Into   []*Trace     `json:"into,omitempty"` // the rows made from it, going forward
}

// A TraceUse is how a stage trained on a row.
type TraceUse struct {
	Stage string `json:"stage"`
	Steps []int  `json:"steps,omitempty"`
	Note  string `json:"note,omitempty"`
}

// Ref returns the dataset as a pipeline file spells it.
func (t *Trace) Ref() string { return artifact.Ref{Addr: t.Stage, Output: t.Output}.String() }

// A Tracing answers where rows came from and went to, of what is up to date.
type Tracing struct {
	p      *planner
	ctx    context.Context
	tables map[artifact.Digest]*traceTable
	lines  map[string][]stage.Descent // by reference
}

// A traceTable is a dataset as far as tracing goes.
type traceTable struct {
	rows []traceRow
	byID map[string]int
}

type traceRow struct {
	id, text string
	facts    []stage.Fact // of a row that says itself why it was dropped
	partner  string
}

// NewTracing plans prog as [Plan] does. Stages that are not up to date have no
// rows to trace.
func NewTracing(ctx context.Context, prog *lang.Program, o Options) (*Tracing, error) {
	p, err := plan(ctx, prog, o)
	if p == nil {
		return nil, err
	}
	return &Tracing{p, ctx, map[artifact.Digest]*traceTable{}, map[string][]stage.Descent{}}, nil
}

// Dataset returns the rows, for people, of an output of a stage.
func (x *Tracing) Dataset(addr, output string) ([]Trace, error) {
	t, err := x.table(addr, output)
	if err != nil {
		return nil, err
	}
	out := make([]Trace, len(t.rows))
	for i, r := range t.rows {
		out[i] = Trace{Stage: addr, Output: output, Row: i, ID: r.id, Text: r.text, Facts: r.facts}
	}
	return out, nil
}

// record returns what a stage made.
func (x *Tracing) record(addr string) (*artifact.Record, error) {
	if rec := x.p.records[addr]; rec != nil {
		return rec, nil
	}
	if s, ok := x.p.steps[addr]; ok {
		return nil, fmt.Errorf("%s is not up to date (%s): run it first", addr, s.Reason)
	}
	return nil, fmt.Errorf("there is no stage %q", addr)
}

func (x *Tracing) made(addr string) stage.Outputs {
	return func(output string) (*artifact.Artifact, error) {
		rec, err := x.record(addr)
		if err != nil {
			return nil, err
		}
		o, ok := rec.Outputs[output]
		if !ok {
			return nil, fmt.Errorf("%s has no output %q", addr, output)
		}
		return x.p.Store.Open(o.Digest)
	}
}

// table reads an output.
func (x *Tracing) table(addr, output string) (*traceTable, error) {
	a, err := x.made(addr)(output)
	if err != nil {
		return nil, err
	}
	if a.Type() != artifact.Dataset {
		return nil, fmt.Errorf("%s is a %s; only rows of datasets can be traced", artifact.Ref{Addr: addr, Output: output}, a.Type())
	}
	if t := x.tables[a.Digest()]; t != nil {
		return t, nil
	}
	t := &traceTable{byID: map[string]int{}}
	rows, err := seenIn(a)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", artifact.Ref{Addr: addr, Output: output}, err)
	}
	name, err := artifact.RowType(a)
	if err != nil {
		return nil, err
	}
	for i, r := range rows {
		if name == "packed" {
			r.id = ""
		} else if _, ok := t.byID[r.id]; !ok {
			t.byID[r.id] = i
		}
		t.rows = append(t.rows, traceRow{id: r.id, text: clip(r.text, 4*excerptMiddle)})
	}
	if name == "drop" {
		i := 0
		for d, err := range artifact.Rows[artifact.Drop](a) {
			if err != nil {
				return nil, err
			}
			t.rows[i].text, t.rows[i].partner = d.Text, d.Partner
			t.rows[i].facts = []stage.Fact{{What: "dropped: " + d.Reason, Text: dropText(d)}}
			i++
		}
	}
	x.tables[a.Digest()] = t
	return t, nil
}

func dropText(d artifact.Drop) string {
	var parts []string
	if d.Partner != "" {
		parts = append(parts, "for "+d.Partner)
	}
	if d.Score != 0 {
		parts = append(parts, fmt.Sprintf("score %.4f", d.Score))
	}
	if d.Detail != "" {
		parts = append(parts, d.Detail)
	}
	return strings.Join(parts, ", ")
}

// lineage returns the descents of all rows of an output.
func (x *Tracing) lineage(n *lang.Node, output string) ([]stage.Descent, error) {
	ref := artifact.Ref{Addr: n.Addr, Output: output}.String()
	if l, ok := x.lines[ref]; ok {
		return l, nil
	}
	var out []stage.Descent
	if t, ok := n.Stage.(stage.Tracer); ok {
		x.p.bind(n)
		for d, err := range t.Lineage(x.p.env(n, x.p.actions[n.Addr]), x.made(n.Addr), output) {
			if err != nil {
				return nil, fmt.Errorf("%s: %w", ref, err)
			}
			out = append(out, d)
		}
	} else {
		var err error
		if out, err = x.sameIDs(n, output); err != nil {
			return nil, err
		}
	}
	x.lines[ref] = out
	return out, nil
}

// sameIDs is the lineage of a stage that does not tell: a row was made from
// those of its inputs that have its id.
func (x *Tracing) sameIDs(n *lang.Node, output string) ([]stage.Descent, error) {
	t, err := x.table(n.Addr, output)
	if err != nil {
		return nil, err
	}
	out := make([]stage.Descent, len(t.rows))
	for i, r := range t.rows {
		out[i].ID = r.id
	}
	for _, in := range n.Inputs {
		if in.Ref.Type != artifact.Dataset {
			continue
		}
		from, err := x.table(in.Ref.Addr, in.Ref.Output)
		if err != nil {
			continue // other rows, or gone: nothing is known of them
		}
		for i, r := range t.rows {
			if _, ok := from.byID[r.id]; ok && r.id != "" {
				out[i].Parents = append(out[i].Parents, stage.Parent{Input: in.Path, ID: r.id})
			}
		}
	}
	return out, nil
}

// Find returns the number of the row with that id.
func (x *Tracing) Find(addr, output, id string) (row int, ok bool, err error) {
	t, err := x.table(addr, output)
	if err != nil {
		return 0, false, err
	}
	row, ok = t.byID[id]
	return row, ok, nil
}

// Back follows a row to where it came from. at is a token of a packed row, or a
// byte of a text; -1 for the row as a whole.
func (x *Tracing) Back(addr, output string, row, at int) (*Trace, error) {
	return x.back(addr, output, row, at, false)
}

// back follows a row. In brief nothing is told but files and lines.
func (x *Tracing) back(addr, output string, row, at int, brief bool) (*Trace, error) {
	t, err := x.table(addr, output)
	if err != nil {
		return nil, err
	}
	if row < 0 || row >= len(t.rows) {
		return nil, fmt.Errorf("%s has %s, the first being 0; there is no row %d", artifact.Ref{Addr: addr, Output: output}, rowCount(int64(len(t.rows))), row)
	}
	out := &Trace{Stage: addr, Output: output, Row: row, ID: t.rows[row].id, Text: t.rows[row].text, Facts: t.rows[row].facts}
	n := x.p.prog.Node(addr)
	told := &stage.Told{Parent: -1}
	_, reads := n.Stage.(stage.Sourcer)
	if s, ok := n.Stage.(stage.Teller); ok && (!brief || reads) {
		x.p.bind(n)
		if told, err = s.Tell(x.ctx, x.p.env(n, x.p.actions[addr]), x.made(addr), stage.Place{Output: output, Row: row, At: at}); err != nil {
			return nil, fmt.Errorf("%s row %d: %w", out.Ref(), row, err)
		}
		out.Facts = append(out.Facts, told.Facts...)
	}
	descents, err := x.lineage(n, output)
	if err != nil {
		return nil, err
	}
	if row >= len(descents) {
		return nil, fmt.Errorf("%s: only %d of %d rows are told of", out.Ref(), len(descents), len(t.rows))
	}
	parents := descents[row].Parents
	if told.Parent >= 0 && told.Parent < len(parents) {
		parents = parents[told.Parent : told.Parent+1]
	}
	for _, p := range parents {
		from, err := x.parent(n, p, told, at, brief || len(parents) > 1)
		if err != nil {
			return nil, err
		}
		out.From = append(out.From, from)
	}
	return out, nil
}

// parent follows one parent of a row of n.
func (x *Tracing) parent(n *lang.Node, p stage.Parent, told *stage.Told, at int, brief bool) (*Trace, error) {
	switch {
	case told.Parent >= 0:
		at = told.At
	case p.Copy && at >= 0:
		at += p.From
	case p.Part != "" && p.From > 0:
		at = p.From
	default:
		at = -1
	}
	for _, in := range n.Inputs {
		if in.Path != p.Input {
			continue
		}
		row, ok, err := x.Find(in.Ref.Addr, in.Ref.Output, p.ID)
		if err != nil {
			return nil, err
		}
		if !ok {
			return nil, fmt.Errorf("%s has no row %q, of which %s has one", in.Ref, p.ID, n.Addr)
		}
		from, err := x.back(in.Ref.Addr, in.Ref.Output, row, at, brief)
		if from != nil {
			from.Part = p.Part
		}
		return from, err
	}
	return nil, fmt.Errorf("%s has no input %q", n.Addr, p.Input)
}

// Forward follows a row to all that was made from it.
func (x *Tracing) Forward(addr, output string, row int) (*Trace, error) {
	t, err := x.table(addr, output)
	if err != nil {
		return nil, err
	}
	if row < 0 || row >= len(t.rows) {
		return nil, fmt.Errorf("%s has %s, the first being 0; there is no row %d", artifact.Ref{Addr: addr, Output: output}, rowCount(int64(len(t.rows))), row)
	}
	out := &Trace{Stage: addr, Output: output, Row: row, ID: t.rows[row].id, Text: t.rows[row].text, Facts: t.rows[row].facts}
	for _, n := range x.p.nodes {
		if n.Kind == nil {
			continue
		}
		for _, in := range n.Inputs {
			if in.Ref.Addr == addr && in.Ref.Output == output {
				if err := x.into(out, n, in.Path); err != nil {
					return nil, err
				}
			}
		}
	}
	return out, nil
}

// into adds what the stage n made from the row that it got at path.
func (x *Tracing) into(t *Trace, n *lang.Node, path string) error {
	fact := func(what, format string, args ...any) {
		t.Facts = append(t.Facts, stage.Fact{What: what, Text: fmt.Sprintf(format, args...)})
	}
	rec, err := x.record(n.Addr)
	if err != nil {
		fact(n.Addr, "it is not up to date (%s)", x.p.steps[n.Addr].Reason)
		return nil
	}
	x.p.bind(n)
	learns, err := x.learned(t, n, path)
	if err != nil {
		return err
	}
	found, tells := learns, learns
	for _, o := range n.Makes {
		if o.Type != artifact.Dataset || o.Alias != "" {
			continue
		}
		if name, err := x.rowType(rec, o.Name); err != nil || name == "point" {
			continue
		}
		tells = true
		k, err := x.children(t, n, o.Name, path)
		if err != nil {
			return err
		}
		found = found || k
	}
	if !found && tells {
		fact(n.Addr, "nothing was made from it (%s)", path)
	}
	return nil
}

func (x *Tracing) rowType(rec *artifact.Record, output string) (string, error) {
	a, err := x.p.Store.Open(rec.Outputs[output].Digest)
	if err != nil {
		return "", err
	}
	return artifact.RowType(a)
}

// learned adds how a training stage used the row.
func (x *Tracing) learned(t *Trace, n *lang.Node, path string) (bool, error) {
	l, ok := n.Stage.(stage.Learner)
	if !ok {
		return false, nil
	}
	uses, err := l.Uses(x.ctx, x.p.env(n, x.p.actions[n.Addr]), path)
	if err != nil {
		return false, fmt.Errorf("%s: %w", n.Addr, err)
	}
	if uses == nil {
		return false, nil
	}
	if t.Row >= len(uses) {
		return false, fmt.Errorf("%s: only %d rows of %s are told of", n.Addr, len(uses), path)
	}
	u := uses[t.Row]
	t.Uses = append(t.Uses, TraceUse{n.Addr, u.Steps, u.Note})
	return true, nil
}

// children adds the rows of an output that were made from t, and says of how
// many drops it is the reason.
func (x *Tracing) children(t *Trace, n *lang.Node, output, path string) (found bool, err error) {
	descents, err := x.lineage(n, output)
	if err != nil {
		return false, err
	}
	table, err := x.table(n.Addr, output)
	if err != nil {
		return false, err
	}
	var partners []string
	for i, d := range descents {
		if i < len(table.rows) && t.ID != "" && table.rows[i].partner == t.ID {
			partners = append(partners, table.rows[i].id)
		}
		parts, made := []string{}, false
		for _, p := range d.Parents {
			if p.Input == path && p.ID == t.ID {
				parts, made = append(parts, p.Part), true
			}
		}
		if made {
			child, err := x.Forward(n.Addr, output, i)
			if err != nil {
				return false, err
			}
			child.Part = strings.Join(parts, ", ")
			t.Into, found = append(t.Into, child), true
		}
	}
	if !found && len(partners) > 0 { // a benchmark's row
		const shown = 5
		text := strings.Join(partners[:min(shown, len(partners))], ", ")
		if n := len(partners) - shown; n > 0 {
			text += fmt.Sprintf(" and %d more", n)
		}
		t.Facts = append(t.Facts, stage.Fact{What: n.Addr, Text: fmt.Sprintf("%s dropped because of it: %s", rowCount(int64(len(partners))), text)})
		found = true
	}
	return found, nil
}
