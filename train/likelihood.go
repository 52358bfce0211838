package train

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"pipe/model"
)

// Likelihood is the task of supervised fine-tuning and pretraining: the mean
// cross-entropy over the scored tokens of the rows of a window.
type Likelihood struct {
	Model *model.Decoder
	Rows  []model.Batch // each holds the documents of one packed row

	batch model.Batch
	grad  []float32
	means [2]Mean
}

// Len implements Task.
func (l *Likelihood) Len() int { return len(l.Rows) }

// Step implements Task.
func (l *Likelihood) Step(p *model.Pass, micro, window []int) ([]Mean, error) {
	n := 0
	for _, i := range window {
		n += len(l.Rows[i].Targets)
	}
	l.batch.Reset()
	for _, i := range micro {
		l.batch.Join(l.Rows[i])
	}
	s, err := l.Model.LogProb(p, l.batch)
	if err != nil {
		return nil, err
	}
	sum, hits := 0.0, 0.0
	l.grad = l.grad[:0]
	for i, lp := range s.LogP {
		sum -= float64(lp)
		l.grad = append(l.grad, float32(-1/float64(n)))
		if s.ArgMax[i] == l.batch.Targets[i] {
			hits++
		}
	}
	if err := l.Model.Backward(p, l.grad); err != nil {
		return nil, err
	}
	k := float64(len(s.LogP))
	l.means = [...]Mean{{"loss", sum, k}, {"token_accuracy", hits, k}}
	return l.means[:], nil
}

// Largest returns up to n rows, those with the most tokens first: what the
// memory of a pass over any n of them is planned by.
func Largest(rows []model.Batch, n int) []model.Batch {
	s := slices.SortedStableFunc(slices.Values(rows), func(a, b model.Batch) int {
		return cmp.Or(cmp.Compare(len(b.IDs), len(a.IDs)), cmp.Compare(len(b.Targets), len(a.Targets)))
	})
	return s[:min(n, len(s))]
}

// CrossEntropy measures the mean cross-entropy per scored token, in nats, over
// the documents of rows. Its standard error takes documents, not tokens, as
// independent. tokens bounds a pass; 0: 2048.
func CrossEntropy(ctx context.Context, d *model.Decoder, rows []model.Batch, tokens int) (Estimate, error) {
	if tokens <= 0 {
		tokens = 2048
	}
	p := model.NewPass(d.Backend())
	defer p.Close()
	var docs []Pair // the sum of the cross-entropy of a document, and its tokens
	for i := 0; i < len(rows); {
		if err := ctx.Err(); err != nil {
			return Estimate{}, err
		}
		var b model.Batch
		for first := i; i < len(rows) && (i == first || len(b.IDs)+len(rows[i].IDs) <= tokens); i++ {
			b.Join(rows[i])
		}
		s, err := d.LogProb(p, b)
		if err != nil {
			return Estimate{}, fmt.Errorf("measure the loss: %w", err)
		}
		docs = append(docs, perDocument(b, s.LogP)...)
	}
	sums, counts := make([]float64, len(docs)), make([]float64, len(docs))
	for i, d := range docs {
		sums[i], counts[i] = d.Chosen, d.Rejected
	}
	return RatioOf(sums, counts), nil
}

// perDocument returns each document's summed cross-entropy and token count.
func perDocument(b model.Batch, logp []float32) []Pair {
	docs := make([]Pair, len(b.Starts))
	at := 0
	for i, r := range b.Rows {
		for at+1 < len(b.Starts) && r >= b.Starts[at+1] {
			at++
		}
		docs[at].Chosen -= float64(logp[i])
		docs[at].Rejected++
	}
	return docs
}
