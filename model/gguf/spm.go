package gguf

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"pipe/text/tokenizer"
)

// space is what SentencePiece writes for a space.
const space = "\u2581"

// sentencePieceKVs gives every token a score by the first merge that makes it,
// so that llama.cpp, which joins by score, joins in the same order.
func (t *sourceTokenizer) sentencePieceKVs(m *Checkpoint, tokens []string, kinds []int32) ([]KV, error) {
	rank := make(map[string]int, len(t.Model.Merges))
	for i, m := range t.Model.Merges {
		if _, ok := rank[m[0]+m[1]]; !ok {
			rank[m[0]+m[1]] = i
		}
	}
	if err := t.joins(tokens, kinds); err != nil {
		return nil, err
	}
	scores := make([]float32, len(tokens))
	for id, token := range tokens {
		if kinds[id] != tokenNormal {
			continue
		}
		r, ok := rank[token]
		if !ok {
			r = len(t.Model.Merges) // single characters
		}
		scores[id] = -float32(r)
	}
	spaced, err := t.spaced(m)
	return []KV{
		{"tokenizer.ggml.model", "llama"}, {"tokenizer.ggml.pre", "default"},
		{"tokenizer.ggml.add_space_prefix", spaced}, {"tokenizer.ggml.scores", scores},
	}, err
}

// joins refuses a vocabulary in which two tokens that lie side by side and make
// another one are not a merge: llama.cpp, which knows no merges, joins them. In what
// SentencePiece made all such pairs are merges.
func (t *sourceTokenizer) joins(tokens []string, kinds []int32) error {
	merges := make(map[mergeJSON]bool, len(t.Model.Merges))
	for _, m := range t.Model.Merges {
		merges[m] = true
	}
	normal := make(map[string]bool, len(tokens))
	for id, token := range tokens {
		normal[token] = kinds[id] == tokenNormal
	}
	for id, token := range tokens {
		if kinds[id] != tokenNormal || len(token) > maxJoined {
			continue
		}
		for i := range token {
			if normal[token[:i]] && normal[token[i:]] && !merges[mergeJSON{token[:i], token[i:]}] {
				return fmt.Errorf("%.80q and %.80q make the token %.80q and are not among the merges, as in a BPE that SentencePiece did not train: llama.cpp would join them", token[:i], token[i:], token)
			}
		}
	}
	return nil
}

// spaced says whether llama.cpp is to put a space before a text, and before every
// text behind a special token.
func (t *sourceTokenizer) spaced(m *Checkpoint) (bool, error) {
	prepends := false
	err := flat(t.Normalizer, func(p *spacePart) error {
		switch {
		case p.Type == "Prepend" && p.Prepend == space:
			prepends = true
		case p.Type != "Replace" || p.Pattern.String != " " || p.Content != space:
			return fmt.Errorf("llama.cpp has no normaliser of type %s for SentencePiece", p.Type)
		}
		return nil
	})
	scheme := "never"
	err = errors.Join(err, flat(t.PreTokenizer, func(p *spacePart) error {
		switch {
		case p.Type != "Metaspace" || p.Replacement != space:
			return fmt.Errorf("llama.cpp has no pre-tokenizer of type %s for SentencePiece", p.Type)
		case p.Split == nil || *p.Split:
			return errors.New("the pre-tokenizer cuts words apart, which llama.cpp joins")
		}
		if scheme = p.Scheme; scheme == "" && p.Prefix != nil && !*p.Prefix {
			scheme = "never"
		}
		return nil
	}))
	if err != nil || prepends || scheme == "never" {
		return prepends, err
	}
	// Metaspace puts none before a space that is there, and with "first" none behind
	// special tokens, which llama.cpp cannot say: what is right for the sample counts.
	sample := cmp.Or(m.Sample, "a")
	ours, err := tokenizer.Load(m.TokenizerJSON)
	if err != nil {
		return false, err
	}
	plain, err := unspaced(m.TokenizerJSON)
	if err != nil {
		return false, err
	}
	return !slices.Equal(plain.Encode(sample), ours.Encode(sample)), nil
}

// unspaced returns the tokenizer with no space before any text.
func unspaced(tokenizerJSON []byte) (*tokenizer.Tokenizer, error) {
	var file map[string]json.RawMessage
	if err := json.Unmarshal(tokenizerJSON, &file); err != nil {
		return nil, err
	}
	marks, err := marshal(marksSpaces())
	if err != nil {
		return nil, err
	}
	file["normalizer"], file["pre_tokenizer"] = marks, json.RawMessage("null")
	data, err := json.Marshal(file)
	if err != nil {
		return nil, err
	}
	return tokenizer.Load(data)
}

// marksSpaces is the normalizer that writes spaces as SentencePiece does.
func marksSpaces() object {
	return object{"type": "Replace", "pattern": object{"String": " "}, "content": space}
}

// flat calls f for the steps of a normalizer or pre-tokenizer, which may be a Sequence
// of others.
func flat(raw json.RawMessage, f func(*spacePart) error) error {
	var p spacePart
	if len(raw) == 0 || string(raw) == "null" {
		return nil
	}
	if err := json.Unmarshal(raw, &p); err != nil {
		return err
	}
	if p.Type != "Sequence" {
		return f(&p)
	}
	for _, part := range append(p.Normalizers, p.PreTokenizers...) {
		if err := flat(part, f); err != nil {
			return err
		}
	}
	return nil
}

// A spacePart is a step of a normalizer or pre-tokenizer that has to do with spaces.
type spacePart struct {
	Type          string
	Normalizers   []json.RawMessage
	PreTokenizers []json.RawMessage
	Prepend       string
	Content       string
	Pattern       struct{ String string }
	Replacement   string
	Scheme        string `json:"prepend_scheme"`
	Prefix        *bool  `json:"add_prefix_space"`
	Split         *bool
}
