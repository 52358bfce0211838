package embed

import (
	"encoding/json"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/unicode/norm"
)

// A wordPiece is BERT's tokenizer (Devlin et al. 2019): words and single marks
// of punctuation, each cut into the longest pieces of the vocabulary from the
// left. Words without such pieces are left out: they say nothing.
type wordPiece struct {
	vocab     map[string]int32
	size      int // one more than the largest id
	prefix    string
	longest   int // characters of a word that is looked up
	lower     bool
	accents   bool // strip them
	clean     bool // drop control characters
	ideograms bool // each one a word
}

func newWordPiece(data []byte) (*wordPiece, error) {
	var f struct {
		Model struct {
			Vocab  map[string]int32 `json:"vocab"`
			Prefix *string          `json:"continuing_subword_prefix"`
			Max    *int             `json:"max_input_chars_per_word"`
		} `json:"model"`
		Normalizer *struct {
			Type      string `json:"type"`
			Lowercase bool   `json:"lowercase"`
			Accents   *bool  `json:"strip_accents"`
			Clean     bool   `json:"clean_text"`
			Chinese   bool   `json:"handle_chinese_chars"`
		} `json:"normalizer"`
		Pre *struct {
			Type string `json:"type"`
		} `json:"pre_tokenizer"`
	}
	if err := json.Unmarshal(data, &f); err != nil {
		return nil, err
	}
	if f.Pre == nil || f.Pre.Type != "BertPreTokenizer" || f.Normalizer == nil || f.Normalizer.Type != "BertNormalizer" {
		return nil, fmt.Errorf("a WordPiece tokenizer must have a BertNormalizer and a BertPreTokenizer")
	}
	w := &wordPiece{vocab: f.Model.Vocab, prefix: "##", longest: 100, lower: f.Normalizer.Lowercase, accents: f.Normalizer.Lowercase,
		clean: f.Normalizer.Clean, ideograms: f.Normalizer.Chinese}
	if f.Normalizer.Accents != nil {
		w.accents = *f.Normalizer.Accents
	}
	if f.Model.Prefix != nil {
		w.prefix = *f.Model.Prefix
	}
	if f.Model.Max != nil {
		w.longest = *f.Model.Max
	}
	for token, id := range w.vocab {
		if id < 0 {
			return nil, fmt.Errorf("token %q has the id %d", token, id)
		}
		w.size = max(w.size, int(id)+1)
	}
	return w, nil
}

// encode returns the ids of text; unknown words have none.
func (w *wordPiece) encode(text string) []int32 {
	var ids []int32
	for _, word := range words(w.normalize(text)) {
		ids = w.word(ids, word)
	}
	return ids
}

func (w *wordPiece) normalize(s string) string {
	var b strings.Builder
	for _, c := range s {
		switch {
		case w.clean && (c == 0 || c == utf8.RuneError || control(c)):
		case w.clean && unicode.IsSpace(c):
			b.WriteByte(' ')
		case w.ideograms && ideogram(c):
			b.WriteByte(' ')
			b.WriteRune(c)
			b.WriteByte(' ')
		default:
			b.WriteRune(c)
		}
	}
	s = b.String()
	if w.accents {
		s = strings.Map(func(c rune) rune {
			if unicode.Is(unicode.Mn, c) {
				return -1
			}
			return c
		}, norm.NFD.String(s))
	}
	if w.lower {
		s = strings.ToLower(s)
	}
	return s
}

// control reports whether c is what BERT drops: all of category C but the
// usual white space.
func control(c rune) bool {
	if c == '\t' || c == '\n' || c == '\r' {
		return false
	}
	return unicode.Is(unicode.C, c)
}

func ideogram(c rune) bool {
	return c >= 0x4E00 && c <= 0x9FFF || c >= 0x3400 && c <= 0x4DBF || c >= 0x20000 && c <= 0x2A6DF || c >= 0x2A700 && c <= 0x2B73F ||
		c >= 0x2B740 && c <= 0x2B81F || c >= 0x2B920 && c <= 0x2CEAF || c >= 0xF900 && c <= 0xFAFF || c >= 0x2F800 && c <= 0x2FA1F
}

// words cuts at white space and around punctuation.
func words(s string) []string {
	var out []string
	start := -1
	flush := func(end int) {
		if start >= 0 {
			out = append(out, s[start:end])
			start = -1
		}
	}
	for i, c := range s {
		switch {
		case unicode.IsSpace(c):
			flush(i)
		case unicode.IsPunct(c) || c < 0x80 && unicode.IsSymbol(c):
			flush(i)
			out = append(out, s[i:i+utf8.RuneLen(c)])
		case start < 0:
			start = i
		}
	}
	flush(len(s))
	return out
}

// word appends the pieces of one word; none when some part of it is unknown.
func (w *wordPiece) word(ids []int32, word string) []int32 {
	if utf8.RuneCountInString(word) > w.longest {
		return ids
	}
	n := len(ids)
	for start := 0; start < len(word); {
		end := len(word)
		for end > start {
			piece := word[start:end]
			if start > 0 {
				piece = w.prefix + piece
			}
			if id, ok := w.vocab[piece]; ok {
				ids = append(ids, id)
				break
			}
			_, size := utf8.DecodeLastRuneInString(word[start:end])
			end -= size
		}
		if end == start {
			return ids[:n]
		}
		start = end
	}
	return ids
}
