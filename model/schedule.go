package model

import (
	"context"
	"fmt"
	"slices"

	"pipe/tensor"
)

// A generator schedules sequences: those that have just started are read one
// after the other, then all that run are extended together, token by token, and
// the place of one that ends goes to the next that waits.
type generator struct {
	d       *Decoder
	o       GenerateOptions
	emit    func(int, Result) error
	p       *Pass
	cache   *cache
	waiting []*sequence // in the order in which they will start
	running []*sequence
	idle    []*sequence // ended; their prompts are still in the cache, longest unused first
	sampler sampler

	// Scratch of a step.
	order  []*sequence
	tokens struct{ ids, pos, at []int32 }
	logits []float32
	few    struct {
		ids []int32
		z   []float32
	}
}

func (d *Decoder) newGenerator(o GenerateOptions, emit func(int, Result) error) *generator {
	if o.Batch <= 0 {
		o.Batch = tensor.RowsTogether(d.backend)
	}
	g := &generator{d: d, o: o, emit: emit, p: NewPass(d.backend)}
	g.p.Base = o.Base
	return g
}

func (g *generator) close() {
	if g.cache != nil {
		g.cache.close()
	}
	g.p.Close()
}

// allocate makes an empty cache, instead of that which there is. Nothing may
// be running.
func (g *generator) allocate(rows int) (err error) {
	if g.cache != nil {
		g.cache.close()
		g.cache, g.idle = nil, nil
	}
	if g.cache, err = g.d.newCache(rows); err != nil {
		return fmt.Errorf("allocate the key-value cache: %w", err)
	}
	return nil
}

