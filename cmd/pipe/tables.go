package main

import (
	"fmt"
	"maps"
	"slices"

	"pipe/runtime/artifact"
	"pipe/runtime/compare"
	"pipe/runtime/engine"
)

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

// tables prints base against tuned for every stage that has both, if one of
// them measured something in this run; and what an eval measured alone.
func tables(t *app, store *artifact.Store, res *engine.Result) {
	type table struct {
		addr string
		m    artifact.MetricsFile
	}
	var list []table
	measured := false
	for _, s := range res.Stages {
		for _, name := range sortedKeys(s.Outputs) {
			if s.Outputs[name].Type != artifact.Metrics {
				continue
			}
			m, err := readMetrics(store, s.Outputs[name])
			if err != nil {
				t.errorf("%s: %v", s.Addr, err)
				continue
			}
			if len(m.Baseline) > 0 || s.Kind == "eval" {
				list = append(list, table{s.Addr, m})
				measured = measured || s.State == engine.Done
			}
		}
	}
	if !measured {
		return
	}
	for _, l := range list {
		metricTable(t, l.addr, l.m)
	}
}

func readMetrics(store *artifact.Store, o artifact.Object) (m artifact.MetricsFile, err error) {
	a, err := store.Open(o.Digest)
	if err != nil {
		return m, err
	}
	err = artifact.ReadJSON(a, artifact.MetricsName, &m)
	return m, err
}

// metricTable prints one metrics file: a row a metric, then the grids.
func metricTable(t *app, addr string, m artifact.MetricsFile) {
	fmt.Fprintf(t.out, "\n%s\n", t.outInk.paint(bold, addr))
	compared := len(m.Baseline) > 0
	g := grid{right: []bool{false, true, true, true, true}}
	if compared {
		g.add("  metric", "n", "base", "tuned", "change", "", "blind")
	} else {
		g.add("  metric", "n", "value", "blind")
	}
	for _, name := range sortedKeys(m.Metrics) {
		v := m.Metrics[name]
		cells := []string{"  " + name, fmt.Sprint(v.N)}
		if compared {
			cells = append(cells, against(m, name)...)
		} else {
			cells = append(cells, value(v))
		}
		if b, ok := m.Blind[name]; ok {
			cells = append(cells, fmt.Sprintf("%.4f", b.Value))
		}
		g.add(cells...)
	}
	g.write(t.out)
	for _, name := range sortedKeys(m.Grids) {
		gridTable(t, name, m.Grids[name])
	}
}

// against returns the cells base, tuned, change, and what to think of it.
func against(m artifact.MetricsFile, name string) []string {
	v := m.Metrics[name]
	c, ok := compare.Change(m, name)
	if !ok {
		return []string{"–", value(v), "–", ""}
	}
	text := fmt.Sprintf("%+.4f%9s", c.Value, "")
	if c.Stderr > 0 {
		text = fmt.Sprintf("%+.4f ± %.4f", c.Value, c.Stderr)
	}
	return []string{value(m.Baseline[name]), value(v), text, compare.Verdict(c)}
}

// value prints a value with its standard error, or with room for one so that
// the points stand below each other.
func value(m artifact.Metric) string {
	if m.Stderr > 0 {
		return fmt.Sprintf("%.4f ± %.4f", m.Value, m.Stderr)
	}
	return fmt.Sprintf("%.4f%9s", m.Value, "")
}

// gridTable prints a grid, "base → tuned" in each cell.
func gridTable(t *app, name string, gr artifact.Grid) {
	fmt.Fprintf(t.out, "  %s, %d a cell: %s down, %s across", clean(name), gr.N, clean(gr.RowName), clean(gr.ColName))
	if len(gr.Baseline) > 0 {
		fmt.Fprint(t.out, "; base → tuned")
	}
	fmt.Fprintln(t.out)
	var g grid
	head := []string{""}
	for _, c := range gr.Cols {
		head = append(head, fmt.Sprint(c))
	}
	g.add(head...)
	for i, r := range gr.Rows {
		cells := []string{"  " + fmt.Sprint(r)}
		for j := range gr.Cols {
			text := cell(gr.Values, i, j)
			if len(gr.Baseline) > 0 {
				text = cell(gr.Baseline, i, j) + " → " + text
			}
			cells = append(cells, text)
		}
		g.add(cells...)
	}
	g.write(t.out)
}

// cell prints a value of a grid; a file may have fewer than it says.
func cell(values [][]float64, i, j int) string {
	if i >= len(values) || j >= len(values[i]) {
		return "–"
	}
	return fmt.Sprintf("%.2f", values[i][j])
}
