package main

import (
	"context"
	"flag"
	"fmt"
	"strings"
	"time"

	"pipe/runtime/artifact"
	"pipe/runtime/engine"
)

func runVerify(ctx context.Context, t *app, args []string) int {
	var rerun string
	repair := false
	o, pos, err := parse(t, "verify", args, func(fs *flag.FlagSet, o *options) {
		fs.StringVar(&rerun, "rerun", "", "run the stage `ADDR` again, aside, and compare its outputs byte for byte with the stored ones")
		fs.BoolVar(&repair, "repair", false, "move what is damaged into damaged/ in the store, so that the next run makes it again")
		fs.BoolVar(&o.json, "json", false, "print one JSON object a line")
		fs.StringVar(&o.progress, "progress", "auto", "`HOW`: auto, plain, json (lines on standard error) or none")
	})
	if err != nil {
		return usageCode(err)
	}
	ui, err := newObserver(t.terminal, o)
	if err != nil {
		t.errorf("%v", err)
		return exitUsage
	}
	if rerun != "" && repair {
		t.errorf("--rerun leaves the store as it is; give either it or --repair")
		return exitUsage
	}
	if rerun != "" {
		return verifyStage(ctx, t, o, ui, rerun, pos[0])
	}
	store, err := openExisting(o, pos[0])
	if err != nil {
		t.errorf("%v", err)
		return exitUsage
	}
	ui.begin()
	begin := time.Now()
	found, err := store.Verify(ctx, engine.CheckRecord, every(maxTold, func(done, total int64) {
		ui.observe(engine.Event{Type: engine.ProgressEvent, Addr: "verify", Done: done, Total: total, Unit: "bytes"})
	}))
	ui.end()
	if err != nil {
		if ctx.Err() != nil {
			return exitInterrupted
		}
		t.errorf("%v", err)
		return exitFailed
	}
	code := exitOK
	for _, d := range found.Damages {
		code = exitFailed
		moved := ""
		if repair {
			if moved, err = store.SetAside(d); err != nil {
				t.errorf("%v", err)
			}
		}
		writeDamage(t, o, d, moved)
	}
	if o.json {
		jsonLines(t.out).Encode(map[string]any{"type": "verify", "ok": code == exitOK, "records": found.Records, "objects": found.Objects,
			"bytes": found.Bytes, "damaged": len(found.Damages), "missing": found.Missing, "seconds": time.Since(begin).Seconds()})
		return code
	}
	for _, m := range found.Missing {
		fmt.Fprintf(t.out, "%s, made by run %s, is not in the store: it will be made again when it is needed\n", clean(strings.TrimSuffix(m.Addr+"."+m.Output, ".")), clean(m.Run))
	}
	fmt.Fprintf(t.out, "%s and %s read, %s in %s: %s\n", counted(int64(found.Objects), "artifact"), counted(int64(found.Records), "record"),
		size(found.Bytes), duration(time.Since(begin)), damages(len(found.Damages)))
	if code != exitOK && !repair {
		t.printf("pipe verify --repair moves what is damaged away, so that the next run makes it again\n")
	}
	return code
}

// maxTold is the least time between two reports of progress.
const maxTold = 100 * time.Millisecond

// every passes on the first call, the last one, and one each d between.
func every(d time.Duration, f func(done, total int64)) func(done, total int64) {
	var last time.Time
	return func(done, total int64) {
		if now := time.Now(); now.Sub(last) >= d || done == total {
			last = now
			f(done, total)
		}
	}
}

func damages(n int) string {
	if n == 0 {
		return "all whole"
	}
	return counted(int64(n), "file") + " damaged"
}

func writeDamage(t *app, o *options, d artifact.Damage, moved string) {
	if o.json {
		jsonLines(t.out).Encode(map[string]any{"type": "damage", "path": d.Path, "problem": d.Problem, "made_by": d.Makers, "moved_to": moved})
		return
	}
	fmt.Fprintf(t.out, "%s %s\n  %s\n", t.outInk.paint(red, "damaged:"), clean(d.Path), clean(d.Problem))
	for _, m := range d.Makers {
		fmt.Fprintf(t.out, "  made by %s in run %s\n", clean(strings.TrimSuffix(m.Addr+"."+m.Output, ".")), clean(m.Run))
	}
	if moved != "" {
		fmt.Fprintf(t.out, "  moved to %s\n", clean(moved))
	}
}

// verifyStage runs one stage again and compares.
func verifyStage(ctx context.Context, t *app, o *options, ui *observer, addr, path string) int {
	prog, ok := load(t, o, path)
	if !ok {
		return exitUsage
	}
	addrs := prog.Addrs(addr)
	if len(addrs) != 1 || prog.Node(addrs[0]).Kind == nil {
		var names []string
		for _, n := range prog.Nodes {
			if n.Kind != nil {
				names = append(names, n.Addr)
			}
		}
		t.errorf("--rerun %s: the pipeline has no such stage%s", addr, suggest(addr, names))
		return exitUsage
	}
	opts, closeAll, err := setup(t, o, prog)
	if err != nil {
		t.errorf("%v", err)
		return setupCode(err)
	}
	defer closeAll()
	opts.Observer = ui.observe
	ui.begin()
	begin := time.Now()
	r, err := engine.RunAgain(ctx, prog, addrs[0], opts)
	ui.end()
	if err != nil {
		if ctx.Err() != nil {
			return exitInterrupted
		}
		reportErrors(t, prog, nil, err)
		return exitFailed
	}
	if o.json {
		jsonLines(t.out).Encode(map[string]any{"type": "rerun", "ok": len(r.Differences) == 0, "stage": r.Addr, "key": r.Key, "files": r.Files,
			"bytes": r.Bytes, "differences": r.Differences, "seconds": time.Since(begin).Seconds()})
	} else {
		for _, d := range r.Differences {
			fmt.Fprintf(t.out, "%s %s %s\n", t.outInk.paint(red, "differs:"), clean(strings.TrimPrefix(d.Output+"/"+d.File, "/")), d.Why)
		}
		if len(r.Differences) == 0 {
			fmt.Fprintf(t.out, "%s made the same again: %s, %s, in %s\n", r.Addr, counted(int64(r.Files), "file"), size(r.Bytes), duration(time.Since(begin)))
		} else {
			fmt.Fprintf(t.out, "%s is not deterministic, or what it depends on is not all in its key; the store is as it was\n", r.Addr)
		}
	}
	if len(r.Differences) > 0 {
		return exitFailed
	}
	return exitOK
}
