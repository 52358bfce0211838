// Command kill kills pipe at random instants, and where it writes, and holds
// what is left against a run that was not killed:
//
//	go run ./bench/kill -n 200
//	go run ./bench/kill -n 200 -recipe quickstart
//
// Each run goes on with the store of the killed one before. After every kill all
// that is published is read and hashed again, and the journal is compared with
// what the teacher, a server in this process, was asked. It ends with a table,
// or with the first thing that is wrong and exit code 1.
package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"time"

	"pipe/bench/kill/harness"
)

func main() {
	n := flag.Int("n", 200, "kills")
	seed := flag.Uint64("seed", 1, "chooses the instants")
	recipe := flag.String("recipe", "small", "small, or quickstart")
	together := flag.Int("together", 8, "processes that share a store, beside the kills; 0: none")
	verbose := flag.Bool("v", false, "print a line for each kill")
	flag.Parse()
	if err := run(*n, *seed, *recipe, *together, *verbose); err != nil {
		fmt.Fprintln(os.Stderr, "kill:", err)
		os.Exit(1)
	}
}

func run(n int, seed uint64, recipe string, together int, verbose bool) error {
	dir, err := os.MkdirTemp("", "kill")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	h := &harness.Harness{Pipe: filepath.Join(dir, "pipe"), Dir: dir}
	if verbose {
		h.Log = os.Stderr
	}
	if out, err := exec.Command("go", "build", "-o", h.Pipe, "pipe/cmd/pipe").CombinedOutput(); err != nil {
		return fmt.Errorf("build: %w\n%s", err, out)
	}
	switch recipe {
	case "small":
		h.Recipe, err = harness.Small(filepath.Join(dir, "recipe"))
	case "quickstart":
		h.Recipe, err = harness.Quickstart(".", filepath.Join(dir, "recipe"))
	default:
		err = errors.New("-recipe is small or quickstart")
	}
	if err != nil {
		return err
	}
	defer h.Recipe.Teacher.Close()
	if err := h.Whole(); err != nil {
		return fmt.Errorf("a run that is not killed: %w", err)
	}
	if together > 0 {
		if err := h.Together(together); err != nil {
			return fmt.Errorf("%d processes on one store: %w", together, err)
		}
		fmt.Printf("%d processes on one store: each of %d stages ran once\n", together, h.Recipe.Stages)
		if err := h.TakenOver(); err != nil {
			return fmt.Errorf("a process waits for one that is killed: %w", err)
		}
	}
	t, err := h.Kill(n, seed)
	if err != nil {
		return err
	}
	table(os.Stdout, t)
	return nil
}

func table(w io.Writer, t *harness.Tally) {
	row := func(what string, v any) { fmt.Fprintf(w, "  %-52s %v\n", what, v) }
	fmt.Fprintf(w, "%d kills of %d runs on %d stores in %v; a run that is not killed takes %v\n",
		t.Kills, t.Runs, t.Rounds, t.Took.Round(time.Second), t.Whole.Round(10*time.Millisecond))
	for _, m := range []struct {
		name string
		by   map[string]int
	}{{"killed when ", t.ByAim}, {"killed while it ran: ", t.Running}} {
		for _, k := range slices.Sorted(maps.Keys(m.by)) {
			row(m.name+k, m.by[k])
		}
	}
	row("kills that left half an artifact", t.HalfArtifacts)
	row("kills that left half a record", t.HalfRecords)
	row("kills that left half a checkpoint", t.HalfCheckpoints)
	row("kills that left half a line of the journal", t.HalfLines)
	row("artifacts hashed again; none was damaged", t.Hashed)
	row("stores whose results differ from the whole run's", 0)
	row("calls of the teacher", t.Calls)
	row("of these, cut off by a kill and asked again", t.InFlight)
	row("most of them at one kill", t.MostInFlight)
	row("calls paid again whose answer was in the journal", 0)
	row("most checkpoints that an action kept", t.MostCheckpoints)
}
