package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"pipe/runtime/artifact"
	"pipe/runtime/engine"
)

// storeOnly reports whether a command looks at the store and not at pipelines.
func storeOnly(name string) bool { return name == "gc" || name == "pin" || name == "unpin" }

// openExisting opens the store that --store, PIPE_STORE or the place of a
// pipeline names. The pipeline itself is not read: it may be broken.
func openExisting(o *options, path string) (*artifact.Store, error) {
	dir := o.store
	if dir == "" {
		dir = os.Getenv("PIPE_STORE")
	}
	if dir == "" {
		st, err := os.Stat(path)
		if err != nil {
			return nil, err
		}
		if !st.IsDir() {
			path = filepath.Dir(path)
		}
		dir = filepath.Join(path, ".pipe")
	}
	if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("there is no store at %s; name one with --store or PIPE_STORE, or the pipeline it lies beside", dir)
	}
	return artifact.OpenStore(dir)
}

// days is a flag for a duration, which may be in days: 36h, 14d.
type days time.Duration

func (d *days) String() string { return age(time.Duration(*d)) }

func (d *days) Set(v string) error {
	var err error
	var got time.Duration
	if n, ok := strings.CutSuffix(v, "d"); ok {
		var f float64
		f, err = strconv.ParseFloat(n, 64)
		got = time.Duration(f * float64(24*time.Hour))
	} else {
		got, err = time.ParseDuration(v)
	}
	if err != nil || got < 0 {
		return errors.New(`must be a duration such as "36h" or "14d"`)
	}
	*d = days(got)
	return nil
}

