package tokenizer

import (
	"bytes"
	"encoding/json"
	"slices"
	"testing"
)

// TestSpelling: the hash is of what the ids in use are, and of nothing else.
func TestSpelling(t *testing.T) {
	f := load(t)
	for name, raw := range f.Tokenizers {
		tok := f.tokenizer(t, name)
		text := tok.Encode("the licence of the software")
		of := func(tok *Tokenizer, ids ...[]int32) [32]byte { return tok.Spelling(slices.Values(ids)) }
		want := of(tok, text)
		if of(tok, text[1:], text) != want || of(tok, text, nil, text[:2]) != want {
			t.Errorf("%s: the order or number of rows counts", name)
		}
		if of(tok, text, []int32{int32(tok.VocabSize()) + 3}) == want || of(tok, []int32{text[0]}) == want {
			t.Errorf("%s: other ids have the same hash", name)
		}
		var flat bytes.Buffer
		if err := json.Indent(&flat, raw, "", "\t"); err != nil {
			t.Fatal(err)
		}
		if same, err := Load(flat.Bytes()); err != nil || of(same, text) != want {
			t.Errorf("%s: another layout of the file is another tokenizer: %v", name, err)
		}
		unused := slices.IndexFunc(tok.tokens, func(s string) bool { id, ok := tok.ids[s]; return ok && !slices.Contains(text, id) })
		if tok.tokens[unused] += "x"; of(tok, text) != want {
			t.Errorf("%s: a token that does not occur counts", name)
		}
		if tok.tokens[text[0]] += "x"; of(tok, text) == want {
			t.Errorf("%s: another token under the same id has the same hash", name)
		}
	}
}
