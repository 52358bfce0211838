// Package jsonl is how rows are written as JSON lines: by pipe cat and for
// programs, and how they are read, in the shapes that people have.
package jsonl

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"pipe/runtime/artifact"
)

// Fields are the names under which a row's parts are looked for.
var Fields = []string{
	"id", "text", "messages", "conversations", "system", "prompt", "completion", "chosen", "rejected",
	"instruction", "input", "output", "question", "choices", "answer", "gold", "reasoning",
}

// A record is one JSON object or line of a table on its way to being a row.
type record struct {
	values map[string]any
	names  map[string]string // field -> column, where they differ
	used   map[string]bool   // columns that became part of the row
	unused Unused            // keys of messages that did not; may be nil
	err    error             // the first that was found
}

// Row turns an object into a row: the README.md of data has the shapes. names says
// which column a field is read from. ID is empty when the object has none. The keys
// of its messages that no row holds are counted in unused, which may be nil.
func Row(values map[string]any, names map[string]string, unused Unused) (artifact.Row, error) {
	r := &record{values: values, names: names, used: map[string]bool{}, unused: unused}
	row := artifact.Row{Gold: -1, ID: r.id()}
	switch {
	case r.has("chosen") || r.has("rejected"):
		r.preference(&row)
	case r.has("choices"):
		r.choices(&row)
	default:
		r.plain(&row)
	}
	if _, named := r.names["reasoning"]; named && !r.used[r.column("reasoning")] && r.has("reasoning") {
		r.fail("has a thought in %s, which is read only before one answer: put those of chosen and rejected into them", r.column("reasoning"))
	}
	if r.err != nil {
		return artifact.Row{}, r.err
	}
	var err error
	row.Meta, err = r.meta()
	return row, err
}

func (r *record) fail(format string, args ...any) {
	if r.err == nil {
		r.err = fmt.Errorf(format, args...)
	}
}

// column returns the column that a field is read from.
func (r *record) column(field string) string {
	if c, ok := r.names[field]; ok {
		return c
	}
	return field
}

// get returns the value of a field; nil when there is none.
func (r *record) get(field string) any {
	c := r.column(field)
	if v, ok := r.values[c]; ok {
		r.used[c] = true
		return v
	}
	top, rest, deep := strings.Cut(c, ".")
	v, ok := r.values[top]
	for deep && ok {
		var key string
		key, rest, deep = strings.Cut(rest, ".")
		v, ok = child(v, key)
	}
	if !ok || top == c {
		if _, mapped := r.names[field]; mapped {
			r.fail("has no column %q, from which map reads %s; it has %q", c, field, r.columns())
		}
		return nil
	}
	return v // its column stays in Meta, which holds the rest of the object
}

func child(v any, key string) (any, bool) {
	switch v := v.(type) {
	case map[string]any:
		c, ok := v[key]
		return c, ok
	case []any:
		if i, err := strconv.Atoi(key); err == nil && i >= 0 && i < len(v) {
			return v[i], true
		}
	}
	return nil, false
}

func (r *record) columns() []string { return slices.Sorted(maps.Keys(r.values)) }

// has reports whether a field has a value that is not null. An empty cell of a
// table is a value.
func (r *record) has(field string) bool {
	was := r.used[r.column(field)]
	v := r.get(field)
	if v == nil && !was {
		delete(r.used, r.column(field))
	}
	return v != nil
}

// text returns a field that must be a string; "" when there is none.
func (r *record) text(field string) string {
	switch v := r.get(field).(type) {
	case nil:
		return ""
	case string:
		return v
	case json.Number:
		return v.String()
	case bool:
		return strconv.FormatBool(v)
	default:
		r.fail("%s is %s; it must be a string", r.column(field), jsonType(v))
		return ""
	}
}

// id returns the object's own id; "" when it has none that is usable.
func (r *record) id() string {
	switch v := r.values[r.column("id")].(type) {
	case string:
		r.used[r.column("id")] = true
		return v
	case json.Number:
		r.used[r.column("id")] = true
		return v.String()
	}
	return ""
}

// list returns v as a list; a string may hold one as JSON, as in tables.
func list(v any) ([]any, bool) {
	if s, ok := v.(string); ok && strings.HasPrefix(strings.TrimSpace(s), "[") {
		d := json.NewDecoder(strings.NewReader(s))
		d.UseNumber()
		var l []any
		if err := d.Decode(&l); err != nil || d.More() {
			return nil, false
		}
		return l, true
	}
	l, ok := v.([]any)
	return l, ok
}

