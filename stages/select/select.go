// Package selector is the stage of selection: it passes on the candidate of a
// sweep that an evaluation found best.
package selector

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"slices"
	"strings"

	"pipe/runtime/artifact"
	"pipe/runtime/stage"
)

//go:embed README.md
var doc string

// Kind is the stage kind "select".
var Kind = stage.Kind{
	Name: "select", Doc: doc, Version: 1,
	Outputs: []stage.Output{
		{Name: "model", Type: artifact.Model, Doc: "The model of the best candidate"},
		{Name: "metrics", Type: artifact.Metrics, Doc: "The best candidate's metrics, and METRIC@KEY of every candidate"},
	},
	New: func() stage.Stage { return &spec{} },
}

// spec is the block.
type spec struct {
	From   stage.Candidates `hcl:"from" doc:"A swept eval, such as eval.sweep"`
	Metric string           `hcl:"metric" doc:"What decides, such as license_qa.acc"`
	Mode   string           `hcl:"mode,optional" doc:"max or min; left out, the metric says which is better"`

	Gates []stage.Gate `hcl:"gate,block" json:"-" doc:"Conditions on the metrics"`
}

// Check implements stage.Stage.
func (s *spec) Check() error {
	var errs []error
	if s.Metric == "" {
		errs = append(errs, stage.Fieldf("metric", "is empty; name a metric of the eval, such as \"license_qa.acc\""))
	}
	if s.Mode != "" && s.Mode != "max" && s.Mode != "min" {
		errs = append(errs, stage.Fieldf("mode", "is %q; must be \"max\" or \"min\"", s.Mode))
	}
	return errors.Join(errs...)
}

// Decides implements stage.Decider.
func (s *spec) Decides() (field, metric string, of []stage.Metrics) {
	for _, c := range s.From {
		of = append(of, c.Metrics)
	}
	return "metric", s.Metric, of
}

// Run implements stage.Stage.
func (s *spec) Run(ctx context.Context, env *stage.Env) error {
	files, err := s.read(ctx, env)
	if err != nil {
		return err
	}
	best, err := s.best(files)
	if err != nil {
		return err
	}
	winner := s.From[best]
	env.Note("%s wins with %s = %.4g, of %s", name(winner.Key), s.Metric, files[best].Metrics[s.Metric].Value, stage.Count(len(files), "candidate"))
	if err := writeModel(env, winner.Model); err != nil {
		return fmt.Errorf("copy the model of %s: %w", name(winner.Key), err)
	}
	out := files[best]
	for i, c := range s.From {
		out.Metrics[s.Metric+"@"+c.Key] = files[i].Metrics[s.Metric]
	}
	w, err := env.Create("metrics")
	if err != nil {
		return err
	}
	return w.WriteJSON(artifact.MetricsName, out)
}

func name(key string) string {
	if key == "" {
		return "the only candidate"
	}
	return fmt.Sprintf("candidate %q", key)
}

// read returns the metrics of all candidates.
func (s *spec) read(ctx context.Context, env *stage.Env) ([]artifact.MetricsFile, error) {
	if len(s.From) == 0 {
		return nil, stage.Fieldf("from", "has no candidates")
	}
	files := make([]artifact.MetricsFile, len(s.From))
	for i, c := range s.From {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		a, err := env.Store.Open(c.Metrics.Ref)
		if err != nil {
			return nil, err
		}
		if err := artifact.ReadJSON(a, artifact.MetricsName, &files[i]); err != nil {
			return nil, fmt.Errorf("read the metrics of %s: %w", name(c.Key), err)
		}
		if _, ok := files[i].Metrics[s.Metric]; !ok {
			var known []string
			for k := range files[i].Metrics {
				known = append(known, k)
			}
			slices.Sort(known)
			return nil, stage.Fieldf("metric", "%q is not a metric of %s; it has %s", s.Metric, c.Metrics, strings.Join(known, ", "))
		}
	}
	return files, nil
}

// best returns the index of the best candidate: of equal ones the first by
// key. A value that is no number never wins.
func (s *spec) best(files []artifact.MetricsFile) (int, error) {
	sign := 1.0
	switch better := files[0].Metrics[s.Metric].Better; {
	case s.Mode == "min" || s.Mode == "" && better < 0:
		sign = -1
	case s.Mode == "" && better == 0:
		return 0, stage.Fieldf("mode", "is left out, but the metric %q does not say whether more or less is better; set \"max\" or \"min\"", s.Metric)
	}
	best := -1
	for i := range files {
		v := sign * files[i].Metrics[s.Metric].Value
		if math.IsNaN(v) {
			continue
		}
		if best < 0 || v > sign*files[best].Metrics[s.Metric].Value ||
			v == sign*files[best].Metrics[s.Metric].Value && s.From[i].Key < s.From[best].Key {
			best = i
		}
	}
	if best < 0 {
		return 0, fmt.Errorf("no candidate has a number as %s", s.Metric)
	}
	return best, nil
}

// writeModel makes the output model: a copy of what a stage made, or, for a
// model block, a manifest that names it.
func writeModel(env *stage.Env, m stage.Model) error {
	w, err := env.Create("model")
	if err != nil {
		return err
	}
	if m.Output == "" {
		return w.WriteJSON(artifact.ModelFile, artifact.ModelManifest{Base: m.Digest})
	}
	a, err := env.Store.Open(m.Ref)
	if err != nil {
		return err
	}
	for _, f := range a.Files() {
		path, err := a.Path(f.Name)
		if err != nil {
			return err
		}
		if err := w.AddFile(f.Name, func(to io.Writer) error { return copyFrom(to, path) }); err != nil {
			return err
		}
	}
	return nil
}

func copyFrom(to io.Writer, path string) error {
	from, err := os.Open(path)
	if err != nil {
		return err
	}
	defer from.Close()
	_, err = io.Copy(to, from)
	return err
}
