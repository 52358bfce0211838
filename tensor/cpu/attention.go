package cpu

import (
	"fmt"
	"math"
	"unsafe"

	"pipe/tensor"
)

// Blocks of queries and keys that are in the caches together, and the most
// queries of a segment that are treated as decoding: then the keys are read
// in place, once for all heads that share them. Rows of scores are probStep
// apart: a power of two would put a column, which gradients of keys and values
// read, into few sets of the first-level cache.
const (
	queryBlock   = 84 // whole tiles of 6 or 14 rows
	keyBlock     = 128
	probStep     = keyBlock + 16
	decodeBlock  = 512
	decodeAtMost = 3
)

// heads is the checked description of an attention operation.
type heads struct {
	tensor.Attention
	q          []float32
	k, v       operand // F32, or BF16 in place
	pairs      *pairs  // operands of long segments as pairs; nil: none
	group      int     // query heads of a key head
	ldq, ldk   int
	scale      float32
	segments   int
	queries    int
	keys       int
	totalPairs float64 // of queries and keys
}

// keys returns keys or values, whose ld counts elements.
func keys(op string, t *tensor.Tensor) operand {
	m := mem(op, t)
	if t.DType != tensor.F32 && t.DType != tensor.BF16 {
		panic(fmt.Sprintf("cpu: %s: keys or values of %s; must be f32 or bf16", op, t.DType))
	}
	rows, cols := matrix(op, t)
	return operand{dt: t.DType, f: m.f32, raw: m.raw, rows: rows, cols: cols, ld: cols}
}

func (b *Backend) newHeads(op string, q, k, v *tensor.Tensor, o tensor.Attention) *heads {
	bad := func(format string, args ...any) {
		panic("cpu: " + op + ": " + fmt.Sprintf(format, args...))
	}
	if o.HeadDim <= 0 || o.KVHeads <= 0 || o.Heads <= 0 || o.Heads%o.KVHeads != 0 {
		bad("%d heads, %d key heads of width %d", o.Heads, o.KVHeads, o.HeadDim)
	}
	h := &b.op.heads
	*h = heads{Attention: o, q: input(op, q), k: keys(op, k), v: keys(op, v), group: o.Heads / o.KVHeads,
		ldq: o.Heads * o.HeadDim, ldk: o.KVHeads * o.HeadDim, scale: float32(1 / math.Sqrt(float64(o.HeadDim)))}
	h.queries, _ = matrix(op, q)
	h.keys, _ = matrix(op, k)
	checkMatrix(op, q, h.queries, h.ldq)
	checkMatrix(op, k, h.keys, h.ldk)
	sameShape(op, k, v)
	if b.k.pairs(o, k.DType) {
		h.pairs = &b.op.pairs
	}
	if k.DType != v.DType {
		bad("keys of %s, values of %s", k.DType, v.DType)
	}
	h.segments = len(o.K)
	if len(o.Q) != h.segments+1 || len(o.KLen) != h.segments {
		bad("%d query bounds, %d first keys, %d key counts", len(o.Q), len(o.K), len(o.KLen))
	}
	if o.Q[0] != 0 || int(o.Q[h.segments]) != h.queries {
		bad("segments cover queries %d to %d of %d", o.Q[0], o.Q[h.segments], h.queries)
	}
	for s := range h.segments {
		n, first, keys := int(o.Q[s+1]-o.Q[s]), int(o.K[s]), int(o.KLen[s])
		if n < 0 || keys < n || first < 0 || first+keys > h.keys {
			bad("segment %d: %d queries, keys %d to %d of %d", s, n, first, first+keys, h.keys)
		}
		h.totalPairs += float64(n) * (float64(keys) - float64(n)/2)
	}
	return h
}

// A strip is rows of queries that one job attends with: queries of one head,
// or, in decoding, the heads of one query.
type strip struct {
	rows, at, step     int // elements of q and dst: row r begins at at+r*step
	lse, lseStep       int
	keyRow, kvHead     int
	pair, keyPair      int // first rows of pairs of its queries, and of all keys
	visible, visibleUp int // keys that row r sees: visible + r*visibleUp
	decode             bool
	half               bool // products of pairs
}

