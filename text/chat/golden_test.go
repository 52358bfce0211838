package chat

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"os"
	"strconv"
	"testing"
	"time"
	"unicode/utf8"
)

// goldenFile is what testdata/gen.py writes.
type goldenFile struct {
	Gen           string            `json:"gen"`
	Special       map[string]string `json:"special"`
	Conversations json.RawMessage   `json:"conversations"`
	Vars          json.RawMessage   `json:"vars"`
	Templates     map[string]string `json:"templates"`
	Texts         []string          `json:"texts"`
	Cases         []struct {
		Template     string   `json:"template"`
		Conversation string   `json:"conversation"`
		Vars         int      `json:"vars"`
		Text         *int     `json:"text"`
		Spans        [][2]int `json:"spans"`
		Error        string   `json:"error"`
	} `json:"cases"`
}

// input makes the Input that gen.py gave to transformers.
func (g *goldenFile) input(t *testing.T, conversation string, vars int) Input {
	t.Helper()
	all, err := ParseJSON(g.Conversations)
	if err != nil {
		t.Fatal(err)
	}
	list, err := ParseJSON(g.Vars)
	if err != nil {
		t.Fatal(err)
	}
	in := Input{Special: g.Special, Vars: map[string]Value{}, Date: time.Date(2025, 3, 9, 14, 5, 6, 0, time.UTC)}
	messages, _ := all.(*Dict).Get(conversation)
	for _, m := range messages.([]Value) {
		in.Messages = append(in.Messages, Message{Fields: m.(*Dict)})
	}
	d := list.([]Value)[vars].(*Dict)
	for _, k := range d.Keys() {
		v, _ := d.Get(k)
		switch k {
		case "tools":
			in.Tools = v.([]Value)
		case "add_generation_prompt":
			in.AddGenerationPrompt = v.(bool)
		default:
			in.Vars[k] = v
		}
	}
	return in
}

// TestGolden compares every rendering of testdata/cases.json with that of
// transformers. CHAT_CASES names another file to compare with, such as one
// made from the templates of another library.
func TestGolden(t *testing.T) {
	path := "testdata/cases.json"
	if p := os.Getenv("CHAT_CASES"); p != "" {
		path = p
	}
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var g goldenFile
	if err := json.Unmarshal(data, &g); err != nil {
		t.Fatal(err)
	}
	gen, err := os.ReadFile("testdata/gen.py")
	if err != nil {
		t.Fatal(err)
	}
	if sum := sha256.Sum256(gen); hex.EncodeToString(sum[:]) != g.Gen {
		t.Fatalf("%s was not made by testdata/gen.py as it is now; run it again", path)
	}
	parsed := map[string]*Template{}
	bad := 0
	for _, c := range g.Cases {
		tpl := parsed[c.Template]
		if tpl == nil {
			if tpl, err = Parse(g.Templates[c.Template]); err != nil {
				t.Errorf("%s: %v", c.Template, err)
				tpl = &Template{}
			}
			parsed[c.Template] = tpl
		}
		if tpl.source == "" {
			continue
		}
		got, spans, err := tpl.run(g.input(t, c.Conversation, c.Vars))
		if bad > 20 {
			t.Fatal("and more")
		}
		if (err != nil) != (c.Error != "") {
			bad++
			t.Errorf("%s, %s, vars %d: error %v, want %q", c.Template, c.Conversation, c.Vars, err, c.Error)
			continue
		}
		if err != nil {
			continue
		}
		if want := g.Texts[*c.Text]; got != want {
			bad++
			t.Errorf("%s, %s, vars %d: %s", c.Template, c.Conversation, c.Vars, firstDifference(got, want))
		}
		for i, s := range spans {
			if i >= len(c.Spans) || c.Spans[i] != [2]int{utf8.RuneCountInString(got[:s[0]]), utf8.RuneCountInString(got[:s[1]])} {
				t.Errorf("%s, %s, vars %d: spans %v, want %v (in characters)", c.Template, c.Conversation, c.Vars, spans, c.Spans)
				break
			}
		}
		if tpl.generation && len(spans) != len(c.Spans) {
			t.Errorf("%s, %s, vars %d: %d spans, want %d", c.Template, c.Conversation, c.Vars, len(spans), len(c.Spans))
		}
	}
}

func firstDifference(got, want string) string {
	i := 0
	for i < len(got) && i < len(want) && got[i] == want[i] {
		i++
	}
	show := func(s string) string { return s[max(0, min(i-20, len(s))):min(len(s), i+40)] }
	return "at byte " + strconv.Itoa(i) + ": got " + stringRepr(show(got)) + ", want " + stringRepr(show(want))
}
