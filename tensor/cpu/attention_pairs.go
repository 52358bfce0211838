package cpu

import (
	"math"
	"slices"
	"sort"

	"pipe/tensor"
)

// pairs are the operands of attention in bfloat16, an element of memory a pair:
// of neighbours in a row, or of two rows of a segment, of which the first pair has
// the segment's first two.
type pairs struct {
	q, k, v, dy    []float32 // of neighbours, [queries or keys, width/2]
	qs, ks, vs, ds []float32 // of rows, those of dy last, [rows of pairs, width]
	queries, keys  []int     // where the rows of pairs of each segment begin
	rows           twoRows   // that are made now
}

// twoRows are rows of pairs in the making, of rows of so many elements. Segment s
// has count[s] rows from first[s] on, or those up to first[s+1], and its rows of
// pairs begin at at[s].
type twoRows struct {
	dst, src     []float32
	first, count []int32
	at           []int
	width        int
}

// pairsFrom is the length of segments, in keys, whose products are of pairs: for
// shorter ones it takes as long to make them.
const pairsFrom = 256

// pairs reports whether attention to keys of that type has products of pairs.
func (k *kernels) pairs(o tensor.Attention, dt tensor.DType) bool {
	return o.Precision == tensor.BF16 && k.halfTile != nil && o.HeadDim%16 == 0 && dt == tensor.F32 &&
		slices.ContainsFunc(o.KLen, func(n int32) bool { return n >= pairsFrom })
}

// halved reports whether the products of a segment are of pairs.
func (h *heads) halved(segment int) bool { return h.pairs != nil && h.KLen[segment] >= pairsFrom }

// pairsScratch is what newPairs takes, of so many queries and keys in so many
// segments.
func pairsScratch(queries, keys, segments, ldq, ldk int, grad bool) int {
	qs, ks := (queries+segments+1)/2*ldq, (keys+segments+1)/2*ldk // a segment of odd length has one more
	n := queries*ldq/2 + keys*ldk/2 + ks                          // q, k and vs
	if grad {
		n += queries*ldq/2 + keys*ldk/2 + 2*qs // dy and v, qs and ds; ks instead of vs
	}
	return n
}

// newPairs rounds the operands of h: those of its gradient where dy is not nil.
func (b *Backend) newPairs(h *heads, dy []float32) {
	x := h.pairs
	x.queries, x.keys = append(x.queries[:0], 0), append(x.keys[:0], 0)
	keys := 0
	for s := range h.segments {
		x.queries = append(x.queries, x.queries[s]+int(h.Q[s+1]-h.Q[s]+1)/2)
		x.keys = append(x.keys, x.keys[s]+int(h.KLen[s]+1)/2)
		keys += int(h.KLen[s])
	}
	buf := grow(&b.shared.pairs, pairsScratch(h.queries, max(h.keys, keys), h.segments, h.ldq, h.ldk, dy != nil))
	take := func(n int) []float32 {
		s := buf[:n:n]
		buf = buf[n:]
		return s
	}
	ofKeys := func(src []float32) []float32 {
		return b.twoRows(twoRows{take(x.keys[h.segments] * h.ldk), src, h.K, h.KLen, x.keys, h.ldk})
	}
	ofQueries := func(src []float32) []float32 {
		return b.twoRows(twoRows{take(x.queries[h.segments] * h.ldq), src, h.Q, nil, x.queries, h.ldq})
	}
	x.q = b.neighbours(take(h.queries*h.ldq/2), h.q, h.queries, h.ldq)
	x.k = b.neighbours(take(h.keys*h.ldk/2), h.k.f, h.keys, h.ldk)
	if dy == nil {
		x.vs = ofKeys(h.v.f)
		return
	}
	x.v = b.neighbours(take(h.keys*h.ldk/2), h.v.f, h.keys, h.ldk)
	x.dy = b.neighbours(take(h.queries*h.ldq/2), dy, h.queries, h.ldq)
	x.ks, x.qs, x.ds = ofKeys(h.k.f), ofQueries(h.q), ofQueries(dy)
}

// neighbours sets dst to rows of an even width as pairs of neighbours.
func (b *Backend) neighbours(dst, src []float32, rows, width int) []float32 {
	b.split(rows, 1, float64(width)*0.05, args{dst: dst, x: src, cols: width / 2}, func(a *args, lo, hi, _ int) {
		a.b.k.halves(a.dst[lo*a.cols:hi*a.cols], a.x[2*lo*a.cols:2*hi*a.cols])
	})
	return dst
}

