package harness

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
)

// A Recipe is a pipeline file whose teacher is the harness's own.
type Recipe struct {
	File    string
	Teacher *Teacher
	Stages  int      // that it has
	Copy    string   // where export puts a copy outside of the store
	Flags   []string // of pipe run
}

// small has every kind of stage that leaves something behind when it is killed,
// and trains in each way that has a state of its own.
const small = `
pipeline "small" {
  seed = 5
}
model "tiny" {
  source = "embedded://tiny"
}
teacher "t" {
  provider    = "openai"
  endpoint    = "ENDPOINT/v1"
  model_id    = "big"
  concurrency = 4
}
data "docs" {
  source = "./docs/*.txt"
}
data "bench" {
  source = "./bench.jsonl"
}
synth "cot" {
  teacher      = teacher.t
  documents    = data.docs
  method       = "document_to_dialogue"
  count        = 18
  self_correct = true
}
synth "prefs" {
  teacher = teacher.t
  prompts = synth.cot.dataset
  method  = "preference_pairs"
  count   = 12
}
dedup "clean" {
  input     = synth.cot.dataset
  threshold = 0.999
  decontaminate {
    against = [data.bench]
  }
}
mix "train" {
  source "cot" {
    input  = dedup.clean.dataset
    weight = 0.8
  }
  source "docs" {
    input  = data.docs
    weight = 0.2
  }
}
pack "train" {
  input   = mix.train.dataset
  model   = model.tiny
  seq_len = 128
}
sft "lora" {
  base             = model.tiny
  data             = pack.train.dataset
  max_steps        = 8
  checkpoint_every = 1
  lr               = 1e-3
  adapter "lora" {
    rank    = 4
    dropout = 0.1
  }
}
sft "dora" {
  base             = sft.lora.model
  data             = pack.train.dataset
  optimizer        = "adamw_8bit"
  precision        = "bf16"
  max_steps        = 6
  checkpoint_every = 2
  save_total_limit = 1
}
dpo "final" {
  base             = sft.dora.model
  data             = synth.prefs.dataset
  eval_split       = 0.25
  batch_size       = 2
  epochs           = 2
  checkpoint_every = 1
}
eval "final" {
  model = dpo.final.model
  suite "bench" {
    data = data.bench
  }
  needle {
    lengths  = [128]
    depths   = [0, 1]
    per_cell = 2
    format   = "plain"
  }
}
export "release" {
  model   = dpo.final.model
  formats = ["peft", "safetensors", "gguf:q8_0"]
  path    = "./release"
}
`

var (
	programs = []string{"harbour", "glacier", "meadow", "lantern", "orchard", "compass", "anvil", "willow", "saddle", "thunder", "velvet", "copper"}
	notices  = []string{"yellow", "crimson", "silver", "wooden", "painted", "hidden", "narrow", "ancient", "broken", "golden", "silent", "frozen"}
)

// Small writes a recipe that takes a few seconds into dir.
func Small(dir string) (*Recipe, error) {
	t := newTeacher(func(c call, prompt string) (reply, bool) { return reply{lesson(c, prompt), "stop"}, true })
	files := map[string]string{"p.hcl": strings.Replace(small, "ENDPOINT", t.server.URL, 1), "bench.jsonl": ""}
	for i, p := range programs {
		files[fmt.Sprintf("docs/%02d.txt", i)] = passage(i)
		b, err := json.Marshal(map[string]string{"text": "The " + p + " stands beside the " + notices[i] + " house, as it always did."})
		if err != nil {
			return nil, err
		}
		files["bench.jsonl"] += string(b) + "\n"
	}
	for name, text := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o777); err != nil {
			return nil, err
		}
		if err := os.WriteFile(path, []byte(text), 0o666); err != nil {
			return nil, err
		}
	}
	return &Recipe{File: filepath.Join(dir, "p.hcl"), Teacher: t, Stages: 12, Copy: filepath.Join(dir, "release")}, nil
}

func passage(i int) string {
	return fmt.Sprintf("Every copy of the %s program must carry the %s notice of its authors. No warranty covers the %s program.", programs[i], notices[i], programs[i])
}

// lesson answers as a teacher that knows the passages; now and then it errs.
func lesson(c call, prompt string) string {
	i := 0
	for j, p := range programs {
		if strings.Contains(prompt, p) {
			i = j
		}
	}
	switch {
	case strings.HasPrefix(prompt, "Read this text.") && c[1]%8 == 0:
		return "No question comes to mind" // malformed: it is asked again
	case strings.HasPrefix(prompt, "Read this text."):
		return fmt.Sprintf("Which notice must every copy of the %s program carry?", programs[i])
	case strings.Contains(prompt, "Think step by step"):
		return fmt.Sprintf("The text says that every copy must carry the %s notice of its authors.", notices[i])
	case strings.Contains(prompt, "Does the text support"):
		return []string{"No.", "Yes.", "Yes."}[c[2]%3]
	case strings.Contains(prompt, "This answer is wrong"):
		return fmt.Sprintf("Every copy of the %s program must carry the %s notice.", programs[i], notices[i])
	case strings.HasPrefix(prompt, "Text:"):
		return fmt.Sprintf("The %s notice of its authors.", notices[i])
	}
	return fmt.Sprintf("It carries stamp %d.", c[3])
}

// Quickstart copies pipelines/quickstart.hcl, below root, into dir. The answers
// that lie beside it come from a server, to be paid for; and training saves
// checkpoints often enough to be killed while it does.
func Quickstart(root, dir string) (*Recipe, error) {
	src := filepath.Join(root, "pipelines")
	b, err := os.ReadFile(filepath.Join(src, "quickstart.hcl"))
	if err != nil {
		return nil, err
	}
	if err := os.CopyFS(filepath.Join(dir, "quickstart"), os.DirFS(filepath.Join(src, "quickstart"))); err != nil {
		return nil, err
	}
	answer, err := recorded(filepath.Join(src, "quickstart", "answers.jsonl"))
	if err != nil {
		return nil, err
	}
	t := newTeacher(answer)
	text := string(b)
	for _, edit := range []struct{ old, new string }{
		{`provider\s*= "journal"`, `provider = "openai"`},
		{`journal\s*= "./quickstart/answers.jsonl"`, fmt.Sprintf(`endpoint = "%s/v1"`, t.server.URL)},
		{`(sft "tuned" \{|dpo "final" \{)`, "$1\n  checkpoint_every = 5"},
	} {
		re := regexp.MustCompile(edit.old)
		if !re.MatchString(text) {
			return nil, fmt.Errorf("quickstart.hcl has no %s", edit.old)
		}
		text = re.ReplaceAllString(text, edit.new)
	}
	file := filepath.Join(dir, "quickstart.hcl")
	if err := os.WriteFile(file, []byte(text), 0o666); err != nil {
		return nil, err
	}
	out := filepath.Join(dir, "out")
	return &Recipe{File: file, Teacher: t, Stages: 19, Copy: out, Flags: []string{"--var", "out=" + out}}, nil
}
