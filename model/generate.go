package model

import (
	"context"
	"fmt"
	"slices"

	"pipe/tensor"
)

// A Request is one text to be continued.
type Request struct {
	Prompt    []int32 // not empty: begin with the model's BOS token
	MaxTokens int     // longest continuation; also bounded by the model's context
	Sampling  Sampling
	Seed      uint64  // of the sampling; the result depends on nothing else
	StopIDs   []int32 // tokens that end the text; they are not part of the result
	// Stop, unless nil, is called after each token with the continuation so
	// far, and ends it by returning true.
	Stop func(ids []int32) bool
}

// GenerateOptions bounds the memory and the width of generation. They change
// speed, never a result.
type GenerateOptions struct {
	Batch       int  // sequences that run at once; 0: 16
	CacheTokens int  // tokens of the key-value cache; 0: 16384, or what one request needs
	Chunk       int  // prompt tokens of a sequence per pass; 0: 256
	Base        bool // run without the adapter
}

// Why a continuation ended.
const (
	StopToken = "stop"   // a stop token, or Stop returned true
	StopMax   = "length" // MaxTokens, or the end of the context
)

// A Result is one continuation.
type Result struct {
	IDs    []int32
	Reason string // StopToken or StopMax
}

// Generate continues all requests, many at a time, and calls emit with each
// result as soon as it is known: i is the index of its request. It stops at
// the first error of emit. A result is a function of its request alone.
func (d *Decoder) Generate(ctx context.Context, reqs []Request, o GenerateOptions, emit func(i int, r Result) error) (err error) {
	defer catch(&err)
	g := &generator{d: d, o: o, emit: emit, p: NewPass(d.backend)}
	defer g.p.Close()
	g.p.Base = o.Base
	if g.o.Batch <= 0 {
		g.o.Batch = 16
	}
	if g.o.Chunk <= 0 {
		g.o.Chunk = 256
	}
	if g.o.CacheTokens <= 0 {
		g.o.CacheTokens = 16384
	}
	if err := g.queue(reqs); err != nil {
		return err
	}
	if len(g.waiting) == 0 {
		return nil
	}
	if g.cache, err = d.newCache(g.rows()); err != nil {
		return fmt.Errorf("allocate the key-value cache: %w", err)
	}
	defer g.cache.close(d.backend)
	for len(g.waiting) > 0 || len(g.running) > 0 {
		if err := ctx.Err(); err != nil {
			return err
		}
		g.admit()
		if err := g.step(); err != nil {
			return err
		}
	}
	return nil
}

// A sequence is a request on its way.
type sequence struct {
	Request
	index int
	ids   []int32 // prompt and continuation
	limit int     // length that ids may reach
	slot  span    // rows of the cache
	done  int     // tokens whose keys are in the cache
	rng   Stream
}

type generator struct {
	d                *Decoder
	o                GenerateOptions
	emit             func(int, Result) error
	p                *Pass
	cache            *cache
	waiting, running []*sequence
	sampler          sampler
	logits           []float32
}

// queue checks the requests.
func (g *generator) queue(reqs []Request) error {
	most := g.d.Config.MaxPositions
	for i, r := range reqs {
		if len(r.Prompt) == 0 {
			return fmt.Errorf("request %d: the prompt is empty; it needs at least one token", i)
		}
		if len(r.Prompt) >= most {
			return fmt.Errorf("request %d: the prompt has %d tokens; the model's context of %d leaves no room for an answer", i, len(r.Prompt), most)
		}
		if err := r.Sampling.Check(); err != nil {
			return fmt.Errorf("request %d: %w", i, err)
		}
		if err := g.d.Check(Batch{IDs: r.Prompt, Starts: []int32{0}}); err != nil {
			return fmt.Errorf("request %d: %w", i, err)
		}
		s := &sequence{Request: r, index: i, ids: slices.Clone(r.Prompt), limit: min(len(r.Prompt)+r.MaxTokens, most), rng: NewStream(r.Seed, "sample")}
		if s.limit == len(s.ids) {
			if err := g.emit(i, Result{Reason: StopMax}); err != nil {
				return err
			}
			continue
		}
		g.waiting = append(g.waiting, s)
	}
	return nil
}

