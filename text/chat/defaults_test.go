package chat

import (
	"encoding/json"
	"strings"
	"testing"
)

func TestWithDefaults(t *testing.T) {
	const src = "\n{{ messages[0].content }}{% if think is defined and think is false %}, quick{% endif %}{% if effort %}, {{ effort }}{% endif %}"
	in := Input{Messages: []Message{{Role: "user", Content: "q"}}}
	for _, c := range []struct {
		vars string
		own  map[string]Value
		want string
	}{
		{`{}`, nil, "\nq"},
		{`{"think":false}`, nil, "\nq, quick"},
		{`{"think":true}`, nil, "\nq"},
		{`{"think":false,"effort":"\"a\\b\" %}\n"}`, nil, "\nq, quick, \"a\\b\" %}\n"},
		{`{"effort":1.5}`, nil, "\nq, 1.5"},
		{`{"think":false}`, map[string]Value{"think": true}, "\nq"}, // what is given wins
	} {
		var vars map[string]json.RawMessage
		if err := json.Unmarshal([]byte(c.vars), &vars); err != nil {
			t.Fatal(err)
		}
		text, err := WithDefaults(src, vars)
		if err != nil {
			t.Fatal(err)
		}
		tmpl, err := Parse(text)
		if err != nil {
			t.Fatal(err)
		}
		in.Vars = c.own
		if got, err := tmpl.Text(in); err != nil || got != c.want {
			t.Errorf("%s: got %q, %v; want %q", c.vars, got, err, c.want)
		}
	}
	for vars, want := range map[string]string{
		`{"thinking":false}`: "does not ask for thinking",
		`{"a b":false}`:      `"a b" is no name`,
		`{"messages":1}`:     "messages is given to every template",
		`{"think":null}`:     "think is null; it must be a string",
		`{"think":[1]}`:      "think is [1]; it must be a string",
	} {
		var m map[string]json.RawMessage
		if err := json.Unmarshal([]byte(vars), &m); err != nil {
			t.Fatal(err)
		}
		if _, err := WithDefaults(src, m); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v; want %q", vars, err, want)
		}
	}
}
