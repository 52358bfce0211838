package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"time"

	"pipe/runtime/artifact"
	"pipe/runtime/engine"
	"pipe/runtime/lang"
)

func runFlags(fs *flag.FlagSet, o *options) {
	fs.Var(&o.targets, "target", "run only this `ADDR` and what it needs; may be repeated")
	fs.Var(&o.force, "force", "run `ADDR` even if it is up to date; may be repeated")
	fs.IntVar(&o.parallelism, "parallelism", 0, "stages running at once (default: processors)")
	fs.BoolVar(&o.keepGoing, "keep-going", false, "after a failure, go on with what does not need the failed stage")
	fs.BoolVar(&o.json, "json", false, "print one JSON object a line")
	fs.StringVar(&o.progress, "progress", "auto", "auto, plain, json or none")
	fs.StringVar(&o.logLevel, "log-level", "", "also log to the terminal from this `LEVEL` on: debug, info, warn or error")
}

func runRun(ctx context.Context, t *terminal, args []string) int {
	start := time.Now()
	o, pos, err := parse(t, "run", args, 1, runFlags)
	if err != nil {
		return usageCode(err)
	}
	ui, err := newObserver(t, o)
	if err != nil {
		t.errorf("%v", err)
		return exitUsage
	}
	prog, ok := load(t, o, pos[0])
	if !ok {
		return exitUsage
	}
	opts, closeAll, err := setup(t, o, prog)
	if err != nil {
		t.errorf("%v", err)
		return exitFailed
	}
	defer closeAll()
	opts.Observer = ui.observe
	ui.begin(prog)
	res, err := engine.Run(ctx, prog, opts)
	ui.end()
	code := exitCode(ctx, res, err)
	if o.json {
		return finishJSON(t, res, code)
	}
	reportErrors(t, prog, res, err)
	if code == exitInterrupted {
		t.printf("interrupted; what was finished is kept, run the same command again to go on\n")
		return code
	}
	if res != nil {
		summarise(t, prog, opts.Store, res, time.Since(start))
	}
	return code
}

// exitCode maps how the run ended to pipe's contract.
func exitCode(ctx context.Context, res *engine.Result, err error) int {
	switch {
	case err != nil && ctx.Err() != nil:
		return exitInterrupted
	case err != nil && res == nil:
		return exitUsage
	case err != nil:
		return exitFailed
	case !res.GatesPassed():
		return exitGate
	}
	return exitOK
}

func finishJSON(t *terminal, res *engine.Result, code int) int {
	line := map[string]any{"type": "run", "ok": code == exitOK, "exit": code}
	if res != nil {
		line["run"], line["seconds"], line["ran"], line["cached"] = res.Run, res.Seconds, res.Ran, res.Cached
	}
	json.NewEncoder(t.out).Encode(line)
	return code
}

// reportErrors prints each failure once: as a diagnostic at its line where it
// has one, else as a line.
func reportErrors(t *terminal, prog *lang.Program, res *engine.Result, err error) {
	if err == nil || errors.Is(err, context.Canceled) {
		return
	}
	var list []error
	if m, ok := err.(interface{ Unwrap() []error }); ok {
		list = m.Unwrap()
	} else {
		list = []error{err}
	}
	for _, e := range list {
		var se *engine.StageError
		if errors.As(e, &se) && len(se.Diags) > 0 {
			t.mu.Lock()
			lang.WriteDiagnostics(t.err, prog.Files, se.Diags, t.colour, t.width)
			t.mu.Unlock()
			continue
		}
		t.errorf("%v", e)
	}
	if res == nil {
		return
	}
	skipped := 0
	for _, s := range res.Stages {
		if s.State == engine.Skipped {
			skipped++
		}
	}
	if skipped > 0 {
		t.printf("%d stages that need a failed one did not run; mend it and run again: what is done is kept\n", skipped)
	}
}

// summarise says what was made: notes, the comparison tables, exports.
func summarise(t *terminal, prog *lang.Program, store *artifact.Store, res *engine.Result, took time.Duration) {
	if res.Ran == 0 && len(failed(res)) == 0 && res.GatesPassed() {
		fmt.Fprintf(t.out, "Nothing to do: %d stages up to date (%d ms).\n", res.Cached, took.Milliseconds())
		return
	}
	notes(t, res)
	tables(t, store, res)
	exports(t, store, res)
	for _, g := range res.Gates {
		if g.Pass {
			fmt.Fprintf(t.out, "%s gate %s of %s passed\n", t.paint(green, "✓"), g.Name, g.Stage)
			continue
		}
		fmt.Fprintf(t.out, "%s gate %s of %s failed: %s\n", t.paint(red, "✗"), g.Name, g.Stage, g.Message)
		if len(g.Diags) > 0 {
			lang.WriteDiagnostics(t.err, prog.Files, g.Diags, t.colour, t.width)
		}
	}
	fmt.Fprintf(t.out, "\n%d stages ran, %d up to date, %d failed, in %s (run %s)\n", res.Ran, res.Cached, len(failed(res)), duration(took), res.Run)
}

func failed(res *engine.Result) (list []engine.StageResult) {
	for _, s := range res.Stages {
		if s.State == engine.Failed {
			list = append(list, s)
		}
	}
	return list
}

func notes(t *terminal, res *engine.Result) {
	first := true
	for _, s := range res.Stages {
		for _, n := range s.Notes {
			if first {
				fmt.Fprintln(t.out)
				first = false
			}
			fmt.Fprintf(t.out, "%s: %s\n", s.Addr, n)
		}
	}
}

func exports(t *terminal, store *artifact.Store, res *engine.Result) {
	for _, s := range res.Stages {
		if s.Kind != "export" {
			continue
		}
		for _, o := range s.Outputs {
			if a, err := store.Open(o.Digest); err == nil {
				if dir, err := a.Dir(); err == nil {
					fmt.Fprintf(t.out, "\n%s lies in %s\n", s.Addr, dir)
				}
			}
		}
	}
}

// duration prints d for people: 850 ms, 12.3 s, 4 m 05 s.
func duration(d time.Duration) string {
	switch {
	case d < time.Second:
		return fmt.Sprintf("%d ms", d.Milliseconds())
	case d < time.Minute:
		return fmt.Sprintf("%.1f s", d.Seconds())
	case d < time.Hour:
		return fmt.Sprintf("%d m %02d s", int(d.Minutes()), int(d.Seconds())%60)
	}
	return fmt.Sprintf("%d h %02d m", int(d.Hours()), int(d.Minutes())%60)
}
