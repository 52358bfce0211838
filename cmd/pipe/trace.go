package main

import (
	"context"
	"flag"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"pipe/runtime/engine"
)

// maxHits is how many rows a search lists.
const maxHits = 20

func runTrace(ctx context.Context, t *app, args []string) int {
	o, pos, err := parse(t, "trace", args, func(fs *flag.FlagSet, o *options) {
		fs.BoolVar(&o.forward, "forward", false, "say where the row was used, instead of where it came from")
		fs.StringVar(&o.id, "id", "", "the row with this `ID`")
		fs.StringVar(&o.grep, "grep", "", "the row that holds this `TEXT` in its first 320 bytes or its id; several are listed")
		fs.BoolVar(&o.full, "full", false, "print texts as they are, without shortening them")
		fs.BoolVar(&o.json, "json", false, "print one JSON object")
	})
	if err != nil {
		return usageCode(err)
	}
	p, code := makePlan(ctx, t, o, pos[1])
	if p == nil {
		return code
	}
	at, ok := p.point(t, pos[0])
	if !ok {
		return exitUsage
	}
	x, err := engine.NewTracing(ctx, p.prog, p.options)
	if x == nil {
		t.errorf("%v", err)
		return exitFailed
	}
	if at.row, ok = chooseRow(t, x, at, o); !ok {
		return exitUsage
	}
	if at.row < 0 {
		return exitOK // the search was answered by a list
	}
	var tr *engine.Trace
	if o.forward {
		tr, err = x.Forward(at.addr, at.output, at.row)
	} else {
		tr, err = x.Back(at.addr, at.output, at.row, at.token)
	}
	if err != nil {
		t.errorf("%v", err)
		return exitFailed
	}
	if o.json {
		jsonLines(t.out).Encode(struct {
			Type string `json:"type"`
			*engine.Trace
		}{"trace", tr})
		return exitOK
	}
	v := traceView{t, o.full}
	if o.forward {
		v.forward(tr, 0, "")
	} else {
		v.back(tr, 0, "")
	}
	return exitOK
}

// A rowPoint is what the argument of trace names.
type rowPoint struct {
	addr, output string
	row          int // -1: not named
	token        int // -1: none
	name         string
}

// point reads ADDR.OUTPUT[:ROW[@TOKEN]]. A row that is no number is an id.
func (p *planned) point(t *app, arg string) (at rowPoint, ok bool) {
	at = rowPoint{row: -1, token: -1}
	best := ""
	var names []string
	for _, s := range p.steps {
		for _, out := range p.prog.Node(s.Addr).OutputNames() {
			ref := strings.TrimSuffix(s.Addr+"."+out, ".")
			names = append(names, ref)
			rest, found := strings.CutPrefix(arg, ref)
			if found && (rest == "" || rest[0] == ':') && len(ref) > len(best) {
				best, at.addr, at.output, at.name = ref, s.Addr, out, strings.TrimPrefix(rest, ":")
			}
		}
	}
	if best == "" {
		addr, _, _ := strings.Cut(arg, ":")
		t.errorf("there is no dataset %q%s", addr, suggest(addr, names))
		return at, false
	}
	row, token, hasToken := strings.Cut(at.name, "@")
	n, err := strconv.Atoi(row)
	if err != nil {
		return at, true
	}
	if hasToken {
		if at.token, err = strconv.Atoi(token); err != nil || at.token < 0 {
			t.errorf("%q: write ROW@TOKEN with two numbers, the first row and token being 0", at.name)
			return at, false
		}
	}
	at.row, at.name = n, ""
	return at, true
}

