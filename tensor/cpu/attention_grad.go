package cpu

import (
	"slices"

	"pipe/tensor"
)

// attentionGrad is one call of AttentionGrad.
type attentionGrad struct {
	*heads
	dq, dk, dv, dy, lse []float32
	delta               []float32 // [queries, heads]: dy·dst
}

// AttentionGrad implements [tensor.Transformer]. Probabilities are formed
// again from the log-sum-exp (Dao et al. 2022, algorithm 4), once for dq and
// once for dk and dv, so that no two jobs add to the same element.
func (b *Backend) AttentionGrad(dq, dk, dv, q, k, v, dst, lse, dy *tensor.Tensor, o tensor.Attention) {
	const op = "attention gradient"
	g := &attentionGrad{heads: newHeads(op, q, k, v, o), dq: output(op, dq), dk: output(op, dk), dv: output(op, dv),
		dy: input(op, dy), lse: input(op, lse)}
	out := input(op, dst)
	sameShape(op, dq, q, dst, dy)
	sameShape(op, dk, k, dv)
	checkMatrix(op, lse, g.queries, o.Heads)
	if b.err != nil {
		return
	}
	d := o.HeadDim
	clear(g.dk)
	clear(g.dv)
	g.delta = grow(&b.shared.more, g.queries*o.Heads)
	b.split(g.queries*o.Heads, 1, float64(d)*0.5, func(lo, hi, _ int) {
		for i := lo; i < hi; i++ {
			g.delta[i] = b.k.dot(g.dy[i*d:][:d], out[i*d:][:d])
		}
	})
	queries, keys := g.queryJobs(), g.keyJobs()
	cost := g.totalPairs * float64(g.ldq) * 2 / 40
	b.jobs(len(queries), 3*cost, func(job, thread int) { b.queryGrad(g, &queries[job], &b.work[thread]) })
	b.jobs(len(keys), 4*cost, func(job, thread int) {
		for _, s := range keys[job] {
			b.keyGrad(g, s, &b.work[thread])
		}
	})
}

func (h *heads) queryJobs() []strip {
	var list []strip
	for s := range h.segments {
		n := int(h.Q[s+1] - h.Q[s])
		for head := range h.Heads {
			for i := 0; i < n; i += queryBlock {
				list = append(list, h.strip(s, head, i, min(queryBlock, n-i)))
			}
		}
	}
	return list
}

// keySpan is keys k0..k0+n of a segment for one key head.
type keySpan struct{ segment, kvHead, k0, n int }

// keyJobs returns jobs that write different keys: one span each, or, when
// segments share keys, all spans of a key head in order.
func (h *heads) keyJobs() [][]keySpan {
	var jobs [][]keySpan
	for kv := range h.KVHeads {
		var spans []keySpan
		for s := range h.segments {
			for k0 := 0; k0 < int(h.KLen[s]); k0 += keyBlock {
				spans = append(spans, keySpan{s, kv, k0, min(keyBlock, int(h.KLen[s])-k0)})
			}
		}
		if h.sharedKeys() {
			jobs = append(jobs, spans)
			continue
		}
		for i := range spans {
			jobs = append(jobs, spans[i:i+1])
		}
	}
	return jobs
}

func (h *heads) sharedKeys() bool {
	order := make([]int, h.segments)
	for s := range order {
		order[s] = s
	}
	slices.SortFunc(order, func(a, b int) int { return int(h.K[a] - h.K[b]) })
	end := int32(0)
	for _, s := range order {
		if h.KLen[s] > 0 && h.K[s] < end {
			return true
		}
		end = max(end, h.K[s]+h.KLen[s])
	}
	return false
}

// scores turns probs into the probabilities and grads into the gradients of
// the scaled scores, of the rows of s and n keys that w.panels and w.values
// hold. Rows are keyBlock apart.
func (b *Backend) scores(g *attentionGrad, s *strip, probs, grads []float32, k0, n int, w *scratch) {
	d := g.HeadDim
	b.timesKeys(s, g.q[s.at:], w.panels, probs, keyBlock, k0, n, d, g.scale)
	b.timesKeys(s, g.dy[s.at:], w.values, grads, keyBlock, k0, n, d, 1)
	for r := range s.rows {
		p, dp := probs[r*keyBlock:][:n], grads[r*keyBlock:][:n]
		seen := max(0, min(n, s.sees(r)-k0))
		clear(p[seen:])
		clear(dp[seen:])
		p, dp = p[:seen], dp[:seen]
		i := s.lse + r*s.lseStep
		b.k.exp(p, p, g.lse[i])
		b.k.scoreGrad(dp, p, g.delta[i], g.scale)
	}
}

// queryGrad sets dq of a strip.
func (b *Backend) queryGrad(g *attentionGrad, s *strip, w *scratch) {
	d := g.HeadDim
	probs, grads := grow(&w.probs, queryBlock*keyBlock), grow(&w.grads, queryBlock*keyBlock)
	for r := range s.rows {
		clear(g.dq[s.at+r*s.step:][:d])
	}
	for k0 := 0; k0 < s.sees(s.rows-1); k0 += keyBlock {
		n := min(keyBlock, s.sees(s.rows-1)-k0)
		at := (s.keyRow+k0)*g.ldk + s.kvHead*d
		b.packKeys(&w.panels, g.k[at:], g.ldk, n, d, w)
		b.packKeys(&w.values, g.v[at:], g.ldk, n, d, w)
		b.scores(g, s, probs, grads, k0, n, w)
		b.times(s.rows, grads, keyBlock, 1, g.k[at:], g.ldk, g.dq[s.at:], s.step, d, func(last int) (int, int) { return 0, min(n, s.sees(last)-k0) })
	}
}

// keyGrad adds to dk and dv of a span, over the heads and queries that see it.
func (b *Backend) keyGrad(g *attentionGrad, span keySpan, w *scratch) {
	d, s := g.HeadDim, span.segment
	probs, grads := grow(&w.probs, queryBlock*keyBlock), grow(&w.grads, queryBlock*keyBlock)
	at := (int(g.K[s])+span.k0)*g.ldk + span.kvHead*d
	b.packKeys(&w.panels, g.k[at:], g.ldk, span.n, d, w)
	b.packKeys(&w.values, g.v[at:], g.ldk, span.n, d, w)
	queries := int(g.Q[s+1] - g.Q[s])
	for head := span.kvHead * g.group; head < (span.kvHead+1)*g.group; head++ {
		for i := 0; i < queries; i += queryBlock {
			q := g.strip(s, head, i, min(queryBlock, queries-i))
			if q.sees(q.rows-1) <= span.k0 {
				continue
			}
			b.scores(g, &q, probs, grads, span.k0, span.n, w)
			saw := func(key int) (int, int) { return max(0, span.k0+key-q.visible+1), q.rows } // queries that see a key
			b.times(span.n, probs, 1, keyBlock, g.dy[q.at:], q.step, g.dv[at:], g.ldk, d, saw)
			b.times(span.n, grads, 1, keyBlock, g.q[q.at:], q.step, g.dk[at:], g.ldk, d, saw)
		}
	}
}
