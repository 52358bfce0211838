package pretrained

import (
	"bytes"
	"encoding/json"
	"io"
	"path/filepath"

	"pipe/model/disk"
)

// SaveTokenizer writes the text side of the model into dir, as Hugging Face's
// libraries read it: tokenizer.json, tokenizer_config.json, the chat template
// and generation_config.json. The files of a directory are written as they
// were, except for a chat template that was replaced; those of a GGUF file are
// made from its metadata. See also ShareTemplate.
func (m *Model) SaveTokenizer(dir string) error {
	config, err := m.tokenizerConfigJSON()
	if err != nil {
		return err
	}
	generation, err := m.generationConfigJSON()
	if err != nil {
		return err
	}
	files := []struct {
		name string
		data []byte
	}{
		{"tokenizer.json", m.TokenizerJSON},
		{"tokenizer_config.json", config},
		{"generation_config.json", generation},
		{"special_tokens_map.json", m.specialTokensMap},
	}
	if m.ownTemplateFile {
		files = append(files, struct {
			name string
			data []byte
		}{"chat_template.jinja", []byte(m.TemplateSource)})
	}
	for _, f := range files {
		if f.data == nil {
			continue
		}
		err := disk.Write(filepath.Join(dir, f.name), func(w io.Writer) error { _, err := w.Write(f.data); return err })
		if err != nil {
			return err
		}
	}
	return nil
}

func (m *Model) tokenizerConfigJSON() ([]byte, error) {
	switch {
	case m.tokenizerConfig != nil && m.sharesTemplate:
		return m.sharedConfig()
	case m.tokenizerConfig != nil:
		return m.tokenizerConfig, nil // chat_template.jinja wins over what it says
	}
	c := map[string]any{
		"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": m.Config.MaxPositions,
		"clean_up_tokenization_spaces": false,
	}
	for name, token := range m.Special {
		c[name] = token
	}
	if m.TemplateSource != "" && (!m.ownTemplateFile || m.sharesTemplate) {
		c["chat_template"] = m.TemplateSource
	}
	return marshal(c)
}

func (m *Model) generationConfigJSON() ([]byte, error) {
	switch {
	case m.generationConfig != nil && m.sharesTemplate:
		return m.sharedGeneration()
	case m.generationConfig != nil:
		return m.generationConfig, nil
	}
	c := map[string]any{}
	if m.BOS >= 0 {
		c["bos_token_id"] = m.BOS
	}
	if m.PAD >= 0 {
		c["pad_token_id"] = m.PAD
	}
	if len(m.EOS) > 0 {
		c["eos_token_id"] = m.EOS
	}
	return marshal(c)
}

// marshal indents, sorts keys and leaves <, > and & alone: tokens look so.
func marshal(v any) ([]byte, error) {
	b := &bytes.Buffer{}
	e := json.NewEncoder(b)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	err := e.Encode(v)
	return b.Bytes(), err
}
