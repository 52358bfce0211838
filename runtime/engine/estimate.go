package engine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"

	"github.com/rs/zerolog"

	"pipe/runtime/artifact"
	"pipe/runtime/lang"
	"pipe/runtime/stage"
)

// An Estimate is what a stage will probably take. What is not known is 0, and
// left out of JSON.
type Estimate struct {
	Seconds      float64 `json:"seconds,omitempty"`
	Calls        int64   `json:"teacher_calls,omitempty"` // answers that no journal holds
	Rows         int64   `json:"rows,omitempty"`          // that a teacher is asked for
	Recorded     int64   `json:"recorded_rows,omitempty"` // of Rows, those that journals answer as a whole
	Missing      int64   `json:"missing_rows,omitempty"`  // of Rows, the others, when nobody is asked for them: the stage fails
	Fault        string  `json:"journal_fault,omitempty"` // why a journal cannot be used: the stage fails
	InputTokens  int64   `json:"input_tokens,omitempty"`  // of those calls
	OutputTokens int64   `json:"output_tokens,omitempty"`
	USD          float64 `json:"usd,omitempty"`
	Memory       int64   `json:"memory_bytes,omitempty"` // peak, as planned
	MemoryFor    string  `json:"memory_for,omitempty"`
	HostMemory   int64   `json:"host_memory_bytes,omitempty"` // of the machine, beside a device that has its own
	Disk         int64   `json:"disk_bytes,omitempty"`
	Basis        string  `json:"basis"` // the run that it was told from, or "no earlier run"
}

// Savings are what a stage that is up to date took when it ran.
type Savings struct {
	Seconds float64 `json:"seconds,omitempty"`
	Calls   int64   `json:"teacher_calls,omitempty"` // paid or replayed
	USD     float64 `json:"usd,omitempty"`
}

func savings(rec *artifact.Record) *Savings {
	s := &Savings{Seconds: rec.Seconds}
	if rec.Spent != nil {
		s.Calls, s.USD = rec.Spent.Calls+rec.Spent.Replayed, rec.Spent.USD
	}
	return s
}

const noEarlierRun = "no earlier run"

// A model of the time and money of a stage: an action of before.
type precedent struct {
	rec  *artifact.Record
	run  string
	addr string // of its stage
}

// Estimates fills in what the stages of a plan that will or may run take: from
// their last run, else from the last run of a stage of their kind, both scaled
// by the sizes of the two. Memory is planned on inputs that are known, or as
// they were. It runs nothing.
func (p *planner) estimates(ctx context.Context) {
	for addr, s := range p.steps {
		n := p.prog.Node(addr)
		if s.Action == PlanCached {
			s.Saved = savings(p.records[addr])
		} else {
			s.Estimate = p.estimate(ctx, n)
		}
		p.steps[addr] = s
	}
}

func (p *planner) estimate(ctx context.Context, n *lang.Node) *Estimate {
	e := &Estimate{Basis: noEarlierRun}
	restore := p.pretendInputs(n)
	defer restore()
	env := p.env(n, p.actions[n.Addr])
	f, asks := n.Stage.(stage.Forecaster)
	asks = !asks || f.Asks() // a stage that does not say asks whom its precedent asked
	rows, recorded, forecast := 0, 0, false
	if f != nil && allBound(n) {
		var err error
		rows, recorded, err = f.Forecast(ctx, env)
		forecast = err == nil
		if fault := new(stage.JournalFault); errors.As(err, &fault) {
			e.Fault = fault.Error()
		} else if err != nil {
			p.Log.Debug().Str("stage", n.Addr).Err(err).Msg("could not foresee the teacher's calls")
		}
	}
	if old := p.precedent(n); old != nil {
		ratio, how := p.ratio(n, old)
		e.Basis = "run " + old.run
		if old.addr != n.Addr {
			e.Basis += " of " + old.addr
		}
		e.Basis += how
		e.Seconds = old.rec.Seconds * ratio
		for _, o := range old.rec.Outputs {
			e.Disk += int64(float64(o.Bytes) * ratio)
		}
		if asks && e.Fault == "" {
			e.spend(old.rec.Spent, ratio, rows, recorded, forecast)
		}
	}
	if forecast {
		e.Rows, e.Recorded = int64(rows), int64(recorded)
		if !asks {
			e.Missing = e.Rows - e.Recorded
		}
	}
	if m, ok := n.Stage.(stage.MemoryPlanner); ok && allBound(n) {
		var err error
		if env.Backend, err = p.backend(); err == nil {
			var need stage.Memory
			need, err = m.PlanMemory(ctx, env)
			e.Memory, e.MemoryFor, e.HostMemory = need.Bytes, need.For, need.Host
		}
		if err != nil {
			p.Log.Debug().Str("stage", n.Addr).Err(err).Msg("could not plan the memory")
		}
	}
	return e
}

