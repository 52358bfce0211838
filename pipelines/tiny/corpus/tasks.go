package main

import (
	"fmt"
	"math"
	"math/rand/v2"
	"sort"
	"strings"
	"unicode"
)

// A generator makes documents whose later part repeats facts of the earlier
// part. Every document asks for several facts, so that a large share of its
// tokens rewards looking back.
type generator struct {
	rng       *rand.Rand
	words     []string // content words of the licences, and invented ones
	sentences []string // filler between the facts
}

func newGenerator(rng *rand.Rand, docs []document) *generator {
	g := &generator{rng: rng}
	seen := map[string]bool{}
	for _, d := range docs {
		for _, w := range strings.FieldsFunc(d.Text, func(r rune) bool { return !unicode.IsLetter(r) }) {
			if w = strings.ToLower(w); len(w) >= 4 && len(w) <= 10 && ascii(w) {
				seen[w] = true
			}
		}
		for _, s := range strings.SplitAfter(strings.Join(strings.Fields(d.Text), " "), ". ") {
			if s = strings.TrimSpace(s); len(s) >= 40 && len(s) <= 160 && ascii(s) {
				g.sentences = append(g.sentences, s)
			}
		}
	}
	for w := range seen {
		g.words = append(g.words, w)
	}
	sort.Strings(g.words)
	for range len(g.words) { // as many invented words: keys no text has used
		g.words = append(g.words, g.invented())
	}
	return g
}

func ascii(s string) bool {
	return strings.IndexFunc(s, func(r rune) bool { return r > unicode.MaxASCII }) < 0
}

// document returns one document of a random kind.
func (g *generator) document() string {
	switch p := g.rng.IntN(100); {
	case p < 40:
		return g.needles()
	case p < 60:
		return g.table()
	case p < 75:
		return g.record()
	case p < 90:
		return g.repeat()
	default:
		return g.lookup()
	}
}

func (g *generator) pick(from []string) string { return from[g.rng.IntN(len(from))] }

func (g *generator) invented() string {
	var b strings.Builder
	for range 2 + g.rng.IntN(2) {
		b.WriteByte("bdfgklmnprstvz"[g.rng.IntN(14)])
		b.WriteByte("aeiou"[g.rng.IntN(5)])
	}
	if g.rng.IntN(2) == 0 {
		b.WriteByte("lnrst"[g.rng.IntN(5)])
	}
	return b.String()
}

func (g *generator) number() string {
	n := 3 + g.rng.IntN(3)
	b := make([]byte, n)
	for i := range b {
		b[i] = byte('0' + g.rng.IntN(10))
	}
	if b[0] == '0' {
		b[0] = '1'
	}
	return string(b)
}

// value returns a number (mostly) or a word.
func (g *generator) value() string {
	if g.rng.IntN(4) == 0 {
		return g.pick(g.words)
	}
	return g.number()
}

// keys returns n different words.
func (g *generator) keys(n int) []string {
	seen := map[string]bool{}
	var ks []string
	for len(ks) < n {
		if k := g.pick(g.words); !seen[k] {
			seen[k] = true
			ks = append(ks, k)
		}
	}
	return ks
}

// A phrasing is one way to state and to ask for a fact: fact takes key and
// value, ask the key and answer key and value.
type phrasing struct{ fact, ask, answer string }

var phrasings = []phrasing{
	{"One of the special magic numbers for %s is: %s.", "What is the special magic number for %s mentioned in the provided text?", "The special magic number for %s mentioned in the provided text is: %s."},
	{"One of the special magic words for %s is: %s.", "What is the special magic word for %s mentioned in the provided text?", "The special magic word for %s mentioned in the provided text is: %s."},
	{"The code for %s is %s.", "What is the code for %s?", "The code for %s is %s."},
	{"The number of %s is %s.", "What is the number of %s?", "The number of %s is %s."},
	{"Note: %s means %s.", "What does %s mean?", "Note: %s means %s."},
}

