// Package engine runs a pipeline: it finds out what each stage would make from
// what, takes what the store already has, runs the rest, several stages at
// once, and judges the gates.
//
// An action is one stage with one content of everything it depends on. Its key
// is a hash over that content (see key.go), never over names or times, so that
// a stage whose inputs came out the same again is not run again. What a stage
// made is published only as a whole: outputs first, then the record that names
// them.
package engine

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/hcl/v2"
	"github.com/rs/zerolog"

	"pipe/runtime/artifact"
	"pipe/runtime/dag"
	"pipe/runtime/lang"
	"pipe/runtime/stage"
	"pipe/tensor"
)

// Options are what Run and Plan need beside the program.
type Options struct {
	Store *artifact.Store

	// Backend opens the device for stages that compute. It is called at most
	// once, and only when such a stage runs; the caller closes what it returned.
	// BackendName is its Name, part of the keys of these stages.
	Backend     func() (tensor.Backend, error)
	BackendName string
	// HasPrecision returns why that backend cannot form products in a precision; nil
	// if it can. Without it, every backend can.
	HasPrecision func(tensor.DType) error

	// Resolve finds the model of a source: where it lies, and the digest of its
	// content. dir is where relative paths start; progress, which may be nil, is
	// told of downloaded bytes. The one given to Plan must stay off the network.
	Resolve func(ctx context.Context, source, dir string, progress func(done, total int64)) (path string, digest [32]byte, err error)

	// CheckWeights reports what is wrong with the weights of a model that a stage
	// needs, at the path that Resolve gave, or, when quantize is not "", with
	// quantising them so; nil checks nothing.
	CheckWeights func(path, quantize string) error

	// CheckTemplate reports what is wrong with the text of a chat template, the
	// file name; nil checks nothing.
	CheckTemplate func(name, text string) error

	// TemplateWith returns the text of a chat template in which variables have values
	// where nothing else gives them: of text or, where that is nil, of the template of
	// the model at path. Model blocks with template_vars need it.
	TemplateWith func(path string, text []byte, vars map[string]json.RawMessage) (string, error)

	Parallelism int      // stages running at once; below 1 means 1. Those that compute never overlap
	Force       []string // addresses of stages to run even if they are up to date
	Targets     []string // addresses of blocks to run, with all they need; empty means everything
	KeepGoing   bool     // after a failure, go on with what does not need the failed stage

	// MaxTime is the longest time of the run, which --max-time gives; 0: that of the
	// program, if it has one.
	MaxTime time.Duration

	Observer Observer // told what happens; may be nil
	Log      zerolog.Logger
}

// A State is how far a stage is, or how it ended.
type State string

// The states of a stage.
const (
	Started   State = "start"
	Done      State = "done"
	Cached    State = "cached"
	Failed    State = "failed"
	Skipped   State = "skipped"   // not started: see Blame
	Cancelled State = "cancelled" // stopped by the context or a budget; what it saved in its work directory is found again
)

// A Result is how a run ended.
type Result struct {
	Run     string        `json:"run"` // its name, unique in the store
	Seconds float64       `json:"seconds"`
	Stages  []StageResult `json:"stages"` // in the order of the program
	Gates   []GateResult  `json:"gates"`
	Ran     int           `json:"ran"`    // stages that ran and are done
	Cached  int           `json:"cached"` // stages that were up to date
	Unnoted error         `json:"-"`      // why the run is not noted in the store; nil when it is

	engine *engine
}

// GatesPassed reports whether no gate failed.
func (r *Result) GatesPassed() bool {
	return !slices.ContainsFunc(r.Gates, func(g GateResult) bool { return !g.Pass })
}

