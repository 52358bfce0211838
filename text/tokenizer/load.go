package tokenizer

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"

	"golang.org/x/text/unicode/norm"
)

// file is a tokenizer.json.
type file struct {
	AddedTokens   []AddedToken    `json:"added_tokens"`
	Normalizer    *component      `json:"normalizer"`
	PreTokenizer  *component      `json:"pre_tokenizer"`
	PostProcessor *component      `json:"post_processor"`
	Decoder       *component      `json:"decoder"`
	Model         json.RawMessage `json:"model"`
}

// component is any normalizer, pre-tokenizer, post-processor or decoder: the
// union of the fields of those that are known.
type component struct {
	Type             string       `json:"type"`
	Normalizers      []*component `json:"normalizers"`
	PreTokenizers    []*component `json:"pretokenizers"`
	Processors       []*component `json:"processors"`
	Decoders         []*component `json:"decoders"`
	Pattern          *pattern     `json:"pattern"`
	Behavior         string       `json:"behavior"`
	Invert           bool         `json:"invert"`
	AddPrefixSpace   *bool        `json:"add_prefix_space"`
	UseRegex         *bool        `json:"use_regex"`
	IndividualDigits bool         `json:"individual_digits"`
	Prepend          string       `json:"prepend"`
	Content          string       `json:"content"`
	Replacement      string       `json:"replacement"`
	PrependScheme    string       `json:"prepend_scheme"`
	Split            *bool        `json:"split"`
	Start            int          `json:"start"`
	Stop             int          `json:"stop"`
	Single           []templateItem
	SpecialTokens    map[string]struct {
		IDs []int32 `json:"ids"`
	} `json:"special_tokens"`
}

type pattern struct{ Regex, String *string }

type templateItem struct {
	SpecialToken *struct{ ID string }
	Sequence     *struct{ ID string }
}

type modelFile struct {
	Type         string           `json:"type"`
	Vocab        map[string]int32 `json:"vocab"`
	Merges       merges           `json:"merges"`
	Unk          *string          `json:"unk_token"`
	Prefix       string           `json:"continuing_subword_prefix"`
	Suffix       string           `json:"end_of_word_suffix"`
	FuseUnk      bool             `json:"fuse_unk"`
	ByteFallback bool             `json:"byte_fallback"`
	IgnoreMerges bool             `json:"ignore_merges"`
}

// merges accepts both forms: ["a b", ...] and [["a", "b"], ...].
type merges [][2]string

func (m *merges) UnmarshalJSON(b []byte) error {
	var old []string
	if json.Unmarshal(b, &old) == nil {
		return m.parse(old)
	}
	var pairs [][]string
	if err := json.Unmarshal(b, &pairs); err != nil {
		return fmt.Errorf("merges are neither \"a b\" nor [\"a\", \"b\"]")
	}
	*m = make(merges, len(pairs))
	for i, p := range pairs {
		if len(p) != 2 {
			return fmt.Errorf("merge %d has %d parts, not 2", i, len(p))
		}
		(*m)[i] = [2]string(p)
	}
	return nil
}

func (m *merges) parse(lines []string) error {
	*m = make(merges, 0, len(lines))
	for i, s := range lines {
		if i == 0 && strings.HasPrefix(s, "#version") {
			continue
		}
		l, r, ok := strings.Cut(s, " ")
		if !ok || l == "" || r == "" || strings.Contains(r, " ") {
			return fmt.Errorf("merge %d, %q, is not two parts with a space between", i, s)
		}
		*m = append(*m, [2]string{l, r})
	}
	return nil
}

// Load reads a tokenizer.json with a BPE model. Truncation and padding
// settings in it are ignored. An error names the part that is wrong or not
// supported.
func Load(tokenizerJSON []byte) (*Tokenizer, error) {
	var f file
	if err := json.Unmarshal(bytes.TrimPrefix(tokenizerJSON, []byte("\xEF\xBB\xBF")), &f); err != nil {
		return nil, fmt.Errorf("tokenizer.json: %w", err)
	}
	t, err := f.build()
	if err != nil {
		return nil, fmt.Errorf("tokenizer.json: %w", err)
	}
	return t, nil
}