// needles hides facts between filler sentences and asks for them afterwards.
func (g *generator) needles() string {
	p := phrasings[g.rng.IntN(len(phrasings))]
	keys := g.keys(1 + g.rng.IntN(5))
	values := make([]string, len(keys))
	var lines []string
	for range g.rng.IntN(13) {
		lines = append(lines, g.pick(g.sentences))
	}
	for i, k := range keys {
		if values[i] = g.number(); strings.Contains(p.fact, "words") {
			values[i] = g.pick(g.words)
		}
		at := g.rng.IntN(len(lines) + 1)
		lines = append(lines[:at], append([]string{fmt.Sprintf(p.fact, k, values[i])}, lines[at:]...)...)
	}
	sep := []string{"\n", " "}[g.rng.IntN(2)]
	var b strings.Builder
	b.WriteString(strings.Join(lines, sep))
	for _, i := range g.rng.Perm(len(keys)) {
		fmt.Fprintf(&b, "\n%s\n%s", fmt.Sprintf(p.ask, keys[i]), fmt.Sprintf(p.answer, keys[i], values[i]))
	}
	return b.String()
}

// table lists pairs and then asks for them in another order.
func (g *generator) table() string {
	keys := g.keys(3 + g.rng.IntN(8))
	values := make([]string, len(keys))
	sep := []string{": ", " = ", " is ", " -> "}[g.rng.IntN(4)]
	end := []string{"\n", "; ", ". "}[g.rng.IntN(3)]
	var b strings.Builder
	for i, k := range keys {
		values[i] = g.value()
		b.WriteString(k + sep + values[i] + end)
	}
	for range 1 + g.rng.IntN(2) {
		for _, i := range g.rng.Perm(len(keys)) {
			b.WriteString(keys[i] + sep + values[i] + end)
		}
	}
	return strings.TrimSpace(b.String())
}

// record is a form with named fields, then questions about the fields.
func (g *generator) record() string {
	keys := g.keys(3 + g.rng.IntN(5))
	values := make([]string, len(keys))
	var b strings.Builder
	for i, k := range keys {
		values[i] = g.value()
		if g.rng.IntN(3) == 0 {
			values[i] += " " + g.pick(g.words)
		}
		fmt.Fprintf(&b, "%s: %s\n", capital(k), values[i])
	}
	for _, i := range g.rng.Perm(len(keys)) {
		fmt.Fprintf(&b, "Question: What is the %s?\nAnswer: %s\n", keys[i], values[i])
	}
	return strings.TrimSpace(b.String())
}

// lookup is a filler paragraph with one fact and its question, at length.
func (g *generator) lookup() string {
	k, v := g.pick(g.words), g.value()
	var lines []string
	for range 6 + g.rng.IntN(8) {
		lines = append(lines, g.pick(g.sentences))
	}
	at := g.rng.IntN(len(lines) + 1)
	lines = append(lines[:at], append([]string{"The " + k + " is " + v + "."}, lines[at:]...)...)
	return strings.Join(lines, " ") + "\nQuestion: What is the " + k + "?\nAnswer: The " + k + " is " + v + "."
}

// repeat says a random sequence two or three times.
func (g *generator) repeat() string {
	n := 6 + g.rng.IntN(30)
	seq := make([]string, n)
	for i := range seq {
		if seq[i] = g.pick(g.words); g.rng.IntN(4) == 0 {
			seq[i] = g.number()
		}
	}
	s := strings.Join(seq, " ")
	return strings.TrimSpace(strings.Repeat(s+"\n", 2+g.rng.IntN(2)))
}

// copies is a conversation whose assistant says the user's words again, one
// time or more: the number of words is log-uniform from 1 to 32.
func (g *generator) copies(id string, words []string) chatRow {
	n := int(math.Exp(g.rng.Float64() * math.Log(32.99)))
	seq := make([]string, n)
	for i := range seq {
		if seq[i] = g.pick(words); g.rng.IntN(8) == 0 {
			seq[i] = g.number()
		}
	}
	s := strings.Join(seq, " ")
	times := max(1, 32/n)
	return chatRow{id, []message{{"user", s}, {"assistant", strings.TrimSpace(strings.Repeat(s+" ", times))}}}
}

func capital(s string) string { return strings.ToUpper(s[:1]) + s[1:] }
