package dpo

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"pipe/model/adapter"
	"pipe/model/modeltest"
	"pipe/model/pretrained"
	"pipe/runtime/artifact"
	"pipe/runtime/stage"
	"pipe/train"
)

// rows prefer short words to digits.
func rows(n int) []artifact.Row {
	var out []artifact.Row
	for i := range n {
		out = append(out, artifact.Row{
			ID:       fmt.Sprintf("pair-%d", i),
			Messages: []artifact.Message{{Role: "user", Content: fmt.Sprintf("say %c", 'a'+i%26)}},
			Chosen:   []artifact.Message{{Role: "assistant", Content: "yes " + string(rune('a'+i%26))}},
			Rejected: []artifact.Message{{Role: "assistant", Content: fmt.Sprintf("%d%d", 10+i, 7*i)}},
		})
	}
	return out
}

func block(change func(*spec)) *spec {
	s := newStage().(*spec)
	s.Epochs, s.LR, s.EvalSplit = 4, 0.01, 0.25
	s.Adapter = &adapterBlock{}
	s.Adapter.SetDefaults()
	s.Adapter.Rank = 4
	change(s)
	return s
}

func metrics(t *testing.T, dir string) artifact.MetricsFile {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(dir, artifact.MetricsName))
	if err != nil {
		t.Fatal(err)
	}
	var m artifact.MetricsFile
	if err := json.Unmarshal(data, &m); err != nil {
		t.Fatal(err)
	}
	return m
}

// TestLosses trains with each loss: held-out pairs are told apart afterwards.
func TestLosses(t *testing.T) {
	base := modeltest.Directory(t, true)
	for _, loss := range train.Losses() {
		out, err := runStage(t, block(func(s *spec) { s.Loss = loss }), base, "", rows(24))
		if err != nil {
			t.Fatal(err)
		}
		m := metrics(t, out["metrics"])
		after, before := m.Metrics, m.Baseline
		for name, c := range m.Change {
			if c.N != after[name].N || !(math.Abs(c.Value-(after[name].Value-before[name].Value)) < 1e-12) {
				t.Errorf("%s: %s changed by %+v from %+v to %+v", loss, name, c, before[name], after[name])
			}
		}
		if len(m.Change) != 3 {
			t.Errorf("%s: changes %v", loss, m.Change)
		}
		if before["eval.reward_accuracy"].Value != 0.5 || before["eval.margin"].Value != 0 || before["eval.accuracy"].N != 6 {
			t.Errorf("%s: before %+v", loss, before)
		}
		if !(after["eval.accuracy"].Value >= 0.9) || !(after["eval.reward_accuracy"].Value >= 0.9) || !(after["eval.margin"].Value > 0.01) {
			t.Errorf("%s: after %+v", loss, after)
		}
		if _, err := os.Stat(filepath.Join(out["model"], adapter.WeightsName)); err != nil {
			t.Error(err)
		}
		// On an adapter, the reference is that adapter, not the base.
		more, err := runStage(t, block(func(s *spec) { s.Adapter, s.Loss = nil, loss }), base, out["model"], rows(24))
		if err != nil {
			t.Fatal(err)
		}
		if next := metrics(t, more["metrics"]).Baseline; next["eval.margin"].Value != 0 || !(math.Abs(next["eval.accuracy"].Value-after["eval.accuracy"].Value) < 1e-9) {
			t.Errorf("%s: goes on from %+v, the adapter had %+v", loss, next, after)
		}
	}
	_, err := runStage(t, block(func(*spec) {}), base, func() string {
		out, err := runStage(t, block(func(*spec) {}), base, "", rows(8))
		if err != nil {
			t.Fatal(err)
		}
		return out["model"]
	}(), rows(8))
	var fe *stage.FieldError
	if !errors.As(err, &fe) || fe.Field != "adapter" {
		t.Errorf("an adapter block over an adapter: %v", err)
	}
}

