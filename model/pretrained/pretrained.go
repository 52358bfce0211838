// Package pretrained opens a model as a whole: configuration, weights,
// tokenizer, chat template and special tokens, from a Hugging Face directory or
// a GGUF file.
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

	"pipe/model"
	"pipe/model/adapter"
	"pipe/model/bnb"
	"pipe/model/gguf"
	"pipe/model/safetensors"
	"pipe/text/chat"
	"pipe/text/tokenizer"
)

// maxFile is the most that is read of a JSON or template file.
const maxFile = 64 << 20

// A Model is a model on disk, ready to be loaded. Weights are valid until
// Close; the rest stays.
type Model struct {
	Config    model.Config
	Weights   model.Source
	Tokenizer *tokenizer.Tokenizer
	// Template is nil when the model has none: a base model.
	Template *chat.Template

	BOS, PAD int32 // -1: none
	// EOS are the ids that end a generated text: the model's, its
	// generation_config.json's and EndOfTurn, without duplicates.
	EOS []int32
	// EndOfTurn is the token that the chat template writes behind what the
	// assistant says; -1: none. A base model that a template is given to knows
	// of no such token: its configuration ends documents only.
	EndOfTurn int32
	// Special are the special tokens by the names that templates print them
	// by, such as "bos_token".
	Special map[string]string

	// TokenizerJSON and TemplateSource are what Tokenizer and Template were
	// made of, for writing the model again.
	TokenizerJSON  []byte
	TemplateSource string

	// Images is what a model that takes images has beside the text; nil: it takes none.
	Images *Images

	// As they were in the directory; nil when absent.
	tokenizerConfig, generationConfig, specialTokensMap []byte
	ownTemplateFile                                     bool // chat_template.jinja, or a replacement
	replaced                                            bool // by WithTemplate
	sharesTemplate                                      bool // see ShareTemplate
	close                                               func() error
}

// Images is the whole of a model that takes images. Only its text is used; the rest is kept to
// be written with it.
type Images struct {
	Config  []byte       // config.json
	Weights model.Source // all tensors, as they are stored
	// Files says how images become what the model reads, by name, such as
	// preprocessor_config.json.
	Files map[string][]byte
}

// imageFiles are the names of the files of Images.
var imageFiles = [...]string{"preprocessor_config.json", "processor_config.json"}

// An Option changes how Open reads a model.
type Option func(*options)

type options struct{ template, quantize string }

// WithTemplate makes the file at path the chat template, instead of the
// model's own; "" changes nothing.
func WithTemplate(path string) Option { return func(o *options) { o.template = path } }

// WithQuantization quantises the linear layers as "nf4" says: see
// [bnb.Quantize]. "" changes nothing.
func WithQuantization(how string) Option { return func(o *options) { o.quantize = how } }

// Open opens the model at path: a directory with config.json, tokenizer.json
// and safetensors weights, or a .gguf file. The caller closes it.
func Open(path string, opts ...Option) (*Model, error) {
	var o options
	for _, opt := range opts {
		opt(&o)
	}
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	m := &Model{close: func() error { return nil }}
	origin := path
	if info.IsDir() {
		origin, err = m.openDir(path)
	} else {
		err = m.openGGUF(path)
	}
	if err == nil && o.template != "" {
		origin = o.template
		var b []byte
		if b, err = read(o.template); err == nil {
			m.TemplateSource, m.ownTemplateFile, m.replaced = string(b), true, true
		}
	}
	if err == nil {
		err = m.finish(path, origin)
	}
	if err == nil && o.quantize != "" {
		m.Weights, err = quantize(m.Weights, o.quantize)
	}
	if err != nil {
		m.close()
		return nil, err
	}
	return m, nil
}

// Close releases the weights.
func (m *Model) Close() error { return m.close() }

// quantize refuses quantisations that it does not know.
func quantize(src model.Source, how string) (model.Source, error) {
	if how != "nf4" {
		return nil, fmt.Errorf("quantisation to %q is not supported; to \"nf4\" is", how)
	}
	return bnb.Quantize(src)
}

// finish parses the template, which came from the file origin, and checks that
// the parts fit together.
func (m *Model) finish(path, origin string) (err error) {
	if n := m.Tokenizer.VocabSize(); n > m.Config.VocabSize {
		return fmt.Errorf("%s: the tokenizer has ids up to %d; the embedding has %d rows: %.80q has none; remove such tokens from added_tokens in tokenizer.json, or give them rows with transformers' resize_token_embeddings",
			path, n-1, m.Config.VocabSize, m.Tokenizer.TokenString(int32(m.Config.VocabSize)))
	}
	if m.TemplateSource != "" {
		if m.Template, err = chat.Parse(m.TemplateSource); err != nil {
			return fmt.Errorf("chat template of %s: %w", origin, err)
		}
	}
	if m.Special == nil { // no tokenizer_config.json
		m.Special = map[string]string{}
		for name, ids := range map[string][]int32{"bos_token": {m.BOS}, "pad_token": {m.PAD}, "eos_token": m.Config.EOS} {
			if len(ids) > 0 && m.Tokenizer.TokenString(ids[0]) != "" {
				m.Special[name] = m.Tokenizer.TokenString(ids[0])
			}
		}
	}
	if m.EndOfTurn = m.endOfTurn(); m.EndOfTurn >= 0 {
		m.EOS = append(m.EOS, m.EndOfTurn)
	}
	m.EOS = append(m.EOS, m.Config.EOS...)
	slices.Sort(m.EOS)
	m.EOS = slices.Compact(m.EOS)
	for _, id := range append([]int32{m.BOS, m.PAD}, m.EOS...) {
		if int(id) >= m.Config.VocabSize {
			return fmt.Errorf("%s: special token id %d is beyond the vocabulary of %d", path, id, m.Config.VocabSize)
		}
	}
	return nil
}

