package decontam

import (
	"maps"
	"slices"
	"strings"
)

// Any is the n of the report that counts rows with a single long overlap
// (Brown et al. 2020 used 13 words).
const Any = 13

// An Item is one item of a benchmark: what is asked, and the reference answer.
type Item struct {
	ID       string
	Question string
	Whole    string // the question with its choices and its answer
	Answer   string // "" when there is none
}

// Options say what counts as an overlap.
type Options struct {
	Ngram    int     // words of an n-gram
	Coverage float64 // share of an item's words that shared n-grams must cover
	Answers  bool    // a turn that equals an item's answer counts too
}

// MinAnswer is the fewest words of an answer that Options.Answers looks for:
// shorter ones are said by chance.
const MinAnswer = 4

// MinContained is the fewest words of an item shorter than an n-gram that is
// looked for inside longer texts; shorter ones must equal a turn.
const MinContained = 4

// An Index answers which items a text overlaps with.
type Index struct {
	o     Options
	items []Item
	vocab map[string]uint32 // words of the items, from 1
	texts []text            // questions and wholes
	grams map[string][]place
	long  map[string]bool  // the Any-grams of all items
	short map[string][]int // texts shorter than an n-gram, by their words
	says  map[string][]int // items by their answers
	least int              // words of the shortest text in short that is looked for inside
	most  int              // and of the longest
}

// A text is the question of an item, or all of it.
type text struct {
	item  int
	words []uint32
}

// A place is where an n-gram begins.
type place struct{ text, word int32 }

// A Span is a range of words [Start, End) of an item.
type Span struct{ Start, End int }

// A Match is the item that a row overlaps with most.
type Match struct {
	Item     int
	Coverage float64 // of the item's question, or of all of it
	Spans    []Span  // the words that are covered
	Words    int     // of the question, or of all of it
	Answer   bool    // the item's answer was found, not its question
}

// NewIndex indexes items.
func NewIndex(items []Item, o Options) *Index {
	x := &Index{o: o, items: items, vocab: map[string]uint32{}, grams: map[string][]place{}, long: map[string]bool{}, short: map[string][]int{}, says: map[string][]int{}}
	for i, it := range items {
		x.add(i, it.Question)
		if it.Whole != it.Question {
			x.add(i, it.Whole)
		}
		if w := Words(it.Answer); o.Answers && len(w) >= MinAnswer {
			k := strings.Join(w, " ")
			x.says[k] = append(x.says[k], i)
		}
	}
	return x
}

// Items returns the indexed items.
func (x *Index) Items() []Item { return x.items }

func (x *Index) add(item int, s string) {
	words := Words(s)
	if len(words) == 0 {
		return
	}
	t := text{item: item, words: make([]uint32, len(words))}
	for i, w := range words {
		id, ok := x.vocab[w]
		if !ok {
			id = uint32(len(x.vocab) + 1)
			x.vocab[w] = id
		}
		t.words[i] = id
	}
	n := len(x.texts)
	x.texts = append(x.texts, t)
	for i := 0; i+Any <= len(t.words); i++ {
		x.long[key(t.words[i:i+Any])] = true
	}
	if len(t.words) < x.o.Ngram {
		k := key(t.words)
		x.short[k] = append(x.short[k], n)
		if l := len(t.words); l >= MinContained {
			x.most = max(x.most, l)
			if x.least == 0 || l < x.least {
				x.least = l
			}
		}
		return
	}
	for i := 0; i+x.o.Ngram <= len(t.words); i++ {
		k := key(t.words[i : i+x.o.Ngram])
		x.grams[k] = append(x.grams[k], place{int32(n), int32(i)})
	}
}

// key spells words as a map key.
func key(words []uint32) string {
	b := make([]byte, 0, 4*len(words))
	for _, w := range words {
		b = append(b, byte(w), byte(w>>8), byte(w>>16), byte(w>>24))
	}
	return string(b)
}

// Result is what Find found out about one row.
type Result struct {
	Matches []Match // items at or above the coverage, best first
	Any     bool    // some 13 words in a row are also in an item
}