// A StageResult is how one stage ended. Model and teacher blocks are listed
// only when they failed.
type StageResult struct {
	Addr    string                     `json:"stage"`
	Kind    string                     `json:"kind"`
	State   State                      `json:"state"`
	Key     artifact.Key               `json:"key,omitzero"`
	Reason  string                     `json:"reason,omitempty"` // why it ran
	Needs   []string                   `json:"needs,omitempty"`  // blocks that had to be done before it
	Outputs map[string]artifact.Object `json:"outputs,omitempty"`
	Notes   []string                   `json:"notes,omitempty"`  // also of a stage that was up to date
	Series  []artifact.Point           `json:"-"`                // thinned; of a stage that was up to date see [artifact.Store.Series]
	Placed  string                     `json:"placed,omitempty"` // where a copy outside the store was written
	Began   time.Time                  `json:"began,omitzero"`   // when it started to run, UTC; zero for one that did not
	Seconds float64                    `json:"seconds"`          // of this run
	Saved   float64                    `json:"saved_seconds,omitempty"`
	Spent   *artifact.Spent            `json:"spent,omitempty"` // on teachers, by this run, whatever the state
	Error   string                     `json:"error,omitempty"`
	Blame   string                     `json:"blame,omitempty"` // the failed stage that a skipped one needed, if any
	Err     error                      `json:"-"`               // a *StageError
}

// A GateResult is the judgement of one gate.
type GateResult struct {
	Stage    string          `json:"stage"`
	Name     string          `json:"gate"`
	Pass     bool            `json:"pass"`
	Message  string          `json:"message,omitempty"`  // why not
	Values   string          `json:"values,omitempty"`   // the condition with its numbers, as it turned out
	Baseline string          `json:"baseline,omitempty"` // the pinned run that baseline meant; empty: the base model
	Note     string          `json:"note,omitempty"`
	Diags    hcl.Diagnostics `json:"-"` // of a gate that cannot be judged
}

// A StageError is the failure of one block. Diags points at the lines of the
// pipeline file that it is about.
type StageError struct {
	Addr  string
	Err   error
	Diags hcl.Diagnostics
}

// Error returns the address and the error.
func (e *StageError) Error() string { return e.Addr + ": " + e.Err.Error() }

// Unwrap returns the error of the stage.
func (e *StageError) Unwrap() error { return e.Err }

// newStageError returns the error of a node; one that is that of another stays it.
func newStageError(n *lang.Node, err error) *StageError {
	if e, ok := err.(*StageError); ok {
		return e
	}
	e := &StageError{Addr: n.Addr, Err: err}
	parts := []error{err}
	if j, ok := err.(interface{ Unwrap() []error }); ok {
		parts = j.Unwrap()
	}
	summary := "Stage failed"
	if n.Model != nil {
		summary = "Model cannot be used"
	}
	for _, p := range parts {
		e.Diags = append(e.Diags, n.Diagnostic(summary, p))
	}
	return e
}

// An engine is one run, or one plan.
type engine struct {
	Options
	prog    *lang.Program
	run     string
	nodes   []*lang.Node // those asked for, in the order of the program
	forced  map[string]bool
	weights map[string]bool // addresses of model blocks whose weights are needed
	demands map[string][]*lang.Node
	last    *history
	compute chan struct{} // holds a token while a stage computes
	backend func() (tensor.Backend, error)
	pinned  func() (*pinned, error) // the baseline run; nil when none is set

	mu      sync.Mutex
	outputs map[string]map[string]artifact.Object // by address, then output; "" for model and teacher blocks
	roots   map[artifact.Digest]stage.ModelPath   // of resolved model blocks
	ran     map[artifact.Key]bool                 // by this run
	results map[string]*StageResult
	gates   map[string][]GateResult
	lookups int // records looked for: the work of doing nothing
	money   purse

	observe sync.Mutex
}

func newEngine(prog *lang.Program, o Options) (*engine, error) {
	e := &engine{
		Options: o, prog: prog, run: newRunName(), forced: map[string]bool{}, compute: make(chan struct{}, 1),
		outputs: map[string]map[string]artifact.Object{}, roots: map[artifact.Digest]stage.ModelPath{},
		ran: map[artifact.Key]bool{}, results: map[string]*StageResult{}, gates: map[string][]GateResult{}, money: newPurse(),
	}
	e.backend = sync.OnceValues(e.openBackend)
	e.pinned = sync.OnceValues(e.readPinned)
	if err := e.choose(); err != nil {
		return nil, err
	}
	for _, n := range e.nodes {
		if n.Kind != nil && n.Kind.Compute && o.BackendName == "" {
			return nil, fmt.Errorf("%s computes, but no backend was given", n.Addr)
		}
		if _, err := retryDelay(n); err != nil {
			return nil, newStageError(n, err)
		}
		if err := e.checkPrecision(n); err != nil {
			return nil, newStageError(n, err)
		}
	}
	if err := checkPlaces(prog.Dir, o.Store.Dir(), e.nodes); err != nil {
		return nil, err
	}
	e.weights = weightUses(e.nodes)
	if !e.KeepGoing { // else all that can be done is done
		e.demands = demands(e.nodes, prog.Node)
	}
	e.last = readHistory(o.Store, prog)
	return e, nil
}

