package synth

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"pipe/runtime/artifact"
	"pipe/runtime/stage/stagetest"
)

// thinker is a teacher that answers every prompt well, in the form that say makes of
// an answer: the message and the finish_reason of a choice, as JSON. Bodies that it is
// sent must hold the text want.
func thinker(t *testing.T, want string, say func(answer string) string) *server {
	s := &server{Server: httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		var q struct {
			Messages []struct{ Content string } `json:"messages"`
		}
		if err == nil {
			err = json.Unmarshal(body, &q)
		}
		if err != nil || !strings.Contains(string(body), want) {
			t.Errorf("asked %s, %v; want %s", body, err, want)
		}
		if strings.Contains(string(body), "hm, ") {
			t.Errorf("what was thought is shown to the teacher: %s", body)
		}
		prompt := q.Messages[len(q.Messages)-1].Content
		answer := good(prompt, 0)
		if strings.Contains(prompt, "Answer the question in one") {
			answer = "The notice of the authors."
		}
		fmt.Fprintf(w, `{"choices":[{"index":0,%s}],"usage":{"prompt_tokens":7,"completion_tokens":512}}`, say(answer))
	}))}
	t.Cleanup(s.Close)
	return s
}

// The ways in which teachers that think say so.
var ways = map[string]func(answer string) string{
	"reasoning_content": func(a string) string {
		return fmt.Sprintf(`"message":{"content":%q,"reasoning_content":"hm, so"},"finish_reason":"stop"`, a)
	},
	"reasoning": func(a string) string {
		return fmt.Sprintf(`"message":{"content":%q,"reasoning":"hm, so"},"finish_reason":"stop"`, "\n\n"+a)
	},
	"inline": func(a string) string {
		return fmt.Sprintf(`"message":{"content":%q},"finish_reason":"stop"`, "<think>\nhm, so\n</think>\n\n"+a)
	},
	"opened in the prompt": func(a string) string {
		return fmt.Sprintf(`"message":{"content":%q},"finish_reason":"stop"`, "hm, so\n</think>\n\n"+a)
	},
}

// However a teacher shows what it thinks, a row has of it what was asked for.
func TestThoughtsOfATeacher(t *testing.T) {
	const answer = "The notice of the authors."
	for name, say := range ways {
		for reasoning, want := range map[string]string{
			"inline": "The text says that copies must keep the notice.\n\nAnswer: " + answer,
			"think":  "<think>\nThe text says that copies must keep the notice.\n</think>\n\n" + answer,
			"own":    "<think>\nhm, so\n</think>\n\n" + answer,
			"none":   answer,
		} {
			s := thinker(t, `"reasoning_effort":"high"`, say)
			b := stagetest.New(t)
			x := spec1(s, dialogues)
			x.Documents, x.SelfCorrect, x.Reasoning, x.Count = documents(b, passage), true, reasoning, 1
			x.Teacher.Config.ExtraBody = map[string]json.RawMessage{"reasoning_effort": []byte(`"high"`)}
			rows := stagetest.Rows[artifact.Row](b.Run(Kind, x), "dataset")
			if got := rows[0].Messages[1].Content; got != want {
				t.Errorf("%s, reasoning %q: got %q, want %q", name, reasoning, got, want)
			}
		}
	}
}

// A reply without an answer, or without the thought that is needed, says why.
func TestThoughtsWithoutAnswers(t *testing.T) {
	for reason, c := range map[string]struct{ choice, reasoning string }{
		"the teacher was still thinking at max_tokens = 512; raise that":    {`"message":{"content":"","reasoning_content":"hm"},"finish_reason":"length"`, "none"},
		"the teacher was still thinking at max_tokens = 512; raise that in": {`"message":{"content":"<think>hm"},"finish_reason":"length"`, "none"},
		"the reply was cut off at max_tokens = 512":                         {`"message":{"content":"<think>hm</think>What"},"finish_reason":"length"`, "none"},
		"it is a thought alone":                                             {`"message":{"content":"","reasoning_content":"hm"},"finish_reason":"stop"`, "none"},
		"its thoughts do not end":                                           {`"message":{"content":"<think>hm"},"finish_reason":"stop"`, "none"},
		"the teacher shows no thoughts, neither in reasoning_content":       {`"message":{"content":"It is."},"finish_reason":"stop"`, "own"},
	} {
		s := thinker(t, "", func(string) string { return c.choice })
		b := stagetest.New(t)
		x := spec1(s, pairs)
		d := stagetest.Dataset(b, artifact.Row{ID: "a", Gold: -1, Messages: []artifact.Message{{Role: "user", Content: "q"}, {Role: "assistant", Content: "A thing."}}})
		x.Prompts, x.Reasoning = &d, c.reasoning
		if _, err := b.Try(t.Context(), Kind, x); err == nil || !strings.Contains(err.Error(), reason) {
			t.Errorf("%s: %v; want %q", c.choice, err, reason)
		}
	}
}

// Both sides of a pair have a thought, or neither has; the teacher is shown no earlier one.
func TestThoughtsOfPairs(t *testing.T) {
	for _, c := range []struct{ own, reasoning, pairs, chosen, rejected string }{
		{"<think>\nhm, I\n</think>\n\nA thing.", "inline", "reference", "A thing.", "They keep a receipt."},
		{"<think>\nhm, I\n</think>\n\nA thing.", "own", "reference", "<think>\nhm, I\n</think>\n\nA thing.", "<think>\nhm, so\n</think>\n\nThey keep a receipt."},
		{"A thing.", "own", "reference", "A thing.", "They keep a receipt."},
	} {
		s := thinker(t, "", ways["reasoning_content"])
		b := stagetest.New(t)
		x := spec1(s, pairs)
		said := func(role, text string) artifact.Message { return artifact.Message{Role: role, Content: text} }
		d := stagetest.Dataset(b, artifact.Row{ID: "a", Gold: -1, Messages: []artifact.Message{
			said("user", "q"), said("assistant", "<think>\nhm, first\n</think>\n\nWhich?"), said("user", "this"), said("assistant", c.own)}})
		x.Prompts, x.Reasoning, x.Pairs = &d, c.reasoning, c.pairs
		row := stagetest.Rows[artifact.Row](b.Run(Kind, x), "dataset")[0]
		if row.Chosen[0].Content != c.chosen || row.Rejected[0].Content != c.rejected {
			t.Errorf("%+v: %q over %q", c, row.Chosen[0].Content, row.Rejected[0].Content)
		}
	}
}
