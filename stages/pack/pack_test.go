package pack

import (
	"context"
	"crypto/sha256"
	"fmt"
	"math/rand/v2"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"pipe/model/modeltest"
	"pipe/model/pretrained"
	"pipe/runtime/artifact"
	"pipe/runtime/stage/stagetest"
)

func talk(id string, turns ...string) artifact.Row {
	r := artifact.Row{ID: id, Gold: -1}
	for i, s := range turns {
		r.Messages = append(r.Messages, artifact.Message{Role: []string{"user", "assistant"}[i%2], Content: s})
	}
	return r
}

func document(id, text string) artifact.Row { return artifact.Row{ID: id, Text: text, Gold: -1} }

// try packs rows with the byte-level test model.
func try(t *testing.T, rows []artifact.Row, edit func(s *spec)) (*stagetest.Result, error) {
	t.Helper()
	b := stagetest.New(t)
	s := newStage().(*spec)
	s.Input, s.Model, s.SeqLen = stagetest.Dataset(b, rows...), b.Model(modeltest.Directory(t, true)), 100
	edit(s)
	return b.Try(context.Background(), Kind, s)
}

func run(t *testing.T, rows []artifact.Row, edit func(s *spec)) ([]artifact.Packed, *stagetest.Result) {
	t.Helper()
	r, err := try(t, rows, edit)
	if err != nil {
		t.Fatal(err)
	}
	return stagetest.Rows[artifact.Packed](r, "dataset"), r
}

const end = 258 // <|im_end|>

// text spells tokens: bytes as they are, control tokens as S and E.
func text(ids []int32) string {
	var b strings.Builder
	for _, id := range ids {
		if id > 255 {
			b.WriteString([]string{"<T>", "<S>", "<E>"}[id-256])
		} else {
			b.WriteByte(byte(id))
		}
	}
	return b.String()
}

// learned spells the tokens of each learned span.
func learned(p artifact.Packed) (out []string) {
	for i := 0; i < len(p.Loss); i += 2 {
		out = append(out, text(p.IDs[p.Loss[i]:p.Loss[i+1]]))
	}
	return out
}

func TestConversation(t *testing.T) {
	got, r := run(t, []artifact.Row{talk("a", "Hi", "Yo", "More", "No")}, func(s *spec) {})
	if len(got) != 1 || !slices.Equal(got[0].Rows, []string{"a"}) || !slices.Equal(got[0].Starts, []int32{0}) {
		t.Fatalf("got %+v", got)
	}
	want := "<S>user\nHi<E>\n<S>assistant\nYo<E>\n<S>user\nMore<E>\n<S>assistant\nNo<E>\n"
	if s := text(got[0].IDs); s != want {
		t.Errorf("tokens %q; want %q", s, want)
	}
	if l := learned(got[0]); !slices.Equal(l, []string{"Yo<E>", "No<E>"}) {
		t.Errorf("learned %q", l)
	}
	m := r.Metrics("metrics").Metrics
	if n := len(got[0].IDs); m["pack.tokens"].Value != float64(n) || m["pack.density"].Value != float64(n)/100 ||
		m["pack.learned_tokens"].Value != 6 || m["pack.learned_share"].Value != 6/float64(n) {
		t.Errorf("metrics %+v for %d tokens", m, n)
	}
}

