package synth

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// words returns the words of s in small letters. Scripts without spaces
// between words give one word for each character.
func words(s string) []string {
	var out []string
	var word strings.Builder
	end := func() {
		if word.Len() > 0 {
			out = append(out, word.String())
			word.Reset()
		}
	}
	for _, r := range strings.ToLower(s) {
		switch {
		case unicode.In(r, unicode.Han, unicode.Hiragana, unicode.Katakana, unicode.Thai, unicode.Lao, unicode.Khmer, unicode.Myanmar):
			end()
			out = append(out, string(r))
		case unicode.IsLetter(r) || unicode.IsMark(r) || unicode.IsDigit(r):
			word.WriteRune(r)
		default:
			end()
		}
	}
	end()
	return out
}

// stems returns the distinct words of s that carry meaning, cut to their first
// six characters so that "distribute" meets "distribution": numbers, and words
// of four characters and more that are not among function words.
func stems(s string) []string {
	var out []string
	seen := map[string]bool{}
	for _, w := range words(s) {
		n := utf8.RuneCountInString(w)
		r, _ := utf8.DecodeRuneInString(w)
		if unicode.IsLetter(r) && r < 0x2E80 && n < 4 || functionWords[w] {
			continue
		}
		if n > 6 {
			w = string([]rune(w)[:6])
		}
		if !seen[w] {
			seen[w] = true
			out = append(out, w)
		}
	}
	return out
}

// functionWords are English; in other languages they count as words of their
// own, of which a text and what is said about it share most.
var functionWords = setOf(`about according also although another answer been being both could does each either from
	have here into just like made make many more most much must only other over same shall should some such than that
	their them then there these they this those through under until upon used using very were what when where whether
	which while whom whose will with within without would your`)

func setOf(list string) map[string]bool {
	set := map[string]bool{}
	for _, w := range strings.Fields(list) {
		set[w] = true
	}
	return set
}

// grounding returns the share of what s says that source says too: of its
// stems, how many are stems of source. It is 1 when s has none.
func grounding(s, source string) float64 {
	known := map[string]bool{}
	for _, w := range stems(source) {
		known[w] = true
	}
	all := stems(s)
	if len(all) == 0 {
		return 1
	}
	n := 0
	for _, w := range all {
		if known[w] {
			n++
		}
	}
	return float64(n) / float64(len(all))
}

// grounded returns an error for a text too few of whose words are in source.
func grounded(what, s, source string, least float64) error {
	if share := grounding(s, source); share < least {
		return fmt.Errorf("only %.0f%% of the %s's words are in the passage, less than grounding = %v", 100*share, what, least)
	}
	return nil
}
