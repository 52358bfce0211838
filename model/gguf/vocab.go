package gguf

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// A sourceTokenizer is what is read of a tokenizer.json.
type sourceTokenizer struct {
	AddedTokens  []hfAdded       `json:"added_tokens"`
	PreTokenizer json.RawMessage `json:"pre_tokenizer"`
	Normalizer   json.RawMessage `json:"normalizer"`
	Post         json.RawMessage `json:"post_processor"`
	Model        struct {
		Type         string
		Unk          *string `json:"unk_token"`
		ByteFallback bool    `json:"byte_fallback"`
		IgnoreMerges bool    `json:"ignore_merges"`
		Vocab        map[string]int
		Merges       []mergeJSON
	}
}

// A mergeJSON is a pair of tokens: "a b" or ["a", "b"].
type mergeJSON [2]string

// UnmarshalJSON implements json.Unmarshaler.
func (m *mergeJSON) UnmarshalJSON(b []byte) error {
	if len(b) > 0 && b[0] == '[' {
		var pair []string
		if err := json.Unmarshal(b, &pair); err != nil || len(pair) != 2 {
			return fmt.Errorf("merge %.80s is not a pair", b)
		}
		*m = mergeJSON(pair)
		return nil
	}
	var s string
	if err := json.Unmarshal(b, &s); err != nil {
		return err
	}
	left, right, ok := strings.Cut(s, " ")
	if !ok {
		return fmt.Errorf("merge %q is not a pair", s)
	}
	*m = mergeJSON{left, right}
	return nil
}

// vocabularyKVs turns a tokenizer.json into metadata.
func vocabularyKVs(m *Checkpoint) ([]KV, error) {
	var t sourceTokenizer
	if err := json.Unmarshal(m.TokenizerJSON, &t); err != nil {
		return nil, fmt.Errorf("tokenizer.json: %w", err)
	}
	if t.Model.Type != "BPE" && t.Model.Type != "" {
		return nil, fmt.Errorf("model type %q cannot be stored; \"BPE\" can", t.Model.Type)
	}
	tokens, kinds, err := t.table(m.Config.VocabSize)
	if err != nil {
		return nil, err
	}
	var kvs []KV
	if t.Model.ByteFallback {
		kvs, err = t.sentencePieceKVs(m, tokens, kinds)
	} else {
		kvs, err = t.byteLevelKVs()
	}
	if err != nil {
		return nil, err
	}
	kvs = append(kvs, KV{"tokenizer.ggml.tokens", tokens}, KV{"tokenizer.ggml.token_type", kinds})
	id := func(name string, v int32) {
		if v >= 0 {
			kvs = append(kvs, KV{"tokenizer.ggml." + name + "_token_id", uint32(v)})
		}
	}
	id("bos", m.Config.BOS)
	id("padding", m.Config.PAD)
	eos, eot, eom := m.ends(tokens)
	id("eos", eos)
	id("eot", eot)
	id("eom", eom)
	first, last := t.edges(m.Config.BOS, m.Config.EOS)
	kvs = append(kvs, KV{"tokenizer.ggml.add_bos_token", first}, KV{"tokenizer.ggml.add_eos_token", last})
	if m.ChatTemplate != "" {
		kvs = append(kvs, KV{"tokenizer.chat_template", m.ChatTemplate})
	}
	return kvs, nil
}

// ends returns the ids of the keys for tokens that end a text: a document, a turn
// and a message; -1 for none. There are no keys for more than these.
func (m *Checkpoint) ends(tokens []string) (eos, eot, eom int32) {
	eos, eot, eom = -1, -1, -1
	var others []int32
	first := min(1, len(m.Config.EOS))
	for i, id := range slices.Concat(m.Config.EOS[:first], m.EOS, m.Config.EOS[first:]) {
		switch {
		case i == 0:
			eos = id
		case id != eos && id < int32(len(tokens)):
			others = append(others, id)
		}
	}
	for _, id := range others {
		switch {
		case tokens[id] == "<|eom_id|>":
			eom = id
		case eot < 0 || tokens[id] == "<|eot_id|>":
			eot = id
		}
	}
	return eos, eot, eom
}

