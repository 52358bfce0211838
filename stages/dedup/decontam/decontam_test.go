package decontam

import (
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"unicode"

	"bufio"
	"encoding/json"

	"golang.org/x/text/unicode/norm"
	"pgregory.net/rapid"
)

func TestWords(t *testing.T) {
	for in, want := range map[string]string{
		"The  QUICK-brown\r\nfox, (jumps)!":   "the quick brown fox jumps",
		"don\u2019t can't":                    "dont cant",
		"e\u0301te\u0301 \u00c9T\u00c9":       "été été",
		"\uff26\uff55\uff4c\uff4c \ufb01ne":   "full fine",
		"zero\u200bwidth soft\u00adhyphen":    "zerowidth softhyphen",
		"Stra\u00dfe STRASSE":                 "strasse strasse",
		"中文字 kana かな":                         "中 文 字 kana か な",
		"2+2=4 x\u00b2 3.5":                   "2 2 4 x2 3 5",
		"...":                                 "",
		"\u0130 \u03a3\u03c2":                 "i \u03c3\u03c3",
		"\u0131l\u0131k IL\u0130K I\u0307":    "ilik ilik i",
		"ខ្ញុំ។ မြန်မာ၊":                      strings.Join(Words("ខ្ញុំ မြန်မာ"), " "),
		"a\u00a0b\u2003c\u2028d\u3000e":       "a b c d e",
		"\U0001d400\U0001d41b \u2460 \u2163.": "ab 1 iv",
	} {
		if got := strings.Join(Words(in), " "); got != norm.NFC.String(want) && got != want {
			t.Errorf("Words(%q) = %q; want %q", in, got, want)
		}
	}
}

// Re-wrapping, case, punctuation at word ends, Unicode form and invisible
// characters never change the words.
func TestWordsOfDisguises(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := rapid.StringOf(rapid.RuneFrom([]rune("abcXYZ éÅßﬁ12.,!'-\n\t漢字"))).Draw(t, "text")
		want := Words(s)
		for how := range 5 {
			if got := Words(disguise(s, how)); !slices.Equal(got, want) {
				t.Fatalf("disguise %d: %q became %q", how, want, got)
			}
		}
	})
}

// No letter has another word in capitals.
func TestWordsOfCapitals(t *testing.T) {
	for c := rune(0); c <= unicode.MaxRune; c++ {
		if unicode.ToUpper(c) == c && unicode.ToLower(c) == c {
			continue
		}
		s := "a" + string(c) + "b"
		for _, other := range []string{strings.ToUpper(s), strings.ToLower(s)} {
			if a, b := Words(s), Words(other); !slices.Equal(a, b) {
				t.Errorf("%U: %q in %q, %q in %q", c, a, s, b, other)
			}
		}
	}
}

func options() Options { return Options{Ngram: 8, Coverage: 0.5} }

func numbered(prefix string, from, to int) string {
	var b strings.Builder
	for i := from; i < to; i++ {
		fmt.Fprintf(&b, "%s%d ", prefix, i)
	}
	return b.String()
}

func TestFind(t *testing.T) {
	items := []Item{
		{ID: "long", Question: numbered("w", 0, 20), Whole: numbered("w", 0, 20) + numbered("a", 0, 40), Answer: numbered("a", 0, 40)},
		{ID: "five", Question: "name the five great lakes", Whole: "name the five great lakes"},
		{ID: "two", Question: "why not", Whole: "why not"},
		{ID: "empty"},
	}
	for _, c := range []struct {
		name  string
		turns []string
		want  []Match
		any   bool
	}{
		{"all", []string{numbered("w", 0, 20)}, []Match{{Item: 0, Coverage: 1, Words: 20, Spans: []Span{{0, 20}}}}, true},
		{"half", []string{"x " + numbered("w", 10, 20)}, []Match{{Item: 0, Coverage: 0.5, Words: 20, Spans: []Span{{10, 20}}}}, false},
		{"less than half", []string{numbered("w", 11, 20)}, nil, false},
		{"seven words", []string{numbered("w", 0, 7) + "x " + numbered("w", 8, 15)}, nil, false},
		{"two parts", []string{numbered("w", 0, 8) + "x " + numbered("w", 12, 20)}, []Match{{Item: 0, Coverage: 0.8, Words: 20, Spans: []Span{{0, 8}, {12, 20}}}}, false},
		{"across turns", []string{numbered("w", 0, 6), numbered("w", 6, 12)}, []Match{{Item: 0, Coverage: 0.6, Words: 20, Spans: []Span{{0, 12}}}}, false},
		{"answer covers the whole", []string{numbered("a", 0, 40)}, []Match{{Item: 0, Coverage: 40.0 / 60, Words: 60, Spans: []Span{{20, 60}}}}, true},
		{"short inside", []string{"Please NAME the five\ngreat-lakes now"}, []Match{{Item: 1, Coverage: 1, Words: 5, Spans: []Span{{0, 5}}}}, false},
		{"too short inside", []string{"and why not then"}, nil, false},
		{"too short as a turn", []string{"hello", "Why not?"}, []Match{{Item: 2, Coverage: 1, Words: 2, Spans: []Span{{0, 2}}}}, false},
		{"nothing", []string{"", "unknown words only"}, nil, false},
	} {
		r := NewIndex(items, options()).Find(c.turns)
		for i := range r.Matches {
			r.Matches[i].Coverage = math.Round(r.Matches[i].Coverage*1e12) / 1e12
		}
		for i := range c.want {
			c.want[i].Coverage = math.Round(c.want[i].Coverage*1e12) / 1e12
		}
		if !reflect.DeepEqual(r.Matches, c.want) || r.Any != c.any {
			t.Errorf("%s: got %+v; want %+v, any %v", c.name, r, c.want, c.any)
		}
	}
	o := options()
	o.Answers = true
	r := NewIndex([]Item{{ID: "q", Question: "q", Whole: "q", Answer: "the answer in four words"}, {ID: "r", Answer: "42"}}, o).Find([]string{"x", "The answer, in four words."})
	if len(r.Matches) != 1 || !r.Matches[0].Answer || r.Matches[0].Item != 0 {
		t.Errorf("answers: %+v", r)
	}
}

