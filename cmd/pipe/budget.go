package main

import (
	"errors"
	"strings"

	"pipe/runtime/artifact"
	"pipe/runtime/engine"
	"pipe/runtime/stage"
)

// reportBudget says which budget stopped the run, what was spent, what is left
// to do, and how to go on.
func reportBudget(t *app, o *options, res *engine.Result, err error) {
	var b *stage.BudgetError
	errors.As(err, &b)
	t.printf("%s %s\n", t.errInk.paint(yellow, "stopped:"), clean(b.Error()))
	var spent artifact.Spent
	left := 0
	for _, s := range res.Stages {
		if s.Spent != nil {
			spent.Add(*s.Spent)
		}
		switch s.State {
		case engine.Cancelled:
			left++
			why := strings.TrimSuffix(strings.TrimSuffix(s.Error, b.Error()), ": ")
			if why == "" {
				why = "what it saved is found again"
			}
			t.printf("  %s is not done: %s\n", s.Addr, clean(why))
		case engine.Skipped:
			left++
			t.printf("  %s was not started\n", s.Addr)
		}
	}
	if spent.Calls+spent.Lost+spent.Replayed > 0 {
		t.printf("this run: %s; %d more came from journals at no cost\n", stage.Cost(spent), spent.Replayed)
	}
	name := b.Budget
	if b.Of != "" {
		name += " of " + b.Of
	}
	t.printf("%s left, and all that was done is kept: run the same command again to go on with another %s of %s, or raise it first\n", plural(left), name, b.Limit)
	if o.json {
		jsonLines(t.out).Encode(map[string]any{"type": "budget", "budget": b.Budget, "limit": b.Limit, "of": b.Of, "spent": spent, "left": left})
	}
}
