package dedup

import (
	"context"
	"fmt"
	"strings"

	"pipe/runtime/artifact"
	"pipe/runtime/stage"
	"pipe/stages/dedup/decontam"
	"pipe/stages/dedup/embed"
	"pipe/stages/dedup/index"
	"pipe/stages/dedup/parallel"
)

// A report is what decontamination measured.
type report struct {
	rows, items    int
	hit            map[int]bool // items that some row overlapped with
	long           int          // rows that share 13 words in a row with an item
	planted, found int          // canaries
}

// maxCanaries are planted to estimate the recall.
const maxCanaries = 200

// decontaminate drops the rows that overlap with an item of a benchmark.
func (j *job) decontaminate(ctx context.Context, env *stage.Env, e embed.Embedder) error {
	d := j.Decontaminate
	var items []decontam.Item
	var set []int // the number of the benchmark that each is from
	for k, ref := range d.Against {
		rows, err := read(env, ref)
		if err != nil {
			return err
		}
		if len(rows) == 0 {
			return stage.Fieldf(fmt.Sprintf("decontaminate.against[%d]", k), "%s has no rows", ref)
		}
		for i := range rows {
			items, set = append(items, item(&rows[i])), append(set, k)
		}
	}
	x := decontam.NewIndex(items, decontam.Options{Ngram: d.Ngram, Coverage: d.Coverage, Answers: d.Answers})
	rows := j.left()
	j.report = &report{rows: len(rows), items: len(items), hit: map[int]bool{}}
	found := make([]decontam.Result, len(rows))
	parallel.For(len(rows), 16, func(k int) {
		if ctx.Err() == nil {
			found[k] = x.Find(turns(&j.rows[rows[k]]))
		}
	})
	if err := ctx.Err(); err != nil {
		return err
	}
	var clean []int
	for k, i := range rows {
		if found[k].Any {
			j.report.long++
		}
		for _, m := range found[k].Matches {
			j.report.hit[m.Item] = true
		}
		if len(found[k].Matches) == 0 {
			clean = append(clean, i)
			continue
		}
		m := found[k].Matches[0]
		j.drop(i, artifact.Drop{Reason: "contaminated", Partner: items[m.Item].ID, Score: m.Coverage, Detail: detail(items, set, found[k].Matches)})
	}
	if err := j.plant(env, x, clean); err != nil {
		return err
	}
	if d.Threshold > 0 {
		return j.neighbours(ctx, env, e, items, set, clean)
	}
	return nil
}

// detail says which items a row overlaps with, and where.
func detail(items []decontam.Item, set []int, matches []decontam.Match) string {
	const shown = 3
	var parts []string
	for _, m := range matches[:min(shown, len(matches))] {
		name := fmt.Sprintf("%s of against[%d]", items[m.Item].ID, set[m.Item])
		if m.Answer {
			parts = append(parts, "is the answer to "+name)
			continue
		}
		var spans []string
		for _, s := range m.Spans {
			spans = append(spans, fmt.Sprintf("%d-%d", s.Start+1, s.End))
		}
		parts = append(parts, fmt.Sprintf("covers %.0f%% of %s: words %s of %d", 100*m.Coverage, name, strings.Join(spans, ", "), m.Words))
	}
	if n := len(matches) - shown; n > 0 {
		parts = append(parts, fmt.Sprintf("and %d more items", n))
	}
	return strings.Join(parts, "; ")
}

// plant estimates the recall with disguised items, put into clean rows.
func (j *job) plant(env *stage.Env, x *decontam.Index, clean []int) error {
	var carriers []string
	for _, i := range clean[:min(len(clean), maxCanaries)] {
		carriers = append(carriers, compared(&j.rows[i]))
	}
	r := j.report
	r.planted, r.found = x.Canaries(carriers, maxCanaries, env.Seed)
	if r.planted > 0 && float64(r.found)/float64(r.planted) < j.MinRecall {
		return fmt.Errorf("decontamination found %d of %d planted items, less than min_recall (%v): lower decontaminate.ngram or decontaminate.coverage", r.found, r.planted, j.MinRecall)
	}
	return nil
}

// neighbours drops clean rows whose embedding is near to an item's: all of one
// to all of the other, or what is asked to what is asked.
func (j *job) neighbours(ctx context.Context, env *stage.Env, e embed.Embedder, items []decontam.Item, set []int, clean []int) error {
	type near struct {
		item   int
		cosine float64
	}
	best := map[int]near{}
	for _, view := range []struct {
		row  func(*artifact.Row) string
		item func(*decontam.Item) string
	}{
		{compared, func(it *decontam.Item) string { return it.Whole }},
		{asked, func(it *decontam.Item) string { return it.Question }},
	} {
		texts := make([]string, 0, len(clean)+len(items))
		for _, i := range clean {
			texts = append(texts, view.row(&j.rows[i]))
		}
		for i := range items {
			texts = append(texts, view.item(&items[i]))
		}
		v, err := e.Embed(ctx, texts, func(done int) { env.Progress(int64(done), int64(len(texts)), "texts") })
		if err != nil {
			return fmt.Errorf("embed: %w", err)
		}
		cut := len(clean) * v.Width
		x, y := index.Vectors{Data: v.Data[:cut], Width: v.Width}, index.Vectors{Data: v.Data[cut:], Width: v.Width}
		err = index.Between(ctx, env.Backend, x, y, j.Decontaminate.Threshold, func(a, b int) {
			c := index.Cosine(x.Row(a), y.Row(b))
			if c < j.Decontaminate.Threshold {
				return
			}
			j.report.hit[b] = true
			if n, ok := best[a]; !ok || c > n.cosine || c == n.cosine && b < n.item {
				best[a] = near{b, c}
			}
		})
		if err != nil {
			return err
		}
	}
	for k, n := range best {
		j.drop(clean[k], artifact.Drop{Reason: "contaminated", Partner: items[n.item].ID, Score: n.cosine,
			Detail: fmt.Sprintf("cosine to %s of against[%d]", items[n.item].ID, set[n.item])})
	}
	return nil
}

// add adds the report to the metrics.
func (r *report) add(env *stage.Env, m map[string]artifact.Metric) {
	m["dedup.benchmark_items_hit"] = artifact.Metric{N: r.items, Value: float64(len(r.hit))}
	m["dedup.rows_with_13gram"] = artifact.Metric{N: r.rows, Value: float64(r.long)}
	if r.planted > 0 {
		m["dedup.canary_recall"] = artifact.Metric{N: r.planted, Value: float64(r.found) / float64(r.planted), Better: 1}
	}
	env.Note("rows overlapped with %d of %s; %s hold %s in a row of one; %d of %s found again",
		len(r.hit), stage.Count(r.items, "benchmark item"), stage.Count(r.long, "row"), stage.Count(decontam.Any, "word"), r.found, stage.Count(r.planted, "planted item"))
}
