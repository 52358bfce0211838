package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"path/filepath"

	"pipe/runtime/lock"
)

// runLock writes pipe.lock: entries that are missing, or with --upgrade all of
// them anew.
func runLock(ctx context.Context, t *app, args []string) int {
	o, pos, err := parse(t, "lock", args, func(fs *flag.FlagSet, o *options) {
		fs.BoolVar(&o.upgrade, "upgrade", false, "ask again what branches and tags are, and accept what changed on this machine")
	})
	if err != nil {
		return usageCode(err)
	}
	o.fetch = ctx
	prog, ok := load(t, o, pos[0])
	if !ok && ctx.Err() != nil { // while a module was fetched
		return exitInterrupted
	}
	if !ok {
		return exitUsage
	}
	opts, closeAll, err := setup(t, o, prog)
	if err != nil {
		t.errorf("%v", err)
		return setupCode(err)
	}
	defer closeAll()
	old := o.pins.file
	o.pins.verify = true
	now, err := o.pins.now(ctx, o, prog, opts)
	if ctx.Err() != nil {
		return exitInterrupted
	}
	if err != nil {
		reportErrors(t, prog, nil, err)
		return exitFailed
	}
	merged := old.Merge(now, o.upgrade)
	if info, err := os.Stat(pos[0]); err == nil && info.IsDir() && o.upgrade {
		merged = now // nobody else has a say in a directory that is one pipeline
	}
	path := fromHere(filepath.Join(o.pins.dir, lock.Name))
	kept := 0
	for _, d := range old.Compare(now) {
		switch {
		case d.Locked == "":
			fmt.Fprintf(t.out, "+ %s: %s\n", clean(d.What), clean(d.Now))
		case o.upgrade:
			fmt.Fprintf(t.out, "~ %s: %s → %s\n", clean(d.What), clean(d.Locked), clean(d.Now))
		default:
			kept++
			t.printf("%s %s is kept as it was locked: %s, now %s; --upgrade accepts it\n", t.errInk.paint(yellow, "warning:"), clean(d.What), clean(d.Locked), clean(d.Now))
		}
	}
	wrote, err := merged.Write(o.pins.dir)
	if err != nil {
		t.errorf("write %s: %v", path, err)
		return exitFailed
	}
	what := fmt.Sprintf("%s, %s, %s", counted(int64(len(merged.Modules)), "module"), counted(int64(len(merged.Models)), "model"), counted(int64(len(merged.Data)), "dataset"))
	if wrote {
		fmt.Fprintf(t.out, "%s pins %s\n", path, what)
	} else if kept > 0 {
		fmt.Fprintf(t.out, "%s is as it was: %s, of which %d changed since\n", path, what, kept)
	} else {
		fmt.Fprintf(t.out, "%s is up to date: %s\n", path, what)
	}
	return exitOK
}
