package index

import (
	"context"
	"math"
	"slices"

	"pipe/model"
	"pipe/tensor"
)

// A Recall is a measured share of the pairs that a search found.
type Recall struct {
	Rows  int // rows that were compared with all others, exactly
	Pairs int // pairs at or above the threshold among these comparisons
	Found int // of them, those that the search put into one group
}

// Value returns the share, 1 when there was no pair.
func (r Recall) Value() float64 {
	if r.Pairs == 0 {
		return 1
	}
	return float64(r.Found) / float64(r.Pairs)
}

// Stderr returns the standard error of Value.
func (r Recall) Stderr() float64 {
	if r.Pairs < 2 {
		return 0
	}
	p := r.Value()
	return math.Sqrt(p * (1 - p) / float64(r.Pairs))
}

// MeasureRecall compares a sample of rows with all rows, exactly, and counts
// how many of the pairs that it finds are in one group of g. A pair counts once,
// also when both of its rows are in the sample.
func MeasureRecall(ctx context.Context, b tensor.Backend, v Vectors, threshold float64, sample int, seed uint64, g Groups) (Recall, error) {
	n := v.Len()
	rows := model.NewStream(seed, "dedup.recall").Perm(n)
	rows = rows[:min(sample, n)]
	slices.Sort(rows)
	some := Vectors{make([]float32, 0, len(rows)*v.Width), v.Width}
	for _, i := range rows {
		some.Data = append(some.Data, v.Row(i)...)
	}
	drawn := make([]bool, n)
	for _, i := range rows {
		drawn[i] = true
	}
	r := Recall{Rows: len(rows)}
	err := Between(ctx, b, some, v, threshold, func(a, j int) {
		i := rows[a]
		if i == j || drawn[j] && j < i || v.Cosine(i, j) < threshold {
			return
		}
		r.Pairs++
		if g.Same(i, j) {
			r.Found++
		}
	})
	return r, err
}
