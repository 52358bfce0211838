package synth

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"unicode"

	"pipe/runtime/artifact"
	"pipe/runtime/stage"
)

// A chunk is a passage of a document that fits a prompt: passage n, from 0.
type chunk struct {
	document string // the id of its row
	n        int
	text     string
}

// id names the passage.
func (c chunk) id() string { return fmt.Sprintf("%s#%d", c.document, c.n) }

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
				chunks = append(chunks, chunk{row.ID, n, text})
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
				return outcome(fmt.Sprintf("dialogue-%06d", i), c.id(), c.text, err)
			}
			return result{row: row}, nil
		})
	}
	return items, nil
}

// dialogue asks for a question about c, reasoning, an answer, and a check.
func (s *spec) dialogue(ctx context.Context, ask *asker, i int, c chunk) (artifact.Row, error) {
	question, _, err := ask.ask(ctx, i, "question", say(fill(s.QuestionPrompt, questionPrompt, "text", c.text)), false, func(reply string) (string, error) {
		return parseQuestion(reply, s.MaxQuestion, func(q string) error { return grounded("question", q, c.text, s.Grounding) })
	})
	if err != nil {
		return artifact.Row{}, err
	}
	reasoning, form := "", plainAnswerPrompt
	if s.Reasoning == "inline" || s.Reasoning == "think" {
		form = answerPrompt
		reasoning, _, err = ask.ask(ctx, i, "reasoning", say(fill(s.ReasoningPrompt, reasoningPrompt, "text", c.text, "question", question)), false,
			func(reply string) (string, error) { return parseReasoning(reply, s.MaxAnswer) })
		if err != nil {
			return artifact.Row{}, err
		}
	}
	accept := func(reply string) (string, error) { return s.acceptAnswer(reply, question, c.text) }
	answer, thought, err := ask.ask(ctx, i, "answer", say(fill(s.AnswerPrompt, form, "text", c.text, "question", question, "reasoning", reasoning)), s.Reasoning == own, accept)
	if err != nil {
		return artifact.Row{}, err
	}
	if s.Reasoning == own {
		reasoning = thought
	}
	first := answer
	if s.SelfCorrect {
		values := []string{"text", c.text, "question", question, "answer", answer}
		verdict, _, err := ask.ask(ctx, i, "check", say(fill(s.CheckPrompt, checkPrompt, values...)), false, parseVerdict)
		if err == nil && verdict == "no" {
			answer, _, err = ask.ask(ctx, i, "correction", say(fill(s.CorrectPrompt, correctPrompt, values...)), false, accept)
		}
		if err != nil {
			return artifact.Row{}, err
		}
	}
	return s.row(ask, i, c, question, reasoning, answer, first), nil
}

// acceptAnswer reads an answer that says something, out of the passage.
func (s *spec) acceptAnswer(reply, question, passage string) (string, error) {
	answer, err := parseText(reply, s.MaxAnswer)
	if err != nil {
		return "", err
	}
	if same(answer, question) {
		return "", errors.New("it repeats the question")
	}
	return answer, grounded("answer", answer, passage+"\n"+question, s.Grounding)
}

// row lays the conversation out. Its meta says how it came about.
func (s *spec) row(ask *asker, i int, c chunk, question, reasoning, answer, first string) artifact.Row {
	user := question
	if s.Context {
		user = fill("", passagePrompt, "text", c.text, "question", question)
	}
	assistant := answer
	if reasoning != "" && answer == first {
		if assistant = artifact.Think(reasoning, answer); s.Reasoning == "inline" {
			assistant = reasoning + "\n\nAnswer: " + answer
		}
	}
	var ms []artifact.Message
	if s.System != "" {
		ms = append(ms, artifact.Message{Role: "system", Content: s.System})
	}
	ms = append(ms, artifact.Message{Role: "user", Content: user}, artifact.Message{Role: "assistant", Content: assistant})
	meta := map[string]any{
		"answer": answer, "corrected": answer != first, "document": c.document, "method": s.Method,
		"passage": c.n, "question": question, "teacher": ask.teacher.ID(),
	}
	if answer != first {
		meta["first_answer"] = first
	}
	b, _ := json.Marshal(meta) // of strings, numbers and booleans: it cannot fail
	return artifact.Row{ID: fmt.Sprintf("dialogue-%06d", i), Messages: ms, Gold: -1, Source: c.id(), Meta: string(b)}
}