// chooseRow returns the row that is meant; -1 when rows were listed instead.
func chooseRow(t *app, x *engine.Tracing, at rowPoint, o *options) (row int, ok bool) {
	id := at.name
	if o.id != "" {
		id = o.id
	}
	if id != "" {
		row, ok, err := x.Find(at.addr, at.output, id)
		switch {
		case err != nil:
			t.errorf("%v", err)
		case !ok:
			t.errorf("%s has no row with the id %q; --grep TEXT looks for one", at.addr, id)
		}
		return row, ok && err == nil
	}
	if o.grep == "" {
		if at.row < 0 {
			t.errorf("which row? Write %s:17 (the first is 0), or use --id or --grep", strings.TrimSuffix(at.addr+"."+at.output, "."))
		}
		return at.row, at.row >= 0
	}
	rows, err := x.Dataset(at.addr, at.output)
	if err != nil {
		t.errorf("%v", err)
		return 0, false
	}
	var hits []engine.Trace
	for _, r := range rows {
		if strings.Contains(r.Text, o.grep) || strings.Contains(r.ID, o.grep) {
			hits = append(hits, r)
		}
	}
	switch len(hits) {
	case 0:
		t.errorf("no row of %s holds %q at its beginning", refOf(at), o.grep)
		return 0, false
	case 1:
		return hits[0].Row, true
	}
	for _, r := range hits[:min(maxHits, len(hits))] {
		fmt.Fprintf(t.out, "%s:%d  %s  %s\n", refOf(at), r.Row, clean(r.ID), oneLine(r.Text, 80))
	}
	if n := len(hits) - maxHits; n > 0 {
		fmt.Fprintf(t.out, "and %d more\n", n)
	}
	return -1, true
}

// refOf is the dataset as a pipeline file spells it.
func refOf(at rowPoint) string { return strings.TrimSuffix(at.addr+"."+at.output, ".") }

// A traceView prints traces.
type traceView struct {
	t    *app
	full bool
}

func (v traceView) line(depth int, format string, args ...any) {
	fmt.Fprintf(v.t.out, "%s%s\n", strings.Repeat("  ", depth), clean(fmt.Sprintf(format, args...)))
}

// head names a row. Its text is not repeated when it was told before.
func (v traceView) head(depth int, arrow string, tr *engine.Trace, told string) {
	text := fmt.Sprintf("%s%s row %d", arrow, tr.Ref(), tr.Row)
	if tr.ID != "" {
		text += ": " + tr.ID
	}
	if tr.Part != "" {
		text += " (" + tr.Part + ")"
	}
	v.line(depth, "%s", text)
	if tr.Text != "" && tr.Text != told {
		v.text(depth+1, "", tr.Text)
	}
	for _, f := range tr.Facts {
		v.text(depth+1, f.What+": ", f.Text)
	}
}

// text prints a text, shortened to one line unless all is asked for.
func (v traceView) text(depth int, label, text string) {
	if !v.full {
		v.line(depth, "%s%s", label, oneLine(text, 160))
		return
	}
	lines := strings.Split(text, "\n")
	v.line(depth, "%s%s", label, lines[0])
	for _, l := range lines[1:] {
		v.line(depth+1, "%s", l)
	}
}

func (v traceView) back(tr *engine.Trace, depth int, told string) {
	arrow := ""
	if depth > 0 {
		arrow = "← "
	}
	v.head(depth, arrow, tr, told)
	for _, from := range tr.From {
		v.back(from, depth+1, tr.Text)
	}
}

func (v traceView) forward(tr *engine.Trace, depth int, told string) {
	arrow := ""
	if depth > 0 {
		arrow = "→ "
	}
	v.head(depth, arrow, tr, told)
	for _, u := range tr.Uses {
		v.line(depth+1, "→ %s: %s", u.Stage, useWords(u))
	}
	for _, into := range tr.Into {
		v.forward(into, depth+1, tr.Text)
	}
}

// useWords says at which steps a row was learned from.
func useWords(u engine.TraceUse) string {
	const shown = 12
	var parts []string
	if n := len(u.Steps); n > 0 {
		steps := make([]string, 0, shown)
		for _, s := range slices.Clone(u.Steps)[:min(shown, n)] {
			steps = append(steps, strconv.Itoa(s))
		}
		text := "learned at step " + strings.Join(steps, ", ")
		if n > shown {
			text += fmt.Sprintf(" and %d more", n-shown)
		}
		parts = append(parts, text)
	}
	if u.Note != "" {
		parts = append(parts, u.Note)
	}
	if len(parts) == 0 {
		return "read, and not learned from in any step"
	}
	return strings.Join(parts, "; ")
}

// oneLine is a text on one line of at most n runes.
func oneLine(s string, n int) string {
	r := []rune(strings.Join(strings.Fields(s), " "))
	if len(r) > n {
		return string(r[:n-1]) + "…"
	}
	return string(r)
}
