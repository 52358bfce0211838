package dedup

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	"pipe/runtime/artifact"
	"pipe/runtime/stage"
	"pipe/stages/dedup/embed"
	"pipe/stages/dedup/index"
	"pipe/tensor"
)

// A job is one run of the stage.
type job struct {
	*spec
	rows    []artifact.Row
	order   []int // all rows by id: nothing depends on the order of the input
	quality []float64
	drops   map[int]artifact.Drop // by row

	find   func(ctx context.Context, how string, b tensor.Backend, v index.Vectors, threshold float64, yield index.Yield) (method string, err error)
	method string
	recall *index.Recall
	report *report // of decontamination; nil without
}

func newJob(s *spec, rows []artifact.Row) *job {
	j := &job{spec: s, rows: rows, order: make([]int, len(rows)), quality: make([]float64, len(rows)), drops: map[int]artifact.Drop{}, find: index.Find}
	for i := range j.order {
		j.order[i] = i
	}
	slices.SortFunc(j.order, func(a, b int) int { return cmp.Compare(rows[a].ID, rows[b].ID) })
	return j
}

// rank reads the quality of every row: a row without one is worse than any
// with one.
func (j *job) rank() error {
	if j.Quality == "" {
		return nil
	}
	found := false
	for i := range j.rows {
		j.quality[i] = math.Inf(-1)
		if j.rows[i].Meta == "" {
			continue
		}
		var meta map[string]any
		if err := json.Unmarshal([]byte(j.rows[i].Meta), &meta); err != nil {
			return fmt.Errorf("row %q: meta: %w", j.rows[i].ID, err)
		}
		if q, ok := number(meta[j.Quality]); ok {
			j.quality[i], found = q, true
		}
	}
	if !found {
		return stage.Fieldf("quality", "is %q, and no row of %s has a number of that name in meta", j.Quality, j.Input)
	}
	return nil
}

// number reads a number, which a table holds as text.
func number(v any) (float64, bool) {
	switch v := v.(type) {
	case float64:
		return v, true
	case string:
		q, err := strconv.ParseFloat(strings.TrimSpace(v), 64)
		return q, err == nil && !math.IsNaN(q)
	}
	return 0, false
}

// better reports whether row a is kept rather than b.
func (j *job) better(a, b int) bool {
	if j.quality[a] != j.quality[b] {
		return j.quality[a] > j.quality[b]
	}
	return j.rows[a].ID < j.rows[b].ID
}

// left returns the rows that are not dropped yet, by id.
func (j *job) left() []int {
	var out []int
	for _, i := range j.order {
		if _, gone := j.drops[i]; !gone {
			out = append(out, i)
		}
	}
	return out
}

func (j *job) drop(row int, d artifact.Drop) {
	d.ID, d.Text = j.rows[row].ID, excerpt(compared(&j.rows[row]))
	j.drops[row] = d
}

// exact drops all but the best of the rows that say the same.
func (j *job) exact() {
	best := map[[32]byte]int{}
	contents := make(map[int][32]byte, len(j.rows))
	for _, i := range j.order {
		c := content(&j.rows[i])
		contents[i] = c
		if k, ok := best[c]; !ok || j.better(i, k) {
			best[c] = i
		}
	}
	for _, i := range j.order {
		if k := best[contents[i]]; k != i {
			j.drop(i, artifact.Drop{Reason: "exact", Partner: j.rows[k].ID, Score: 1})
		}
	}
}

// recallSample is how many rows are compared with all others to measure what
// an index finds.
const recallSample = 1000

// near drops all but the best of the rows that pairs above the threshold
// connect, and measures what the index found.
func (j *job) near(ctx context.Context, env *stage.Env, e embed.Embedder) error {
	rows := j.left()
	texts := make([]string, len(rows))
	for k, i := range rows {
		texts[k] = compared(&j.rows[i])
		if j.Compare == "user" {
			texts[k] = asked(&j.rows[i])
		}
	}
	v, err := e.Embed(ctx, texts, func(done int) { env.Progress(int64(done), int64(len(rows)), "rows") })
	if err != nil {
		return fmt.Errorf("embed: %w", err)
	}
	g, link, err := j.search(ctx, env, v, j.Index)
	if err != nil {
		return err
	}
	if j.Index == "auto" && j.method != "exact" && j.recall.Value() < j.MinRecall {
		env.Note("search %s found %d of %s of a sample, less than min_recall: all rows are compared instead; index = \"exact\" does that at once",
			j.method, j.recall.Found, stage.Count(j.recall.Pairs, "near pair"))
		if g, link, err = j.search(ctx, env, v, "exact"); err != nil {
			return err
		}
	}
	if r := j.recall; r.Value() < j.MinRecall {
		return fmt.Errorf("index %q found %d of %s (%.4f) when %s were compared with all others, and min_recall is %v: "+
			"use index = \"exact\", or lower min_recall if missing duplicates does no harm", j.Index, r.Found, stage.Count(r.Pairs, "near pair"), r.Value(), stage.Count(r.Rows, "row"), j.MinRecall)
	}
	j.dropNear(rows, v, g, link)
	return nil
}

