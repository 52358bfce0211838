package main

import (
	"context"
	"fmt"
	"math"

	"pipe/runtime/artifact"
	"pipe/runtime/stage"
)

// quizKind is an eval of the tests: items that are right or wrong as its
// attribute says, and the metric over them.
var quizKind = stage.Kind{
	Name: "quiz", Doc: labDoc, Version: 1, New: func() stage.Stage { return &quiz{} },
	Outputs: []stage.Output{
		{Name: "metrics", Type: artifact.Metrics, Doc: "qa.acc"},
		{Name: "items", Type: artifact.Dataset, Doc: "The items"},
	},
}

type quiz struct {
	From  *stage.Dataset `hcl:"from,optional" doc:"Not used"`
	Right string         `hcl:"right" doc:"A character an item: + is right"`
	Gates []stage.Gate   `hcl:"gate,block" json:"-" doc:"Gates"`
}

func (*quiz) Check() error { return nil }

func (s *quiz) Run(_ context.Context, env *stage.Env) error {
	var rows []artifact.Row
	right := 0
	for i, c := range s.Right {
		if c == '+' {
			right++
		}
		rows = append(rows, artifact.Row{ID: fmt.Sprint("qa/", i), Source: fmt.Sprint(i), Text: fmt.Sprint("question ", i), Gold: -1, Meta: fmt.Sprintf(`{"correct":%v}`, c == '+')})
	}
	n := float64(len(rows))
	p := float64(right) / n
	m := artifact.Metric{N: len(rows), Value: p, Stderr: math.Sqrt(p * (1 - p) / n), Better: 1}
	w, err := env.Create("metrics")
	if err != nil {
		return err
	}
	if err := w.WriteJSON(artifact.MetricsName, artifact.MetricsFile{Metrics: map[string]artifact.Metric{"qa.acc": m}}); err != nil {
		return err
	}
	if w, err = env.Create("items"); err != nil {
		return err
	}
	return artifact.Append(w, rows...)
}
