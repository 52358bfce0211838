package tokenizer

import "container/heap"

// A bpe merges symbols. It is immutable; an encoder holds what changes.
type bpe struct {
	vocab  map[string]int32 // what a token stands for (raw bytes when byteLevel) -> id
	pairs  pairTable
	single [256]int32 // byteLevel: the id of each byte; else the ids of <0xXX>; -1: none

	byteLevel    bool
	byteFallback bool
	ignoreMerges bool // a pre-token in the vocabulary is that token
	fuseUnk      bool
	unk          int32 // -1: characters outside the vocabulary are dropped
}

// A symbol is a part of a pre-token while it is merged.
type symbol struct {
	id         int32
	prev, next int32 // neighbours; -1 at the ends. id < 0: merged into prev
}

// An encoder encodes pre-tokens, remembering the short ones.
type encoder struct {
	*bpe
	cache map[string][]int32
	syms  []symbol
	queue mergeQueue
	ranks []int32
}

const (
	cacheEntries = 1 << 16 // the cache is emptied when it is this full
	cacheLongest = 64      // longer pre-tokens are not remembered
	scanLongest  = 48      // symbols; longer pre-tokens are merged with a heap
)

// appendIDs appends the ids of one pre-token.
func (e *encoder) appendIDs(dst []int32, s string) []int32 {
	if len(s) <= cacheLongest {
		if ids, ok := e.cache[s]; ok {
			return append(dst, ids...)
		}
	}
	n := len(dst)
	dst = e.merge(dst, s)
	if len(s) <= cacheLongest {
		if len(e.cache) >= cacheEntries {
			clear(e.cache)
		}
		// A copy of the key: s is a part of a text that may be large.
		e.cache[string([]byte(s))] = append([]int32(nil), dst[n:]...)
	}
	return dst
}

func (e *encoder) merge(dst []int32, s string) []int32 {
	if e.ignoreMerges {
		if id, ok := e.vocab[s]; ok {
			return append(dst, id)
		}
	}
	e.split(s)
	if len(e.syms) <= scanLongest {
		return e.mergeShort(dst)
	}
	return e.mergeLong(dst)
}

// split fills e.syms with the smallest symbols of s.
func (e *encoder) split(s string) {
	e.syms = e.syms[:0]
	unknown := false // whether the last symbol is unk
	add := func(id int32) {
		e.syms = append(e.syms, symbol{id: id})
		unknown = false
	}
	missing := func() {
		if e.unk >= 0 && !(e.fuseUnk && unknown) {
			add(e.unk)
			unknown = true
		}
	}
	if e.byteLevel {
		for i := range len(s) {
			if id := e.single[s[i]]; id >= 0 {
				add(id)
			} else {
				missing()
			}
		}
		return
	}
	for i, w := 0, 0; i < len(s); i += w {
		w = runeWidth(s[i:])
		if id, ok := e.vocab[s[i:i+w]]; ok {
			add(id)
		} else if e.byteFallback && e.hasBytes(s[i:i+w]) {
			for _, b := range []byte(s[i : i+w]) {
				add(e.single[b])
			}
		} else {
			missing()
		}
	}
}

func (b *bpe) hasBytes(s string) bool {
	for i := range len(s) {
		if b.single[s[i]] < 0 {
			return false
		}
	}
	return true
}

const noRank = int32(1<<31 - 1)

// mergeShort looks for the lowest rank by scanning: quadratic, but the fastest
// way for words.
func (e *encoder) mergeShort(dst []int32) []int32 {
	ids := dst
	base := len(dst)
	for _, s := range e.syms {
		ids = append(ids, s.id)
	}
	w := ids[base:]
	if len(w) < 2 {
		return ids
	}
	ranks := e.ranks[:0] // ranks[i] is that of the pair w[i], w[i+1]
	for i := range len(w) - 1 {
		r, _ := e.pairs.get(w[i], w[i+1])
		ranks = append(ranks, r)
	}
	for {
		best, at := noRank, 0
		for i, r := range ranks {
			if r < best {
				best, at = r, i
			}
		}
		if best == noRank {
			break
		}
		_, w[at] = e.pairs.get(w[at], w[at+1])
		w = append(w[:at+1], w[at+2:]...)
		ranks = append(ranks[:at], ranks[at+1:]...)
		if at > 0 {
			ranks[at-1], _ = e.pairs.get(w[at-1], w[at])
		}
		if at < len(ranks) {
			ranks[at], _ = e.pairs.get(w[at], w[at+1])
		}
	}
	e.ranks = ranks
	return ids[:base+len(w)]
}

