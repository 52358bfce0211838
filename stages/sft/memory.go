package sft

import (
	"context"

	"pipe/model"
	"pipe/model/memory"
	"pipe/runtime/stage"
	"pipe/train"
)

// fits plans the memory of the whole run on the largest rows, before the model
// is loaded, and refuses what does not fit.
func (s *spec) fits(ctx context.Context, env *stage.Env, student *train.Student, rows, held []model.Batch) error {
	g := memory.NewGuard(env.Backend)
	if g == nil {
		return nil
	}
	adapter, err := s.measureMemory(ctx, env, g, student, rows, held)
	if err != nil {
		return err
	}
	need := g.Plan.Peak()
	if err := g.Check(s.options(env).SaveMemory(need, "lower seq_len of the pack stage", adapter)...); err != nil {
		return err
	}
	env.Note("needs %s of memory: %s", memory.Size(need.Bytes), memory.Parts(need))
	return nil
}

// measureMemory runs the first step on the plan of g. It reports whether an
// adapter is trained.
func (s *spec) measureMemory(ctx context.Context, env *stage.Env, g *memory.Guard, student *train.Student, rows, held []model.Batch) (adapter bool, err error) {
	shadow, err := student.Shadow(g.Plan)
	if err != nil {
		return false, err
	}
	d, o := shadow.Decoder, s.options(env)
	rows, held = train.Largest(rows, max(o.BatchSize, checked)), train.Largest(held, 64)
	o.Dir, o.MaxSteps = "", 1
	o.Check = func(p *model.Pass) error { return checkPacking(p, d, rows) }
	o.Setup = func() (map[string][]float64, error) {
		_, err := measure(ctx, d, held)
		return nil, err
	}
	task := &train.Likelihood{Model: d, Rows: rows[:min(o.BatchSize, len(rows))]}
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
	rows, held, err := s.rows(env, student.Config)
	if err != nil {
		return 0, "", err
	}
	if _, err := s.measureMemory(ctx, env, g, student, rows, held); err != nil {
		return 0, "", err
	}
	need := g.Plan.Peak()
	return need.Bytes, memory.Parts(need), nil
}
