package dpo

import (
	"context"
	"fmt"

	"pipe/model/memory"
	"pipe/runtime/stage"
	"pipe/train"
)

// fits plans the memory of the whole run on the largest pairs, before the model
// is loaded, and refuses what does not fit.
func (s *spec) fits(ctx context.Context, env *stage.Env, student *train.Student, learn, held []train.Preference) error {
	g := memory.NewGuard(env.Backend)
	if g == nil {
		return nil
	}
	adapter, err := s.measureMemory(ctx, env, g, student, learn, held)
	if err != nil {
		return err
	}
	need := g.Plan.Peak()
	if err := g.Check(s.options(env).SaveMemory(need, fmt.Sprintf("lower max_len (it is %d)", s.MaxLen), adapter)...); err != nil {
		return err
	}
	env.Note("needs %s of memory: %s", memory.Size(need.Bytes), memory.Parts(need))
	return nil
}

// measureMemory runs the first step on the plan of g. It reports whether an
// adapter is trained.
func (s *spec) measureMemory(ctx context.Context, env *stage.Env, g *memory.Guard, student *train.Student, learn, held []train.Preference) (adapter bool, err error) {
	shadow, err := student.Shadow(g.Plan)
	if err != nil {
		return false, err
	}
	d, o := shadow.Decoder, s.options(env)
	o.Dir, o.MaxSteps = "", 1
	o.Setup = func() (map[string][]float64, error) {
		for _, pairs := range [][]train.Preference{learn, held} {
			if _, err := train.SumLogProbs(ctx, d, train.LargestPairs(pairs, 64), false, nil); err != nil {
				return nil, err
			}
		}
		return nil, nil
	}
	learn = train.LargestPairs(learn, o.BatchSize)
	task := &train.Preferences{Model: d, Pairs: learn, Loss: s.Loss, Beta: s.Beta, Ref: make([]train.Pair, len(learn))}
	_, err = train.Run(ctx, d, task, o)
	return shadow.Adapter != nil, err
}

// PlanMemory implements stage.MemoryPlanner.
func (s *spec) PlanMemory(ctx context.Context, env *stage.Env) (bytes int64, parts string, err error) {
	g := memory.NewGuard(env.Backend)
	if g == nil {
		return 0, "", nil
	}
	student, _, err := s.student(env)
	if err != nil {
		return 0, "", err
	}
	defer student.Close()
	learn, held, err := s.pairs(env, student.Base)
	if err != nil {
		return 0, "", err
	}
	if _, err := s.measureMemory(ctx, env, g, student, learn, held); err != nil {
		return 0, "", err
	}
	need := g.Plan.Peak()
	return need.Bytes, memory.Parts(need), nil
}
