package tokenizer

import (
	"strings"
	"sync"
	"unicode/utf8"
)

// A Tokenizer encodes and decodes. It is safe for use by several goroutines.
type Tokenizer struct {
	tokens  []string // by id; "" for an id that is not used
	ids     map[string]int32
	added   []AddedToken
	special map[int32]bool

	raw        *matcher // added tokens searched for in the text as given
	normalized *matcher // those searched for in the normalised text
	normalizer normalizer
	pre        []splitter
	bpe        *bpe
	decoder    decoder
	prefix     []int32 // what the post-processor puts around a single text
	suffix     []int32

	mu   sync.Mutex
	idle []*encoder
}

// VocabSize returns one more than the largest id.
func (t *Tokenizer) VocabSize() int { return len(t.tokens) }

// TokenID returns the id of a token as the file spells it (in the byte
// alphabet, for byte-level tokenizers).
func (t *Tokenizer) TokenID(token string) (int32, bool) {
	id, ok := t.ids[token]
	return id, ok
}

// TokenString is the inverse of TokenID; "" for an id that does not exist.
func (t *Tokenizer) TokenString(id int32) string {
	if id < 0 || int(id) >= len(t.tokens) {
		return ""
	}
	return t.tokens[id]
}

// IsSpecial reports whether id is a special (control) token.
func (t *Tokenizer) IsSpecial(id int32) bool { return t.special[id] }

// Added returns the added tokens in the order of the file.
func (t *Tokenizer) Added() []AddedToken { return append([]AddedToken(nil), t.added...) }

// Encode returns the ids of text. Special tokens that occur in it are parsed
// and none is put around it, as for a rendered chat (add_special_tokens=False).
func (t *Tokenizer) Encode(text string) []int32 {
	return t.encode(make([]int32, 0, len(text)/3+1), text, false)
}

// EncodeMore is Encode for text that goes on with other text: nothing, such as
// the space or "▁" of many tokenizers, is put before it.
func (t *Tokenizer) EncodeMore(text string) []int32 {
	e := t.take()
	defer t.give(e)
	var ids []int32
	t.pieces(text, false, true, func(p piece) {
		ids = e.appendIDs(ids, p.text)
	}, func(_, _ int, id int32) {
		ids = append(ids, id)
	})
	return ids
}

// EncodePlain is Encode, except that text that looks like a special token is
// text: for content that others wrote.
func (t *Tokenizer) EncodePlain(text string) []int32 {
	return t.encode(make([]int32, 0, len(text)/3+1), text, true)
}

// EncodeWrapped is Encode with what the post-processor puts around a text,
// such as a beginning-of-text token (add_special_tokens=True).
func (t *Tokenizer) EncodeWrapped(text string) []int32 { return t.Wrap(t.Encode(text)) }

// Wrap returns ids between the post-processor's prefix and suffix.
func (t *Tokenizer) Wrap(ids []int32) []int32 {
	out := make([]int32, 0, len(t.prefix)+len(ids)+len(t.suffix))
	out = append(append(out, t.prefix...), ids...)
	return append(out, t.suffix...)
}

// EncodeSpans is Encode with the bytes of text, [start, end), that each token
// stands for. Spans ascend; they are not trimmed of whitespace. A token of a
// part of a character has the bytes of that part.
func (t *Tokenizer) EncodeSpans(text string) ([]int32, [][2]int) {
	var ids []int32
	var spans [][2]int
	t.pieces(text, false, false, func(p piece) {
		n := len(ids)
		ids = t.encodePiece(ids, p)
		spans = t.bpe.spans(spans, p, ids[n:], t.tokens)
	}, func(start, end int, id int32) {
		ids = append(ids, id)
		spans = append(spans, [2]int{start, end})
	})
	return ids, spans
}

func (t *Tokenizer) encode(ids []int32, text string, plain bool) []int32 {
	e := t.take()
	defer t.give(e)
	t.pieces(text, plain, false, func(p piece) {
		ids = e.appendIDs(ids, p.text)
	}, func(_, _ int, id int32) {
		ids = append(ids, id)
	})
	return ids
}

func (t *Tokenizer) encodePiece(ids []int32, p piece) []int32 {
	e := t.take()
	defer t.give(e)
	return e.appendIDs(ids, p.text)
}

// pieces runs everything before BPE: it calls pre for each pre-token and token
// for each added token, in order. more says that the text goes on with other text.
func (t *Tokenizer) pieces(text string, plain, more bool, pre func(piece), token func(start, end int, id int32)) {
	t.raw.split(text, plain, func(start, end int) {
		p := t.normalizer.apply(piece{text: text[start:end], at: start, inner: more && start == 0})
		t.normalized.split(p.text, plain, func(start, end int) {
			t.split(p.cut(start, end), 0, pre)
		}, func(start, end int, id int32) {
			token(p.origin(start), p.origin(end), id)
		})
	}, token)
}

