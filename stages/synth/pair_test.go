package synth

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"pipe/runtime/artifact"
	"pipe/runtime/stage"
	"pipe/runtime/stage/stagetest"
)

// A scribe is a teacher that notes what it was asked: each turn as "role: text",
// joined by " | ".
func scribe(t *testing.T) (s *server, asked func() []string) {
	var mu sync.Mutex
	var list []string
	s = &server{Server: httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var q struct {
			Messages []struct{ Role, Content string } `json:"messages"`
		}
		if err := json.NewDecoder(r.Body).Decode(&q); err != nil {
			t.Error(err)
		}
		var turns []string
		for _, m := range q.Messages {
			turns = append(turns, m.Role+": "+m.Content)
		}
		mu.Lock()
		defer mu.Unlock()
		list = append(list, strings.Join(turns, " | "))
		answer := fmt.Sprintf("Keep %d.", len(list))
		if strings.Contains(turns[len(turns)-1], "Which answer is better?") {
			answer = "B"
		}
		fmt.Fprintf(w, `{"choices":[{"message":{"content":%q},"finish_reason":"stop"}]}`, answer)
	}))}
	t.Cleanup(s.Close)
	return s, func() []string { mu.Lock(); defer mu.Unlock(); return list }
}

// TestPairsAskThePrompt: what is stored as an answer to a prompt is an answer to
// it: the teacher is sent all of it, and nothing else of the row. Closed-book,
// only the passage is left out that document_to_dialogue put there.
func TestPairsAskThePrompt(t *testing.T) {
	const question = "What must copies keep?"
	answer := artifact.Message{Role: "assistant", Content: "The notice."}
	system := artifact.Message{Role: "system", Content: "Answer in French."}
	user := func(s string) artifact.Message { return artifact.Message{Role: "user", Content: s} }
	made := `{"document":"doc0","method":"document_to_dialogue","passage":2,"question":"` + question + `"}`
	turns := []artifact.Message{system, user("I am Bob."), {Role: "assistant", Content: "Bonjour."}, user("My name?"), answer}
	const asTurns = "system: Answer in French. | user: I am Bob. | assistant: Bonjour. | user: My name?"
	for _, c := range []struct {
		name      string
		row       artifact.Row
		open      string // what pairs = "judge" asks
		closed    string // what pairs = "reference" asks
		judged    string // where the judge's prompt begins
		inMeta    string // the question that the pair's meta holds
		firstTurn string // of the pair
	}{
		{"a single turn", artifact.Row{Messages: []artifact.Message{user(question), answer}},
			"user: " + question, "user: " + question, "user: Question: " + question + "\n\nAnswer A: Keep 1.", question, question},
		{"a conversation", artifact.Row{Messages: turns}, asTurns, asTurns,
			"user: Conversation:\nSystem: Answer in French.\n\nUser: I am Bob.\n\nAssistant: Bonjour.\n\nUser: My name?\n\nAnswer A: Keep 1.", "My name?", "Answer in French."},
		{"a column that is called question", artifact.Row{Meta: `{"question":"UNRELATED"}`, Messages: []artifact.Message{user("Translate: cat"), answer}},
			"user: Translate: cat", "user: Translate: cat", "user: Question: Translate: cat\n\nAnswer A: Keep 1.", "Translate: cat", "Translate: cat"},
		{"columns like synth's own", artifact.Row{Meta: made, Source: "rows.jsonl:1", Messages: []artifact.Message{user("Hello.\n\n" + question), answer}},
			"user: Hello.\n\n" + question, "user: Hello.\n\n" + question, "user: Question: Hello.\n\n" + question, "Hello.\n\n" + question, "Hello.\n\n" + question},
		{"a passage of synth", artifact.Row{Meta: made, Source: "doc0#2", Messages: []artifact.Message{system, user(passage + "\n\n" + question), answer}},
			"system: Answer in French. | user: " + passage + "\n\n" + question, "system: Answer in French. | user: " + question,
			"user: Conversation:\nSystem: Answer in French.\n\nUser: " + passage + "\n\n" + question + "\n\nAnswer A: Keep 1.", question, "Answer in French."},
		{"a question of synth without its passage", artifact.Row{Meta: made, Source: "doc0#2", Messages: []artifact.Message{user(question), answer}},
			"user: " + question, "user: " + question, "user: Question: " + question, question, question},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.row.ID, c.row.Gold = "row", -1
			for _, how := range []string{"judge", "reference"} {
				s, asked := scribe(t)
				b := stagetest.New(t)
				x := spec1(s, pairs)
				d := stagetest.Dataset(b, c.row)
				x.Pairs, x.Prompts = how, &d
				p := stagetest.Rows[artifact.Row](b.Run(Kind, x), "dataset")[0]
				got, want := asked(), []string{c.closed}
				if how == "judge" {
					want = []string{c.open, c.open, c.judged}
				}
				if len(got) != len(want) {
					t.Fatalf("%s: asked %q", how, got)
				}
				for i := range want {
					if got[i] != want[i] && !(i == 2 && strings.HasPrefix(got[i], want[i])) {
						t.Errorf("%s: asked %q, want %q", how, got[i], want[i])
					}
				}
				if !strings.Contains(p.Meta, fmt.Sprintf(`"question":%q`, c.inMeta)) || p.Messages[0].Content != c.firstTurn || len(p.Messages) != len(c.row.Messages)-1 {
					t.Errorf("%s: pair %+v", how, p)
				}
			}
		})
	}
}

