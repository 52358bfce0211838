package tokenizer

import (
	"math/rand/v2"
	"strings"
	"testing"
)

// TestStopAt compares the watched text with a search of all of it after each
// token: strings within a token, across several, and within a character's bytes.
func TestStopAt(t *testing.T) {
	f := load(t)
	r := rand.New(rand.NewPCG(1, 1))
	letters := []rune("ab\né€😀")
	word := func(n int) string {
		var b strings.Builder
		for range n {
			b.WriteRune(letters[r.IntN(len(letters))])
		}
		return b.String()
	}
	for name := range f.Tokenizers {
		tok, hits := f.tokenizer(t, name), 0
		for range 200 {
			stops := []string{word(1 + r.IntN(4)), "", word(2 + r.IntN(3))}
			ids := tok.Encode(word(40))
			stop := tok.StopAt(stops...)
			for i, id := range ids {
				want := false
				for _, s := range stops {
					want = want || s != "" && strings.Contains(tok.Decode(ids[:i+1]), s)
				}
				if got := stop(id); got != want {
					t.Fatalf("%s: %q after %q: %t, want %t", name, stops, tok.Decode(ids[:i+1]), got, want)
				}
				if want {
					hits++
					break
				}
			}
		}
		if hits < 20 {
			t.Errorf("%s: only %d texts stopped; the test shows little", name, hits)
		}
	}
}
