package gguf

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"
)

// Kinds of tokens in tokenizer.ggml.token_type.
const (
	tokenNormal  = 1
	tokenUnknown = 2
	tokenControl = 3
	tokenUser    = 4
	tokenUnused  = 5
	tokenByte    = 6
)

// ChatTemplate returns the Jinja source of the chat template, "" if there is
// none.
func (f *File) ChatTemplate() (string, error) { return f.Text("tokenizer.chat_template") }

// A vocabulary is what the metadata says of the tokenizer.
type vocabulary struct {
	tokens []string
	kinds  []int64 // of each token
	merges []string
	scores []float32
}

// TokenizerJSON returns the file's tokenizer as a Hugging Face tokenizer.json:
// byte-level BPE ("gpt2") with a pre-tokenizer known by name, or the BPE that
// SentencePiece made ("llama").
func (f *File) TokenizerJSON() ([]byte, error) {
	kind, err := f.Text("tokenizer.ggml.model")
	if err != nil {
		return nil, err
	}
	var v vocabulary
	var errs [4]error
	v.tokens, errs[0] = f.Strings("tokenizer.ggml.tokens")
	v.kinds, errs[1] = f.Ints("tokenizer.ggml.token_type")
	v.merges, errs[2] = f.Strings("tokenizer.ggml.merges")
	v.scores, errs[3] = f.Floats("tokenizer.ggml.scores")
	if err := errors.Join(errs[:]...); err != nil {
		return nil, err
	}
	if v.kinds == nil {
		v.kinds = slices.Repeat([]int64{tokenNormal}, len(v.tokens))
	}
	switch {
	case len(v.tokens) == 0:
		return nil, fmt.Errorf("%s: metadata key \"tokenizer.ggml.tokens\" is missing: the file has no tokenizer", f.path)
	case len(v.kinds) != len(v.tokens):
		return nil, fmt.Errorf("%s: %d tokens have %d token types", f.path, len(v.tokens), len(v.kinds))
	case len(v.tokens) > f.config.VocabSize:
		return nil, fmt.Errorf("%s: %d tokens for an embedding of %d rows", f.path, len(v.tokens), f.config.VocabSize)
	}
	var t hfTokenizer
	switch kind {
	case "gpt2":
		err = f.byteLevel(&t, &v)
	case "llama":
		err = f.sentencePiece(&t, &v)
	default:
		err = fmt.Errorf("tokenizer.ggml.model is %q; \"gpt2\" (byte-level BPE) and \"llama\" (SentencePiece BPE) are supported", kind)
	}
	if err == nil {
		err = f.wrap(&t, &v)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", f.path, err)
	}
	t.AddedTokens = v.added()
	return marshal(t)
}

// An hfTokenizer is a tokenizer.json.
type hfTokenizer struct {
	Version       string    `json:"version"`
	Truncation    any       `json:"truncation"`
	Padding       any       `json:"padding"`
	AddedTokens   []hfAdded `json:"added_tokens"`
	Normalizer    any       `json:"normalizer"`
	PreTokenizer  any       `json:"pre_tokenizer"`
	PostProcessor any       `json:"post_processor"`
	Decoder       any       `json:"decoder"`
	Model         hfBPE     `json:"model"`
}

type hfAdded struct {
	ID         int    `json:"id"`
	Content    string `json:"content"`
	SingleWord bool   `json:"single_word"`
	LStrip     bool   `json:"lstrip"`
	RStrip     bool   `json:"rstrip"`
	Normalized bool   `json:"normalized"`
	Special    bool   `json:"special"`
}

type hfBPE struct {
	Type         string      `json:"type"`
	Dropout      any         `json:"dropout"`
	Unk          *string     `json:"unk_token"`
	Prefix       any         `json:"continuing_subword_prefix"`
	Suffix       any         `json:"end_of_word_suffix"`
	FuseUnk      bool        `json:"fuse_unk"`
	ByteFallback bool        `json:"byte_fallback"`
	IgnoreMerges bool        `json:"ignore_merges"`
	Vocab        vocabJSON   `json:"vocab"`
	Merges       [][2]string `json:"merges"`
}

