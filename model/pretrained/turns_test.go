package pretrained_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"pipe/model/modeltest"
	"pipe/model/pretrained"
)

// TestTurnTokens: the tokens of a conversation differ where the template writes
// others, and not where the tokenizer differs elsewhere.
func TestTurnTokens(t *testing.T) {
	const marks = "{{ '<|im_start|>' + m.role + m.content + '<|im_end|>' }}"
	each := func(body string) string { return "{% for m in messages %}" + body + "{% endfor %}" }
	turns := func(template, from, to string) (sum [32]byte, ok bool) {
		t.Helper()
		dir := modeltest.Directory(t, false)
		name := filepath.Join(dir, "tokenizer.json")
		b, err := os.ReadFile(name)
		if err == nil {
			err = os.WriteFile(name, []byte(strings.ReplaceAll(string(b), from, to)), 0o666)
		}
		if err == nil && template != "" {
			err = os.WriteFile(filepath.Join(dir, "chat_template.jinja"), []byte(template), 0o666)
		}
		if err != nil {
			t.Fatal(err)
		}
		m, err := pretrained.Open(dir)
		if err != nil {
			t.Fatal(err)
		}
		defer m.Close()
		return m.TurnTokens()
	}
	strict := each("{% if m.role == 'system' %}{{ raise_exception('no system') }}{% endif %}" + marks)
	for _, template := range []string{"", each(marks), strict} {
		was, ok := turns(template, "none", "none")
		if !ok {
			t.Errorf("%q: it does not tell", template)
		}
		if is, _ := turns(template, "im_start", "reserved"); is == was {
			t.Errorf("%q: text and token are alike", template)
		}
		if is, _ := turns(template, "endoftext", "reserved"); is != was {
			t.Errorf("%q: a token that is not written matters", template)
		}
	}
	if _, ok := turns("{{ raise_exception('nobody') }}", "none", "none"); ok {
		t.Error("a template that renders nothing tells")
	}
}

// document returns a directory whose model ends texts at <|endoftext|> (256) only, as
// base models do, with a chat template.
func document(t *testing.T, template string) string {
	t.Helper()
	dir := modeltest.Directory(t, true)
	edit := func(name string, change func(map[string]any)) {
		t.Helper()
		path, c := filepath.Join(dir, name), map[string]any{}
		b, err := os.ReadFile(path)
		if err == nil {
			err = json.Unmarshal(b, &c)
		}
		if change(c); err == nil {
			b, err = json.Marshal(c)
		}
		if err == nil {
			err = os.WriteFile(path, b, 0o666)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	edit("config.json", func(c map[string]any) { c["eos_token_id"] = 256 })
	edit("tokenizer_config.json", func(c map[string]any) {
		c["eos_token"] = "<|endoftext|>"
		c["chat_template"] = template
	})
	return dir
}

// TestEndOfTurn: a text ends where the template ends what the assistant says, also
// where the model knows of no such end.
func TestEndOfTurn(t *testing.T) {
	each := func(body string) string { return "{% for m in messages %}" + body + "{% endfor %}" }
	for template, want := range map[string]int32{
		each("{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}"):                    258,
		each("{{ m.role + ': ' + m.content }} {{ eos_token }}"):                                      256,
		each("{{ m.content + '\n' }}{% if m.role == 'assistant' %}{{ '<|im_end|>' }}{% endif %}"):    258,
		each("{{ m.role + ': ' + m.content + '\n' }}") + "<|im_end|>":                                258,
		each("{{ m.role + ': ' + m.content + '\n\n' }}"):                                             -1,
		each("{{ m.role + ': ' + m.content + '</end>' }}") + "<|im_end|>":                            -1,
		each("{{ '<|im_start|>' + m.role + '<|im_end|>' + m.content }}"):                             -1,
		each("{% if m.role != 'assistant' %}{{ m.content + '<|im_end|>' }}{% endif %}"):              -1,
		each("{% if m.role == 'assistant' %}{{ raise_exception('no') }}{% endif %}{{ m.content }}"):  -1,
		each("{{ '<|im_start|>' + m.content + ('<|im_end|>' if m.role == 'user' else bos_token) }}"): 256,
		"": -1,
	} {
		dir := document(t, template)
		name := filepath.Join(dir, "tokenizer.json") // in which white space is added tokens
		data, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		spaces := strings.Replace(string(data), `"added_tokens":[`, `"added_tokens":[{"id":10,"content":"\n"},{"id":32,"content":" "},`, 1)
		if err := os.WriteFile(name, []byte(spaces), 0o666); err != nil || spaces == string(data) {
			t.Fatalf("%v, or the test's change found nothing", err)
		}
		m := open(t, dir)
		eos := []int32{256}
		if want == 258 {
			eos = append(eos, want)
		}
		if m.EndOfTurn != want || !slices.Equal(m.EOS, eos) {
			t.Errorf("%q: the turn ends with %d, want %d; texts with %v", template, m.EndOfTurn, want, m.EOS)
		}
	}
}
