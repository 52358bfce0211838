package stage

import (
	"context"
	"errors"
	"testing"
	"time"
)

// What is in flight outlasts the first step of a halt, and not the second.
func TestHalt(t *testing.T) {
	h := NewHalt()
	ctx, cancel := context.WithCancel(WithHalt(t.Context(), h))
	out, release := Outlast(ctx)
	defer release()
	land := Fly(out, 0)
	Fly(out, time.Hour)()
	killed := make(chan struct{})
	AtOnce(ctx, func() { close(killed) })
	cancel()
	time.Sleep(10 * time.Millisecond)
	if n, most := InFlight(ctx); out.Err() != nil || n != 1 || most != 0 {
		t.Fatalf("%v, with %d in flight, for %v at most", out.Err(), n, most)
	}
	h.AtOnce()
	<-killed
	<-out.Done()
	land()
	if n, most := InFlight(ctx); n != 0 || most <= 59*time.Minute || most > time.Hour {
		t.Errorf("%d in flight, for %v at most", n, most)
	}
}

// Without a halt it outlasts a budget, and nothing else.
func TestOutlastWithoutHalt(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	out, release := Outlast(ctx)
	cancel(TimeUp("--max-time", time.Second))
	time.Sleep(10 * time.Millisecond)
	if out.Err() != nil || OverBudget(ctx) == nil {
		t.Errorf("after a budget: %v", out.Err())
	}
	release()
	ctx, cancel = context.WithCancelCause(t.Context())
	out, release = Outlast(ctx)
	defer release()
	broken := errors.New("broken")
	cancel(broken)
	<-out.Done()
	if context.Cause(out) != broken || Fly(ctx, 0) == nil || !AtOnce(ctx, func() { t.Error("called") })() {
		t.Errorf("after a cancellation: %v", context.Cause(out))
	}
}