// A judge_prompt of one's own is told the whole prompt too.
func TestJudgePrompt(t *testing.T) {
	s, asked := scribe(t)
	b := stagetest.New(t)
	x := spec1(s, pairs)
	d := stagetest.Dataset(b, artifact.Row{ID: "row", Gold: -1, Messages: []artifact.Message{
		{Role: "system", Content: "Be brief."}, {Role: "user", Content: "Why?"}, {Role: "assistant", Content: "So."}}})
	x.Pairs, x.Prompts, x.JudgePrompt = "judge", &d, "{question} / {a} / {b} / Which answer is better?"
	b.Run(Kind, x)
	if got, want := asked()[2], "user: System: Be brief.\n\nUser: Why? / Keep 1. / Keep 2. / Which answer is better?"; got != want {
		t.Errorf("asked %q, want %q", got, want)
	}
}

func TestPairs(t *testing.T) {
	prompts := func(b *stagetest.Bench) *stage.Dataset {
		row := func(id, question, answer string) artifact.Row {
			return artifact.Row{ID: id, Gold: -1, Messages: []artifact.Message{{Role: "user", Content: question}, {Role: "assistant", Content: answer}}}
		}
		d := stagetest.Dataset(b, row("a", "What must copies keep?", "The notice."), row("b", "What must copies keep?", "they keep a RECEIPT"))
		return &d
	}
	t.Run("reference", func(t *testing.T) {
		b := stagetest.New(t)
		x := spec1(serve(t, good), pairs)
		x.Prompts = prompts(b)
		r := b.Run(Kind, x)
		rows, rejects := stagetest.Rows[artifact.Row](r, "dataset"), stagetest.Rows[artifact.Drop](r, "rejects")
		if len(rows) != 1 || len(rejects) != 1 || rejects[0].Reason != "equal" || rejects[0].Partner != "b" {
			t.Fatalf("%d rows, rejects %+v", len(rows), rejects)
		}
		p := rows[0]
		if p.Chosen[0].Content != "The notice." || p.Rejected[0].Content != "They keep a receipt." || len(p.Messages) != 1 || p.Source != "a" {
			t.Errorf("pair %+v", p)
		}
	})
	t.Run("judge", func(t *testing.T) {
		n := 0
		b := stagetest.New(t)
		x := spec1(serve(t, func(prompt string, _ int) string {
			if strings.Contains(prompt, "Which answer is better?") {
				if !strings.Contains(prompt, "Answer A: Keep 1.") || !strings.Contains(prompt, "Answer B: Keep 2.") {
					t.Errorf("judged %q", prompt)
				}
				return "Answer: B"
			}
			n++
			return fmt.Sprintf("Keep %d.", n)
		}), pairs)
		x.Prompts, x.Pairs, x.Count = prompts(b), "judge", 1
		p := stagetest.Rows[artifact.Row](b.Run(Kind, x), "dataset")[0]
		if p.Chosen[0].Content != "Keep 2." || p.Rejected[0].Content != "Keep 1." {
			t.Errorf("pair %+v", p)
		}
	})
	t.Run("not a conversation", func(t *testing.T) {
		b := stagetest.New(t)
		x := spec1(serve(t, good), pairs)
		x.Prompts = documents(b, passage)
		if _, err := b.Try(t.Context(), Kind, x); err == nil || !strings.Contains(err.Error(), "row doc0 does not end with a user turn") {
			t.Errorf("error %v", err)
		}
	})
}