func (m *Model) openGGUF(path string) error {
	f, err := gguf.Open(path)
	if err != nil {
		return err
	}
	m.close = f.Close
	m.Weights, m.Config = f, f.Config()
	m.BOS, m.PAD = m.Config.BOS, m.Config.PAD
	if m.TokenizerJSON, err = f.TokenizerJSON(); err != nil {
		return err
	}
	if m.Tokenizer, err = tokenizer.Load(m.TokenizerJSON); err != nil {
		return fmt.Errorf("tokenizer of %s: %w", path, err)
	}
	m.TemplateSource, err = f.ChatTemplate()
	return err
}

// openDir returns the file that the template came from.
func (m *Model) openDir(dir string) (origin string, err error) {
	config, err := read(filepath.Join(dir, "config.json"))
	if errors.Is(err, fs.ErrNotExist) {
		return "", noConfig(dir)
	} else if err != nil {
		return "", err
	}
	if m.Config, err = model.ParseConfig(config); err != nil {
		return "", fmt.Errorf("%s: %w", dir, err)
	}
	tokens := filepath.Join(dir, "tokenizer.json")
	m.TokenizerJSON, err = read(tokens)
	if errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("%s has no tokenizer.json; save the tokenizer with transformers' save_pretrained to get one", dir)
	} else if err != nil {
		return "", err
	}
	if m.Tokenizer, err = tokenizer.Load(m.TokenizerJSON); err != nil {
		return "", fmt.Errorf("%s: %w", tokens, err)
	}
	m.BOS, m.PAD = m.Config.BOS, m.Config.PAD
	m.specialTokensMap, err = read(filepath.Join(dir, "special_tokens_map.json"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	if origin, err = m.readTokenizerConfig(dir); err != nil {
		return "", err
	}
	if err := m.readGeneration(filepath.Join(dir, "generation_config.json")); err != nil {
		return "", err
	}
	f, err := safetensors.OpenDir(dir)
	if errors.Is(err, safetensors.ErrNoWeights) {
		m.Weights, m.close = untrained{err}, func() error { return nil }
		return origin, nil
	}
	if err != nil {
		return "", err
	}
	stored := bnb.Open(f)
	m.Weights, m.close = m.Config.FromStored(stored), f.Close
	if m.Config.Llama4 != nil && m.Config.Llama4.Images {
		m.Images = &Images{Config: config, Weights: stored, Files: map[string][]byte{}}
		for _, name := range imageFiles {
			data, err := read(filepath.Join(dir, name))
			switch {
			case err == nil:
				m.Images.Files[name] = data
			case !errors.Is(err, fs.ErrNotExist):
				f.Close()
				return "", err
			}
		}
	}
	return origin, nil
}

// noConfig says what a directory without config.json is.
func noConfig(dir string) error {
	if err := adapter.NoModel(dir); err != nil {
		return err
	}
	return fmt.Errorf("%s has no config.json; a model directory is a Hugging Face checkpoint", dir)
}

// untrained is the Source of a directory with a configuration and a tokenizer
// but no weights: what needs only those works, and reading a weight fails.
type untrained struct{ err error }

func (u untrained) Names() []string { return nil }

func (u untrained) Weight(string) (model.Weight, error) {
	return model.Weight{}, fmt.Errorf("%w; an sft with init = \"random\" can make them", u.err)
}

// readGeneration adds the ids that end a text. The file may be absent.
func (m *Model) readGeneration(path string) error {
	data, err := read(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	} else if err != nil {
		return err
	}
	m.generationConfig = data
	var g struct {
		EOS json.RawMessage `json:"eos_token_id"`
		PAD *int32          `json:"pad_token_id"`
	}
	if err := json.Unmarshal(data, &g); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	if g.PAD != nil && m.PAD < 0 {
		m.PAD = *g.PAD
	}
	ids, err := endIDs(g.EOS)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	m.EOS = append(m.EOS, ids...)
	return nil
}

// endIDs reads eos_token_id of a generation_config.json: an id, a list, or null.
func endIDs(raw []byte) (ids []int32, err error) {
	raw = bytes.TrimSpace(raw)
	if len(raw) == 0 || string(raw) == "null" {
		return nil, nil
	}
	if raw[0] != '[' {
		raw = slices.Concat([]byte("["), raw, []byte("]"))
	}
	if err := json.Unmarshal(raw, &ids); err != nil {
		return nil, fmt.Errorf("eos_token_id: %w", err)
	}
	for _, id := range ids {
		if id < 0 {
			return nil, fmt.Errorf("eos_token_id %d is negative", id)
		}
	}
	return ids, nil
}

// A tokenizerConfig is what is read of tokenizer_config.json.
type tokenizerConfig struct {
	Template json.RawMessage `json:"chat_template"`
	Added    json.RawMessage `json:"added_tokens_decoder"`
	specialTokens
}

// specialTokens are those that have names, of tokenizer_config.json or
// special_tokens_map.json.
type specialTokens struct {
	BOS json.RawMessage `json:"bos_token"`
	EOS json.RawMessage `json:"eos_token"`
	PAD json.RawMessage `json:"pad_token"`
	UNK json.RawMessage `json:"unk_token"`
}

// readTokenizerConfig finds the chat template, which chat_template.jinja or
// tokenizer_config.json may hold, and the special tokens by name: what the
// tokenizer says wins over config.json.
func (m *Model) readTokenizerConfig(dir string) (origin string, err error) {
	origin = filepath.Join(dir, "tokenizer_config.json")
	data, err := read(origin)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	var c tokenizerConfig
	if err == nil {
		m.tokenizerConfig = data
		if err := json.Unmarshal(data, &c); err != nil {
			return "", fmt.Errorf("%s: %w", origin, err)
		}
		if m.TemplateSource, err = template(c.Template); err != nil {
			return "", fmt.Errorf("%s: chat_template: %w", origin, err)
		}
	}
	if c.Added == nil && m.specialTokensMap != nil { // of before transformers 4.34: it wins over the other
		if err := json.Unmarshal(m.specialTokensMap, &c.specialTokens); err != nil { // of what it has
			return "", fmt.Errorf("%s: %w", filepath.Join(dir, "special_tokens_map.json"), err)
		}
	}
	if m.tokenizerConfig != nil || m.specialTokensMap != nil {
		if err := m.namedTokens(&c.specialTokens); err != nil {
			return "", fmt.Errorf("special tokens of %s: %w", dir, err)
		}
	}
	jinja := filepath.Join(dir, "chat_template.jinja")
	data, err = read(jinja)
	switch {
	case err == nil:
		m.TemplateSource, m.ownTemplateFile, origin = string(data), true, jinja
	case !errors.Is(err, fs.ErrNotExist):
		return "", err
	}
	return origin, nil
}

// template takes a string, or from a list of named templates the default one.
func template(raw json.RawMessage) (string, error) {
	raw = bytes.TrimSpace(raw)
	if len(raw) == 0 || string(raw) == "null" {
		return "", nil
	}
	if raw[0] != '[' {
		var s string
		err := json.Unmarshal(raw, &s)
		return s, err
	}
	var list []struct{ Name, Template string }
	if err := json.Unmarshal(raw, &list); err != nil {
		return "", err
	}
	var names []string
	for _, t := range list {
		if t.Name == "default" {
			return t.Template, nil
		}
		names = append(names, t.Name)
	}
	return "", fmt.Errorf("the list has no template named \"default\"; it has %q", names)
}

// namedTokens takes the special tokens that the files name. A name that the
// tokenizer does not know has no id: config.json's counts.
func (m *Model) namedTokens(c *specialTokens) error {
	m.Special = map[string]string{}
	id := func(key string, raw json.RawMessage) (int32, error) {
		raw = bytes.TrimSpace(raw)
		var o struct{ Content string }
		var err error
		switch {
		case len(raw) == 0 || string(raw) == "null":
			return -1, nil
		case raw[0] == '{':
			err = json.Unmarshal(raw, &o)
		default:
			err = json.Unmarshal(raw, &o.Content)
		}
		if err != nil {
			return -1, fmt.Errorf("%s: %w", key, err)
		}
		m.Special[key] = o.Content
		if v, ok := m.Tokenizer.TokenID(o.Content); ok {
			return v, nil
		}
		return -1, nil
	}
	bos, err1 := id("bos_token", c.BOS)
	pad, err2 := id("pad_token", c.PAD)
	eos, err3 := id("eos_token", c.EOS)
	_, err4 := id("unk_token", c.UNK)
	if bos >= 0 {
		m.BOS = bos
	}
	if pad >= 0 {
		m.PAD = pad
	}
	if eos >= 0 {
		m.EOS = append(m.EOS, eos)
	}
	return errors.Join(err1, err2, err3, err4)
}

// read reads a small file; a big one is refused before it is in memory.
func read(path string) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if info.Size() > maxFile || !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is not a regular file of at most %d bytes", path, maxFile)
	}
	return os.ReadFile(path)
}
