package cpu

import (
	"cmp"
	"slices"

	"pipe/tensor"
)

// attentionGrad is one call of AttentionGrad.
type attentionGrad struct {
	*heads
	dq, dk, dv, dy, lse []float32
	delta               []float32 // [queries, heads]: dy·dst
	// Gradients of the keys and values of each segment for each query head,
	// [keys, headDim] from parts[segment*heads+head] on: no two jobs add to
	// the same element.
	dkHead, dvHead []float32
	parts          []int
	order          []int // of the jobs, segment*heads+head
}

// AttentionGrad implements [tensor.Transformer]. Probabilities are formed again
// from the log-sum-exp (Dao et al. 2022, algorithm 4), a head of a segment a
// job; the heads that share keys are added up in order.
func (b *Backend) AttentionGrad(dq, dk, dv, q, k, v, dst, lse, dy *tensor.Tensor, o tensor.Attention) {
	const op = "attention gradient"
	g := &b.op.grad
	*g = attentionGrad{heads: b.newHeads(op, q, k, v, o), dq: output(op, dq), dk: output(op, dk), dv: output(op, dv),
		dy: input(op, dy), lse: input(op, lse), order: g.order[:0], parts: g.parts[:0]}
	out := input(op, dst)
	wantType(op, k, tensor.F32)
	sameShape(op, dq, q, dst, dy)
	sameShape(op, dk, k, dv)
	checkMatrix(op, lse, g.queries, o.Heads)
	if b.err != nil {
		return
	}
	if g.pairs != nil {
		b.newPairs(g.heads, g.dy)
	}
	d := o.HeadDim
	g.delta = grow(&b.shared.more, g.queries*o.Heads)
	b.split(g.queries*o.Heads, 1, float64(d)*0.5, args{dst: g.delta, x: g.dy, y: out, cols: d}, func(a *args, lo, hi, _ int) {
		for i := lo; i < hi; i++ {
			a.dst[i] = a.b.k.dot(a.x[i*a.cols:][:a.cols], a.y[i*a.cols:][:a.cols])
		}
	})
	size := g.plan()
	both := grow(&b.shared.panels, 2*size)
	g.dkHead, g.dvHead = both[:size], both[size:]
	cost := g.totalPairs * float64(g.ldq) * 2 / 40
	b.each(len(g.order), 5*cost, args{}, func(a *args, job, _, thread int) {
		g := &a.b.op.grad
		a.b.headGrad(g, g.order[job]/g.Heads, g.order[job]%g.Heads, &a.b.work[thread])
	})
	b.split(o.KVHeads, 1, float64(size)/float64(max(1, o.KVHeads)), args{}, func(a *args, lo, hi, _ int) {
		for kv := lo; kv < hi; kv++ {
			a.b.addHeads(&a.b.op.grad, kv)
		}
	})
}

// plan sets order, the longest first, and parts. It returns the number of
// elements of all parts.
func (g *attentionGrad) plan() (size int) {
	for s := range g.segments {
		for head := range g.Heads {
			g.order = append(g.order, s*g.Heads+head)
			g.parts = append(g.parts, size)
			size += int(g.KLen[s]) * g.HeadDim
		}
	}
	length := func(j int) int32 { return g.Q[j/g.Heads+1] - g.Q[j/g.Heads] }
	slices.SortStableFunc(g.order, func(a, b int) int { return cmp.Compare(length(b), length(a)) })
	return size
}