// TestReferred: the reference scores what a step learns from and nothing else, and the
// steps are those of a run in which it scores more.
func TestReferred(t *testing.T) {
	base := modeltest.Directory(t, true)
	for _, c := range []struct {
		loss          string
		steps, scored int64
	}{
		{train.LossSigmoid, 0, 18}, {train.LossSigmoid, 3, 6}, {train.LossIPO, 12, 18}, {train.LossORPO, 0, 0},
	} {
		scored, losses := int64(0), []float64{}
		once := func(steps int) {
			losses = losses[:0]
			_, err := runIn(t, context.Background(), t.TempDir(), block(func(s *spec) {
				s.Loss, s.MaxSteps, s.Schedule, s.BatchSize, s.GradAccum, s.WarmupRatio = c.loss, steps, "constant", 2, 1, 0
			}), base, "", rows(24), func(env *stage.Env) {
				env.Progress = func(_, total int64, unit string) {
					if unit == "reference pairs" {
						scored = total
					}
				}
				env.Metric = func(series string, _ int64, v float64) {
					if series == "loss" {
						losses = append(losses, v)
					}
				}
			})
			if err != nil {
				t.Fatal(err)
			}
		}
		once(0)
		want := slices.Clone(losses)
		if c.steps > 0 {
			scored = 0
			once(int(c.steps))
			want = want[:c.steps]
		}
		if scored != c.scored {
			t.Errorf("%s, %d steps: the reference scored %d pairs, want %d", c.loss, c.steps, scored, c.scored)
		}
		if len(losses) != len(want) {
			t.Fatalf("%s, %d steps: %d losses, want %d", c.loss, c.steps, len(losses), len(want))
		}
		for i, w := range want {
			if !(math.Abs(losses[i]-w) < 1e-5) {
				t.Errorf("%s, %d steps: loss %d is %g, want %g", c.loss, c.steps, i+1, losses[i], w)
			}
		}
	}
}

// TestPair looks at the tokens: bytes, so they can be read.
func TestPair(t *testing.T) {
	m, err := pretrained.Open(modeltest.Directory(t, true))
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	p, _, err := renderer{m, 128, ""}.pair(rows(1)[0])
	if err != nil {
		t.Fatal(err)
	}
	for name, x := range map[string]struct {
		ids  []int32
		want string
	}{
		"prompt":   {p.Prompt, "<|im_start|>user\nsay a<|im_end|>\n<|im_start|>assistant\n"},
		"chosen":   {p.Chosen, "yes a<|im_end|>\n"},
		"rejected": {p.Rejected, "100<|im_end|>\n"},
	} {
		if got := m.Tokenizer.Decode(x.ids); got != x.want {
			t.Errorf("%s is %q, want %q", name, got, x.want)
		}
	}
	n := len(p.Prompt)
	short, cut, err := renderer{m, n + 3, ""}.pair(rows(1)[0])
	if err != nil || cut != 2 || len(short.Chosen) != 3 || len(short.Rejected) != 3 {
		t.Errorf("cut to %d tokens: %v, %v", n+3, short, err)
	}
	if _, _, err := (renderer{m, n, ""}).pair(rows(1)[0]); !errors.Is(err, errLong) {
		t.Errorf("no room: %v", err)
	}
	same := rows(1)[0]
	same.Rejected = same.Chosen
	if _, _, err := (renderer{m, 128, ""}).pair(same); !errors.Is(err, errSame) {
		t.Errorf("equal answers: %v", err)
	}
	tail := rows(1)[0]
	tail.Rejected = []artifact.Message{{Role: "assistant", Content: "yes b"}}
	if _, _, err := (renderer{m, n + 4, ""}).pair(tail); !errors.Is(err, errTail) {
		t.Errorf("answers equal up to the cut: %v", err)
	}
	if _, cut, err := (renderer{m, n + 5, ""}).pair(tail); err != nil || cut != 2 {
		t.Errorf("answers that differ before the cut: %d, %v", cut, err)
	}
}

// Where tokens join across the seam, the answer is encoded as what goes on with the
// prompt: without what a tokenizer puts before a text.
func TestPairAcrossASeam(t *testing.T) {
	dir := modeltest.Directory(t, false)
	file := filepath.Join(dir, "tokenizer.json")
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var tok map[string]any
	if err := json.Unmarshal(data, &tok); err != nil {
		t.Fatal(err)
	}
	tok["normalizer"] = map[string]any{"type": "Sequence", "normalizers": []any{map[string]any{"type": "Prepend", "prepend": "_"}, map[string]any{"type": "NFC"}}}
	if data, err = json.Marshal(tok); err == nil {
		err = os.WriteFile(file, data, 0o666)
	}
	template := filepath.Join(dir, "t.jinja")
	if err == nil {
		err = os.WriteFile(template, []byte("{% for m in messages %}{{ m['role'][:1] + 'e' + m['content'] }}{% endfor %}{% if add_generation_prompt %}ae{% endif %}"), 0o666)
	}
	if err != nil {
		t.Fatal(err)
	}
	m, err := pretrained.Open(dir, pretrained.WithTemplate(template))
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	row := rows(1)[0]
	row.Chosen, row.Rejected = said("\u0301x"), said("yz") // the first joins the e before it to é
	p, _, err := renderer{m, 128, ""}.pair(row)
	if err != nil {
		t.Fatal(err)
	}
	if prompt, chosen, rejected := m.Tokenizer.Decode(p.Prompt), m.Tokenizer.Decode(p.Chosen), m.Tokenizer.Decode(p.Rejected); prompt != "_uesay aae" || chosen != "\u0301x" || rejected != "yz" {
		t.Errorf("%q, %q or %q", prompt, chosen, rejected)
	}
}

