package engine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"runtime/debug"
	"time"

	"pipe/runtime/artifact"
	"pipe/runtime/lang"
	"pipe/runtime/stage"
)

// waitNotice is how long a stage waits for another run before it says so.
const waitNotice = 200 * time.Millisecond

// update makes the outputs of a stage known: from the store, or by running it.
func (e *engine) update(ctx context.Context, n *lang.Node, r *StageResult) error {
	if unknown := e.bind(n); len(unknown) > 0 {
		return fmt.Errorf("%s was not made", unknown[0])
	}
	a, err := e.action(ctx, n)
	if err != nil {
		return err
	}
	r.Key = a.key
	rec, err := e.find(n, a.key)
	if err != nil {
		return err
	}
	if rec == nil {
		if rec, err = e.perform(ctx, n, a, r); err != nil {
			return err
		}
	}
	if r.State == "" {
		r.State, r.Saved = Cached, rec.Seconds
	}
	r.Notes = rec.Notes
	if r.Placed, err = e.place(n, rec); err != nil {
		return err
	}
	r.Outputs = e.withAliases(n, rec.Outputs)
	e.made(n.Addr, r.Outputs)
	return nil
}

// place brings the copy outside the store up to date, if the stage keeps one.
func (e *engine) place(n *lang.Node, rec *artifact.Record) (written string, err error) {
	p, ok := n.Stage.(stage.Placer)
	if !ok {
		return "", nil
	}
	return p.Place(e.prog.Dir, func(output string) (*artifact.Artifact, error) {
		return e.Store.Open(rec.Outputs[output].Digest)
	})
}

