package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/hashicorp/hcl/v2"

	"pipe/runtime/artifact"
	"pipe/runtime/engine"
	"pipe/runtime/lang"
	"pipe/runtime/stage"
)

func runFlags(fs *flag.FlagSet, o *options) {
	fs.Var(&o.targets, "target", "run only this `ADDR` and what it needs; may be repeated")
	fs.Var(&o.force, "force", "run `ADDR` even if it is up to date; may be repeated")
	fs.StringVar(&o.executor, "executor", "local", "`WHERE` stages run: local; slurm is not part of this version")
	fs.IntVar(&o.parallelism, "parallelism", 0, "`N` stages running at once (default: processors)")
	fs.DurationVar(&o.maxTime, "max-time", 0, "stop after this `TIME`, such as 2h, as budget_time in the pipeline block does: checkpoints are saved, and the next run goes on")
	fs.BoolVar(&o.keepGoing, "keep-going", false, "after a failure, go on with what does not need the failed stage")
	fs.BoolVar(&o.json, "json", false, "print one JSON object a line")
	fs.StringVar(&o.progress, "progress", "auto", "`HOW`: auto, plain, json (lines on standard error) or none")
	fs.BoolVar(&o.locked, "locked", false, "refuse to go on unless everything from outside is what pipe.lock says")
	fs.StringVar(&o.logLevel, "log-level", "", "also log to the terminal from this `LEVEL` on: debug, info, warn or error")
}

func runRun(ctx context.Context, t *app, args []string) int {
	o, pos, err := parse(t, "run", args, runFlags)
	if err != nil {
		return usageCode(err)
	}
	start := time.Now()
	o.fetch = ctx
	if pos[0], err = unpackBundle(t, o, pos[0]); err != nil {
		t.errorf("%v", err)
		return finish(t, o, nil, exitUsage)
	}
	o.stamp = newStamper(o, args, pos[0])
	if n, ok := o.stamp.upToDate(); ok {
		nothingToDo(t, n, time.Since(start))
		return exitOK
	}
	r := execute(ctx, t, o, pos[0])
	if r.code == exitOK && !r.prog.Sensitive && !t.said {
		o.stamp.leave(r.res, start)
	}
	return finish(t, o, r.res, r.code)
}

// A ran is a pipeline after its run: its exit code, and as much else as came
// about.
type ran struct {
	code  int
	prog  *lang.Program
	store *artifact.Store
	res   *engine.Result
}

// execute runs a pipeline and prints what there is to say about it, but for the
// last line of --json.
func execute(ctx context.Context, t *app, o *options, path string) (r ran) {
	start := time.Now()
	r.code = exitUsage
	outliveReaders()
	ui, err := newObserver(t.terminal, o)
	if err != nil {
		t.errorf("%v", err)
		return r
	}
	prog, ok := load(t, o, path)
	if !ok && ctx.Err() != nil { // while a module was fetched
		r.code = exitInterrupted
		return r
	}
	if !ok {
		return r
	}
	r.prog = prog
	opts, closeAll, err := setup(t, o, prog)
	if err != nil {
		t.errorf("%v", err)
		r.code = setupCode(err)
		return r
	}
	defer closeAll()
	r.store = opts.Store
	if code := checkLock(ctx, t, o, prog, opts); code != exitOK {
		r.code = code
		return r
	}
	opts.Observer = ui.observe
	ui.begin()
	hush := context.AfterFunc(ctx, func() { stopping(ctx, t) })
	r.res, err = engine.Run(ctx, prog, opts)
	hush()
	ui.end()
	r.code = exitCode(ctx, r.res, err)
	if r.code == exitBudget {
		reportBudget(t, o, r.res, err)
	} else if r.code != exitInterrupted {
		reportErrors(t, prog, r.res, err)
	}
	if r.code == exitFailed {
		t.printf("the log is %s\n", filepath.Join(opts.Store.Dir(), logName))
	}
	switch {
	case o.json:
	case r.code == exitBudget:
	case r.code == exitInterrupted:
		t.printf("interrupted; what was finished is kept, run the same command again to go on\n")
	case r.res != nil:
		summarise(t, prog, opts.Store, r.res, time.Since(start))
	}
	return r
}

// exitCode maps how the run ended to pipe's contract.
func exitCode(ctx context.Context, res *engine.Result, err error) int {
	switch {
	case err != nil && ctx.Err() != nil:
		return exitInterrupted
	case err != nil && res == nil:
		return exitUsage
	case count(res, engine.Failed) == 0 && errors.As(err, new(*stage.BudgetError)):
		return exitBudget
	case err != nil:
		return exitFailed
	case !res.GatesPassed():
		return exitGate
	}
	return exitOK
}

// finish prints the last line of --json, and returns the exit code.
func finish(t *app, o *options, res *engine.Result, code int) int {
	if !o.json {
		return code
	}
	line := map[string]any{"type": "run", "ok": code == exitOK, "exit": code}
	if res != nil {
		line["run"], line["seconds"], line["ran"], line["cached"] = res.Run, res.Seconds, res.Ran, res.Cached
	}
	if o.verdict != "" {
		line["verdict"] = o.verdict
	}
	jsonLines(t.out).Encode(line)
	return code
}