// A vocabJSON is a map from token to id, written in the order of ids.
type vocabJSON []struct {
	token string
	id    int
}

// MarshalJSON implements json.Marshaler.
func (v vocabJSON) MarshalJSON() ([]byte, error) {
	b := bytes.NewBufferString("{")
	for i, t := range v {
		if i > 0 {
			b.WriteByte(',')
		}
		key, err := marshal(t.token)
		if err != nil {
			return nil, err
		}
		fmt.Fprintf(b, "%s:%d", key, t.id)
	}
	b.WriteByte('}')
	return b.Bytes(), nil
}

func marshal(v any) ([]byte, error) {
	b := &bytes.Buffer{}
	e := json.NewEncoder(b)
	e.SetEscapeHTML(false)
	err := e.Encode(v)
	return bytes.TrimRight(b.Bytes(), "\n"), err
}

type object = map[string]any

// added lists the tokens that are matched in the text before BPE.
func (v *vocabulary) added() []hfAdded {
	out := []hfAdded{}
	for id, kind := range v.kinds {
		if kind == tokenControl || kind == tokenUser || kind == tokenUnknown {
			out = append(out, hfAdded{ID: id, Content: v.tokens[id], Special: kind != tokenUser})
		}
	}
	return out
}

// vocab lists the tokens of the model proper: all but unused ones and the
// added tokens behind the last normal one.
func (v *vocabulary) vocab() (vocabJSON, error) {
	last := len(v.kinds) - 1
	for last >= 0 && v.kinds[last] != tokenNormal && v.kinds[last] != tokenByte {
		last--
	}
	var out vocabJSON
	seen := make(map[string]bool, last+1)
	for id := range last + 1 {
		if v.kinds[id] == tokenUnused {
			continue
		}
		if seen[v.tokens[id]] {
			return nil, fmt.Errorf("token %q appears twice", v.tokens[id])
		}
		seen[v.tokens[id]] = true
		out = append(out, struct {
			token string
			id    int
		}{v.tokens[id], id})
	}
	return out, nil
}

func (f *File) byteLevel(t *hfTokenizer, v *vocabulary) (err error) {
	name, err := f.Text("tokenizer.ggml.pre")
	if err != nil {
		return err
	}
	p, ok := preByName(name)
	if !ok {
		return fmt.Errorf("tokenizer.ggml.pre is %q, which is not one of those known (%s)", name, strings.Join(preNames(), ", "))
	}
	vocab, err := v.vocab()
	if err != nil {
		return err
	}
	merges := make([][2]string, len(v.merges))
	for i, m := range v.merges {
		a, b, ok := strings.Cut(m, " ")
		if !ok || a == "" || b == "" {
			return fmt.Errorf("merge %d is %q; must be two tokens with a space between", i, m)
		}
		merges[i] = [2]string{a, b}
	}
	*t = hfTokenizer{
		Version: "1.0", PreTokenizer: p.preTokenizer(), Decoder: byteLevelPart(false, true),
		Model: hfBPE{Type: "BPE", IgnoreMerges: p.ignoreMerges, Vocab: vocab, Merges: merges},
	}
	return nil
}

// sentencePiece makes merges of scores: every pair of tokens that joins to a
// token, best score first, as transformers converts such vocabularies.
func (f *File) sentencePiece(t *hfTokenizer, v *vocabulary) error {
	if len(v.scores) != len(v.tokens) {
		return fmt.Errorf("%d tokens have %d scores", len(v.tokens), len(v.scores))
	}
	vocab, err := v.vocab()
	if err != nil {
		return err
	}
	spaced, err := f.Bool("tokenizer.ggml.add_space_prefix", true)
	if err != nil {
		return err
	}
	unk, err := f.Int("tokenizer.ggml.unknown_token_id", 0)
	if err != nil {
		return err
	}
	if unk < 0 || int(unk) >= len(v.tokens) {
		return fmt.Errorf("tokenizer.ggml.unknown_token_id is %d of %d tokens", unk, len(v.tokens))
	}
	norm := []any{}
	decode := []any{
		object{"type": "Replace", "pattern": object{"String": space}, "content": " "},
		object{"type": "ByteFallback"}, object{"type": "Fuse"},
	}
	if spaced {
		norm = append(norm, object{"type": "Prepend", "prepend": space})
		decode = append(decode, object{"type": "Strip", "content": " ", "start": 1, "stop": 0})
	}
	norm = append(norm, marksSpaces())
	*t = hfTokenizer{
		Version:    "1.0",
		Normalizer: object{"type": "Sequence", "normalizers": norm},
		Decoder:    object{"type": "Sequence", "decoders": decode},
		Model: hfBPE{
			Type: "BPE", Unk: &v.tokens[unk], FuseUnk: true, ByteFallback: true,
			Vocab: vocab, Merges: v.pairs(),
		},
	}
	return nil
}