// mergeLong keeps the candidate pairs in a heap: n log n.
func (e *encoder) mergeLong(dst []int32) []int32 {
	syms := e.syms
	for i := range syms {
		syms[i].prev, syms[i].next = int32(i-1), int32(i+1)
	}
	syms[len(syms)-1].next = -1
	q := e.queue[:0]
	for i := range len(syms) - 1 {
		if r, id := e.pairs.get(syms[i].id, syms[i+1].id); r != noRank {
			q = append(q, candidate{r, int32(i), id})
		}
	}
	heap.Init(&q)
	offer := func(i int32) {
		if r, id := e.pairs.get(syms[i].id, syms[syms[i].next].id); r != noRank {
			q.add(candidate{r, i, id})
		}
	}
	for len(q) > 0 {
		c := q.take()
		s := &syms[c.at]
		if s.id < 0 || s.next < 0 {
			continue
		}
		// The pair may have changed since it was offered.
		if _, id := e.pairs.get(s.id, syms[s.next].id); id != c.id {
			continue
		}
		right := &syms[s.next]
		s.id = c.id
		right.id = -1
		s.next = right.next
		if s.next >= 0 {
			syms[s.next].prev = c.at
			offer(c.at)
		}
		if s.prev >= 0 {
			offer(s.prev)
		}
	}
	e.queue = q
	for i := int32(0); i >= 0; i = syms[i].next {
		dst = append(dst, syms[i].id)
	}
	return dst
}

// A candidate is a pair that could be merged: the symbol at and its successor.
type candidate struct {
	rank, at int32
	id       int32 // what the pair becomes
}

// mergeQueue is a heap by rank, then position.
type mergeQueue []candidate

func (q mergeQueue) Len() int           { return len(q) }
func (q mergeQueue) Less(i, j int) bool { return q[i].before(q[j]) }
func (q mergeQueue) Swap(i, j int)      { q[i], q[j] = q[j], q[i] }

// Push and Pop complete heap.Interface; add and take do not box.
func (q *mergeQueue) Push(x any) { *q = append(*q, x.(candidate)) }
func (q *mergeQueue) Pop() any   { c := (*q)[len(*q)-1]; *q = (*q)[:len(*q)-1]; return c }

func (c candidate) before(d candidate) bool {
	return c.rank < d.rank || c.rank == d.rank && c.at < d.at
}

func (q *mergeQueue) add(c candidate) {
	h := append(*q, c)
	i := len(h) - 1
	for i > 0 && c.before(h[(i-1)/2]) {
		h[i] = h[(i-1)/2]
		i = (i - 1) / 2
	}
	h[i] = c
	*q = h
}

func (q *mergeQueue) take() candidate {
	h := *q
	top, last := h[0], h[len(h)-1]
	h = h[:len(h)-1]
	i := 0
	for {
		k := 2*i + 1
		if k >= len(h) {
			break
		}
		if k+1 < len(h) && h[k+1].before(h[k]) {
			k++
		}
		if !h[k].before(last) {
			break
		}
		h[i] = h[k]
		i = k
	}
	if len(h) > 0 {
		h[i] = last
	}
	*q = h
	return top
}

// pairTable maps a pair of ids to its rank and the id it becomes: an open
// hash table, as the merge loop does little else than look pairs up.
type pairTable struct {
	slots []pairSlot // a power of two, at most half full
}

type pairSlot struct {
	key      uint64 // left<<32 | right, plus one; 0: empty
	rank, id int32
}

func newPairTable(n int) pairTable {
	size := 16
	for size < 2*n {
		size *= 2
	}
	return pairTable{slots: make([]pairSlot, size)}
}

func (p *pairTable) slot(left, right int32) *pairSlot {
	key := (uint64(uint32(left))<<32 | uint64(uint32(right))) + 1
	mask := uint64(len(p.slots) - 1)
	for h := key * 0x9E3779B97F4A7C15 >> 20; ; h++ {
		s := &p.slots[h&mask]
		if s.key == key || s.key == 0 {
			return s
		}
	}
}

// get returns noRank and -1 for a pair that does not merge.
func (p *pairTable) get(left, right int32) (rank, id int32) {
	s := p.slot(left, right)
	if s.key == 0 {
		return noRank, -1
	}
	return s.rank, s.id
}

// set sets a pair; a later rank for the same pair replaces the earlier one.
// No more pairs may be set than newPairTable was told.
func (p *pairTable) set(left, right, rank, id int32) {
	s := p.slot(left, right)
	s.key = (uint64(uint32(left))<<32 | uint64(uint32(right))) + 1
	s.rank, s.id = rank, id
}
