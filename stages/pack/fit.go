package pack

import (
	"math/bits"
	"slices"
)

// bestFit distributes items of the given lengths over bins of the given size:
// best-fit decreasing (Johnson 1973). Items are taken by descending length,
// equal ones in their order; each goes into the bin with the least space that
// is enough, of several the one that has had that space for longest, or else
// into a new bin. It returns the items of each bin, bins in the order they were
// opened and items in the order they were added. Every length must be between
// 1 and size.
func bestFit(lengths []int, size int) [][]int {
	order := make([]int, len(lengths))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int { return lengths[b] - lengths[a] })
	var bins [][]int
	s := newSpaces(size)
	for _, i := range order {
		n := lengths[i]
		bin, space := s.take(n)
		if bin < 0 {
			bin, space = len(bins), size
			bins = append(bins, nil)
		}
		bins[bin] = append(bins[bin], i)
		s.put(bin, space-n)
	}
	return bins
}

// spaces are the open bins by the space that is left in them.
type spaces struct {
	queues [][]int  // of each space: bins, oldest first
	some   []uint64 // bit i: queue i holds a bin
}

func newSpaces(size int) *spaces {
	return &spaces{queues: make([][]int, size+1), some: make([]uint64, size/64+1)}
}

// put adds a bin; one without space is closed.
func (s *spaces) put(bin, space int) {
	if space == 0 {
		return
	}
	s.queues[space] = append(s.queues[space], bin)
	s.some[space/64] |= 1 << (space % 64)
}

// take removes and returns the bin with the least space of at least n; -1 when
// there is none.
func (s *spaces) take(n int) (bin, space int) {
	if n >= len(s.queues) {
		return -1, 0
	}
	w := n / 64
	word := s.some[w] &^ (1<<(n%64) - 1)
	for word == 0 {
		if w++; w == len(s.some) {
			return -1, 0
		}
		word = s.some[w]
	}
	space = w*64 + bits.TrailingZeros64(word)
	q := s.queues[space]
	bin, s.queues[space] = q[0], q[1:]
	if len(q) == 1 {
		s.queues[space] = nil
		s.some[w] &^= 1 << (space % 64)
	}
	return bin, space
}
