package tokenizer

import (
	"strings"

	"golang.org/x/text/unicode/norm"
)

// A normalizer rewrites a piece, keeping track of where its bytes came from.
type normalizer []func(piece) piece

func (n normalizer) apply(p piece) piece {
	for _, f := range n {
		if p.text == "" {
			return p
		}
		p = f(p)
	}
	return p
}

// unicodeForm returns the step for NFC, NFD, NFKC or NFKD.
func unicodeForm(form norm.Form) func(piece) piece {
	return func(p piece) piece {
		if form.IsNormalString(p.text) {
			return p
		}
		var b strings.Builder
		from := make([]int, 0, len(p.text)+1)
		var it norm.Iter
		it.InitString(form, p.text)
		for !it.Done() {
			at := p.origin(it.Pos())
			s := it.Next()
			b.Write(s)
			for range s {
				from = append(from, at)
			}
		}
		return piece{text: b.String(), from: append(from, p.origin(len(p.text))), inner: p.inner}
	}
}

// A splitter is one step of the pre-tokenizer: it may rewrite a piece and then
// cut it up.
type splitter struct {
	prepare func(piece) piece // nil: nothing to rewrite
	scan    scanner           // nil: not cut up
}

// prefixSpace puts a space before a piece that does not begin with one.
func prefixSpace(p piece) piece {
	if strings.HasPrefix(p.text, " ") {
		return p
	}
	return p.replace(" ", "", "")
}

// metaspace returns the step of the Metaspace pre-tokenizer. scheme is
// "always", "never" or "first" (only at the beginning of the text).
func metaspace(replacement, scheme string, split bool) splitter {
	s := splitter{prepare: func(p piece) piece {
		p = p.replace("", " ", replacement)
		if !strings.HasPrefix(p.text, replacement) && (scheme == "always" || scheme == "first" && p.origin(0) == 0) {
			p = p.replace(replacement, "", "")
		}
		return p
	}}
	if split {
		s.scan = func(_ *classTable, s string, i int) int {
			n := i + runeWidth(s[i:])
			if k := strings.Index(s[n:], replacement); k >= 0 {
				return n + k
			}
			return len(s)
		}
	}
	return s
}