// split applies the pre-tokenizer from its given step on.
func (t *Tokenizer) split(p piece, step int, emit func(piece)) {
	if p.text == "" {
		return
	}
	if step == len(t.pre) {
		emit(p)
		return
	}
	s := &t.pre[step]
	if s.prepare != nil {
		p = s.prepare(p)
	}
	if s.scan == nil {
		t.split(p, step+1, emit)
		return
	}
	table := classes()
	for i := 0; i < len(p.text); {
		end := s.scan(table, p.text, i)
		t.split(p.cut(i, end), step+1, emit)
		i = end
	}
}

func (t *Tokenizer) take() *encoder {
	t.mu.Lock()
	defer t.mu.Unlock()
	if n := len(t.idle); n > 0 {
		e := t.idle[n-1]
		t.idle = t.idle[:n-1]
		return e
	}
	return &encoder{bpe: t.bpe, cache: map[string][]int32{}}
}

func (t *Tokenizer) give(e *encoder) {
	t.mu.Lock()
	t.idle = append(t.idle, e)
	t.mu.Unlock()
}

// A piece is a part of the text on its way through the pipeline.
type piece struct {
	text string
	at   int   // where it lies in the original text, when from is nil
	from []int // else: the original offset of each byte and of the end
	// inner: other text comes before it, so nothing is put there.
	inner bool
}

func (p piece) origin(i int) int {
	if p.from == nil {
		return p.at + i
	}
	return p.from[i]
}

func (p piece) cut(start, end int) piece {
	inner := p.inner && start == 0
	if p.from == nil {
		return piece{text: p.text[start:end], at: p.at + start, inner: inner}
	}
	return piece{text: p.text[start:end], from: p.from[start : end+1], inner: inner}
}

// replace returns p with every occurrence of old replaced; prepend is put
// before it all, unless p is inner.
func (p piece) replace(prepend, old, new string) piece {
	if p.inner {
		prepend = ""
	}
	if prepend == "" && (old == "" || !strings.Contains(p.text, old)) {
		return p
	}
	var b strings.Builder
	var from []int
	put := func(s string, at int) {
		b.WriteString(s)
		for range len(s) {
			from = append(from, at)
		}
	}
	put(prepend, p.origin(0))
	for i := 0; i < len(p.text); {
		if old != "" && strings.HasPrefix(p.text[i:], old) {
			put(new, p.origin(i))
			i += len(old)
			continue
		}
		b.WriteByte(p.text[i])
		from = append(from, p.origin(i))
		i++
	}
	return piece{text: b.String(), from: append(from, p.origin(len(p.text))), inner: p.inner}
}

// spans finds the bytes of the ids of a pre-token by walking over it: bytes
// that no token stands for are passed over.
func (b *bpe) spans(dst [][2]int, p piece, ids []int32, tokens []string) [][2]int {
	i := 0
	for _, id := range ids {
		i = b.skip(p.text, i, id)
		start := i
		n := b.width(tokens, id)
		if id == b.unk && n != 0 {
			n = runeWidth(p.text[i:])
			if b.byteLevel {
				n = 1
			}
		}
		for ; n > 0 && i < len(p.text); n-- {
			i++
			if n > 1 {
				i = b.skip(p.text, i, id)
			}
		}
		if id == b.unk && b.fuseUnk {
			i = b.unknownRun(p.text, i)
		}
		dst = append(dst, [2]int{p.origin(start), p.origin(i)})
	}
	return dst
}

// width returns how many bytes of a pre-token id stands for.
func (b *bpe) width(tokens []string, id int32) int {
	s := tokens[id]
	if b.byteLevel {
		return utf8.RuneCountInString(s)
	}
	if b.byteFallback {
		if c, ok := byteToken(s); ok && b.single[c] == id {
			return 1
		}
	}
	return len(s)
}

// skip passes over bytes that were dropped: those without a token when there
// is no unknown token.
func (b *bpe) skip(s string, i int, id int32) int {
	if b.unk >= 0 || id == b.unk {
		return i
	}
	return b.unknownRun(s, i)
}

// unknownRun returns the end of the run from i of what has no token.
func (b *bpe) unknownRun(s string, i int) int {
	for i < len(s) {
		if b.byteLevel {
			if b.single[s[i]] >= 0 {
				break
			}
			i++
			continue
		}
		w := runeWidth(s[i:])
		if _, ok := b.vocab[s[i:i+w]]; ok || b.byteFallback && b.hasBytes(s[i:i+w]) {
			break
		}
		i += w
	}
	return i
}

// runeWidth returns the length of the first character of s; 1 when it is invalid.
func runeWidth(s string) int {
	if s == "" {
		return 0
	}
	_, n := utf8.DecodeRuneInString(s)
	return n
}
