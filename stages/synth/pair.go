package synth

import (
	"context"
	"encoding/json"
	"fmt"

	"pipe/runtime/artifact"
	"pipe/runtime/stage"
)

// pairItems makes the work of preference_pairs: pair i is about prompt i.
func (s *spec) pairItems(env *stage.Env, ask *asker) ([]func(context.Context) (result, error), error) {
	a, err := env.Store.Open(s.Prompts.Ref)
	if err != nil {
		return nil, err
	}
	var items []func(context.Context) (result, error)
	for row, err := range artifact.Rows[artifact.Row](a) {
		if err != nil {
			return nil, err
		}
		i := len(items)
		if i == s.Count {
			break
		}
		if n := len(row.Messages); n < 2 || row.Messages[n-1].Role != "assistant" || row.Messages[n-2].Role != "user" {
			return nil, fmt.Errorf("prompts: row %s does not end with a user turn and its answer; preference_pairs needs conversations", row.ID)
		}
		items = append(items, func(ctx context.Context) (result, error) {
			out, err := s.pair(ctx, ask, i, row)
			if err != nil {
				return outcome(fmt.Sprintf("pair-%06d", i), row.ID, row.Messages[len(row.Messages)-1].Content, err)
			}
			return result{row: out}, nil
		})
	}
	if len(items) == 0 {
		return nil, stage.Fieldf("prompts", "has no rows")
	}
	return items, nil
}

// pair makes a chosen and a rejected answer to the last question of row.
func (s *spec) pair(ctx context.Context, ask *asker, i int, row artifact.Row) (artifact.Row, error) {
	n := len(row.Messages)
	question := bareQuestion(row)
	prose := func(r string) (string, error) { return parseText(r, s.MaxAnswer) }
	other, err := ask.ask(ctx, i, "closed-book answer", question, prose)
	if err != nil {
		return artifact.Row{}, err
	}
	chosen, rejected := row.Messages[n-1].Content, other
	if s.Pairs == "judge" {
		second, err := ask.ask(ctx, i, "second answer", question, prose)
		if err != nil {
			return artifact.Row{}, err
		}
		better, err := ask.ask(ctx, i, "judgement", fill(s.JudgePrompt, judgePrompt, "question", question, "a", other, "b", second), parseChoice)
		if err != nil {
			return artifact.Row{}, err
		}
		if chosen, rejected = other, second; better == "b" {
			chosen, rejected = second, other
		}
	}
	if same(chosen, rejected) {
		return artifact.Row{}, &rejection{"equal", fmt.Sprintf("both answers say %q", clip(chosen, 200))}
	}
	meta, _ := json.Marshal(map[string]any{"pairs": s.Pairs, "question": question})
	return artifact.Row{
		ID: fmt.Sprintf("pair-%06d", i), Messages: row.Messages[:n-1],
		Chosen:   []artifact.Message{{Role: "assistant", Content: chosen}},
		Rejected: []artifact.Message{{Role: "assistant", Content: rejected}},
		Gold:     -1, Source: row.ID, Meta: string(meta),
	}, nil
}

// bareQuestion is the question without the passage that the row may carry: a
// teacher that does not see the passage has to guess.
func bareQuestion(row artifact.Row) string {
	var m struct {
		Question string `json:"question"`
	}
	if json.Unmarshal([]byte(row.Meta), &m) == nil && m.Question != "" {
		return m.Question
	}
	return row.Messages[len(row.Messages)-2].Content
}
