package jsonl

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	"pipe/runtime/artifact"
)

// Unused counts, by key, the messages that had a key which no row holds, such
// as name. A key whose value is null, or is empty, says nothing and does not
// count.
type Unused map[string]int

func (u Unused) add(message map[string]any, held []string) {
	if u == nil {
		return
	}
	for k, v := range message {
		if !slices.Contains(held, k) && !empty(v) {
			u[k]++
		}
	}
}

func empty(v any) bool {
	switch v := v.(type) {
	case nil:
		return true
	case string:
		return v == ""
	case []any:
		return len(v) == 0
	case map[string]any:
		return len(v) == 0
	}
	return false
}

// String lists the keys, the most frequent ones first: "name" (in 2 messages).
// Of many the last ones are only counted.
func (u Unused) String() string {
	const shown = 8
	keys := slices.SortedFunc(maps.Keys(u), func(a, b string) int {
		return cmp.Or(cmp.Compare(u[b], u[a]), cmp.Compare(a, b))
	})
	var parts []string
	for i, k := range keys {
		if i == shown {
			parts = append(parts, fmt.Sprintf("and %d more", len(keys)-shown))
			break
		}
		messages := "messages"
		if u[k] == 1 {
			messages = "message"
		}
		parts = append(parts, fmt.Sprintf("%.60q (in %d %s)", k, u[k], messages))
	}
	return strings.Join(parts, ", ")
}

// roles are the names that datasets give to the four roles.
var roles = map[string]string{
	"system": "system", "developer": "system",
	"user": "user", "human": "user", "prompter": "user",
	"assistant": "assistant", "gpt": "assistant", "model": "assistant", "bot": "assistant", "chatgpt": "assistant",
	"tool": "tool", "function": "tool", "observation": "tool", "ipython": "tool",
}

// quoted is how a list of messages begins when it is written as text: JSON, or what
// Python prints, which is none.
var quoted = regexp.MustCompile(`^\s*\[\s*\{\s*['"](?:role|content|from|value)['"]\s*:`)

// turns returns the messages of a field: a list of messages, which a table holds as
// JSON, one message, or a string, which is one of the given role.
func (r *record) turns(field, role string) []artifact.Message {
	v := r.get(field)
	l, ok := v.([]any)
	if o, one := v.(map[string]any); one {
		l, ok = []any{o}, true
	}
	if s, text := v.(string); text {
		whole := field == "messages" || field == "conversations"
		if quoted.MatchString(s) || whole && strings.HasPrefix(strings.TrimSpace(s), "[") {
			if l, ok = list(v); !ok {
				r.fail("%s begins like a list of messages and is not JSON: write it with json.dumps, not as Python prints it", r.column(field))
				return nil
			}
		} else {
			if strings.TrimSpace(s) == "" {
				r.fail("%s is empty", r.column(field))
			}
			return []artifact.Message{{Role: role, Content: s}}
		}
	}
	if !ok {
		r.fail("%s is %s; it must be a list of messages or a string", r.column(field), jsonType(v))
		return nil
	}
	if len(l) == 0 {
		r.fail("%s holds no messages", r.column(field))
	}
	turns := make([]artifact.Message, 0, len(l))
	for i, v := range l {
		m, err := r.message(v)
		if err != nil {
			r.fail("message %d of %s %w", i+1, r.column(field), err)
			return nil
		}
		turns = append(turns, m)
	}
	return turns
}

// thoughts are the names that datasets give to what the assistant thought before it
// said the content.
var thoughts = []string{"reasoning_content", "reasoning", "thinking"}

// message reads {role, content} or {from, value}. A row holds no more of a
// message than these, and what the assistant thought before its content: weight is
// checked, and any other key counted as unused.
func (r *record) message(v any) (m artifact.Message, err error) {
	o, ok := v.(map[string]any)
	if !ok {
		return m, fmt.Errorf("is %s; it must be an object with role and content", jsonType(v))
	}
	held := []string{"role", "content", "weight"}
	who, content := o["role"], o["content"]
	if _, ok := o["from"]; ok && who == nil {
		who, content = o["from"], o["value"]
		held = []string{"from", "value", "weight"}
	}
	name, _ := who.(string)
	if m.Role, ok = roles[strings.ToLower(name)]; !ok {
		if who == nil {
			return m, errors.New("has no role")
		}
		return m, fmt.Errorf("has the role %q; it must be system, user, assistant or tool", fmt.Sprint(who))
	}
	for _, k := range []string{"tool_calls", "function_call"} {
		if !empty(o[k]) {
			return m, fmt.Errorf("has %s, which a row cannot hold; write what it says into its content", k)
		}
	}
	if err := checkWeight(o["weight"], m.Role); err != nil {
		return m, err
	}
	var thought string
	switch c := content.(type) {
	case string:
		m.Content = c
	case []any:
		m.Content, thought, err = parts(c)
	default:
		err = fmt.Errorf("has a content that is %s; it must be a string", jsonType(content))
	}
	apart, _, _ := artifact.CutThought(m.Content)
	for _, k := range thoughts {
		s, ok := o[k].(string)
		if s = strings.TrimSpace(s); !ok || m.Role != "assistant" {
			continue
		}
		if thought == "" && apart == "" {
			thought = s
		}
		if s == thought || s == apart {
			held = append(held, k)
		}
	}
	r.unused.add(o, held)
	if thought != "" && m.Role == "assistant" {
		m.Content = artifact.Think(thought, m.Content)
	}
	return m, err
}

// checkWeight refuses the weights that a row cannot hold. A row says of no turn
// whether it is learned: that is the same for all that the assistant says in the
// same part of it, such as the answer that was chosen.
func checkWeight(v any, role string) error {
	if v == nil {
		return nil
	}
	n, ok := v.(json.Number)
	if !ok {
		return fmt.Errorf("has a weight that is %s; it must be the number 1, or 0 for a turn that is not the assistant's", jsonType(v))
	}
	switch w, err := n.Float64(); {
	case err == nil && w == 1, err == nil && w == 0 && role != "assistant":
		return nil
	case err == nil && w == 0:
		return errors.New("has weight 0, which a row cannot hold: it cannot keep one turn of the assistant from being learned. " +
			"Leave the weight out to treat this turn like the others, or leave the turn out, or write it into the user's turn before it")
	}
	return fmt.Errorf("has the weight %s; it must be 1, or 0 for a turn that is not the assistant's", n)
}

// parts joins the text parts of a content list, and those that are thought.
func parts(l []any) (said, thought string, err error) {
	var text, thinking strings.Builder
	for _, v := range l {
		p, _ := v.(map[string]any)
		if s, ok := p["thinking"].(string); ok && p["type"] == "thinking" {
			thinking.WriteString(s)
			continue
		}
		s, ok := p["text"].(string)
		if kind, typed := p["type"]; !ok || typed && kind != "text" {
			return "", "", fmt.Errorf("has a part of type %q; only text can be read", fmt.Sprint(p["type"]))
		}
		text.WriteString(s)
	}
	return text.String(), strings.TrimSpace(thinking.String()), nil
}