// reportErrors prints each failure once: as a diagnostic at its line where it
// has one, else as a line.
func reportErrors(t *app, prog *lang.Program, res *engine.Result, err error) {
	if err == nil {
		return
	}
	var diags hcl.Diagnostics
	list := []error{err}
	if m, ok := err.(interface{ Unwrap() []error }); ok {
		list = m.Unwrap()
	}
	for _, e := range list {
		var se *engine.StageError
		if errors.As(e, &se) && len(se.Diags) > 0 {
			diags = append(diags, se.Diags...)
			continue
		}
		t.errorf("%v", e)
	}
	if len(diags) > 0 {
		t.diagnose(prog.Files, diags)
	}
	if res == nil {
		return
	}
	for _, s := range res.Stages {
		if s.State == engine.Failed && s.Spent != nil && s.Spent.Calls+s.Spent.Lost > 0 {
			t.printf("%s failed after %s; answers are kept, and not asked for again\n", s.Addr, stage.Cost(*s.Spent))
		}
	}
	if n := count(res, engine.Skipped); n > 0 {
		t.printf("%s did not run; what is done is kept, mend the failure and run again\n", plural(n))
	}
}

// summarise says what was made: notes, the comparison tables, exports.
func summarise(t *app, prog *lang.Program, store *artifact.Store, res *engine.Result, took time.Duration) {
	failed := count(res, engine.Failed)
	if res.Unnoted != nil {
		defer t.printf("this run is not noted in the store: %s\n", clean(why(res.Unnoted)))
	}
	if res.Ran == 0 && failed == 0 && res.GatesPassed() {
		copies(t, res)
		nothingToDo(t, res.Cached, took)
		return
	}
	notes(t, res)
	tables(t, store, res)
	exports(t, store, res)
	copies(t, res)
	for i, g := range res.Gates {
		if i == 0 {
			fmt.Fprintln(t.out)
		}
		fmt.Fprintln(t.out, gateLine(t, g))
		if len(g.Diags) > 0 {
			t.diagnose(prog.Files, g.Diags)
		}
	}
	fmt.Fprintf(t.out, "\n%s ran, %d up to date, %d failed, in %s (run %s)\n", plural(res.Ran), res.Cached, failed, duration(took), res.Run)
}

// why says in few words why nothing could be written.
func why(err error) string {
	if errors.Is(err, artifact.ErrUnwritable) {
		return "it may only be read"
	}
	return err.Error()
}

// gateLine is the verdict of a gate: whether it passed, why not, and the numbers.
func gateLine(t *app, g engine.GateResult) string {
	s := fmt.Sprintf("%s gate %s of %s ", t.outInk.paint(green, "✓"), g.Name, g.Stage) + "passed"
	if !g.Pass {
		s = fmt.Sprintf("%s gate %s of %s failed: %s", t.outInk.paint(red, "✗"), g.Name, g.Stage, clean(g.Message))
	}
	if v := g.Values; v != "" {
		if g.Baseline != "" {
			v += ", baseline: run " + g.Baseline
		}
		s += " (" + clean(v) + ")"
	}
	if g.Note != "" {
		s += "; " + clean(g.Note)
	}
	return s
}

func nothingToDo(t *app, stages int, took time.Duration) {
	fmt.Fprintf(t.out, "Nothing to do: %s up to date (%s).\n", plural(stages), duration(took))
}

// plural counts stages in words.
func plural(n int) string { return counted(int64(n), "stage") }

func counted(n int64, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

func count(res *engine.Result, state engine.State) (n int) {
	for _, s := range res.Stages {
		if s.State == state {
			n++
		}
	}
	return n
}

// notes prints what the stages that ran had to say.
func notes(t *app, res *engine.Result) {
	first := true
	for _, s := range res.Stages {
		if s.State != engine.Done {
			continue
		}
		for _, n := range s.Notes {
			if first {
				fmt.Fprintln(t.out)
				first = false
			}
			fmt.Fprintf(t.out, "%s: %s\n", s.Addr, clean(n))
		}
	}
}

// exports says where the exported files are.
func exports(t *app, store *artifact.Store, res *engine.Result) {
	for _, s := range res.Stages {
		for _, name := range sortedKeys(s.Outputs) {
			if o := s.Outputs[name]; o.Type == artifact.File {
				fmt.Fprintf(t.out, "\n%s lies in %s\n", s.Addr, store.ObjectDir(o.Digest))
			}
		}
	}
}

// copies says where copies outside the store were written.
func copies(t *app, res *engine.Result) {
	for _, s := range res.Stages {
		if s.Placed != "" {
			fmt.Fprintf(t.out, "%s was copied to %s\n", s.Addr, clean(fromHere(s.Placed)))
		}
	}
}

// fromHere is path as seen from the working directory when it lies below it.
func fromHere(path string) string {
	if here, err := os.Getwd(); err == nil && filepath.IsAbs(path) {
		if rel, err := filepath.Rel(here, path); err == nil && filepath.IsLocal(rel) {
			return rel
		}
	}
	return filepath.Clean(path)
}

// duration prints d for people: 850 ms, 12.3 s, 4 m 05 s, 2 h 07 m.
func duration(d time.Duration) string {
	switch {
	case d < time.Second:
		return fmt.Sprintf("%d ms", d.Milliseconds())
	case d < 59950*time.Millisecond:
		return fmt.Sprintf("%.1f s", d.Seconds())
	}
	d = d.Round(time.Second)
	if d < time.Hour {
		return fmt.Sprintf("%d m %02d s", int(d.Minutes()), int(d.Seconds())%60)
	}
	return fmt.Sprintf("%d h %02d m", int(d.Hours()), int(d.Minutes())%60)
}
