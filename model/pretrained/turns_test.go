package pretrained_test

import (
	"os"
	"path/filepath"
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
