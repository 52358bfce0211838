package eval

import (
	"context"

	"pipe/model"
	"pipe/model/memory"
	"pipe/runtime/stage"
	"pipe/tensor"
)

// PlanMemory implements stage.MemoryPlanner: it runs all suites on plans of the
// model and of the one it is compared with, of which one is loaded at a time.
func (s *spec) PlanMemory(ctx context.Context, env *stage.Env) (most stage.Memory, err error) {
	jobs, err := s.jobs(env)
	if err != nil {
		return most, err
	}
	models := []stage.Model{s.Model}
	if s.Baseline != nil {
		models = append(models, *s.Baseline)
	}
	for _, m := range models {
		need, err := s.measureMemory(ctx, env, m, jobs)
		if err != nil {
			return stage.Memory{}, err
		}
		if need.Bytes > most.Bytes {
			most = stage.Memory{Bytes: need.Bytes, For: memory.Parts(need)}
		}
	}
	return most, nil
}

func (s *spec) measureMemory(ctx context.Context, env *stage.Env, m stage.Model, jobs []job) (need tensor.Usage, err error) {
	paths, err := env.Store.Model(m.Ref)
	if err != nil {
		return need, err
	}
	subject, err := openShadow(env.Backend, paths, tensor.Precision(s.Precision))
	if err != nil {
		return need, err
	}
	defer subject.close()
	if subject.guard == nil {
		return need, nil
	}
	r := &runner{ctx: ctx, env: env, subject: subject, batch: s.Batch, total: len(jobs)}
	if _, err := r.all(jobs, false); err != nil {
		return need, err
	}
	return subject.guard.Plan.Peak(), nil
}

// noScores are scores of continuations that were not run.
func noScores(cs []model.Continuation) []model.Scores {
	out := make([]model.Scores, len(cs))
	for i, c := range cs {
		out[i] = model.Scores{LogP: make([]float32, len(c.Target)), ArgMax: make([]int32, len(c.Target))}
	}
	return out
}
