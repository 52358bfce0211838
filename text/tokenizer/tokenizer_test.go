package tokenizer

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"unicode/utf8"
)

// fixture is what testdata/gen.py writes.
type fixture struct {
	Gen        string                     `json:"gen"`
	Cases      []string                   `json:"cases"`
	Tokenizers map[string]json.RawMessage `json:"tokenizers_json"`
	Results    map[string][]struct {
		IDs     []int32 `json:"ids"`
		Wrapped []int32 `json:"wrapped"` // the first id with add_special_tokens
		Plain   []int32 `json:"plain"`   // with encode_special_tokens, where it differs
		Text    string  `json:"text"`
		Skipped string  `json:"skipped"`
	} `json:"results"`
	Train struct {
		Texts  []string    `json:"texts"`
		Merges [][2]string `json:"tokenizer"`
	} `json:"train"`
}

func load(t testing.TB) *fixture {
	t.Helper()
	data, err := os.ReadFile("testdata/fixture.json")
	if err != nil {
		t.Fatal(err)
	}
	var f fixture
	if err := json.Unmarshal(data, &f); err != nil {
		t.Fatal(err)
	}
	gen, err := os.ReadFile("testdata/gen.py")
	if err != nil {
		t.Fatal(err)
	}
	if sum := sha256.Sum256(gen); hex.EncodeToString(sum[:]) != f.Gen {
		t.Fatal("testdata/fixture.json was not made by testdata/gen.py as it is now; run it again")
	}
	return &f
}

func (f *fixture) tokenizer(t testing.TB, name string) *Tokenizer {
	t.Helper()
	tok, err := Load(f.Tokenizers[name])
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return tok
}

// TestFixture compares ids and texts with Hugging Face tokenizers.
func TestFixture(t *testing.T) {
	f := load(t)
	if len(f.Results) != 8 {
		t.Fatalf("%d tokenizers", len(f.Results))
	}
	began := false // some tokenizer put a space before a text, and none before one that goes on
	for name, results := range f.Results {
		tok := f.tokenizer(t, name)
		for i, r := range results {
			text := f.Cases[i]
			ids := tok.Encode(text)
			if !slices.Equal(ids, r.IDs) {
				t.Errorf("%s: %q:\n got %q\nwant %q", name, text, pieces(tok, ids), pieces(tok, r.IDs))
			}
			want := r.Plain
			if want == nil {
				want = r.IDs
			}
			if plain := tok.EncodePlain(text); !slices.Equal(plain, want) {
				t.Errorf("%s: plain %q:\n got %q\nwant %q", name, text, pieces(tok, plain), pieces(tok, want))
			}
			if got := tok.Decode(r.IDs); got != r.Text {
				t.Errorf("%s: decoded %q, want %q", name, got, r.Text)
			}
			if got := tok.DecodePlain(r.IDs); got != r.Skipped {
				t.Errorf("%s: decoded without specials %q, want %q", name, got, r.Skipped)
			}
			if w := tok.EncodeWrapped(text); len(r.Wrapped) > 0 && (w[0] != r.Wrapped[0] || w[len(w)-1] != 2) {
				t.Errorf("%s: wrapped %q: %v", name, text, w)
			}
			more := tok.EncodeMore(text)
			if text != "" && text[0] >= 'a' && text[0] <= 'z' && spaced(tok, more) || !spaced(tok, ids) && !slices.Equal(more, ids) {
				t.Errorf("%s: %q goes on as %q", name, text, pieces(tok, more))
			}
			began = began || spaced(tok, ids) && !spaced(tok, more)
			spanned, spans := tok.EncodeSpans(text)
			if !slices.Equal(spanned, ids) || len(spans) != len(ids) {
				t.Fatalf("%s: %q: other ids with spans", name, text)
			}
			checkSpans(t, name, text, spans)
			if name != "nfc" && name != "llama2" && name != "metaspace" && name != "gpt2" && name != "smollm2" { // smollm2 drops bytes
				checkTexts(t, tok, text, ids, spans)
			}
		}
	}
	if !began {
		t.Error("no tokenizer begins a text with a space")
	}
}