func (s *strip) sees(r int) int { return s.visible + r*s.visibleUp }

// strips appends the jobs of a forward pass to list.
func (h *heads) strips(list []strip) []strip {
	for s := range h.segments {
		q0, n, keys := int(h.Q[s]), int(h.Q[s+1]-h.Q[s]), int(h.KLen[s])
		if n <= decodeAtMost && !h.halved(s) {
			for i := range n {
				for kv := range h.KVHeads {
					list = append(list, strip{rows: h.group, at: (q0+i)*h.ldq + kv*h.group*h.HeadDim, step: h.HeadDim,
						lse: (q0+i)*h.Heads + kv*h.group, lseStep: 1, keyRow: int(h.K[s]), kvHead: kv,
						visible: keys - n + i + 1, decode: true})
				}
			}
			continue
		}
		for head := range h.Heads {
			for i := 0; i < n; i += queryBlock {
				list = append(list, h.strip(s, head, i, min(queryBlock, n-i)))
			}
		}
	}
	return list
}

// strip returns queries i..i+rows of a segment and head.
func (h *heads) strip(s, head, i, rows int) strip {
	q0, n := int(h.Q[s]), int(h.Q[s+1]-h.Q[s])
	t := strip{rows: rows, at: (q0+i)*h.ldq + head*h.HeadDim, step: h.ldq,
		lse: (q0+i)*h.Heads + head, lseStep: h.Heads, keyRow: int(h.K[s]), kvHead: head / h.group,
		visible: int(h.KLen[s]) - n + i + 1, visibleUp: 1}
	if t.half = h.halved(s); t.half {
		t.pair, t.keyPair = h.pairs.queries[s]+i/2, h.pairs.keys[s]
	}
	return t
}

// Attention implements [tensor.Transformer], block by block of keys with a
// running softmax (Dao et al. 2022, algorithm 1).
func (b *Backend) Attention(dst, lse, q, k, v *tensor.Tensor, o tensor.Attention) {
	const op = "attention"
	h := b.newHeads(op, q, k, v, o)
	d, l := output(op, dst), output(op, lse)
	sameShape(op, dst, q)
	checkMatrix(op, lse, h.queries, o.Heads)
	if b.err != nil {
		return
	}
	if h.pairs != nil {
		b.newPairs(h, nil)
	}
	b.op.strips = h.strips(b.op.strips[:0])
	list := b.op.strips
	b.each(len(list), h.totalPairs*float64(h.ldq)*4/40, args{dst: d, dst2: l}, func(a *args, job, _, thread int) {
		a.b.attend(&a.b.op.heads, &a.b.op.strips[job], a.dst, a.dst2, &a.b.work[thread])
	})
}

func (b *Backend) attend(h *heads, s *strip, dst, lse []float32, w *scratch) {
	d := h.HeadDim
	block, step := keyBlock, probStep
	if s.decode {
		block, step = decodeBlock, decodeBlock
	}
	probs := grow(&w.probs, s.rows*step)
	state := grow(&w.more, 2*s.rows)
	most, sum := state[:s.rows], state[s.rows:]
	for r := range s.rows {
		most[r], sum[r] = float32(math.Inf(-1)), 0
		clear(dst[s.at+r*s.step:][:d])
	}
	for k0 := 0; k0 < s.sees(s.rows-1); k0 += block {
		n := min(block, s.sees(s.rows-1)-k0)
		b.scoreKeys(h, s, probs, step, k0, n, w)
		whole := s.whole(n)
		for r := range s.rows {
			p := probs[r*step:][:whole]
			seen := min(n, s.sees(r)-k0)
			if s.half { // whole vectors: what is not seen becomes 0
				if seen > 0 {
					seen = hide(p, seen)
				}
				clear(p[max(0, seen):])
			} else {
				b.clearUnseen(p, seen)
			}
			if seen <= 0 {
				continue
			}
			m := max(most[r], b.k.max(p[:seen]))
			part := b.k.exp(p[:seen], p[:seen], m)
			if k0 > 0 && m != most[r] {
				c := exp32(most[r] - m)
				sum[r] *= c
				row := dst[s.at+r*s.step:][:d]
				b.k.scale(row, row, c)
			}
			most[r], sum[r] = m, sum[r]+part
		}
		b.addValues(h, s, probs, step, k0, n, dst, w)
	}
	for r := range s.rows {
		row := dst[s.at+r*s.step:][:d]
		b.k.scale(row, row, 1/sum[r])
		lse[s.lse+r*s.lseStep] = float32(float64(most[r]) + math.Log(float64(sum[r])))
	}
}

