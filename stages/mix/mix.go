// Package mix is the stage that draws from several datasets in the proportion
// of weights, by tokens: the subject, and the general text that keeps a model
// from forgetting.
package mix

import (
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"pipe/model"
	"pipe/runtime/artifact"
	"pipe/runtime/stage"
)

//go:embed README.md
var doc string

// Kind is the stage kind "mix".
var Kind = stage.Kind{
	Name: "mix", Doc: doc, Version: 1,
	Outputs: []stage.Output{
		{Name: "dataset", Type: artifact.Dataset, Rows: artifact.PlainRows, Doc: "The rows that were drawn, in an order drawn from the seed; meta says from which source"},
		{Name: "metrics", Type: artifact.Metrics, Doc: "NAME.share, NAME.tokens, NAME.rows and NAME.passes of each source"},
	},
	New: newStage,
}

// spec is the block.
type spec struct {
	Sources []source     `hcl:"source,block" doc:"A dataset to draw from"`
	Model   *stage.Model `hcl:"model,optional" doc:"Count tokens with this model's tokenizer; without it, four bytes of UTF-8 count as one token"`
	Tokens  int          `hcl:"tokens,optional" doc:"Tokens to draw in all; 0: as many as it takes to use the source of the largest weight once, as a whole"`
}

// source is source "name" { ... }.
type source struct {
	Name      string        `hcl:"name,label" doc:"Name in metrics and meta"`
	Input     stage.Dataset `hcl:"input" doc:"Rows to draw from"`
	Weight    float64       `hcl:"weight" doc:"Share of the tokens, in proportion to the sum of all weights"`
	MaxRepeat int           `hcl:"max_repeat,optional" doc:"How often a row may be drawn to reach the weight"`
}

// SetDefaults implements stage.Defaulter.
func (s *source) SetDefaults() { s.MaxRepeat = 4 }

func newStage() stage.Stage { return &spec{} }

// Check implements stage.Stage.
func (s *spec) Check() error {
	var errs []error
	if len(s.Sources) == 0 {
		errs = append(errs, errors.New("mix needs a source: write source \"name\" { input = ..., weight = ... }"))
	}
	if s.Tokens < 0 {
		errs = append(errs, stage.Fieldf("tokens", "is %d; must be 0 or more", s.Tokens))
	}
	for _, src := range s.Sources {
		field := func(name string) string { return fmt.Sprintf("source[%q].%s", src.Name, name) }
		if src.Name == "" || strings.ContainsAny(src.Name, ": \t\n") {
			errs = append(errs, stage.Fieldf(field("name"), "is %q; must be a name without spaces and colons", src.Name))
		}
		if !(src.Weight > 0 && src.Weight <= 1e9) {
			errs = append(errs, stage.Fieldf(field("weight"), "is %v; must be above 0, such as 0.9", src.Weight))
		}
		if src.MaxRepeat < 1 || src.MaxRepeat > 1000 {
			errs = append(errs, stage.Fieldf(field("max_repeat"), "is %d; must be between 1 and 1000", src.MaxRepeat))
		}
	}
	return errors.Join(errs...)
}

// NeedsWeights implements stage.Weightless.
func (*spec) NeedsWeights(string) bool { return false }

// Run implements stage.Stage.
func (s *spec) Run(ctx context.Context, env *stage.Env) error {
	count, done, err := s.counter(env)
	if err != nil {
		return err
	}
	defer done()
	inputs := make([][]artifact.Row, len(s.Sources))
	lengths := make([][]int, len(s.Sources))
	supplies := make([]supply, len(s.Sources))
	for i, src := range s.Sources {
		if inputs[i], err = read(env, src.Input); err != nil {
			return err
		}
		if len(inputs[i]) == 0 {
			return stage.Fieldf(fmt.Sprintf("source[%q].input", src.Name), "%s has no rows", src.Input)
		}
		if lengths[i], err = countAll(ctx, inputs[i], count); err != nil {
			return err
		}
		supplies[i] = supply{weight: src.Weight, passes: src.MaxRepeat}
		for _, n := range lengths[i] {
			supplies[i].tokens += n
		}
		env.Progress(int64(i+1), int64(len(s.Sources)), "sources")
	}
	want, short := shares(supplies, s.Tokens)
	drawn := make([][]int, len(s.Sources))
	for i, src := range s.Sources {
		drawn[i] = draw(lengths[i], want[i], src.MaxRepeat, func(pass int) []int {
			return model.NewStream(env.Seed, fmt.Sprintf("mix.%s.%d", src.Name, pass)).Perm(len(inputs[i]))
		})
	}
	return s.write(env, inputs, lengths, drawn, short)
}