// spaced reports whether the first of ids begins with a space.
func spaced(tok *Tokenizer, ids []int32) bool {
	return len(ids) > 0 && (strings.HasPrefix(tok.TokenString(ids[0]), "▁") || strings.HasPrefix(tok.TokenString(ids[0]), "Ġ"))
}

func pieces(tok *Tokenizer, ids []int32) (out []string) {
	for _, id := range ids {
		out = append(out, tok.TokenString(id))
	}
	return out
}

func checkSpans(t *testing.T, name, text string, spans [][2]int) {
	t.Helper()
	at := 0
	for i, s := range spans {
		if s[0] < 0 || s[0] > s[1] || s[1] > len(text) || s[1] < at {
			t.Fatalf("%s: %q: span %d is %v", name, text, i, s)
		}
		at = s[1]
	}
}

// checkTexts holds each span against what its token decodes to.
func checkTexts(t *testing.T, tok *Tokenizer, text string, ids []int32, spans [][2]int) {
	t.Helper()
	for i, s := range spans {
		got := text[s[0]:s[1]]
		if want := string(tok.DecodeBytes(ids[i : i+1])); got != want && strings.TrimSpace(got) != want {
			t.Errorf("%q: token %d, %q, has the bytes %q", text, i, want, got)
		}
	}
}

// TestStream: the pieces join to the decoded text and each is valid UTF-8.
func TestStream(t *testing.T) {
	f := load(t)
	for name := range f.Results {
		tok := f.tokenizer(t, name)
		rng := rand.New(rand.NewPCG(1, 2))
		for range 300 {
			ids := make([]int32, rng.IntN(12))
			for i := range ids {
				ids[i] = int32(rng.IntN(tok.VocabSize()))
			}
			for _, plain := range []bool{false, true} {
				want := tok.Decode(ids)
				if plain {
					want = tok.DecodePlain(ids)
				}
				s := tok.NewStream(plain)
				var got strings.Builder
				for _, id := range ids {
					p := s.Push(id)
					if !utf8.ValidString(p) {
						t.Fatalf("%s: pushed %q", name, p)
					}
					got.WriteString(p)
				}
				got.WriteString(s.Flush())
				if got.String() != want {
					t.Fatalf("%s: %v: streamed %q, want %q", name, ids, got.String(), want)
				}
			}
		}
	}
}

// TestInvalidUTF8: bytes that are no text come back as they were, and show as
// U+FFFD, one for each maximal part of a character.
func TestInvalidUTF8(t *testing.T) {
	tok := load(t).tokenizer(t, "llama3")
	for in, shown := range map[string]string{
		"a\xffb": "a\uFFFDb", "\xe2\x82": "\uFFFD", "\xe2\x82\xe2\x82\xac": "\uFFFD€", "\xed\xa0\x80": "\uFFFD\uFFFD\uFFFD",
		"\xf0\x9f\x98 x": "\uFFFD x", "\xc3(": "\uFFFD(", "\x80\x80": "\uFFFD\uFFFD", "\xf4\x90\x80\x80": "\uFFFD\uFFFD\uFFFD\uFFFD",
	} {
		ids := tok.Encode(in)
		if got := string(tok.DecodeBytes(ids)); got != in {
			t.Errorf("%q came back as %q", in, got)
		}
		if got := tok.Decode(ids); got != shown {
			t.Errorf("%q shows as %q, want %q", in, got, shown)
		}
	}
}