// spend fills in the teacher's calls: all that the precedent used, less those
// of rows that are recorded.
func (e *Estimate) spend(s *artifact.Spent, ratio float64, rows, recorded int, forecast bool) {
	if s == nil {
		return
	}
	if forecast && rows > 0 {
		ratio *= 1 - float64(recorded)/float64(rows)
	}
	scaled := func(n int64) int64 { return int64(math.Round(float64(n) * ratio)) }
	e.Calls = scaled(s.Calls + s.Replayed)
	e.InputTokens = scaled(s.InputTokens + s.ReplayedInputTokens)
	e.OutputTokens = scaled(s.OutputTokens + s.ReplayedOutputTokens)
	if s.Calls > 0 {
		e.USD = s.USD / float64(s.Calls) * float64(e.Calls)
	}
}

// pretendInputs gives handles whose content is not known that of the last run,
// and returns what takes it away again.
func (p *planner) pretendInputs(n *lang.Node) (restore func()) {
	old := p.lastOf(n)
	if t := p.twins[n.Addr]; t != nil {
		old = t.past
	}
	var set []*artifact.Ref
	for _, in := range n.Inputs {
		if old != nil && in.Ref.Digest.IsZero() {
			in.Ref.Digest = old.Inputs[in.Path]
			set = append(set, in.Ref)
		}
	}
	return func() {
		for _, r := range set {
			r.Digest = artifact.Digest{}
		}
	}
}

// allBound reports whether the content of all handles is known.
func allBound(n *lang.Node) bool {
	return !slices.ContainsFunc(n.Inputs, func(in lang.Input) bool { return in.Ref.Digest.IsZero() })
}

// env is what a stage is lent that runs nothing.
func (e *engine) env(n *lang.Node, a *action) *stage.Env {
	return &stage.Env{
		Log: zerolog.Nop(), Seed: a.pre.Seed, Dir: e.dir(n), Journals: e.Store.Journals(), Store: inputs{e},
		Create: func(output string) (*artifact.Writer, error) {
			return nil, fmt.Errorf("output %q cannot be made: the stage is not run", output)
		},
		Metric: func(string, int64, float64) {}, Progress: func(int64, int64, string) {}, Note: func(string, ...any) {},
	}
}

// precedent returns the action that an estimate is told from, nil when there is
// none.
func (p *planner) precedent(n *lang.Node) *precedent {
	if t := p.twins[n.Addr]; t != nil {
		return &precedent{t.rec, t.rec.Run, t.rec.Addr}
	}
	if rec, err := p.Store.Record(p.last.Keys[n.Addr]); err == nil {
		return &precedent{rec, rec.Run, n.Addr}
	}
	if p.byKind == nil {
		p.byKind = p.precedents()
	}
	return p.byKind[n.Type]
}

// precedents finds the newest action of each kind that the plan has to guess.
func (p *planner) precedents() map[string]*precedent {
	wanted, found := map[string]bool{}, map[string]*precedent{}
	for addr, s := range p.steps {
		if s.Action != PlanCached {
			wanted[p.prog.Node(addr).Type] = true
		}
	}
	names, err := RunNames(p.Store)
	if err != nil {
		return found
	}
	for _, name := range names[:min(maxHistory, len(names))] {
		if len(wanted) == 0 {
			break
		}
		r, err := ReadRun(p.Store, name)
		if err != nil {
			continue
		}
		for _, s := range r.Stages {
			if s.State != Done || !wanted[s.Kind] {
				continue
			}
			if rec, err := p.Store.Record(s.Key); err == nil {
				found[s.Kind] = &precedent{rec, r.Run, s.Addr}
				delete(wanted, s.Kind)
			}
		}
	}
	return found
}

// ratio is how much more work n is than its precedent, and how that is known.
func (p *planner) ratio(n *lang.Node, old *precedent) (ratio float64, how string) {
	was := pastOf(old.rec)
	if was == nil {
		return 1, ""
	}
	stageWas := n.Kind.New()
	if json.Unmarshal(was.Spec, stageWas) != nil {
		return 1, ""
	}
	now := map[string]artifact.Digest{}
	for _, in := range n.Inputs {
		now[in.Path] = in.Ref.Digest
	}
	a, b := p.work(stageWas, was.Inputs), p.work(n.Stage, now)
	if a <= 0 || b <= 0 || a == b {
		return 1, ""
	}
	return b / a, fmt.Sprintf(", scaled by %.3g", b/a)
}

// work is the size of a stage: its own measure, else the rows of its inputs.
func (p *planner) work(s stage.Stage, in map[string]artifact.Digest) float64 {
	rows := func(path string) int64 {
		d := in[path]
		if d.IsZero() {
			return 0
		}
		n, ok := p.sizes[d]
		if !ok {
			if a, err := p.Store.Open(d); err == nil && a.Type() == artifact.Dataset {
				n = a.Count()
			}
			p.sizes[d] = n
		}
		return n
	}
	if z, ok := s.(stage.Sizer); ok {
		return z.Size(rows)
	}
	var sum int64
	for path, d := range in {
		if d.IsZero() {
			return 0
		}
		sum += rows(path)
	}
	return float64(sum)
}