// table lists the tokens by id with their kinds; gaps are filled.
func (t *sourceTokenizer) table(size int) (tokens []string, kinds []int32, err error) {
	tokens, kinds = make([]string, size), make([]int32, size)
	set := func(id int, token string, kind int32) error {
		if id < 0 || id >= size {
			return fmt.Errorf("token %q has id %d; the embedding has %d rows", token, id, size)
		}
		if tokens[id] != "" && tokens[id] != token {
			return fmt.Errorf("tokens %q and %q both have id %d", tokens[id], token, id)
		}
		tokens[id], kinds[id] = token, kind
		return nil
	}
	for token, id := range t.Model.Vocab {
		kind := int32(tokenNormal)
		if t.Model.ByteFallback && len(token) == 6 && strings.HasPrefix(token, "<0x") && token[5] == '>' {
			kind = tokenByte
		}
		if err := set(id, token, kind); err != nil {
			return nil, nil, err
		}
	}
	for _, a := range t.AddedTokens {
		kind := int32(tokenUser)
		if a.Special {
			kind = tokenControl
		}
		if t.Model.Unk != nil && a.Content == *t.Model.Unk && t.Model.ByteFallback {
			kind = tokenUnknown
		}
		if err := set(a.ID, a.Content, kind); err != nil {
			return nil, nil, err
		}
	}
	for id := range tokens {
		if kinds[id] == 0 {
			tokens[id], kinds[id] = fmt.Sprintf("[PAD%d]", id), tokenUnused
		}
	}
	return tokens, kinds, nil
}

func (t *sourceTokenizer) byteLevelKVs() ([]KV, error) {
	if n := bytes.TrimSpace(t.Normalizer); len(n) > 0 && !bytes.Equal(n, []byte("null")) && !bytes.Contains(n, []byte(`"NFC"`)) {
		return nil, errors.New("llama.cpp has no normaliser for byte-level BPE, and this tokenizer has one")
	}
	p, ok := preOf(t.PreTokenizer, t.Model.IgnoreMerges)
	if !ok {
		return nil, errors.New("the pre-tokenizer is not one that llama.cpp knows by name")
	}
	merges := make([]string, len(t.Model.Merges))
	for i, m := range t.Model.Merges {
		if strings.Contains(m[0]+m[1], " ") {
			return nil, fmt.Errorf("merge %q has a space in it", m)
		}
		merges[i] = m[0] + " " + m[1]
	}
	return []KV{
		{"tokenizer.ggml.model", "gpt2"}, {"tokenizer.ggml.pre", p.names[0]},
		{"tokenizer.ggml.add_space_prefix", false}, {"tokenizer.ggml.merges", merges},
	}, nil
}

// edges reports whether the post-processor puts the bos token before a text
// and an eos token behind it.
func (t *sourceTokenizer) edges(bos int32, eos []int32) (first, last bool) {
	type template struct {
		Type   string
		Single []struct {
			SpecialToken *struct{ ID string }
		}
		Special    map[string]struct{ IDs []int32 } `json:"special_tokens"`
		Processors []json.RawMessage
	}
	parts := []json.RawMessage{t.Post}
	for len(parts) > 0 {
		var p template
		raw := parts[0]
		parts = parts[1:]
		if len(raw) == 0 || json.Unmarshal(raw, &p) != nil {
			continue
		}
		parts = append(parts, p.Processors...)
		if p.Type != "TemplateProcessing" || len(p.Single) == 0 {
			continue
		}
		at := func(i int, id int32) bool {
			s := p.Single[i].SpecialToken
			return s != nil && len(p.Special[s.ID].IDs) == 1 && p.Special[s.ID].IDs[0] == id
		}
		first = first || bos >= 0 && at(0, bos)
		for _, id := range eos {
			last = last || at(len(p.Single)-1, id)
		}
	}
	return first, last
}
