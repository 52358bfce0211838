package stages

import (
	"context"
	"encoding/json"
	"fmt"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/rs/zerolog"

	"pipe/model/hub"
	"pipe/model/tiny"
	"pipe/runtime/artifact"
	"pipe/runtime/engine"
	"pipe/runtime/lang"
	"pipe/runtime/stage"
	"pipe/tensor"
	"pipe/tensor/cpu"
)

// rerunRecipe is a whole pipeline over the embedded model, small enough to run
// many times.
const rerunRecipe = `
pipeline "small" { seed = 3 }
variable "lr" { default = 1e-3 }
model "tiny" { source = "embedded://tiny" }
teacher "t" {
  provider = "openai"
  endpoint = "ENDPOINT/v1"
  model_id = "big"
  retries  = 0
}
data "docs" { source = "./docs/*.txt" }
data "bench" { source = "./bench.jsonl" }
synth "cot" {
  teacher   = teacher.t
  documents = data.docs
  method    = "document_to_dialogue"
  count     = 3
}
dedup "clean" {
  input     = synth.cot.dataset
  threshold = 0.95
}
pack "train" {
  input   = dedup.clean.dataset
  model   = model.tiny
  seq_len = 256
}
sft "tuned" {
  base       = model.tiny
  data       = pack.train.dataset
  lr         = var.lr
  max_steps  = 2
  eval_split = 0
  adapter "lora" {
    rank    = 2
    targets = ["q_proj"]
  }
}
eval "final" {
  model = sft.tuned.model
  suite "bench" { data = data.bench }
}
`

// lessons are what the teacher makes of the documents: text, question,
// reasoning, answer.
var lessons = [...][4]string{
	{"Every copy of the program must carry the harbour notice of its authors.", "Which notice must every copy carry?", "Every copy must carry the harbour notice.", "The harbour notice of its authors."},
	{"No warranty covers damage that glacier water does to machines.", "Does the warranty cover glacier water?", "The text says that no warranty covers damage of glacier water.", "No warranty covers damage that glacier water does."},
	{"Patents end when somebody sues over the meadow invention.", "When do patents over the meadow invention end?", "Patents end when somebody sues.", "Patents end when somebody sues over the meadow invention."},
}

// lecture is a teacher with these answers; calls counts its requests.
func lecture(t *testing.T, calls *int) *httptest.Server {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var q struct {
			Messages []struct{ Content string } `json:"messages"`
		}
		if err := json.NewDecoder(r.Body).Decode(&q); err != nil || len(q.Messages) == 0 {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		*calls++
		prompt, answer := q.Messages[len(q.Messages)-1].Content, "I do not know."
		for _, l := range lessons {
			if !strings.Contains(prompt, l[0]) {
				continue
			}
			switch {
			case strings.HasPrefix(prompt, "Read this text."):
				answer = "Question: " + l[1]
			case strings.Contains(prompt, "Think step by step"):
				answer = l[2]
			default:
				answer = "Answer: " + l[3]
			}
		}
		fmt.Fprintf(w, `{"choices":[{"index":0,"message":{"role":"assistant","content":%q},"finish_reason":"stop"}]}`, answer)
	}))
	s.Config.SetKeepAlivesEnabled(false)
	t.Cleanup(s.Close)
	return s
}

// A kitchen runs recipes against one store and tells which stages ran.
type kitchen struct {
	t   *testing.T
	dir string
	o   engine.Options

	kinds []stage.Kind // nil: All
}

func newKitchen(t *testing.T) *kitchen {
	dir := t.TempDir()
	store, err := artifact.OpenStore(filepath.Join(dir, "store"))
	if err != nil {
		t.Fatal(err)
	}
	b := cpu.New(0)
	t.Cleanup(func() { b.Close() })
	h := hub.FromEnv(filepath.Join(dir, "models"), func(string) string { return "" })
	h.Embedded = map[string]fs.FS{"tiny": tiny.Files()}
	k := &kitchen{t: t, dir: dir, o: engine.Options{
		Store: store, BackendName: b.Name(), Backend: func() (tensor.Backend, error) { return b, nil },
		Resolve: h.Resolve, Parallelism: 1, Log: zerolog.Nop(),
	}}
	for i, l := range lessons {
		k.write(fmt.Sprintf("docs/%d.txt", i), l[0])
	}
	k.write("bench.jsonl", `{"text":"the notice of the authors"}`+"\n"+`{"text":"a warranty is not given"}`+"\n")
	return k
}

func (k *kitchen) write(name, text string) {
	k.t.Helper()
	path := filepath.Join(k.dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o777); err != nil {
		k.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o666); err != nil {
		k.t.Fatal(err)
	}
}

func (k *kitchen) load(src string) *lang.Program {
	k.t.Helper()
	kinds := k.kinds
	if kinds == nil {
		kinds = All
	}
	p, diags := lang.LoadSource([]byte(src), "p.hcl", k.dir, kinds, lang.Options{})
	if diags.HasErrors() {
		k.t.Fatal(diags)
	}
	return p
}

// run runs src and wants exactly these stages to run.
func (k *kitchen) run(what, src string, want ...string) {
	k.t.Helper()
	res, err := engine.Run(context.Background(), k.load(src), k.o)
	if err != nil {
		k.t.Fatalf("%s: %v", what, err)
	}
	var ran []string
	for _, s := range res.Stages {
		if s.State == engine.Done {
			ran = append(ran, s.Addr)
		}
	}
	slices.Sort(ran)
	slices.Sort(want)
	if !slices.Equal(ran, want) {
		k.t.Errorf("%s: %v ran, want %v", what, ran, want)
	}
}

