package data

import (
	"context"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"pgregory.net/rapid"

	"pipe/runtime/artifact"
	"pipe/runtime/artifact/jsonl"
	"pipe/runtime/stage/stagetest"
)

func user(s string) []artifact.Message { return []artifact.Message{{Role: "user", Content: s}} }

func assistant(s string) []artifact.Message {
	return []artifact.Message{{Role: "assistant", Content: s}}
}

// thinking is an answer A after a thought T.
const thinking = "<think>\nT\n</think>\n\nA"

func talk(turns ...[]artifact.Message) (out []artifact.Message) {
	for _, t := range turns {
		out = append(out, t...)
	}
	return out
}

// held is a list of messages, as JSON, that asks Q and answers.
func held(answer string, system ...string) string {
	var b strings.Builder
	for _, s := range system {
		fmt.Fprintf(&b, `{"content":%q,"role":"system"},`, s)
	}
	return fmt.Sprintf(`[%s{"content":"Q","role":"user"},{"content":%q,"role":"assistant"}]`, b.String(), answer)
}

// A thought beside another in the content is not used, and counted.
func TestTwoThoughts(t *testing.T) {
	unused := jsonl.Unused{}
	_, err := jsonl.Row(map[string]any{"messages": []any{
		map[string]any{"role": "user", "content": "Q", "thinking": "U"},
		map[string]any{"role": "assistant", "content": thinking, "reasoning": "T", "reasoning_content": "other"},
	}}, nil, unused)
	if got, want := unused.String(), `"reasoning_content" (in 1 message), "thinking" (in 1 message)`; err != nil || got != want {
		t.Errorf("unused are %s, %v; want %s", got, err, want)
	}
}

// A column of thoughts needs one answer without.
func TestThoughtsBesideNoAnswer(t *testing.T) {
	for in, want := range map[string]string{
		`{"question":"Q","trace":"T"}`:                                 "has a thought in trace and no answer",
		`{"instruction":"Q","output":"<think>S</think>A","trace":"T"}`: "has a thought in trace and another in its answer",
		`{"prompt":"Q","chosen":"A","rejected":"B","trace":"T"}`:       "has a thought in trace, which is read only before one answer",
		`{"prompt":"Q","completion":"A","trace":["T"]}`:                "trace is a list; it must be a string",
	} {
		o, err := jsonl.Object([]byte(in))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := jsonl.Row(o, map[string]string{"reasoning": "trace"}, nil); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v; want %q", in, err, want)
		}
	}
}

// Thoughts are left out where that is asked for, but not the whole of a turn.
func TestReasoningDropped(t *testing.T) {
	b := stagetest.New(t)
	b.WriteFile("a.jsonl", `{"messages":[{"role":"user","content":"<think>Q"},{"role":"assistant","reasoning":"T","content":"A"}]}
{"question":"Q","answer":"<think>T</think>A"}
{"prompt":"Q","chosen":"<think>T</think>G","rejected":"B"}
`)
	s := newStage().(*spec)
	s.Source, s.Reasoning = "a.jsonl", "drop"
	rows := stagetest.Rows[artifact.Row](b.Run(Kind, s), "")
	if !slices.Equal(rows[0].Messages, talk(user("<think>Q"), assistant("A"))) || rows[1].Answer != "A" || rows[2].Chosen[0].Content != "G" {
		t.Errorf("rows are %+v", rows)
	}
	b.WriteFile("a.jsonl", `{"messages":[{"role":"user","content":"Q"},{"role":"assistant","content":"<think>T"}]}`+"\n")
	if _, err := b.Try(t.Context(), Kind, s); err == nil || !strings.Contains(err.Error(), "a.jsonl:1: has a turn of the assistant that is a thought alone") {
		t.Errorf("a thought alone: %v", err)
	}
}