// find returns the record of an action that need not run, else nil.
func (e *engine) find(n *lang.Node, k artifact.Key) (*artifact.Record, error) {
	e.mu.Lock()
	e.lookups++
	run := e.forced[n.Addr] && !e.ran[k]
	e.mu.Unlock()
	if run {
		return nil, nil
	}
	rec, err := e.Store.Record(k)
	if errors.Is(err, artifact.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	for _, o := range n.Makes {
		if _, ok := rec.Outputs[o.Name]; !ok && o.Alias == "" {
			return nil, nil
		}
	}
	return rec, nil
}

// withAliases adds the outputs that are handles passed on.
func (e *engine) withAliases(n *lang.Node, outputs map[string]artifact.Object) map[string]artifact.Object {
	out := maps.Clone(outputs)
	if out == nil {
		out = map[string]artifact.Object{}
	}
	for _, o := range n.Makes {
		if o.Alias == "" {
			continue
		}
		for _, in := range n.Inputs {
			if in.Path == o.Alias {
				e.mu.Lock()
				out[o.Name] = e.outputs[in.Ref.Addr][in.Ref.Output]
				e.mu.Unlock()
			}
		}
	}
	return out
}

// perform runs the action, unless another run does so first.
func (e *engine) perform(ctx context.Context, n *lang.Node, a *action, r *StageResult) (*artifact.Record, error) {
	release, err := e.lease(ctx, n, a.key)
	if err != nil {
		return nil, err
	}
	defer release()
	if rec, err := e.find(n, a.key); rec != nil || err != nil {
		return rec, err
	}
	if n.Kind.Compute {
		select {
		case e.compute <- struct{}{}:
			defer func() { <-e.compute }()
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	r.Reason, r.Began = e.reason(n, a), time.Now().UTC()
	started := *r
	started.State = Started
	e.Log.Info().Str("stage", n.Addr).Stringer("key", a.key).Str("reason", r.Reason).Msg("stage started")
	e.emitStage(started)
	begin := time.Now()
	rec, err := e.try(ctx, n, a)
	r.Seconds = time.Since(begin).Seconds() // by the monotonic clock, which UTC strips from Began
	r.Spent = e.money.spent(n.Addr)
	if err != nil {
		return nil, err
	}
	e.mu.Lock()
	e.ran[a.key] = true
	e.mu.Unlock()
	r.State, r.Series = Done, rec.Series
	return rec, nil
}

// lease claims an action, and says so when it has to wait for it.
func (e *engine) lease(ctx context.Context, n *lang.Node, k artifact.Key) (release func(), err error) {
	said := make(chan struct{})
	waits := time.AfterFunc(waitNotice, func() {
		e.emit(Event{Type: WaitEvent, Addr: n.Addr})
		close(said)
	})
	release, err = e.Store.Lease(ctx, k)
	if !waits.Stop() {
		<-said // before anything else is said about the stage
	}
	return release, err
}

// retryDelay returns the wait between the attempts of n.
func retryDelay(n *lang.Node) (time.Duration, error) {
	if n.Retry == nil {
		return 0, nil
	}
	if n.Retry.Attempts < 0 {
		return 0, stage.Fieldf("retry.attempts", "is %d; must be 0 or more", n.Retry.Attempts)
	}
	if n.Retry.Delay == "" {
		return 0, nil
	}
	d, err := time.ParseDuration(n.Retry.Delay)
	if err != nil || d < 0 {
		return 0, stage.Fieldf("retry.delay", "is %q; must be a duration such as \"30s\"", n.Retry.Delay)
	}
	return d, nil
}

// try runs the action as often as its block's retry allows.
func (e *engine) try(ctx context.Context, n *lang.Node, a *action) (*artifact.Record, error) {
	left := 0
	if n.Retry != nil {
		left = n.Retry.Attempts
	}
	delay, err := retryDelay(n)
	if err != nil {
		return nil, err
	}
	for ; ; left-- {
		rec, err := e.attempt(ctx, n, a)
		if err == nil || left <= 0 || ctx.Err() != nil || errors.Is(err, errSourceChanged) || overBudget(ctx, err) {
			return rec, err
		}
		e.Log.Warn().Str("stage", n.Addr).Err(err).Int("attempts_left", left).Msg("stage failed and is started again")
		select {
		case <-time.After(delay):
		case <-ctx.Done():
			return nil, err
		}
	}
}

// attempt runs the action once and publishes what it made.
func (e *engine) attempt(ctx context.Context, n *lang.Node, a *action) (*artifact.Record, error) {
	begin := time.Now()
	work, err := e.Store.Work(a.key, n.Addr)
	if err != nil {
		return nil, err
	}
	j := newJob(e, n)
	defer j.abort()
	env := j.env(a, work)
	if n.Kind.Compute {
		if env.Backend, err = e.backend(); err != nil {
			return nil, err
		}
	}
	if err := call(ctx, n.Stage, env); err != nil {
		return nil, e.Store.Advise(err)
	}
	if err := e.unchanged(ctx, n, a); err != nil {
		return nil, err
	}
	outputs, err := j.commit()
	if err != nil {
		return nil, err
	}
	pre, err := json.Marshal(a.pre)
	if err != nil {
		return nil, err
	}
	rec := &artifact.Record{
		Key: a.key, Addr: n.Addr, Kind: n.Kind.Name, Preimage: pre, Outputs: outputs,
		Notes: j.takenNotes(), Series: j.series.points(), Seconds: time.Since(begin).Seconds(), Created: time.Now().UTC(), Run: e.run,
		Spent: e.money.spent(n.Addr), Written: n.Written(),
	}
	e.compareForced(n, rec)
	if err := e.Store.PutRecord(rec); err != nil {
		return nil, err
	}
	if err := e.Store.RemoveWork(a.key); err != nil {
		e.Log.Warn().Str("stage", n.Addr).Err(err).Msg("could not remove the work directory")
	}
	return rec, nil
}

// compareForced adds a note when an action that was forced to run again made
// something else than before.
func (e *engine) compareForced(n *lang.Node, rec *artifact.Record) {
	if !e.forced[n.Addr] {
		return
	}
	old, err := e.Store.Record(rec.Key)
	if err != nil {
		return
	}
	for _, o := range n.Makes {
		if was, ok := old.Outputs[o.Name]; ok && was.Digest != rec.Outputs[o.Name].Digest {
			text := fmt.Sprintf("output %q is not what the same action made before: the stage is not deterministic", o.Name)
			rec.Notes = append(rec.Notes, text)
			e.emit(Event{Type: NoteEvent, Addr: n.Addr, Text: text})
		}
	}
}

// dir is where the relative paths of a stage start: what is read lies beside
// the file in which the block stands, what is written beside the pipeline.
func (e *engine) dir(n *lang.Node) string {
	if _, ok := n.Stage.(stage.Placer); ok {
		return e.prog.Dir
	}
	return n.Dir
}

// call runs s and turns a panic into an error.
func call(ctx context.Context, s stage.Stage, env *stage.Env) (err error) {
	defer func() {
		if p := recover(); p != nil {
			env.Log.Error().Interface("panic", p).Str("stack", string(debug.Stack())).Msg("stage panicked")
			err = fmt.Errorf("panic: %v; this is a mistake in the stage; the log has the stack", p)
		}
	}()
	return s.Run(ctx, env)
}
