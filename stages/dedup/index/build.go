package index

import (
	"cmp"
	"slices"

	"pipe/stages/dedup/parallel"
)

// A builder adds batches of rows to a graph.
type builder struct {
	*Graph
	ef      int
	walkers []*walker
	chosen  [][][]near // of each row of the batch, of each layer: its links
}

// A backlink asks that row at links to row from, at a layer.
type backlink struct {
	layer    int
	at, from uint32
	dist     float32
}

// add links the rows from..to into the graph.
func (b *builder) add(from, to int) {
	n := to - from
	for len(b.chosen) < n {
		b.chosen = append(b.chosen, nil)
	}
	parallel.ForWorkers(n, 1, func(worker, i int) { b.chosen[i] = b.choose(b.walkers[worker], from, uint32(from+i)) })
	var back []backlink
	for i := range n {
		row := uint32(from + i)
		for layer, links := range b.chosen[i] {
			b.setLinks(row, layer, links)
			for _, l := range links {
				back = append(back, backlink{layer, l.row, row, l.dist})
			}
		}
	}
	b.answer(back)
	for i := from; i < to; i++ {
		if l := b.level(uint32(i)); b.entry < 0 || l > b.top {
			b.entry, b.top = int32(i), l
		}
	}
}

// choose returns the links of a row at each of its layers, from what it finds
// in the graph and among the rows of its batch before it.
func (b *builder) choose(w *walker, from int, row uint32) [][]near {
	q, level := b.v.Row(int(row)), b.level(row)
	batch := make([]near, 0, int(row)-from)
	for j := from; j < int(row); j++ {
		batch = append(batch, near{b.distance(q, uint32(j)), uint32(j)})
	}
	slices.SortFunc(batch, compareNear)
	links := make([][]near, level+1)
	var found []near
	if b.entry >= 0 {
		found = b.descend(w, q, level)
	}
	for l := level; l >= 0; l-- {
		var c []near
		if b.entry >= 0 && l <= b.top {
			found = append(found[:0], b.walk(w, q, found, b.ef, l)...)
			c = append(c, found...)
		}
		taken := 0
		for _, j := range batch {
			if b.level(j.row) >= l {
				c = append(c, j)
				if taken++; taken == b.ef {
					break
				}
			}
		}
		slices.SortFunc(c, compareNear)
		links[l] = b.diverse(c[:min(len(c), b.ef)], b.m)
	}
	return links
}

// diverse returns up to m of the candidates, which are sorted: those that are
// nearer to the row than to any chosen before.
func (g *Graph) diverse(candidates []near, m int) []near {
	if len(candidates) <= m {
		return slices.Clone(candidates)
	}
	out := make([]near, 0, m)
next:
	for _, c := range candidates {
		q := g.v.Row(int(c.row))
		for _, o := range out {
			if g.distance(q, o.row) < c.dist {
				continue next
			}
		}
		if out = append(out, c); len(out) == m {
			break
		}
	}
	return out
}

// answer adds the links back from the chosen rows. A row with too many keeps
// the diverse ones.
func (b *builder) answer(back []backlink) {
	slices.SortFunc(back, func(x, y backlink) int {
		return cmp.Or(cmp.Compare(x.layer, y.layer), cmp.Compare(x.at, y.at), cmp.Compare(x.from, y.from))
	})
	var starts []int
	for i, l := range back {
		if i == 0 || l.layer != back[i-1].layer || l.at != back[i-1].at {
			starts = append(starts, i)
		}
	}
	starts = append(starts, len(back))
	parallel.For(len(starts)-1, 8, func(i int) { b.extend(back[starts[i]:starts[i+1]]) })
}

// extend adds links to one row at one layer.
func (b *builder) extend(add []backlink) {
	at, layer := add[0].at, add[0].layer
	old := b.links(at, layer)
	all := make([]near, 0, len(old)+len(add))
	full := b.capacity(layer)
	if len(old)+len(add) <= full {
		for _, j := range old {
			all = append(all, near{0, j}) // the distance is not needed
		}
		for _, l := range add {
			all = append(all, near{l.dist, l.from})
		}
		b.setLinks(at, layer, all)
		return
	}
	q := b.v.Row(int(at))
	for _, j := range old {
		all = append(all, near{b.distance(q, j), j})
	}
	for _, l := range add {
		all = append(all, near{l.dist, l.from})
	}
	slices.SortFunc(all, compareNear)
	b.setLinks(at, layer, b.diverse(all, full))
}
