package eval

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"pipe/model/modeltest"
	"pipe/runtime/artifact"
	"pipe/runtime/stage"
	"pipe/tensor"
	"pipe/tensor/cpu"
)

// Chat templates of models that think: one writes an empty thought before an answer
// that has none, and one begins a thought whenever it asks.
const (
	hybrid  = `{% for m in messages %}[{{ m.role }}]{% if m.role == 'assistant' and loop.last %}<think></think>{% endif %}{{ m.content }}|{% endfor %}{% if add_generation_prompt %}[assistant]{% if enable_thinking is false %}<think></think>{% endif %}{% endif %}`
	thinker = `{% for m in messages %}[{{ m.role }}]{{ m.content }}|{% endfor %}{% if add_generation_prompt %}[assistant]<think>` + "\n" + `{% endif %}`
	spaced  = `{% for m in messages %}[{{ m.role }}] {{ m.content }}|{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}`
)

func templated(t *testing.T, source string) stage.ModelPath {
	t.Helper()
	p := stage.ModelPath{Base: modeltest.Directory(t, true), Template: filepath.Join(t.TempDir(), "chat.jinja")}
	if err := os.WriteFile(p.Template, []byte(source), 0o666); err != nil {
		t.Fatal(err)
	}
	return p
}

// Answers that are given stand where the template puts them.
func TestPromptsOfGivenAnswers(t *testing.T) {
	backend := cpu.New(1)
	defer backend.Close()
	for _, c := range []struct{ name, template, asked, given, delimiter string }{
		{"hybrid", hybrid, "[user]q|[assistant]", "[user]q|[assistant]<think></think>", ""},
		{"thinker", thinker, "[user]q|[assistant]<think>\n", "[user]q|[assistant]<think>\n", ""},
		{"spaced", spaced, "[user] q|[assistant]", "[user] q|[assistant]", " "},
	} {
		s, err := openShadow(backend, templated(t, c.template), tensor.F32)
		if err != nil {
			t.Fatal(err)
		}
		q := []artifact.Message{{Role: "user", Content: "q"}}
		if asked, _, err := s.prompt(q, nil, false); err != nil || asked != c.asked {
			t.Errorf("%s: asks with %q, %v; want %q", c.name, asked, err, c.asked)
		}
		if given, delimiter, err := s.prompt(q, nil, true); err != nil || given != c.given || delimiter != c.delimiter {
			t.Errorf("%s: scores after %q and %q, %v; want %q and %q", c.name, given, delimiter, err, c.given, c.delimiter)
		}
		s.close()
	}
}

// What is compared is what is said after the thought; one that does not end says nothing.
func TestThoughtsAreNotCompared(t *testing.T) {
	rows := []artifact.Row{{ID: "a", Answer: "4"}, {ID: "b", Answer: "4"}, {ID: "c", Answer: "4"}, {ID: "d", Answer: "<think>5?</think>4"}}
	texts := []string{"<think>\n3, no: 5\n</think>\n\n4", "<think>\n4 it is\n</think>\n\n5", "<think>\n4, I", "4"}
	u := newSuite("a", stage.Dataset{})
	u.Normalizer = "number"
	r := &runner{}
	res := r.judge(&u, rows, []string{"4", "4", "4", "4"}, texts)
	var right []bool
	for _, x := range res.items {
		right = append(right, x.details["correct"].(bool))
	}
	if !slices.Equal(right, []bool{true, false, false, true}) || r.tally.Thoughts != 1 {
		t.Errorf("right are %v, and %d thoughts do not end", right, r.tally.Thoughts)
	}
	if got := res.items[1].details["got"]; got != texts[1] {
		t.Errorf("the item has %q, not the whole answer", got)
	}
	blind, err := generate(&runner{blind: true}, &u, rows)
	if err != nil || blind.metrics[0].Value != 1 {
		t.Errorf("the reference answers are not all alike: %+v, %v", blind, err)
	}
}

// Where a template lets the model think first, it is said what that does to a measure.
func TestThoughtsThatDoNotEndAreSaid(t *testing.T) {
	b := newBench(t, map[string]stage.ModelPath{"model.base": templated(t, thinker)})
	s := newStage().(*spec)
	s.Model.Addr = "model.base"
	s.Suites = []suite{newSuite("answer", b.data(questions()...)), newSuite("choice", b.data(choices()...))}
	s.Suites[0].MaxTokens = 3
	if _, _, err := b.run(s); err != nil {
		t.Fatal(err)
	}
	const advice = "template_vars = { enable_thinking = false } in its model block if its chat template knows that"
	for _, want := range []string{
		`suite "answer": 3 of 3 answers of the model ended while it was thinking, and count as empty; raise max_tokens, or set ` + advice,
		`suite "choice": the chat template of the model lets it think before each answer, and answers were scored in the place of what it thinks; set ` + advice,
	} {
		if !slices.Contains(b.notes, want) {
			t.Errorf("no note %q in %q", want, b.notes)
		}
	}
}

// Special tokens around a thought are part of an answer's text, and no others are.
func TestMarksOfThoughtsAreSpelled(t *testing.T) {
	dir := modeltest.Directory(t, true)
	path := filepath.Join(dir, "tokenizer.json")
	data, err := os.ReadFile(path)
	if err == nil {
		err = os.WriteFile(path, []byte(strings.NewReplacer("|endoftext|", "think", "|im_start|", "/think").Replace(string(data))), 0o666)
	}
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, "tokenizer_config.json"), []byte(`{"eos_token":"<|im_end|>"}`), 0o666)
	}
	if err != nil {
		t.Fatal(err)
	}
	backend := cpu.New(1)
	defer backend.Close()
	s, err := openShadow(backend, stage.ModelPath{Base: dir}, tensor.F32)
	if err != nil {
		t.Fatal(err)
	}
	defer s.close()
	if got, want := s.spell([]int32{256, 'h', 'm', 257, ' ', '4', 258}), "<think>hm</think> 4"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}
