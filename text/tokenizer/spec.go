package tokenizer

import (
	"cmp"
	"fmt"
	"slices"
)

// A Spec is a tokenizer as the metadata of a GGUF file describes it (keys
// tokenizer.ggml.*).
type Spec struct {
	Model  string    // "gpt2" (byte-level BPE) or "llama" (SentencePiece BPE)
	Pre    string    // "smollm", "llama-bpe", "llama4", "qwen2", "gpt-2", ...; gpt2 only
	Tokens []string  // by id
	Types  []int32   // of each token; nil: all normal
	Merges []string  // "a b"; gpt2 only
	Scores []float32 // of each token; llama only

	BOS, EOS, UNK  int32 // ids; -1: none
	AddBOS, AddEOS bool
	NoSpacePrefix  bool // llama: do not put a space before the text (add_space_prefix false)
}

// Token types of GGUF.
const (
	typeNormal = 1 + iota
	typeUnknown
	typeControl
	typeUserDefined
	typeUnused
	typeByte
)

// spaceMark is what SentencePiece writes for a space, U+2581.
const spaceMark = "\u2581"

// FromSpec makes the tokenizer that a Spec describes.
func FromSpec(s Spec) (*Tokenizer, error) {
	if s.Types != nil && len(s.Types) != len(s.Tokens) {
		return nil, fmt.Errorf("tokenizer: %d token types for %d tokens", len(s.Types), len(s.Tokens))
	}
	b := &builder{model: modelFile{Type: "BPE", Vocab: make(map[string]int32, len(s.Tokens))}}
	for i, tok := range s.Tokens {
		kind := s.kind(i)
		if kind == typeUnused {
			tok = fmt.Sprintf("%s#%d", tok, i) // fillers may repeat
		}
		if _, twice := b.model.Vocab[tok]; twice {
			return nil, fmt.Errorf("tokenizer: token %q occurs twice", tok)
		}
		b.model.Vocab[tok] = int32(i)
		if kind == typeControl || kind == typeUserDefined || kind == typeUnknown && s.Model == "llama" {
			b.added = append(b.added, AddedToken{ID: int32(i), Content: tok, Special: kind != typeUserDefined})
		}
	}
	var err error
	switch s.Model {
	case "gpt2":
		err = b.gpt2(&s)
	case "llama":
		err = b.sentencePiece(&s)
	default:
		err = fmt.Errorf("model %q is not supported; gpt2 and llama are", s.Model)
	}
	if err != nil {
		return nil, fmt.Errorf("tokenizer: %w", err)
	}
	t, err := b.build()
	if err != nil {
		return nil, fmt.Errorf("tokenizer: %w", err)
	}
	return t, s.wrap(t)
}

func (s *Spec) kind(i int) int32 {
	if s.Types == nil {
		return typeNormal
	}
	return s.Types[i]
}

func (s *Spec) wrap(t *Tokenizer) error {
	for _, w := range []struct {
		on   bool
		id   int32
		side *[]int32
		name string
	}{
		// llama.cpp adds the beginning-of-text token for llama-bpe whatever the file says.
		{s.AddBOS || s.Model == "gpt2" && s.Pre == "llama-bpe" && s.BOS >= 0, s.BOS, &t.prefix, "bos"},
		{s.AddEOS, s.EOS, &t.suffix, "eos"},
	} {
		if !w.on {
			continue
		}
		if w.id < 0 || int(w.id) >= len(t.tokens) {
			return fmt.Errorf("tokenizer: %s token id %d is outside the vocabulary of %d", w.name, w.id, len(t.tokens))
		}
		*w.side = []int32{w.id}
	}
	return nil
}

// gpt2 sets up byte-level BPE with the pre-tokenizer that Pre names.
func (b *builder) gpt2(s *Spec) error {
	if err := b.model.Merges.parse(s.Merges); err != nil {
		return err
	}
	patterns := map[string][]string{
		"smollm": {patternNumber, patternGPT2}, "gpt-2": {patternGPT2}, "": {patternGPT2},
		"llama-bpe": {patternLlama3}, "llama3": {patternLlama3}, "llama-v3": {patternLlama3},
		"llama4": {patternO200k}, "gpt-4o": {patternO200k}, "qwen2": {patternQwen2}, "tekken": {patternTekken},
	}
	list, ok := patterns[s.Pre]
	if !ok {
		return fmt.Errorf("pre-tokenizer %q is not known", s.Pre)
	}
	for _, p := range list {
		scan, err := patternScanner(p)
		if err != nil {
			return err
		}
		b.pre = append(b.pre, splitter{scan: scan})
	}
	b.model.IgnoreMerges = slices.Contains([]string{"llama-bpe", "llama3", "llama-v3", "llama4", "gpt-4o", "tekken"}, s.Pre)
	b.byteLevel = true
	b.decoder.byteLevel = true
	return nil
}

// sentencePiece sets up the BPE of SentencePiece, whose merges follow from the
// scores: of all neighbours that make a token, those with the best score first.
func (b *builder) sentencePiece(s *Spec) error {
	if len(s.Scores) != len(s.Tokens) {
		return fmt.Errorf("%d scores for %d tokens", len(s.Scores), len(s.Tokens))
	}
	order := make([]int32, 0, len(s.Tokens))
	for i := range s.Tokens {
		if k := s.kind(i); k == typeNormal || k == typeUserDefined {
			order = append(order, int32(i))
		}
	}
	slices.SortStableFunc(order, func(x, y int32) int { return cmp.Compare(s.Scores[y], s.Scores[x]) })
	for rank, id := range order {
		tok := s.Tokens[id]
		if len(tok) > 1024 {
			return fmt.Errorf("token %d has %d bytes; that is not a token", id, len(tok))
		}
		for i := range tok {
			_, okL := b.model.Vocab[tok[:i]]
			_, okR := b.model.Vocab[tok[i:]]
			if i > 0 && okL && okR {
				b.model.Merges = append(b.model.Merges, [2]string{tok[:i], tok[i:]})
				b.ranks = append(b.ranks, int32(rank))
			}
		}
	}
	b.model.ByteFallback = true
	b.model.FuseUnk = true
	if s.UNK >= 0 && int(s.UNK) < len(s.Tokens) {
		b.model.Unk = &s.Tokens[s.UNK]
	}
	b.normalizer = normalizer{func(p piece) piece {
		if !s.NoSpacePrefix {
			p = p.replace(spaceMark, "", "")
		}
		return p.replace("", " ", spaceMark)
	}}
	b.decoder = decoder{byteFallback: true, from: spaceMark, to: " "}
	if !s.NoSpacePrefix {
		b.decoder.strip, b.decoder.stripMost = " ", 1
	}
	return nil
}
