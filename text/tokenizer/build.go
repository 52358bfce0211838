package tokenizer

import (
	"fmt"
	"maps"
	"slices"
)

// A builder gathers what a file says and makes a Tokenizer of it.
type builder struct {
	model      modelFile
	ranks      []int32 // of model.Merges; nil: their order
	added      []AddedToken
	normalizer normalizer
	pre        []splitter
	decoder    decoder
	byteLevel  bool
	steps      int     // normalizers and pre-tokenizers so far
	growth     float64 // how much longer they can make a text
}

func (b *builder) build() (*Tokenizer, error) {
	t := &Tokenizer{
		ids: make(map[string]int32, len(b.model.Vocab)+len(b.added)), added: b.added, special: map[int32]bool{},
		raw: newMatcher(), normalized: newMatcher(),
		normalizer: b.normalizer, pre: b.pre, decoder: b.decoder,
	}
	if err := checkAdded(b.added); err != nil {
		return nil, err
	}
	maps.Copy(t.ids, b.model.Vocab)
	for _, a := range b.added {
		t.ids[a.Content] = a.ID
	}
	if err := t.fillTokens(b.model.Vocab); err != nil {
		return nil, err
	}
	for _, a := range b.added {
		if a.Special {
			t.special[a.ID] = true
		}
		if a.Normalized && len(b.normalizer) > 0 {
			t.normalized.add(b.normalizer.apply(piece{text: a.Content}).text, a)
		} else {
			t.raw.add(a.Content, a)
		}
	}
	var err error
	t.bpe, err = b.buildBPE()
	return t, err
}

// fillTokens makes the table from ids to tokens. It refuses ids so far apart
// that a small file could ask for a large table.
func (t *Tokenizer) fillTokens(vocab map[string]int32) error {
	if len(t.ids) == 0 {
		return fmt.Errorf("the vocabulary is empty")
	}
	// The ids of vocab and of added tokens, not of t.ids: a token that is in
	// both, or added twice, has other ids there than the one that counts.
	top, negative := int32(-1), false
	see := func(id int32) { top, negative = max(top, id), negative || id < 0 }
	for _, id := range vocab {
		see(id)
	}
	for _, a := range t.added {
		see(a.ID)
	}
	if negative {
		return t.negative(vocab)
	}
	if int(top) > 2*len(t.ids)+1<<16 {
		return fmt.Errorf("the largest id is %d, but there are only %d tokens", top, len(t.ids))
	}
	t.tokens = make([]string, top+1)
	// Two tokens with one id: the added one counts, else the first in order.
	for _, tok := range slices.Sorted(maps.Keys(vocab)) {
		if id := vocab[tok]; t.tokens[id] == "" {
			t.tokens[id] = tok
		}
	}
	for _, a := range t.added {
		t.tokens[a.ID] = a.Content
	}
	return nil
}

// negative names the first token, in order, whose id is below zero.
func (t *Tokenizer) negative(vocab map[string]int32) error {
	for _, tok := range slices.Sorted(maps.Keys(vocab)) {
		if vocab[tok] < 0 {
			return fmt.Errorf("token %.80q has the negative id %d", tok, vocab[tok])
		}
	}
	for _, a := range t.added {
		if a.ID < 0 {
			return fmt.Errorf("added token %.80q has the negative id %d", a.Content, a.ID)
		}
	}
	return nil
}

func (b *builder) buildBPE() (*bpe, error) {
	m := &b.model
	p := &bpe{
		vocab: make(map[string]int32, len(m.Vocab)), pairs: newPairTable(len(m.Merges)),
		byteLevel: b.byteLevel, byteFallback: m.ByteFallback, ignoreMerges: m.IgnoreMerges, fuseUnk: m.FuseUnk, unk: -1,
	}
	for i := range p.single {
		p.single[i] = -1
	}
	for tok, id := range m.Vocab {
		if !b.byteLevel {
			p.vocab[tok] = id
			if c, ok := byteToken(tok); ok {
				p.single[c] = id
			}
			continue
		}
		if raw, ok := fromAlphabet(tok); ok {
			p.vocab[raw] = id
			if len(raw) == 1 {
				p.single[raw[0]] = id
			}
		}
	}
	if m.Unk != nil {
		id, ok := m.Vocab[*m.Unk]
		if !ok {
			return nil, fmt.Errorf("model: unk_token %q is not in the vocabulary", *m.Unk)
		}
		p.unk = id
	}
	for i, pair := range m.Merges {
		l, okL := m.Vocab[pair[0]]
		r, okR := m.Vocab[pair[1]]
		id, ok := m.Vocab[pair[0]+pair[1]]
		if !okL || !okR || !ok {
			return nil, fmt.Errorf("model: merge %d, %q %q, has a part or a result that is not in the vocabulary", i, pair[0], pair[1])
		}
		rank := int32(i)
		if b.ranks != nil {
			rank = b.ranks[i]
		}
		p.pairs.set(l, r, rank, id)
	}
	return p, nil
}
