package report

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"pipe/runtime/artifact"
	"pipe/runtime/compare"
	"pipe/runtime/engine"
)

const mostTables = 60

// metricTables are what the stages measured, a table each.
type metricTables struct {
	Compared string // the baseline run; empty: none
	Tables   []metricTable
	Plain    []metricTable // of stages that compare nothing, such as mix
	More     int
}

type metricTable struct {
	Stage string
	Base  bool // it has columns of the base model
	Blind bool // it has a column of guessing
	Rows  []metricRow
	Pins  []pinRow // against the baseline
}

type metricRow struct {
	Name, N, Value        string
	Base, Change, Verdict string
	Blind, Class          string
}

// A pinRow is a metric in the baseline run and in this one.
type pinRow struct {
	Name, N, Before, Now, Delta string
	P, Outcome, Class, Note     string
}

// classes are the classes of what may be said of a change.
var classes = map[string]string{"better": "good", "worse": "bad", "unclear": "muted", "inconclusive": "muted", "unchanged": "muted", "missing": "warn"}

func (r *reader) metricTables(base string, rs []compare.Result) (out metricTables) {
	out.Compared = clean(base)
	pinned := map[string][]pinRow{}
	for _, x := range rs {
		pinned[x.Stage] = append(pinned[x.Stage], pinRowOf(x))
	}
	for i := range r.run.Stages {
		st := &r.run.Stages[i]
		m, ok := r.metricsOf(st)
		if !ok || st.Kind == "select" { // which repeats what others measured
			continue
		}
		if len(out.Tables)+len(out.Plain) >= mostTables {
			out.More++
			continue
		}
		t := metricTable{Stage: clean(st.Addr), Base: len(m.Baseline) > 0}
		for _, name := range sortedKeys(m.Metrics) {
			t.Rows = append(t.Rows, metricRowOf(m, name))
			t.Blind = t.Blind || t.Rows[len(t.Rows)-1].Blind != ""
		}
		t.Pins = pinned[st.Addr]
		if t.Base || t.Pins != nil {
			out.Tables = append(out.Tables, t)
		} else {
			out.Plain = append(out.Plain, t)
		}
	}
	return out
}

func metricRowOf(m artifact.MetricsFile, name string) metricRow {
	v := m.Metrics[name]
	row := metricRow{Name: clean(name), N: integer(int64(v.N)), Value: withError(v)}
	if b, ok := m.Blind[name]; ok {
		row.Blind = number(b.Value)
	}
	c, ok := compare.Change(m, name)
	if !ok {
		return row
	}
	row.Base, row.Change = withError(m.Baseline[name]), signed(c.Value)
	if c.Stderr > 0 && c.N > 1 {
		h := compare.Quantile(0.975, float64(c.N-1)) * c.Stderr
		row.Change = interval(c.Value, c.Value-h, c.Value+h)
	}
	row.Verdict = compare.Verdict(c)
	row.Class = classes[row.Verdict]
	return row
}

func withError(m artifact.Metric) string {
	if m.Stderr > 0 {
		return number(m.Value) + " ± " + number(m.Stderr)
	}
	return number(m.Value)
}

func interval(v, low, high float64) string {
	return fmt.Sprintf("%s [%s, %s]", signed(v), signed(low), signed(high))
}

func pinRowOf(x compare.Result) pinRow {
	row := pinRow{
		Name: clean(x.Metric), Before: number(x.Old), Now: number(x.New), Delta: signed(x.Delta),
		Outcome: string(x.Outcome), Class: classes[string(x.Outcome)],
	}
	if x.N > 0 {
		row.N = integer(int64(x.N))
	}
	if x.Test != "" {
		row.Delta, row.P = interval(x.Delta, x.Low, x.High), fmt.Sprintf("%.3f", x.Holm)
		if x.Holm < 0.0005 {
			row.P = "< 0.001"
		}
	}
	if x.Outcome == compare.Inconclusive && x.Detectable > 0 {
		row.Note = "a difference of " + number(x.Detectable) + " would have shown"
	}
	if x.Note != "" {
		row.Note = strings.TrimPrefix(row.Note+"; "+clean(x.Note), "; ")
	}
	return row
}

// A heatMap is a grid of values: a cell's shade follows its number.
type heatMap struct {
	Stage, Name, RowName, ColName string
	N                             int
	Cols                          []string
	Rows                          []heatRow
	Compared                      bool
}

type heatRow struct {
	Name  string
	Cells []heatCell
}

type heatCell struct {
	Text, Base string
	Shade      int // 0 to 10
}

const mostGrids, mostCells = 12, 40

func (r *reader) heatMaps() (out []heatMap) {
	for i := range r.run.Stages {
		st := &r.run.Stages[i]
		if st.Kind == "select" {
			continue
		}
		m, _ := r.metricsOf(st)
		for _, name := range sortedKeys(m.Grids) {
			if len(out) == mostGrids {
				return out
			}
			out = append(out, heat(clean(st.Addr), name, m.Grids[name]))
		}
	}
	return out
}

