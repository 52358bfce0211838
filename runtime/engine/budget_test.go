package engine

import (
	"context"
	"errors"
	"testing"
	"time"

	"pipe/runtime/artifact"
	"pipe/runtime/stage"
)

const spenders = `
teacher "t" {
  provider      = "journal"
  model_id      = "m"
  journal       = "j"
  budget_tokens = 250
}
step "a" {
  id      = "a"
  teacher = teacher.t
}
step "b" {
  id      = "b"
  from    = [step.a.out]
  teacher = teacher.t
  retry { attempts = 3 }
}
step "c" {
  id   = "c"
  from = [step.b.out]
}
step "other" { id = "other" }
`

// pay makes the steps a and b pay for a call of 150 tokens, b after a replay.
func pay(l *lab) func(context.Context, string, *stage.Env) error {
	config := stage.NewTeacherConfig()
	tokens := int64(250)
	config.BudgetTokens = &tokens
	return func(ctx context.Context, id string, env *stage.Env) error {
		if id != "a" && id != "b" {
			return nil
		}
		account := env.Pays(stage.Teacher{Ref: artifact.Ref{Addr: "teacher.t"}, Config: config})
		if id == "b" {
			account.Replayed(stage.Tokens{Input: 5})
		}
		return account.Pay(ctx, stage.Tokens{Input: 100, Output: 100}, func() (stage.Bill, error) {
			return stage.Bill{Tokens: stage.Tokens{Input: 100, Output: 50}}, nil
		})
	}
}

// A budget is that of a run and a teacher block, whatever stages share it. It
// stops what pays, retries nothing, and counts from zero in the next run.
func TestBudgetsStopARun(t *testing.T) {
	l := newLab(t)
	l.write("j", "")
	l.hook = pay(l)
	res, ran, err := l.run(spenders, func(o *Options) { o.KeepGoing = true })
	var over *stage.BudgetError
	if !errors.As(err, &over) || over.Budget != "budget_tokens" || over.Of != "teacher.t" || over.Spent.InputTokens != 100 {
		t.Fatalf("error %v", err)
	}
	equal(t, "ran", ran, []string{"a", "b", "other"})
	equal(t, "states", states(res), map[string]State{"step.a": Done, "step.b": Cancelled, "step.c": Skipped, "step.other": Done})
	equal(t, "a", *res.stage(t, "step.a").Spent, artifact.Spent{Calls: 1, InputTokens: 100, OutputTokens: 50})
	equal(t, "b", *res.stage(t, "step.b").Spent, artifact.Spent{Replayed: 1, ReplayedInputTokens: 5})
	if s := res.stage(t, "step.other").Spent; s != nil {
		t.Errorf("other spent %+v", s)
	}

	res = l.must(spenders, "b c")
	equal(t, "states", states(res), map[string]State{"step.a": Cached, "step.b": Done, "step.c": Done, "step.other": Cached})
	rec, err := l.store.Record(res.stage(t, "step.b").Key)
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "record", *rec.Spent, artifact.Spent{Calls: 1, InputTokens: 100, OutputTokens: 50, Replayed: 1, ReplayedInputTokens: 5})
}

// A failure beside a budget is a failure.
func TestBudgetBesideAFailure(t *testing.T) {
	l := newLab(t)
	l.write("j", "")
	spend := pay(l)
	l.hook = func(ctx context.Context, id string, env *stage.Env) error {
		if id == "other" {
			return errors.New("broken")
		}
		return spend(ctx, id, env)
	}
	res, _, err := l.run(spenders, func(o *Options) { o.KeepGoing = true })
	contains(t, "error", err, "step.other: broken", "budget_tokens = 250")
	equal(t, "state", res.stage(t, "step.other").State, Failed)
	equal(t, "state", res.stage(t, "step.b").State, Cancelled)
}

// The time of a run stops what is running as Ctrl-C does, and says so.
func TestTimeBudget(t *testing.T) {
	l := newLab(t)
	const src = `
pipeline "p" { budget_time = "1s" }
step "slow" { id = "slow" }
step "next" {
  id   = "next"
  from = [step.slow.out]
}`
	l.hook = func(ctx context.Context, id string, env *stage.Env) error {
		<-ctx.Done()
		return ctx.Err()
	}
	res, _, err := l.run(src)
	contains(t, "error", err, "the time of 1s for this run is over")
	equal(t, "states", states(res), map[string]State{"step.slow": Cancelled, "step.next": Skipped})
	equal(t, "text", res.stage(t, "step.slow").Error, "the time of 1s for this run is over")

	// What is done when the time is over is done.
	l.hook = func(ctx context.Context, id string, env *stage.Env) error {
		if id == "next" {
			<-ctx.Done()
		}
		return nil
	}
	longer := func(o *Options) { o.MaxTime = 1500 * time.Millisecond }
	res = l.must(src, "next slow", longer)
	equal(t, "states", states(res), map[string]State{"step.slow": Done, "step.next": Done})
	l.hook = nil
	l.must(src, "", longer)
}

// What a journal says when a stage began is in its key: nothing is published
// under that when the journal is another one by the end.
func TestJournalChangesWhileAStageAnswersFromIt(t *testing.T) {
	l := newLab(t)
	l.write("j", "")
	l.hook = func(_ context.Context, id string, _ *stage.Env) error {
		if id == "a" {
			l.write("j", "more")
		}
		return nil
	}
	res, _, err := l.run(spenders)
	contains(t, "error", err, "step.a: ", "j changed while it was read: nothing was kept")
	equal(t, "state", res.stage(t, "step.a").State, Failed)
	l.hook = nil
	if _, ran, err := l.run(spenders); err != nil || len(ran) == 0 || ran[0] != "a" {
		t.Errorf("then %v ran, error %v", ran, err)
	}
}
