package synth

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"

	"pipe/runtime/artifact"
	"pipe/runtime/stage"
	"pipe/teacher"
)

// pairItems makes the work of preference_pairs: pair i is about prompt i.
func (s *spec) pairItems(env *stage.Env, ask *asker) ([]func(context.Context) (result, error), error) {
	return s.perPrompt(env, func(i int, row artifact.Row) (func(context.Context) (result, error), error) {
		if n := len(row.Messages); n < 2 || row.Messages[n-1].Role != "assistant" || row.Messages[n-2].Role != "user" {
			return nil, fmt.Errorf("prompts: row %s does not end with a user turn and its answer; preference_pairs needs conversations", row.ID)
		}
		return func(ctx context.Context) (result, error) {
			out, err := s.pair(ctx, ask, i, row)
			if err != nil {
				return outcome(fmt.Sprintf("pair-%06d", i), row.ID, row.Messages[len(row.Messages)-1].Content, err)
			}
			return result{row: out}, nil
		}, nil
	})
}

// perPrompt makes the work of as many prompts as are asked for, each by item.
func (s *spec) perPrompt(env *stage.Env, item func(i int, row artifact.Row) (func(context.Context) (result, error), error)) ([]func(context.Context) (result, error), error) {
	a, err := env.Store.Open(s.Prompts.Ref)
	if err != nil {
		return nil, err
	}
	var items []func(context.Context) (result, error)
	for row, err := range artifact.Rows[artifact.Row](a) {
		if err != nil {
			return nil, err
		}
		if len(items) == s.Count {
			break
		}
		one, err := item(len(items), row)
		if err != nil {
			return nil, err
		}
		items = append(items, one)
	}
	if len(items) == 0 {
		return nil, stage.Fieldf("prompts", "has no rows")
	}
	return items, nil
}

// pair makes a chosen and a rejected answer to the prompt of row: all that comes
// before its own answer.
func (s *spec) pair(ctx context.Context, ask *asker, i int, row artifact.Row) (artifact.Row, error) {
	n := len(row.Messages)
	question := bareQuestion(row)
	turns := turnsOf(row.Messages[:n-1])
	if s.Pairs == "reference" { // the teacher has to guess
		turns[n-2].Content = question
	}
	closed, err := s.reply(ctx, ask, i, "closed-book answer", turns)
	if err != nil {
		return artifact.Row{}, err
	}
	thought, said, _ := artifact.CutThought(row.Messages[n-1].Content)
	chosen, rejected := spoken{thought, said}, closed
	if s.Pairs == "judge" {
		second, err := s.reply(ctx, ask, i, "second answer", turns)
		if err != nil {
			return artifact.Row{}, err
		}
		better, _, err := ask.ask(ctx, i, "judgement", say(s.judgement(turns, closed.said, second.said)), false, parseChoice)
		if err != nil {
			return artifact.Row{}, err
		}
		if chosen, rejected = closed, second; better == "b" {
			chosen, rejected = second, closed
		}
	}
	if same(chosen.said, rejected.said) {
		return artifact.Row{}, &rejection{"equal", fmt.Sprintf("both answers say %q", clip(chosen.said, 200))}
	}
	if s.Reasoning != own || chosen.thought == "" { // else it would be learned that one thinks, and the other does not
		chosen.thought, rejected.thought = "", ""
	}
	meta, _ := json.Marshal(map[string]any{"pairs": s.Pairs, "question": question})
	return artifact.Row{
		ID: fmt.Sprintf("pair-%06d", i), Messages: row.Messages[:n-1],
		Chosen:   []artifact.Message{{Role: "assistant", Content: artifact.Think(chosen.thought, chosen.said)}},
		Rejected: []artifact.Message{{Role: "assistant", Content: artifact.Think(rejected.thought, rejected.said)}},
		Gold:     -1, Source: row.ID, Meta: string(meta),
	}, nil
}

// spoken is an answer, and what was thought before it.
type spoken struct{ thought, said string }

// reply asks for an answer to a conversation.
func (s *spec) reply(ctx context.Context, ask *asker, i int, step string, turns []teacher.Message) (spoken, error) {
	said, thought, err := ask.ask(ctx, i, step, turns, s.Reasoning == own, func(r string) (string, error) { return parseText(r, s.MaxAnswer) })
	return spoken{thought, said}, err
}

// judgement asks which of two answers to a conversation is better.
func (s *spec) judgement(turns []teacher.Message, a, b string) string {
	form := judgePrompt
	if len(turns) > 1 {
		form = judgeTurnsPrompt
	}
	return fill(s.JudgePrompt, form, "question", transcript(turns), "a", a, "b", b)
}

// turnsOf is a conversation as teachers take it: without what was thought.
func turnsOf(ms []artifact.Message) []teacher.Message {
	out := make([]teacher.Message, len(ms))
	for i, m := range ms {
		out[i] = teacher.Message{Role: m.Role, Content: m.Content}
		if m.Role == "assistant" {
			out[i].Content = artifact.Said(m.Content)
		}
	}
	return out
}

// transcript is a conversation as one text: a single turn as it is, else each
// turn after its role.
func transcript(turns []teacher.Message) string {
	if len(turns) == 1 {
		return turns[0].Content
	}
	parts := make([]string, len(turns))
	for i, m := range turns {
		role := m.Role
		if role != "" {
			role = strings.ToUpper(role[:1]) + role[1:]
		}
		parts[i] = role + ": " + m.Content
	}
	return strings.Join(parts, "\n\n")
}

// bareQuestion is the last user turn of row, without the passage that
// document_to_dialogue put into it. Only what synth wrote counts as such: its
// method, and the passage that the row's source names too. Columns of people's
// own data land in the meta as well, and mean nothing here.
func bareQuestion(row artifact.Row) string {
	user := row.Messages[len(row.Messages)-2].Content
	var m struct {
		Method   string `json:"method"`
		Document string `json:"document"`
		Passage  int    `json:"passage"`
		Question string `json:"question"`
	}
	made := json.Unmarshal([]byte(row.Meta), &m) == nil && m.Method == dialogues && m.Question != "" &&
		row.Source == chunk{document: m.Document, n: m.Passage}.id()
	if made && strings.HasSuffix(user, fill("", passagePrompt, "text", "", "question", m.Question)) {
		return m.Question
	}
	return user
}
