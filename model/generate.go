package model

import (
	"context"
	"fmt"
	"slices"
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
	Batch int // sequences that run at once; 0: 16
	// CacheTokens is the size of the key-value cache; 0: what Batch requests
	// need, up to 16384 tokens or 2 GiB, whichever is more. It is never less
	// than what one request needs.
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
func (d *Decoder) Generate(ctx context.Context, reqs []Request, o GenerateOptions, emit func(i int, r Result) error) (err error) {
	defer catch(&err)
	if o.Batch <= 0 {
		o.Batch = 16
	}
	g := &generator{d: d, o: o, emit: emit, p: NewPass(d.backend)}
	defer g.p.Close()
	g.p.Base = o.Base
	if err := g.queue(reqs); err != nil {
		return err
	}
	if len(g.waiting) == 0 {
		return nil
	}
	if g.cache, err = d.newCache(g.rows()); err != nil {
		return fmt.Errorf("allocate the key-value cache: %w", err)
	}
	defer g.cache.close()
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
	index   int
	ids     []int32 // prompt and continuation
	prefill int     // tokens that are read in pieces: the prompt without its last
	limit   int     // length that ids may reach
	slot    span    // rows of the cache
	done    int     // tokens whose keys are in the cache
	rng     Stream
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
		s := &sequence{Request: r, index: i, ids: r.Prompt, prefill: len(r.Prompt) - 1, rng: NewStream(r.Seed, "sample")}
		s.limit = len(s.ids) + min(max(r.MaxTokens, 0), most-len(s.ids))
		if s.limit == len(s.ids) {
			if err := g.emit(i, Result{Reason: StopMax}); err != nil {
				return err
			}
			continue
		}
		g.waiting = append(g.waiting, s)
	}
	sortByPrefix(g.waiting)
	return nil
}

// The cache is given this much room without being asked, and no less than
// cacheTokens.
const (
	cacheBytes  = 2 << 30
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
	most := g.o.CacheTokens
	if most <= 0 {
		c := &g.d.Config
		most = max(cacheTokens, cacheBytes/(2*4*c.Layers*c.KVHeads*c.HeadDim))
	}
	return max(limits[0], min(need, most))
}