// Find compares a row, given as its turns in order, with all items. Whole is
// the turns laid end to end, so that nothing hides in a boundary.
func (x *Index) Find(turns []string) Result {
	var all []uint32
	var says []int
	bounds := []int{0}
	for _, t := range turns {
		words := Words(t)
		if x.o.Answers && len(words) >= MinAnswer {
			says = append(says, x.says[strings.Join(words, " ")]...)
		}
		for _, w := range words {
			all = append(all, x.vocab[w]) // 0 for a word of no item
		}
		bounds = append(bounds, len(all))
	}
	r := Result{Any: x.anyLong(all)}
	best := map[int]Match{}
	keep := func(m Match) {
		if old, ok := best[m.Item]; !ok || m.Coverage > old.Coverage {
			best[m.Item] = m
		}
	}
	marks := x.mark(all)
	for _, t := range slices.Sorted(maps.Keys(marks)) { // of texts that are covered alike, the first is told
		if m := x.match(t, marks[t]); m.Coverage >= x.o.Coverage {
			keep(m)
		}
	}
	x.findShort(all, bounds, keep)
	for _, i := range says {
		keep(Match{Item: i, Coverage: 1, Answer: true})
	}
	for _, m := range best {
		r.Matches = append(r.Matches, m)
	}
	slices.SortFunc(r.Matches, func(a, b Match) int {
		if a.Coverage != b.Coverage {
			if a.Coverage > b.Coverage {
				return -1
			}
			return 1
		}
		return a.Item - b.Item
	})
	return r
}

// mark returns, of each text that shares n-grams with words, which of its
// words they cover.
func (x *Index) mark(words []uint32) map[int32][]bool {
	marks := map[int32][]bool{}
	seen := map[string]bool{}
	n := x.o.Ngram
	unknown := -1 // the last word that is in no item
	for i, w := range words {
		if w == 0 {
			unknown = i
		}
		start := i - n + 1
		if start <= unknown || start < 0 {
			continue
		}
		k := key(words[start : i+1])
		places := x.grams[k]
		if len(places) == 0 || seen[k] {
			continue
		}
		seen[k] = true
		for _, p := range places {
			m := marks[p.text]
			if m == nil {
				m = make([]bool, len(x.texts[p.text].words))
				marks[p.text] = m
			}
			for j := range n {
				m[int(p.word)+j] = true
			}
		}
	}
	return marks
}

// match sums up the marks of one text.
func (x *Index) match(t int32, marks []bool) Match {
	m := Match{Item: x.texts[t].item, Words: len(marks)}
	covered := 0
	for i := 0; i < len(marks); i++ {
		if !marks[i] {
			continue
		}
		start := i
		for i < len(marks) && marks[i] {
			i++
		}
		covered += i - start
		m.Spans = append(m.Spans, Span{start, i})
	}
	m.Coverage = float64(covered) / float64(len(marks))
	return m
}

// anyLong reports whether some Any words in a row are also in an item.
func (x *Index) anyLong(words []uint32) bool {
	unknown := -1
	for i, w := range words {
		if w == 0 {
			unknown = i
		}
		if start := i - Any + 1; start > unknown && start >= 0 && x.long[key(words[start:i+1])] {
			return true
		}
	}
	return false
}

// findShort looks for texts shorter than an n-gram: as a whole turn, or, when
// they have at least MinContained words, anywhere.
func (x *Index) findShort(words []uint32, bounds []int, keep func(Match)) {
	if len(x.short) == 0 {
		return
	}
	hit := func(words []uint32) {
		for _, t := range x.short[key(words)] {
			n := len(x.texts[t].words)
			keep(Match{Item: x.texts[t].item, Coverage: 1, Words: n, Spans: []Span{{0, n}}})
		}
	}
	for i := 1; i < len(bounds); i++ {
		if n := bounds[i] - bounds[i-1]; n > 0 && n < x.o.Ngram {
			hit(words[bounds[i-1]:bounds[i]])
		}
	}
	if x.least == 0 {
		return
	}
	for n := x.least; n <= x.most; n++ {
		for i := 0; i+n <= len(words); i++ {
			hit(words[i : i+n])
		}
	}
}