// checkPrecision refuses products that the device cannot form before anything runs.
func (e *engine) checkPrecision(n *lang.Node) error {
	dt := tensor.F32
	if s, ok := n.Stage.(stage.Precise); ok {
		dt = s.Products()
	} else if n.Teacher != nil && n.Teacher.Provider == "local" {
		dt = tensor.Precision(n.Teacher.Precision)
	}
	if e.HasPrecision == nil || dt == tensor.F32 {
		return nil
	}
	if err := e.HasPrecision(dt); err != nil {
		return stage.Fieldf("precision", "is %q: %v", dt, err)
	}
	return nil
}

func newRunName() string {
	return time.Now().UTC().Format("20060102-150405-") + strings.ToLower(rand.Text()[:6])
}

// choose fills in nodes and forced.
func (e *engine) choose() error {
	for _, f := range e.Force {
		addrs := e.prog.Addrs(f)
		if len(addrs) == 0 {
			return fmt.Errorf("cannot force %s: the pipeline has no such block", f)
		}
		for _, a := range addrs {
			e.forced[a] = true
		}
	}
	wanted := map[string]bool{}
	var want func(addr string)
	want = func(addr string) {
		if wanted[addr] {
			return
		}
		wanted[addr] = true
		for _, need := range e.prog.Node(addr).Needs {
			want(need)
		}
	}
	for _, t := range e.Targets {
		addrs := e.prog.Addrs(t)
		if len(addrs) == 0 {
			return fmt.Errorf("cannot run target %s: the pipeline has no such block", t)
		}
		for _, a := range addrs {
			want(a)
		}
	}
	for _, n := range e.prog.Nodes {
		if len(e.Targets) == 0 || wanted[n.Addr] {
			e.nodes = append(e.nodes, n)
		}
	}
	return nil
}

func (e *engine) openBackend() (tensor.Backend, error) {
	if e.Backend == nil {
		return nil, errors.New("no backend was given")
	}
	b, err := e.Backend()
	if err != nil {
		return nil, fmt.Errorf("open backend: %w", err)
	}
	if b.Name() != e.BackendName {
		return nil, fmt.Errorf("the backend is %q, not %q as its keys say", b.Name(), e.BackendName)
	}
	return b, nil
}

// walk visits the nodes in order of need. Unless it keeps going, no stage comes
// before a model that is on this machine: one that cannot be used stops the run
// before work is done for it.
func (e *engine) walk(ctx context.Context, parallelism int, keepGoing bool, visit func(context.Context, *lang.Node) error) ([]dag.Result, error) {
	addrs := make([]string, len(e.nodes))
	var models []string
	for i, n := range e.nodes {
		addrs[i] = n.Addr
		if !keepGoing && n.Model != nil && !remote(n) {
			models = append(models, n.Addr)
		}
	}
	needs := func(a string) []string {
		n := e.prog.Node(a)
		if n.Kind == nil || len(models) == 0 {
			return n.Needs
		}
		all := append(slices.Clone(n.Needs), models...)
		slices.Sort(all)
		return slices.Compact(all)
	}
	return dag.Walk(ctx, addrs, needs,
		dag.Options{Parallelism: parallelism, KeepGoing: keepGoing},
		func(ctx context.Context, a string) error { return visit(ctx, e.prog.Node(a)) })
}

// bind sets the digests of n's handles to the content that is known now, and
// returns the references without.
func (e *engine) bind(n *lang.Node) (unknown []artifact.Ref) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, in := range n.Inputs {
		in.Ref.Digest = e.outputs[in.Ref.Addr][in.Ref.Output].Digest
		if in.Ref.Digest.IsZero() {
			unknown = append(unknown, *in.Ref)
		}
	}
	return unknown
}

// made notes the outputs of a node for those that need it.
func (e *engine) made(addr string, outputs map[string]artifact.Object) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.outputs[addr] = outputs
}
