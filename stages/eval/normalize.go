package eval

import (
	"regexp"
	"strings"
	"unicode"
)

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

// containsWords reports whether want occurs in got, at the borders of words.
func containsWords(got, want string) bool {
	return want != "" && strings.Contains(" "+got+" ", " "+want+" ")
}

// overlap is the F1 of the words of got and want.
func overlap(got, want string) float64 {
	g, w := strings.Fields(got), strings.Fields(want)
	left := map[string]int{}
	for _, x := range w {
		left[x]++
	}
	same := 0
	for _, x := range g {
		if left[x] > 0 {
			left[x]--
			same++
		}
	}
	if same == 0 {
		return 0
	}
	p, r := float64(same)/float64(len(g)), float64(same)/float64(len(w))
	return 2 * p * r / (p + r)
}
