package chat

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"pipe/text/tokenizer"
)

func source(t testing.TB, name string) string {
	t.Helper()
	b, err := os.ReadFile("testdata/templates/" + name + ".jinja")
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func parse(t testing.TB, src string) *Template {
	t.Helper()
	tpl, err := Parse(src)
	if err != nil {
		t.Fatal(err)
	}
	return tpl
}

var special = map[string]string{"bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>"}

func talk(turns ...string) (in Input) {
	in.Special = special
	for i, s := range turns {
		in.Messages = append(in.Messages, Message{Role: []string{"user", "assistant"}[i%2], Content: s})
	}
	return in
}

// TestSpansWithoutEndOfTurn: where a template ends turns with a line feed alone,
// that is what is learned of their end, whatever was said last.
func TestSpansWithoutEndOfTurn(t *testing.T) {
	tpl := parse(t, "{% for m in messages %}{{ 'A: ' if m['role'] == 'assistant' else 'Q: ' }}{{ m['content'] | trim }}{{ '\n' }}{% endfor %}{% if add_generation_prompt %}{{ 'A: ' }}{% endif %}")
	r, err := tpl.Render(talk("a", "one", "b", "<b>two</b> ", "c", "<|im_end|>"))
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, s := range r.Assistant {
		got = append(got, r.Text[s[0]:s[1]])
	}
	if want := []string{"one\n", "<b>two</b>\n", "<|im_end|>\n"}; !slices.Equal(got, want) {
		t.Errorf("got %q; want %q", got, want)
	}
}

// TestSpans: what the assistant says, with its end of turn, whether marked by
// the template or found by rendering beginnings.
func TestSpans(t *testing.T) {
	for name, want := range map[string][]string{
		"chatml":            {" one\n<|im_end|>", "two<|im_end|>"},
		"llama3":            {"one<|eot_id|>", "two<|eot_id|>"},
		"llama3_1":          {"one<|eot_id|>", "two<|eot_id|>"},
		"llama3_generation": {"one<|eot_id|>", "two<|eot_id|>"},
		"llama4":            {" one\n<|eot|>", "two<|eot|>"},
	} {
		tpl := parse(t, source(t, name))
		in := talk("a", " one\n", "b", "two", "c")
		in.AddGenerationPrompt = true
		r, err := tpl.Render(in)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		var got []string
		for _, s := range r.Assistant {
			got = append(got, r.Text[s[0]:s[1]])
		}
		if strings.Join(got, "|") != strings.Join(want, "|") {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
	// A template that shows the number of turns renders no beginning alike.
	tpl := parse(t, `{{ messages | length }}{% for m in messages %}{{ m.content }}{% endfor %}`)
	if _, err := tpl.Render(talk("a", "b")); err == nil || !strings.Contains(err.Error(), "generation") {
		t.Errorf("spans of a template that looks ahead: %v", err)
	}
}

// TestTokenize: the mask covers the tokens of the spans, ends included.
func TestTokenize(t *testing.T) {
	data, err := tokenizer.Train([]string{strings.Repeat("what does the assistant say to the user one two ", 20)}, 300,
		[]string{"<|begin_of_text|>", "<|eot_id|>", "<|start_header_id|>", "<|end_header_id|>", "<|im_start|>", "<|im_end|>"}, tokenizer.GPT2)
	if err != nil {
		t.Fatal(err)
	}
	// A letter that is composed to é is two tokens, and comes as one character.
	composing := bytes.Replace(data, []byte(`"normalizer":null`), []byte(`"normalizer":{"type":"NFC"}`), 1)
	if bytes.Equal(composing, data) {
		t.Fatal("the tokenizer has a normalizer")
	}
	for _, c := range []struct {
		name, say, want string
		data            []byte
	}{
		{"llama3_generation", "one é", "one é<|eot_id|>two<|eot_id|>", data},
		{"chatml", "one é", "one é<|im_end|>two<|im_end|>", data},
		{"chatml", "e\u0301", "é<|im_end|>two<|im_end|>", composing},
	} {
		name, want := c.name, c.want
		tok, err := tokenizer.Load(c.data)
		if err != nil {
			t.Fatal(err)
		}
		ids, mask, err := parse(t, source(t, name)).Tokenize(tok, talk("a", c.say, "b", "two"))
		if err != nil {
			t.Fatal(err)
		}
		var said []int32
		for i, id := range ids {
			if mask[i] {
				said = append(said, id)
			}
		}
		if got := tok.Decode(said); got != want || len(mask) != len(ids) {
			t.Errorf("%s: masked %q, want %q", name, got, want)
		}
	}
}

// TestTokenizeLast: where earlier turns are written in another way than the last, that is told
// apart, with marks and without.
func TestTokenizeLast(t *testing.T) {
	tok, err := tokenizer.Load(must(tokenizer.Train([]string{"what does the assistant say"}, 300, []string{"<|im_end|>"}, tokenizer.GPT2)))
	if err != nil {
		t.Fatal(err)
	}
	const each = "{% for m in messages %}{{ m.role }}: {% if m.role == 'assistant' and loop.last %}hm {% endif %}{{ m.content }}<|im_end|>{% endfor %}"
	const ask = "{% if add_generation_prompt %}assistant: {% endif %}"
	const marks = "{% for m in messages %}{{ m.role }}: {% if m.role == 'assistant' %}{% generation %}{% if loop.last %}hm {% endif %}{{ m.content }}<|im_end|>{% endgeneration %}{% else %}{{ m.content }}<|im_end|>{% endif %}{% endfor %}"
	for template, want := range map[string]string{each + ask: "hm two<|im_end|>", marks + ask: "hm two<|im_end|>", marks: "hm two<|im_end|>"} {
		ids, mask, err := parse(t, template).TokenizeLast(tok, talk("a", "one", "b", "two"))
		if err != nil {
			t.Fatal(err)
		}
		var said []int32
		for i, id := range ids {
			if mask[i] {
				said = append(said, id)
			}
		}
		if got := tok.Decode(said); got != want {
			t.Errorf("%s: %q, want %q", template, got, want)
		}
	}
	if _, _, err := parse(t, each+ask).Tokenize(tok, talk("a", "one", "b", "two")); !errors.Is(err, ErrHistory) {
		t.Errorf("got %v, want ErrHistory", err)
	}
	// What TokenizeLast does not take either is another fault.
	thinks := parse(t, each+"{% if add_generation_prompt %}assistant: <think>{% endif %}")
	for _, tokenize := range []func(Encoder, Input) ([]int32, []bool, error){thinks.Tokenize, thinks.TokenizeLast} {
		if _, _, err := tokenize(tok, talk("a", "one")); err == nil || errors.Is(err, ErrHistory) || !strings.Contains(err.Error(), "in other words than it begins it with") {
			t.Errorf("got %v", err)
		}
	}
	for template, in := range map[string]Input{each: talk("a", "one", "b"), each + "{% if add_generation_prompt %}else{% endif %}": talk("a", "one")} {
		if _, _, err := parse(t, template).TokenizeLast(tok, in); err == nil {
			t.Errorf("%s: no error", template)
		}
	}
}

func must(data []byte, err error) []byte {
	if err != nil {
		panic(err)
	}
	return data
}

// TestHostile: templates that would run forever, fill memory or the stack are
// stopped with an error.
func TestHostile(t *testing.T) {
	deep := strings.Repeat("(", 5000) + "1" + strings.Repeat(")", 5000)
	for name, src := range map[string]string{
		"loops":     `{% for a in range(99999) %}{% for b in range(99999) %}{% for c in range(99999) %}{% endfor %}{% endfor %}{% endfor %}`,
		"recursion": `{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}`,
		"repeat":    `{{ 'x' * 99999999999 }}`,
		"doubling":  `{% set ns = namespace(s='xxxxxxxx') %}{% for i in range(99) %}{% set ns.s = ns.s + ns.s %}{% endfor %}`,
		"lists":     `{% set ns = namespace(s=[1]) %}{% for i in range(99) %}{% set ns.s = ns.s + ns.s %}{% endfor %}`,
		"nesting":   `{% set ns = namespace(s=[]) %}{% for i in range(9999) %}{% set ns.s = [ns.s] %}{% endfor %}{{ ns.s }}`,
		"tojson":    `{% set ns = namespace(s=[]) %}{% for i in range(9999) %}{% set ns.s = [ns.s] %}{% endfor %}{{ ns.s | tojson }}`,
		"self":      `{% set ns = namespace() %}{% set ns.me = ns %}{{ ns }}`,
		"replace":   `{% set s = 'a' * 9999 %}{{ s.replace('a', s).replace('a', s) }}`,
		"range":     `{{ range(10 ** 15) }}`,
		"overflow":  `{{ 9223372036854775807 + 1 }}`,
		"zero":      `{{ 1 // 0 }}`,
		"mutation":  `{{ messages.append(1) }}`,
		"attribute": `{{ nothing.at.all }}`,
		"call":      `{{ messages() }}`,
		"refusal":   `{{ raise_exception('no thanks') }}`,
	} {
		tpl, err := Parse(src)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if _, err := tpl.Render(talk("a")); err == nil || !strings.Contains(err.Error(), "line 1") {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, src := range map[string]string{
		"parentheses": "{{ " + deep + " }}", "not": "{{ " + strings.Repeat("not ", 9999) + "1 }}", "minus": "{{ " + strings.Repeat("-", 9999) + "1 }}",
		"sum": "{{ 1" + strings.Repeat("+1", 9999) + " }}", "dots": "{{ a" + strings.Repeat(".a", 9999) + " }}",
		"ifs": strings.Repeat("{% if 1 %}", 9999), "elifs": "{% if 1 %}" + strings.Repeat("{% elif 1 %}", 9999) + "{% endif %}",
		"size": strings.Repeat(" ", maxSource+1),
	} {
		if _, err := Parse(src); err == nil {
			t.Errorf("%s is accepted", name)
		}
	}
}

// TestSyntax: what is wrong is said, with its line.
func TestSyntax(t *testing.T) {
	for src, want := range map[string]string{
		"a\n{% if x %}":               "line 2: expected {% endif %}",
		"{{ x":                        "not closed with }}",
		"{# x":                        "comment",
		"{% raw %}x":                  "endraw",
		"\n\n{% import 'x' %}":        `line 3: unknown tag "import"`,
		"{{ x | nofilter }}":          `unknown filter "nofilter"`,
		"{{ x is notest }}":           `unknown test "notest"`,
		"{{ 'x }}":                    "string is not closed",
		"{{ x ? }}":                   "unexpected character",
		"{{ ) }}":                     "closes nothing",
		"{% break %}":                 "outside a for loop",
		"{% set loop = 1 %}":          "cannot be assigned",
		"{% for a in b recursive %}x": "recursive",
		"{{ f(a=1, 2) }}":             "by position",
		"{{ a[] }}":                   "empty subscript",
		"{{ 99999999999999999999 }}":  "too large",
	} {
		if _, err := Parse(src); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %s", src, err, want)
		}
	}
}

// TestInput: fields in order, replaced content, dates, and values that
// templates do not know.
func TestInput(t *testing.T) {
	calls, err := ParseJSON([]byte(`[{"z":1,"a":{"y":2.0,"x":1e400}}]`))
	if err == nil {
		t.Errorf("1e400 is read as %v", calls)
	}
	calls, err = ParseJSON([]byte(`[{"z":1,"a":{"y":2.0,"x":null}}]`))
	if err != nil {
		t.Fatal(err)
	}
	in := Input{Messages: []Message{{Role: "assistant", Content: "gone", Fields: NewDict("content", nil, "calls", calls)}}, Vars: map[string]Value{"n": 3}}
	got, err := parse(t, `{{ messages | tojson }} {{ n + 1 }} {{ strftime_now('%d %b %Y') }}`).Text(in)
	if want := `[{"role": "assistant", "content": null, "calls": [{"z": 1, "a": {"y": 2.0, "x": null}}]}] 4 26 Jul 2024`; err != nil || got != want {
		t.Errorf("%s, %v; want %s", got, err, want)
	}
	in.Date = time.Date(2031, 2, 3, 0, 0, 0, 0, time.UTC)
	if got, _ := parse(t, `{{ strftime_now('%-d.%-m.%y') }}`).Text(in); got != "3.2.31" {
		t.Errorf("date %q", got)
	}
	in.Vars["n"] = struct{}{}
	if _, err := parse(t, `x`).Text(in); err == nil {
		t.Error("a struct is accepted")
	}
	d := NewDict("b", int64(1), "a", "ü<")
	if b, err := json.Marshal(d); err != nil || string(b) != `{"b":1,"a":"ü\u003c"}` && string(b) != `{"b":1,"a":"ü<"}` {
		t.Errorf("%s, %v", b, err)
	}
	for _, bad := range []string{"", "{", "1 2", `{"a":}`, strings.Repeat("[", 999)} {
		if v, err := ParseJSON([]byte(bad)); err == nil {
			t.Errorf("%q is read as %v", bad, v)
		}
	}
}

// FuzzTemplate: no template panics, runs away or gives spans outside its text.
func FuzzTemplate(f *testing.F) {
	for _, name := range []string{"chatml", "llama3", "llama4"} {
		f.Add(source(f, name))
	}
	for _, line := range strings.Split(source(f, "language"), "\n") {
		f.Add(line)
	}
	for _, name := range slices.Sorted(maps.Keys(bombs)) {
		f.Add(bombs[name])
	}
	f.Fuzz(func(t *testing.T, src string) {
		tpl, err := Parse(src)
		if err != nil {
			return
		}
		r, err := tpl.Render(talk("a", "b "))
		if err != nil {
			return
		}
		for _, s := range r.Assistant {
			if s[0] < 0 || s[0] > s[1] || s[1] > len(r.Text) {
				t.Fatal(fmt.Sprint("span ", s, " of ", len(r.Text)))
			}
		}
	})
}
