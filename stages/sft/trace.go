package sft

import (
	"context"
	"math"

	"pipe/model"
	"pipe/runtime/stage"
)

// Uses implements stage.Learner.
func (s *spec) Uses(ctx context.Context, env *stage.Env, path string) ([]stage.Use, error) {
	// What is asked about was trained on: it fits the model.
	anyModel := model.Config{MaxPositions: math.MaxInt, VocabSize: math.MaxInt32}
	switch path {
	case "data":
	case "eval_data":
		held, err := read(env, *s.EvalData, path, anyModel)
		uses := make([]stage.Use, len(held))
		for i := range uses {
			uses[i].Note = "held out: eval.loss is measured on it"
		}
		return uses, err
	default:
		return nil, nil
	}
	all, err := read(env, s.Data, path, anyModel)
	if err != nil {
		return nil, err
	}
	learn, held := all, []model.Batch(nil)
	if s.EvalData == nil && s.EvalSplit > 0 {
		of, err := conversations(env, s.Data)
		if err != nil {
			return nil, err
		}
		learn, held = split(all, of, s.EvalSplit, env.Seed)
	}
	at := map[*int32]int{} // places in all: rows are told apart by where their tokens lie
	for i := range all {
		at[&all[i].IDs[0]] = i
	}
	uses := make([]stage.Use, len(all))
	for i := range uses {
		uses[i].Note = "left out: all its documents are held out in other rows"
	}
	for _, b := range held {
		uses[at[&b.IDs[0]]].Note = "held out by eval_split: eval.loss is measured on it"
	}
	steps := s.options(env).Seen(len(learn))
	for i, b := range learn {
		k := at[&b.IDs[0]]
		uses[k] = stage.Use{Steps: steps[i]}
		if len(b.Targets) < len(all[k].Targets) {
			uses[k].Note = "some of its documents are held out in other rows and not learned here"
		}
	}
	return uses, nil
}