// TestTurnsEach: a template that thinks in the last turn only does not give the beginning
// of a conversation as it is when more follows. Each turn is learned as the model will be asked for it.
func TestTurnsEach(t *testing.T) {
	const open, shut = "{% for m in messages %}<|im_start|>{{ m.role + '\n' }}", "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
	const thought = "{% if m.role == 'assistant' and loop.last %}hm: {% endif %}"
	const marked = "{% if m.role == 'assistant' %}{% generation %}" + thought + "{{ m.content }}<|im_end|>{% endgeneration %}{% else %}{{ m.content }}<|im_end|>{% endif %}{{ '\n' }}{% endfor %}" +
		"{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
	rows := []artifact.Row{talk("a", "Hi", "Yo", "More", "No", "and then?"), talk("b", "1+1", "2")}
	pack := func(template, turns, loss string) (*stagetest.Result, error) {
		b := stagetest.New(t)
		b.Dir = modeltest.Directory(t, true)
		b.WriteFile("chat_template.jinja", template)
		s := newStage().(*spec)
		s.Input, s.Model, s.SeqLen, s.Turns, s.Loss = stagetest.Dataset(b, rows...), b.Model(b.Dir), 120, turns, loss
		return b.Try(context.Background(), Kind, s)
	}
	for _, template := range []string{open + thought + "{{ m.content }}" + shut, open + marked} {
		r, err := pack(template, "each", "")
		if err != nil {
			t.Fatal(err)
		}
		var said artifact.PackedManifest
		if err := artifact.ReadJSON(r.Outputs["dataset"], artifact.PackedFile, &said); err != nil || !said.Each {
			t.Errorf("packed with %+v, %v", said, err)
		}
		got := stagetest.Rows[artifact.Packed](r, "dataset")
		want := map[string]string{ // by what is learned
			"hm: No<E>": "<S>user\nHi<E>\n<S>assistant\nYo<E>\n<S>user\nMore<E>\n<S>assistant\nhm: No<E>\n",
			"hm: Yo<E>": "<S>user\nHi<E>\n<S>assistant\nhm: Yo<E>\n",
			"hm: 2<E>":  "<S>user\n1+1<E>\n<S>assistant\nhm: 2<E>\n",
		}
		n := 0
		for _, p := range got {
			if len(learned(p)) != len(p.Rows) {
				t.Errorf("%d documents learn %q", len(p.Rows), learned(p))
			}
			for i, l := range learned(p) {
				from, to := span(&p, i)
				if n++; text(p.IDs[from:to]) != want[l] || p.Rows[i] != map[bool]string{false: "a", true: "b"}[l == "hm: 2<E>"] {
					t.Errorf("a document of row %s learns %q of %q", p.Rows[i], l, text(p.IDs[from:to]))
				}
			}
		}
		if n != len(want) {
			t.Errorf("%d documents; want %d", n, len(want))
		}
	}
	if _, err := pack(open+thought+"{{ m.content }}"+shut, "", ""); err == nil || !strings.Contains(err.Error(), `row "a" cannot be rendered: find turn 1 of the assistant`) || !strings.Contains(err.Error(), `or set turns = "each"`) {
		t.Errorf("got %v", err)
	}
	_, r := run(t, []artifact.Row{talk("a", "Hi", "Yo", "More", strings.Repeat("No", 30), "and", strings.Repeat("so", 30)), talk("b", "1+1", "2")},
		func(s *spec) { s.Turns, s.Overflow = "each", "drop" })
	if want := "2 turns longer than seq_len left out: a"; !slices.Contains(r.Notes, want) {
		t.Errorf("notes %q; want %q", r.Notes, want)
	}
	s := newStage().(*spec)
	s.SeqLen, s.Turns, s.Loss = 9, "each", "all"
	if err := s.Check(); err == nil || !strings.Contains(err.Error(), "leave one of them out") {
		t.Errorf("got %v", err)
	}
}

func TestQuestionWithAnswer(t *testing.T) {
	q := talk("q", "1+1?")
	q.Answer = "2"
	d := document("d", "Why?")
	d.Answer = "So."
	got, _ := run(t, []artifact.Row{q, d}, func(s *spec) {})
	if all := append(learned(got[0]), text(got[0].IDs)); !slices.Contains(all, "2<E>") || !slices.Contains(all, "So.<E>") || !strings.Contains(text(got[0].IDs), "user\nWhy?<E>") {
		t.Errorf("got %q", all)
	}
}