// age prints a long duration for people.
func age(d time.Duration) string {
	switch {
	case d < time.Minute:
		return fmt.Sprintf("%d s", int(d.Seconds()))
	case d < 2*time.Hour:
		return fmt.Sprintf("%d m", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%d h", int(d.Hours()))
	}
	return fmt.Sprintf("%d days", int(d.Hours()/24))
}

func runGC(ctx context.Context, t *app, args []string) int {
	keepRuns, dry := engine.KeepRunsDefault, false
	grace, workGrace := days(artifact.GraceDefault), days(artifact.WorkGraceDefault)
	o, pos, err := parse(t, "gc", args, func(fs *flag.FlagSet, o *options) {
		fs.IntVar(&keepRuns, "keep-runs", keepRuns, "keep what the last `N` runs of each pipeline made and used")
		fs.Var(&grace, "grace", "spare what changed within `D`, such as 36h or 7d")
		fs.Var(&workGrace, "work-grace", "spare checkpoints of stages that were stopped, and what was measured and used, within `D`")
		fs.BoolVar(&dry, "dry-run", false, "change nothing; say what would be removed")
		fs.BoolVar(&o.json, "json", false, "print one JSON object")
	})
	if err != nil {
		return usageCode(err)
	}
	if keepRuns < 0 {
		t.errorf("--keep-runs %d: must be 0 or more", keepRuns)
		return exitUsage
	}
	store, err := openExisting(o, pos[0])
	if err != nil {
		t.errorf("%v", err)
		return exitUsage
	}
	roots, err := engine.FindRoots(store, keepRuns)
	if err != nil {
		t.errorf("gc removed nothing: %v", err)
		return exitFailed
	}
	for _, w := range roots.Warnings {
		t.printf("%s %s\n", t.errInk.paint(yellow, "warning:"), clean(w))
	}
	got, err := store.Collect(ctx, artifact.CollectOptions{
		Keep: roots.Keys, Grace: time.Duration(grace), WorkGrace: time.Duration(workGrace), DryRun: dry,
	})
	if o.json {
		jsonLines(t.out).Encode(gcLine(roots, got, dry, err))
	} else {
		writeCollected(t, store, roots, got, dry)
	}
	switch {
	case err != nil && ctx.Err() != nil:
		t.printf("interrupted; what is listed was removed, the store is as good as before\n")
		return exitInterrupted
	case err != nil:
		t.errorf("%v", err)
		return exitFailed
	}
	return exitOK
}

func gcLine(roots *engine.Roots, got *artifact.Collected, dry bool, err error) map[string]any {
	var work []map[string]any
	for _, u := range got.Unfinished {
		work = append(work, map[string]any{"key": u.Key, "stage": u.Addr, "bytes": u.Bytes, "running": u.Running,
			"age_seconds": u.Age.Seconds(), "left_seconds": u.Left.Seconds()})
	}
	warnings := append([]string{}, roots.Warnings...)
	return map[string]any{"type": "gc", "ok": err == nil, "dry_run": dry, "freed_bytes": got.Freed(),
		"records": got.Records, "objects": got.Objects, "work": got.Work, "temp": got.Temp, "memos": got.Memos, "leases": got.Leases,
		"kept_records": got.KeptRecords, "kept_objects": got.KeptObjects, "unfinished": work, "live": got.Live,
		"runs": roots.Runs, "pinned": roots.Pinned, "baselines": roots.Baselines, "pipelines": roots.Pipelines, "warnings": warnings}
}

func writeCollected(t *app, store *artifact.Store, roots *engine.Roots, got *artifact.Collected, dry bool) {
	fmt.Fprintf(t.out, "needed by %s, %d pinned, %s, and the last state of %s\n", counted(int64(roots.Runs), "recent run"),
		roots.Pinned, counted(int64(roots.Baselines), "baseline"), counted(int64(roots.Pipelines), "pipeline"))
	if got.Live > 0 {
		fmt.Fprintf(t.out, "%s the store now; what it uses stays\n", usersOf(got.Live))
	}
	word := "removed"
	if dry {
		word = "would remove"
	}
	g := grid{right: []bool{false, true, true}}
	for _, row := range []struct {
		what string
		n    artifact.Tally
	}{
		{"artifacts", got.Objects}, {"records", got.Records}, {"unfinished work", got.Work}, {"half-written files", got.Temp}, {"measured before, unused", got.Memos}, {"marks of dead processes", got.Leases},
	} {
		if row.n.N > 0 {
			g.add("  "+word+" "+row.what, strconv.Itoa(row.n.N), size(row.n.Bytes))
		}
	}
	g.write(t.out)
	for _, u := range got.Unfinished {
		whose := u.Addr
		if whose == "" {
			whose = "work/" + u.Key.String()[:12]
		}
		state := fmt.Sprintf("last changed %s ago, kept for %s more", age(u.Age), age(u.Left))
		if u.Running {
			state = "running"
		}
		fmt.Fprintf(t.out, "  unfinished: %s, %s, %s\n", clean(whose), size(u.Bytes), state)
	}
	what := "freed"
	if dry {
		what = "would be freed"
	}
	fmt.Fprintf(t.out, "%s %s; %s of %s stay (journals of teachers' answers always do)\n", size(got.Freed()), what,
		size(got.KeptObjects.Bytes), counted(int64(got.KeptObjects.N), "artifact"))
}

func usersOf(n int) string {
	if n == 1 {
		return "1 process uses"
	}
	return fmt.Sprintf("%d processes use", n)
}

func runPin(_ context.Context, t *app, args []string) int {
	return pin(t, "pin", args, engine.Pin, "is pinned: gc keeps what it made and used")
}

func runUnpin(_ context.Context, t *app, args []string) int {
	return pin(t, "unpin", args, engine.Unpin, "is no longer pinned")
}

func pin(t *app, name string, args []string, do func(*artifact.Store, string) error, done string) int {
	o, pos, err := parse(t, name, args, nil)
	if err != nil {
		return usageCode(err)
	}
	store, dir, pipeline, err := storeNear(o, pos[1])
	if err != nil {
		t.errorf("%v", err)
		return exitUsage
	}
	run := pos[0]
	if f, err := engine.FindRun(store, run, dir, pipeline); err == nil {
		run = f.Run
	} else if name == "pin" {
		t.errorf("%v", err)
		return exitFailed
	}
	if err := do(store, run); err != nil {
		t.errorf("%v", err)
		return exitFailed
	}
	fmt.Fprintf(t.out, "run %s %s\n", run, done)
	return exitOK
}