// plan wants the plan of src to say this of each stage.
func (k *kitchen) plan(src string, want map[string]string) {
	k.t.Helper()
	steps, err := engine.Plan(context.Background(), k.load(src), k.o)
	if err != nil {
		k.t.Fatal(err)
	}
	for _, s := range steps {
		w := want[s.Addr]
		if w == "" {
			w = engine.PlanCached
		}
		if s.Action != w {
			k.t.Errorf("plan: %s is %s (%s), want %s", s.Addr, s.Action, s.Reason, w)
		}
	}
}

// TestOnlyWhatChangedRunsAgain holds the stages to what the keys promise: the
// spec, the content of inputs and files, and nothing else.
func TestOnlyWhatChangedRunsAgain(t *testing.T) {
	calls := 0
	k := newKitchen(t)
	recipe := strings.Replace(rerunRecipe, "ENDPOINT", lecture(t, &calls).URL, 1)
	edit := func(pairs ...string) string {
		t.Helper()
		out := recipe
		for i := 0; i < len(pairs); i += 2 {
			if !strings.Contains(out, pairs[i]) {
				t.Fatalf("the recipe has no %q", pairs[i])
			}
			out = strings.ReplaceAll(out, pairs[i], pairs[i+1])
		}
		return out
	}
	k.run("first", recipe, "data.bench", "data.docs", "dedup.clean", "eval.final", "pack.train", "sft.tuned", "synth.cot")
	paid := calls
	k.run("again", recipe)

	lr := edit("1e-3", "2e-3")
	k.plan(lr, map[string]string{"sft.tuned": engine.PlanRun, "eval.final": engine.PlanMaybe})
	k.run("lr", lr, "sft.tuned", "eval.final")
	k.run("lr as it was", recipe)

	threshold := edit("0.95", "0.96")
	k.plan(threshold, map[string]string{
		"dedup.clean": engine.PlanRun, "pack.train": engine.PlanMaybe, "sft.tuned": engine.PlanMaybe, "eval.final": engine.PlanMaybe,
	})
	k.run("a threshold that drops no other row", threshold, "dedup.clean")

	for what, src := range map[string]string{
		"a comment":               "# another day\n" + edit("seq_len = 256", "seq_len = 256 // tokens"),
		"white space":             edit("  ", "\t", " = ", "="),
		"a renamed variable":      edit(`variable "lr"`, `variable "learning_rate"`, "var.lr", "var.learning_rate"),
		"renamed stages":          edit(`"clean"`, `"unique"`, "dedup.clean", "dedup.unique", `"tuned"`, `"student"`, "sft.tuned", "sft.student", `"train"`, `"rows"`, "pack.train", "pack.rows"),
		"renamed model, data":     edit(`"tiny" {`, `"base" {`, "model.tiny", "model.base", `"docs"`, `"corpus"`, "data.docs", "data.corpus", `"t" {`, `"u" {`, "teacher.t\n", "teacher.u\n"),
		"a number written anew":   edit("1e-3", "0.001", "0.95", "0.950"),
		"a default written out":   edit("max_steps  = 2", "max_steps  = 2\n  batch_size = "+fmt.Sprint(defaultOf(t, "sft", "BatchSize"))),
		"precisions written out":  edit("max_steps  = 2", "max_steps  = 2\n  precision = \"f32\"", "= sft.tuned.model", "= sft.tuned.model\n  precision = \"f32\""),
		"memory and checkpoints":  edit("max_steps  = 2", "max_steps  = 2\n  gradient_checkpointing = true\n  checkpoint_every = 1\n  save_total_limit = 7"),
		"how the teacher is kept": edit("retries  = 0", "retries = 3\n  concurrency = 1\n  timeout = \"7s\""),
		"a gate":                  edit("{ data = data.bench }", "{ data = data.bench }\n gate \"g\" {\n condition = true\n error_message = \"no\"\n }"),
		"retry":                   edit("seq_len = 256", "seq_len = 256\n  retry { attempts = 2 }"),
	} {
		k.run(what, src)
	}

	k.run("another precision of evaluation", edit("= sft.tuned.model", "= sft.tuned.model\n  precision = \"bf16\""), "eval.final")
	k.run("another precision of training", edit("max_steps  = 2", "max_steps  = 2\n  precision = \"bf16\""), "sft.tuned", "eval.final")

	k.write("bench.jsonl", `{"text":"the notice of the authors"}`+"\n"+`{"text":"a warranty is given"}`+"\n")
	k.run("changed questions", recipe, "data.bench", "eval.final")
	if calls != paid {
		t.Errorf("%d answers were asked for again", calls-paid)
	}
	k.write("docs/3.txt", lessons[0][0]+" "+lessons[1][0])
	k.plan(recipe, map[string]string{
		"data.docs": engine.PlanRun, "synth.cot": engine.PlanMaybe, "dedup.clean": engine.PlanMaybe, "pack.train": engine.PlanMaybe,
		"sft.tuned": engine.PlanMaybe, "eval.final": engine.PlanMaybe,
	})
}

// defaultOf returns a field of a kind's zero configuration.
func defaultOf(t *testing.T, kind, field string) any {
	for _, k := range All {
		if k.Name == kind {
			return reflectField(k.New(), field)
		}
	}
	t.Fatalf("no kind %s", kind)
	return nil
}

func reflectField(s any, field string) any {
	return reflect.ValueOf(s).Elem().FieldByName(field).Interface()
}

func setField(s any, field string, v any) {
	reflect.ValueOf(s).Elem().FieldByName(field).Set(reflect.ValueOf(v))
}