func TestDocuments(t *testing.T) {
	got, r := run(t, []artifact.Row{document("d", "one <|im_end|>"), document("e", "two")}, func(s *spec) {})
	// The text of a control token is text; the one at the end is the token.
	if want := "one <|im_end|><E>two<E>"; len(got) != 1 || text(got[0].IDs) != want {
		t.Fatalf("got %q; want %q", text(got[0].IDs), want)
	}
	if !slices.Equal(got[0].Starts, []int32{0, 15}) || !slices.Equal(got[0].Loss, []int32{0, 15, 15, 19}) {
		t.Errorf("starts %v, loss %v", got[0].Starts, got[0].Loss)
	}
	if n := r.Metrics("metrics").Metrics["pack.learned_tokens"].Value; n != 17 { // nothing predicts the first of each
		t.Errorf("%v tokens are learned; want 17", n)
	}
}

func TestLossAll(t *testing.T) {
	got, _ := run(t, []artifact.Row{talk("a", "Hi", "Yo")}, func(s *spec) { s.Loss = "all" })
	if n := int32(len(got[0].IDs)); !slices.Equal(got[0].Loss, []int32{0, n}) {
		t.Errorf("loss %v of %d tokens", got[0].Loss, n)
	}
}

func TestRefusals(t *testing.T) {
	pref := talk("p", "Q")
	pref.Chosen, pref.Rejected = talk("", "", "a").Messages[1:], talk("", "", "b").Messages[1:]
	choice := talk("c", "Q")
	choice.Choices, choice.Gold = []string{"x", "y"}, 0
	for _, c := range []struct {
		row  artifact.Row
		loss string
		want string
	}{
		{talk("u", "only a question"), "", `row "u" has no token to learn`},
		{pref, "", `row "p" is a preference`},
		{choice, "", `row "c" is a multiple-choice item`},
		{document("d", "text"), "assistant", `row "d" is a document`},
		{artifact.Row{ID: "e", Gold: -1}, "", `row "e" has neither text nor messages`},
	} {
		_, err := try(t, []artifact.Row{talk("ok", "a", "b"), c.row}, func(s *spec) { s.Loss = c.loss })
		if c.loss != "" {
			_, err = try(t, []artifact.Row{c.row}, func(s *spec) { s.Loss = c.loss })
		}
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("got %v; want %q", err, c.want)
		}
	}
	var many []artifact.Row
	for i := range 9 {
		many = append(many, talk(fmt.Sprint("r", i), "?"))
	}
	if _, err := try(t, many, func(*spec) {}); err == nil || !strings.HasPrefix(err.Error(), `9 rows are refused: row "r0"`) || !strings.HasSuffix(err.Error(), "and 4 more") {
		t.Errorf("got %v", err)
	}
}

// Where nothing is learned, the row is blamed only when the template is not.
func TestWhoSaysNothing(t *testing.T) {
	for _, c := range []struct{ template, said, want string }{
		{"{% for m in messages %}{% if m.role == 'user' %}{{ m.content }}{% endif %}{% endfor %}", "hello", "has no token to learn: the chat template leaves out the assistant's turns"},
		{"{% for m in messages %}{% if m.role == 'user' %}{{ m.content }}{% endif %}{% endfor %}", "ask", "has no token to learn: the chat template leaves out the assistant's turns"},
		{"{% for m in messages %}{% if m.role == 'user' %}{{ m.content }}{% endif %}{% endfor %}{% if add_generation_prompt %}A:{% endif %}", "hello", "cannot be rendered: the chat template leaves out message 2, which is the assistant's"},
		{"{% for m in messages %}{{ m.content }}{% generation %}{% endgeneration %}{% endfor %}", "hello", "has no token to learn: the chat template marks other parts"},
		{"{% for m in messages %}{{ m.content }}{% endfor %}", " ", "has no token to learn: the assistant says nothing in it"},
		{"{% generation %}{{ messages[1].content }}{% endgeneration %}", "h", "has no token to learn: what the assistant says is its first token"},
	} {
		b := stagetest.New(t)
		dir := modeltest.Directory(t, true)
		b.Dir = dir
		b.WriteFile("chat_template.jinja", c.template)
		s := newStage().(*spec)
		row := talk("a", "ask", c.said)
		if c.said == " " {
			row.Messages[1].Content = ""
		}
		s.Input, s.Model, s.SeqLen = stagetest.Dataset(b, row), b.Model(dir), 100
		if _, err := b.Try(context.Background(), Kind, s); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v; want %q", c.template, err, c.want)
		}
	}
}