func TestShapes(t *testing.T) {
	system := []artifact.Message{{Role: "system", Content: "S"}}
	for _, c := range []struct {
		name, in string
		names    map[string]string
		want     artifact.Row
	}{
		{"document", `{"text":"T"}`, nil, artifact.Row{Text: "T"}},
		{"messages", `{"messages":[{"role":"system","content":"S"},{"role":"user","content":"Q"},{"role":"assistant","content":"A"}]}`, nil,
			artifact.Row{Messages: talk(system, user("Q"), assistant("A"))}},
		{"parts", `{"messages":[{"role":"user","content":[{"type":"text","text":"a"},{"type":"text","text":"b"}]}]}`, nil, artifact.Row{Messages: user("ab")}},
		{"thoughts", `{"messages":[{"role":"user","content":"Q","thinking":"U"},{"role":"assistant","reasoning_content":"\nT\n","reasoning":"T","content":"A"},{"role":"user","content":"Q"},{"role":"assistant","content":[{"type":"thinking","thinking":"T"},{"type":"text","text":"A"}]}]}`, nil,
			artifact.Row{Messages: talk(user("Q"), assistant(thinking), user("Q"), assistant(thinking))}},
		{"thoughts in the content", `{"conversations":[{"from":"human","value":"Q"},{"from":"gpt","value":"<think>\nT\n</think>\n\nA","thinking":"T"}]}`, nil,
			artifact.Row{Messages: talk(user("Q"), assistant(thinking))}},
		{"thoughts in a column", `{"instruction":"Q","output":"A","trace":"T"}`, map[string]string{"reasoning": "trace"}, artifact.Row{Messages: talk(user("Q"), assistant(thinking))}},
		{"thoughts beside an answer", `{"question":"Q","answer":"A","trace":"T"}`, map[string]string{"reasoning": "trace"}, artifact.Row{Messages: user("Q"), Answer: thinking}},
		{"a column that is not named", `{"instruction":"Q","output":"A","reasoning":"T"}`, nil, artifact.Row{Messages: talk(user("Q"), assistant("A")), Meta: `{"reasoning":"T"}`}},
		{"thoughts of answers", `{"prompt":"Q","chosen":[{"role":"assistant","content":"A","reasoning":"T"}],"rejected":"B"}`, nil,
			artifact.Row{Messages: user("Q"), Chosen: assistant(thinking), Rejected: assistant("B")}},
		{"conversations", `{"conversations":[{"from":"human","value":"Q"},{"from":"gpt","value":"A"}]}`, nil, artifact.Row{Messages: talk(user("Q"), assistant("A"))}},
		{"completion", `{"prompt":"Q","completion":"A","system":"S"}`, nil, artifact.Row{Messages: talk(system, user("Q"), assistant("A"))}},
		{"instruction", `{"instruction":"Do","input":"this","output":"A"}`, nil, artifact.Row{Messages: talk(user("Do\n\nthis"), assistant("A"))}},
		{"empty input", `{"instruction":"Do","input":"","output":"A"}`, nil, artifact.Row{Messages: talk(user("Do"), assistant("A"))}},
		{"input and output", `{"input":"Q","output":"A"}`, nil, artifact.Row{Messages: talk(user("Q"), assistant("A"))}},
		{"preference", `{"prompt":"Q","chosen":"G","rejected":"B"}`, nil, artifact.Row{Messages: user("Q"), Chosen: assistant("G"), Rejected: assistant("B")}},
		{"preference with the prompt inside", `{"prompt":"Q","chosen":[{"role":"user","content":"Q"},{"role":"assistant","content":"G"}],"rejected":[{"role":"user","content":"Q"},{"role":"assistant","content":"B"}]}`, nil,
			artifact.Row{Messages: user("Q"), Chosen: assistant("G"), Rejected: assistant("B")}},
		{"preference without a prompt", `{"chosen":[{"role":"user","content":"Q"},{"role":"assistant","content":"G"}],"rejected":[{"role":"user","content":"Q"},{"role":"assistant","content":"B"}]}`, nil,
			artifact.Row{Messages: user("Q"), Chosen: assistant("G"), Rejected: assistant("B")}},
		{"preference beside its whole conversation", `{"prompt":"Q","messages":` + held("G") + `,"chosen":` + held("G") + `,"rejected":` + held("B") + `}`, nil,
			artifact.Row{Messages: user("Q"), Chosen: assistant("G"), Rejected: assistant("B"), Meta: `{"messages":` + held("G") + `}`}},
		{"preference and a conversation without a prompt", `{"messages":` + held("G") + `,"chosen":` + held("G") + `,"rejected":` + held("B") + `}`, nil,
			artifact.Row{Messages: user("Q"), Chosen: assistant("G"), Rejected: assistant("B"), Meta: `{"messages":` + held("G") + `}`}},
		{"answers beside a whole conversation", `{"prompt":"Q","messages":` + held("G") + `,"chosen":"G","rejected":"B"}`, nil,
			artifact.Row{Messages: user("Q"), Chosen: assistant("G"), Rejected: assistant("B"), Meta: `{"messages":` + held("G") + `}`}},
		{"preference of single messages", `{"conversations":[{"from":"human","value":"Q"}],"chosen":{"from":"gpt","value":"G"},"rejected":{"from":"gpt","value":"B"}}`, nil,
			artifact.Row{Messages: user("Q"), Chosen: assistant("G"), Rejected: assistant("B")}},
		{"preference with two prompts", `{"prompt":"Q","messages":[{"role":"system","content":"S"},{"role":"user","content":"Q"}],"chosen":"G","rejected":"B"}`, nil,
			artifact.Row{Messages: talk(system, user("Q")), Chosen: assistant("G"), Rejected: assistant("B"), Meta: `{"prompt":"Q"}`}},
		{"preference with another prompt", `{"prompt":"Q\n","chosen":` + held("G") + `,"rejected":` + held("B") + `}`, nil,
			artifact.Row{Messages: user("Q"), Chosen: assistant("G"), Rejected: assistant("B"), Meta: `{"prompt":"Q\n"}`}},
		{"preference with its system turn inside", `{"prompt":"Q","chosen":` + held("G", "S") + `,"rejected":` + held("B", "S") + `}`, nil,
			artifact.Row{Messages: talk(system, user("Q")), Chosen: assistant("G"), Rejected: assistant("B"), Meta: `{"prompt":"Q"}`}},
		{"preference with a system column", `{"system":"S","prompt":"Q","chosen":` + held("G") + `,"rejected":` + held("B") + `}`, nil,
			artifact.Row{Messages: talk(system, user("Q")), Chosen: assistant("G"), Rejected: assistant("B")}},
		{"preference that goes on with a conversation", `{"prompt":` + held("A") + `,"chosen":[{"role":"user","content":"R"},{"role":"assistant","content":"G"}],"rejected":[{"role":"user","content":"R"},{"role":"assistant","content":"B"}]}`, nil,
			artifact.Row{Messages: talk(user("Q"), assistant("A"), user("R")), Chosen: assistant("G"), Rejected: assistant("B"), Meta: `{"prompt":` + held("A") + `}`}},
		{"preference that repeats the last question", `{"prompt":[{"role":"user","content":"P"},{"role":"assistant","content":"A"},{"role":"user","content":"Q"}],"chosen":` + held("G") + `,"rejected":` + held("B") + `}`, nil,
			artifact.Row{Messages: talk(user("P"), assistant("A"), user("Q")), Chosen: assistant("G"), Rejected: assistant("B")}},
		{"preference with equal answers", `{"prompt":"Q","chosen":` + held("G") + `,"rejected":` + held("G") + `}`, nil,
			artifact.Row{Messages: user("Q"), Chosen: assistant("G"), Rejected: assistant("G")}},
		{"choices", `{"question":"Q","choices":["a","b"],"gold":1}`, nil, artifact.Row{Messages: user("Q"), Choices: []string{"a", "b"}, Gold: 1}},
		{"letter", `{"question":"Q","choices":["a","b"],"answer":"A"}`, nil, artifact.Row{Messages: user("Q"), Choices: []string{"a", "b"}}},
		{"choice itself", `{"question":"Q","choices":["1","0"],"answer":"0"}`, nil, artifact.Row{Messages: user("Q"), Choices: []string{"1", "0"}, Gold: 1}},
		{"labels", `{"question":"Q","choices":{"text":["a","b"],"label":["1","2"]},"answerKey":"2"}`, nil, artifact.Row{Messages: user("Q"), Choices: []string{"a", "b"}, Gold: 1}},
		{"a number as a label", `{"question":"Q","choices":{"text":["a","b"],"label":["1","2"]},"answerKey":1}`, nil, artifact.Row{Messages: user("Q"), Choices: []string{"a", "b"}}},
		{"gold beside labels", `{"question":"Q","choices":{"text":["a","b"],"label":["1","2"]},"gold":1}`, nil, artifact.Row{Messages: user("Q"), Choices: []string{"a", "b"}, Gold: 1}},
		{"answer", `{"question":"Q","answer":"42"}`, nil, artifact.Row{Messages: user("Q"), Answer: "42"}},
		{"answer to a text", `{"text":"T","answer":4.0}`, nil, artifact.Row{Text: "T", Answer: "4.0"}},
		{"prompt", `{"prompt":"Q"}`, nil, artifact.Row{Messages: user("Q")}},
		{"map", `{"q":"Q","a":"A"}`, map[string]string{"question": "q", "answer": "a"}, artifact.Row{Messages: user("Q"), Answer: "A"}},
		{"map into lists", `{"x":[{"y":"T"}]}`, map[string]string{"text": "x.0.y"}, artifact.Row{Text: "T", Meta: `{"x":[{"y":"T"}]}`}},
		{"a column with a dot", `{"x.y":"T"}`, map[string]string{"text": "x.y"}, artifact.Row{Text: "T"}},
		{"meta", `{"text":"T","z":1.50,"a":{"q":"<&>"},"n":null}`, nil, artifact.Row{Text: "T", Meta: `{"a":{"q":"<&>"},"n":null,"z":1.50}`}},
		{"messages win over text", `{"text":"T","messages":[{"role":"user","content":"Q"}]}`, nil, artifact.Row{Messages: user("Q"), Meta: `{"text":"T"}`}},
		{"messages win over their answer", `{"messages":` + held("A") + `,"completion":"A","output":"A"}`, nil, artifact.Row{Messages: talk(user("Q"), assistant("A")), Meta: `{"completion":"A","output":"A"}`}},
		{"an answer that is a list", `{"prompt":"Q","completion":"[1, 2]"}`, nil, artifact.Row{Messages: talk(user("Q"), assistant("[1, 2]"))}},
		{"an answer that is an empty list", `{"prompt":"Q","completion":"[]"}`, nil, artifact.Row{Messages: talk(user("Q"), assistant("[]"))}},
		{"messages as text", `{"prompt":"[ {\"content\": \"Q\", \"role\": \"user\"} ]","completion":"A"}`, nil, artifact.Row{Messages: talk(user("Q"), assistant("A"))}},
		{"id", `{"id":"k","text":"T"}`, nil, artifact.Row{ID: "k", Text: "T"}},
		{"id of another type", `{"id":[1],"text":"T"}`, nil, artifact.Row{Text: "T", Meta: `{"id":[1]}`}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.want.Choices == nil {
				c.want.Gold = -1
			}
			o, err := jsonl.Object([]byte(c.in))
			if err != nil {
				t.Fatal(err)
			}
			if got, err := jsonl.Row(o, c.names, nil); err != nil || !reflect.DeepEqual(got, c.want) {
				t.Errorf("got %+v, %v\nwant %+v", got, err, c.want)
			}
		})
	}
}

