package dpo

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"pipe/model/pretrained"
	"pipe/runtime/artifact"
	"pipe/runtime/stage"
	"pipe/train"
)

// Uses implements stage.Learner. It reads the tokenizer of the base: which pairs
// are left out, and which are held out together, is told by tokens.
func (s *spec) Uses(ctx context.Context, env *stage.Env, path string) ([]stage.Use, error) {
	d := s.Data
	switch {
	case path == "eval_data" && s.EvalData != nil:
		d = *s.EvalData
	case path != "data":
		return nil, nil
	}
	uses, pairs, from, err := s.usable(env, d)
	if err != nil {
		return nil, err
	}
	learn, held := pairs, []train.Preference(nil)
	switch {
	case path == "eval_data":
		learn, held = nil, pairs
	case s.EvalData == nil && s.EvalSplit > 0:
		learn, held = split(pairs, s.EvalSplit, env.Seed)
	}
	for _, p := range held {
		note := &uses[from[&p.Prompt[0]]].Note
		*note = strings.TrimSuffix("held out: the metrics are measured on it; "+*note, "; ")
	}
	steps := s.options(env).Seen(len(learn))
	for i, p := range learn {
		uses[from[&p.Prompt[0]]].Steps = steps[i]
	}
	return uses, nil
}

// usable returns the pairs of a dataset, the row that each is from, by where its
// prompt lies, and why rows are left out.
func (s *spec) usable(env *stage.Env, d stage.Dataset) (uses []stage.Use, pairs []train.Preference, from map[*int32]int, err error) {
	paths, err := env.Store.Model(s.Base.Ref)
	if err != nil {
		return nil, nil, nil, err
	}
	m, err := pretrained.Open(paths.Base, pretrained.WithTemplate(paths.Template))
	if err != nil {
		return nil, nil, nil, err
	}
	defer m.Close()
	if m.Template == nil {
		return nil, nil, nil, errors.New("the base has no chat template")
	}
	a, err := env.Store.Open(d.Ref)
	if err != nil {
		return nil, nil, nil, err
	}
	from = map[*int32]int{}
	r := s.renderer(m)
	for row, err := range artifact.Rows[artifact.Row](a) {
		if err != nil {
			return nil, nil, nil, err
		}
		p, cut, err := r.pair(row)
		switch {
		case new(left).count(err):
			uses = append(uses, stage.Use{Note: "left out: " + err.Error()})
		case err != nil:
			return nil, nil, nil, err
		default:
			from[&p.Prompt[0]] = len(uses)
			use := stage.Use{}
			if cut > 0 {
				use.Note = fmt.Sprintf("%s cut to %s", []string{"an answer was", "its answers were"}[cut-1], r.name)
			}
			uses, pairs = append(uses, use), append(pairs, p)
		}
	}
	return uses, pairs, from, nil
}
