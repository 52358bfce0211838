package model

import (
	"context"
	"encoding/binary"
	"fmt"
	"math"
	"slices"

	"pipe/tensor"
)

// A generator schedules sequences: those that have just started are read, one
// after the other or together, then all that run are extended together, token by
// token, and the place of one that ends goes to the next that waits.
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

	most int // rows of the largest pass that read prompts together

	// What forward repeats.
	ids, z *tensor.Tensor // I32 [tokens]; [tokens, V], or nil
	layers func()

	// Scratch of a step.
	order  []*sequence
	tokens struct{ ids, pos, at []int32 }
	logits []float32
	few    struct { // see extendFew
		ids, drawn, at []int32
		z, by          []float32
		t, u           []float64
		totals         []byte
	}
}

func (d *Decoder) newGenerator(o GenerateOptions, emit func(int, Result) error) *generator {
	if o.Batch <= 0 {
		o.Batch = tensor.RowsTogether(d.backend)
	}
	g := &generator{d: d, o: o, emit: emit, p: NewPass(d.backend)}
	g.p.Base = o.Base
	g.layers = g.runLayers
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
	if g.later() {
		return nil
	}
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

// later reports whether those that wait had better wait until more can start, since
// the prompts of few are a pass that costs as much as one of many.
func (g *generator) later() bool {
	rows, free := tensor.PromptRows(g.d.backend), g.o.Batch-len(g.running)
	if rows == 0 || len(g.running) == 0 || len(g.waiting) <= free || free >= g.o.Batch/8 {
		return false
	}
	unread := 0
	for _, s := range g.waiting[:free] {
		_, n := g.source(s, 0)
		unread += s.prefill - n
	}
	return unread > 0 && unread < rows/4
}

// step reads prompts of sequences that have just started, so that the batch is
// full, or else extends every running sequence by a token.
func (g *generator) step() error {
	if some := g.unread(); len(some) > 0 {
		return g.readSome(some)
	}
	// A backend may round differently for few rows and for many: a pass reads
	// prompts or extends at most RowsTogether sequences, never both.
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

// unread returns sequences whose prompts are to be read in the next pass: one, or as
// many as have its rows. One that has more in common with another of them waits
// for it.
func (g *generator) unread() []*sequence {
	rows := tensor.PromptRows(g.d.backend)
	g.order = g.order[:0]
	for _, s := range g.running {
		if s.done < s.prefill {
			g.share(s)
		}
		if s.done >= s.prefill || slices.ContainsFunc(g.order, func(t *sequence) bool { return common(s, t) > s.done }) {
			continue
		}
		g.order = append(g.order, s)
		if rows -= s.prefill - s.done; rows <= 0 {
			break
		}
	}
	return g.order
}

// readSome takes the next pieces of prompts through the model, one piece, or as many as
// a pass has rows for.
func (g *generator) readSome(list []*sequence) error {
	g.start()
	rows := tensor.PromptRows(g.d.backend)
	for _, s := range list {
		for s.done < s.prefill {
			n, have := min(pieceEnd(s.done), s.prefill)-s.done, len(g.tokens.ids)
			if have > 0 && have+n > rows {
				break
			}
			g.add(s, n)
		}
	}
	if n := len(g.tokens.ids); rows > 0 && n > g.most { // memory for the largest pass alone, whatever came before
		g.p.Close()
		g.most = n
	}
	g.p.apart, g.p.fill = rows > 0, true
	g.forward(nil)
	return g.p.Sync()
}

// decode extends each sequence of the group by a token.
func (g *generator) decode(group []*sequence) error {
	g.start()
	for _, s := range group {
		g.add(s, 1)
	}
	z := g.p.New(len(group), g.d.Config.VocabSize)
	g.forward(z)
	if need := g.needs(group); need.k > 0 {
		return g.extendFew(group, z, need)
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

// needs returns what all sequences of the group can be extended by, if that is not
// all logits and the backend finds it.
func (g *generator) needs(group []*sequence) (need fewNeed) {
	if _, ok := g.d.backend.(tensor.Sampler); !ok || g.o.trace != nil {
		return need
	}
	for _, s := range group {
		n := s.Sampling.few(g.d.Config.VocabSize)
		if n.k == 0 {
			return n
		}
		need.k, need.weigh = max(need.k, n.k), need.weigh || n.weigh
	}
	return need
}

// extendFew extends each sequence of the group by what the backend finds in its
// logits z, so that they need not leave the device, unless there are NaN or more
// tokens than it finds are likely.
func (g *generator) extendFew(group []*sequence, z *tensor.Tensor, need fewNeed) error {
	n, k, v, p, f := len(group), need.k, g.d.Config.VocabSize, g.p, &g.few
	b := p.Backend.(tensor.Sampler)
	g.penalize(b, group, z)
	ids, most := p.i32.get(p.Backend, []int{n, k}), p.New(n, k)
	b.Largest(ids, most, z)
	f.totals = slices.Grow(f.totals[:0], 8*n)[:8*n]
	f.drawn = slices.Grow(f.drawn[:0], n)[:n]
	f.t, f.u = f.t[:0], f.u[:0]
	for _, s := range group {
		f.t, f.u = append(f.t, 1/max(s.Sampling.Temperature, 1e-9)), append(f.u, s.random())
	}
	if need.weigh {
		drawn, totals := p.i32.get(p.Backend, []int{n}), p.u8.get(p.Backend, []int{n, 8})
		b.Weigh(drawn, totals, z, ids, most, f.t, f.u)
		p.DownloadInts(f.drawn, drawn)
		p.DownloadBytes(f.totals, totals)
	}
	f.ids, f.z = slices.Grow(f.ids[:0], n*k)[:n*k], slices.Grow(f.z[:0], n*k)[:n*k]
	p.DownloadInts(f.ids, ids)
	p.Download(f.z, most)
	if err := p.Sync(); err != nil {
		return err
	}
	var all []float32
	for i, s := range group {
		best, ok, id := f.ids[i*k:(i+1)*k], false, int32(0)
		if best[0] >= 0 {
			total := math.Float64frombits(binary.LittleEndian.Uint64(f.totals[8*i:]))
			id, ok = g.sampler.nextFew(s.Sampling, v, best, f.z[i*k:(i+1)*k], total, f.drawn[i], f.u[i])
		}
		if !ok {
			if all == nil {
				var err error
				if all, err = g.download(z); err != nil {
					return err
				}
			}
			o := s.Sampling
			o.RepetitionPenalty = 0 // it is in the logits
			id = g.sampler.next(o, all[i*v:(i+1)*v], nil, f.u[i])
		}
		if err := g.push(s, id); err != nil {
			return err
		}
	}
	return nil
}

// penalize does in the logits z, on the device, what repetition penalties ask for.
func (g *generator) penalize(b tensor.Sampler, group []*sequence, z *tensor.Tensor) {
	p, f, v := g.p, &g.few, g.d.Config.VocabSize
	f.at, f.by = f.at[:0], f.by[:0]
	for i, s := range group {
		by := s.Sampling.RepetitionPenalty
		if by == 0 || by == 1 {
			continue
		}
		g.sampler.look(v)
		for _, id := range s.ids {
			if g.sampler.first(id, v) {
				f.at, f.by = append(f.at, int32(i*v)+id), append(f.by, float32(by))
			}
		}
	}
	if len(f.at) == 0 {
		return
	}
	by := p.New(len(f.by))
	p.Upload(by, f.by)
	b.Penalize(z, p.Ints(f.at), by)
}

// start begins a pass.
func (g *generator) start() {
	g.p.Release(Mark{})
	g.p.apart, g.p.fill = false, false
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

// forward takes the pass through the layers and sets z, unless it is nil, to the
// logits [tokens, V] after each token. What changes from one pass to the next of as
// many tokens lies in tensors, or is segments: so a backend can repeat it.
func (g *generator) forward(z *tensor.Tensor) {
	p, t := g.p, &g.tokens
	p.cache, g.z = g.cache, z
	p.pos = append(p.pos[:0], t.pos...)
	p.Positions, g.cache.at, g.ids = p.threeInts(t.pos, t.at, t.ids)
	if !g.d.arrange(p) || p.apart { // passes of several prompts are hardly ever alike
		g.layers()
		return
	}
	p.repeat(tensor.Step{In: g.ids, Out: z, Kind: g.d.changes}, g.layers)
}

// runLayers is the part of forward that is repeated.
func (g *generator) runLayers() {
	d, p := g.d, g.p
	m := p.Mark()
	h := d.layers(p, g.ids)
	if g.z != nil {
		p.MatMul(g.z, d.normed(p, h), d.Head.Value, tensor.MatMul{TransB: true, Alpha: 1})
	}
	p.Release(m)
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