func TestBadShapes(t *testing.T) {
	for in, want := range map[string]string{
		`{"messages":[]}`:  "messages holds no messages",
		`{"messages":"x"}`: "",
		`{"messages":3}`:   "messages is a number",
		`{"messages":[{"role":"user","content":"a"},{"role":"robot","content":"b"}]}`:                                `message 2 of messages has the role "robot"`,
		`{"messages":[{"content":"a"}]}`:                                                                             "message 1 of messages has no role",
		`{"messages":[{"role":"user","content":null}]}`:                                                              "has a content that is null",
		`{"messages":[{"role":"user","content":[{"type":"image","url":"x"}]}]}`:                                      `a part of type "image"`,
		`{"messages":[{"role":"assistant","content":"","tool_calls":"[{}]"}]}`:                                       "has tool_calls",
		`{"messages":[{"role":"assistant","content":"","function_call":{"name":"f","arguments":"{}"}}]}`:             "has function_call",
		`{"messages":[{"role":"assistant","content":"a","tool_calls":[],"function_call":null}]}`:                     "",
		`{"instruction":"Do","input":"","output":" "}`:                                                               "output is empty",
		`{"messages":[{"role":"assistant","content":"","tool_calls":[{}]}]}`:                                         "has tool_calls",
		`{"messages":[{"role":"user","content":"a"},{"role":"assistant","content":"b","weight":0.0}]}`:               "message 2 of messages has weight 0, which a row cannot hold: it cannot keep one turn of the assistant from being learned. Leave the weight out to treat",
		`{"prompt":"Q","chosen":[{"role":"assistant","content":"b","weight":0}],"rejected":"c"}`:                     "message 1 of chosen has weight 0, which a row cannot hold: it cannot keep one turn",
		`{"messages":[{"role":"assistant","content":"b","weight":0.5}]}`:                                             "has the weight 0.5; it must be 1, or 0 for",
		`{"messages":[{"role":"user","content":"b","weight":2}]}`:                                                    "has the weight 2; it must be 1",
		`{"messages":[{"role":"assistant","content":"b","weight":"0"}]}`:                                             "has a weight that is a string; it must be the number 1",
		`{"messages":[{"role":"assistant","content":"b","weight":false}]}`:                                           "has a weight that is a boolean",
		`{"messages":[{"role":"user","content":"b","weight":0},{"role":"assistant","content":"b","weight":1}]}`:      "",
		`{"prompt":"Q","chosen":"G"}`:                                                                                "has one of chosen and rejected without the other",
		`{"chosen":"G","rejected":"B"}`:                                                                              "without a prompt",
		`{"prompt":"Q","chosen":[{"role":"user","content":"Q"}],"rejected":[{"role":"user","content":"Q"}]}`:         "one of them is the prompt alone",
		`{"prompt":"Q","chosen":` + held("G") + `,"rejected":"B"}`:                                                   "has the prompt in one of chosen and rejected and not in the other",
		`{"prompt":` + held("A") + `,"chosen":"G","rejected":"B"}`:                                                   "has a prompt that ends with an answer of the assistant",
		`{"chosen":[{"role":"user","content":"P"},{"role":"assistant","content":"A"}],"rejected":` + held("B") + `}`: "chosen and rejected part at message 1, which is not the assistant's",
		`{"prompt":` + held("A") + `,"completion":"B"}`:                                                              "has a prompt that ends with an answer of the assistant, and a completion",
		`{"messages":"[{'role': 'user', 'content': 'Q'}]"}`:                                                          "messages begins like a list of messages and is not JSON",
		`{"conversations":"[1"}`: "conversations begins like a list of messages and is not JSON",
		`{"prompt":"Q","chosen":"[{'content': 'G', 'role': 'assistant'}]","rejected":"B"}`: "chosen begins like a list of messages and is not JSON",
		`{"choices":["a","b"],"gold":0}`:                    "has choices and no question",
		`{"question":"Q","choices":["a","b"]}`:              "neither gold nor answer",
		`{"question":"Q","choices":["a","b"],"gold":2}`:     "gold is 2; the 2 choices are counted from 0",
		`{"question":"Q","choices":["a","b"],"answer":"C"}`: `answer is "C"`,
		`{"question":"Q","choices":["a"],"gold":0}`:         "at least two answers",
		`{"question":"Q","choices":["a",null],"gold":0}`:    "choice 2 is null",
		`{"completion":"A"}`:                                "has a completion and no prompt",
		`{"output":"A"}`:                                    "has an output and no instruction",
		`{"text":" "}`:                                      "text is empty",
		`{"text":{}}`:                                       "text is an object; it must be a string",
		`{"question":""}`:                                   "the prompt is empty",
		`{}`:                                                "is no row",
	} {
		o, err := jsonl.Object([]byte(in))
		if err != nil {
			t.Fatal(err)
		}
		_, err = jsonl.Row(o, nil, nil)
		if want == "" {
			if err != nil {
				t.Errorf("%s: %v", in, err)
			}
		} else if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v; want %q", in, err, want)
		}
	}
	_, err := jsonl.Row(map[string]any{"a": "x"}, map[string]string{"text": "b"}, nil)
	if err == nil || !strings.Contains(err.Error(), `has no column "b", from which map reads text; it has ["a"]`) {
		t.Errorf("a mapped column that is missing: %v", err)
	}
}