func (f *file) build() (*Tokenizer, error) {
	var kind struct{ Type string }
	if err := json.Unmarshal(f.Model, &kind); err != nil {
		return nil, fmt.Errorf("model: %w", err)
	}
	if kind.Type != "BPE" && kind.Type != "" {
		return nil, fmt.Errorf("model type %q is not supported; only BPE is", kind.Type)
	}
	var m modelFile
	if err := json.Unmarshal(f.Model, &m); err != nil {
		return nil, fmt.Errorf("model: %w", err)
	}
	if m.Prefix != "" || m.Suffix != "" {
		return nil, fmt.Errorf("model: continuing_subword_prefix and end_of_word_suffix are not supported")
	}
	b := &builder{model: m, added: f.AddedTokens, growth: 1}
	for _, step := range []struct {
		name string
		c    *component
		read func(*component) error
	}{
		{"normalizer", f.Normalizer, b.readNormalizer},
		{"pre_tokenizer", f.PreTokenizer, b.readPreTokenizer},
		{"decoder", f.Decoder, b.readDecoder},
	} {
		if step.c == nil {
			continue
		}
		if err := step.read(step.c); err != nil {
			return nil, fmt.Errorf("%s: %w", step.name, err)
		}
	}
	if f.Decoder == nil {
		b.decoder.joiner = " "
	}
	t, err := b.build()
	if err != nil {
		return nil, err
	}
	if f.PostProcessor != nil {
		if err := t.readPostProcessor(f.PostProcessor); err != nil {
			return nil, fmt.Errorf("post_processor: %w", err)
		}
	}
	return t, nil
}

// Limits on what a text goes through before BPE. Each step may make the text
// longer, and together they multiply: a small file could ask for any amount.
const (
	maxSteps  = 64  // normalizers and pre-tokenizers, sequences among them
	maxGrowth = 256 // times the length of the text
	maxInsert = 256 // bytes of a text that a step puts in
)

// step counts a normalizer or pre-tokenizer, and how much longer it can make a
// text.
func (b *builder) step(c *component) error {
	if b.steps++; b.steps > maxSteps {
		return fmt.Errorf("more than %d normalizers and pre-tokenizers are not supported", maxSteps)
	}
	for _, s := range []string{c.Prepend, c.Content, c.Replacement} {
		if len(s) > maxInsert {
			return fmt.Errorf("type %s puts in %d bytes at a time; at most %d are supported", c.Type, len(s), maxInsert)
		}
	}
	switch c.Type {
	case "Replace":
		if c.Pattern != nil && c.Pattern.String != nil && *c.Pattern.String != "" {
			b.growth *= max(1, float64(len(c.Content))/float64(len(*c.Pattern.String)))
		}
	case "Prepend":
		b.growth *= 1 + float64(len(c.Prepend)) // of a text of one byte
	case "Metaspace":
		b.growth *= 1 + float64(len(c.Replacement)) // instead of a space, and before each piece
	}
	if b.growth > maxGrowth {
		return fmt.Errorf("type %s: the steps so far can make a text %.0f times as long; at most %d times is supported", c.Type, b.growth, maxGrowth)
	}
	return nil
}

func (b *builder) readNormalizer(c *component) error {
	if err := b.step(c); err != nil {
		return err
	}
	forms := map[string]norm.Form{"NFC": norm.NFC, "NFD": norm.NFD, "NFKC": norm.NFKC, "NFKD": norm.NFKD}
	switch c.Type {
	case "Sequence":
		return each(c.Normalizers, b.readNormalizer)
	case "NFC", "NFD", "NFKC", "NFKD":
		b.normalizer = append(b.normalizer, unicodeForm(forms[c.Type]))
	case "Prepend":
		b.normalizer = append(b.normalizer, func(p piece) piece { return p.replace(c.Prepend, "", "") })
	case "Replace":
		if c.Pattern == nil || c.Pattern.String == nil {
			return fmt.Errorf("type Replace: only a String pattern is supported")
		}
		old := *c.Pattern.String
		b.normalizer = append(b.normalizer, func(p piece) piece { return p.replace("", old, c.Content) })
	default:
		return fmt.Errorf("type %q is not supported", c.Type)
	}
	return nil
}

