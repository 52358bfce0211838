package stage

import (
	"context"
	"errors"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"pipe/runtime/artifact"
)

func budget(tokens int64, usd float64) *Budget {
	c := NewTeacherConfig()
	c.BudgetTokens, c.BudgetUSD, c.InputPrice, c.OutputPrice = &tokens, &usd, 1, 10
	return NewBudget("teacher.t", c)
}

// TestBudgetHolds: many calls at once, which take less than they may, come as
// close to the budget as one more call, and never above it.
func TestBudgetHolds(t *testing.T) {
	for _, c := range []struct {
		name   string
		tokens int64
		usd    float64
	}{{"budget_tokens", 5000, 1e9}, {"budget_usd", 1e15, 0.02}} {
		b := budget(c.tokens, c.usd)
		accounts := []*Account{b.Account(), b.Account()}
		most := Tokens{100, 50}
		var paid artifact.Spent
		var mu sync.Mutex
		var flying, widest atomic.Int64
		var wg sync.WaitGroup
		for i := range 16 {
			rng := rand.New(rand.NewPCG(1, uint64(i)))
			wg.Go(func() {
				for {
					used := Tokens{rng.Int64N(most.Input) + 1, rng.Int64N(most.Output) + 1}
					err := accounts[i%2].Pay(t.Context(), most, func() (Bill, error) {
						widest.Store(max(widest.Load(), flying.Add(1)))
						time.Sleep(time.Microsecond)
						flying.Add(-1)
						return Bill{Tokens: used}, nil
					})
					var over *BudgetError
					if errors.As(err, &over) {
						if over.Budget != c.name || over.Of != "teacher.t" {
							t.Errorf("%+v", over)
						}
						return
					}
					mu.Lock()
					paid.Add(artifact.Spent{Calls: 1, InputTokens: used.Input, OutputTokens: used.Output, USD: b.usd(used)})
					mu.Unlock()
				}
			})
		}
		wg.Wait()
		total := accounts[0].Spent()
		total.Add(accounts[1].Spent())
		if total.Calls != paid.Calls || total.InputTokens != paid.InputTokens || total.OutputTokens != paid.OutputTokens {
			t.Errorf("%s: the accounts say %+v, paid was %+v", c.name, total, paid)
		}
		tokens := paid.InputTokens + paid.OutputTokens
		if tokens > c.tokens || paid.USD > c.usd*(1+1e-9) {
			t.Errorf("%s is exceeded: %+v", c.name, paid)
		}
		if tokens+most.Input+most.Output <= c.tokens && paid.USD+b.usd(most) <= c.usd {
			t.Errorf("%s: there was room for another call: %+v", c.name, paid)
		}
		if widest.Load() < 2 {
			t.Errorf("%s: no two calls were in flight at once", c.name)
		}
	}
}

// TestFailedCallsCostNothing: what was set aside for them comes back.
func TestFailedCallsCostNothing(t *testing.T) {
	a := budget(150, 1e9).Account()
	broken := errors.New("broken")
	for range 5 {
		if err := a.Pay(t.Context(), Tokens{100, 50}, func() (Bill, error) { return Bill{Tokens: Tokens{7, 7}}, broken }); err != broken {
			t.Fatal(err)
		}
	}
	a.Replayed(Tokens{1000, 1000})
	if err := a.Pay(t.Context(), Tokens{100, 50}, func() (Bill, error) { return Bill{Tokens: Tokens{60, 50}, Estimated: true}, nil }); err != nil {
		t.Fatal(err)
	}
	want := artifact.Spent{Calls: 1, InputTokens: 60, OutputTokens: 50, USD: 0.00056, Estimated: 1, Replayed: 1, ReplayedInputTokens: 1000, ReplayedOutputTokens: 1000}
	if got := a.Spent(); got != want {
		t.Errorf("spent %+v, want %+v", got, want)
	}
	err := a.Pay(t.Context(), Tokens{1, 50}, func() (Bill, error) { t.Error("asked above the budget"); return Bill{}, nil })
	if err == nil || !strings.Contains(err.Error(), "budget_tokens = 150 of teacher.t leaves no room for another call: 1 new answer, 60 input and 50 output tokens, 0.0006 USD (estimated for 1,") {
		t.Errorf("error %v", err)
	}
}

// TestPayStopsWithTheContext: it does not wait for calls that do not end.
func TestPayStopsWithTheContext(t *testing.T) {
	a := budget(100, 1e9).Account()
	ctx, cancel := context.WithCancel(t.Context())
	err := a.Pay(t.Context(), Tokens{60, 0}, func() (Bill, error) {
		time.AfterFunc(time.Millisecond, cancel)
		return Bill{Tokens: Tokens{1, 0}}, a.Pay(ctx, Tokens{60, 0}, func() (Bill, error) {
			t.Error("asked above the budget")
			return Bill{}, nil
		})
	})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
}

// TestLostAnswersCount: a call whose answer did not arrive may have to be paid for,
// and takes room in the budget.
func TestLostAnswersCount(t *testing.T) {
	a := budget(300, 1e9).Account()
	broken := errors.New("broken")
	lose := func() (Bill, error) { return Bill{Tokens: Tokens{20, 40}, Lost: true}, broken }
	for range 3 {
		if err := a.Pay(t.Context(), Tokens{100, 50}, lose); err != broken {
			t.Fatal(err)
		}
	}
	err := a.Pay(t.Context(), Tokens{100, 50}, lose)
	if want := "0 new answers and 3 lost on the way, 60 input and 120 output tokens, 0.0013 USD (what was lost is counted as answers of max_tokens)"; err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("error %v; want %q", err, want)
	}
	if got, want := a.Spent(), (artifact.Spent{Lost: 3, InputTokens: 60, OutputTokens: 120, USD: 3 * 0.00042}); got != want {
		t.Errorf("spent %+v, want %+v", got, want)
	}
}