// scores turns probs into the probabilities and grads into the gradients of
// the scaled scores, of the rows of s and n keys that w.panels and w.values
// hold. Rows are probStep apart.
func (b *Backend) scores(g *attentionGrad, s *strip, probs, grads []float32, k0, n int, w *scratch) {
	d := g.HeadDim
	if x := g.pairs; s.half {
		b.timesKeys(b.k.halfTile, s, x.q[s.at/2:], s.step/2, w.panels, probs, k0, n, d/2, g.scale)
		b.timesKeys(b.k.halfTile, s, x.dy[s.at/2:], s.step/2, w.values, grads, k0, n, d/2, 1)
	} else {
		b.timesKeys(b.k.tile, s, g.q[s.at:], s.step, w.panels, probs, k0, n, d, g.scale)
		b.timesKeys(b.k.tile, s, g.dy[s.at:], s.step, w.values, grads, k0, n, d, 1)
	}
	whole := s.whole(n)
	for r := range s.rows {
		p, dp := probs[r*probStep:][:whole], grads[r*probStep:][:whole]
		seen := min(n, s.sees(r)-k0)
		switch {
		case s.half && seen > 0:
			clear(dp[seen:])
			seen = hide(p, seen)
			clear(p[seen:])
		case s.half:
			clear(p)
			clear(dp)
		default:
			b.clearUnseen(p, seen)
			b.clearUnseen(dp, seen)
		}
		if seen <= 0 {
			continue
		}
		p, dp = p[:seen], dp[:seen]
		i := s.lse + r*s.lseStep
		b.k.exp(p, p, g.lse[i])
		b.k.scoreGrad(dp, p, g.delta[i], g.scale)
	}
}

// headGrad sets dq of a head's queries in a segment, and its parts of dk and dv.
func (b *Backend) headGrad(g *attentionGrad, segment, head int, w *scratch) {
	d, keys, queries := g.HeadDim, int(g.KLen[segment]), int(g.Q[segment+1]-g.Q[segment])
	part := g.parts[segment*g.Heads+head]
	dk, dv := g.dkHead[part:][:keys*d], g.dvHead[part:][:keys*d]
	clear(dk)
	clear(dv)
	for i := range queries {
		clear(g.dq[(int(g.Q[segment])+i)*g.ldq+head*d:][:d])
	}
	probs, grads := grow(&w.probs, queryBlock*probStep), grow(&w.grads, queryBlock*probStep)
	for k0 := 0; k0 < keys; k0 += keyBlock {
		n := min(keyBlock, keys-k0)
		at := (int(g.K[segment])+k0)*g.ldk + head/g.group*d
		if x := g.pairs; g.halved(segment) {
			b.packKeys(&w.panels, x.k[at/2:], g.ldk/2, n, d/2, w)
			b.packKeys(&w.values, x.v[at/2:], g.ldk/2, n, d/2, w)
		} else {
			b.packKeys(&w.panels, g.k.f[at:], g.ldk, n, d, w)
			b.packKeys(&w.values, g.v.f[at:], g.ldk, n, d, w)
		}
		for i := 0; i < queries; i += queryBlock {
			s := g.strip(segment, head, i, min(queryBlock, queries-i))
			if s.sees(s.rows-1) <= k0 {
				continue
			}
			b.scores(g, &s, probs, grads, k0, n, w)
			if s.half {
				b.pairsGrad(g, &s, head, probs, grads, dk[k0*d:], dv[k0*d:], k0, n, w)
				continue
			}
			seen := func(last int) (int, int) { return 0, min(n, s.sees(last)-k0) }
			by := func(key int) (int, int) { return max(0, k0+key-s.visible+1), s.rows } // queries that see a key
			b.times(b.k.tile, s.rows, grads, probStep, 1, g.k.f[at:], g.ldk, g.dq[s.at:], s.step, d, seen)
			b.times(b.k.tile, n, probs, 1, probStep, g.dy[s.at:], s.step, dv[k0*d:], d, d, by)
			b.times(b.k.tile, n, grads, 1, probStep, g.q[s.at:], s.step, dk[k0*d:], d, d, by)
		}
	}
}

// addHeads sets dk and dv of a key head to the sums over segments and heads.
func (b *Backend) addHeads(g *attentionGrad, kv int) {
	d := g.HeadDim
	for key := range g.keys {
		clear(g.dk[key*g.ldk+kv*d:][:d])
		clear(g.dv[key*g.ldk+kv*d:][:d])
	}
	for s := range g.segments {
		for head := kv * g.group; head < (kv+1)*g.group; head++ {
			part := g.parts[s*g.Heads+head]
			for i := range int(g.KLen[s]) {
				at := (int(g.K[s])+i)*g.ldk + kv*d
				dk, dv := g.dk[at:][:d], g.dv[at:][:d]
				b.k.addScaled(dk, dk, g.dkHead[part+i*d:][:d], 1)
				b.k.addScaled(dv, dv, g.dvHead[part+i*d:][:d], 1)
			}
		}
	}
}
