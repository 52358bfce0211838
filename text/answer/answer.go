// Package answer compares answers with references.
package answer

import (
	"regexp"
	"strings"
	"unicode"
)

// Normalizers are the ways to normalise an answer.
func Normalizers() []string { return []string{"text", "number", "exact"} }

// Normalize prepares an answer for comparison: "text" leaves its words, in lower case
// and without articles, "number" its last number, and "exact" all but the space around it.
func Normalize(how, s string) string {
	switch how {
	case "number":
		return lastNumber(s)
	case "exact":
		return strings.TrimSpace(s)
	}
	return words(s)
}

// words is the normalisation of SQuAD (Rajpurkar et al. 2016): lower case, no
// punctuation, no articles, single spaces.
func words(s string) string {
	s = strings.Map(func(r rune) rune {
		if unicode.IsPunct(r) || unicode.IsSymbol(r) {
			return -1
		}
		return unicode.ToLower(r)
	}, s)
	var out []string
	for _, w := range strings.Fields(s) {
		if w != "a" && w != "an" && w != "the" {
			out = append(out, w)
		}
	}
	return strings.Join(out, " ")
}

var numbers = regexp.MustCompile(`-?\$?[0-9][0-9,]*(\.[0-9]+)?|-?\.[0-9]+`)

// lastNumber returns the last number in s without thousands separators,
// currency sign and trailing zeros after the point; "" when there is none.
func lastNumber(s string) string {
	all := numbers.FindAllString(s, -1)
	if len(all) == 0 {
		return ""
	}
	n := strings.NewReplacer("$", "", ",", "").Replace(all[len(all)-1])
	if strings.Contains(n, ".") {
		n = strings.TrimRight(strings.TrimRight(n, "0"), ".")
	}
	return n
}

// Contains reports whether want occurs in got, both normalised, at the borders of words; nothing
// is in no text.
func Contains(got, want string) bool {
	return want != "" && strings.Contains(" "+got+" ", " "+want+" ")
}
