package synth

import (
	"strings"
	"unicode/utf8"
)

// Where a text may be cut: between paragraphs, lines, sentences, words.
var separators = []string{"\n\n", "\n", ". ", " "}

// cut splits a text into passages of at most n characters, between paragraphs
// where it can, else between lines, sentences or words. What is shorter than a
// fifth of n, such as a heading, stands with the beginning of what follows; at
// the end of the text it is left out.
func cut(text string, n int) []string {
	text = strings.ReplaceAll(strings.ToValidUTF8(text, "\uFFFD"), "\r\n", "\n")
	var out []string
	cur, size := "", 0 // size in characters
	add := func(p string) {
		cur = strings.TrimLeft(cur+p, " \t\n")
		size = utf8.RuneCountInString(cur)
	}
	flush := func() {
		if s := strings.TrimSpace(cur); s != "" {
			out = append(out, s)
		}
		cur, size = "", 0
	}
	todo := pieces(text, n, separators)
	for len(todo) > 0 {
		p := todo[0]
		todo = todo[1:]
		switch {
		case size+utf8.RuneCountInString(strings.TrimRight(p, " \t\n")) <= n:
			add(p)
		case size < n/5:
			todo = append(pieces(p, n-size, separators), todo...)
		default:
			flush()
			add(p)
		}
	}
	flush()
	if k := len(out); k > 1 && utf8.RuneCountInString(out[k-1]) < n/5 {
		out = out[:k-1]
	}
	return out
}

// pieces cuts text after the first separator wherever a piece is longer than n
// characters, after the next where that is not enough, and anywhere in the end.
func pieces(text string, n int, seps []string) []string {
	if utf8.RuneCountInString(text) <= n {
		return []string{text}
	}
	var out []string
	if len(seps) == 0 {
		for rs := []rune(text); len(rs) > 0; {
			k := min(n, len(rs))
			out, rs = append(out, string(rs[:k])), rs[k:]
		}
		return out
	}
	for _, p := range strings.SplitAfter(text, seps[0]) {
		out = append(out, pieces(p, n, seps[1:])...)
	}
	return out
}