// A template that marks others than the assistant is told of, with how often, and
// no other is.
func TestMarksOthers(t *testing.T) {
	const before, after = "{% for m in messages %}<|im_start|>{{ m.role + ' ' }}", "<|im_end|>{% endfor %}"
	const all = "{% generation %}{{ m.content }}{% endgeneration %}"
	only := func(who string) string {
		return before + "{% if m.role " + who + " %}" + all + "{% else %}{{ m.content }}{% endif %}" + after
	}
	for template, want := range map[string]string{
		only("== 'user'"):      "nothing that the assistant says is learned in 2 conversations: the chat template marks other parts with {% generation %}",
		before + all + after:   "what others than the assistant say is learned as well in 2 conversations: the chat template marks it with {% generation %}",
		only("== 'assistant'"): "no conversation teaches a token that ends a text (<|im_end|>): what is tuned on them does not learn to stop",
		// It marks the last turn alone, with the assistant's words changed.
		before + "{% if loop.last %}{% generation %}{{ m.content | upper | trim }}<|im_end|>{% endgeneration %}{% else %}{{ m.content }}{% endif %}" + after: "",
		before + "{{ m.content }}" + after:                                          "",
		"{% for m in messages %}{{ m.role + ': ' + m.content + '\n' }}{% endfor %}": "no conversation teaches a token that ends a text",
	} {
		b := stagetest.New(t)
		b.Dir = modeltest.Directory(t, true)
		b.WriteFile("chat_template.jinja", template)
		s := newStage().(*spec)
		// One user says what the assistant says.
		s.Input, s.Model, s.SeqLen = stagetest.Dataset(b, talk("a", "ask", "ask"), talk("b", "a", "b", "c", "d"), document("c", "text")), b.Model(b.Dir), 100
		r, err := b.Try(context.Background(), Kind, s)
		if err != nil {
			t.Errorf("%s: %v", template, err)
			continue
		}
		notes := strings.Join(r.Notes, "\n")
		if strings.Contains(notes, "{% generation %}") != (want != "") || !strings.Contains(notes, want) {
			t.Errorf("%s: notes %q; want %q", template, notes, want)
		}
	}
}

// A template that marks everything leaves nothing that is asked.
func TestOnlyLearned(t *testing.T) {
	b := stagetest.New(t)
	dir := modeltest.Directory(t, true)
	b.Dir = dir
	b.WriteFile("chat_template.jinja", "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}{% endfor %}")
	s := newStage().(*spec)
	s.Input, s.Model, s.SeqLen = stagetest.Dataset(b, talk("a", "", "hello")), b.Model(dir), 100
	if _, err := b.Try(context.Background(), Kind, s); err == nil || !strings.Contains(err.Error(), `row "a" has only tokens to learn`) {
		t.Errorf("got %v", err)
	}
}

func TestOverflow(t *testing.T) {
	long := strings.Repeat("x", 130)
	rows := []artifact.Row{talk("short", "a", "b"), talk("long", "a", long), talk("asked", long, "b")}
	got, r := run(t, rows, func(s *spec) {})
	m := r.Metrics("metrics").Metrics
	if m["pack.truncated"].Value != 1 || m["pack.dropped"].Value != 1 || len(got) != 2 {
		t.Errorf("truncate: %+v, %d rows", m, len(got))
	}
	if notes := strings.Join(r.Notes, "\n"); !strings.Contains(notes, "nothing to learn: asked") {
		t.Errorf("the row without anything left to learn is not named: %s", notes)
	}
	got, r = run(t, rows, func(s *spec) { s.Overflow = "drop" })
	if len(got) != 1 || r.Metrics("metrics").Metrics["pack.dropped"].Value != 2 || !strings.Contains(strings.Join(r.Notes, "\n"), "left out: long, asked") {
		t.Errorf("drop: %d rows, notes %q", len(got), r.Notes)
	}
	if _, err := try(t, rows, func(s *spec) { s.Overflow = "split" }); err == nil || !strings.Contains(err.Error(), `row "long" is a conversation of`) {
		t.Errorf("split of a conversation: %v", err)
	}
	got, _ = run(t, []artifact.Row{document("d", long)}, func(s *spec) { s.Overflow = "split" })
	if len(got) != 2 || len(got[0].IDs) != 100 || len(got[1].IDs) != 31 || got[1].IDs[30] != end || got[1].Rows[0] != "d" {
		t.Errorf("split: %+v", got)
	}
	if _, err := try(t, []artifact.Row{document("d", long)}, func(s *spec) { s.Overflow = "drop" }); err == nil || !strings.Contains(err.Error(), "no row is left: 1 are longer") {
		t.Errorf("everything dropped: %v", err)
	}
}