// TestLongWord: a word of a megabyte takes n log n steps; the ids are those of
// the quadratic loop for short ones.
func TestLongWord(t *testing.T) {
	tok := load(t).tokenizer(t, "smollm2")
	long := strings.Repeat("thelicencegrants", 1<<16)
	ids := tok.Encode(long)
	if tok.Decode(ids) != long {
		t.Error("a long word does not come back")
	}
	e := &encoder{bpe: tok.bpe, cache: map[string][]int32{}}
	rng := rand.New(rand.NewPCG(3, 4))
	for range 500 {
		b := make([]byte, 2+rng.IntN(100))
		for i := range b {
			b[i] = "thelicnsugra "[rng.IntN(13)]
		}
		e.split(string(b))
		short := e.mergeShort(nil)
		e.split(string(b))
		if got := e.mergeLong(nil); !slices.Equal(got, short) {
			t.Fatalf("%q: heap %v, scan %v", b, got, short)
		}
	}
}

func TestConcurrent(t *testing.T) {
	f := load(t)
	tok := f.tokenizer(t, "llama4")
	var wg sync.WaitGroup
	for range 4 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			for range 20 {
				for i, c := range f.Cases {
					if !slices.Equal(tok.Encode(c), f.Results["llama4"][i].IDs) {
						t.Errorf("%q differs", c)
					}
				}
			}
		}()
	}
	wg.Wait()
}

// TestTrain: the trainer learns the merges that the Hugging Face trainer
// learns, loads again, and is deterministic.
func TestTrain(t *testing.T) {
	f := load(t)
	specials := []string{"<|endoftext|>", "<|im_start|>", "<|im_end|>"}
	data, err := Train(f.Train.Texts, 365, specials, SmolLM2)
	if err != nil {
		t.Fatal(err)
	}
	var got struct{ Model struct{ Merges merges } }
	if err := json.Unmarshal(data, &got); err != nil {
		t.Fatal(err)
	}
	if len(got.Model.Merges) != 365-256-3 {
		t.Errorf("%d merges", len(got.Model.Merges))
	}
	for i, m := range got.Model.Merges {
		if i >= len(f.Train.Merges) || m != f.Train.Merges[i] {
			t.Fatalf("merge %d is %q, want %q", i, m, f.Train.Merges[i])
		}
	}
	again, err := Train(f.Train.Texts, 365, specials, SmolLM2)
	if err != nil || string(again) != string(data) {
		t.Errorf("a second training differs (%v)", err)
	}
	tok, err := Load(data)
	if err != nil {
		t.Fatal(err)
	}
	if id, ok := tok.TokenID("<|im_end|>"); !ok || id != 2 || !tok.IsSpecial(2) || tok.VocabSize() != 365 {
		t.Errorf("special token: %d, %v; %d tokens", id, ok, tok.VocabSize())
	}
	for _, c := range f.Cases {
		if got := tok.Decode(tok.Encode(c)); got != c {
			t.Errorf("%q came back as %q", c, got)
		}
	}
	if _, err := Train(nil, 100, specials, GPT2); err == nil {
		t.Error("100 tokens for 256 bytes are accepted")
	}
	if _, err := Train(nil, 300, specials, "whitespace"); err == nil {
		t.Error("an unknown pattern is accepted")
	}
}

// TestSpec: the tokenizer of GGUF metadata is that of the tokenizer.json.
func TestSpec(t *testing.T) {
	f := load(t)
	for name, pre := range map[string]string{"smollm2": "smollm", "llama4": "llama4"} {
		var m struct {
			Model struct {
				Vocab  map[string]int32
				Merges [][2]string
			}
		}
		if err := json.Unmarshal(f.Tokenizers[name], &m); err != nil {
			t.Fatal(err)
		}
		s := Spec{Model: "gpt2", Pre: pre, Tokens: make([]string, len(m.Model.Vocab)), Types: make([]int32, len(m.Model.Vocab)), BOS: 0, EOS: 2, UNK: -1, AddBOS: true}
		for tok, id := range m.Model.Vocab {
			s.Tokens[id], s.Types[id] = tok, typeNormal
			if id < 3 {
				s.Types[id] = typeControl
			}
		}
		for _, p := range m.Model.Merges {
			s.Merges = append(s.Merges, p[0]+" "+p[1])
		}
		tok, err := FromSpec(s)
		if err != nil {
			t.Fatal(err)
		}
		for i, c := range f.Cases {
			if got := tok.Encode(c); !slices.Equal(got, f.Results[name][i].IDs) {
				t.Errorf("%s: %q: %q", name, c, pieces(tok, got))
			}
		}
		if w := tok.EncodeWrapped("x"); w[0] != 0 {
			t.Errorf("%s: wrapped %v", name, w)
		}
	}
}

