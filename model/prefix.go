package model

import (
	"cmp"
	"slices"
)

// # Shared prefixes
//
// A prompt is read in pieces whose ends lie at fixed positions; only the last piece
// ends where the prompt does, before its last token, which is decoded like those
// that follow. A piece is a pass of its own, or, on a backend that computes it as if
// it were (see tensor.PromptReader), a segment of a pass with other pieces, of the
// same prompt and of others. So the keys and values of a piece are a function of the
// tokens up to its end alone: they came from the same computation, whoever asked
// for them. That is what makes it safe to copy them between sequences, whole pieces
// at a time, however the backend rounds: a result does not depend on whether there
// was someone to copy from.

// Pieces end at 32, 64, 128 and every further 128 tokens: short ones at the
// beginning, where a system prompt may end, then long ones, which run faster.
const (
	firstPiece = 32
	longPiece  = 128
)

// pieceEnd returns where the piece ends that begins at from.
func pieceEnd(from int) int {
	switch {
	case from < firstPiece:
		return firstPiece
	case from < longPiece:
		return 2 * from
	}
	return from + longPiece
}

// wholePieces returns the end of the last piece that ends at n or before.
func wholePieces(n int) int {
	end := 0
	for next := firstPiece; next <= n; next = pieceEnd(next) {
		end = next
	}
	return end
}

// shared returns how many tokens of the prompt of s, in whole pieces, have
// their keys and values in the rows of t.
func shared(s, t *sequence) int { return alike(s, t, t.done) }

// common returns how many there will be when t is read.
func common(s, t *sequence) int { return alike(s, t, t.prefill) }

// alike returns how many tokens, in whole pieces, the prompt of s and the first tokens of
// that of t have in common.
func alike(s, t *sequence, tokens int) int {
	n := 0
	for most := min(s.prefill, t.prefill, tokens); n < most && s.ids[n] == t.ids[n]; {
		n++
	}
	if n == s.prefill && n == t.prefill {
		return n // the last piece too
	}
	return wholePieces(n)
}

// sortByPrefix brings together sequences that begin with the same piece, in the
// order in which each such family appears, and within it those that have most in
// common: what they share is then still in the cache.
func sortByPrefix(list []*sequence) {
	first := map[[firstPiece]int32]int{}
	family := make(map[*sequence]int, len(list))
	for i, s := range list {
		key := [firstPiece]int32{} // ids+1, so that the end is told from id 0
		for j := range min(firstPiece, s.prefill) {
			key[j] = s.ids[j] + 1
		}
		if _, ok := first[key]; !ok {
			first[key] = i
		}
		family[s] = first[key]
	}
	slices.SortStableFunc(list, func(a, b *sequence) int {
		return cmp.Or(cmp.Compare(family[a], family[b]), slices.Compare(a.ids[:a.prefill], b.ids[:b.prefill]))
	})
}

// source returns the sequence with the most tokens of the prompt of s beyond
// done, and their number, or nil.
func (g *generator) source(s *sequence, done int) (from *sequence, n int) {
	n = done
	for _, list := range [][]*sequence{g.running, g.idle} {
		for _, t := range list {
			if t == s {
				continue
			}
			if m := shared(s, t); m > n {
				from, n = t, m
			}
		}
	}
	return from, n
}

// share copies what others have read of the prompt of s.
func (g *generator) share(s *sequence) {
	if t, n := g.source(s, s.done); t != nil {
		g.cache.copy(s.slot.from+int32(s.done), t.slot.from+int32(s.done), int32(n-s.done))
		s.done = n
	}
}

// place gives s a slot of the cache, if need be that of idle sequences, longest
// unused first. It reports whether there is room.
func (g *generator) place(s *sequence) bool {
	if !g.room(int32(s.limit)) {
		return false
	}
	t, n := g.source(s, 0)
	if i := slices.Index(g.idle, t); i >= 0 { // used now
		g.idle = append(slices.Delete(g.idle, i, i+1), t)
	}
	var last span // rows of t, when even these are needed
	for {
		slot, ok := g.cache.take(int32(s.limit))
		if ok {
			s.slot = slot
			break
		}
		old := g.idle[0]
		g.idle = slices.Delete(g.idle, 0, 1)
		if old == t {
			last = old.slot
		}
		g.cache.give(old.slot)
	}
	if last.from == s.slot.from && last.to > last.from { // they are where they should be
		s.done = n
	}
	s.ids = append(make([]int32, 0, s.limit), s.ids...)
	g.share(s)
	return true
}

// room reports whether n rows in a row are not held by running sequences.
func (g *generator) room(n int32) bool {
	g.order = append(g.order[:0], g.running...)
	slices.SortFunc(g.order, func(a, b *sequence) int { return int(a.slot.from - b.slot.from) })
	at := int32(0)
	for _, s := range g.order {
		if s.slot.from-at >= n {
			return true
		}
		at = s.slot.to
	}
	return g.cache.rows-at >= n
}

// retire ends s. Its prompt stays in the cache until the rows are needed,
// unless it is there twice.
func (g *generator) retire(s *sequence) {
	g.running = slices.DeleteFunc(g.running, func(x *sequence) bool { return x == s })
	keep := int32(s.prefill)
	if _, n := g.source(s, 0); n == s.prefill {
		keep = 0
	}
	rest := span{s.slot.from + keep, s.slot.to}
	g.cache.give(rest)
	if s.slot.to = rest.from; keep > 0 {
		g.idle = append(g.idle, s)
	}
}
