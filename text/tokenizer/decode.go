package tokenizer

import (
	"strconv"
	"strings"
	"unicode/utf8"
)

// A decoder says how tokens become text again.
type decoder struct {
	byteLevel    bool
	byteFallback bool   // <0xXX> tokens are bytes
	from, to     string // replaced in every token: "▁" by a space
	strip        string // dropped from the beginning of the text, at most stripMost times
	stripMost    int
	joiner       string // between tokens, for a file without a decoder
}

// Decode returns the text of ids, special tokens included. Bytes that are not
// valid UTF-8 become U+FFFD.
func (t *Tokenizer) Decode(ids []int32) string { return lossy(t.decode(ids, false)) }

// DecodePlain is Decode without the special tokens.
func (t *Tokenizer) DecodePlain(ids []int32) string { return lossy(t.decode(ids, true)) }

// DecodeBytes is Decode without the check of the text.
func (t *Tokenizer) DecodeBytes(ids []int32) []byte { return t.decode(ids, false) }

func (t *Tokenizer) decode(ids []int32, plain bool) []byte {
	var b []byte
	for _, id := range ids {
		if plain && t.special[id] || t.TokenString(id) == "" {
			continue
		}
		if len(b) > 0 {
			b = append(b, t.decoder.joiner...)
		}
		b = t.appendToken(b, id)
	}
	return t.decoder.trim(b)
}

// appendToken appends the bytes of one token.
func (t *Tokenizer) appendToken(b []byte, id int32) []byte {
	s, d := t.tokens[id], &t.decoder
	if d.byteLevel {
		if raw, ok := fromAlphabet(s); ok {
			return append(b, raw...)
		}
		return append(b, s...)
	}
	if d.byteFallback {
		if c, ok := byteToken(s); ok {
			return append(b, c)
		}
	}
	if d.from != "" {
		s = strings.ReplaceAll(s, d.from, d.to)
	}
	return append(b, s...)
}

func (d *decoder) trim(b []byte) []byte {
	for n := d.stripMost; n > 0 && d.strip != "" && strings.HasPrefix(string(b[:min(len(b), len(d.strip))]), d.strip); n-- {
		b = b[len(d.strip):]
	}
	return b
}

// byteToken reads a token such as <0x0A>.
func byteToken(s string) (byte, bool) {
	if len(s) != 6 || s[:3] != "<0x" || s[5] != '>' {
		return 0, false
	}
	n, err := strconv.ParseUint(s[3:5], 16, 8)
	return byte(n), err == nil
}

// lossy returns b as text, with each maximal part of a character that is not
// valid UTF-8 replaced by U+FFFD (Unicode 3.9, as in Rust and Python).
func lossy(b []byte) string {
	if utf8.Valid(b) {
		return string(b)
	}
	out := make([]byte, 0, len(b)+8)
	for len(b) > 0 {
		r, n := utf8.DecodeRune(b)
		if r == utf8.RuneError && n == 1 {
			n = badPrefix(b)
			out = append(out, "\uFFFD"...)
		} else {
			out = append(out, b[:n]...)
		}
		b = b[n:]
	}
	return string(out)
}

// badPrefix returns the length of the maximal subpart at the start of b, which
// does not begin with a valid character: the longest beginning of one, or 1.
func badPrefix(b []byte) int {
	n := 1
	for n < len(b) && n < 4 && canBegin(b[:n+1]) {
		n++
	}
	return n
}

// canBegin reports whether some valid character longer than b begins with b.
func canBegin(b []byte) bool {
	var need int
	lo, hi := byte(0x80), byte(0xBF)
	switch c := b[0]; {
	case c >= 0xC2 && c <= 0xDF:
		need = 2
	case c >= 0xE0 && c <= 0xEF:
		need = 3
		if c == 0xE0 {
			lo = 0xA0
		} else if c == 0xED {
			hi = 0x9F
		}
	case c >= 0xF0 && c <= 0xF4:
		need = 4
		if c == 0xF0 {
			lo = 0x90
		} else if c == 0xF4 {
			hi = 0x8F
		}
	}
	if len(b) >= need {
		return false
	}
	for i, c := range b[1:] {
		if i == 0 && (c < lo || c > hi) || i > 0 && c&0xC0 != 0x80 {
			return false
		}
	}
	return true
}

// A Stream decodes ids one at a time, as they are generated.
type Stream struct {
	t       *Tokenizer
	plain   bool
	begun   bool
	pending []byte
}

// NewStream returns a Stream; plain leaves special tokens out.
func (t *Tokenizer) NewStream(plain bool) *Stream { return &Stream{t: t, plain: plain} }

// Push returns the text that id completes: bytes that may be the beginning of
// a character are held back until the rest of it comes. The concatenation of
// all Push and the final Flush is Decode of all ids.
func (s *Stream) Push(id int32) string {
	if s.plain && s.t.special[id] || s.t.TokenString(id) == "" {
		return ""
	}
	if s.begun {
		s.pending = append(s.pending, s.t.decoder.joiner...)
	}
	s.pending = s.t.appendToken(s.pending, id)
	if !s.begun {
		d := &s.t.decoder
		if d.stripMost > 0 && len(s.pending) < d.stripMost*len(d.strip) {
			return "" // what is to be stripped may not be complete
		}
		s.pending = d.trim(s.pending)
		s.begun = true
	}
	keep := len(s.pending)
	for back := 1; back <= 3 && back <= keep; back++ {
		if c := s.pending[keep-back]; c >= 0xC0 {
			if canBegin(s.pending[keep-back:]) {
				keep -= back
			}
			break
		} else if c < 0x80 {
			break
		}
	}
	out := lossy(s.pending[:keep])
	s.pending = append(s.pending[:0], s.pending[keep:]...)
	return out
}

// Flush returns what was held back.
func (s *Stream) Flush() string {
	if !s.begun {
		s.pending = s.t.decoder.trim(s.pending)
	}
	out := lossy(s.pending)
	s.pending = s.pending[:0]
	return out
}
