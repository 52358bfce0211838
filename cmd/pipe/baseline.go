package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"pipe/runtime/artifact"
	"pipe/runtime/engine"
	"pipe/runtime/lang"
)

// runAndFile sorts out the arguments [RUN] [FILE|DIR] when only one was given: a
// file or directory that is there, or a name ending in .hcl, is the pipeline.
func runAndFile(run, file string) (string, string) {
	if run == "" || file != "." {
		return run, file
	}
	if _, err := os.Stat(run); err == nil || strings.HasSuffix(run, ".hcl") || strings.ContainsAny(run, `/\`) {
		return "", run
	}
	return run, file
}

// stored is a pipeline with its store, for commands that look at runs.
type stored struct {
	prog  *lang.Program
	store *artifact.Store
}

// openStored loads a pipeline and opens its store. Errors have been printed.
func openStored(t *app, o *options, path string) (stored, int) {
	prog, ok := load(t, o, path)
	if !ok {
		return stored{}, exitUsage
	}
	dir := storeDir(o, prog)
	if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		t.errorf("there is no store at %s; pipe run makes it, or name another with --store or PIPE_STORE", dir)
		return stored{}, exitFailed
	}
	store, err := artifact.OpenStore(dir)
	if err != nil {
		t.errorf("%v", err)
		return stored{}, exitFailed
	}
	return stored{prog, store}, exitOK
}

func runBaseline(_ context.Context, t *app, args []string) int {
	o, pos, err := parse(t, "baseline", args, func(fs *flag.FlagSet, o *options) {
		fs.BoolVar(&o.json, "json", false, "print one JSON object a line")
	})
	if err != nil {
		return usageCode(err)
	}
	what := pos[0]
	run, file := runAndFile(pos[1], pos[2])
	if what != "set" && run != "" && file == "." {
		t.errorf("pipe baseline %s takes [FILE|DIR]; there is no %s", what, run)
		return exitUsage
	}
	switch what {
	case "set", "show", "clear":
	default:
		t.errorf("pipe baseline %s: write set RUN, show or clear%s", what, suggest(what, []string{"set", "show", "clear"}))
		return exitUsage
	}
	if what == "set" && run == "" {
		t.errorf("pipe baseline set takes RUN [FILE|DIR]; RUN is the name of a run, or part of it, or last")
		return exitUsage
	}
	s, code := openStored(t, o, file)
	if code != exitOK {
		return code
	}
	if err := s.baseline(t, o, what, run); err != nil {
		t.errorf("%v", err)
		return exitFailed
	}
	return exitOK
}

func (s stored) baseline(t *app, o *options, what, run string) error {
	switch what {
	case "set":
		f, err := engine.FindRunOf(s.store, s.prog, run)
		if err != nil {
			return err
		}
		if err := engine.SetBaseline(s.store, s.prog, f); err != nil {
			return err
		}
		if left := engine.Unmeasured(s.prog, &f.Result); len(left) > 0 {
			t.printf("%s run %s has no results to compare with of %s\n", t.errInk.paint(yellow, "warning:"), clean(f.Run), clean(firstOf(left)))
		}
	case "clear":
		was, err := engine.ClearBaseline(s.store, s.prog)
		if err != nil {
			return err
		}
		if !was {
			fmt.Fprintf(t.out, "no baseline was set for %s\n", clean(s.prog.Name))
		} else {
			fmt.Fprintf(t.out, "%s has no baseline any more\n", clean(s.prog.Name))
		}
		return nil
	}
	b, err := engine.ReadBaseline(s.store, s.prog)
	if err != nil {
		return err
	}
	if o.json {
		return jsonLines(t.out).Encode(map[string]any{"type": "baseline", "baseline": b})
	}
	if b == nil {
		fmt.Fprintf(t.out, "no baseline is set for %s; gates take the base model for it\n", clean(s.prog.Name))
		return nil
	}
	fmt.Fprintf(t.out, "the baseline of %s is run %s, set on %s\n", clean(s.prog.Name), clean(b.Run), moment(b.Set))
	return nil
}
