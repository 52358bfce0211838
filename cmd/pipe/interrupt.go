package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"
	"time"

	"pipe/runtime/stage"
)

// lastMoment is how long the second Ctrl-C waits for what it stops.
const lastMoment = 500 * time.Millisecond

// interruptible returns a context that Ctrl-C ends, or the polite kill of a
// scheduler. The second one cuts off what the first waits for, programs and
// answers in flight, and ends the process.
func interruptible(ctx context.Context) (context.Context, func()) {
	halt := stage.NewHalt()
	ctx, cancel := context.WithCancel(stage.WithHalt(ctx, halt))
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	go func() {
		<-signals
		cancel()
		<-signals
		halt.AtOnce()
		time.Sleep(lastMoment)
		os.Exit(exitInterrupted)
	}()
	return ctx, func() {
		signal.Stop(signals)
		cancel()
	}
}

// stopping says what is waited for after the first Ctrl-C.
func stopping(ctx context.Context, t *app) {
	what := "what is finished is kept"
	if n := stage.InFlight(ctx); n > 0 {
		what += ", and so is what teachers answer to " + counted(n, "request") + " in flight, which the run waits for"
	}
	t.printf("stopping; %s (once more stops at once)\n", what)
}
