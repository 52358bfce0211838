package synth

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"

	"pipe/runtime/artifact"
	"pipe/runtime/stage"
	"pipe/text/answer"
)

// responseItems makes the work of responses: row i is about prompt i.
func (s *spec) responseItems(env *stage.Env, ask *asker) ([]func(context.Context) (result, error), error) {
	return s.perPrompt(env, func(i int, row artifact.Row) (func(context.Context) (result, error), error) {
		prompt := promptOf(row)
		switch n := len(prompt); {
		case n == 0 || prompt[n-1].Role != "user":
			return nil, fmt.Errorf("prompts: row %s does not end with a user turn, or one and its answer; responses needs prompts", row.ID)
		case s.Verify != "" && row.Answer == "":
			return nil, fmt.Errorf("prompts: row %s has no reference answer to verify with; take rows with an answer, or leave verify out", row.ID)
		}
		return func(ctx context.Context) (result, error) {
			out, err := s.response(ctx, ask, i, row, prompt)
			if err != nil {
				return outcome(fmt.Sprintf("response-%06d", i), row.ID, prompt[len(prompt)-1].Content, err)
			}
			return result{row: out}, nil
		}, nil
	})
}

// promptOf is all that comes before a row's own answer.
func promptOf(row artifact.Row) []artifact.Message {
	turns := row.Messages
	if len(turns) == 0 && row.Text != "" {
		turns = []artifact.Message{{Role: "user", Content: row.Text}}
	}
	if n := len(turns); n > 0 && turns[n-1].Role == "assistant" {
		turns = turns[:n-1]
	}
	return turns
}

// response asks for an answer to the prompt of row.
func (s *spec) response(ctx context.Context, ask *asker, i int, row artifact.Row, prompt []artifact.Message) (artifact.Row, error) {
	said, thought, err := ask.ask(ctx, i, "response", turnsOf(prompt), s.Reasoning == own, func(reply string) (string, error) { return s.acceptResponse(reply, row.Answer) })
	if err != nil {
		return artifact.Row{}, err
	}
	if s.Reasoning != own {
		thought = ""
	}
	values := map[string]any{"method": s.Method, "teacher": ask.teacher.ID()}
	if row.Answer != "" {
		values["reference"] = row.Answer
	}
	meta, _ := json.Marshal(values) // of strings: it cannot fail
	turns := append(prompt[:len(prompt):len(prompt)], artifact.Message{Role: "assistant", Content: artifact.Think(thought, said)})
	return artifact.Row{ID: fmt.Sprintf("response-%06d", i), Messages: turns, Gold: -1, Source: row.ID, Meta: string(meta)}, nil
}

// acceptResponse takes a reply as it is, if it is one and, to be verified, says the
// reference answer.
func (s *spec) acceptResponse(reply, reference string) (string, error) {
	switch n := utf8.RuneCountInString(reply); {
	case strings.TrimSpace(reply) == "":
		return "", errors.New("it is empty")
	case refusal.MatchString(reply):
		return "", errors.New("it refuses to answer")
	case n > s.MaxAnswer:
		return "", fmt.Errorf("it has %d characters, more than max_answer_chars = %d", n, s.MaxAnswer)
	}
	if s.Verify == "" {
		return reply, nil
	}
	got, want := answer.Normalize(s.Verify, reply), answer.Normalize(s.Verify, artifact.Said(reference))
	if want == "" || got != want && (s.Verify != "text" || !answer.Contains(got, want)) {
		return "", fmt.Errorf("it does not say the reference answer, %q", clip(artifact.Said(reference), 100))
	}
	return reply, nil
}
