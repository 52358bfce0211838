// Package eval is the stage of evaluation: suites of questions, texts or
// preferences, and a needle-in-a-haystack grid, for a model, its base and a
// blind guesser.
package eval

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"pipe/model/memory"
	"pipe/runtime/artifact"
	"pipe/runtime/stage"
	"pipe/tensor"
	"pipe/train"
)

//go:embed README.md
var doc string

// Kind is the stage kind "eval".
var Kind = stage.Kind{
	Name: "eval", Doc: doc, Version: 8, Compute: true,
	Outputs: []stage.Output{
		{Name: "metrics", Type: artifact.Metrics, Doc: "SUITE.METRIC of the model, its base and a blind guesser; the needle grid"},
		{Name: "items", Type: artifact.Dataset, Rows: artifact.PlainRows, Doc: "Every item with what the model answered (artifact.Row, details in meta)"},
		{Name: "model", Type: artifact.Model, Doc: "The evaluated model, passed on", Alias: "model"},
	},
	New: newStage,
}

// spec is the block.
type spec struct {
	Model     stage.Model  `hcl:"model" doc:"The model to evaluate"`
	Baseline  *stage.Model `hcl:"baseline,optional" doc:"The model to compare with; without it, the same weights with the adapter off"`
	Batch     int          `hcl:"batch,optional" doc:"Tokens of a scoring pass: speed and memory, and the last bits of log-probabilities"`
	Precision string       `hcl:"precision,optional" doc:"Of products with the model's matrices, and with those of the baseline: f32; bf16, which rounds both operands to bfloat16 and adds in f32: faster where the processor has instructions for it; or fp8, which rounds those of linear layers to 8 bits where there are many rows, and does the rest as bf16: for GPUs of compute capability 8.9 or newer, and slow on processors"`

	Suites []suite      `hcl:"suite,block" doc:"A set of items that are measured alike"`
	Needle *needle      `hcl:"needle,block" doc:"Facts hidden in long texts: a grid of lengths by depths"`
	Gates  []stage.Gate `hcl:"gate,block" json:"-" doc:"Conditions on the metrics"`
}

// suite is suite "name" { ... }.
type suite struct {
	Name       string        `hcl:"name,label"`
	Data       stage.Dataset `hcl:"data" doc:"The items"`
	Type       string        `hcl:"type,optional" doc:"multiple_choice, generate, preference or perplexity; chosen from the first row when left out"`
	MaxTokens  int           `hcl:"max_tokens,optional" doc:"generate: longest answer, in tokens"`
	FewShot    int           `hcl:"few_shot,optional" doc:"multiple_choice, generate: solved examples before each question, other rows of data chosen by the seed"`
	Normalizer string        `hcl:"normalizer,optional" doc:"generate: text (lower case, no punctuation, no articles), number (the last number) or exact"`
	Limit      int           `hcl:"limit,optional" doc:"Use this many rows, chosen by the seed; 0: all"`
	Window     int           `hcl:"window,optional" doc:"perplexity: tokens of a window over long texts; bounded by the model's context"`
}

// SetDefaults sets what a block may leave out.
func (s *suite) SetDefaults() { s.MaxTokens, s.Normalizer, s.Window = 64, "text", 1024 }

func newStage() stage.Stage { return &spec{Batch: 2048, Precision: tensor.F32.String()} }

// suiteTypes are the types of suites, each with its function.
var suiteTypes = map[string]func(*runner, *suite, []artifact.Row) (*result, error){
	"multiple_choice": multipleChoice, "generate": generate, "perplexity": perplexity, "preference": preference,
}

// measures are the metrics of each type of suite.
var measures = map[string][]string{
	"multiple_choice": {"acc", "acc_norm"}, "generate": {"exact_match", "contains", "f1"},
	"perplexity": {"nll", "perplexity", "bits_per_byte"}, "preference": {"acc", "acc_norm", "margin", "reward_acc"},
}

// Measures implements stage.Measurer. The type of a suite that the first row is to
// tell may be any.
func (s *spec) Measures() map[string][]string {
	known := map[string][]string{}
	for _, u := range s.Suites {
		known[u.Name] = measures[u.Type]
		if u.Type == "" {
			for _, kind := range slices.Sorted(maps.Keys(measures)) {
				known[u.Name] = append(known[u.Name], measures[kind]...)
			}
			slices.Sort(known[u.Name])
			known[u.Name] = slices.Compact(known[u.Name])
		}
	}
	if s.Needle != nil {
		known["needle"] = []string{"acc"}
	}
	return known
}

// Check implements stage.Stage.
func (s *spec) Check() error {
	var errs []error
	bad := func(wrong bool, field, format string, args ...any) {
		if wrong {
			errs = append(errs, stage.Fieldf(field, format, args...))
		}
	}
	bad(len(s.Suites) == 0 && s.Needle == nil, "suite", "is missing; an eval needs a suite or needle block")
	bad(s.Batch < 1, "batch", "is %d; must be at least 1", s.Batch)
	bad(!slices.Contains(tensor.Precisions(), s.Precision), "precision", "is %q; must be one of %q", s.Precision, tensor.Precisions())
	seen := map[string]bool{}
	for _, u := range s.Suites {
		bad(seen[u.Name], "suite.name", "%q is used twice", u.Name)
		bad(u.Name == "" || strings.ContainsAny(u.Name, ". \""), "suite.name", "is %q; must be a name without dots and spaces", u.Name)
		bad(u.Name == "needle" && s.Needle != nil, "suite.name", "\"needle\" is the name of the needle block's metrics")
		seen[u.Name] = true
		if u.Type != "" && suiteTypes[u.Type] == nil {
			bad(true, "suite.type", "is %q; must be \"multiple_choice\", \"generate\", \"preference\" or \"perplexity\"", u.Type)
		}
		bad(u.MaxTokens < 1, "suite.max_tokens", "is %d; must be at least 1", u.MaxTokens)
		bad(u.FewShot < 0 || u.FewShot > 100, "suite.few_shot", "is %d; must be between 0 and 100", u.FewShot)
		bad(u.Limit < 0, "suite.limit", "is %d; must be 0 (all rows) or more", u.Limit)
		bad(u.Window < 2, "suite.window", "is %d; must be at least 2", u.Window)
		bad(!slices.Contains([]string{"text", "number", "exact"}, u.Normalizer), "suite.normalizer", "is %q; must be \"text\", \"number\" or \"exact\"", u.Normalizer)
	}
	return errors.Join(append(errs, s.Needle.check()...)...)
}