func TestSplit(t *testing.T) {
	for _, c := range []struct {
		text, how string
		limit     int
		want      []string
	}{
		{"a\nb\n\n\n c \n", "paragraph", 0, []string{"a\nb", " c"}},
		{"a\nb\n\nc", "line", 0, []string{"a", "b", "c"}},
		{"aa\n\nbb\n\ncc", "paragraph", 6, []string{"aa\n\nbb", "cc"}},
		{"aaa bbb ccc\n\nd", "paragraph", 7, []string{"aaa bbb", "ccc\n\nd"}},
		{"aaaaaaaaaa", "line", 4, []string{"aaaa", "aaaa", "aa"}},
		{"ééé ééé", "line", 3, []string{"ééé", "ééé"}},
		{"a\nb\nc", "line", 3, []string{"a\nb", "c"}},
	} {
		if got := split(c.text, c.how, c.limit); !reflect.DeepEqual(got, c.want) {
			t.Errorf("split(%q, %s, %d) = %q; want %q", c.text, c.how, c.limit, got, c.want)
		}
	}
	rows, err := run(t, map[string]string{"a.txt": "x\n\ny", "q.jsonl": `{"question":"p\n\nq","answer":"r"}`}, func(s *spec) {
		s.Files, s.Split = []string{"a.txt", "q.jsonl"}, "paragraph"
	})
	if want := []string{"a.txt#1", "a.txt#2", "q.jsonl:1"}; err != nil || !reflect.DeepEqual(ids(rows), want) {
		t.Errorf("got %q, %v; want %q", ids(rows), err, want)
	}
}

