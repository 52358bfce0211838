package tokenizer

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

// A bad tokenizer.json must be refused with a message that has want in it.
type bad struct{ want, file string }

// hostile are files that ask for a panic, or for more memory or time than
// their size warrants.
func hostile() []bad {
	file := func(part string) string {
		return `{` + part + `,"model":{"type":"BPE","vocab":{"a":0," ":1,"aa":2},"merges":[]}}`
	}
	steps := func(part, list string, n int, step string) string {
		return file(`"` + part + `":{"type":"Sequence","` + list + `":[` + strings.TrimSuffix(strings.Repeat(step+",", n), ",") + `]}`)
	}
	added := func(vocab, tokens string) string {
		return `{"model":{"type":"BPE","vocab":{` + vocab + `}},"added_tokens":[` + tokens + `]}`
	}
	long := strings.Repeat("a", 1025)
	return []bad{
		// An added token hides the id that vocab gives the same text.
		{"the largest id is 2000000000", added(`"a":0,"x":2000000000`, `{"id":1,"content":"x"}`)},
		{"the largest id is 2000000000", added(`"a":0`, `{"id":2000000000,"content":"x"},{"id":1,"content":"x"}`)},
		{"the largest id is 2000000000", added(`"a":0`, `{"id":2000000000,"content":"x"}`)},
		{`token "x" has the negative id -7`, added(`"a":0,"x":-7`, `{"id":1,"content":"x"}`)},
		{`added token "x" has the negative id -7`, added(`"a":0`, `{"id":-7,"content":"x"},{"id":1,"content":"x"}`)},
		{"into Go struct field", added(`"a":3000000000`, ``)},
		{"at most 1024 are supported", added(`"a":0`, `{"id":1,"content":"`+long+`"}`)},
		// Replacements of replacements.
		{"512 times as long", steps("normalizer", "normalizers", 27, `{"type":"Replace","pattern":{"String":"a"},"content":"aa"}`)},
		{"times as long", steps("normalizer", "normalizers", 9, `{"type":"Prepend","prepend":"aaaaaaaaaa"}`)},
		{"times as long", steps("pre_tokenizer", "pretokenizers", 27, `{"type":"Metaspace","replacement":"  "}`)},
		{"puts in 1025 bytes", steps("normalizer", "normalizers", 1, `{"type":"Replace","pattern":{"String":"a"},"content":"`+long+`"}`)},
		{"puts in 1025 bytes", steps("normalizer", "normalizers", 1, `{"type":"Prepend","prepend":"`+long+`"}`)},
		{"puts in 1025 bytes", steps("pre_tokenizer", "pretokenizers", 1, `{"type":"Metaspace","replacement":"`+long+`"}`)},
		{"more than 64", steps("normalizer", "normalizers", 64, `{"type":"NFC"}`)},
		{"more than 64", steps("pre_tokenizer", "pretokenizers", 64, `{"type":"Digits","individual_digits":true}`)},
		{"more than 64", file(`"normalizer":` + strings.Repeat(`{"type":"Sequence","normalizers":[`, 65) + strings.Repeat(`]}`, 65))},
		{"exceeded max depth", strings.Repeat(`{"normalizer":`, 20000)},
		{"is not one of those known", file(`"pre_tokenizer":{"type":"Split","pattern":{"Regex":"(a*)*b"},"behavior":"Isolated"}`)},
		{"only one, at the beginning", file(`"decoder":{"type":"Strip","content":"a","start":2000000000}`)},
		{"merge 0", `{"model":{"type":"BPE","vocab":{"a":0},"merges":[["a",""]]}}`},
		{"merge 0", `{"model":{"type":"BPE","vocab":{"a":0},"merges":[["a","a"]]}}`},
		{"has 3 parts", `{"model":{"type":"BPE","vocab":{"a":0},"merges":[["a","a","a"]]}}`},
		{"neither", `{"model":{"type":"BPE","vocab":{"a":0},"merges":[1]}}`},
		{"outside the vocabulary", file(`"post_processor":{"type":"TemplateProcessing","single":[{"SpecialToken":{"id":"x"}}],"special_tokens":{"x":{"ids":[-1]}}}`)},
	}
}

func TestHostile(t *testing.T) {
	for i, c := range hostile() {
		tok, err := Load([]byte(c.file))
		if err == nil || !strings.Contains(err.Error(), c.want) || !strings.HasPrefix(err.Error(), "tokenizer.json: ") {
			t.Errorf("case %d (%.60s): %v, %v; want %q", i, c.file, tok, err, c.want)
		} else if len(err.Error()) > 400 {
			t.Errorf("case %d: a message of %d bytes: %.80s", i, len(err.Error()), err)
		}
	}
	var many []AddedToken
	for i := range maxAdded/maxAddedToken + 1 {
		many = append(many, AddedToken{ID: int32(i), Content: fmt.Sprintf("%01024d", i)})
	}
	if err := checkAdded(many); err == nil || !strings.Contains(err.Error(), "together") {
		t.Errorf("many added tokens: %v", err)
	}
}

// TestStripLinear: tokens that swallow whitespace and are whitespace look at
// each byte once, not once for each of them.
func TestStripLinear(t *testing.T) {
	const n = 1 << 20
	for _, side := range []string{"lstrip", "rstrip"} {
		tok, err := Load([]byte(`{"model":{"type":"BPE","vocab":{"a":0}},"added_tokens":[{"id":1,"content":" ","` + side + `":true}]}`))
		if err != nil {
			t.Fatal(err)
		}
		if ids := tok.Encode(strings.Repeat(" ", n)); len(ids) != n {
			t.Errorf("%s: %d ids for %d tokens", side, len(ids), n)
		}
		ids, spans := tok.EncodeSpans("a   a")
		if !slices.Equal(ids, []int32{0, 1, 1, 1, 0}) || spans[0] != [2]int{0, 1} || spans[4] != [2]int{4, 5} {
			t.Errorf("%s: %v, %v", side, ids, spans)
		}
		for i, s := range spans {
			if s[0] > s[1] || i > 0 && s[0] < spans[i-1][0] {
				t.Errorf("%s: spans %v", side, spans)
			}
		}
	}
}

// TestSharedIDs: a token that is in the vocabulary and added with another id
// encodes to the one that was added, and both ids can be read.
func TestSharedIDs(t *testing.T) {
	tok, err := Load([]byte(`{"model":{"type":"BPE","vocab":{"a":0,"x":5,"b":2,"ab":0},"merges":[["a","b"]]},"added_tokens":[{"id":1,"content":"x"},{"id":4,"content":"x"}]}`))
	if err != nil {
		t.Fatal(err)
	}
	if id, ok := tok.TokenID("x"); id != 4 || !ok || tok.VocabSize() != 6 {
		t.Errorf("x is %d, %v of %d", id, ok, tok.VocabSize())
	}
	if ids := tok.Encode("ababx"); !slices.Equal(ids, []int32{0, 0, 4}) {
		t.Errorf("ids %v", ids)
	}
	for _, id := range []int32{1, 4, 5} {
		if s := tok.TokenString(id); s != "x" {
			t.Errorf("token %d is %q", id, s)
		}
	}
}