// maxJoined is the most bytes of a token that is cut in all ways to find which two
// make it; real ones stay far below.
const maxJoined = 1024

func (v *vocabulary) pairs() [][2]string {
	ids := make(map[string]int, len(v.tokens))
	for id, t := range v.tokens {
		if v.kinds[id] == tokenNormal {
			ids[t] = id
		}
	}
	type pair struct {
		left, right string
		score       float32
	}
	var all []pair
	for id, t := range v.tokens {
		if v.kinds[id] != tokenNormal || len(t) > maxJoined {
			continue
		}
		first := len(all)
		for i := range t {
			_, l := ids[t[:i]]
			_, r := ids[t[i:]]
			if i > 0 && l && r {
				all = append(all, pair{t[:i], t[i:], v.scores[id]})
			}
		}
		slices.SortStableFunc(all[first:], func(a, b pair) int {
			return cmp.Or(ids[a.left]-ids[b.left], ids[a.right]-ids[b.right])
		})
	}
	chars := utf8.RuneCountInString
	slices.SortStableFunc(all, func(a, b pair) int {
		return cmp.Or(cmp.Compare(b.score, a.score), chars(b.left)-chars(a.left), chars(b.right)-chars(a.right))
	})
	out := make([][2]string, len(all))
	for i, p := range all {
		out[i] = [2]string{p.left, p.right}
	}
	return out
}

// wrap sets the post-processor: the special tokens around a text.
func (f *File) wrap(t *hfTokenizer, v *vocabulary) error {
	name, err := f.Text("tokenizer.ggml.pre")
	if err != nil {
		return err
	}
	p, _ := preByName(name)
	bos, err := f.edge("bos", v, p.addBOS || t.Model.ByteFallback)
	if err != nil {
		return err
	}
	eos, err := f.edge("eos", v, false)
	if err != nil {
		return err
	}
	if bos < 0 && eos < 0 {
		if !t.Model.ByteFallback {
			t.PostProcessor = byteLevelPart(false, true)
		}
		return nil
	}
	single, special := []any{}, object{}
	put := func(id int) {
		if id < 0 {
			return
		}
		token := v.tokens[id]
		single = append(single, object{"SpecialToken": object{"id": token, "type_id": 0}})
		special[token] = object{"id": token, "ids": []int{id}, "tokens": []string{token}}
	}
	put(bos)
	single = append(single, object{"Sequence": object{"id": "A", "type_id": 0}})
	put(eos)
	t.PostProcessor = object{"type": "TemplateProcessing", "single": single, "pair": single, "special_tokens": special}
	return nil
}

// edge returns the id of the token that is put at that edge of a text, or -1.
func (f *File) edge(which string, v *vocabulary, def bool) (int, error) {
	add, err := f.Bool("tokenizer.ggml.add_"+which+"_token", def)
	if err != nil || !add {
		return -1, err
	}
	id, err := f.Int("tokenizer.ggml."+which+"_token_id", -1)
	if err != nil || id < 0 {
		return -1, err
	}
	if int(id) >= len(v.tokens) {
		return -1, fmt.Errorf("tokenizer.ggml.%s_token_id is %d of %d tokens", which, id, len(v.tokens))
	}
	return int(id), nil
}
