package main

import (
	"bytes"
	"testing"

	"pipe/runtime/artifact"
)

func drawn(m artifact.MetricsFile) string {
	var out bytes.Buffer
	metricTable(&app{terminal: &terminal{out: &out}}, "eval.final", m)
	return out.String()
}

// Base and tuned stand side by side, with what a blind guesser gets.
func TestComparisonTable(t *testing.T) {
	got := drawn(artifact.MetricsFile{
		Metrics: map[string]artifact.Metric{
			"qa.acc":   {N: 60, Value: 0.75, Stderr: 0.05, Better: 1},
			"qa.exact": {N: 60, Value: 1, Better: 1},
			"nll":      {N: 40, Value: 2.5, Stderr: 0.25, Better: -1},
			"same":     {N: 40, Value: 1, Stderr: 0.25, Better: 1},
			"more":     {N: 12, Value: 1.5, Stderr: 0.25, Better: 1},
			"alone":    {N: 7, Value: 0.125, Better: 1},
			"ev\x1bil": {N: 1, Value: 1},
		},
		Baseline: map[string]artifact.Metric{
			"qa.acc": {N: 60, Value: 0.5, Stderr: 0.0625}, "qa.exact": {N: 60, Value: 0}, "nll": {N: 40, Value: 2.25, Stderr: 0.25},
			"same": {N: 40, Value: 1, Stderr: 0.25}, "ev\x1bil": {N: 1, Value: 0.5},
			"more": {N: 12, Value: 1, Stderr: 0.25},
		},
		Change: map[string]artifact.Metric{"nll": {N: 40, Value: 0.25, Stderr: 0.0625, Better: -1}},
		Blind:  map[string]artifact.Metric{"qa.acc": {Value: 0.25}},
	})
	want := `
eval.final
  metric     n             base            tuned            change           blind
  alone      7                –  0.1250                          –
  ev il      1  0.5000           1.0000           +0.5000
  more      12  1.0000 ± 0.2500  1.5000 ± 0.2500  +0.5000 ± 0.3536  unclear
  nll       40  2.2500 ± 0.2500  2.5000 ± 0.2500  +0.2500 ± 0.0625  worse
  qa.acc    60  0.5000 ± 0.0625  0.7500 ± 0.0500  +0.2500 ± 0.0800  better   0.2500
  qa.exact  60  0.0000           1.0000           +1.0000           better
  same      40  1.0000 ± 0.2500  1.0000 ± 0.2500  +0.0000 ± 0.3536
`
	if got != want {
		t.Errorf("got:%s\nwant:%s", got, want)
	}
}

func TestTableOfOneModelAndItsGrid(t *testing.T) {
	got := drawn(artifact.MetricsFile{
		Metrics: map[string]artifact.Metric{"needle.acc": {N: 24, Value: 0.5, Stderr: 0.1}},
		Grids: map[string]artifact.Grid{"needle": {
			RowName: "length", ColName: "depth", Rows: []float64{128, 2048}, Cols: []float64{0, 0.5, 1}, N: 4,
			Values: [][]float64{{1, 0.75, 0.5}, {0.25}}, // a file may lack cells
		}},
	})
	want := `
eval.final
  metric       n            value  blind
  needle.acc  24  0.5000 ± 0.1000
  needle, 4 a cell: length down, depth across
        0     0.5   1
  128   1.00  0.75  0.50
  2048  0.25  –     –
`
	if got != want {
		t.Errorf("got:%s\nwant:%s", got, want)
	}
}
