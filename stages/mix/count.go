package mix

import (
	"context"
	"runtime"
	"sync"
	"sync/atomic"

	"pipe/model/pretrained"
	"pipe/runtime/artifact"
	"pipe/runtime/stage"
)

// counter returns what counts the tokens of a text, and what must be called
// when it is no longer used.
func (s *spec) counter(env *stage.Env) (count func(string) int, done func() error, err error) {
	if s.Model == nil {
		return estimate, func() error { return nil }, nil
	}
	paths, err := env.Store.Model(s.Model.Ref)
	if err != nil {
		return nil, nil, err
	}
	m, err := pretrained.Open(paths.Base)
	if err != nil {
		return nil, nil, err
	}
	return func(text string) int { return len(m.Tokenizer.EncodePlain(text)) }, m.Close, nil
}

// estimate takes four bytes for a token, rounded up.
func estimate(text string) int { return (len(text) + 3) / 4 }

// length is the tokens of a row's texts, without what a chat template adds; at
// least 1.
func length(r *artifact.Row, count func(string) int) int {
	n := count(r.Text) + count(r.Answer)
	for _, turns := range [][]artifact.Message{r.Messages, r.Chosen, r.Rejected} {
		for _, m := range turns {
			n += count(m.Content)
		}
	}
	for _, c := range r.Choices {
		n += count(c)
	}
	return max(1, n)
}

// countAll counts all rows, in parallel.
func countAll(ctx context.Context, rows []artifact.Row, count func(string) int) ([]int, error) {
	out := make([]int, len(rows))
	var next atomic.Int64
	var wg sync.WaitGroup
	for range min(runtime.GOMAXPROCS(0), len(rows)) {
		wg.Go(func() {
			for ctx.Err() == nil {
				i := int(next.Add(1)) - 1
				if i >= len(rows) {
					return
				}
				out[i] = length(&rows[i], count)
			}
		})
	}
	wg.Wait()
	return out, ctx.Err()
}
