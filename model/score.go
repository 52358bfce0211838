package model

import (
	"context"
	"fmt"
)

// A Continuation is a text whose probability is asked for.
type Continuation struct {
	Context []int32 // what comes before; not empty
	Target  []int32 // what is scored
}

// ScoreTokens is how many tokens a pass of [Decoder.Score] has by default.
const ScoreTokens = 2048

// ScoreOptions bounds the memory of [Decoder.Score]. It changes no result.
type ScoreOptions struct {
	Tokens int  // tokens of a pass; 0: ScoreTokens. A longer continuation runs alone
	Base   bool // run without the adapter
	// Progress, unless nil, is called with the number of continuations done.
	Progress func(done int)
}

// Score returns, for each continuation, the log-probability of each target
// token and the most likely token in its place.
func (d *Decoder) Score(ctx context.Context, cs []Continuation, o ScoreOptions) ([]Scores, error) {
	if o.Tokens <= 0 {
		o.Tokens = ScoreTokens
	}
	for i, c := range cs {
		if n := len(c.Context) + len(c.Target); len(c.Context) == 0 {
			return nil, fmt.Errorf("continuation %d: the context is empty; it needs at least one token", i)
		} else if n > d.Config.MaxPositions {
			return nil, fmt.Errorf("continuation %d has %d tokens; the model's context is %d", i, n, d.Config.MaxPositions)
		}
	}
	p := NewPass(d.backend)
	defer p.Close()
	p.Base = o.Base
	out := make([]Scores, 0, len(cs))
	for len(out) < len(cs) {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		var b Batch
		first, last := len(out), len(out)
		for ; last < len(cs); last++ {
			c := cs[last]
			if last > first && len(b.IDs)+len(c.Context)+len(c.Target) > o.Tokens {
				break
			}
			b.Add(c)
		}
		s, err := d.LogProb(p, b)
		if err != nil {
			return nil, fmt.Errorf("score continuations %d to %d: %w", first, last-1, err)
		}
		for _, c := range cs[first:last] {
			n := len(c.Target)
			out = append(out, Scores{s.LogP[:n:n], s.ArgMax[:n:n]})
			s.LogP, s.ArgMax = s.LogP[n:], s.ArgMax[n:]
		}
		if o.Progress != nil {
			o.Progress(len(out))
		}
	}
	return out, nil
}

// Embed returns the mean of the final hidden states of each document, [H]
// each: an embedding of its meaning. Documents longer than the model's context
// are cut there.
func (d *Decoder) Embed(ctx context.Context, docs [][]int32, o ScoreOptions) ([][]float32, error) {
	if o.Tokens <= 0 {
		o.Tokens = ScoreTokens
	}
	p := NewPass(d.backend)
	defer p.Close()
	p.Base = o.Base
	out := make([][]float32, 0, len(docs))
	for len(out) < len(docs) {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		var b Batch
		for i := len(out); i < len(docs); i++ {
			ids := docs[i][:min(len(docs[i]), d.Config.MaxPositions)]
			if len(b.IDs) > 0 && len(b.IDs)+len(ids) > o.Tokens {
				break
			}
			b.Starts = append(b.Starts, int32(len(b.IDs)))
			b.IDs = append(b.IDs, ids...)
		}
		means, err := d.embed(p, b)
		if err != nil {
			return nil, fmt.Errorf("embed documents from %d on: %w", len(out), err)
		}
		out = append(out, means...)
		if o.Progress != nil {
			o.Progress(len(out))
		}
	}
	return out, nil
}

func (d *Decoder) embed(p *Pass, b Batch) (means [][]float32, err error) {
	defer catch(&err)
	if err := d.Check(b); err != nil {
		return nil, err
	}
	p.start(len(b.IDs), b.Starts)
	x := d.Norm.Forward(p, d.run(p, b.IDs)) // [tokens, H]
	h := make([]float32, x.Len())
	p.Download(h, x)
	w := d.Config.Hidden
	for s := range b.Starts {
		from, to := int(p.Segments.Q[s]), int(p.Segments.Q[s+1])
		mean := make([]float32, w)
		for j := range w {
			sum := 0.0
			for t := from; t < to; t++ {
				sum += float64(h[t*w+j])
			}
			mean[j] = float32(sum / float64(to-from))
		}
		means = append(means, mean)
	}
	return means, p.Sync()
}
