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
	land := Fly(out)
	killed := make(chan struct{})
	AtOnce(ctx, func() { close(killed) })
	cancel()
	time.Sleep(10 * time.Millisecond)
	if out.Err() != nil || InFlight(ctx) != 1 {
		t.Fatalf("%v, with %d in flight", out.Err(), InFlight(ctx))
	}
	h.AtOnce()
	<-killed
	<-out.Done()
	land()
	if InFlight(ctx) != 0 {
		t.Errorf("%d in flight", InFlight(ctx))
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
	if context.Cause(out) != broken || Fly(ctx) == nil || !AtOnce(ctx, func() { t.Error("called") })() {
		t.Errorf("after a cancellation: %v", context.Cause(out))
	}
}