func TestRefusedRows(t *testing.T) {
	base := modeltest.Directory(t, true)
	bad := rows(4)
	bad[2].Chosen = nil
	if _, err := runStage(t, block(func(*spec) {}), base, "", bad); err == nil || !strings.Contains(err.Error(), "row pair-2: is not a preference") {
		t.Errorf("a row without chosen: %v", err)
	}
	if _, err := runStage(t, block(func(s *spec) { s.MaxLen = 4 }), base, "", rows(4)); err == nil || !strings.HasSuffix(err.Error(), "has no pair to use: of 4 rows there are 4 whose prompt leaves no room for an answer in max_len = 4; raise max_len") {
		t.Errorf("no pair fits: %v", err)
	}
	if _, err := runStage(t, block(func(*spec) {}), base, "", nil); err == nil || !strings.HasSuffix(err.Error(), "has no rows") {
		t.Errorf("no rows: %v", err)
	}
	equal := rows(3)
	for i := range equal {
		equal[i].Rejected = equal[i].Chosen
	}
	long := rows(1)[0]
	long.Messages[0].Content = strings.Repeat("long ", 60)
	if _, err := runStage(t, block(func(*spec) {}), base, "", append(equal, long)); err == nil || !strings.HasSuffix(err.Error(), "of 4 rows there are 1 whose prompt leaves no room for an answer in the model's context of 128 tokens, 3 whose answers are the same") {
		t.Errorf("no pair is left: %v", err)
	}
}

// TestCutsAreCounted: what max_len, or the context, takes from answers is said,
// and which pairs it makes useless.
func TestCutsAreCounted(t *testing.T) {
	base := modeltest.Directory(t, true)
	pairs := rows(12) // prompts of 24 tokens, answers of 7 and of 5 to 6
	pairs[0].Chosen = said("yes a and that is that")
	pairs[1].Chosen, pairs[1].Rejected = said("yes b and more of it"), said("yes b and more or less")
	for _, c := range []struct {
		most int
		want []string
	}{
		{1024, nil},
		{40, []string{"1 of 12 pairs of data.rows left out: 1 whose answers are the same up to max_len = 40, where they are cut", "1 of 22 answers of data.rows were cut to max_len = 40"}},
	} {
		var notes []string
		_, err := runIn(t, context.Background(), t.TempDir(), block(func(s *spec) { s.MaxLen, s.MaxSteps = c.most, 1 }), base, "", pairs, func(env *stage.Env) {
			env.Note = func(format string, args ...any) {
				if n := fmt.Sprintf(format, args...); strings.Contains(n, "cut") || strings.Contains(n, "left out") {
					notes = append(notes, n)
				}
			}
		})
		if err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(notes, c.want) {
			t.Errorf("max_len %d: %q", c.most, notes)
		}
	}
}

// An answer that is empty is an end of turn to learn, and named.
func TestEmptyAnswersAreNamed(t *testing.T) {
	pairs := rows(12)
	pairs[2].Chosen, pairs[3].Chosen, pairs[4].Rejected = said(""), said(" \n"), said("")
	var notes []string
	_, err := runIn(t, context.Background(), t.TempDir(), block(func(s *spec) { s.MaxSteps = 1 }), modeltest.Directory(t, true), "", pairs, func(env *stage.Env) {
		env.Note = func(format string, args ...any) { notes = append(notes, fmt.Sprintf(format, args...)) }
	})
	if want := "the chosen answer of 2 pairs of data.rows says nothing, and that is preferred: pair-2, pair-3"; err != nil || !slices.Contains(notes, want) {
		t.Errorf("notes %q, %v; want %q", notes, err, want)
	}
}

// Thoughts that the template leaves out are counted.
func TestThoughtsLeftOut(t *testing.T) {
	const shut = `<|im_end|>{{ '\n' }}{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant{{ '\n' }}{% endif %}`
	pairs := rows(12)
	pairs[2].Chosen, pairs[3].Chosen, pairs[3].Rejected = said("<think>hm</think>a"), said("<think>hm</think>b"), said("<think>so</think>c")
	for content, want := range map[string]string{
		`{{ m.content }}`:                       "",
		`{{ m.content.split('</think>')[-1] }}`: "the chat template leaves out what is thought in 3 answers of data.rows, which are compared without it",
	} {
		dir, got := modeltest.Directory(t, true), ""
		config, err := json.Marshal(map[string]any{"eos_token": "<|im_end|>", "chat_template": `{% for m in messages %}<|im_start|>{{ m.role }}{{ '\n' }}` + content + shut})
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, "tokenizer_config.json"), config, 0o666)
		}
		if err == nil {
			_, err = runIn(t, context.Background(), t.TempDir(), block(func(s *spec) { s.MaxSteps = 1 }), dir, "", pairs, func(env *stage.Env) {
				env.Note = func(format string, args ...any) {
					if n := fmt.Sprintf(format, args...); strings.Contains(n, "is thought") {
						got += n
					}
				}
			})
		}
		if err != nil || want == "" && got != "" || !strings.HasPrefix(got, want) {
			t.Errorf("%s: %q, %v; want %q", content, got, err, want)
		}
	}
}

