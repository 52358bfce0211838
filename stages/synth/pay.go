package synth

import (
	"context"
	"errors"
	"time"

	"pipe/runtime/stage"
	"pipe/teacher"
)

// paid is a teacher that is asked only what its budget allows, each attempt of it,
// and nothing once the run ends.
type paid struct {
	teacher.Teacher
	account *stage.Account
	longest time.Duration // that a call takes; 0: nobody knows
	ended   func() error
}

// bytesPerToken is a usual length, for servers that do not count tokens.
const bytesPerToken = 4

func (p *paid) Complete(ctx context.Context, r teacher.Request) (a teacher.Answer, err error) {
	var refused error
	err = p.account.Pay(ctx, most(r), func() (stage.Bill, error) {
		if err := p.ended(); err != nil { // it may have waited for room in the budget
			return stage.Bill{}, err
		}
		defer stage.Fly(ctx, p.longest)()
		a, err = p.Teacher.Complete(ctx, r)
		switch {
		case errors.Is(err, teacher.ErrRefused):
			refused = err
			return stage.Bill{}, nil // it was a call, though without an answer
		case errors.Is(err, teacher.ErrLost):
			return stage.Bill{Tokens: stage.Tokens{Input: estimate(promptBytes(r)), Output: int64(r.MaxTokens)}, Lost: true}, err
		}
		return bill(r, a), err
	})
	if err == nil {
		err = refused
	}
	return a, err
}

// bill is what an answer took, as the server counted it or else estimated.
func bill(r teacher.Request, a teacher.Answer) stage.Bill {
	b := stage.Bill{Tokens: stage.Tokens{Input: int64(a.PromptTokens), Output: int64(a.Tokens)}}
	if b.Input == 0 {
		b.Input, b.Estimated = estimate(promptBytes(r)), true
	}
	if said := len(a.Content) + len(a.Reasoning); b.Output == 0 && said > 0 {
		b.Output, b.Estimated = estimate(said), true
	}
	return b
}

// ended is why a run asks no more: a budget is used up, or it was cancelled.
func ended(ctx context.Context) error {
	if err := stage.OverBudget(ctx); err != nil {
		return err
	}
	return ctx.Err()
}

// most is what a call can take: tokens of the tokenizers that models have are a
// byte or more, and a chat template adds some to every turn.
func most(r teacher.Request) stage.Tokens {
	const perTurn = 32
	return stage.Tokens{Input: int64(promptBytes(r) + perTurn*(len(r.Messages)+1)), Output: int64(r.MaxTokens)}
}

func promptBytes(r teacher.Request) (n int) {
	for _, m := range r.Messages {
		n += len(m.Content)
	}
	return n
}

func estimate(bytes int) int64 { return int64((bytes + bytesPerToken - 1) / bytesPerToken) }
