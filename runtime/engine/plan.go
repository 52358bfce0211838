package engine

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"pipe/runtime/artifact"
	"pipe/runtime/lang"
	"pipe/runtime/stage"
)

// The actions of a plan.
const (
	PlanRun    = "run"    // it will run
	PlanCached = "cached" // it is up to date
	PlanMaybe  = "maybe"  // it depends on what the stages before it make
)

// A Step is what Run would do with one stage.
type Step struct {
	Addr   string       `json:"stage"`
	Kind   string       `json:"kind"`
	Action string       `json:"action"`
	Reason string       `json:"reason"`
	Key    artifact.Key `json:"key,omitzero"` // zero while an input is not known

	Estimate *Estimate `json:"estimate,omitempty"` // of [Forecast], for what will or may run
	Saved    *Savings  `json:"saved,omitempty"`    // of [Forecast], for what is up to date
}

// Plan says what Run would do, in the order of the program. It runs nothing.
// It reads source files, and calls o.Resolve, which must not use the network:
// a model of a hub that it does not find makes the stages behind it run or maybe.
func Plan(ctx context.Context, prog *lang.Program, o Options) ([]Step, error) {
	p, err := plan(ctx, prog, o)
	if p == nil {
		return nil, err
	}
	return p.list(), err
}

// Forecast is Plan with estimates of what the stages will take, and of what
// those that are up to date save. It may open o.Backend, to plan memory on it.
func Forecast(ctx context.Context, prog *lang.Program, o Options) ([]Step, error) {
	p, err := plan(ctx, prog, o)
	if p == nil {
		return nil, err
	}
	p.estimates(ctx)
	return p.list(), err
}

type planner struct {
	*engine
	steps   map[string]Step
	absent  map[string]string // addresses whose content is not known, and why
	actions map[string]*action
	unknown map[string][]artifact.Ref   // inputs without content, by stage
	records map[string]*artifact.Record // of what is up to date
	sizes   map[artifact.Digest]int64   // rows of datasets that are known
	byKind  map[string]*precedent       // filled when first needed
	asNow   map[string][]*twin          // the actions in the store, by their form; filled when first needed
	twins   map[string]*twin            // of stages that had other settings, or another name, last
}

// plan visits all stages. There is a planner beside errors of single stages.
func plan(ctx context.Context, prog *lang.Program, o Options) (*planner, error) {
	e, err := newEngine(prog, o)
	if err != nil {
		return nil, err
	}
	p := &planner{
		engine: e, steps: map[string]Step{}, absent: map[string]string{}, actions: map[string]*action{},
		unknown: map[string][]artifact.Ref{}, records: map[string]*artifact.Record{}, sizes: map[artifact.Digest]int64{},
		twins: map[string]*twin{},
	}
	ends, err := e.walk(ctx, 1, true, p.visit)
	if err != nil {
		return nil, err
	}
	var errs []error
	for i, end := range ends {
		if end.Err != nil {
			errs = append(errs, newStageError(e.nodes[i], end.Err))
		}
	}
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	return p, errors.Join(errs...)
}

// list returns the steps in the order of the program.
func (p *planner) list() []Step {
	steps := []Step{}
	for _, n := range p.nodes {
		if s, ok := p.steps[n.Addr]; ok {
			steps = append(steps, s)
		}
	}
	return steps
}

func (p *planner) visit(ctx context.Context, n *lang.Node) error {
	switch {
	case n.Model != nil:
		err := p.resolve(ctx, n, nil)
		var wrong *stage.FieldError
		if err != nil && remote(n) && !(errors.As(err, &wrong) && (wrong.Field == "chat_template" || wrong.Field == "template_vars")) {
			p.absent[n.Addr] = fmt.Sprintf("%s is not here: %v", n.Addr, err)
			return nil
		}
		if err == nil {
			err = p.weigh(n)
		}
		if err == nil {
			err = p.suits(n)
		}
		return err
	case n.Teacher != nil:
		if unknown := p.bind(n); len(unknown) > 0 {
			p.absent[n.Addr] = p.absent[unknown[0].Addr]
			return nil
		}
		return p.configure(n)
	}
	unknown := p.bind(n)
	a, err := p.action(ctx, n)
	if err != nil {
		return err
	}
	p.actions[n.Addr], p.unknown[n.Addr] = a, unknown
	s := Step{Addr: n.Addr, Kind: n.Type}
	var outputs map[string]artifact.Object
	if len(unknown) > 0 {
		s.Action, s.Reason = p.guess(n, a, unknown)
	} else {
		s.Key, s.Action, s.Reason = a.key, PlanCached, "up to date"
		rec, err := p.find(n, a.key)
		if err != nil {
			return err
		}
		if rec == nil {
			s.Action, s.Reason = PlanRun, p.reason(n, a)
		} else {
			outputs, p.records[n.Addr] = rec.Outputs, rec
		}
	}
	switch s.Action {
	case PlanRun:
		p.absent[n.Addr] = fmt.Sprintf("it needs %s, which will run", n.Addr)
	case PlanMaybe:
		p.absent[n.Addr] = fmt.Sprintf("it needs %s, which may run", n.Addr)
	}
	p.steps[n.Addr] = s
	p.made(n.Addr, p.withAliases(n, outputs))
	return nil
}

// guess says what becomes of a stage some of whose inputs are not known yet: it
// runs if the store has nothing that was made by the same out of any content of
// these inputs.
func (p *planner) guess(n *lang.Node, a *action, unknown []artifact.Ref) (act, reason string) {
	if p.forced[n.Addr] {
		return PlanRun, "forced"
	}
	needs := fmt.Sprintf("it needs %s, which is not known yet", unknown[0])
	if i := slices.IndexFunc(unknown, func(r artifact.Ref) bool { return p.absent[r.Addr] != "" }); i >= 0 {
		needs = p.absent[unknown[i].Addr]
	}
	old := p.lastOf(n)
	var cs []Change
	if old != nil {
		if cs = p.view(n).changes(old, p.pretend(a, old)); len(cs) == 0 {
			return PlanMaybe, needs
		}
	}
	if t := p.twin(n, a); t != nil {
		p.twins[n.Addr] = t
		return PlanMaybe, fmt.Sprintf("%s; %s was the same in run %s", needs, t.rec.Addr, t.rec.Run)
	}
	if old == nil {
		return PlanRun, "it has no earlier result"
	}
	return PlanRun, sentence(cs)
}

// pretend returns the pre-image of a as if what is not known yet were as it was.
func (p *planner) pretend(a *action, old *past) *preimage {
	pre := a.pre
	pre.Inputs = maps.Clone(a.pre.Inputs)
	for name, d := range pre.Inputs {
		if o, ok := old.Inputs[name]; ok && d.IsZero() {
			pre.Inputs[name] = o
		}
	}
	return &pre
}
