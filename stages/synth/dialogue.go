package synth

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"unicode"

	"pipe/runtime/artifact"
	"pipe/runtime/stage"
)

// A chunk is a passage of a document that fits a prompt.
type chunk struct {
	id, text string
}

// dialogueItems makes the work of document_to_dialogue: row i is about passage
// i modulo their number.
func (s *spec) dialogueItems(env *stage.Env, ask *asker) ([]func(context.Context) (result, error), error) {
	a, err := env.Store.Open(s.Documents.Ref)
	if err != nil {
		return nil, err
	}
	var chunks []chunk
	for row, err := range artifact.Rows[artifact.Row](a) {
		if err != nil {
			return nil, err
		}
		for n, text := range cut(row.Text, s.ChunkChars) {
			if strings.IndexFunc(text, unicode.IsLetter) >= 0 { // else there is nothing to ask about
				chunks = append(chunks, chunk{fmt.Sprintf("%s#%d", row.ID, n), text})
			}
		}
	}
	if len(chunks) == 0 {
		return nil, stage.Fieldf("documents", "has no row with text; document_to_dialogue makes questions from documents")
	}
	var items []func(context.Context) (result, error)
	for i := range s.Count {
		c := chunks[i%len(chunks)]
		items = append(items, func(ctx context.Context) (result, error) {
			row, err := s.dialogue(ctx, ask, i, c)
			if err != nil {
				return outcome(fmt.Sprintf("dialogue-%06d", i), c.id, c.text, err)
			}
			return result{row: row}, nil
		})
	}
	return items, nil
}

// dialogue asks for a question about c, reasoning, an answer, and a check.
func (s *spec) dialogue(ctx context.Context, ask *asker, i int, c chunk) (artifact.Row, error) {
	prose := func(r string) (string, error) { return parseText(r, s.MaxAnswer) }
	question, err := ask.ask(ctx, i, "question", fill(s.QuestionPrompt, questionPrompt, "text", c.text),
		func(r string) (string, error) { return parseQuestion(r, s.MaxQuestion) })
	if err != nil {
		return artifact.Row{}, err
	}
	reasoning := ""
	if s.Reasoning == "inline" {
		reasoning, err = ask.ask(ctx, i, "reasoning", fill(s.ReasoningPrompt, reasoningPrompt, "text", c.text, "question", question), prose)
		if err != nil {
			return artifact.Row{}, err
		}
	}
	answer, err := ask.ask(ctx, i, "answer", fill(s.AnswerPrompt, answerPrompt, "text", c.text, "question", question, "reasoning", reasoning), prose)
	if err != nil {
		return artifact.Row{}, err
	}
	corrected := false
	if s.SelfCorrect {
		if answer, corrected, err = s.check(ctx, ask, i, c, question, answer); err != nil {
			return artifact.Row{}, err
		}
	}
	return s.row(i, c, question, reasoning, answer, corrected), nil
}

// check lets the teacher judge its answer and, where it says no, correct it.
func (s *spec) check(ctx context.Context, ask *asker, i int, c chunk, question, answer string) (string, bool, error) {
	verdict, err := ask.ask(ctx, i, "check", fill(s.CheckPrompt, checkPrompt, "text", c.text, "question", question, "answer", answer), parseVerdict)
	if err != nil || verdict == "yes" {
		return answer, false, err
	}
	better, err := ask.ask(ctx, i, "correction", fill(s.CorrectPrompt, correctPrompt, "text", c.text, "question", question, "answer", answer),
		func(r string) (string, error) { return parseText(r, s.MaxAnswer) })
	return better, true, err
}

// row lays the conversation out.
func (s *spec) row(i int, c chunk, question, reasoning, answer string, corrected bool) artifact.Row {
	user := question
	if s.Context {
		user = fill("", passagePrompt, "text", c.text, "question", question)
	}
	assistant := answer
	if reasoning != "" {
		assistant = reasoning + "\n\nAnswer: " + answer
	}
	var ms []artifact.Message
	if s.System != "" {
		ms = append(ms, artifact.Message{Role: "system", Content: s.System})
	}
	ms = append(ms, artifact.Message{Role: "user", Content: user}, artifact.Message{Role: "assistant", Content: assistant})
	meta, _ := json.Marshal(map[string]any{"question": question, "answer": answer, "corrected": corrected})
	return artifact.Row{ID: fmt.Sprintf("dialogue-%06d", i), Messages: ms, Gold: -1, Source: c.id, Meta: string(meta)}
}
