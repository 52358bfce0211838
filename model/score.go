package model

import (
	"context"
	"fmt"
	"slices"
)

// A Continuation is a text whose probability is asked for.
type Continuation struct {
	Context []int32 // what comes before; not empty
	Target  []int32 // what is scored
}

// ScoreTokens is how many tokens a pass of [Decoder.Score] has by default.
const ScoreTokens = 2048

// ScoreOptions bounds the memory of [Decoder.Score]. Beyond the last digits,
// it changes no result.
type ScoreOptions struct {
	Tokens int  // tokens of a pass; 0: ScoreTokens. A longer continuation runs alone
	Base   bool // run without the adapter
	// Progress, unless nil, is called with the number of continuations done.
	Progress func(done int)
}

// Score returns, for each continuation, the log-probability of each target
// token and the most likely token in its place. What a continuation has in
// common with the one before it, such as the context of several answers, is
// computed once.
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
		if err := d.checkIDs(c.Context, c.Target); err != nil {
			return nil, fmt.Errorf("continuation %d: %w", i, err)
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
		var f forest
		first, last := len(out), len(out)
		for last < len(cs) && f.add(cs[last], o.Tokens) {
			last++
		}
		s, err := d.score(p, &f)
		if err != nil {
			return nil, fmt.Errorf("score continuations %d to %d: %w", first, last-1, err)
		}
		for i, c := range cs[first:last] {
			n := len(c.Target)
			if k := slices.IndexFunc(s.LogP[:n], func(p float32) bool { return p != p }); k >= 0 {
				return nil, fmt.Errorf("the log-probability of token %d of continuation %d is not a number: the model's weights are not all numbers, or so large that what it computes is none; check the model", k, first+i)
			}
			out = append(out, Scores{s.LogP[:n:n], s.ArgMax[:n:n]})
			s.LogP, s.ArgMax = s.LogP[n:], s.ArgMax[n:]
		}
		if o.Progress != nil {
			o.Progress(len(out))
		}
	}
	return out, nil
}

// score runs the continuations of f. The result is the caller's.
func (d *Decoder) score(p *Pass, f *forest) (s Scores, err error) {
	defer catch(&err)
	p.Release(Mark{})
	p.cache, p.keys, p.fill, p.wants = nil, nil, false, p.wants[:0]
	p.pos = append(p.pos[:0], f.pos...)
	p.Segments, p.Positions = f.Segments, p.Ints(p.pos)
	if f.shares {
		p.keys = p.Ints(f.keys)
	}
	if len(f.rows) == 0 {
		return s, nil
	}
	s, err = d.logProb(p, d.run(p, f.ids), f.rows, f.targets)
	return Scores{slices.Clone(s.LogP), slices.Clone(s.ArgMax)}, err
}

// A forest lays continuations out for one pass. One that begins like the
// continuation before it has only the rest of its tokens in the pass, as a
// segment whose keys are those of both.
type forest struct {
	Segments
	ids, pos      []int32 // tokens of the pass and their positions
	keys          []int32 // token of the pass that each key row is
	rows, targets []int32 // see Batch
	shares        bool    // keys are not the tokens in order

	last []int32 // token of the pass that each token of the latest continuation is
}

// keysOfToken bounds the copies of shared keys: so many for each token of a
// pass.
const keysOfToken = 16

// add appends c. It reports whether there is room within so many tokens.
func (f *forest) add(c Continuation, most int) bool {
	if len(c.Target) == 0 {
		return true
	}
	at := func(i int) int32 { // the last target token is not read
		if i < len(c.Context) {
			return c.Context[i]
		}
		return c.Target[i-len(c.Context)]
	}
	n, same := len(c.Context)+len(c.Target)-1, 0
	for same < min(n, len(f.last)) && f.ids[f.last[same]] == at(same) {
		same++
	}
	if len(f.ids) > 0 && (len(f.ids)+n-same > most || len(f.keys)+n > keysOfToken*most || len(f.rows)+len(c.Target) > most) {
		return false
	}
	f.last = f.last[:same]
	for i := same; i < n; i++ {
		f.last = append(f.last, int32(len(f.ids)))
		f.ids, f.pos = append(f.ids, at(i)), append(f.pos, int32(i))
	}
	if same < n {
		if len(f.Q) == 0 {
			f.Q = append(f.Q, 0)
		}
		f.Q = append(f.Q, int32(len(f.ids)))
		f.K, f.KLen = append(f.K, int32(len(f.keys))), append(f.KLen, int32(n))
		f.keys = append(f.keys, f.last...)
		f.shares = f.shares || same > 0
	}
	for i, id := range c.Target {
		f.rows, f.targets = append(f.rows, f.last[len(c.Context)-1+i]), append(f.targets, id)
	}
	return true
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
	x := d.normed(p, d.run(p, b.IDs)) // [tokens, H]
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