// plain fills in a row without choices or preferences.
func (r *record) plain(row *artifact.Row) {
	row.Messages = r.question()
	asked := len(row.Messages) > 0
	switch {
	case answered(row.Messages): // completion or output say its answer again
		if !r.has("messages") && !r.has("conversations") && r.has("completion") {
			r.fail("has a prompt that ends with an answer of the assistant, and a completion")
		}
	case r.has("completion"):
		if !asked {
			r.fail("has a completion and no prompt; name the column of the prompt with map")
		}
		row.Messages = append(row.Messages, r.turns("completion", "assistant")...)
	case r.has("output"):
		if !asked {
			r.fail("has an output and no instruction; name the column of the instruction with map")
		}
		answer := r.text("output")
		if strings.TrimSpace(answer) == "" {
			r.fail("%s is empty", r.column("output"))
		}
		row.Messages = append(row.Messages, artifact.Message{Role: "assistant", Content: answer})
	}
	if !asked && r.has("text") {
		if row.Text = r.text("text"); strings.TrimSpace(row.Text) == "" && r.err == nil {
			r.fail("%s is empty", r.column("text"))
		}
	}
	if (asked || row.Text != "") && r.has("answer") {
		row.Answer = r.text("answer")
	}
	r.reasoning(row)
	if !asked && row.Text == "" {
		r.fail("is no row: it has the columns %q, and a row needs text, messages, conversations, prompt, instruction or question; name them with map", r.columns())
	}
}

// reasoning puts the thought of a column that map names before the answer of a row. Without
// a name there is none: columns that are called so stand beside answers for many
// reasons.
func (r *record) reasoning(row *artifact.Row) {
	if _, named := r.names["reasoning"]; !named || !r.has("reasoning") {
		return
	}
	thought, n := r.text("reasoning"), len(row.Messages)
	switch {
	case answered(row.Messages) && artifact.Said(row.Messages[n-1].Content) == row.Messages[n-1].Content:
		row.Messages[n-1].Content = artifact.Think(thought, row.Messages[n-1].Content)
	case answered(row.Messages):
		r.fail("has a thought in %s and another in its answer", r.column("reasoning"))
	case row.Answer != "":
		row.Answer = artifact.Think(thought, row.Answer)
	case r.err == nil:
		r.fail("has a thought in %s and no answer that it precedes", r.column("reasoning"))
	}
}

// question returns the turns that ask: those of messages, conversations,
// prompt, instruction (with its input) or question, whichever there is.
func (r *record) question() []artifact.Message {
	var asked []artifact.Message
	user := func(s string) {
		if strings.TrimSpace(s) == "" {
			r.fail("the prompt is empty")
		}
		asked = append(asked, artifact.Message{Role: "user", Content: s})
	}
	switch {
	case r.has("messages"):
		asked = r.turns("messages", "user")
		if answered(asked) && r.has("chosen") && r.has("prompt") { // they are the prompt with the answer chosen
			delete(r.used, r.column("messages"))
			asked = r.turns("prompt", "user")
		}
	case r.has("conversations"):
		asked = r.turns("conversations", "user")
	case r.has("prompt"):
		asked = r.turns("prompt", "user")
	case r.has("instruction"):
		s := r.text("instruction")
		if in := r.text("input"); strings.TrimSpace(in) != "" {
			s += "\n\n" + in
		}
		user(s)
	case r.has("question"):
		user(r.text("question"))
	case r.has("input") && r.has("output"):
		user(r.text("input"))
	}
	if len(asked) > 0 && r.has("system") && asked[0].Role != "system" {
		if s := r.text("system"); strings.TrimSpace(s) != "" {
			asked = append([]artifact.Message{{Role: "system", Content: s}}, asked...)
		}
	}
	return asked
}

// preference fills in prompt, chosen and rejected. Lists of messages that begin with
// a system turn or one of the user hold the prompt themselves, and that counts:
// columns with a prompt or with a whole conversation stand beside them in many
// datasets, and are not always the same to the letter.
func (r *record) preference(row *artifact.Row) {
	for _, f := range []string{"chosen", "rejected"} {
		if !r.has(f) {
			r.fail("has one of chosen and rejected without the other; both are needed")
			return
		}
	}
	row.Chosen, row.Rejected = r.turns("chosen", "assistant"), r.turns("rejected", "assistant")
	before := maps.Clone(r.used)
	row.Messages = r.question()
	if r.err != nil {
		return
	}
	switch prompt := row.Messages; {
	case asks(row.Chosen) != asks(row.Rejected):
		r.fail("has the prompt in one of chosen and rejected and not in the other: both must begin with it, or neither")
	case asks(row.Chosen):
		r.part(row, prompt)
		if !slices.Equal(row.Messages, prompt) {
			r.used = before // what is not used stays in the meta
		}
	case len(prompt) == 0:
		r.fail("has chosen and rejected without a prompt; name its column with map")
	case answered(prompt) && row.Chosen[0].Role == "assistant":
		r.fail("has a prompt that ends with an answer of the assistant; it must end where chosen and rejected begin")
	}
}

// answered reports whether messages end with a turn of the assistant.
func answered(ms []artifact.Message) bool {
	return len(ms) > 0 && ms[len(ms)-1].Role == "assistant"
}

