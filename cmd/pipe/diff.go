package main

import (
	"cmp"
	"context"
	"flag"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"

	"pipe/runtime/artifact"
	"pipe/runtime/compare"
	"pipe/runtime/engine"
)

func runDiff(_ context.Context, t *app, args []string) int {
	o, pos, err := parse(t, "diff", args, func(fs *flag.FlagSet, o *options) {
		fs.IntVar(&o.n, "n", 3, "show up to `N` rows of each sort that differ in a dataset")
		fs.BoolVar(&o.json, "json", false, "print one JSON object")
	})
	if err != nil {
		return usageCode(err)
	}
	store, dir, err := storeNear(o, pos[2])
	if err != nil {
		t.errorf("%v", err)
		return exitFailed
	}
	var runs [2]*engine.RunFile
	for i := range runs {
		if runs[i], err = engine.FindRun(store, pos[i], dir); err != nil {
			t.errorf("%v", err)
			return exitUsage
		}
	}
	d := engine.CompareRuns(store, t.kinds, runs[0], runs[1], o.n)
	if o.json {
		jsonLines(t.out).Encode(struct {
			Type string `json:"type"`
			*engine.RunDiff
		}{"diff", d})
		return exitOK
	}
	diffText(t, d)
	return exitOK
}

// storeNear opens the store of the pipeline at path, which need not be valid,
// and returns the pipeline's directory; a store that others share with it has
// runs of theirs.
func storeNear(o *options, path string) (*artifact.Store, string, error) {
	dir := path
	if st, err := os.Stat(path); err != nil {
		return nil, "", err
	} else if !st.IsDir() {
		dir = filepath.Dir(path)
	}
	at := cmp.Or(o.store, os.Getenv("PIPE_STORE"), filepath.Join(dir, ".pipe"))
	if _, err := os.Stat(at); err != nil {
		return nil, "", fmt.Errorf("there is no store at %s: name the pipeline file as the last argument, or use --store", at)
	}
	abs, err := filepath.Abs(dir)
	if err != nil {
		return nil, "", err
	}
	store, err := artifact.OpenStore(at)
	return store, abs, err
}

func diffText(t *app, d *engine.RunDiff) {
	head := func(c engine.RunCost) string {
		return fmt.Sprintf("%s (%s, %d ran, %d up to date)", c.Run, c.Started.Local().Format("2006-01-02 15:04:05"), c.Ran, c.Cached)
	}
	fmt.Fprintf(t.out, "%s\n→ %s\n", head(d.Was), head(d.Is))
	if d.Was.Run == d.Is.Run || len(d.Added)+len(d.Removed)+len(d.Renamed)+len(d.Stages)+len(d.Rows) == 0 {
		fmt.Fprintln(t.out, "Nothing differs: both runs have the same results.")
		return
	}
	diffRecipe(t, d)
	diffRows(t, d.Rows)
	diffMetrics(t, d.Metrics)
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

// diffMetrics prints the metrics that changed. The half-width after ± is that of
// the 95 % confidence interval (Student's t), of the differences item by item
// where the same items were measured.
func diffMetrics(t *app, list []engine.MetricDiff) {
	var g grid
	g.right = []bool{false, false, true, true, true}
	same, stage := 0, ""
	for _, m := range list {
		if m.Change.Value == 0 && m.Change.Stderr == 0 || m.Was == m.Is {
			same++
			continue
		}
		name := m.Stage
		if name == stage {
			name = ""
		}
		stage = m.Stage
		change := fmt.Sprintf("%+.4f", m.Change.Value)
		if n := m.Change.N; m.Change.Stderr > 0 && n > 1 {
			change += fmt.Sprintf(" ± %.4f", compare.Quantile(0.975, float64(n-1))*m.Change.Stderr)
		}
		what := ""
		if m.Change.Better != 0 && m.Change.Stderr > 0 {
			if what = compare.Verdict(m.Change); m.Paired {
				what += " (item by item)"
			}
		}
		g.add("  "+name, m.Name, number(m.Was.Value), number(m.Is.Value), change, what)
	}
	if len(g.rows) > 0 {
		t.section("metrics")
		g.write(t.out)
	}
	if same > 0 && len(g.rows) > 0 {
		fmt.Fprintf(t.out, "  %s the same\n", counted(int64(same), "metric"))
	}
}

func number(v float64) string {
	if v == math.Trunc(v) && math.Abs(v) < 1e9 {
		return fmt.Sprintf("%.0f", v)
	}
	return fmt.Sprintf("%.4f", v)
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