// A result is what one suite measured on one subject. Items hold one entry per
// item in the order of the rows.
type result struct {
	metrics []measured
	items   []answered
	grid    *artifact.Grid
	sums    [][2]float64 // preference: summed log-probabilities of each pair
}

// measured is one metric of a suite.
type measured struct {
	name string
	train.Estimate
	better int // as in artifact.Metric
}

func (r *result) put(name string, e train.Estimate, better int) {
	r.metrics = append(r.metrics, measured{name, e, better})
}

// job is one suite, with its rows, ready to be run on any subject.
type job struct {
	name  string
	field string
	run   func(*runner) (*result, error)
}

// Products implements stage.Precise.
func (s *spec) Products() tensor.DType { return tensor.Precision(s.Precision) }

// Run implements stage.Stage.
func (s *spec) Run(ctx context.Context, env *stage.Env) error {
	jobs, err := s.jobs(env)
	if err != nil {
		return err
	}
	paths, err := env.Store.Model(s.Model.Ref)
	if err != nil {
		return err
	}
	m, err := openSubject(env.Backend, paths, tensor.Precision(s.Precision))
	if err != nil {
		return err
	}
	r := &runner{ctx: ctx, env: env, subject: m, batch: s.Batch, total: len(jobs)}
	tuned, err := r.all(jobs, false)
	if err != nil {
		m.close()
		return err
	}
	blind, err := r.all(jobs, true)
	if err != nil {
		m.close()
		return err
	}
	if m.guard != nil {
		need := m.guard.Plan.Peak()
		env.Note("needs %s of memory: %s", memory.Size(need.Bytes), memory.Parts(need))
	}
	base, err := s.base(r, jobs, paths.Root)
	if err != nil {
		return err
	}
	return s.write(env, jobs, tuned, base, blind)
}

// jobs reads the rows of all suites.
func (s *spec) jobs(env *stage.Env) ([]job, error) {
	var jobs []job
	for i := range s.Suites {
		u := &s.Suites[i]
		rows, err := u.rows(env)
		if err != nil {
			return nil, fmt.Errorf("suite %q: %w", u.Name, err)
		}
		kind := u.Type
		if kind == "" {
			kind = rowType(rows[0])
		}
		jobs = append(jobs, job{u.Name, "suite", func(r *runner) (*result, error) { return suiteTypes[kind](r, u, rows) }})
	}
	if s.Needle != nil {
		hay, err := s.Needle.haystack(env)
		if err != nil {
			return nil, fmt.Errorf("needle: %w", err)
		}
		jobs = append(jobs, job{"needle", "needle", func(r *runner) (*result, error) { return s.Needle.run(r, hay) }})
	}
	return jobs, nil
}

// write joins the results and creates the outputs.
func (s *spec) write(env *stage.Env, jobs []job, tuned, base, blind []*result) error {
	m := artifact.MetricsFile{
		Metrics: map[string]artifact.Metric{}, Baseline: map[string]artifact.Metric{},
		Change: map[string]artifact.Metric{}, Blind: map[string]artifact.Metric{}, Grids: map[string]artifact.Grid{},
	}
	var items []artifact.Row
	for i, j := range jobs {
		t := tuned[i]
		if base != nil && t.sums != nil {
			gains := gained(t.sums, base[i].sums)
			t.put("reward_acc", train.MeanOf(gains), 1)
			for k, g := range gains {
				t.items[k].details["reward_correct"] = g == 1
			}
		}
		put(m.Metrics, j.name, t.metrics)
		put(m.Blind, j.name, blind[i].metrics)
		if base != nil {
			put(m.Baseline, j.name, base[i].metrics)
			put(m.Change, j.name, changes(t.metrics, base[i].metrics))
		}
		if t.grid != nil {
			g := *t.grid
			if base != nil {
				g.Baseline = base[i].grid.Values
			}
			m.Grids[j.name] = g
		}
		for _, x := range t.items {
			row := x.line()
			row.ID, row.Source = j.name+"/"+row.ID, row.ID
			items = append(items, row)
		}
	}
	w, err := env.Create("metrics")
	if err != nil {
		return err
	}
	if err := w.WriteJSON(artifact.MetricsName, m); err != nil {
		return err
	}
	if w, err = env.Create("items"); err != nil {
		return err
	}
	return artifact.Append(w, items...)
}

func put(into map[string]artifact.Metric, suite string, from []measured) {
	for _, m := range from {
		into[suite+"."+m.name] = artifact.Metric{N: m.N, Value: m.Value, Stderr: m.Stderr, Better: m.better}
	}
}

// changes are the paired differences of the metrics that both have.
func changes(tuned, base []measured) (out []measured) {
	for _, t := range tuned {
		for _, b := range base {
			if d, ok := t.Minus(b.Estimate); ok && b.name == t.name {
				out = append(out, measured{t.name, d, t.better})
			}
		}
	}
	return out
}
