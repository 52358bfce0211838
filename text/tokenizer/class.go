package tokenizer

import (
	"sync"
	"unicode"
	"unicode/utf8"
)

// Character classes of the pre-tokenizer patterns, as bits.
const (
	letter  = 1 << iota // \p{L}
	number              // \p{N}
	space               // \s: White_Space
	upper               // \p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}
	lower               // \p{Ll}\p{Lm}\p{Lo}\p{M}
	newline             // \r \n
	word                // \w: L M N Pc, what single_word looks at
	digit               // a character that the Digits step separates
)

// classTable holds the bits of every code point; a page of 256 equal to an
// earlier one is shared.
type classTable struct {
	ascii [utf8.RuneSelf]uint8
	pages [(unicode.MaxRune + 1) >> 8]*[256]uint8
}

var classes = sync.OnceValue(func() *classTable {
	flat := make([]uint8, unicode.MaxRune+1)
	mark := func(bits uint8, tables ...*unicode.RangeTable) {
		for _, t := range tables {
			for _, r := range t.R16 {
				for c := int(r.Lo); c <= int(r.Hi); c += int(r.Stride) {
					flat[c] |= bits
				}
			}
			for _, r := range t.R32 {
				for c := int(r.Lo); c <= int(r.Hi); c += int(r.Stride) {
					flat[c] |= bits
				}
			}
		}
	}
	mark(letter|word, unicode.L)
	mark(number|word, unicode.N)
	mark(space, unicode.White_Space)
	mark(upper, unicode.Lu, unicode.Lt, unicode.Lm, unicode.Lo, unicode.M)
	mark(lower, unicode.Ll, unicode.Lm, unicode.Lo, unicode.M)
	mark(word, unicode.M, unicode.Pc)
	for _, r := range unicode16 {
		for c := r.lo; c <= r.hi; c++ {
			flat[c] |= r.bits
		}
	}
	for c := range flat {
		if flat[c]&number != 0 {
			flat[c] |= digit
		}
	}
	for _, r := range digits17 {
		for c := r[0]; c <= r[1]; c++ {
			flat[c] |= digit
		}
	}
	flat['\r'] |= newline
	flat['\n'] |= newline

	t := &classTable{}
	copy(t.ascii[:], flat)
	seen := map[[256]uint8]*[256]uint8{}
	for i := range t.pages {
		page := [256]uint8(flat[i<<8:])
		if seen[page] == nil {
			seen[page] = &page
		}
		t.pages[i] = seen[page]
	}
	return t
})

// at returns the class bits and the width of the character of s at i, which
// must be inside s. An invalid byte has no class and width 1.
func (t *classTable) at(s string, i int) (bits uint8, width int) {
	if c := s[i]; c < utf8.RuneSelf {
		return t.ascii[c], 1
	}
	r, n := utf8.DecodeRuneInString(s[i:])
	if r == utf8.RuneError && n == 1 {
		return 0, 1
	}
	return t.pages[r>>8][r&0xff], n
}

// of returns the class bits of r.
func (t *classTable) of(r rune) uint8 {
	if r < 0 || r > unicode.MaxRune {
		return 0
	}
	return t.pages[r>>8][r&0xff]
}

// run returns the end of the longest run from i of characters that have a bit
// of any and none of none.
func (t *classTable) run(s string, i int, any, none uint8) int {
	for i < len(s) {
		b, n := t.at(s, i)
		if b&any == 0 || b&none != 0 {
			break
		}
		i += n
	}
	return i
}

// others returns the end of the run from i of characters that are neither
// space, letter nor number.
func (t *classTable) others(s string, i int) int {
	for i < len(s) {
		b, n := t.at(s, i)
		if b&(space|letter|number) != 0 {
			break
		}
		i += n
	}
	return i
}