// run takes steps until all is done, and next, unless it is nil, has no more.
func (g *generator) run(ctx context.Context, next func(wait bool) (Request, bool)) (err error) {
	defer catch(&err)
	for i := 0; ; {
		for next != nil && len(g.waiting)+len(g.running) < g.o.Batch {
			r, ok := next(len(g.waiting)+len(g.running) == 0)
			if !ok {
				break
			}
			if err := g.queue(i, r); err != nil {
				return err
			}
			i++
		}
		if len(g.waiting)+len(g.running) == 0 {
			return nil
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := g.admit(); err != nil {
			return err
		}
		if err := g.step(); err != nil {
			return err
		}
	}
}

// admit starts waiting sequences, in order, while there is room.
func (g *generator) admit() error {
	for len(g.waiting) > 0 && len(g.running) < g.o.Batch {
		s := g.waiting[0]
		if g.cache == nil || len(g.running) == 0 && s.limit > int(g.cache.rows) {
			if err := g.allocate(max(s.limit, min(g.mostRows(), g.o.Batch*g.d.Config.MaxPositions))); err != nil {
				return err
			}
		}
		if !g.place(s) {
			return nil
		}
		g.running = append(g.running, s)
		g.waiting = g.waiting[1:]
	}
	return nil
}

// step reads the prompts of sequences that have just started, so that the
// batch is full, or else extends every running sequence by a token.
func (g *generator) step() error {
	for _, s := range g.running {
		if s.done < s.prefill {
			g.share(s)
		}
		if s.done < s.prefill {
			return g.read(s)
		}
	}
	// A backend may round differently for few rows and for many: a pass reads a
	// piece of one prompt or extends at most RowsTogether sequences, never both.
	g.order = append(g.order[:0], g.running...)
	for rest := g.order; len(rest) > 0; {
		n := min(len(rest), tensor.RowsTogether(g.p.Backend))
		if err := g.decode(rest[:n]); err != nil {
			return err
		}
		rest = rest[n:]
	}
	return nil
}

// read takes the next piece of a prompt through the model.
func (g *generator) read(s *sequence) error {
	g.start()
	g.add(s, min(pieceEnd(s.done), s.prefill)-s.done)
	g.p.fill = true
	g.forward()
	return g.p.Sync()
}

// decode extends each sequence of the group by a token.
func (g *generator) decode(group []*sequence) error {
	g.start()
	for _, s := range group {
		g.add(s, 1)
	}
	z := g.scores(g.forward())
	if k := g.needs(group); k > 0 {
		return g.extendFew(group, z, k)
	}
	logits, err := g.download(z)
	if err != nil {
		return err
	}
	v := g.d.Config.VocabSize
	for i, s := range group {
		if err := g.extend(s, logits[i*v:(i+1)*v]); err != nil {
			return err
		}
	}
	return nil
}

// needs returns how many of its largest logits each sequence of the group is
// extended by, at most; 0: all must be known, or the backend cannot tell.
func (g *generator) needs(group []*sequence) (k int) {
	if _, ok := g.d.backend.(tensor.Sampler); !ok || g.o.trace != nil {
		return 0
	}
	for _, s := range group {
		n := s.Sampling.few(g.d.Config.VocabSize)
		if n == 0 {
			return 0
		}
		k = max(k, n)
	}
	return k
}

// extendFew extends each sequence of the group by the k largest of its logits z,
// the only ones that leave the device. Where there are NaN, all do.
func (g *generator) extendFew(group []*sequence, z *tensor.Tensor, k int) error {
	n, p, f := len(group), g.p, &g.few
	ids, most := p.i32.get(p.Backend, []int{n, k}), p.New(n, k)
	p.Backend.(tensor.Sampler).Largest(ids, most, z)
	f.ids, f.z = slices.Grow(f.ids[:0], n*k)[:n*k], slices.Grow(f.z[:0], n*k)[:n*k]
	p.DownloadInts(f.ids, ids)
	p.Download(f.z, most)
	if err := p.Sync(); err != nil {
		return err
	}
	all, v := []float32(nil), g.d.Config.VocabSize
	for i, s := range group {
		var err error
		if best := f.ids[i*k : (i+1)*k]; best[0] >= 0 {
			err = g.push(s, g.sampler.nextFew(s.Sampling, best, f.z[i*k:(i+1)*k], s.random()))
		} else {
			if all == nil {
				if all, err = g.download(z); err != nil {
					return err
				}
			}
			err = g.extend(s, all[i*v:(i+1)*v])
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// start begins a pass.
func (g *generator) start() {
	g.p.Release(Mark{})
	g.p.fill = false
	seg, t := &g.p.Segments, &g.tokens
	seg.Q, seg.K, seg.KLen = append(seg.Q[:0], 0), seg.K[:0], seg.KLen[:0]
	t.ids, t.pos, t.at = t.ids[:0], t.pos[:0], t.at[:0]
}

// add makes the next n tokens of s a segment of the pass.
func (g *generator) add(s *sequence, n int) {
	seg, t := &g.p.Segments, &g.tokens
	for j := s.done; j < s.done+n; j++ {
		t.ids, t.pos, t.at = append(t.ids, s.ids[j]), append(t.pos, int32(j)), append(t.at, s.slot.from+int32(j))
	}
	s.done += n
	seg.Q = append(seg.Q, int32(len(t.ids)))
	seg.K, seg.KLen = append(seg.K, s.slot.from), append(seg.KLen, int32(s.done))
}

// forward takes the pass through the layers.
func (g *generator) forward() *tensor.Tensor {
	p, t := g.p, &g.tokens
	p.Positions, p.cache = p.Ints(t.pos), g.cache
	g.cache.at = p.Ints(t.at)
	return g.d.run(p, t.ids)
}

// scores returns the logits [tokens, V] after each token, of the residual
// stream h.
func (g *generator) scores(h *tensor.Tensor) *tensor.Tensor {
	p := g.p
	z := p.New(h.Rows(), g.d.Config.VocabSize)
	p.MatMul(z, g.d.normed(p, h), g.d.Head.Value, tensor.MatMul{TransB: true, Alpha: 1})
	return z
}

// download returns the numbers of z.
func (g *generator) download(z *tensor.Tensor) ([]float32, error) {
	g.logits = slices.Grow(g.logits[:0], z.Len())[:z.Len()]
	g.p.Download(g.logits, z)
	return g.logits, g.p.Sync()
}

// extend adds the next token, chosen by all logits, to s.
func (g *generator) extend(s *sequence, logits []float32) error {
	if g.o.trace != nil {
		g.o.trace(s.index, logits)
	}
	return g.push(s, g.sampler.next(s.Sampling, logits, s.ids, s.random()))
}

// push adds a token to s and retires s when it is complete.
func (g *generator) push(s *sequence, id int32) error {
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
	g.retire(s)
	return g.emit(s.index, Result{s.ids[len(s.Prompt):], reason})
}
