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
	shadow, err := student.Shadow(g.Plan)
	if err != nil {
		return err
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
	if _, err := train.Run(ctx, d, task, o); err != nil {
		return err
	}
	need := g.Plan.Peak()
	if err := g.Check(o.SaveMemory(need, fmt.Sprintf("lower max_len (it is %d)", s.MaxLen), shadow.Adapter != nil)...); err != nil {
		return err
	}
	env.Note("needs %s of memory: %s", memory.Size(need.Bytes), memory.Parts(need))
	return nil
}
