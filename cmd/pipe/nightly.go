package main

import (
	"context"
	"flag"
	"fmt"
	"path/filepath"
	"time"

	"pipe/runtime/artifact"
	"pipe/runtime/compare"
	"pipe/runtime/engine"
)

func nightlyFlags(fs *flag.FlagSet, o *options) {
	runFlags(fs, o)
	fs.BoolVar(&o.strict, "strict", false, "also exit 3 when a metric is inconclusive or missing")
	fs.StringVar(&o.file, "o", "", "write the report to `FILE` (default: reports/RUN.html in the store)")
}

func runNightly(ctx context.Context, t *app, args []string) int {
	begin := time.Now().UTC().Truncate(time.Second)
	o, pos, err := parse(t, "nightly", args, nightlyFlags)
	if err != nil {
		return usageCode(err)
	}
	if err := notDirectory(o.file); err != nil { // before the work
		t.errorf("%v", err)
		return finish(t, o, nil, exitUsage)
	}
	o.fetch = ctx
	r := execute(ctx, t, o, pos[0])
	if r.res == nil || r.store == nil {
		return finish(t, o, r.res, r.code)
	}
	if err := r.res.Unnoted; err != nil {
		t.errorf("the night cannot be kept, and was not judged: the store %s: %s", r.store.Dir(), why(err))
		return finish(t, o, r.res, max(r.code, exitFailed))
	}
	n := compare.Night{Time: begin, Run: r.res.Run, Metrics: compare.MetricsOf(r.store, r.res.Outputs())}
	r.code, err = judgeNight(t, o, r, &n)
	if err != nil {
		t.errorf("%v", err)
		r.code, n.Verdict = exitFailed, err.Error()
	}
	n.Exit, o.verdict = r.code, n.Verdict
	if err := compare.OpenHistory(r.store, engine.PipelineName(r.store, r.prog)).Append(n); err != nil {
		t.errorf("%v", err)
		r.code = max(r.code, exitFailed)
	}
	if !o.json {
		fmt.Fprintf(t.out, "\n%s: %s\n", clean(r.prog.Name), clean(n.Verdict))
	}
	if path, err := nightReport(o, r); err != nil {
		t.errorf("write the report: %v", err)
		r.code = max(r.code, exitFailed)
	} else if !o.json {
		fmt.Fprintf(t.out, "the report is %s\n", clean(fromHere(path)))
	}
	return finish(t, o, r.res, r.code)
}

func nightReport(o *options, r ran) (string, error) {
	f, err := engine.ReadRun(r.store, r.res.Run)
	if err != nil {
		return "", err
	}
	path := o.file
	if path == "" {
		path = filepath.Join(r.store.Dir(), "reports", r.res.Run+".html")
		if err := artifact.MakeDir(r.store.Dir(), filepath.Dir(path)); err != nil {
			return "", err
		}
	}
	return path, writeReport(path, stored{r.prog, r.store}, f)
}

// judgeNight compares the evals with the baseline, and sets one on the first
// good night. The exit code is that of the run unless this is a regression.
func judgeNight(t *app, o *options, r ran, n *compare.Night) (int, error) {
	switch r.code {
	case exitOK, exitGate:
	case exitInterrupted:
		n.Verdict = "interrupted"
		return r.code, nil
	case exitBudget:
		n.Verdict = "stopped by a budget; the next night goes on"
		return r.code, nil
	default:
		n.Verdict = fmt.Sprintf("the run failed: %s failed%s, %s did not run", plural(count(r.res, engine.Failed)), firstFailed(r.res), plural(count(r.res, engine.Skipped)))
		return r.code, nil
	}
	base, err := engine.ReadBaseline(r.store, r.prog)
	if err != nil {
		return r.code, err
	}
	if base == nil {
		return firstNight(r, n)
	}
	n.Baseline = base.Run
	old, err := engine.ReadRun(r.store, base.Run)
	if err != nil {
		return r.code, fmt.Errorf("read the baseline: %w; pin another run: pipe baseline set RUN", err)
	}
	was := old.Outputs()
	for _, addr := range engine.Unmeasured(r.prog, r.res) { // of targets
		delete(was, addr)
	}
	rs, err := compare.Runs(r.store, was, r.res.Outputs(), true)
	if err != nil {
		return r.code, err
	}
	now, err := engine.ReadRun(r.store, r.res.Run)
	if err != nil {
		return r.code, err
	}
	otherwise := engine.MeasuredOtherwise(r.store, r.prog, old, now)
	if o.json {
		comparisonLines(t, rs)
		otherwiseLines(t, otherwise)
	} else {
		fmt.Fprintf(t.out, "\nbaseline: run %s, pinned on %s\n", base.Run, moment(base.Set))
		comparisonTable(t, rs)
		otherwiseText(t, otherwise)
	}
	n.Outcomes = map[string]map[string]compare.Outcome{}
	for _, x := range rs {
		if x.Outcome == "" {
			continue
		}
		if n.Outcomes[x.Stage] == nil {
			n.Outcomes[x.Stage] = map[string]compare.Outcome{}
		}
		n.Outcomes[x.Stage][x.Metric] = x.Outcome
	}
	regressed, text := compare.Regressed(rs, o.strict)
	n.Verdict = text
	if !r.res.GatesPassed() {
		n.Verdict = "a gate failed; " + text
	}
	if regressed {
		return exitGate, nil
	}
	return r.code, nil
}

// firstFailed names the first few stages that failed, in parentheses.
func firstFailed(res *engine.Result) string {
	var names []string
	for _, s := range res.Stages {
		if s.State == engine.Failed {
			names = append(names, s.Addr)
		}
	}
	if len(names) == 0 {
		return ""
	}
	return " (" + firstOf(names) + ")"
}

// firstNight pins the run when its gates passed.
func firstNight(r ran, n *compare.Night) (int, error) {
	if r.code != exitOK {
		n.Verdict = "a gate failed; no baseline is set, and this run does not become one"
		return r.code, nil
	}
	if len(n.Metrics) == 0 {
		n.Verdict = "nothing was measured: there is nothing to compare later nights with"
		return r.code, nil
	}
	f, err := engine.ReadRun(r.store, r.res.Run)
	if err != nil {
		return r.code, err
	}
	if err := engine.SetBaseline(r.store, r.prog, f); err != nil {
		return r.code, err
	}
	n.Verdict = "the first night: this run is the baseline now, and later nights are compared with it"
	return r.code, nil
}
