// Package dedup is the stage that drops rows that say the same as another row,
// word for word or nearly, and rows that a benchmark will ask for.
package dedup

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"slices"

	"pipe/runtime/artifact"
	"pipe/runtime/stage"
	"pipe/stages/dedup/embed"
	"pipe/stages/dedup/index"
)

//go:embed README.md
var doc string

// Kind is the stage kind "dedup".
var Kind = stage.Kind{
	Name: "dedup", Doc: doc, Version: 5, Compute: true,
	Outputs: []stage.Output{
		{Name: "dataset", Type: artifact.Dataset, Rows: artifact.PlainRows, Doc: "The rows that are kept, in the order of the input"},
		{Name: "drops", Type: artifact.Dataset, Rows: artifact.DropRows, Doc: "Why each other row was dropped (artifact.Drop): partner, score, reason"},
		{Name: "metrics", Type: artifact.Metrics, Doc: "Rows in and out, drops by reason, measured recall of the index and of the decontamination"},
	},
	New: newStage,
}

// spec is the block.
type spec struct {
	Input         stage.Dataset  `hcl:"input" doc:"Documents, conversations, preferences or questions"`
	Threshold     float64        `hcl:"threshold,optional" doc:"Cosine from which two rows are near duplicates"`
	Embedder      string         `hcl:"embedder,optional" doc:"hash (words and letters), static (a Model2Vec table), model (mean hidden state of a language model), or none to look for exact copies only"`
	EmbedderModel *stage.Model   `hcl:"embedder_model,optional" doc:"The model block of embedder static or model"`
	Dimensions    int            `hcl:"dimensions,optional" doc:"Width of the vectors of embedder hash"`
	Compare       string         `hcl:"compare,optional" doc:"What near rows have in common: text (all but system turns) or user (what the user says)"`
	Index         string         `hcl:"index,optional" doc:"auto, exact, hnsw or coder (github.com/coder/hnsw)"`
	MinRecall     float64        `hcl:"min_recall,optional" doc:"Least share of the near pairs of a sample that the index must find; the stage fails below it"`
	Quality       string         `hcl:"quality,optional" doc:"Number in meta that says which of several like rows is kept: the highest"`
	Decontaminate *decontaminate `hcl:"decontaminate,block" doc:"Drop rows that overlap with benchmarks"`
}

// decontaminate is the nested block.
type decontaminate struct {
	Against   []stage.Dataset `hcl:"against" doc:"The benchmarks to keep out"`
	Ngram     int             `hcl:"ngram,optional" doc:"Words of an n-gram"`
	Coverage  float64         `hcl:"coverage,optional" doc:"Share of an item's words that n-grams of one row must cover"`
	Answers   bool            `hcl:"answers,optional" doc:"Drop rows in which a turn is an item's reference answer of four or more words"`
	Threshold float64         `hcl:"threshold,optional" doc:"Cosine from which a row is too near to an item; 0: n-grams alone decide"`
}

// SetDefaults implements stage.Defaulter.
func (d *decontaminate) SetDefaults() { d.Ngram, d.Coverage = 8, 0.5 }

func newStage() stage.Stage {
	return &spec{Threshold: 0.92, Embedder: "hash", Dimensions: 512, Compare: "text", Index: "auto", MinRecall: 0.999}
}

// Check implements stage.Stage.
func (s *spec) Check() error {
	var errs []error
	bad := func(wrong bool, field, format string, args ...any) {
		if wrong {
			errs = append(errs, stage.Fieldf(field, format, args...))
		}
	}
	bad(!(s.Threshold > 0 && s.Threshold <= 1), "threshold", "is %v; must be above 0 and at most 1, usually 0.85 to 0.97", s.Threshold)
	bad(!slices.Contains([]string{"hash", "static", "model", "none"}, s.Embedder), "embedder", "is %q; must be \"hash\", \"static\", \"model\" or \"none\"", s.Embedder)
	named := s.Embedder == "static" || s.Embedder == "model"
	bad(named && s.EmbedderModel == nil, "embedder_model", "is needed by embedder %q; refer to a model block", s.Embedder)
	bad(!named && s.EmbedderModel != nil, "embedder_model", "has no use with embedder %q; set embedder = \"static\" or \"model\"", s.Embedder)
	bad(s.Dimensions < 16 || s.Dimensions > 65536, "dimensions", "is %d; must be between 16 and 65536", s.Dimensions)
	bad(s.Compare != "text" && s.Compare != "user", "compare", "is %q; must be \"text\" or \"user\"", s.Compare)
	bad(!slices.Contains(index.Names(), s.Index), "index", "is %q; must be one of %q", s.Index, index.Names())
	bad(!(s.MinRecall >= 0 && s.MinRecall <= 1), "min_recall", "is %v; must be between 0 and 1", s.MinRecall)
	if d := s.Decontaminate; d != nil {
		bad(len(d.Against) == 0, "decontaminate.against", "is empty; name the datasets to keep out")
		bad(d.Ngram < 1 || d.Ngram > 64, "decontaminate.ngram", "is %d; must be between 1 and 64, usually 8", d.Ngram)
		bad(!(d.Coverage > 0 && d.Coverage <= 1), "decontaminate.coverage", "is %v; must be above 0 and at most 1", d.Coverage)
		bad(!(d.Threshold >= 0 && d.Threshold <= 1), "decontaminate.threshold", "is %v; must be between 0 and 1", d.Threshold)
		bad(d.Threshold > 0 && s.Embedder == "none", "decontaminate.threshold", "needs an embedder, and embedder is \"none\"")
	}
	return errors.Join(errs...)
}

// Run implements stage.Stage.
func (s *spec) Run(ctx context.Context, env *stage.Env) error {
	rows, err := read(env, s.Input)
	if err != nil {
		return err
	}
	if len(rows) == 0 {
		return stage.Fieldf("input", "%s has no rows", s.Input)
	}
	j := newJob(s, rows)
	if err := j.rank(); err != nil {
		return err
	}
	j.exact()
	var e embed.Embedder
	if s.Embedder != "none" {
		if e, err = s.open(env); err != nil {
			return err
		}
		defer e.Close()
		if err := j.near(ctx, env, e); err != nil {
			return err
		}
	}
	if s.Decontaminate != nil {
		if err := j.decontaminate(ctx, env, e); err != nil {
			return err
		}
	}
	return j.write(env)
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

// open returns the embedder.
func (s *spec) open(env *stage.Env) (embed.Embedder, error) {
	if s.Embedder == "hash" {
		return embed.Hash{Width: s.Dimensions}, nil
	}
	paths, err := env.Store.Model(s.EmbedderModel.Ref)
	if err != nil {
		return nil, err
	}
	if s.Embedder == "static" {
		if paths.Quantize != "" {
			return nil, stage.Fieldf("embedder_model", "has quantize = %q, which a static embedder cannot have", paths.Quantize)
		}
		return embed.OpenStatic(paths.Base)
	}
	return embed.OpenDecoder(env.Backend, paths.Base, paths.Adapter, paths.Quantize)
}
