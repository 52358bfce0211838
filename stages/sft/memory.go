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
	shadow, err := student.Shadow(g.Plan)
	if err != nil {
		return err
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
	if _, err := train.Run(ctx, d, task, o); err != nil {
		return err
	}
	need := g.Plan.Peak()
	if err := g.Check(o.SaveMemory(need, "lower seq_len of the pack stage", shadow.Adapter != nil)...); err != nil {
		return err
	}
	env.Note("needs %s of memory: %s", memory.Size(need.Bytes), memory.Parts(need))
	return nil
}