// TestSentencePiece: neighbours with the best score join first, bytes stand in
// for characters without a token.
func TestSentencePiece(t *testing.T) {
	s := Spec{Model: "llama", BOS: 1, EOS: 2, UNK: 0, AddBOS: true}
	add := func(tok string, kind int32, score float32) {
		s.Tokens, s.Types, s.Scores = append(s.Tokens, tok), append(s.Types, kind), append(s.Scores, score)
	}
	add("<unk>", typeUnknown, 0)
	add("<s>", typeControl, 0)
	add("</s>", typeControl, 0)
	for b := range 256 {
		add("<0x"+strings.ToUpper(hex.EncodeToString([]byte{byte(b)}))+">", typeByte, 0)
	}
	for i, tok := range []string{"▁t", "he", "▁the", "ab", "bc", "▁", "t", "h", "e", "a", "b", "c"} {
		add(tok, typeNormal, -float32(i))
	}
	tok, err := FromSpec(s)
	if err != nil {
		t.Fatal(err)
	}
	for text, want := range map[string][]string{
		"the":   {"▁the"},
		"abc":   {"▁", "ab", "c"},
		"the é": {"▁the", "▁", "<0xC3>", "<0xA9>"},
		"":      nil,
	} {
		if text == "the" {
			if got := pieces(tok, tok.EncodeMore(text)); !slices.Equal(got, []string{"t", "he"}) {
				t.Errorf("%q goes on as %q", text, got)
			}
		}
		ids := tok.Encode(text)
		if got := pieces(tok, ids); !slices.Equal(got, want) {
			t.Errorf("%q: %q, want %q", text, got, want)
		}
		if got := tok.Decode(ids); got != text {
			t.Errorf("%q decodes to %q", text, got)
		}
	}
	if w := tok.EncodeWrapped("the"); w[0] != 1 || len(w) != 2 {
		t.Errorf("wrapped %v", w)
	}
}

// TestErrors: what is wrong or not supported is named.
func TestErrors(t *testing.T) {
	model := `"model":{"type":"BPE","vocab":{"a":0,"b":1,"ab":2},"merges":["a b"]}`
	for in, want := range map[string]string{
		``: "tokenizer.json", `{"model":{"type":"WordPiece"}}`: `"WordPiece"`, `{"model":{"type":"BPE","vocab":{}}}`: "empty",
		`{"model":{"type":"BPE","vocab":{"a":-1}}}`:                                                                                          "negative",
		`{"model":{"type":"BPE","vocab":{"a":2000000000}}}`:                                                                                  "largest id",
		`{"model":{"type":"BPE","vocab":{"a":0},"merges":["a b"]}}`:                                                                          "merge 0",
		`{"model":{"type":"BPE","vocab":{"a":0},"merges":["ab"]}}`:                                                                           "merge 0",
		`{"model":{"type":"BPE","vocab":{"a":0},"unk_token":"?"}}`:                                                                           "unk_token",
		`{"pre_tokenizer":{"type":"Split","pattern":{"Regex":"x+"},"behavior":"Isolated"},` + model:                                          `"x+"`,
		`{"pre_tokenizer":{"type":"BertPreTokenizer"},` + model:                                                                              "BertPreTokenizer",
		`{"normalizer":{"type":"Sequence","normalizers":[null]},` + model:                                                                    "null",
		`{"decoder":{"type":"CTC"},` + model:                                                                                                 "CTC",
		`{"post_processor":{"type":"TemplateProcessing","single":[{"SpecialToken":{"id":"x"}}],"special_tokens":{"x":{"ids":[9]}}},` + model: "id 9",
	} {
		if strings.HasSuffix(in, model) {
			in += "}"
		}
		if _, err := Load([]byte(in)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %s", in, err, want)
		}
	}
	for want, s := range map[string]Spec{
		"token types": {Model: "gpt2", Tokens: []string{"a"}, Types: []int32{1, 1}},
		"twice":       {Model: "gpt2", Tokens: []string{"a", "a"}},
		`"bert"`:      {Model: "bert", Tokens: []string{"a"}},
		`"starcoder"`: {Model: "gpt2", Pre: "starcoder", Tokens: []string{"a"}},
		"scores":      {Model: "llama", Tokens: []string{"a"}},
		"bos":         {Model: "gpt2", Tokens: []string{"a"}, AddBOS: true, BOS: 7},
	} {
		if _, err := FromSpec(s); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %v, want %s", s, err, want)
		}
	}
}

