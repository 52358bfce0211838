package engine

import (
	"context"
	"errors"
	"time"

	"pipe/runtime/dag"
	"pipe/runtime/lang"
	"pipe/runtime/stage"
)

// Run brings the program's stages up to date and judges its gates. The result
// is nil only if nothing was started. The error is that of ctx when it was
// cancelled, else all failures, each a [*StageError]; a failed gate is none. A
// run that a budget stopped has an error that is a [*stage.BudgetError], beside
// those of failures.
//
// Run fills in the digests of prog's handles: a Program serves one Run or Plan
// at a time. Several Runs, in several processes too, may share a store.
func Run(ctx context.Context, prog *lang.Program, o Options) (*Result, error) {
	e, err := newEngine(prog, o)
	if err != nil {
		return nil, err
	}
	begin := time.Now()
	ctx, done := e.limited(ctx)
	defer done()
	end, err := o.Store.Begin()
	if err != nil { // where writing is needed, it will fail itself
		e.Log.Debug().Err(err).Msg("what the run uses is not safe from gc")
	}
	defer end()
	ends, err := e.walk(ctx, o.Parallelism, o.KeepGoing, e.visit)
	if err != nil {
		return nil, err
	}
	res, errs := e.collect(ends)
	res.Seconds = time.Since(begin).Seconds()
	if err := e.remember(res, begin); err != nil {
		res.Unnoted = err
		e.Log.Warn().Err(err).Msg("could not note the run in the store")
	}
	if err := e.noteLatest(); err != nil {
		e.Log.Warn().Err(err).Msg("could not note which run is the latest")
	}
	if over := stage.OverBudget(ctx); over != nil {
		if res.Ran+res.Cached < len(res.Stages) { // else it was done in time
			errs = append(errs, over)
		}
	} else if ctx.Err() != nil {
		return res, context.Cause(ctx)
	}
	return res, errors.Join(errs...)
}

// collect gathers what the visits left, in the order of the program.
func (e *engine) collect(ends []dag.Result) (*Result, []error) {
	res := &Result{Run: e.run, Stages: []StageResult{}, Gates: []GateResult{}, engine: e}
	var errs []error
	for i, end := range ends {
		n, r := e.nodes[i], e.results[end.Node]
		if r == nil {
			r = &StageResult{Addr: n.Addr, Kind: n.Type, State: Skipped, Blame: end.Blame}
			if n.Kind != nil {
				e.emitStage(*r)
			}
		}
		if n.Kind == nil && r.Err == nil {
			continue
		}
		r.Needs = n.Needs
		if r.Err != nil && (r.State == Failed || errors.As(r.Err, new(*stage.BudgetError))) {
			errs = append(errs, r.Err)
		}
		switch r.State {
		case Done:
			res.Ran++
		case Cached:
			res.Cached++
		}
		res.Stages = append(res.Stages, *r)
		res.Gates = append(res.Gates, e.gates[end.Node]...)
	}
	return res, errs
}

// visit brings one node up to date.
func (e *engine) visit(ctx context.Context, n *lang.Node) error {
	r := &StageResult{Addr: n.Addr, Kind: n.Type}
	var err error
	switch {
	case n.Model != nil:
		err = e.resolve(ctx, n, func(done, total int64) {
			e.emit(Event{Type: ProgressEvent, Addr: n.Addr, Done: done, Total: total, Unit: "bytes"})
		})
		if err == nil {
			err = e.weigh(n)
		}
		if err == nil {
			err = e.suits(n)
		}
	case n.Teacher != nil:
		err = e.configure(n)
	default:
		err = e.update(ctx, n, r)
	}
	if err != nil {
		if over := stage.OverBudget(ctx); over != nil && errors.Is(err, ctx.Err()) {
			err = over // "context deadline exceeded" tells people nothing
		}
		r.State, r.Error = Failed, err.Error()
		if ctx.Err() != nil || overBudget(ctx, err) {
			r.State = Cancelled
		}
		serr := newStageError(n, err)
		r.Err = serr
		err = serr
	}
	e.mu.Lock()
	e.results[n.Addr] = r
	e.mu.Unlock()
	if n.Kind != nil || err != nil {
		e.logEnd(r)
		e.emitStage(*r)
	}
	if err == nil {
		e.judge(n)
	}
	return err
}

func (e *engine) logEnd(r *StageResult) {
	l := e.Log.Info()
	if r.State == Failed {
		l = e.Log.Error()
	}
	l = l.Str("stage", r.Addr).Str("state", string(r.State))
	if r.Key != ([32]byte{}) {
		l = l.Stringer("key", r.Key)
	}
	if r.Err != nil {
		l = l.Str("error", r.Error)
	}
	l.Float64("seconds", r.Seconds).Msg("stage ended")
}
