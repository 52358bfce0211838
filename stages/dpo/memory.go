package dpo

import (
	"context"
	"errors"
	"fmt"

	"pipe/model/memory"
	"pipe/runtime/stage"
	"pipe/tensor"
	"pipe/train"
)

// fits plans the memory of the whole run on the largest pairs, before the model
// is loaded, and refuses what does not fit. It returns how many parameters are
// Paged.
func (s *spec) fits(ctx context.Context, env *stage.Env, student *train.Student, learn, held []train.Preference) (paged int, err error) {
	f, err := s.planMemory(ctx, env, student, learn, held)
	if err != nil {
		return 0, err
	}
	f.Note(env.Note)
	return f.Paged, nil
}

func (s *spec) planMemory(ctx context.Context, env *stage.Env, student *train.Student, learn, held []train.Preference) (train.Fit, error) {
	return s.options(env).PlanMemory(env.Backend, fmt.Sprintf("lower max_len (it is %d)", s.MaxLen), func(p tensor.Plan, paged int) (*train.Student, error) {
		return s.firstStep(ctx, env, p, paged, student, learn, held)
	})
}

// firstStep takes the first step on a plan and returns the student there.
func (s *spec) firstStep(ctx context.Context, env *stage.Env, p tensor.Plan, paged int, student *train.Student, learn, held []train.Preference) (*train.Student, error) {
	shadow, err := student.Shadow(p)
	if err != nil {
		return nil, err
	}
	d, o := shadow.Decoder, s.options(env)
	referred := pick(learn, s.referred(o, len(learn)))
	o.Dir, o.MaxSteps, o.Paged = "", 1, paged
	o.Setup = func() (map[string][]float64, error) {
		for _, pairs := range [][]train.Preference{referred, held} {
			if _, err := train.SumLogProbs(ctx, d, train.LargestPairs(pairs, 64), false, nil); err != nil {
				return nil, err
			}
		}
		return nil, nil
	}
	learn = train.LargestPairs(learn, o.BatchSize)
	task := &train.Preferences{Model: d, Pairs: learn, Loss: s.Loss, Beta: s.Beta, Ref: make([]train.Pair, len(learn))}
	_, err = train.Run(ctx, d, task, o)
	return shadow, err
}

// PlanMemory implements stage.MemoryPlanner.
func (s *spec) PlanMemory(ctx context.Context, env *stage.Env) (m stage.Memory, err error) {
	student, _, err := s.student(env)
	if err != nil {
		return m, err
	}
	defer student.Close()
	learn, held, err := s.pairs(env, student.Base)
	if err != nil {
		return m, err
	}
	f, err := s.planMemory(ctx, env, student, learn, held)
	if large := (*memory.TooLarge)(nil); errors.As(err, &large) {
		err = nil // what it needs is what is asked for
	}
	return stage.Memory{Bytes: f.Need.Bytes, Host: f.Need.Host, For: memory.Parts(f.Need)}, err
}
