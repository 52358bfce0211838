package eval

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"pipe/model"
	"pipe/model/adapter"
	"pipe/model/modeltest"
	"pipe/model/pretrained"
	"pipe/runtime/artifact"
	"pipe/runtime/compare"
	"pipe/runtime/stage"
	"pipe/tensor"
	"pipe/tensor/cpu"
	"pipe/text/answer"
)

// directory is modeltest's model with a context of n tokens.
func directory(t *testing.T, n int) string {
	t.Helper()
	dir := modeltest.Directory(t, true)
	path := filepath.Join(dir, "config.json")
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var c map[string]any
	if err := json.Unmarshal(data, &c); err != nil {
		t.Fatal(err)
	}
	c["max_position_embeddings"] = n
	if data, err = json.Marshal(c); err == nil {
		err = os.WriteFile(path, data, 0o666)
	}
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// untrained is a fresh adapter over dir: it changes nothing.
func untrained(t *testing.T, dir string) string {
	t.Helper()
	m, err := pretrained.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	b := cpu.New(1)
	defer b.Close()
	d, err := model.Load(b, m.Config, m.Weights, false)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	set, err := adapter.Attach(d, adapter.NewConfig(), 1)
	if err != nil {
		t.Fatal(err)
	}
	out := t.TempDir()
	if err := set.Save(out, "base"); err != nil {
		t.Fatal(err)
	}
	return out
}

func ask(id, text string) artifact.Row {
	return artifact.Row{ID: id, Messages: []artifact.Message{{Role: "user", Content: text}}, Gold: -1}
}

func said(text string) []artifact.Message {
	return []artifact.Message{{Role: "assistant", Content: text}}
}

// rows of every kind.
func choices() (rows []artifact.Row) {
	for i := range 6 {
		r := ask(fmt.Sprint("c", i), fmt.Sprintf("Pick number %d", i))
		r.Choices, r.Gold = []string{"one", "a longer two", "três"}, int32(i%3)
		rows = append(rows, r)
	}
	return rows
}

func questions() (rows []artifact.Row) {
	for i, a := range []string{"yes", "no", "yes"} {
		r := ask(fmt.Sprint("q", i), "Is it so?")
		r.Answer = a
		rows = append(rows, r)
	}
	return rows
}

func preferences() (rows []artifact.Row) {
	for i := range 4 {
		r := ask(fmt.Sprint("p", i), "Tell me")
		r.Chosen, r.Rejected = said(strings.Repeat("good ", i+1)), said("bad")
		rows = append(rows, r)
	}
	return rows
}

func texts() []artifact.Row {
	conversation := ask("t1", "Hello")
	conversation.Messages = append(conversation.Messages, said("Hi there")...)
	return []artifact.Row{
		{ID: "t0", Text: strings.Repeat("A text longer than a window. ", 10), Gold: -1},
		conversation,
		{ID: "t2", Text: "short", Gold: -1},
	}
}

func newSuite(name string, data stage.Dataset) suite {
	s := suite{Name: name, Data: data}
	s.SetDefaults()
	s.MaxTokens = 6
	return s
}

func everything(t *testing.T) (*bench, *spec) {
	dir := directory(t, 512)
	b := newBench(t, map[string]stage.ModelPath{
		"model.tuned": {Base: dir, Adapter: untrained(t, dir)}, "model.base": {Base: dir},
	})
	s := newStage().(*spec)
	s.Model.Addr = "model.tuned"
	s.Suites = []suite{
		newSuite("choice", b.data(choices()...)), newSuite("answer", b.data(questions()...)),
		newSuite("prefer", b.data(preferences()...)), newSuite("text", b.data(texts()...)),
	}
	s.Suites[0].FewShot = 1
	s.Suites[3].Window = 50
	s.Needle = &needle{Lengths: []int{300, 400}}
	s.Needle.SetDefaults()
	s.Needle.Depths, s.Needle.PerCell, s.Needle.Digits = []float64{0, 1}, 2, 3
	return b, s
}

// TestEverything runs all suites: an adapter that changes nothing scores as
// its base, the same base named as baseline too, and a second run gives the
// same bytes.
func TestEverything(t *testing.T) {
	b, s := everything(t)
	m, items, err := b.run(s)
	if err != nil {
		t.Fatal(err)
	}
	metrics, rows := b.output["metrics"].Digest(), b.output["items"].Digest()
	for _, want := range []string{"choice.acc", "choice.acc_norm", "answer.exact_match", "answer.contains", "answer.f1",
		"prefer.acc", "prefer.acc_norm", "prefer.margin", "text.nll", "text.perplexity", "text.bits_per_byte", "needle.acc"} {
		x, ok := m.Metrics[want]
		if !ok || x.N == 0 || math.IsNaN(x.Value) {
			t.Errorf("%s = %+v, %v", want, x, ok)
		}
		if m.Baseline[want] != x {
			t.Errorf("%s: base %+v, untrained adapter %+v", want, m.Baseline[want], x)
		}
		if c, ok := m.Change[want]; !ok || c.N != x.N || c.Value != 0 || c.Stderr != 0 {
			t.Errorf("%s: an untrained adapter changes it by %+v, %v", want, c, ok)
		}
		if _, ok := m.Blind[want]; !ok {
			t.Errorf("%s has no blind value", want)
		}
	}
	if got := m.Metrics["prefer.reward_acc"]; got.Value != 0 || got.N != 4 {
		t.Errorf("reward accuracy of an adapter that changes nothing: %+v", got)
	}
	if len(items) != 6+3+4+3+8 {
		t.Errorf("%d items", len(items))
	}
	if got := m.Blind["answer.exact_match"].Value; !(math.Abs(got-2.0/3) < 1e-12) {
		t.Errorf("the most frequent answer scores %v", got)
	}
	g := m.Grids["needle"]
	if len(g.Values) != 2 || len(g.Values[0]) != 2 || len(g.Baseline) != 2 || g.N != 2 {
		t.Errorf("grid %+v", g)
	}
	s.Baseline = &stage.Model{Ref: artifact.Ref{Addr: "model.base"}}
	again, _, err := b.run(s)
	if err != nil {
		t.Fatal(err)
	}
	if b.output["metrics"].Digest() != metrics || b.output["items"].Digest() != rows {
		t.Errorf("other results with the base as baseline:\n%+v\n%+v", m, again)
	}
}

// TestPrecision: in bfloat16 log-probabilities are nearly those of float32, and
// the spec, of which the key is made, is another.
func TestPrecision(t *testing.T) {
	b, s := everything(t)
	key := func() string {
		j, err := json.Marshal(s)
		if err != nil {
			t.Fatal(err)
		}
		return string(j)
	}
	exact, _, err := b.run(s)
	if err != nil {
		t.Fatal(err)
	}
	digest, was := b.output["items"].Digest(), key()
	s.Precision = "bf16"
	rounded, _, err := b.run(s)
	if err != nil {
		t.Fatal(err)
	}
	if b.output["items"].Digest() == digest || key() == was {
		t.Error("nothing differs; the test shows nothing")
	}
	for _, m := range []map[string]artifact.Metric{exact.Metrics, exact.Baseline} {
		for _, name := range []string{"text.nll", "text.bits_per_byte", "text.perplexity", "prefer.margin"} {
			got, want := rounded.Metrics[name].Value, m[name].Value
			if !(math.Abs(got-want) <= 0.01*math.Abs(want)) {
				t.Errorf("%s: %v; in f32 %v", name, got, want)
			}
		}
	}
}

// TestScores compares a suite's numbers with the model's log-probabilities,
// taken one by one.
func TestScores(t *testing.T) {
	b, s := everything(t)
	s.Needle = nil
	_, items, err := b.run(s)
	if err != nil {
		t.Fatal(err)
	}
	backend := cpu.New(1)
	defer backend.Close()
	sub, err := openSubject(backend, b.in.models["model.base"], tensor.F32)
	if err != nil {
		t.Fatal(err)
	}
	defer sub.close()
	logp := func(ctx, target string) float64 {
		ids := sub.Tokenizer.Encode(ctx)
		all := sub.Tokenizer.Encode(ctx + target)
		sc, err := sub.decoder.Score(context.Background(), []model.Continuation{{Context: ids, Target: all[len(ids):]}}, model.ScoreOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return sumLogP(sc[0])
	}
	find := func(id string) map[string]any {
		for _, it := range items {
			if it.ID == id {
				var d map[string]any
				if err := json.Unmarshal([]byte(it.Meta), &d); err != nil {
					t.Fatal(err)
				}
				return d
			}
		}
		t.Fatalf("no item %s", id)
		return nil
	}
	near := func(name string, got, want float64) {
		t.Helper()
		if !(math.Abs(got-want) <= 1e-3) {
			t.Errorf("%s: %v, want %v", name, got, want)
		}
	}
	prompt := "<|im_start|>user\nTell me<|im_end|>\n<|im_start|>assistant\n"
	near("chosen", find("prefer/p1")["chosen_log_prob"].(float64), logp(prompt, "good good <|im_end|>\n"))
	near("rejected", find("prefer/p1")["rejected_log_prob"].(float64), logp(prompt, "bad<|im_end|>\n"))
	near("conversation", find("text/t1")["nll"].(float64), -logp("<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n", "Hi there<|im_end|>"))
	near("short text", find("text/t2")["nll"].(float64), -logp("<|endoftext|>", "short"))
}

// TestWindows: every token is predicted once, in order, with at most size
// inputs, and all but the first window have as many as they can.
func TestWindows(t *testing.T) {
	ids := make([]int32, 57)
	for i := range ids {
		ids[i] = int32(i)
	}
	for size := 2; size < 70; size++ {
		for _, from := range []int{1, 5, 30, 56} {
			next := int32(from)
			for i, w := range windows(ids, from, len(ids), size) {
				if n := len(w.Context) + len(w.Target) - 1; len(w.Context) == 0 || n > size || i > 0 && n != size {
					t.Fatalf("size %d, from %d, window %d: %d inputs", size, from, i, n)
				}
				if w.Context[len(w.Context)-1]+1 != w.Target[0] || w.Target[0] != next {
					t.Fatalf("size %d, from %d, window %d: targets begin at %d, want %d", size, from, i, w.Target[0], next)
				}
				next += int32(len(w.Target))
			}
			if int(next) != len(ids) {
				t.Fatalf("size %d, from %d: predicted up to %d", size, from, next)
			}
		}
	}
}

// TestNeedlePrompts: prompts fill their length and hold the fact where the
// depth says; the same seed makes the same prompts.
func TestNeedlePrompts(t *testing.T) {
	dir := directory(t, 2048)
	backend := cpu.New(1)
	defer backend.Close()
	sub, err := openSubject(backend, stage.ModelPath{Base: dir}, tensor.F32)
	if err != nil {
		t.Fatal(err)
	}
	defer sub.close()
	n := &needle{Lengths: []int{1000}}
	n.SetDefaults()
	n.Keys = 3
	env := &stage.Env{Seed: 3}
	for _, depth := range []float64{0, 0.5, 1} {
		p := n.probe(env, 1000, depth, 1, len(noise))
		if q := n.probe(env, 1000, depth, 1, len(noise)); strings.Join(p.values, " ") != strings.Join(q.values, " ") {
			t.Error("two draws differ")
		}
		ids, err := n.fit(sub, p, noise, 1000, 10)
		if err != nil {
			t.Fatal(err)
		}
		if len(ids) > 990 || len(ids) < 990-60 {
			t.Errorf("depth %v: %d tokens", depth, len(ids))
		}
		text := sub.Tokenizer.Decode(ids)
		fact := fmt.Sprintf("One of the special magic numbers for %s is: %s.", p.keys[0], p.values[0])
		at := float64(strings.Index(text, fact)) / float64(strings.LastIndex(text, "\nWhat is")-len(fact))
		if !(math.Abs(at-depth) < 0.2) {
			t.Errorf("depth %v: the fact lies at %v", depth, at)
		}
		if !strings.HasSuffix(text, "is:") || strings.Count(text, "One of the special") != 3 {
			t.Errorf("prompt %q", text)
		}
	}
	n.Lengths = []int{60}
	var field *stage.FieldError
	if _, err := n.fit(sub, n.probe(env, 60, 0, 0, 10), noise, 60, 10); !errors.As(err, &field) || field.Field != "needle.lengths" {
		t.Errorf("a length below the question: %v", err)
	}
}

func TestNormalize(t *testing.T) {
	for _, c := range []struct{ how, in, want string }{
		{"text", "  The Apache-License, Version 2.0! ", "apachelicense version 20"},
		{"text", "An Übung\n\ta TEST", "übung test"},
		{"number", "It costs $1,234.50, not 7.", "7"},
		{"number", "so x = -12.00", "-12"},
		{"number", "about 1,000", "1000"},
		{"number", "none", ""},
		{"exact", " As Is. ", "As Is."},
		{"text", "<think>\n\n</think>\n\nYes.", "yes"},
		{"number", "<think>7 or 8?</think>9", "9"},
		{"exact", "it may be\n</think>\n\n As Is. ", "As Is."},
		{"number", "<think>7 or 8?", ""},
	} {
		if got := normalize(c.how, c.in); got != c.want {
			t.Errorf("%s of %q: %q, want %q", c.how, c.in, got, c.want)
		}
	}
	if f := overlap("b c d", "a b c"); !(math.Abs(f-2.0/3) < 1e-12) {
		t.Errorf("overlap %v", f)
	}
	if answer.Contains("yesterday", "yes") || !answer.Contains("oh yes sir", "yes") || answer.Contains("x", "") {
		t.Error("containsWords")
	}
	for got, want := range map[string]bool{" 123.": true, "1234": false, "\n123 and": true, "is 123": false, "123": true} {
		if startsWith(got, "123") != want {
			t.Errorf("startsWith(%q)", got)
		}
	}
}

func TestCheck(t *testing.T) {
	ok := func() *spec {
		s := newStage().(*spec)
		s.Suites = []suite{newSuite("a", stage.Dataset{})}
		s.Needle = &needle{Lengths: []int{128}}
		s.Needle.SetDefaults()
		return s
	}
	if err := ok().Check(); err != nil {
		t.Fatal(err)
	}
	for field, change := range map[string]func(*spec){
		"suite":            func(s *spec) { s.Suites, s.Needle = nil, nil },
		"batch":            func(s *spec) { s.Batch = 0 },
		"precision":        func(s *spec) { s.Precision = "fp4" },
		"suite.name":       func(s *spec) { s.Suites[0].Name = "a.b" },
		"suite.type":       func(s *spec) { s.Suites[0].Type = "quiz" },
		"suite.normalizer": func(s *spec) { s.Suites[0].Normalizer = "soft" },
		"suite.few_shot":   func(s *spec) { s.Suites[0].FewShot = -1 },
		"needle.lengths":   func(s *spec) { s.Needle.Lengths = nil },
		"needle.depths":    func(s *spec) { s.Needle.Depths = []float64{math.NaN()} },
		"needle.style":     func(s *spec) { s.Needle.Style = "uuid" },
	} {
		s := ok()
		change(s)
		var f *stage.FieldError
		if err := s.Check(); !errors.As(err, &f) || f.Field != field {
			t.Errorf("%s: %v", field, err)
		}
	}
}

// TestWrongRows: a row that does not fit its suite is named.
func TestWrongRows(t *testing.T) {
	for kind, row := range map[string]artifact.Row{
		"multiple_choice": {ID: "bad row", Text: "x", Choices: []string{"a", "b"}, Gold: 2},
		"generate":        {ID: "bad row", Text: "x", Gold: -1},
		"preference":      {ID: "bad row", Text: "x", Gold: -1},
		"perplexity":      {ID: "bad row", Messages: []artifact.Message{{Role: "user", Content: "x"}}, Gold: -1},
	} {
		b := newBench(t, map[string]stage.ModelPath{"model.base": {Base: modeltest.Directory(t, true)}})
		s := newStage().(*spec)
		s.Model.Addr = "model.base"
		s.Suites = []suite{newSuite("a", b.data(row))}
		s.Suites[0].Type = kind
		if _, _, err := b.run(s); err == nil || !strings.Contains(err.Error(), "bad row") || !strings.Contains(err.Error(), `suite "a"`) {
			t.Errorf("%s: %v", kind, err)
		}
	}
}

// A template that leaves the assistant out is blamed, and not the row.
func TestTemplateWithoutTheAssistant(t *testing.T) {
	mute := filepath.Join(t.TempDir(), "mute.jinja")
	if err := os.WriteFile(mute, []byte("{% for m in messages %}{% if m.role == 'user' %}{{ m.content }}{% endif %}{% endfor %}"), 0o666); err != nil {
		t.Fatal(err)
	}
	b := newBench(t, map[string]stage.ModelPath{"model.base": {Base: modeltest.Directory(t, true), Template: mute}})
	s := newStage().(*spec)
	s.Model.Addr = "model.base"
	s.Suites = []suite{newSuite("a", b.data(artifact.Row{ID: "r", Messages: []artifact.Message{{Role: "user", Content: "x"}, {Role: "assistant", Content: "y"}}, Gold: -1}))}
	s.Suites[0].Type = "perplexity"
	if _, _, err := b.run(s); err == nil || !strings.Contains(err.Error(), "has nothing to predict: the chat template leaves out what the assistant says") {
		t.Errorf("got %v", err)
	}
}

// TestTurnsOneByOne: a template that thinks in the last turn only does not render the
// beginning of a conversation as it is when more follows. Each turn is read after what
// preceded it, as a row of its own in which nobody said the others.
func TestTurnsOneByOne(t *testing.T) {
	thinks := filepath.Join(t.TempDir(), "thinks.jinja")
	const template = "{% for m in messages %}<|im_start|>{{ 'assistant' if m.role == 'other' else m.role }}\n{% if m.role == 'assistant' and loop.last %}hm: {% endif %}" +
		"{{ m.content }}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
	if err := os.WriteFile(thinks, []byte(template), 0o666); err != nil {
		t.Fatal(err)
	}
	measure := func(rows ...artifact.Row) (all []map[string]float64, m artifact.MetricsFile) {
		b := newBench(t, map[string]stage.ModelPath{"model.base": {Base: directory(t, 512), Template: thinks}})
		s := newStage().(*spec)
		s.Model.Addr = "model.base"
		s.Suites = []suite{newSuite("a", b.data(rows...))}
		s.Suites[0].Type = "perplexity"
		m, items, err := b.run(s)
		if err != nil {
			t.Fatal(err)
		}
		for _, x := range items {
			var v map[string]float64
			if err := json.Unmarshal([]byte(x.Meta), &v); err != nil {
				t.Fatal(err)
			}
			all = append(all, v)
		}
		return all, m
	}
	said := func(id string, roles string) artifact.Row {
		r := artifact.Row{ID: id, Gold: -1}
		for i, role := range strings.Fields(roles) {
			r.Messages = append(r.Messages, artifact.Message{Role: role, Content: fmt.Sprint("turn ", 100*i)})
		}
		return r
	}
	whole, m := measure(said("whole", "user assistant user assistant user"))
	parts, n := measure(said("first", "user assistant"), said("second", "user other user assistant"))
	for _, key := range []string{"nll", "tokens", "bytes"} {
		if got, want := whole[0][key], parts[0][key]+parts[1][key]; !(math.Abs(got-want) <= 1e-4*want) {
			t.Errorf("%s is %v, of its turns %v", key, got, want)
		}
	}
	if got, want := m.Blind["a.nll"].Value, n.Blind["a.nll"].Value; !(math.Abs(got-want) <= 1e-9) {
		t.Errorf("blind %v, of its turns %v", got, want)
	}
}

// What the items say about the metrics is what the metrics say: runs are
// compared item by item (see package compare).
func TestItemsAddUpToMetrics(t *testing.T) {
	b, s := everything(t)
	m, _, err := b.run(s)
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]artifact.Object{}
	for name, a := range b.output {
		out[name] = artifact.Object{Digest: a.Digest(), Type: map[string]artifact.Type{"metrics": artifact.Metrics, "items": artifact.Dataset}[name]}
	}
	run := compare.Outputs{"eval.e": out}
	rs, err := compare.Runs(b.in.store, run, run, true)
	if err != nil {
		t.Fatal(err)
	}
	paired := map[string]bool{}
	for _, r := range rs {
		if want := m.Metrics[r.Metric].Value; r.N > 0 && !(math.Abs(r.New-want) < 1e-9*max(1, math.Abs(want))) {
			t.Errorf("the items make %s %v; it is %v", r.Metric, r.New, want)
		}
		paired[r.Metric] = r.N == m.Metrics[r.Metric].N
	}
	for _, want := range []string{"choice.acc", "choice.acc_norm", "answer.exact_match", "answer.contains", "answer.f1", "prefer.acc", "prefer.acc_norm", "prefer.margin", "prefer.reward_acc", "text.nll", "needle.acc"} {
		if !paired[want] {
			t.Errorf("%s cannot be compared item by item", want)
		}
	}
}