// asks reports whether messages begin with those of a prompt.
func asks(ms []artifact.Message) bool { return ms[0].Role == "user" || ms[0].Role == "system" }

// part moves what chosen and rejected begin with alike to the prompt, beside that
// of columns of its own, given.
func (r *record) part(row *artifact.Row, given []artifact.Message) {
	n := 0
	for n < min(len(row.Chosen), len(row.Rejected))-1 && row.Chosen[n] == row.Rejected[n] {
		n++
	}
	switch {
	case len(row.Chosen) == 1 || len(row.Rejected) == 1:
		r.fail("chosen and rejected must continue the prompt, and one of them is the prompt alone")
		return
	case n == 0 || asks(row.Chosen[n:]) || asks(row.Rejected[n:]):
		r.fail("chosen and rejected part at message %d, which is not the assistant's in both: they must be answers to the same prompt", n+1)
		return
	}
	row.Messages = joined(given, row.Chosen[:n])
	row.Chosen, row.Rejected = row.Chosen[n:], row.Rejected[n:]
}

// joined is the prompt of answers that begin with said, where columns of their own
// give another.
func joined(given, said []artifact.Message) []artifact.Message {
	system, g := split(given)
	own, s := split(said)
	if len(own) > 0 {
		system = own
	}
	switch k := len(g) - len(s); {
	case len(s) == 0:
		s = g
	case k >= 0 && slices.Equal(g[k:], s): // they say its end again
		s = g
	case len(g) > 0 && g[0] != s[0] && !asks(g[len(g)-1:]): // they go on with it
		s = slices.Concat(g, s)
	}
	return slices.Concat(system, s)
}

// split returns the system turn that messages begin with, if any, and the rest.
func split(ms []artifact.Message) (system, rest []artifact.Message) {
	if len(ms) > 0 && ms[0].Role == "system" {
		return ms[:1], ms[1:]
	}
	return nil, ms
}

// choices fills in a multiple-choice item.
func (r *record) choices(row *artifact.Row) {
	row.Messages = r.question()
	if len(row.Messages) == 0 {
		if row.Text = r.text("text"); row.Text == "" {
			r.fail("has choices and no question; name its column with map")
			return
		}
	}
	v := r.get("choices")
	var labels []any
	if o, ok := v.(map[string]any); ok { // {text: [...], label: ["A", ...]}
		v, labels = o["text"], nil
		labels, _ = o["label"].([]any)
	}
	l, ok := list(v)
	if !ok || len(l) < 2 {
		r.fail("%s must be a list of at least two answers", r.column("choices"))
		return
	}
	for i, c := range l {
		switch c := c.(type) {
		case string:
			row.Choices = append(row.Choices, c)
		case json.Number:
			row.Choices = append(row.Choices, c.String())
		default:
			r.fail("choice %d is %s; it must be a string", i+1, jsonType(c))
			return
		}
	}
	row.Gold = r.gold(row.Choices, labels)
}

// gold returns which choice is right: gold (or answer, or answerKey) is an
// index from 0, a label or letter, or the choice itself.
func (r *record) gold(choices []string, labels []any) int32 {
	field := "gold"
	for _, f := range []string{"gold", "answer", "answerKey"} {
		if field = f; r.has(f) {
			break
		}
	}
	v := r.get(field)
	s, isText := v.(string)
	for i, l := range labels {
		if (isText || field != "gold") && fmt.Sprint(l) == fmt.Sprint(v) && i < len(choices) {
			return int32(i)
		}
	}
	if i := slices.Index(choices, s); isText && i >= 0 && field != "gold" {
		return int32(i)
	}
	if isText && len(s) == 1 && s[0] >= 'A' && int(s[0]-'A') < len(choices) {
		return int32(s[0] - 'A')
	}
	if n, ok := v.(json.Number); ok {
		s = n.String()
	}
	if i, err := strconv.Atoi(strings.TrimSpace(s)); err == nil {
		if i < 0 || i >= len(choices) {
			r.fail("%s is %d; the %d choices are counted from 0", field, i, len(choices))
			return -1
		}
		return int32(i)
	}
	if i := slices.Index(choices, s); isText && i >= 0 {
		return int32(i)
	}
	if v == nil {
		r.fail("has choices and neither gold nor answer, which say the right one")
	} else {
		r.fail("%s is %q; it must be an index from 0, a letter or one of the choices", field, fmt.Sprint(v))
	}
	return -1
}

// meta returns the columns that are no part of the row, as JSON with sorted
// keys.
func (r *record) meta() (string, error) {
	rest := map[string]any{}
	for k, v := range r.values {
		if !r.used[k] {
			rest[k] = v
		}
	}
	if len(rest) == 0 {
		return "", nil
	}
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(rest); err != nil {
		return "", err
	}
	return strings.TrimSuffix(b.String(), "\n"), nil
}