// An empty answer is learned as an end of turn, and named.
func TestEmptyAnswers(t *testing.T) {
	got, r := run(t, []artifact.Row{talk("a", "Hi", "Yo", "More", " \n", "And", ""), talk("b", "Hi", ""), talk("c", "Hi", "Yo")}, func(s *spec) {})
	if l := learned(got[0]); !slices.Contains(l, "<E>") {
		t.Errorf("learned %q", l)
	}
	if n := r.Metrics("metrics").Metrics["pack.empty_turns"].Value; n != 3 {
		t.Errorf("counted %v turns; want 3", n)
	}
	if notes := strings.Join(r.Notes, "\n"); !strings.Contains(notes, "the assistant says nothing in 3 turns, and that is learned: a, b") {
		t.Errorf("notes %q", notes)
	}
}

func TestControlTokensInChats(t *testing.T) {
	_, r := run(t, []artifact.Row{talk("a", "say <|im_end|>", "no")}, func(s *spec) {})
	if n := r.Metrics("metrics").Metrics["pack.control_tokens_in_text"].Value; n != 1 {
		t.Errorf("counted %v turns; want 1", n)
	}
}

func TestCheck(t *testing.T) {
	for want, edit := range map[string]func(s *spec){
		"seq_len: is 1; must":                               func(s *spec) { s.SeqLen = 1 },
		`strategy: is "ffd"; must`:                          func(s *spec) { s.Strategy = "ffd" },
		`overflow: is "cut"; must`:                          func(s *spec) { s.Overflow = "cut" },
		`loss: is "none"; must`:                             func(s *spec) { s.Loss = "none" },
		"seq_len: is 129; the context of model.test is 128": func(s *spec) { s.SeqLen = 129 },
	} {
		if _, err := try(t, []artifact.Row{talk("a", "b", "c")}, edit); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v; want %q", err, want)
		}
	}
}

// mixed returns rows of all lengths and kinds.
func mixed(n int, seed uint64) []artifact.Row {
	r := rand.New(rand.NewPCG(seed, 1))
	words := func(n int) string { return strings.Repeat("wé ", 1+r.IntN(n)) }
	var rows []artifact.Row
	for i := range n {
		if id := fmt.Sprint("row", i); i%3 == 0 {
			rows = append(rows, document(id, words(40)))
		} else {
			rows = append(rows, talk(id, words(8), words(8)))
		}
	}
	return rows
}

