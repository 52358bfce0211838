package sft

import (
	"context"
	"errors"

	"pipe/model"
	"pipe/model/memory"
	"pipe/runtime/stage"
	"pipe/tensor"
	"pipe/train"
)

// fits plans the memory of the whole run on the largest rows, before the model
// is loaded, and refuses what does not fit. It returns how many parameters are
// Paged.
func (s *spec) fits(ctx context.Context, env *stage.Env, student *train.Student, rows, held []model.Batch) (paged int, err error) {
	f, err := s.planMemory(ctx, env, student, rows, held)
	if err != nil {
		return 0, err
	}
	f.Note(env.Note)
	return f.Paged, nil
}

func (s *spec) planMemory(ctx context.Context, env *stage.Env, student *train.Student, rows, held []model.Batch) (train.Fit, error) {
	return s.options(env).PlanMemory(env.Backend, "lower seq_len of the pack stage", func(p tensor.Plan, paged int) (*train.Student, error) {
		return s.firstStep(ctx, env, p, paged, student, rows, held)
	})
}

// firstStep takes the first step on a plan and returns the student there.
func (s *spec) firstStep(ctx context.Context, env *stage.Env, p tensor.Plan, paged int, student *train.Student, rows, held []model.Batch) (*train.Student, error) {
	shadow, err := student.Shadow(p)
	if err != nil {
		return nil, err
	}
	d, o := shadow.Decoder, s.options(env)
	rows, held = train.Largest(rows, max(o.BatchSize, checked)), train.Largest(held, 64)
	o.Dir, o.MaxSteps, o.Paged = "", 1, paged
	o.Check = func(p *model.Pass) error { return checkPacking(p, d, rows) }
	o.Setup = func() (map[string][]float64, error) {
		_, err := measure(ctx, d, held)
		return nil, err
	}
	task := &train.Likelihood{Model: d, Rows: rows[:min(o.BatchSize, len(rows))]}
	_, err = train.Run(ctx, d, task, o)
	return shadow, err
}

// PlanMemory implements stage.MemoryPlanner.
func (s *spec) PlanMemory(ctx context.Context, env *stage.Env) (m stage.Memory, err error) {
	student, paths, err := s.student(env)
	if err != nil {
		return m, err
	}
	defer student.Close()
	rows, held, err := s.rows(env, student, paths)
	if err != nil {
		return m, err
	}
	f, err := s.planMemory(ctx, env, student, rows, held)
	if large := (*memory.TooLarge)(nil); errors.As(err, &large) {
		err = nil // what it needs is what is asked for
	}
	return stage.Memory{Bytes: f.Need.Bytes, Host: f.Need.Host, For: memory.Parts(f.Need)}, err
}
