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
	Batch int // sequences that run at once; 0: as many as the backend computes together
	// CacheTokens is the size of the key-value cache; 0: what Batch requests
	// need, up to 16384 tokens, 1 GiB, or a quarter of what a device has free,
	// whichever is most. It is never less than what one request needs.
	CacheTokens int
	Base        bool // run without the adapter

	trace func(i int, logits []float32) // unless nil, sees what each token of request i is chosen by
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
//
// Requests that begin with the same tokens are cheap: what they share is
// computed once, as long as it stays in the cache.
func (d *Decoder) Generate(ctx context.Context, reqs []Request, o GenerateOptions, emit func(i int, r Result) error) error {
	g := d.newGenerator(o, emit)
	defer g.close()
	for i, r := range reqs {
		if err := g.queue(i, r); err != nil {
			return err
		}
	}
	if len(g.waiting) == 0 {
		return nil
	}
	sortByPrefix(g.waiting)
	if err := g.allocate(g.rows()); err != nil {
		return err
	}
	return g.run(ctx, nil)
}

// Serve is [Decoder.Generate] for requests that come while others run: a
// request starts as soon as there is a place for it. Serve calls next when it
// could start one more; next reports whether there is one, and waits for it if
// wait is set, because nothing else is to be done. It returns when next reports
// false although it might have waited. Requests are numbered from 0.
func (d *Decoder) Serve(ctx context.Context, o GenerateOptions, next func(wait bool) (Request, bool), emit func(i int, r Result) error) error {
	g := d.newGenerator(o, emit)
	defer g.close()
	return g.run(ctx, next)
}

// A sequence is a request on its way.
type sequence struct {
	Request
	index   int
	ids     []int32 // prompt and continuation
	prefill int     // tokens that are read in pieces: the prompt without its last
	limit   int     // length that ids may reach
	slot    span    // rows of the cache
	done    int     // tokens whose keys are in the cache
	rng     Stream
}

// random returns the number that decides the next token of s.
func (s *sequence) random() float64 { return s.rng.Float(uint64(len(s.ids) - len(s.Prompt))) }

// queue checks request i and adds it to those that wait.
func (g *generator) queue(i int, r Request) error {
	most := g.d.Config.MaxPositions
	if len(r.Prompt) == 0 {
		return fmt.Errorf("request %d: the prompt is empty; it needs at least one token", i)
	}
	if len(r.Prompt) >= most {
		return fmt.Errorf("request %d: the prompt has %d tokens; the model's context of %d leaves no room for an answer", i, len(r.Prompt), most)
	}
	if err := r.Sampling.Check(); err != nil {
		return fmt.Errorf("request %d: %w", i, err)
	}
	if err := g.d.checkIDs(r.Prompt); err != nil {
		return fmt.Errorf("request %d: %w", i, err)
	}
	s := &sequence{Request: r, index: i, ids: r.Prompt, prefill: len(r.Prompt) - 1, rng: NewStream(r.Seed, "sample")}
	s.limit = len(s.ids) + min(max(r.MaxTokens, 0), most-len(s.ids))
	if s.limit == len(s.ids) {
		return g.emit(i, Result{Reason: StopMax})
	}
	g.waiting = append(g.waiting, s)
	return nil
}

// The cache is given this much room without being asked, and no less than
// cacheTokens.
const (
	cacheBytes  = 1 << 30
	cacheTokens = 16384
)

// rows is the size of the cache: enough for the largest request, and no more
// than the largest that can run at once use.
func (g *generator) rows() int {
	var limits []int
	for _, s := range g.waiting {
		limits = append(limits, s.limit)
	}
	slices.SortFunc(limits, func(a, b int) int { return b - a })
	need := 0
	for _, n := range limits[:min(len(limits), g.o.Batch)] {
		need += n
	}
	return max(limits[0], min(need, g.mostRows()))
}

// mostRows is the largest size of a cache.
func (g *generator) mostRows() int {
	if g.o.CacheTokens > 0 {
		return g.o.CacheTokens
	}
	c, bytes := &g.d.Config, int64(cacheBytes)
	if l, ok := g.d.backend.(tensor.Limited); ok {
		if free, _, ok := l.Limit(); ok {
			bytes = max(bytes, free/4)
		}
	}
	return max(cacheTokens, int(bytes/int64(2*g.d.precision.Bytes(c.Layers*c.KVHeads*c.HeadDim))))
}
