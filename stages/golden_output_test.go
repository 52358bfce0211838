package stages

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"pipe/runtime/artifact"
	"pipe/runtime/engine"
	"pipe/runtime/stage"
)

// bytesRecipe has the kinds that make their outputs without a device's
// rounding. The answers of the teacher were recorded from [lecture].
const bytesRecipe = `
pipeline "bytes" { seed = 3 }
model "tiny" { source = "embedded://tiny" }
teacher "t" {
  provider = "journal"
  model_id = "big"
  journal  = "./answers.jsonl"
}
data "docs" { source = "./docs/*.txt" }
data "first" { source = "./docs/0.txt" }
data "lines" {
  source    = "./docs/*.txt"
  split     = "line"
  max_chars = 30
  shuffle   = true
}
synth "cot" {
  teacher      = teacher.t
  documents    = data.docs
  method       = "document_to_dialogue"
  count        = 7
  self_correct = true
}
synth "pairs" {
  teacher = teacher.t
  prompts = synth.cot.dataset
  method  = "preference_pairs"
}
dedup "exact" {
  input    = synth.cot.dataset
  embedder = "none"
  decontaminate { against = [data.first] }
}
dedup "near" { input = synth.cot.dataset }
mix "all" {
  source "cot" {
    input  = dedup.near.dataset
    weight = 0.6
  }
  source "docs" {
    input  = data.docs
    weight = 0.4
  }
}
pack "fit" {
  input   = mix.all.dataset
  model   = model.tiny
  seq_len = 128
}
pack "wrapped" {
  input    = data.docs
  model    = model.tiny
  seq_len  = 16
  strategy = "wrapped"
}
candidate "c" {
  for_each = { low = 0.25, high = 0.75 }
  acc      = each.value
}
select "best" {
  from   = candidate.c
  metric = "qa.acc"
}
`

// A goldenOutput is the digest of an output, and the version of its kind.
type goldenOutput struct {
	Version int             `json:"version"`
	Digest  artifact.Digest `json:"digest"`
}

// rounded are outputs that hold numbers of the device.
var rounded = []string{"dedup.near.drops", "dedup.near.metrics", "dedup.exact.metrics"}

// TestBytesStayWhatTheyAre: a kind that makes other bytes of the same has
// another version, or its results would be taken for those of today.
func TestBytesStayWhatTheyAre(t *testing.T) {
	calls := 0
	k := newKitchen(t)
	k.kinds = append(slices.Clone(All), candidateKind)
	recipe, answers := bytesRecipe, filepath.Join(golden, "answers.jsonl")
	b, err := os.ReadFile(answers)
	record := *update && errors.Is(err, fs.ErrNotExist)
	switch {
	case record:
		recipe = strings.Replace(recipe, "\"journal\"\n", "\"openai\"\n  endpoint = \""+lecture(t, &calls).URL+"/v1\"\n", 1)
		recipe = strings.Replace(recipe, "  journal  = \"./answers.jsonl\"\n", "  concurrency = 1\n", 1)
	case err != nil:
		t.Fatal(err)
	default:
		k.write("answers.jsonl", string(b))
	}
	res, err := engine.Run(context.Background(), k.load(recipe), k.o)
	if err != nil {
		t.Fatal(err)
	}
	if record {
		b, err := os.ReadFile(filepath.Join(k.o.Store.Journals(), "teacher.jsonl"))
		if err == nil {
			err = os.WriteFile(answers, b, 0o666)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	path := filepath.Join(golden, "outputs.json")
	want := map[string]goldenOutput{}
	if b, err := os.ReadFile(path); err == nil {
		if err := json.Unmarshal(b, &want); err != nil {
			t.Fatal(err)
		}
	}
	for _, s := range res.Stages {
		for name, o := range s.Outputs {
			ref := strings.TrimSuffix(s.Addr+"."+name, ".")
			if slices.Contains(rounded, ref) {
				continue
			}
			checkOutput(t, ref, want, goldenOutput{versionOf(t, k.kinds, s.Kind), o.Digest})
		}
	}
	if *update {
		writeGolden(t, path, want)
	}
}

func checkOutput(t *testing.T, ref string, want map[string]goldenOutput, got goldenOutput) {
	t.Helper()
	switch was, ok := want[ref]; {
	case was == got:
	case !*update && (!ok || was.Version != got.Version):
		t.Errorf("%s is of version %d, and the golden digest of version %d: run this test with -update", ref, got.Version, was.Version)
	case ok && was.Version == got.Version:
		t.Errorf("the bytes of %s moved and its version is still %d: %v, was %v", ref, got.Version, got.Digest, was.Digest)
	default:
		want[ref] = got
	}
}

// candidateKind makes a model and a measurement of it, for select.
var candidateKind = stage.Kind{
	Name: "candidate", Version: 1, New: func() stage.Stage { return &candidate{} },
	Outputs: []stage.Output{{Name: "model", Type: artifact.Model}, {Name: "metrics", Type: artifact.Metrics}},
}

type candidate struct {
	Acc float64 `hcl:"acc" doc:"qa.acc"`
}

func (*candidate) Check() error { return nil }

func (c *candidate) Run(_ context.Context, env *stage.Env) error {
	w, err := env.Create("model")
	if err != nil {
		return err
	}
	if err := w.WriteJSON(artifact.ModelFile, artifact.ModelManifest{Training: []artifact.Training{{Kind: "candidate"}}}); err != nil {
		return err
	}
	if err := w.WriteJSON("weights.json", c.Acc); err != nil {
		return err
	}
	if w, err = env.Create("metrics"); err != nil {
		return err
	}
	return w.WriteJSON(artifact.MetricsName, artifact.MetricsFile{Metrics: map[string]artifact.Metric{"qa.acc": {N: 4, Value: c.Acc, Better: 1}}})
}