// twoRows makes what r says.
func (b *Backend) twoRows(r twoRows) []float32 {
	b.op.pairs.rows = r
	b.split(r.at[len(r.at)-1], 1, float64(r.width)*0.1, args{}, func(a *args, lo, hi, _ int) {
		r := &a.b.op.pairs.rows
		s := sort.SearchInts(r.at, lo+1) - 1
		for ; lo < hi; lo++ {
			for r.at[s+1] <= lo {
				s++
			}
			i := 2 * (lo - r.at[s])
			row, left := int(r.first[s])+i, 0
			if r.count == nil {
				left = int(r.first[s+1]) - row
			} else {
				left = int(r.count[s]) - i
			}
			a.b.twoRowsOf(r.dst[lo*r.width:][:r.width], r.src[row*r.width:], r.width, left)
		}
	})
	return r.dst
}

// twoRowsOf sets dst to pairs of the two rows that src, with rows ld apart, begins
// with, of which there may be only one.
func (b *Backend) twoRowsOf(dst, src []float32, ld, rows int) {
	low := src[:len(dst)]
	if rows > 1 {
		b.k.halfPairs(dst, low, src[ld:][:len(dst)])
		return
	}
	b.k.halfPairs(dst, low, low)
	for j, v := range dst {
		dst[j] = math.Float32frombits(math.Float32bits(v) & 0xffff)
	}
}

// whole is how many places of a row of scores for n keys are set: for pairs, whole
// vectors of them.
func (s *strip) whole(n int) int {
	if !s.half {
		return n
	}
	return (n + 31) &^ 31
}

// hide sets what follows n scores to -Inf, up to a whole vector, whose end it
// returns.
func hide(p []float32, n int) int {
	end := (n + 7) &^ 7
	for i := n; i < end; i++ {
		p[i] = float32(math.Inf(-1))
	}
	return end
}

// rowPairs returns the rows of s of p, of n elements, as pairs of neighbours,
// keyBlock/2 apart.
func (b *Backend) rowPairs(buf *[]float32, p []float32, s *strip, n int) []float32 {
	const step = keyBlock / 2
	dst := grow(buf, stripPairs)
	for r := range s.rows {
		b.k.halves(dst[r*step:][:n/2], p[r*probStep:][:n])
	}
	return dst
}

// stripPairs is the size of the scores of a strip, three times: by rows, and two
// by columns.
const stripPairs = 3 * queryBlock * keyBlock / 2

// pairsGrad adds to dq, dk and dv what the queries of s and n keys from k0 on have
// to do with each other.
func (b *Backend) pairsGrad(g *attentionGrad, s *strip, head int, probs, grads, dk, dv []float32, k0, n int, w *scratch) {
	d, x, queries := g.HeadDim, g.pairs, (s.rows+1)/2
	whole := s.whole(n)
	rows := b.rowPairs(&w.pairs, grads, s, whole)
	const size = queryBlock * keyBlock / 2
	ps, dps := rows[size:2*size], rows[2*size:]
	for i := range queries {
		b.twoRowsOf(ps[i*keyBlock:][:whole], probs[2*i*probStep:], probStep, s.rows-2*i)
		b.twoRowsOf(dps[i*keyBlock:][:whole], grads[2*i*probStep:], probStep, s.rows-2*i)
	}
	seen := func(last int) (int, int) { return 0, (min(n, s.sees(last)-k0) + 1) / 2 }
	by := func(key int) (int, int) { return max(0, k0+key-s.visible+1) / 2, queries } // that see a key
	at := s.pair*g.ldq + head*d
	b.times(b.k.halfTile, s.rows, rows, keyBlock/2, 1, x.ks[(s.keyPair+k0/2)*g.ldk+s.kvHead*d:], g.ldk, g.dq[s.at:], s.step, d, seen)
	b.times(b.k.halfTile, n, ps, 1, keyBlock, x.ds[at:], g.ldq, dv, d, d, by)
	b.times(b.k.halfTile, n, dps, 1, keyBlock, x.qs[at:], g.ldq, dk, d, d, by)
}
