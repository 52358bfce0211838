package engine

import (
	"context"
	"errors"
	"sync"

	"pipe/runtime/artifact"
	"pipe/runtime/stage"
)

// A purse holds what the run spends on teachers: one budget a teacher block,
// from which each stage has an account.
type purse struct {
	mu       *sync.Mutex
	budgets  map[string]*stage.Budget
	accounts map[string]map[string]*stage.Account // by stage, then teacher block
}

func newPurse() purse {
	return purse{&sync.Mutex{}, map[string]*stage.Budget{}, map[string]map[string]*stage.Account{}}
}

// account returns the account of the stage at addr for a teacher.
func (p purse) account(addr string, t stage.Teacher) *stage.Account {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.budgets[t.Addr] == nil {
		p.budgets[t.Addr] = stage.NewBudget(t.Addr, t.Config)
	}
	if p.accounts[addr] == nil {
		p.accounts[addr] = map[string]*stage.Account{}
	}
	a := p.accounts[addr][t.Addr]
	if a == nil {
		a = p.budgets[t.Addr].Account()
		p.accounts[addr][t.Addr] = a
	}
	return a
}

// spent returns what the stage at addr spent; nil when it asked no teacher.
func (p purse) spent(addr string) *artifact.Spent {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.accounts[addr] == nil {
		return nil
	}
	total := &artifact.Spent{}
	for _, a := range p.accounts[addr] {
		total.Add(a.Spent())
	}
	return total
}

// limited is ctx, ended by a [stage.BudgetError] when the run has taken its time.
func (e *engine) limited(ctx context.Context) (context.Context, context.CancelFunc) {
	by, limit := "--max-time", e.MaxTime
	if limit == 0 {
		by, limit = "budget_time", e.prog.BudgetTime
	}
	if limit <= 0 {
		return context.WithCancel(ctx)
	}
	return context.WithTimeoutCause(ctx, limit, stage.TimeUp(by, limit))
}

// overBudget reports whether err, or the end of ctx, is that of a budget.
func overBudget(ctx context.Context, err error) bool {
	return errors.As(err, new(*stage.BudgetError)) || stage.OverBudget(ctx) != nil
}
