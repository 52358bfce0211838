package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"pipe/runtime/artifact"
	"pipe/runtime/engine"
	"pipe/runtime/lang"
)

func runPlan(ctx context.Context, t *app, args []string) int {
	o, pos, err := parse(t, "plan", args, func(fs *flag.FlagSet, o *options) {
		runFlags(fs, o)
		fs.BoolVar(&o.detailed, "detailed-exitcode", false, "exit 2 when there is work to do")
	})
	if err != nil {
		return usageCode(err)
	}
	p, code := makePlan(ctx, t, o, pos[0])
	if p == nil {
		return code
	}
	todo, maybe := 0, 0
	var g grid
	lines := jsonLines(t.out)
	for _, s := range p.steps {
		switch s.Action {
		case engine.PlanRun:
			todo++
		case engine.PlanMaybe:
			maybe++
		}
		if o.json {
			lines.Encode(map[string]any{"type": "plan", "stage": s.Addr, "action": s.Action, "reason": s.Reason})
			continue
		}
		g.add("  "+s.Action, s.Addr, s.Reason)
	}
	g.write(t.out)
	if !o.json {
		fmt.Fprintf(t.out, "%s: %d up to date, %d to run", plural(len(p.steps)), len(p.steps)-todo-maybe, todo)
		if maybe > 0 {
			fmt.Fprintf(t.out, ", %d maybe", maybe)
		}
		fmt.Fprintln(t.out)
	}
	if code == exitOK && o.detailed && todo+maybe > 0 {
		return exitUsage
	}
	return code
}

// A planned is a pipeline with what its run would do.
type planned struct {
	prog  *lang.Program
	steps []engine.Step
	store *artifact.Store
}

// makePlan loads the pipeline and plans it without touching the network. Errors
// have been printed; with those of single stages there still is a plan.
func makePlan(ctx context.Context, t *app, o *options, path string) (*planned, int) {
	prog, ok := load(t, o, path)
	if !ok {
		return nil, exitUsage
	}
	o.offline = true
	opts, closeAll, err := setup(t, o, prog)
	if err != nil {
		t.errorf("%v", err)
		return nil, setupCode(err)
	}
	defer closeAll()
	if code := checkLock(ctx, t, o, prog, opts); code != exitOK {
		return nil, code
	}
	steps, err := engine.Plan(ctx, prog, opts)
	reportErrors(t, prog, nil, err)
	switch {
	case err != nil && ctx.Err() != nil:
		return nil, exitInterrupted
	case err != nil && steps == nil:
		return nil, exitUsage
	case err != nil:
		return &planned{prog, steps, opts.Store}, exitFailed
	}
	return &planned{prog, steps, opts.Store}, exitOK
}

// step returns the stage at addr. If there is none it has said so.
func (p *planned) step(t *app, addr string) (engine.Step, bool) {
	var names, instances []string
	for _, s := range p.steps {
		if s.Addr == addr {
			return s, true
		}
		names = append(names, s.Addr)
		n := p.prog.Node(s.Addr)
		if n.Swept && (addr == n.Block || strings.HasPrefix(addr, n.Block+".")) {
			instances = append(instances, s.Addr)
		}
	}
	if len(instances) > 0 {
		t.errorf("%s has for_each; name one instance: %s", p.prog.Node(instances[0]).Block, strings.Join(instances, ", "))
		return engine.Step{}, false
	}
	t.errorf("there is no stage %q%s", addr, suggest(addr, names))
	return engine.Step{}, false
}

// record returns what the stage made with its present configuration. If it did
// not run with it, it has said so.
func (p *planned) record(t *app, s engine.Step) (*artifact.Record, bool) {
	r, err := p.store.Record(s.Key)
	if err != nil {
		t.errorf("%s has not run with its present configuration; pipe plan says why", s.Addr)
		return nil, false
	}
	return r, true
}

func runExplain(ctx context.Context, t *app, args []string) int {
	o, pos, err := parse(t, "explain", args, nil)
	if err != nil {
		return usageCode(err)
	}
	p, code := makePlan(ctx, t, o, pos[1])
	if p == nil {
		return code
	}
	addrs := p.prog.Addrs(pos[0])
	if len(addrs) == 0 {
		addrs = []string{pos[0]}
	}
	for _, addr := range addrs {
		s, ok := p.step(t, addr)
		if !ok {
			return exitUsage
		}
		fmt.Fprintf(t.out, "%s: %s: %s\n", s.Addr, s.Action, clean(s.Reason))
		if s.Action == engine.PlanCached {
			explainLast(t, p.store, s)
		}
	}
	return exitOK
}

// explainLast says why a stage that is up to date ran when it did.
func explainLast(t *app, store *artifact.Store, s engine.Step) {
	r, err := store.Record(s.Key)
	if err != nil {
		return
	}
	fmt.Fprintf(t.out, "  it ran on %s in %.1f s, in run %s", r.Created.Format("2006-01-02 15:04:05"), r.Seconds, r.Run)
	var run engine.RunFile
	b, err := os.ReadFile(filepath.Join(store.Dir(), "runs", filepath.Base(r.Run)+".json"))
	if err == nil && json.Unmarshal(b, &run) == nil {
		for _, was := range run.Stages {
			if was.Key == s.Key && was.Reason != "" {
				fmt.Fprintf(t.out, ", because: %s", clean(was.Reason))
				break
			}
		}
	}
	fmt.Fprintln(t.out)
}

func runLs(ctx context.Context, t *app, args []string) int {
	o, pos, err := parse(t, "ls", args, nil)
	if err != nil {
		return usageCode(err)
	}
	p, code := makePlan(ctx, t, o, pos[0])
	if p == nil {
		return code
	}
	g := grid{right: []bool{false, false, true, true}}
	for _, s := range p.steps {
		r, err := p.store.Record(s.Key)
		if err != nil {
			g.add(s.Addr, "–", "", "", s.Action)
			continue
		}
		for _, name := range sortedKeys(r.Outputs) {
			obj := r.Outputs[name]
			rows := ""
			if obj.Type == artifact.Dataset {
				rows = counted(obj.Rows, "row")
			}
			g.add(strings.TrimSuffix(s.Addr+"."+name, "."), string(obj.Type), rows, size(obj.Bytes), obj.Digest.String()[:19])
		}
	}
	g.write(t.out)
	return code
}

// size prints a number of bytes for people.
func size(n int64) string {
	switch {
	case n < 1<<10:
		return fmt.Sprintf("%d B", n)
	case n < 1<<20:
		return fmt.Sprintf("%.1f KiB", float64(n)/(1<<10))
	case n < 1<<30:
		return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20))
	}
	return fmt.Sprintf("%.1f GiB", float64(n)/(1<<30))
}
