package engine

import (
	"unicode"
	"unicode/utf8"
)

// How much of a long text is shown: of what differs, and of what stands around.
const (
	excerptLong    = 60 // texts up to this many bytes are shown whole
	excerptMiddle  = 80
	excerptContext = 24
)

// excerpts shortens two texts to where they differ. A short text, and one
// without another, keep their beginning.
func excerpts(a, b string) (string, string) {
	if len(a) <= excerptLong && len(b) <= excerptLong {
		return a, b
	}
	x, y := []rune(a), []rune(b)
	head := 0
	for head < len(x) && head < len(y) && x[head] == y[head] {
		head++
	}
	tail := 0
	for tail < len(x)-head && tail < len(y)-head && x[len(x)-1-tail] == y[len(y)-1-tail] {
		tail++
	}
	return around(x, head, tail), around(y, head, tail)
}

// around returns what stands between the first head and the last tail runes,
// with a few of those.
func around(s []rune, head, tail int) string {
	if len(s) == 0 {
		return ""
	}
	from, to := max(0, head-excerptContext), min(len(s), len(s)-tail+excerptContext)
	for i := from; from > 0 && i < head; i++ { // begin with a word where one begins
		if unicode.IsSpace(s[i-1]) {
			from = i
			break
		}
	}
	for i := to; to < len(s) && i > len(s)-tail; i-- {
		if unicode.IsSpace(s[i]) {
			to = i
			break
		}
	}
	out := ""
	if from > 0 {
		out = "…"
	}
	if to-from > excerptMiddle+2*excerptContext {
		half := excerptMiddle/2 + excerptContext
		out += string(s[from:from+half]) + " … " + string(s[to-half:to])
	} else {
		out += string(s[from:to])
	}
	if to < len(s) {
		out += "…"
	}
	return out
}

// clip shortens s to at most n bytes, at a rune.
func clip(s string, n int) string {
	if len(s) <= n {
		return s
	}
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n] + "…"
}