func (b *builder) readPreTokenizer(c *component) error {
	if err := b.step(c); err != nil {
		return err
	}
	if b.byteLevel && c.Type != "Sequence" {
		return fmt.Errorf("type %s after ByteLevel is not supported", c.Type)
	}
	switch c.Type {
	case "Sequence":
		return each(c.PreTokenizers, b.readPreTokenizer)
	case "Split":
		if c.Pattern == nil || c.Pattern.Regex == nil {
			return fmt.Errorf("type Split: only a Regex pattern is supported")
		}
		if c.Behavior != "Isolated" || c.Invert {
			return fmt.Errorf("type Split: behavior %q with invert %v is not supported; only Isolated is", c.Behavior, c.Invert)
		}
		scan, err := patternScanner(*c.Pattern.Regex)
		if err != nil {
			return err
		}
		b.pre = append(b.pre, splitter{scan: scan})
	case "Digits":
		b.pre = append(b.pre, splitter{scan: func(t *classTable, s string, i int) int {
			return scanDigits(t, s, i, c.IndividualDigits)
		}})
	case "ByteLevel":
		s := splitter{}
		if c.AddPrefixSpace == nil || *c.AddPrefixSpace {
			s.prepare = prefixSpace
		}
		if c.UseRegex == nil || *c.UseRegex {
			s.scan = scanGPT2
		}
		b.pre = append(b.pre, s)
		b.byteLevel = true
	case "Metaspace":
		scheme := c.PrependScheme
		if scheme == "" {
			scheme = "always"
			if c.AddPrefixSpace != nil && !*c.AddPrefixSpace {
				scheme = "never"
			}
		}
		b.pre = append(b.pre, metaspace(c.Replacement, scheme, c.Split == nil || *c.Split))
	default:
		return fmt.Errorf("type %q is not supported", c.Type)
	}
	return nil
}

func (b *builder) readDecoder(c *component) error {
	d := &b.decoder
	switch c.Type {
	case "Sequence":
		return each(c.Decoders, b.readDecoder)
	case "ByteLevel":
		d.byteLevel = true
	case "ByteFallback":
		d.byteFallback = true
	case "Fuse": // text is always joined here
	case "Replace":
		if c.Pattern == nil || c.Pattern.String == nil || d.from != "" {
			return fmt.Errorf("type Replace: only one, with a String pattern, is supported")
		}
		d.from, d.to = *c.Pattern.String, c.Content
	case "Strip":
		if c.Stop != 0 || c.Start < 0 || c.Start > 64 || d.strip != "" {
			return fmt.Errorf("type Strip: only one, at the beginning, is supported")
		}
		d.strip, d.stripMost = c.Content, c.Start
	case "Metaspace":
		d.from, d.to = c.Replacement, " "
		if c.PrependScheme != "never" && (c.PrependScheme != "" || c.AddPrefixSpace == nil || *c.AddPrefixSpace) {
			d.strip, d.stripMost = " ", 1
		}
	default:
		return fmt.Errorf("type %q is not supported", c.Type)
	}
	return nil
}

func (t *Tokenizer) readPostProcessor(c *component) error {
	switch c.Type {
	case "Sequence":
		return each(c.Processors, t.readPostProcessor)
	case "ByteLevel": // trims offsets only
	case "TemplateProcessing":
		side := &t.prefix
		for _, item := range c.Single {
			switch {
			case item.Sequence != nil:
				side = &t.suffix
			case item.SpecialToken != nil:
				ids := c.SpecialTokens[item.SpecialToken.ID].IDs
				for _, id := range ids {
					if id < 0 || int(id) >= len(t.tokens) {
						return fmt.Errorf("special token %q has id %d outside the vocabulary", item.SpecialToken.ID, id)
					}
				}
				*side = append(*side, ids...)
			}
		}
	default:
		return fmt.Errorf("type %q is not supported", c.Type)
	}
	return nil
}

func each(list []*component, f func(*component) error) error {
	for _, c := range list {
		if c == nil {
			return fmt.Errorf("a null in a Sequence")
		}
		if err := f(c); err != nil {
			return err
		}
	}
	return nil
}