// However a text is split, no word is lost and no piece is too long.
func TestSplitKeepsWords(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		text := rapid.StringOfN(rapid.RuneFrom([]rune("ab é\n\n\t")), 0, 200, -1).Draw(t, "text")
		how := rapid.SampledFrom([]string{"paragraph", "line"}).Draw(t, "how")
		limit := rapid.IntRange(0, 30).Draw(t, "limit")
		pieces := split(text, how, limit)
		letters := func(s string) string { return strings.Join(strings.Fields(s), "") }
		if letters(strings.Join(pieces, " ")) != letters(text) {
			t.Fatalf("%q lost text of %q", pieces, text)
		}
		for _, p := range pieces {
			if limit > 0 && utf8.RuneCountInString(p) > limit || strings.TrimSpace(p) == "" {
				t.Fatalf("piece %q with limit %d", p, limit)
			}
		}
	})
}

// Whatever the bytes of a line are, reading it gives rows or an error that
// names the line.
func FuzzLine(f *testing.F) {
	for _, s := range []string{
		`{"text":"T"}`, `{"messages":[{"role":"user","content":"Q"}]}`, `{"question":"Q","choices":["a","b"],"gold":1}`,
		`{"chosen":[{"role":"user","content":"Q"}],"rejected":[]}`, `{"choices":{"text":["a"],"label":[1]}}`, "\xff{", `{"id":1e999,"text":"x"}`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, line []byte) {
		for _, policy := range []string{"error", "replace"} {
			s := newStage().(*spec)
			s.InvalidUTF8 = policy
			r := reader{spec: s, name: "f.jsonl"}
			rows := 0
			err := r.lines(context.Background(), strings.NewReader(string(line)), func(row artifact.Row) error {
				rows++
				if row.ID == "" || !utf8.ValidString(row.Text+row.Meta) {
					t.Errorf("row %+v", row)
				}
				return nil
			})
			if err != nil && !strings.HasPrefix(err.Error(), "f.jsonl:") {
				t.Errorf("error without a place: %v", err)
			}
		}
	})
}

func FuzzTable(f *testing.F) {
	f.Add("text,x\na,b\n")
	f.Add("question,choices,gold\n\"a\nb\",\"[\"\"x\"\",\"\"y\"\"]\",1\n")
	f.Fuzz(func(t *testing.T, in string) {
		r := reader{spec: newStage().(*spec), name: "f.csv"}
		err := r.table(context.Background(), strings.NewReader(in), ',', func(artifact.Row) error { return nil })
		if err != nil && !strings.HasPrefix(err.Error(), "f.csv:") {
			t.Errorf("error without a place: %v", err)
		}
		err = r.array(strings.NewReader(in), func(artifact.Row) error { return nil })
		if err != nil && !strings.HasPrefix(err.Error(), "f.csv:") {
			t.Errorf("error without a place: %v", err)
		}
	})
}