func FuzzLoad(f *testing.F) {
	f.Add([]byte(`{"model":{"type":"BPE","vocab":{"a":0,"b":1,"ab":2},"merges":[["a","b"]]},"pre_tokenizer":{"type":"Metaspace","replacement":"_"},"added_tokens":[{"id":1,"content":"b","lstrip":true}]}`))
	for _, c := range hostile() {
		f.Add([]byte(c.file))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		tok, err := Load(data)
		if err != nil {
			return
		}
		const text = "ab  b <0x41> é\n"
		ids, spans := tok.EncodeSpans(text)
		tok.Decode(ids)
		if len(ids) != len(spans) {
			t.Fatalf("%d ids, %d spans", len(ids), len(spans))
		}
		for i, s := range spans {
			if s[0] < 0 || s[0] > s[1] || s[1] > len(text) || ids[i] < 0 || int(ids[i]) >= tok.VocabSize() {
				t.Fatalf("id %d of %d, span %v of %d bytes", ids[i], tok.VocabSize(), s, len(text))
			}
		}
	})
}

func FuzzEncode(f *testing.F) {
	fix := load(f)
	for _, c := range fix.Cases {
		f.Add(c)
	}
	toks := []*Tokenizer{fix.tokenizer(f, "llama4")}
	data, err := Train(fix.Train.Texts[:50], 400, []string{"<|x|>"}, Llama3)
	if err != nil {
		f.Fatal(err)
	}
	tok, err := Load(data)
	if err != nil {
		f.Fatal(err)
	}
	toks = append(toks, tok)
	f.Fuzz(func(t *testing.T, text string) {
		for _, tok := range toks {
			ids, spans := tok.EncodeSpans(text)
			if got := string(tok.DecodeBytes(ids)); got != text {
				t.Fatalf("%q came back as %q", text, got)
			}
			if utf8.ValidString(text) && tok.Decode(ids) != text {
				t.Fatalf("%q decodes to %q", text, tok.Decode(ids))
			}
			at := 0
			for i, s := range spans {
				if s[0] != at || s[1] < s[0] {
					t.Fatalf("%q: span %d is %v, after %d", text, i, s, at)
				}
				at = s[1]
			}
			if at != len(text) || !slices.Equal(tok.EncodePlain(text), tok.EncodePlain(text)) {
				t.Fatalf("%q: spans end at %d", text, at)
			}
		}
	})
}

func BenchmarkEncode(b *testing.B) {
	f := load(b)
	tok := f.tokenizer(b, "llama3")
	text := strings.Join(f.Train.Texts, "")
	b.SetBytes(int64(len(text)))
	for b.Loop() {
		tok.Encode(text)
	}
}
