// Package decontam finds training rows that overlap with items of a benchmark,
// by n-grams of normalised words. Nothing is sampled or hashed away: an
// inverted index of the benchmark's n-grams answers for every row.
package decontam

import (
	"strings"
	"unicode"

	"golang.org/x/text/cases"
	"golang.org/x/text/unicode/norm"
)

// Words returns the words of text in a form in which re-wrapping, case,
// punctuation, Unicode form and invisible characters make no difference:
// compatibility composition (NFKC), case folding (with one i for all that Turkish
// tells apart, since shouting makes them one), everything but letters,
// marks and digits taken for a space (apostrophes for nothing), and each
// character of a script without spaces a word of its own.
func Words(text string) []string {
	text = norm.NFKC.String(cases.Fold().String(norm.NFKC.String(text)))
	var words []string
	var last rune
	var w strings.Builder
	flush := func() {
		if w.Len() > 0 {
			words = append(words, w.String())
			w.Reset()
		}
	}
	for _, c := range text {
		c = unicode.ToLower(unicode.ToUpper(c)) // the dotless i and the i that shouting makes of it; Cherokee
		dotted := last == 'i' && c == '\u0307'  // what folding leaves of the capital İ
		last = c
		switch {
		case dotted:
		case unicode.In(c, unicode.Han, unicode.Hiragana, unicode.Katakana, unicode.Thai, unicode.Lao, unicode.Khmer, unicode.Myanmar) && !unicode.IsMark(c) && !unicode.IsPunct(c):
			flush()
			w.WriteRune(c)
			flush()
		case unicode.IsLetter(c), unicode.IsDigit(c), unicode.IsNumber(c), unicode.IsMark(c):
			w.WriteRune(c)
		case unicode.Is(unicode.Cf, c), c == '\'', c == '\u2019', c == '`', c == '\u02bc':
			// soft hyphens, zero-width characters, apostrophes
		default:
			flush()
		}
	}
	flush()
	return words
}