func said(text string) []artifact.Message {
	return []artifact.Message{{Role: "assistant", Content: text}}
}

func TestCheck(t *testing.T) {
	if err := block(func(*spec) {}).Check(); err != nil {
		t.Error(err)
	}
	for field, change := range map[string]func(*spec){
		"loss": func(s *spec) { s.Loss = "kto" }, "beta": func(s *spec) { s.Beta = 0 },
		"lr": func(s *spec) { s.LR = math.NaN() }, "max_len": func(s *spec) { s.MaxLen = 1 },
		"epochs": func(s *spec) { s.Epochs = 0 }, "adapter.rank": func(s *spec) { s.Adapter.Rank = 0 },
		"adapter.type": func(s *spec) { s.Adapter.Type = "" }, "schedule": func(s *spec) { s.Schedule = "cubic" },
	} {
		if err := block(change).Check(); err == nil || !strings.HasPrefix(err.Error(), field+": ") {
			t.Errorf("%s: %v", field, err)
		}
	}
}

// TestSplit holds out all pairs of a prompt, or none.
func TestSplit(t *testing.T) {
	var pairs []train.Preference
	for i := range 20 {
		prompt := int32(i)
		if i >= 10 {
			prompt = int32(i % 3) // of three prompts there are more
		}
		pairs = append(pairs, train.Preference{Prompt: []int32{7, prompt}, Chosen: []int32{int32(i)}, Rejected: []int32{99}})
	}
	for seed := range uint64(20) {
		learn, held := split(pairs, 0.25, seed)
		if len(learn)+len(held) != 20 || len(held) < 5 || len(held) > 9 { // the largest prompt has five pairs
			t.Errorf("seed %d: %d to learn, %d held out", seed, len(learn), len(held))
		}
		if n := shared(learn, held); n > 0 {
			t.Errorf("seed %d: %d held-out pairs have a prompt that is learned", seed, n)
		}
	}
	if n := shared(pairs[:10], pairs[10:]); n != 10 {
		t.Errorf("%d pairs shared, want 10", n)
	}
	if learn, held := split(pairs[:1], 0.5, 1); len(learn) != 1 || held != nil {
		t.Errorf("a single prompt: %d to learn, %d held out", len(learn), len(held))
	}
}

// TestOneStep: a run of one step learns, and one that is over before its warm-up
// says so.
func TestOneStep(t *testing.T) {
	base := modeltest.Directory(t, true)
	for _, c := range []struct {
		warmup int
		note   string
	}{{0, ""}, {1, "warmup_steps = 1 is not over after the one step of this run"}} {
		var notes []string
		s := block(func(s *spec) { s.Epochs, s.GradAccum, s.WarmupSteps = 1, 100, c.warmup })
		out, err := runIn(t, context.Background(), t.TempDir(), s, base, "", rows(12), func(env *stage.Env) {
			env.Note = func(format string, args ...any) { notes = append(notes, fmt.Sprintf(format, args...)) }
		})
		if err != nil {
			t.Fatal(err)
		}
		learned := metrics(t, out["metrics"]).Metrics["eval.margin"].Value != 0
		if said := strings.Contains(strings.Join(notes, "\n"), "warmup_steps"); learned == said || !strings.Contains(strings.Join(notes, "\n"), c.note) {
			t.Errorf("warmup_steps %d: learned %t, notes %q", c.warmup, learned, notes)
		}
	}
}

// TestOverRanked: a rank that some layers cannot have is noted.
func TestOverRanked(t *testing.T) {
	said := ""
	_, err := runIn(t, context.Background(), t.TempDir(), block(func(s *spec) { s.Adapter.Rank, s.MaxSteps = 64, 1 }), modeltest.Directory(t, true), "", rows(4), func(env *stage.Env) {
		env.Note = func(format string, args ...any) { said += fmt.Sprintf(format, args...) + "\n" }
	})
	if err != nil || !strings.Contains(said, "rank = 64 is more than an update can have in 14 of 14 layers, the least 16 in model.layers.0.self_attn.k_proj") {
		t.Errorf("%v, notes %q", err, said)
	}
}
