package pretrained

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"pipe/model/gguf"
	"pipe/text/chat"
)

// TemplateWith returns the text of a chat template in which variables have values where
// nothing else gives them ([chat.WithDefaults]): of text or, where that is nil, of the
// template of the model at path.
func TemplateWith(path string, text []byte, vars map[string]json.RawMessage) (string, error) {
	if text == nil {
		own, err := ownTemplate(path)
		if err != nil {
			return "", err
		}
		if own == "" {
			return "", errors.New("the model has no chat template; set chat_template")
		}
		text = []byte(own)
	}
	return chat.WithDefaults(string(text), vars)
}

// ownTemplate returns the chat template of the model at path; "" where it has none.
func ownTemplate(path string) (string, error) {
	info, err := os.Stat(path)
	if err != nil {
		return "", err
	}
	if !info.IsDir() {
		f, err := gguf.Open(path)
		if err != nil {
			return "", err
		}
		defer f.Close()
		return f.ChatTemplate()
	}
	source, err := read(filepath.Join(path, "chat_template.jinja"))
	if !errors.Is(err, fs.ErrNotExist) {
		return string(source), err
	}
	origin := filepath.Join(path, "tokenizer_config.json")
	data, err := read(origin)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	var c tokenizerConfig
	if err == nil {
		if err = json.Unmarshal(data, &c); err == nil {
			var own string
			if own, err = template(c.Template); err == nil {
				return own, nil
			}
		}
	}
	return "", fmt.Errorf("%s: chat_template: %w", origin, err)
}

// ShareTemplate makes SaveTokenizer write a chat template that is in
// chat_template.jinja into tokenizer_config.json as well, for what reads only
// that file: one that replaces the model's own, and any where the two files
// would contradict each other. The token that ends the assistant's turn is then
// among the ids of generation_config.json that end a text: whoever reads that
// file would not stop there otherwise. And the class of Llama's tokenizer gives way to
// PreTrainedTokenizerFast: of the former transformers 5 takes the vocabulary only, and
// puts spaces before words in another way than tokenizer.json says.
func (m *Model) ShareTemplate() { m.sharesTemplate = true }

// sharedConfig returns tokenizer_config.json with the template that counts, and a class
// that takes tokenizer.json as it is.
func (m *Model) sharedConfig() ([]byte, error) {
	config, err := m.templateConfig()
	from, to := -1, -1
	if err == nil {
		from, to, err = member(config, "tokenizer_class")
	}
	if err != nil {
		return nil, fmt.Errorf("tokenizer_config.json: %w", err)
	}
	if from < 0 {
		return config, nil
	}
	switch class := string(config[from:to]); class {
	case `"LlamaTokenizer"`, `"LlamaTokenizerFast"`, `"CodeLlamaTokenizer"`, `"CodeLlamaTokenizerFast"`:
		return put(config, "tokenizer_class", []byte(`"PreTrainedTokenizerFast"`), from, to), nil
	}
	return config, nil
}

// templateConfig returns tokenizer_config.json with the template that counts.
func (m *Model) templateConfig() ([]byte, error) {
	if !m.ownTemplateFile {
		return m.tokenizerConfig, nil
	}
	from, to, err := member(m.tokenizerConfig, "chat_template")
	if err != nil {
		return nil, err
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
	return put(m.tokenizerConfig, "chat_template", bytes.TrimSuffix(value.Bytes(), []byte("\n")), from, to), nil
}

// sharedGeneration returns generation_config.json with EndOfTurn among the ids that
// end a text.
func (m *Model) sharedGeneration() ([]byte, error) {
	const key = "eos_token_id"
	from, to, err := member(m.generationConfig, key)
	if err != nil {
		return nil, fmt.Errorf("generation_config.json: %w", err)
	}
	ids := m.Config.EOS
	if from >= 0 {
		said, err := endIDs(m.generationConfig[from:to])
		if err != nil {
			return nil, fmt.Errorf("generation_config.json: %w", err)
		}
		if len(said) > 0 {
			ids = said
		}
	}
	if m.EndOfTurn < 0 || slices.Contains(ids, m.EndOfTurn) {
		return m.generationConfig, nil
	}
	value, err := json.Marshal(append(slices.Clone(ids), m.EndOfTurn))
	if err != nil {
		return nil, err
	}
	return put(m.generationConfig, key, value, from, to), nil
}

// put returns a JSON object with another value of a key, which member found from
// there to there.
func put(object []byte, key string, value []byte, from, to int) []byte {
	if from < 0 {
		return added(object, key, value)
	}
	return slices.Concat(object[:from], value, object[to:])
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