// clearUnseen clears what the rows of a tile read of a row that sees the first keys:
// those that the other rows see.
func (b *Backend) clearUnseen(p []float32, seen int) {
	clear(p[max(0, seen):max(0, min(len(p), seen+b.k.rows))])
}

// at returns element col of row r of keys or values; rows r..r+n have it.
func (o *operand) at(r, n, col int) unsafe.Pointer {
	last := (r + n) * o.ld // a wrong size panics here
	if o.dt == tensor.F32 {
		_ = o.f[last-1]
		return unsafe.Pointer(&o.f[r*o.ld+col])
	}
	size := o.dt.Bytes(1)
	_ = o.raw[size*last-1]
	return unsafe.Pointer(&o.raw[size*(r*o.ld+col)])
}

// inF32 returns the head of s of the keys or values o, n from k0 on, and how
// far they are apart, expanded if need be.
func (s *strip) inF32(b *Backend, o *operand, k0, n, d int, w *scratch) ([]float32, int) {
	at := (s.keyRow+k0)*o.ld + s.kvHead*d
	if o.dt == tensor.F32 {
		return o.f[at:], o.ld
	}
	rows := grow(&w.values, n*d)
	for i := range n {
		b.k.expand(rows[i*d:][:d], o.dt, o.raw[o.dt.Bytes(at+i*o.ld):][:o.dt.Bytes(d)])
	}
	return rows, d
}

// inPlace reports whether there are kernels for few queries.
func (k *kernels) inPlace(d int) bool { return k.scores != nil && d%attendGroup == 0 }

// scoreKeys sets p[r,j] to the scaled product of query row r and key k0+j.
func (b *Backend) scoreKeys(h *heads, s *strip, p []float32, ldp, k0, n int, w *scratch) {
	d := h.HeadDim
	if x := h.pairs; s.half {
		b.packKeys(&w.panels, x.k[((s.keyRow+k0)*h.ldk+s.kvHead*d)/2:], h.ldk/2, n, d/2, w)
		b.timesKeys(b.k.halfTile, s, x.q[s.at/2:], s.step/2, w.panels, p, k0, n, d/2, h.scale)
		return
	}
	if s.decode && h.k.dt == tensor.BF16 && b.k.inPlace(d) {
		b.k.scores(s.rows, n, d, h.q[s.at:], s.step, h.k.at(s.keyRow+k0, n, s.kvHead*d), h.k.dt.Bytes(h.k.ld), p, ldp, h.scale)
		return
	}
	keys, ld := s.inF32(b, &h.k, k0, n, d, w)
	if s.decode {
		b.scoresInPlace(h, s, p, ldp, keys, ld, n, w)
		return
	}
	b.packKeys(&w.panels, keys, ld, n, d, w)
	b.timesKeys(b.k.tile, s, h.q[s.at:], s.step, w.panels, p, k0, n, d, h.scale)
}

