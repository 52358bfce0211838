//go:build cuda

package gpu

import (
	"cmp"
	"slices"
	"unsafe"

	"pipe/tensor"
)

// attentionWork keeps the lists of what the blocks of attention's kernels do. All
// layers of a model attend alike, so most calls find theirs made.
type attentionWork struct {
	forward, queries, keys, single workList
	order, active                  []int // of keyTiles
	cuts                           []int32
}

// A workList is one list and what it was made of.
type workList struct {
	q, k, kLen []int32
	sizes      [2]int
	made       bool
	list       []int32
	counts     [3]int
}

// An item is four numbers of a list.
type item = [4]int32

// fresh reports whether the list must be made, of o and sizes, and empties it.
func (l *workList) fresh(o tensor.Attention, sizes ...int) bool {
	var z [2]int
	copy(z[:], sizes)
	if l.made && l.sizes == z && slices.Equal(l.q, o.Q) && slices.Equal(l.k, o.K) && slices.Equal(l.kLen, o.KLen) {
		return false
	}
	l.made, l.sizes = true, z
	l.q, l.k, l.kLen = append(l.q[:0], o.Q...), append(l.k[:0], o.K...), append(l.kLen[:0], o.KLen...)
	l.list, l.counts = l.list[:0], [3]int{}
	return true
}

func (l *workList) add(i item) { l.list = append(l.list, i[:]...) }

// asItems shows a list as items.
func asItems(list []int32) []item {
	return unsafe.Slice((*item)(unsafe.Pointer(unsafe.SliceData(list))), len(list)/4)
}

// longestFirst sorts items by their cost, so that short ones fill the gaps that
// are left in the end.
func longestFirst(items []item, cost func(i item) int) {
	slices.SortFunc(items, func(a, b item) int {
		return cmp.Or(cmp.Compare(cost(b), cost(a)), cmp.Compare(a[0], b[0]))
	})
}

// tiles returns the tiles of queries of segments with more than few queries:
// first query, queries, first key, keys that the first query sees.
func (w *attentionWork) tiles(o tensor.Attention, rows, few int) (list []int32, n int) {
	return w.forward.tiles(o, rows, few)
}

// gradTiles returns tiles of all queries.
func (w *attentionWork) gradTiles(o tensor.Attention, rows int) (list []int32, n int) {
	return w.queries.tiles(o, rows, 0)
}

func (l *workList) tiles(o tensor.Attention, rows, few int) (list []int32, n int) {
	if l.fresh(o, rows, few) {
		for s, key := range o.K {
			first, count := o.Q[s], o.Q[s+1]-o.Q[s]
			if int(count) <= few {
				continue
			}
			for i := int32(0); i < count; i += int32(rows) {
				l.add(item{first + i, min(int32(rows), count-i), key, o.KLen[s] - count + i + 1})
			}
		}
		longestFirst(asItems(l.list), func(i item) int { return int(i[1] + i[3]) })
	}
	return l.list, len(l.list) / 4
}

// fewCounts are the parts of the keys of single queries, none of them among those,
// and how many queries may have several.
type fewCounts struct{ parts, queries int }

// few returns the parts of the keys of each query of segments with few queries,
// two items each: query, first key, keys, number of the part; the first part of the
// query, its parts, number of the query among those with several. Parts without keys
// make their number one of few, as the grids of repeated steps depend on it.
func (w *attentionWork) few(o tensor.Attention) (list []int32, n fewCounts) {
	l := &w.single
	if l.fresh(o) {
		all, queries, parts := 0, int32(0), int32(0)
		for s, key := range o.K {
			n := o.Q[s+1] - o.Q[s]
			if n > fewQueries {
				continue
			}
			all += int(n)
			for i := range n {
				sees, first := o.KLen[s]-n+i+1, parts
				of := (sees + fewKeys - 1) / fewKeys
				for k := int32(0); k < sees; k += fewKeys {
					l.add(item{o.Q[s] + i, key + k, min(fewKeys, sees-k), parts})
					l.add(item{first, of, queries, 0})
					parts++
				}
				if of > 1 {
					queries++
				}
			}
		}
		l.counts[0] = fewSizes(int(parts))
		if l.counts[0] > all {
			l.counts[1] = all
		}
		for int(parts) < l.counts[0] {
			l.add(item{})
			l.add(item{})
			parts++
		}
	}
	return l.list, fewCounts{l.counts[0], l.counts[1]}
}

// fewSizes rounds n up, by a quarter at most: to four numbers between powers of two.
func fewSizes(n int) int {
	step := 1
	for n > 8*step {
		step *= 2
	}
	return roundUp(n, step)
}

// keyTiles returns tiles of all key rows, such that the same segments read all
// rows of one: first row, rows, first source, sources; and behind these the
// sources: first query, queries, the last row that the first query sees. A row
// that no segment reads is in a tile without sources.
func (w *attentionWork) keyTiles(o tensor.Attention, keys, rows int) (list []int32, n int) {
	l := &w.keys
	if !l.fresh(o, keys, rows) {
		return l.list, l.counts[0]
	}
	w.order, w.cuts = w.order[:0], append(w.cuts[:0], 0, int32(keys))
	for s, k := range o.K {
		if o.Q[s+1] > o.Q[s] {
			w.order = append(w.order, s)
			w.cuts = append(w.cuts, k, k+o.KLen[s])
		}
	}
	slices.SortStableFunc(w.order, func(a, b int) int { return cmp.Compare(o.K[a], o.K[b]) })
	slices.Sort(w.cuts)
	w.cuts = slices.Compact(w.cuts)
	sweep := func(f func(from, to int32, by []int)) {
		next := 0
		w.active = w.active[:0]
		for i, from := range w.cuts[:len(w.cuts)-1] {
			w.active = slices.DeleteFunc(w.active, func(s int) bool { return o.K[s]+o.KLen[s] <= from })
			for ; next < len(w.order) && o.K[w.order[next]] <= from; next++ {
				w.active = append(w.active, w.order[next])
			}
			f(from, w.cuts[i+1], w.active)
		}
	}
	first := int32(0)
	sweep(func(from, to int32, by []int) {
		for k := from; k < to; k += int32(rows) {
			l.add(item{k, min(int32(rows), to-k), first, int32(len(by))})
		}
		first += int32(len(by))
	})
	l.counts[0] = len(l.list) / 4
	sweep(func(_, _ int32, by []int) {
		for _, s := range by {
			q, count := o.Q[s], o.Q[s+1]-o.Q[s]
			l.add(item{q, count, o.K[s] + o.KLen[s] - count, 0})
		}
	})
	tiles, sources := asItems(l.list[:4*l.counts[0]]), asItems(l.list[4*l.counts[0]:])
	longestFirst(tiles, func(t item) (n int) {
		for _, s := range sources[t[2]:][:t[3]] {
			n += int(s[1] - max(0, t[0]-s[2]))
		}
		return n
	})
	return l.list, l.counts[0]
}
