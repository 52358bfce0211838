package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"pipe/runtime/artifact"
	"pipe/runtime/compare"
	"pipe/runtime/engine"
	"pipe/runtime/lang"
)

func runDiff(_ context.Context, t *app, args []string) int {
	o, pos, err := parse(t, "diff", args, func(fs *flag.FlagSet, o *options) {
		fs.IntVar(&o.n, "n", 3, "show up to `N` rows of each sort that differ in a dataset")
		fs.BoolVar(&o.json, "json", false, "print one JSON object")
	})
	if err != nil {
		return usageCode(err)
	}
	store, dir, pipeline, err := storeNear(o, pos[2])
	if err != nil {
		t.errorf("%v", err)
		return exitFailed
	}
	var runs [2]*engine.RunFile
	for i := range runs {
		if runs[i], err = engine.FindRun(store, pos[i], dir, pipeline); err != nil {
			t.errorf("%v", err)
			return exitUsage
		}
	}
	d := engine.CompareRuns(store, t.kinds, runs[0], runs[1], o.n)
	metrics, err := diffMetrics(store, d, runs[0], runs[1])
	problem := ""
	if errors.Is(err, artifact.ErrNotFound) { // the rest is known
		problem = err.Error()
	} else if err != nil {
		t.errorf("%v", err)
		return exitFailed
	}
	if o.json {
		jsonLines(t.out).Encode(struct {
			Type string `json:"type"`
			*engine.RunDiff
			Metrics []compare.Result `json:"metrics,omitempty"`
			Problem string           `json:"metrics_problem,omitempty"`
		}{"diff", d, metrics, problem})
		return exitOK
	}
	diffText(t, d, metrics, problem)
	return exitOK
}

// storeNear opens the store of the pipeline at path, which need not be valid,
// and returns the pipeline's directory, and its name when path is a file; a store
// that others share with it has runs of theirs.
func storeNear(o *options, path string) (store *artifact.Store, dir, pipeline string, err error) {
	dir = path
	if st, err := os.Stat(path); err != nil {
		return nil, "", "", err
	} else if !st.IsDir() {
		dir, pipeline = filepath.Dir(path), lang.NameOf(path)
	}
	at := cmp.Or(o.store, os.Getenv("PIPE_STORE"), filepath.Join(dir, ".pipe"))
	if _, err := os.Stat(at); err != nil {
		return nil, "", "", fmt.Errorf("there is no store at %s: name the pipeline file as the last argument, or use --store", at)
	}
	store, err = artifact.OpenStore(at)
	return store, engine.RealDir(dir), pipeline, err
}

func diffText(t *app, d *engine.RunDiff, metrics []compare.Result, problem string) {
	head := func(c engine.RunCost) string {
		return fmt.Sprintf("%s (%s, %d ran, %d up to date)", c.Run, moment(c.Started), c.Ran, c.Cached)
	}
	fmt.Fprintf(t.out, "%s\n→ %s\n", head(d.Was), head(d.Is))
	if d.Was.Run == d.Is.Run || len(d.Added)+len(d.Removed)+len(d.Renamed)+len(d.Stages)+len(d.Rows) == 0 {
		fmt.Fprintln(t.out, "Nothing differs: both runs have the same results.")
		return
	}
	diffRecipe(t, d)
	diffRows(t, d.Rows)
	metricsText(t, metrics)
	if problem != "" {
		t.section("metrics")
		fmt.Fprintf(t.out, "  %s\n", clean(problem))
	}
	diffCost(t, d)
}

func (t *app) section(name string) { fmt.Fprintf(t.out, "\n%s\n", t.outInk.paint(bold, name)) }

func diffRecipe(t *app, d *engine.RunDiff) {
	if len(d.Added)+len(d.Removed)+len(d.Renamed)+len(d.Stages) == 0 {
		return
	}
	t.section("recipe")
	var g grid
	for _, a := range d.Removed {
		g.add("  - "+a, "is gone")
	}
	for _, a := range d.Added {
		g.add("  + "+a, "is new")
	}
	for _, r := range d.Renamed {
		g.add("  "+r[1], "was "+r[0])
	}
	for _, s := range d.Stages {
		for i, c := range s.Changes {
			name := "  ~ " + s.Stage
			if i > 0 {
				name = ""
			}
			g.add(name, c)
		}
		if len(s.Changes) == 0 {
			g.add("    "+s.Stage, "other input: "+strings.Join(s.Inputs, ", "))
		}
	}
	g.write(t.out)
}

func diffRows(t *app, list []engine.DatasetDiff) {
	if len(list) == 0 {
		return
	}
	t.section("rows")
	for _, r := range list {
		if r.Diff == nil {
			fmt.Fprintf(t.out, "  %s: %s\n", r.Ref, clean(r.Problem))
			continue
		}
		fmt.Fprintf(t.out, "  %s: %d → %d: %s\n", r.Ref, r.Diff.Was, r.Diff.Is, r.Diff)
		for _, s := range r.Diff.Samples {
			text := oneLine(s.Text, 100)
			if s.Was != "" {
				text = oneLine(s.Was, 60) + " → " + oneLine(s.Text, 60)
			}
			fmt.Fprintf(t.out, "    %s %s  %s\n", s.Sign, clean(oneLine(s.ID, 40)), clean(text))
		}
	}
}

// diffMetrics compares what the stages of both runs measured; one that has another
// address now is compared under that.
func diffMetrics(s *artifact.Store, d *engine.RunDiff, was, is *engine.RunFile) ([]compare.Result, error) {
	old, now := was.Outputs(), is.Outputs()
	for _, r := range d.Renamed {
		old[r[1]] = old[r[0]]
		delete(old, r[0])
	}
	for _, pair := range [][2]compare.Outputs{{old, now}, {now, old}} {
		for addr := range pair[0] {
			if pair[1][addr] == nil {
				delete(pair[0], addr)
			}
		}
	}
	return compare.Runs(s, old, now, false)
}

// metricsText prints the metrics that changed.
func metricsText(t *app, rs []compare.Result) {
	changed := slices.DeleteFunc(slices.Clone(rs), func(r compare.Result) bool {
		return r.Delta == 0 && (r.Outcome == "" || r.Outcome == compare.Unchanged || r.Outcome == compare.Inconclusive)
	})
	if len(changed) == 0 {
		return
	}
	t.section("metrics")
	comparisonTable(t, changed)
	if same := len(rs) - len(changed); same > 0 {
		fmt.Fprintf(t.out, "  %s the same\n", counted(int64(same), "metric"))
	}
}

func diffCost(t *app, d *engine.RunDiff) {
	t.section("cost")
	g := grid{right: []bool{false, true, true, true, true, true, true}}
	g.add("", "run", "teacher calls", "tokens", "USD", "all results", "teacher calls")
	for _, c := range []engine.RunCost{d.Was, d.Is} {
		g.add("  "+c.Run, duration(seconds(c.Seconds)), fmt.Sprint(c.Spent.Calls), fmt.Sprint(c.Spent.InputTokens+c.Spent.OutputTokens),
			fmt.Sprintf("%.2f", c.Spent.USD), duration(seconds(c.Results)), fmt.Sprint(c.Worth.Calls+c.Worth.Replayed))
	}
	g.write(t.out)
}
