package stage

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"pipe/runtime/artifact"
)

// A BudgetError says that a budget is used up. It is no failure: what was done
// is kept, and the next run goes on.
type BudgetError struct {
	Budget string         // what set it: "budget_usd", "budget_tokens", "budget_time" or "--max-time"
	Limit  string         // its value
	Of     string         // the address of the teacher block; "" for the time of a run
	Spent  artifact.Spent // by the run, on that teacher
}

// Error says which budget, and what was paid.
func (e *BudgetError) Error() string {
	if e.Of == "" {
		return fmt.Sprintf("the time of %s for this run is over", e.Limit)
	}
	return fmt.Sprintf("%s = %s of %s leaves no room for another call: %s", e.Budget, e.Limit, e.Of, Cost(e.Spent))
}

// Cost words what was asked for, and what was paid where tokens have a price: "3
// new answers, 1200 input and 340 output tokens, 0.0012 USD".
func Cost(s artifact.Spent) string {
	text := Count(s.Calls, "new answer")
	if s.Lost > 0 {
		text += fmt.Sprintf(" and %d lost on the way", s.Lost)
	}
	text += fmt.Sprintf(", %d input and %s", s.InputTokens, Count(s.OutputTokens, "output token"))
	if s.USD > 0 {
		text += fmt.Sprintf(", %.4f USD", s.USD)
	}
	var not []string
	if s.Estimated > 0 {
		not = append(not, fmt.Sprintf("estimated for %d, which the server did not count", s.Estimated))
	}
	if s.Lost > 0 {
		not = append(not, "what was lost is counted as answers of max_tokens")
	}
	if len(not) > 0 {
		text += " (" + strings.Join(not, "; ") + ")"
	}
	return text
}

// TimeUp is the error of a run that has taken its time, which by set.
func TimeUp(by string, limit time.Duration) error {
	return &BudgetError{Budget: by, Limit: limit.String()}
}

// OverBudget returns the BudgetError that ended ctx, or nil.
func OverBudget(ctx context.Context) error {
	var b *BudgetError
	if errors.As(context.Cause(ctx), &b) {
		return b
	}
	return nil
}

// Tokens are those of one call.
type Tokens struct{ Input, Output int64 }

// A Budget holds the calls of one run to one teacher within what its block
// allows. Every call is set aside at its most before it is made, so that those
// in flight cannot exceed the budget together. It is safe for concurrent use.
type Budget struct {
	addr   string
	config *TeacherConfig

	mu      sync.Mutex
	paid    artifact.Spent
	aside   Tokens        // at most, of the calls in flight
	settled chan struct{} // closed and made anew when a call ends
}

// NewBudget returns the budget of a run for the teacher block at addr.
func NewBudget(addr string, c *TeacherConfig) *Budget {
	return &Budget{addr: addr, config: c, settled: make(chan struct{})}
}

// usd is the price of tokens.
func (b *Budget) usd(t Tokens) float64 {
	return (float64(t.Input)*b.config.InputPrice + float64(t.Output)*b.config.OutputPrice) / 1e6
}

// exceeded returns the budget that tokens are too many for, or nil.
func (b *Budget) exceeded(t Tokens) error {
	if m := b.config.BudgetTokens; m != nil && t.Input+t.Output > *m {
		return &BudgetError{"budget_tokens", fmt.Sprint(*m), b.addr, b.paid}
	}
	if m := b.config.BudgetUSD; m != nil && b.usd(t) > *m {
		return &BudgetError{"budget_usd", fmt.Sprint(*m), b.addr, b.paid}
	}
	return nil
}

// reserve sets most aside. It waits while only the calls in flight stand in the
// way: they may cost less than was set aside for them.
func (b *Budget) reserve(ctx context.Context, most Tokens) error {
	for {
		b.mu.Lock()
		sure := Tokens{b.paid.InputTokens + most.Input, b.paid.OutputTokens + most.Output}
		if err := b.exceeded(sure); err != nil {
			b.mu.Unlock()
			return err
		}
		if b.exceeded(Tokens{sure.Input + b.aside.Input, sure.Output + b.aside.Output}) == nil {
			b.aside.Input += most.Input
			b.aside.Output += most.Output
			b.mu.Unlock()
			return nil
		}
		settled := b.settled
		b.mu.Unlock()
		select {
		case <-settled:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// settle ends a call for which most was set aside.
func (b *Budget) settle(most Tokens, cost artifact.Spent) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.aside.Input -= most.Input
	b.aside.Output -= most.Output
	b.paid.Add(cost)
	close(b.settled)
	b.settled = make(chan struct{})
}

// An Account is what one stage spends of a Budget. It is safe for concurrent
// use.
type Account struct {
	budget *Budget
	mu     sync.Mutex
	spent  artifact.Spent
}

// Account opens an account on b.
func (b *Budget) Account() *Account { return &Account{budget: b} }

// A Bill is what a call took.
type Bill struct {
	Tokens
	Estimated bool // nobody counted them
	Lost      bool // the answer did not arrive, and may have to be paid for all the same
}

// Pay makes a call that takes at most so many tokens, if the budget allows it;
// else its error is a [*BudgetError] and call was not called. When call fails nothing
// is paid, unless its answer was lost.
func (a *Account) Pay(ctx context.Context, most Tokens, call func() (Bill, error)) error {
	if err := a.budget.reserve(ctx, most); err != nil {
		return err
	}
	var cost artifact.Spent
	defer func() {
		a.budget.settle(most, cost)
		a.add(cost)
	}()
	bill, err := call()
	if err != nil && !bill.Lost {
		return err
	}
	cost = artifact.Spent{InputTokens: bill.Input, OutputTokens: bill.Output, USD: a.budget.usd(bill.Tokens)}
	switch {
	case bill.Lost:
		cost.Lost = 1
	case bill.Estimated:
		cost.Calls, cost.Estimated = 1, 1
	default:
		cost.Calls = 1
	}
	return err
}

// Replayed counts an answer that came from a journal.
func (a *Account) Replayed(t Tokens) {
	a.add(artifact.Spent{Replayed: 1, ReplayedInputTokens: t.Input, ReplayedOutputTokens: t.Output})
}

func (a *Account) add(s artifact.Spent) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.spent.Add(s)
}

// Spent returns what the stage spent so far.
func (a *Account) Spent() artifact.Spent {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.spent
}