// naive is the definition of coverage (numerics: mark i..i+n-1 for every
// n-gram of the item that the row has).
func naive(item, row []string, n int) float64 {
	marks := make([]bool, len(item))
	for i := 0; i+n <= len(item); i++ {
		for j := 0; j+n <= len(row); j++ {
			if slices.Equal(item[i:i+n], row[j:j+n]) {
				for k := range n {
					marks[i+k] = true
				}
			}
		}
	}
	covered := 0
	for _, m := range marks {
		if m {
			covered++
		}
	}
	return float64(covered) / float64(len(item))
}

func TestCoverageEqualsDefinition(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(1, 4).Draw(t, "n")
		text := rapid.SliceOfN(rapid.SampledFrom([]string{"a", "b", "c", "d"}), n, 25)
		item, row := text.Draw(t, "item"), text.Draw(t, "row")
		x := NewIndex([]Item{{Question: strings.Join(item, " "), Whole: strings.Join(item, " ")}}, Options{Ngram: n, Coverage: 1e-9})
		got := 0.0
		if r := x.Find([]string{strings.Join(row, " ")}); len(r.Matches) > 0 {
			got = r.Matches[0].Coverage
		}
		if want := naive(item, row, n); got != want {
			t.Fatalf("coverage %v; want %v", got, want)
		}
	})
}

func TestCanaries(t *testing.T) {
	var items []Item
	r := rand.New(rand.NewPCG(1, 1))
	for i := range 300 {
		q := fmt.Sprintf("Item %d: who's the %d%% owner of café no. %d, \"Straße\", and why isn't it (%d)?", i, r.IntN(100), r.IntN(1000), r.IntN(1000))
		items = append(items, Item{ID: fmt.Sprint(i), Question: q, Whole: q})
	}
	x := NewIndex(items, options())
	if planted, found := x.Canaries([]string{"some carrier text", "x"}, 200, 1); planted != 200 || found != 200 {
		t.Errorf("%d of %d canaries are found", found, planted)
	}
	// An index that looks at longer n-grams than the items have finds them too,
	// as short items; one that demands more than a text can give does not.
	x.o.Coverage = 1.1
	if planted, found := x.Canaries(nil, 50, 1); planted != 50 || found != 0 {
		t.Errorf("%d of %d canaries are found though nothing can match", found, planted)
	}
	if planted, _ := NewIndex([]Item{{Question: "too short"}}, options()).Canaries(nil, 50, 1); planted != 0 {
		t.Error("an item of two words was planted")
	}
}

// On GSM8K, training questions do not match test questions, and test questions
// that are planted do, whatever the disguise.
func TestRealBenchmark(t *testing.T) {
	dir := filepath.Join("..", "..", "..", "..", "shared", "data")
	test, err := os.Open(filepath.Join(dir, "bench", "gsm8k_test.jsonl"))
	if err != nil {
		t.Skip("the test data is not there:", err)
	}
	defer test.Close()
	var items []Item
	lines := bufio.NewScanner(test)
	for lines.Scan() {
		var q struct{ Question, Answer string }
		if err := json.Unmarshal(lines.Bytes(), &q); err != nil {
			t.Fatal(err)
		}
		items = append(items, Item{ID: fmt.Sprint(len(items)), Question: q.Question, Whole: q.Question + " " + q.Answer, Answer: q.Answer})
	}
	x := NewIndex(items, options())
	if planted, found := x.Canaries(nil, len(items), 3); found != planted || planted != len(items) {
		t.Errorf("%d of %d planted items are found", found, planted)
	}
}

// Whatever the texts, Find ends, and coverage is a share.
func FuzzFind(f *testing.F) {
	f.Add("who is the owner of the house", "the owner of the house is", 2)
	f.Add("\xff\u0301 a", "ß", 1)
	f.Fuzz(func(t *testing.T, item, row string, n int) {
		if n < 1 || n > 64 {
			return
		}
		x := NewIndex([]Item{{Question: item, Whole: item + row}}, Options{Ngram: n, Coverage: 0.01, Answers: true})
		for _, m := range x.Find([]string{row, item}).Matches {
			if !(m.Coverage > 0 && m.Coverage <= 1) {
				t.Errorf("coverage %v", m.Coverage)
			}
		}
		if len(Words(item)) > 0 && len(x.Find([]string{item}).Matches) == 0 {
			t.Errorf("%q is not found in itself", item)
		}
	})
}

// A row that holds a question and its answer covers both texts of the item
// equally: what is said of it is always the same.
func TestEqualMatchesAreOrdered(t *testing.T) {
	q := numbered("q", 0, 20)
	x := NewIndex([]Item{{ID: "a", Question: q, Whole: q + " yes"}}, options())
	want := x.Find([]string{q + " yes"})
	if len(want.Matches) != 1 || want.Matches[0].Words != 20 {
		t.Fatalf("%+v", want)
	}
	for range 100 {
		if got := x.Find([]string{q + " yes"}); !reflect.DeepEqual(got, want) {
			t.Fatalf("%+v, then %+v", want, got)
		}
	}
}