// Whatever the rows and the settings: no packed row is too long, boundaries
// ascend from 0, learned spans lie inside documents, and no token is lost or
// doubled that the settings do not drop.
func TestPackingProperties(t *testing.T) {
	b := stagetest.New(t)
	model := b.Model(modeltest.Directory(t, true))
	rapid.Check(t, func(rt *rapid.T) {
		rows := mixed(rapid.IntRange(1, 40).Draw(rt, "rows"), rapid.Uint64().Draw(rt, "seed"))
		s := newStage().(*spec)
		s.Input, s.Model, s.SeqLen = stagetest.Dataset(b, rows...), model, 128
		s.Strategy = rapid.SampledFrom([]string{"bfd", "wrapped"}).Draw(rt, "strategy")
		result := b.Run(Kind, s)
		packed := stagetest.Rows[artifact.Packed](result, "dataset")
		pieces := map[string]string{}
		for _, p := range packed {
			checkPacked(rt, p, s.SeqLen)
			for d, start := range p.Starts {
				stop := int32(len(p.IDs))
				if d+1 < len(p.Starts) {
					stop = p.Starts[d+1]
				}
				pieces[p.Rows[d]] += text(p.IDs[start:stop])
			}
		}
		for i := range rows {
			r := &rows[i]
			want := r.Text + "<E>"
			if r.Messages != nil {
				want = "<S>user\n" + r.Messages[0].Content + "<E>\n<S>assistant\n" + r.Messages[1].Content + "<E>\n"
			}
			got, ok := pieces[r.ID]
			lost := result.Metrics("metrics").Metrics["pack.truncated"].Value > 0 || !ok
			if got != want && !(lost && strings.HasPrefix(want, got)) && s.Strategy == "bfd" {
				rt.Fatalf("row %s became %q; want %q", r.ID, got, want)
			}
			if s.Strategy == "wrapped" && !strings.Contains(want, got) {
				rt.Fatalf("row %s became %q; want %q", r.ID, got, want)
			}
		}
	})
}

func checkPacked(t *rapid.T, p artifact.Packed, size int) {
	if len(p.IDs) > size || len(p.Starts) != len(p.Rows) || p.Starts[0] != 0 || !slices.IsSorted(p.Starts) || !slices.IsSorted(p.Loss) {
		t.Fatalf("bad row: %d tokens, starts %v, loss %v, rows %v", len(p.IDs), p.Starts, p.Loss, p.Rows)
	}
	for i := 0; i < len(p.Loss); i += 2 {
		for _, s := range p.Starts {
			if p.Loss[i] < s && s < p.Loss[i+1] {
				t.Fatalf("the span %v of learned tokens crosses the boundary %d", p.Loss[i:i+2], s)
			}
		}
	}
	if int(p.Loss[len(p.Loss)-1]) > len(p.IDs) || learnedTokens(&p) < 1 {
		t.Fatalf("loss %v of %d tokens", p.Loss, len(p.IDs))
	}
}

func TestSameOnAnyNumberOfProcessors(t *testing.T) {
	rows := mixed(60, 9)
	var runs [2][]artifact.Packed
	for i, procs := range []int{1, 4} {
		old := runtime.GOMAXPROCS(procs)
		runs[i], _ = run(t, rows, func(*spec) {})
		runtime.GOMAXPROCS(old)
	}
	if !reflect.DeepEqual(runs[0], runs[1]) {
		t.Error("four processors pack other rows than one")
	}
}

// TestSaysWithWhat: what the rows were packed with lies beside them, the chat
// template only when there is a conversation.
func TestSaysWithWhat(t *testing.T) {
	m, err := pretrained.Open(modeltest.Directory(t, false))
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	for _, rows := range [][]artifact.Row{{document("a", "abc")}, {document("a", "abc"), talk("b", "hi", "ho")}} {
		packed, r := run(t, rows, func(*spec) {})
		var got artifact.PackedManifest
		if err := artifact.ReadJSON(r.Outputs["dataset"], artifact.PackedFile, &got); err != nil {
			t.Fatal(err)
		}
		ids := func(yield func([]int32) bool) {
			for i := range packed {
				yield(packed[i].IDs)
			}
		}
		if want := m.Tokenizer.Spelling(ids); got.Tokens != want {
			t.Errorf("%d rows: tokens %v, want %v", len(rows), got.Tokens, artifact.Digest(want))
		}
		want := artifact.Digest(sha256.Sum256([]byte(m.TemplateSource)))
		if talks := len(rows) > 1; (got.Template != nil) != talks || talks && *got.Template != want {
			t.Errorf("%d rows: template %v, want %v", len(rows), got.Template, want)
		}
		turns, ok := m.TurnTokens()
		if talks := len(rows) > 1; !ok || (got.Turns != nil) != talks || talks && *got.Turns != turns {
			t.Errorf("%d rows: turns %v, want %v", len(rows), got.Turns, artifact.Digest(turns))
		}
	}
}
