package main

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"pipe/runtime/artifact"
	"pipe/runtime/engine"
)

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

// tables prints, for every stage that measured something, base against tuned.
func tables(t *terminal, store *artifact.Store, res *engine.Result) {
	for _, s := range res.Stages {
		for _, name := range sortedKeys(s.Outputs) {
			o := s.Outputs[name]
			if o.Type != artifact.Metrics {
				continue
			}
			a, err := store.Open(o.Digest)
			if err != nil {
				continue
			}
			var m artifact.MetricsFile
			if artifact.ReadJSON(a, artifact.MetricsName, &m) == nil && len(m.Baseline) > 0 {
				metricTable(t, s.Addr, m)
			}
		}
	}
}

// metricTable prints one metrics file: a row a metric, then the grids.
func metricTable(t *terminal, addr string, m artifact.MetricsFile) {
	fmt.Fprintf(t.out, "\n%s\n", t.paint(bold, addr))
	g := grid{right: []bool{false, true, true, true, true, true}}
	g.add("  metric", "n", "base", "tuned", "change", "blind")
	for _, name := range sortedKeys(m.Metrics) {
		v := m.Metrics[name]
		base, change, blind := "–", "–", "–"
		if b, ok := m.Baseline[name]; ok {
			base, change = value(b), fmt.Sprintf("%+.4f", v.Value-b.Value)
			if float64(v.Better)*(v.Value-b.Value) > 0 {
				change += " better"
			} else if float64(v.Better)*(v.Value-b.Value) < 0 {
				change += " worse"
			}
		}
		if b, ok := m.Blind[name]; ok {
			blind = fmt.Sprintf("%.4f", b.Value)
		}
		g.add("  "+name, fmt.Sprint(v.N), base, value(v), change, blind)
	}
	g.write(t.out)
	for _, name := range sortedKeys(m.Grids) {
		gridTable(t, name, m.Grids[name])
	}
}

func value(m artifact.Metric) string {
	if m.Stderr > 0 {
		return fmt.Sprintf("%.4f ± %.4f", m.Value, m.Stderr)
	}
	return fmt.Sprintf("%.4f", m.Value)
}

// gridTable prints a grid, "base → tuned" in each cell.
func gridTable(t *terminal, name string, gr artifact.Grid) {
	fmt.Fprintf(t.out, "  %s, %d a cell: %s down, %s across", name, gr.N, gr.RowName, gr.ColName)
	if len(gr.Baseline) > 0 {
		fmt.Fprint(t.out, "; base → tuned")
	}
	fmt.Fprintln(t.out)
	var g grid
	head := []string{"   "}
	for _, c := range gr.Cols {
		head = append(head, fmt.Sprint(c))
	}
	g.add(head...)
	for i, r := range gr.Rows {
		cells := []string{"  " + fmt.Sprint(r)}
		for j := range gr.Cols {
			cell := fmt.Sprintf("%.2f", gr.Values[i][j])
			if len(gr.Baseline) > i && len(gr.Baseline[i]) > j {
				cell = fmt.Sprintf("%.2f → %s", gr.Baseline[i][j], cell)
			}
			cells = append(cells, cell)
		}
		g.add(cells...)
	}
	var b strings.Builder
	g.write(&b)
	fmt.Fprint(t.out, b.String())
}
