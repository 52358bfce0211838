package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math"
	"slices"
	"strings"

	"pipe/runtime/artifact"
	"pipe/runtime/compare"
	"pipe/runtime/engine"
)

func runMetrics(ctx context.Context, t *app, args []string) int {
	if i := slices.Index(args, "diff"); i >= 0 && !slices.ContainsFunc(args[:i], func(a string) bool { return !strings.HasPrefix(a, "-") }) {
		return runMetricsDiff(ctx, t, slices.Delete(slices.Clone(args), i, i+1))
	}
	o, pos, err := parse(t, "metrics", args, metricsFlags)
	if err != nil {
		return usageCode(err)
	}
	run, file := runAndFile(pos[0], pos[1])
	s, code := openStored(t, o, file)
	if code != exitOK {
		return code
	}
	f, err := engine.FindRunOf(s.store, s.prog, run)
	if err != nil {
		t.errorf("%v", err)
		return exitFailed
	}
	if !o.json {
		fmt.Fprintf(t.out, "run %s of %s, %s\n", f.Run, clean(f.Pipeline), moment(f.Started))
	}
	var lost []string
	for _, st := range f.Stages {
		for _, name := range sortedKeys(st.Outputs) {
			if st.Outputs[name].Type != artifact.Metrics {
				continue
			}
			m, err := readMetrics(s.store, st.Outputs[name])
			if errors.Is(err, artifact.ErrNotFound) {
				lost = append(lost, st.Addr)
				continue
			}
			if err != nil {
				t.errorf("%s: %v", st.Addr, err)
				code = exitFailed
				continue
			}
			if o.json {
				metricLines(t, f.Run, st.Addr, m)
			} else {
				metricTable(t, st.Addr, m)
			}
		}
	}
	if len(lost) > 0 {
		t.errorf("what %s of run %s measured is no longer in the store, as after pipe gc; pipe pin keeps a run: %s", plural(len(lost)), f.Run, strings.Join(lost, ", "))
		code = exitFailed
	}
	return code
}

func metricsFlags(fs *flag.FlagSet, o *options) {
	fs.BoolVar(&o.json, "json", false, "print one JSON object a line")
}

// metricLines prints one JSON object a metric.
func metricLines(t *app, run, addr string, m artifact.MetricsFile) {
	for _, name := range sortedKeys(m.Metrics) {
		v := m.Metrics[name]
		line := map[string]any{"type": "metric", "run": run, "stage": addr, "metric": name, "n": v.N, "value": v.Value, "stderr": v.Stderr, "direction": v.Better}
		if b, ok := m.Baseline[name]; ok {
			line["base"] = b.Value
		}
		if c, ok := compare.Change(m, name); ok {
			line["change"], line["change_stderr"] = c.Value, c.Stderr
		}
		if b, ok := m.Blind[name]; ok {
			line["blind"] = b.Value
		}
		jsonLines(t.out).Encode(line)
	}
}

func runMetricsDiff(_ context.Context, t *app, args []string) int {
	o, pos, err := parseArgs(t, "metrics diff", []string{"A", "B", "[FILE|DIR]"}, args, metricsFlags)
	if err != nil {
		return usageCode(err)
	}
	s, code := openStored(t, o, pos[2])
	if code != exitOK {
		return code
	}
	var runs [2]*engine.RunFile
	for i := range runs {
		if runs[i], err = engine.FindRunOf(s.store, s.prog, pos[i]); err != nil {
			t.errorf("%v", err)
			return exitFailed
		}
	}
	rs, err := compare.Runs(s.store, runs[0].Outputs(), runs[1].Outputs(), false)
	if err != nil {
		t.errorf("%v", err)
		return exitFailed
	}
	otherwise := engine.MeasuredOtherwise(s.store, s.prog, runs[0], runs[1])
	if o.json {
		comparisonLines(t, rs)
		otherwiseLines(t, otherwise)
		return exitOK
	}
	fmt.Fprintf(t.out, "run %s → run %s\n", runs[0].Run, runs[1].Run)
	changed, same := foldUnchanged(rs)
	comparisonTable(t, changed)
	otherwiseText(t, otherwise)
	if same != "" {
		fmt.Fprintf(t.out, "\nunchanged: %s\n", same)
	}
	return exitOK
}

