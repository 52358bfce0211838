package pretrained

import (
	"bytes"
	"encoding/json"
	"fmt"
)

// ShareTemplate makes SaveTokenizer write a chat template that is in
// chat_template.jinja into tokenizer_config.json as well, for what reads only
// that file: one that replaces the model's own, and any where the two files
// would contradict each other.
func (m *Model) ShareTemplate() { m.sharesTemplate = true }

// sharedConfig returns tokenizer_config.json with the template that counts.
func (m *Model) sharedConfig() ([]byte, error) {
	if !m.ownTemplateFile {
		return m.tokenizerConfig, nil
	}
	from, to, err := member(m.tokenizerConfig, "chat_template")
	if err != nil {
		return nil, fmt.Errorf("tokenizer_config.json: %w", err)
	}
	said := ""
	if from >= 0 {
		if said, err = template(m.tokenizerConfig[from:to]); err == nil && said == m.TemplateSource {
			return m.tokenizerConfig, nil
		}
	}
	if said == "" && !m.replaced { // it says none, as newer directories do
		return m.tokenizerConfig, nil
	}
	value := &bytes.Buffer{}
	e := json.NewEncoder(value)
	e.SetEscapeHTML(false)
	if err := e.Encode(m.TemplateSource); err != nil {
		return nil, err
	}
	text := bytes.TrimSuffix(value.Bytes(), []byte("\n"))
	if from >= 0 {
		return bytes.Join([][]byte{m.tokenizerConfig[:from], text, m.tokenizerConfig[to:]}, nil), nil
	}
	return added(m.tokenizerConfig, "chat_template", text), nil
}

// member returns where in a JSON object the value of a key begins and ends;
// from is -1 when it has none. Of several, which no writer makes, the last
// counts, as everywhere.
func member(object []byte, key string) (from, to int, err error) {
	d := json.NewDecoder(bytes.NewReader(object))
	if t, err := d.Token(); err != nil || t != json.Delim('{') {
		return -1, 0, fmt.Errorf("is not a JSON object")
	}
	from = -1
	for d.More() {
		name, err := d.Token()
		if err != nil {
			return -1, 0, err
		}
		var raw json.RawMessage
		if err := d.Decode(&raw); err != nil {
			return -1, 0, err
		}
		if name == key {
			to = int(d.InputOffset())
			from = to - len(raw)
		}
	}
	return from, to, nil
}

// added returns a JSON object with one more member, at its end and laid out as
// its first one.
func added(object []byte, key string, value []byte) []byte {
	open, end := bytes.IndexByte(object, '{'), bytes.LastIndexByte(object, '}')
	first := open + 1
	for first < end && bytes.IndexByte([]byte(" \t\r\n"), object[first]) >= 0 {
		first++
	}
	last := len(bytes.TrimRight(object[:end], " \t\r\n"))
	b := append([]byte{}, object[:last]...)
	if first < end {
		b = append(append(b, ','), object[open+1:first]...)
	}
	b = fmt.Appendf(b, "%q: %s", key, value)
	return append(b, object[last:]...)
}
