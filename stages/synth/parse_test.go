package synth

import (
	"strings"
	"testing"

	"pipe/runtime/artifact"
)

func anything(string) error { return nil }

func TestParseQuestion(t *testing.T) {
	for _, c := range []struct{ reply, want string }{
		{"What may the licensee do?", "What may the licensee do?"},
		{"1. **What may the licensee do?**", "What may the licensee do?"},
		{"Sure! Here is a question: \"Who gives the warranty?\"", "Who gives the warranty?"},
		{"Question 2: Who gives the warranty? Answer: nobody", "Who gives the warranty?"},
		{"The text is about copies. Who may copy the program?", "Who may copy the program?"},
		{"Why?\nWho may copy the program?", "Who may copy the program?"},
		{"谁可以复制该程序？", "谁可以复制该程序？"},
		{"What is the answer to this question? How many people can the ferry carry?", "How many people can the ferry carry?"},
		{"What is the text about? Who opens the door?", "Who opens the door?"},
		{"What is this?", "!what it asks about"},
		{"There is none.", "!no question"},
		{"What is the answer to this question?", "!about the exercise"},
		{"Who " + strings.Repeat("very ", 80) + "late?", "!max_question_chars"},
		{"", "!no question"},
	} {
		got, err := parseQuestion(c.reply, 300, anything)
		if w, wrong := strings.CutPrefix(c.want, "!"); wrong {
			if err == nil || !strings.Contains(err.Error(), w) {
				t.Errorf("%q: %q, %v; want the error %q", c.reply, got, err, w)
			}
		} else if err != nil || got != c.want {
			t.Errorf("%q: %q, %v; want %q", c.reply, got, err, c.want)
		}
	}
}

func TestParse(t *testing.T) {
	text := func(s string) (string, error) { return parseText(s, 60) }
	reasoning := func(s string) (string, error) { return parseReasoning(s, 60) }
	for _, c := range []struct {
		name  string
		parse func(string) (string, error)
		reply string
		want  string // "!": an error
	}{
		{"text", text, "The final answer is: yes, it may.", "yes, it may."},
		{"text", text, "**Answer:** 17", "17"},
		{"text", text, `The answer to this question is "the notice".`, `"the notice".`},
		{"text", text, `The answer is "the notice."`, "the notice."},
		{"text", text, "…", "!"},
		{"text", text, "I'm sorry, I cannot help.", "!"},
		{"text", text, "Yes.\nQuestion: and then?", "!"},
		{"text", text, strings.Repeat("é", 61), "!"},
		{"text", text, strings.Repeat("é", 60), strings.Repeat("é", 60)},
		{"reasoning", reasoning, "The text says so.\nAnswer: yes", "The text says so."},
		{"reasoning", reasoning, "Answer: it says so", "it says so"},
		{"verdict", parseVerdict, "**Yes**, it does", "yes"},
		{"verdict", parseVerdict, "The answer is incorrect.", "no"},
		{"verdict", parseVerdict, "Perhaps, yes", "!"},
		{"choice", parseChoice, "Answer B is better", "b"},
		{"choice", parseChoice, "(A)", "a"},
		{"choice", parseChoice, "A better answer would be shorter", "!"},
		{"choice", parseChoice, "both", "!"},
	} {
		got, err := c.parse(c.reply)
		if (err != nil) != (c.want == "!") || err == nil && got != c.want {
			t.Errorf("%s of %q: %q, %v; want %q", c.name, c.reply, got, err, c.want)
		}
	}
}

func TestGrounding(t *testing.T) {
	for _, c := range []struct {
		s    string
		want float64
	}{
		{"Who may distribute copies?", 1}, // distribution, copies
		{"What is the passage about?", 0},
		{"May a planet copy it?", 0.5},
		{"Is it?", 1}, // it says nothing that could be wrong
		{"复制 分发", 0},
	} {
		if got := grounding(c.s, "Distribution of a copy, or of copies, is allowed."); got != c.want {
			t.Errorf("grounding(%q) = %v, want %v", c.s, got, c.want)
		}
	}
}

// FuzzParse: no reply makes a parser panic, and what is accepted is short.
func FuzzParse(f *testing.F) {
	f.Add("1. What is it?")
	f.Add("<think>\xff</think>？؟?")
	f.Add("Answer: . \n ?")
	f.Fuzz(func(t *testing.T, reply string) {
		r := strings.TrimSpace(artifact.Said(reply))
		if q, err := parseQuestion(r, 80, anything); err == nil && (len([]rune(q)) > 80 || q == "") {
			t.Errorf("question %q", q)
		}
		if s, err := parseText(r, 80); err == nil && (len([]rune(s)) > 80 || s == "") {
			t.Errorf("text %q", s)
		}
		parseReasoning(r, 80)
		parseVerdict(r)
		parseChoice(r)
		if g := grounding(r, reply); !(g >= 0 && g <= 1) {
			t.Errorf("grounding %v", g)
		}
	})
}
