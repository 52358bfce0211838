package engine

import (
	"encoding/json"
	"maps"
	"math"
	"slices"
	"strings"

	"pipe/runtime/artifact"
)

func sortedNames[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

func hypot(a, b float64) float64 { return math.Hypot(a, b) }

// pairedItems are the items that two evals measured, those of each that both
// have, by suite.
type pairedItems struct {
	suites map[string][]itemPair
	counts map[string][2]int // items of each eval
}

type itemPair struct{ was, is map[string]any }

// items reads the items of two evals; there may be none.
func (c *comparison) items(a, b *StageResult) *pairedItems {
	p := &pairedItems{map[string][]itemPair{}, map[string][2]int{}}
	was, order := c.readItems(a)
	is, _ := c.readItems(b)
	count := func(id string, k int) {
		suite, _, _ := strings.Cut(id, "/")
		n := p.counts[suite]
		n[k]++
		p.counts[suite] = n
	}
	for id := range is {
		count(id, 1)
	}
	for _, id := range order {
		count(id, 0)
		if now, ok := is[id]; ok {
			suite, _, _ := strings.Cut(id, "/")
			p.suites[suite] = append(p.suites[suite], itemPair{was[id], now})
		}
	}
	return p
}

// readItems returns what was noted of each item of an eval, by its id.
func (c *comparison) readItems(s *StageResult) (metas map[string]map[string]any, order []string) {
	metas = map[string]map[string]any{}
	o, ok := s.Outputs["items"]
	if !ok || o.Type != artifact.Dataset {
		return metas, nil
	}
	a, err := c.store.Open(o.Digest)
	if err != nil {
		return metas, nil
	}
	for r, err := range artifact.Rows[artifact.Row](a) {
		var meta map[string]any
		if err != nil || json.Unmarshal([]byte(r.Meta), &meta) != nil {
			return map[string]map[string]any{}, nil
		}
		if _, twice := metas[r.ID]; !twice {
			order = append(order, r.ID)
		}
		metas[r.ID] = meta
	}
	return metas, order
}

// measures are the ways in which a metric follows from what is noted of the
// items: of the first whose mean is the metric, on both sides, the items are
// compared.
var measures = []func(meta map[string]any, name string) (value, weight float64, ok bool){
	func(meta map[string]any, name string) (float64, float64, bool) {
		v, ok := meta[name].(float64)
		return v, 1, ok
	},
	func(meta map[string]any, name string) (float64, float64, bool) {
		v, ok := meta["correct"].(bool)
		if v {
			return 1, 1, ok
		}
		return 0, 1, ok
	},
	func(meta map[string]any, name string) (float64, float64, bool) {
		v, ok1 := meta[name].(float64)
		n, ok2 := meta["tokens"].(float64)
		return v, n, ok1 && ok2
	},
}

// compare returns the difference of a metric item by item. It is not ok when
// the items are not those that the metric was measured on.
func (p *pairedItems) compare(metric string, was, is artifact.Metric) (d artifact.Metric, ok bool) {
	suite, name, ok := suiteOf(metric)
	pairs := p.suites[suite]
	if n := len(pairs); !ok || n < 2 || p.counts[suite] != [2]int{n, n} {
		return d, false
	}
	for _, measure := range measures {
		if d, ok := difference(pairs, name, was, is, measure); ok {
			return d, true
		}
	}
	return d, false
}

// difference is the mean difference of a measure: a mean weighted by what both
// sides have alike.
func difference(pairs []itemPair, name string, was, is artifact.Metric, measure func(map[string]any, string) (float64, float64, bool)) (d artifact.Metric, ok bool) {
	n := float64(len(pairs))
	var sumWas, sumIs, weight float64
	diffs := make([]float64, len(pairs))
	for i, p := range pairs {
		a, wa, ok1 := measure(p.was, name)
		b, wb, ok2 := measure(p.is, name)
		if !ok1 || !ok2 || wa != wb {
			return d, false
		}
		sumWas, sumIs, weight = sumWas+a, sumIs+b, weight+wa
		diffs[i] = b - a
	}
	near := func(x, y float64) bool { return math.Abs(x-y) <= 1e-9*math.Max(1, math.Abs(y)) }
	if !near(sumWas/weight, was.Value) || !near(sumIs/weight, is.Value) {
		return d, false
	}
	mean, squares := (sumIs-sumWas)/weight, 0.0
	for i, p := range pairs {
		_, w, _ := measure(p.is, name)
		r := (diffs[i] - mean*w) * n / weight // of a ratio, linearised
		squares += r * r
	}
	return artifact.Metric{N: len(pairs), Value: mean, Stderr: math.Sqrt(squares / (n - 1) / n), Better: is.Better}, true
}