func heat(stage, name string, g artifact.Grid) heatMap {
	h := heatMap{Stage: stage, Name: clean(name), RowName: clean(g.RowName), ColName: clean(g.ColName), N: g.N, Compared: len(g.Baseline) > 0}
	cols := g.Cols[:min(len(g.Cols), mostCells)]
	for _, c := range cols {
		h.Cols = append(h.Cols, fmt.Sprint(c))
	}
	at := func(values [][]float64, i, j int) (float64, bool) {
		if i >= len(values) || j >= len(values[i]) || !finite(values[i][j]) {
			return 0, false
		}
		return values[i][j], true
	}
	for i, x := range g.Rows[:min(len(g.Rows), mostCells)] {
		row := heatRow{Name: fmt.Sprint(x)}
		for j := range cols {
			c := heatCell{Text: "–"}
			if v, ok := at(g.Values, i, j); ok {
				c.Text, c.Shade = fmt.Sprintf("%.2f", v), int(10*max(0, min(1, v))+0.5)
			}
			if b, ok := at(g.Baseline, i, j); ok {
				c.Base = fmt.Sprintf("%.2f", b)
			}
			row.Cells = append(row.Cells, c)
		}
		h.Rows = append(h.Rows, row)
	}
	return h
}

// A sweep is what a select stage chose from.
type sweep struct {
	Stage, Metric, Better string
	Names                 []string // of the sweep's variables; one empty name when keys have no such form
	Points                []point
	More                  int
}

type point struct {
	Values          []string
	Value           string
	Best            bool
	From, Wide, Mid string // of the bar and its middle, in percent of the widest
	Low, High       string // of the 95 % interval
}

const mostPoints = 200

func (r *reader) sweeps() (out []sweep) {
	for i := range r.run.Stages {
		st := &r.run.Stages[i]
		if st.Kind != "select" {
			continue
		}
		m, ok := r.metricsOf(st)
		if !ok {
			continue
		}
		byMetric := map[string][]string{}
		for name := range m.Metrics {
			metric, key, _ := strings.Cut(name, "@")
			if _, ok := m.Metrics[metric]; ok && metric != name {
				byMetric[metric] = append(byMetric[metric], key)
			}
		}
		for _, metric := range sortedKeys(byMetric) {
			keys := byMetric[metric]
			slices.Sort(keys)
			out = append(out, newSweep(clean(st.Addr), metric, keys, m, r.mode(st)))
		}
	}
	return out
}

// mode is the mode attribute of a select.
func (r *reader) mode(st *engine.StageResult) string {
	var s struct{ Mode string }
	json.Unmarshal(r.preimage(st).Spec, &s)
	return s.Mode
}

func newSweep(stage, metric string, keys []string, m artifact.MetricsFile, mode string) sweep {
	s := sweep{Stage: stage, Metric: clean(metric), Better: "more is better"}
	if mode == "min" || mode == "" && m.Metrics[metric].Better < 0 {
		s.Better = "less is better"
	}
	s.Names = variables(keys)
	low, high := 0.0, 0.0
	reach := func(v artifact.Metric) (float64, float64) {
		h := 0.0
		if v.N > 1 && v.Stderr > 0 {
			h = compare.Quantile(0.975, float64(v.N-1)) * v.Stderr
		}
		return v.Value - h, v.Value + h
	}
	for _, k := range keys {
		a, b := reach(m.Metrics[metric+"@"+k])
		low, high = min(low, a), max(high, b)
	}
	scale := func(v float64) string {
		if high <= low {
			return percent(0)
		}
		return percent(100 * (v - low) / (high - low))
	}
	found := false
	for i, k := range keys {
		v := m.Metrics[metric+"@"+k]
		best := !found && v == m.Metrics[metric]
		found = found || best
		if i >= mostPoints && !best {
			s.More++
			continue
		}
		a, b := reach(v)
		p := point{Values: []string{clean(k)}, Value: withError(v), Best: best, Mid: scale(v.Value), Low: scale(a), High: scale(b)}
		p.From, p.Wide = scale(min(0, v.Value)), scale(low+max(v.Value, 0)-min(0, v.Value))
		if len(s.Names) > 1 || s.Names[0] != "" {
			p.Values = nil
			for part := range strings.SplitSeq(k, ",") {
				_, value, _ := strings.Cut(part, "=")
				p.Values = append(p.Values, clean(value))
			}
		}
		s.Points = append(s.Points, p)
	}
	return s
}

// variables are the names in keys such as "lr=0.1,rank=8", if all have the same.
func variables(keys []string) []string {
	var names []string
	for i, k := range keys {
		var own []string
		for part := range strings.SplitSeq(k, ",") {
			name, _, ok := strings.Cut(part, "=")
			if !ok {
				return []string{""}
			}
			own = append(own, clean(name))
		}
		if i > 0 && !slices.Equal(own, names) {
			return []string{""}
		}
		names = own
	}
	if names == nil {
		return []string{""}
	}
	return names
}
