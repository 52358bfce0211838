package stage

import (
	"context"
	"sync/atomic"
	"time"
)

// A Halt is how people stop a run, in two steps. First its context ends: what
// runs saves what it has, and nothing new starts, but requests to teachers that
// are in flight come home, since they cost something and may be kept. Then, with
// [Halt.AtOnce], nobody waits for anything any more.
type Halt struct {
	atOnce  context.Context
	cut     context.CancelFunc
	flights atomic.Int64
	endless atomic.Int64 // of them, those that may take any time
	until   atomic.Int64 // when the others have ended, in nanoseconds
}

// NewHalt returns a Halt for a run.
func NewHalt() *Halt {
	h := &Halt{}
	h.atOnce, h.cut = context.WithCancel(context.Background())
	return h
}

type haltKey struct{}

// WithHalt returns ctx for a run that h stops.
func WithHalt(ctx context.Context, h *Halt) context.Context {
	return context.WithValue(ctx, haltKey{}, h)
}

// haltOf returns the Halt of ctx, nil when it has none.
func haltOf(ctx context.Context) *Halt {
	h, _ := ctx.Value(haltKey{}).(*Halt)
	return h
}

// AtOnce is the second step.
func (h *Halt) AtOnce() { h.cut() }

// InFlight returns how many requests are in flight, and how long they may take yet:
// 0 if nobody knows.
func (h *Halt) InFlight() (n int64, most time.Duration) {
	if h.endless.Load() == 0 {
		most = time.Until(time.Unix(0, h.until.Load()))
	}
	return h.flights.Load(), max(0, most)
}

// InFlight is [Halt.InFlight] of the run with that context.
func InFlight(ctx context.Context) (n int64, most time.Duration) {
	if h := haltOf(ctx); h != nil {
		return h.InFlight()
	}
	return 0, 0
}

// Fly counts a request to a teacher as in flight until land is called, for at most so
// long; 0: nobody knows.
func Fly(ctx context.Context, most time.Duration) (land func()) {
	h := haltOf(ctx)
	if h == nil {
		return func() {}
	}
	h.flights.Add(1)
	if most <= 0 {
		h.endless.Add(1)
		return func() { h.endless.Add(-1); h.flights.Add(-1) }
	}
	for end := time.Now().Add(most).UnixNano(); ; {
		if was := h.until.Load(); was >= end || h.until.CompareAndSwap(was, end) {
			return func() { h.flights.Add(-1) }
		}
	}
}

// AtOnce calls do in a goroutine of its own when the run of ctx is to stop at
// once, unless stop is called before. Without a [Halt] that is never.
func AtOnce(ctx context.Context, do func()) (stop func() bool) {
	h := haltOf(ctx)
	if h == nil {
		return func() bool { return true }
	}
	return context.AfterFunc(h.atOnce, do)
}

// Outlast returns a context for requests that are in flight when ctx ends: they
// are paid for. It does not end with a budget, nor with the first step of a
// [Halt], but with its second; without a Halt it ends when ctx is cancelled.
func Outlast(ctx context.Context) (context.Context, func()) {
	out, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	var stop func() bool
	if haltOf(ctx) != nil {
		stop = AtOnce(ctx, func() { cancel(context.Canceled) })
	} else {
		stop = context.AfterFunc(ctx, func() {
			if OverBudget(ctx) == nil {
				cancel(context.Cause(ctx))
			}
		})
	}
	return out, func() {
		stop()
		cancel(nil)
	}
}