// rows is the size of the cache: enough for the largest request, and no more
// than all of them can use.
func (g *generator) rows() int {
	largest, sum := 0, 0
	for _, s := range g.waiting {
		largest, sum = max(largest, s.limit), sum+s.limit
	}
	return max(largest, min(sum, g.o.CacheTokens))
}

// admit starts waiting sequences, in order, while there is room.
func (g *generator) admit() {
	for len(g.waiting) > 0 && len(g.running) < g.o.Batch {
		s := g.waiting[0]
		slot, ok := g.cache.take(int32(s.limit))
		if !ok {
			return
		}
		s.slot = slot
		g.running = append(g.running, s)
		g.waiting = g.waiting[1:]
	}
}

// decodeRows is the most sequences that one pass extends. Backends may round
// differently for few rows and for many, so a pass either reads a piece of one
// prompt or extends at most so many sequences by a token: what a sequence is
// computed with then never changes its numbers.
const decodeRows = 16

// step runs one pass over a piece of a prompt, if there is one to read, or
// else passes that extend every running sequence.
func (g *generator) step() error {
	for _, s := range g.running {
		if n := min(len(s.ids)-s.done, g.o.Chunk); n > 1 {
			return g.run([]*sequence{s}, n)
		}
	}
	for group := range slices.Chunk(slices.Clone(g.running), decodeRows) {
		if err := g.run(group, 1); err != nil {
			return err
		}
	}
	return nil
}

// run takes the next n tokens of each sequence through the model, and extends
// those whose tokens are all read.
func (g *generator) run(group []*sequence, n int) error {
	p := g.p
	p.Release(Mark{})
	seg := &p.Segments
	seg.Q, seg.K, seg.KLen = append(seg.Q[:0], 0), seg.K[:0], seg.KLen[:0]
	p.cache = g.cache
	g.cache.at = g.cache.at[:0]
	var ids, pos, rows []int32
	var ready []*sequence
	for _, s := range group {
		for j := range n {
			ids, pos = append(ids, s.ids[s.done+j]), append(pos, int32(s.done+j))
		}
		seg.Q = append(seg.Q, int32(len(ids)))
		seg.K = append(seg.K, s.slot.from)
		g.cache.at = append(g.cache.at, s.slot.from+int32(s.done))
		s.done += n
		seg.KLen = append(seg.KLen, int32(s.done))
		if s.done == len(s.ids) {
			ready, rows = append(ready, s), append(rows, int32(len(ids)-1))
		}
	}
	p.Positions = p.Ints(pos)
	h := g.d.run(p, ids)
	if len(ready) == 0 {
		return p.Sync()
	}
	logits, err := g.scores(h, rows)
	if err != nil {
		return err
	}
	v := g.d.Config.VocabSize
	for i, s := range ready {
		if err := g.extend(s, logits[i*v:(i+1)*v]); err != nil {
			return err
		}
	}
	return nil
}

// scores returns the logits [len(rows), V] after the given rows.
func (g *generator) scores(h *tensor.Tensor, rows []int32) ([]float32, error) {
	p := g.p
	x := g.d.gather(p, h, p.Ints(rows))
	z := p.New(len(rows), g.d.Config.VocabSize)
	p.MatMul(z, x, g.d.Head.Value, tensor.MatMul{TransB: true, Alpha: 1})
	g.logits = slices.Grow(g.logits[:0], z.Len())[:z.Len()]
	p.Download(g.logits, z)
	return g.logits, p.Sync()
}

// extend adds the next token to s and retires s when it is complete.
func (g *generator) extend(s *sequence, logits []float32) error {
	made := len(s.ids) - len(s.Prompt)
	id := g.sampler.next(s.Sampling, logits, s.ids, s.rng.Float(uint64(made)))
	reason := ""
	if slices.Contains(s.StopIDs, id) {
		reason = StopToken
	} else {
		s.ids = append(s.ids, id)
		switch {
		case s.Stop != nil && s.Stop(s.ids[len(s.Prompt):]):
			reason = StopToken
		case len(s.ids) == s.limit:
			reason = StopMax
		}
	}
	if reason == "" {
		return nil
	}
	g.cache.give(s.slot)
	g.running = slices.DeleteFunc(g.running, func(x *sequence) bool { return x == s })
	return g.emit(s.index, Result{s.ids[len(s.Prompt):], reason})
}
