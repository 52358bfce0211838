package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"pipe/runtime/stage"
)

// lastMoment is how long the second Ctrl-C waits for what it stops.
const lastMoment = 500 * time.Millisecond

// interruptible returns a context that Ctrl-C ends, or the polite kill of a
// scheduler, or the end of the terminal, unless the process was to outlive that. The second one cuts off what the first waits for, programs and
// answers in flight, and ends the process.
func interruptible(ctx context.Context) (context.Context, func()) {
	halt := stage.NewHalt()
	ctx, cancel := context.WithCancel(stage.WithHalt(ctx, halt))
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	if !signal.Ignored(syscall.SIGHUP) { // by nohup
		signal.Notify(signals, syscall.SIGHUP)
	}
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

// outliveReaders lets the process go on when whoever reads its output has ended, as
// tee does on a Ctrl-C that both of them get. Programs of exec do not inherit it, as
// they would if the signal were ignored.
func outliveReaders() { signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE) }

// stopping says what is waited for after the first Ctrl-C.
func stopping(ctx context.Context, t *app) {
	what := "what is finished is kept"
	if n, most := stage.InFlight(ctx); n > 0 {
		what += ", and so is what teachers answer to " + counted(n, "request") + " in flight, which the run waits for"
		if most > 0 {
			what += fmt.Sprintf(", %v at most", most.Truncate(time.Second)+time.Second)
		}
	}
	t.printf("stopping; %s (once more stops at once)\n", what)
}