func read(env *stage.Env, d stage.Dataset) ([]artifact.Row, error) {
	a, err := env.Store.Open(d.Ref)
	if err != nil {
		return nil, err
	}
	rows, err := artifact.All[artifact.Row](a)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", d, err)
	}
	return rows, nil
}

// write creates the outputs.
func (s *spec) write(env *stage.Env, inputs [][]artifact.Row, lengths, drawn [][]int, short []bool) error {
	rows, err := s.rows(inputs, drawn)
	if err != nil {
		return err
	}
	mixed := make([]artifact.Row, len(rows))
	for i, j := range model.NewStream(env.Seed, "mix.order").Perm(len(rows)) {
		mixed[i] = rows[j]
	}
	w, err := env.Create("dataset")
	if err != nil {
		return err
	}
	if err := artifact.Append(w, mixed...); err != nil {
		return err
	}
	tokens, all, weights := make([]int, len(s.Sources)), 0, 0.0
	for i := range s.Sources {
		for _, r := range drawn[i] {
			tokens[i] += lengths[i][r]
		}
		all += tokens[i]
		weights += s.Sources[i].Weight
	}
	metrics := map[string]artifact.Metric{"mix.tokens": {N: len(rows), Value: float64(all)}, "mix.rows": {N: len(rows), Value: float64(len(rows))}}
	for i, src := range s.Sources {
		n := len(drawn[i])
		share, passes := float64(tokens[i])/float64(all), float64(n)/float64(len(inputs[i]))
		metrics[src.Name+".share"] = artifact.Metric{N: n, Value: share}
		metrics[src.Name+".tokens"] = artifact.Metric{N: n, Value: float64(tokens[i])}
		metrics[src.Name+".rows"] = artifact.Metric{N: n, Value: float64(n)}
		metrics[src.Name+".passes"] = artifact.Metric{N: n, Value: passes}
		env.Note("%s: %s (%.2f passes), %s, %.1f%% of all (%.1f%% asked for)", src.Name, stage.Count(n, "row"), passes, stage.Count(tokens[i], "token"), 100*share, 100*src.Weight/weights)
		if short[i] {
			env.Note("%s is too small for its weight even when each of its rows is drawn %s: raise max_repeat, or lower its weight", src.Name, stage.Count(src.MaxRepeat, "time"))
		}
	}
	if w, err = env.Create("metrics"); err != nil {
		return err
	}
	return w.WriteJSON(artifact.MetricsName, artifact.MetricsFile{Metrics: metrics})
}

// rows returns copies of the drawn rows with ids that are unique: one that
// several sources have is preceded by its source, and one that is drawn again
// followed by the number of its pass.
func (s *spec) rows(inputs [][]artifact.Row, drawn [][]int) ([]artifact.Row, error) {
	owners := map[string]int{}
	for _, in := range inputs {
		for i := range in {
			owners[in[i].ID]++
		}
	}
	var rows []artifact.Row
	used := map[string]bool{}
	for i, src := range s.Sources {
		times := map[int]int{}
		for _, r := range drawn[i] {
			row := inputs[i][r]
			if owners[row.ID] > 1 {
				row.ID = src.Name + ":" + row.ID
			}
			if times[r]++; times[r] > 1 {
				row.ID = fmt.Sprintf("%s~%d", row.ID, times[r])
			}
			if used[row.ID] {
				return nil, fmt.Errorf("source %q: the id %q occurs twice in the mix; give its rows other ids", src.Name, row.ID)
			}
			used[row.ID] = true
			var err error
			if row.Meta, err = addSource(row.Meta, src.Name); err != nil {
				return nil, fmt.Errorf("source %q: meta of row %q: %w", src.Name, row.ID, err)
			}
			rows = append(rows, row)
		}
	}
	return rows, nil
}

// addSource sets "mix" in a row's meta.
func addSource(meta, name string) (string, error) {
	fields := map[string]json.RawMessage{}
	if meta != "" {
		if err := json.Unmarshal([]byte(meta), &fields); err != nil {
			return "", err
		}
	}
	if fields == nil {
		fields = map[string]json.RawMessage{}
	}
	quoted, err := json.Marshal(name)
	if err != nil {
		return "", err
	}
	fields["mix"] = quoted
	var b strings.Builder
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	err = e.Encode(fields)
	return strings.TrimSuffix(b.String(), "\n"), err
}