// search finds the near pairs among v by an index, and measures how many of them.
// It returns what they connect, and for each row one that it is near to, or -1.
func (j *job) search(ctx context.Context, env *stage.Env, v index.Vectors, how string) (index.Groups, []int, error) {
	g := index.NewGroups(v.Len())
	link := make([]int, v.Len())
	for k := range link {
		link[k] = -1
	}
	var err error
	j.method, err = j.find(ctx, how, env.Backend, v, j.Threshold, func(a, b int) {
		if g.Same(a, b) || v.Cosine(a, b) < j.Threshold {
			return
		}
		g.Union(a, b)
		for _, p := range [][2]int{{a, b}, {b, a}} {
			if link[p[0]] < 0 {
				link[p[0]] = p[1]
			}
		}
	})
	if err != nil {
		return g, nil, fmt.Errorf("index %q: %w", how, err)
	}
	r, err := index.MeasureRecall(ctx, env.Backend, v, j.Threshold, recallSample, env.Seed, g)
	if err != nil {
		return g, nil, fmt.Errorf("measure the recall: %w", err)
	}
	j.recall = &r
	return g, link, nil
}

// dropNear keeps the best row of each group.
func (j *job) dropNear(rows []int, v index.Vectors, g index.Groups, link []int) {
	best := map[int]int{} // root -> place in rows
	for k := range rows {
		root := g.Root(k)
		if b, ok := best[root]; !ok || j.better(rows[k], rows[b]) {
			best[root] = k
		}
	}
	for k, i := range rows {
		b := best[g.Root(k)]
		if b == k {
			continue
		}
		d := artifact.Drop{Reason: "near", Partner: j.rows[rows[b]].ID, Score: v.Cosine(k, b)}
		if d.Score < j.Threshold {
			d.Detail = fmt.Sprintf("near to it through %s (cosine %.4f)", j.rows[rows[link[k]]].ID, v.Cosine(k, link[k]))
		}
		j.drop(i, d)
	}
}

// write creates the outputs.
func (j *job) write(env *stage.Env) error {
	var kept []artifact.Row
	var drops []artifact.Drop
	reasons := map[string]int{}
	for i := range j.rows {
		if d, gone := j.drops[i]; gone {
			drops = append(drops, d)
			reasons[d.Reason]++
		} else {
			kept = append(kept, j.rows[i])
		}
	}
	env.Note("%d of %s kept; dropped: %d exact, %d near, %d contaminated",
		len(kept), stage.Count(len(j.rows), "row"), reasons["exact"], reasons["near"], reasons["contaminated"])
	if len(kept) == 0 {
		return fmt.Errorf("no row of %s is left: all of them are contaminated; raise decontaminate.coverage, or look at what they share with the benchmarks", j.Input)
	}
	w, err := env.Create("dataset")
	if err != nil {
		return err
	}
	if err := artifact.Append(w, kept...); err != nil {
		return err
	}
	if w, err = env.Create("drops"); err != nil {
		return err
	}
	if err := artifact.Append(w, drops...); err != nil {
		return err
	}
	if w, err = env.Create("metrics"); err != nil {
		return err
	}
	return w.WriteJSON(artifact.MetricsName, artifact.MetricsFile{Metrics: j.metrics(env, len(kept), reasons)})
}

func (j *job) metrics(env *stage.Env, kept int, reasons map[string]int) map[string]artifact.Metric {
	n := len(j.rows)
	count := func(v int) artifact.Metric { return artifact.Metric{N: n, Value: float64(v)} }
	m := map[string]artifact.Metric{"dedup.rows_in": count(n), "dedup.rows_out": count(kept)}
	for _, r := range []string{"exact", "near", "contaminated"} {
		m["dedup."+r] = count(reasons[r])
	}
	if r := j.recall; r != nil {
		m["dedup.recall"] = artifact.Metric{N: r.Pairs, Value: r.Value(), Stderr: r.Stderr(), Better: 1}
		if r.Pairs > 0 {
			env.Note("search %s found %d of %s of the %s that were compared with all others", j.method, r.Found, stage.Count(r.Pairs, "near pair"), stage.Count(r.Rows, "row"))
		}
	}
	if j.report != nil {
		j.report.add(env, m)
	}
	return m
}