// otherwiseText says which evaluations have other settings in the newer run.
func otherwiseText(t *app, list []engine.StageDiff) {
	for i, d := range list {
		if i == 0 {
			fmt.Fprintln(t.out)
		}
		fmt.Fprintf(t.out, "%s was measured otherwise before: %s\n", clean(d.Stage), clean(firstOf(d.Changes)))
	}
}

func otherwiseLines(t *app, list []engine.StageDiff) {
	for _, d := range list {
		jsonLines(t.out).Encode(map[string]any{"type": "note", "stage": d.Stage, "text": "was measured otherwise before: " + strings.Join(d.Changes, ", ")})
	}
}

// foldUnchanged returns the results of stages in which something changed, and
// names the others.
func foldUnchanged(rs []compare.Result) (changed []compare.Result, same string) {
	var names []string
	for len(rs) > 0 {
		n := sameStage(rs)
		switch {
		case slices.ContainsFunc(rs[:n], differs):
			changed = append(changed, rs[:n]...)
		case len(names) == 0:
			names = append(names, fmt.Sprintf("%s (%s)", clean(rs[0].Stage), counted(int64(n), "metric")))
		default:
			names = append(names, fmt.Sprintf("%s (%d)", clean(rs[0].Stage), n))
		}
		rs = rs[n:]
	}
	return changed, strings.Join(names, ", ")
}

// differs reports whether two runs measured a metric otherwise, or on other
// items.
func differs(r compare.Result) bool {
	return r.Outcome != "" && r.Outcome != compare.Unchanged || r.Old != r.New || r.OnlyOld+r.OnlyNew > 0
}

// sameStage counts the results at the beginning of rs that are of one stage.
func sameStage(rs []compare.Result) int {
	n := 1
	for n < len(rs) && rs[n].Stage == rs[0].Stage {
		n++
	}
	return n
}

func comparisonLines(t *app, rs []compare.Result) {
	for _, r := range rs {
		jsonLines(t.out).Encode(struct {
			Type string `json:"type"`
			compare.Result
		}{"compare", r})
	}
}

// comparisonTable prints what two runs measured, a table a stage.
func comparisonTable(t *app, rs []compare.Result) {
	for len(rs) > 0 {
		n := sameStage(rs)
		fmt.Fprintf(t.out, "\n%s\n", t.outInk.paint(bold, clean(rs[0].Stage)))
		g := grid{right: []bool{false, true, true, true, true, false, true}}
		g.add("  metric", "n", "before", "now", "change", "95 % interval", "p (Holm)", "")
		for _, r := range rs[:n] {
			g.add(comparisonRow(r)...)
		}
		g.write(t.out)
		rs = rs[n:]
	}
}

func comparisonRow(r compare.Result) []string {
	items, interval, p := "–", "", ""
	if r.N > 0 {
		items = fmt.Sprint(r.N)
	}
	if r.Test != "" {
		interval = fmt.Sprintf("[%+.4f, %+.4f]", r.Low, r.High)
		p = fmt.Sprintf("%.3f", r.Holm)
		if r.Holm < 0.0005 {
			p = "<0.001"
		}
	}
	say := string(r.Outcome)
	if r.Outcome == compare.Inconclusive && r.Detectable > 0 {
		say += fmt.Sprintf("; a difference of %.4f would have shown", r.Detectable)
	}
	if r.Note != "" {
		say = strings.TrimPrefix(say+"; "+r.Note, "; ")
	}
	format := "%.4f"
	if r.Test == "" && r.Old == math.Trunc(r.Old) && r.New == math.Trunc(r.New) {
		format = "%.0f" // counts
	}
	old, now, change := fmt.Sprintf(format, r.Old), fmt.Sprintf(format, r.New), fmt.Sprintf("%+"+format[1:], r.Delta)
	if r.Outcome == compare.Missing && r.Delta == 0 { // one of them has it not at all
		change = ""
		if r.Old == 0 {
			old = "–"
		}
		if r.New == 0 {
			now = "–"
		}
	}
	return []string{"  " + r.Metric, items, old, now, change, interval, p, say}
}
