package main

import (
	"fmt"
	"maps"
	"math"
	"slices"

	"pipe/runtime/artifact"
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
	b, ok := m.Baseline[name]
	if !ok {
		return []string{"–", value(v), "–", ""}
	}
	c, ok := m.Change[name]
	if !ok { // as if other items had been measured
		c = artifact.Metric{N: min(v.N, b.N), Value: v.Value - b.Value, Stderr: math.Hypot(v.Stderr, b.Stderr), Better: v.Better}
	}
	text := fmt.Sprintf("%+.4f%9s", c.Value, "")
	if c.Stderr > 0 {
		text = fmt.Sprintf("%+.4f ± %.4f", c.Value, c.Stderr)
	}
	return []string{value(b), value(v), text, verdict(c)}
}

// verdict says what a change means: better or worse when its 95 % confidence
// interval (Student's t) does not hold 0, unclear when it does.
func verdict(c artifact.Metric) string {
	switch d := float64(c.Better) * c.Value; {
	case d == 0:
		return ""
	case c.N < 2 || !(math.Abs(c.Value) > student95(c.N-1)*c.Stderr): // NaN too
		return "unclear"
	case d > 0:
		return "better"
	}
	return "worse"
}

// student95 is the 97.5 % quantile of Student's t with n degrees of freedom.
// From 3 on it is Cornish and Fisher's expansion (Abramowitz and Stegun 1964,
// 26.7.5), off by less than 1 %.
func student95(n int) float64 {
	switch n {
	case 1:
		return 12.7062
	case 2:
		return 4.3027
	}
	z, v := 1.959964, float64(n)
	z3, z5, z7, z9 := math.Pow(z, 3), math.Pow(z, 5), math.Pow(z, 7), math.Pow(z, 9)
	return z + (z3+z)/(4*v) + (5*z5+16*z3+3*z)/(96*v*v) + (3*z7+19*z5+17*z3-15*z)/(384*v*v*v) +
		(79*z9+776*z7+1482*z5-1920*z3-945*z)/(92160*v*v*v*v)
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