// addValues adds the values of n keys from k0 on, weighted by p, to dst.
func (b *Backend) addValues(h *heads, s *strip, p []float32, ldp, k0, n int, dst []float32, w *scratch) {
	d := h.HeadDim
	if x := h.pairs; s.half {
		rows := b.rowPairs(&w.pairs, p, s, s.whole(n))
		b.times(b.k.halfTile, s.rows, rows, keyBlock/2, 1, x.vs[(s.keyPair+k0/2)*h.ldk+s.kvHead*d:], h.ldk, dst[s.at:], s.step, d,
			func(last int) (int, int) { return 0, (min(n, s.sees(last)-k0) + 1) / 2 })
		return
	}
	if s.decode && b.k.inPlace(d) {
		b.k.mix(s.rows, n, d, p, ldp, h.v.at(s.keyRow+k0, n, s.kvHead*d), h.v.dt.Bytes(h.v.ld), h.v.dt, dst[s.at:], s.step)
		return
	}
	values, ld := s.inF32(b, &h.v, k0, n, d, w)
	b.times(b.k.tile, s.rows, p, ldp, 1, values, ld, dst[s.at:], s.step, d, func(last int) (int, int) { return 0, min(n, s.sees(last)-k0) })
}

// scoresInPlace is scoreKeys with keys ld apart.
func (b *Backend) scoresInPlace(h *heads, s *strip, p []float32, ldp int, keys []float32, ld, n int, w *scratch) {
	d := h.HeadDim
	for j := 0; j < n; j += dotRows {
		if n-j < dotRows {
			for r := range s.rows {
				for i := j; i < n; i++ {
					p[r*ldp+i] = h.scale * b.k.dot(h.q[s.at+r*s.step:][:d], keys[i*ld:])
				}
			}
			return
		}
		for r := 0; r < s.rows; r += dotCols {
			m := min(dotCols, s.rows-r)
			b.k.dots(m, d, keys[j*ld:], ld, h.q[s.at+r*s.step:], s.step, &w.out)
			for i := range m {
				for c := range dotRows {
					p[(r+i)*ldp+j+c] = h.scale * w.out[i*dotRows+c]
				}
			}
		}
	}
}

// packKeys packs the transpose of n rows of d elements in panels [d][cols].
func (b *Backend) packKeys(dst *[]float32, src []float32, ld, n, d int, w *scratch) {
	cols := b.k.cols
	end := (n + cols - 1) / cols * cols
	buf := grow(dst, end*d)
	*dst = buf
	for j := 0; j < end; j += packRows {
		rows, lr := src, ld
		if n-j < packRows {
			rows, lr = grow(&w.rows, packRows*d), d
			clear(rows)
			for r := range max(0, n-j) {
				copy(rows[r*d:][:d], src[(j+r)*ld:])
			}
		} else {
			rows = src[j*ld:]
		}
		b.k.pack(d, buf[j/cols*cols*d+j%cols:], cols, rows, lr)
	}
}

// timesKeys sets c = alpha·a·panels, of d terms of t, for the rows of a strip, lda
// apart, and n keys from k0 on; what a row does not see may be left as it was.
// Rows of c are probStep apart.
func (b *Backend) timesKeys(t tile, s *strip, a []float32, lda int, panels, c []float32, k0, n, d int, alpha float32) {
	cols := b.k.cols
	for i, r := 0, 0; i < s.rows; i += r {
		r = b.k.step(s.rows - i)
		seen := min(n, s.sees(i+r-1)-k0)
		for j := 0; j < seen; j += cols {
			t(r, min(cols, seen-j), d, a[i*lda:], lda, 1, panels[j*d:], cols, c[i*probStep+j:], probStep, alpha, false, ahead{})
		}
	}
}

// times adds a·x to c: rows of a, and rows of d elements of x in place, ld
// apart. Row i of a is zero but for the terms lo..hi of t, which rise with i.
func (b *Backend) times(t tile, rows int, a []float32, ar, ac int, x []float32, ld int, c []float32, ldc, d int, terms func(i int) (lo, hi int)) {
	cols := b.k.cols
	for i, r := 0, 0; i < rows; i += r {
		r = b.k.step(rows - i)
		lo, _ := terms(i)
		_, hi := terms(i + r - 1)
		if lo >= hi {
			continue
		}
		for j := 0; j < d; j += cols {
			t(r, min(cols, d-j), hi-lo, a[i*ar+lo*ac:], ar, ac, x[lo*ld+j:], ld, c[i*ldc+j:], ldc, 1, true, ahead{})
		}
	}
}
