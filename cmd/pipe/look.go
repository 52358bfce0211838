package main

import (
	"context"
	"flag"
	"fmt"
	"strings"

	"github.com/rs/zerolog"

	"pipe/model/memory"
	"pipe/runtime/artifact"
	"pipe/runtime/engine"
	"pipe/runtime/lang"
)

// A planned is a pipeline with what its run would do.
type planned struct {
	prog    *lang.Program
	steps   []engine.Step
	store   *artifact.Store
	options engine.Options // for more questions, of which none may open the device

	limit   memory.Limit // of the stages' memory
	limited bool
}

// makePlan loads the pipeline and plans it without touching the network. Errors
// have been printed; with those of single stages there still is a plan.
func makePlan(ctx context.Context, t *app, o *options, path string) (*planned, int) {
	return plannedBy(ctx, t, o, path, engine.Plan)
}

// plannedBy is makePlan by engine.Plan or engine.Forecast.
func plannedBy(ctx context.Context, t *app, o *options, path string, plan func(context.Context, *lang.Program, engine.Options) ([]engine.Step, error)) (*planned, int) {
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
	steps, err := plan(ctx, prog, opts)
	reportErrors(t, prog, nil, err)
	p := &planned{prog: prog, steps: steps, store: opts.Store, options: opts}
	p.limit, p.limited = limitOf(steps, opts)
	p.options.Log = zerolog.Nop() // its file is closed
	switch {
	case err != nil && ctx.Err() != nil:
		return nil, exitInterrupted
	case err != nil && steps == nil:
		return nil, exitUsage
	case err != nil:
		return p, exitFailed
	}
	return p, exitOK
}

// limitOf returns what stages can have of memory, if a step says what it needs:
// then the device is open.
func limitOf(steps []engine.Step, opts engine.Options) (memory.Limit, bool) {
	for _, s := range steps {
		if s.Estimate == nil || s.Estimate.Memory == 0 {
			continue
		}
		b, err := opts.Backend()
		if err != nil {
			break
		}
		return memory.AvailableTo(b)
	}
	return memory.Limit{}, false
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

func runLs(ctx context.Context, t *app, args []string) int {
	o, pos, err := parse(t, "ls", args, func(fs *flag.FlagSet, o *options) {
		fs.BoolVar(&o.runs, "runs", false, "list the runs instead, the newest first")
	})
	if err != nil {
		return usageCode(err)
	}
	if o.runs {
		return lsRuns(t, o, pos[0])
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
