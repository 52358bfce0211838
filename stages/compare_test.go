package stages

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"pipe/runtime/compare"
	"pipe/runtime/engine"
)

const comparedRecipe = `
model "tiny" { source = "embedded://tiny" }
data "chats" { source = "./chats.jsonl" }
data "prefs" { source = "./prefs.jsonl" }
data "choices" { source = "./choices.jsonl" }
data "answers" { source = "./answers.jsonl" }
pack "train" {
  input   = data.chats
  model   = model.tiny
  seq_len = 64
}
sft "tuned" {
  base       = model.tiny
  data       = pack.train.dataset
  max_steps  = STEPS
  lr         = 1e-2
  eval_split = 0.4
  adapter "lora" { rank = 1 }
}
dpo "final" {
  base       = model.tiny
  data       = data.prefs
  max_steps  = STEPS
  lr         = 1e-2
  eval_split = 0.4
  max_len    = 64
  adapter "lora" { rank = 1 }
}
eval "e" {
  model = sft.tuned.model
  suite "choice" { data = data.choices }
  suite "answer" {
    data       = data.answers
    max_tokens = 4
  }
  suite "prefer" { data = data.prefs }
  suite "prose" {
    type = "perplexity"
    data = data.chats
  }
  needle {
    lengths  = [128]
    depths   = [0.5]
    per_cell = 2
  }
}
`

// TestEveryMetricIsComparedItemByItem holds training and evaluation to telling of
// each item what it adds to each metric: two runs are then compared on the items
// that both have, though rows were written above the others.
func TestEveryMetricIsComparedItemByItem(t *testing.T) {
	k := newKitchen(t)
	write := func(file string, n int, line func(i int) string) {
		var rows strings.Builder
		for i := range n {
			rows.WriteString(line(i) + "\n")
		}
		k.write(file, rows.String())
	}
	write("chats.jsonl", 12, func(i int) string {
		return fmt.Sprintf(`{"messages":[{"role":"user","content":"What is number %d?"},{"role":"assistant","content":"It is %d."}]}`, i, 3*i)
	})
	write("prefs.jsonl", 10, func(i int) string {
		return fmt.Sprintf(`{"messages":[{"role":"user","content":"Question %d?"}],"chosen":[{"role":"assistant","content":"the same"}],"rejected":[{"role":"assistant","content":"no"}]}`, i)
	})
	choice := func(i int) string {
		return fmt.Sprintf(`{"question":"Which is %d?","choices":["%d","none"],"gold":0}`, i, i)
	}
	write("answers.jsonl", 5, func(i int) string { return fmt.Sprintf(`{"question":"Which is %d?","answer":"%d"}`, i, i) })
	write("choices.jsonl", 6, choice)
	run := func(steps string) compare.Outputs {
		res, err := engine.Run(context.Background(), k.load(strings.ReplaceAll(comparedRecipe, "STEPS", steps)), k.o)
		if err != nil {
			t.Fatal(err)
		}
		return res.Outputs()
	}
	old := run("1")
	write("choices.jsonl", 7, func(i int) string { return choice((i + 6) % 7) })
	rs, err := compare.Runs(k.o.Store, old, run("2"), false)
	if err != nil {
		t.Fatal(err)
	}
	seen := 0
	for _, r := range rs {
		name := r.Stage + " " + r.Metric
		switch {
		case !strings.HasPrefix(name, "eval.") && !strings.HasPrefix(name, "sft.") && !strings.HasPrefix(name, "dpo."),
			strings.HasSuffix(name, ".perplexity"), strings.HasSuffix(name, ".bits_per_byte"):
			continue
		}
		if seen++; r.N < 2 || r.OnlyOld != 0 || r.Outcome == compare.Missing {
			t.Errorf("%s: %d items in both, %d only in the older; %s %s", name, r.N, r.OnlyOld, r.Test, r.Note)
		}
	}
	if seen < 15 {
		t.Errorf("%d metrics", seen)
	}
}
