package index

import (
	"cmp"
	"context"
	"math"
	"slices"

	"github.com/viterin/vek/vek32"

	"pipe/model"
	"pipe/stages/dedup/parallel"
	"pipe/tensor"
)

// A Graph is a hierarchical navigable small world (Malkov & Yashunin 2018)
// over vectors: flat arrays of links, 2M at layer 0 and M above it, chosen by
// the diversity heuristic (their algorithm 4).
//
// It is built in batches: the rows of a batch search the graph as it was
// before and each other, in parallel, and are then linked in order. The graph
// is a function of the vectors and the options alone.
type Graph struct {
	v     Vectors
	m     int
	base  []uint32 // [n, 2M] links of layer 0
	count []uint8  // [n] how many of them
	upper []uint32 // for each row its levels' [1+M]: count, then links
	at    []uint32 // [n+1] where a row's part of upper begins, in levels
	entry int32    // -1: empty
	top   int
}

// GraphOptions are the settings of a build.
type GraphOptions struct {
	M              int // links of a row in the upper layers
	EfConstruction int // candidates a row's links are chosen from
	Seed           uint64
}

// NewGraphOptions returns the defaults.
func NewGraphOptions() GraphOptions { return GraphOptions{M: 16, EfConstruction: 64, Seed: 1} }

const maxLevel = 15

// A near is a row and its distance (1 - cosine) from what is searched for.
type near struct {
	dist float32
	row  uint32
}

func compareNear(a, b near) int {
	if a.dist != b.dist {
		return cmp.Compare(a.dist, b.dist)
	}
	return cmp.Compare(a.row, b.row)
}

func (a near) less(b near) bool { return a.dist < b.dist || a.dist == b.dist && a.row < b.row }

// BuildGraph returns the graph over v.
func BuildGraph(ctx context.Context, v Vectors, o GraphOptions) (*Graph, error) {
	n := v.Len()
	g := &Graph{v: v, m: o.M, base: make([]uint32, n*2*o.M), count: make([]uint8, n), at: make([]uint32, n+1), entry: -1}
	s := model.NewStream(o.Seed, "dedup.levels")
	for i := range n {
		level := int(-math.Log(1-s.Float(uint64(i))) / math.Log(float64(o.M)))
		g.at[i+1] = g.at[i] + uint32(min(level, maxLevel))
	}
	g.upper = make([]uint32, int(g.at[n])*(1+o.M))
	b := builder{Graph: g, ef: o.EfConstruction, walkers: make([]*walker, parallel.Workers())}
	for w := range b.walkers {
		b.walkers[w] = newWalker(n)
	}
	for from := 0; from < n; {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		to := min(n, from+max(1, min(from/8, 512)))
		b.add(from, to)
		from = to
	}
	return g, nil
}

// Bytes returns the memory of the graph without the vectors.
func (g *Graph) Bytes() int { return 4*len(g.base) + len(g.count) + 4*len(g.upper) + 4*len(g.at) }

func (g *Graph) level(i uint32) int { return int(g.at[i+1] - g.at[i]) }

// links returns the links of row i at a layer.
func (g *Graph) links(i uint32, layer int) []uint32 {
	if layer == 0 {
		s := g.base[int(i)*2*g.m:]
		return s[:g.count[i]]
	}
	s := g.upper[(int(g.at[i])+layer-1)*(1+g.m):]
	return s[1 : 1+s[0]]
}

// setLinks replaces them.
func (g *Graph) setLinks(i uint32, layer int, rows []near) {
	dst := g.base[int(i)*2*g.m:]
	if layer == 0 {
		g.count[i] = uint8(len(rows))
	} else {
		dst = g.upper[(int(g.at[i])+layer-1)*(1+g.m):]
		dst[0] = uint32(len(rows))
		dst = dst[1:]
	}
	for k, r := range rows {
		dst[k] = r.row
	}
}

func (g *Graph) capacity(layer int) int {
	if layer == 0 {
		return 2 * g.m
	}
	return g.m
}

func (g *Graph) distance(q []float32, i uint32) float32 { return 1 - vek32.Dot(q, g.v.Row(int(i))) }

// A walker is the scratch memory of one search.
type walker struct {
	seen   []uint32 // stamp of the search that saw a row
	stamp  uint32
	open   []near // min-heap
	best   []near // max-heap
	sorted []near
}

func newWalker(n int) *walker { return &walker{seen: make([]uint32, n)} }

// walk returns up to ef rows near q at a layer, nearest first, beginning from
// the given rows (their algorithm 2). The result is the walker's own.
func (g *Graph) walk(w *walker, q []float32, from []near, ef, layer int) []near {
	if w.stamp++; w.stamp == 0 {
		clear(w.seen)
		w.stamp = 1
	}
	w.open, w.best = w.open[:0], w.best[:0]
	for _, f := range from {
		w.seen[f.row] = w.stamp
		w.open = push(w.open, f, near.less)
		w.best = push(w.best, f, more)
	}
	for len(w.open) > 0 {
		var at near
		at, w.open = pop(w.open, near.less)
		if len(w.best) >= ef && w.best[0].less(at) {
			break
		}
		for _, j := range g.links(at.row, layer) {
			if w.seen[j] == w.stamp {
				continue
			}
			w.seen[j] = w.stamp
			c := near{g.distance(q, j), j}
			if len(w.best) < ef || c.less(w.best[0]) {
				w.open = push(w.open, c, near.less)
				w.best = push(w.best, c, more)
				if len(w.best) > ef {
					_, w.best = pop(w.best, more)
				}
			}
		}
	}
	w.sorted = append(w.sorted[:0], w.best...)
	slices.SortFunc(w.sorted, compareNear)
	return w.sorted
}

func more(a, b near) bool { return b.less(a) }

// push and pop keep a binary heap with the first by less at index 0.
func push(h []near, x near, less func(a, b near) bool) []near {
	h = append(h, x)
	i := len(h) - 1
	for i > 0 {
		p := (i - 1) / 2
		if !less(x, h[p]) {
			break
		}
		h[i] = h[p]
		i = p
	}
	h[i] = x
	return h
}

func pop(h []near, less func(a, b near) bool) (near, []near) {
	first, x := h[0], h[len(h)-1]
	h = h[:len(h)-1]
	if len(h) == 0 {
		return first, h
	}
	i := 0
	for {
		c := 2*i + 1
		if c >= len(h) {
			break
		}
		if c+1 < len(h) && less(h[c+1], h[c]) {
			c++
		}
		if !less(h[c], x) {
			break
		}
		h[i] = h[c]
		i = c
	}
	h[i] = x
	return first, h
}

// Neighbours returns up to k rows near q and their cosines, nearest first.
// ef >= k is the breadth of the search.
func (g *Graph) Neighbours(w *Walker, q []float32, k, ef int) (rows []int, cosines []float32) {
	if g.entry < 0 {
		return nil, nil
	}
	found := g.descend(&w.walker, q, 0)
	found = g.walk(&w.walker, q, found, max(k, ef), 0)
	for _, f := range found[:min(k, len(found))] {
		rows, cosines = append(rows, int(f.row)), append(cosines, 1-f.dist)
	}
	return rows, cosines
}

// A Walker is the scratch memory of one goroutine that searches.
type Walker struct{ walker walker }

// NewWalker returns a Walker for g.
func (g *Graph) NewWalker() *Walker { return &Walker{*newWalker(g.v.Len())} }

// descend returns the row nearest to q that a greedy search from the entry
// finds in the layers above the given one.
func (g *Graph) descend(w *walker, q []float32, layer int) []near {
	found := []near{{g.distance(q, uint32(g.entry)), uint32(g.entry)}}
	for l := g.top; l > layer; l-- {
		found = append(found[:0], g.walk(w, q, found, 1, l)...)
	}
	return found
}

// Navigate is the Search over a Graph: the neighbours of every row, twice as
// many as long as all of them are near.
func Navigate(ctx context.Context, _ tensor.Backend, v Vectors, threshold float64, yield Yield) error {
	g, err := BuildGraph(ctx, v, NewGraphOptions())
	if err != nil {
		return err
	}
	return g.join(ctx, threshold, yield)
}

// Breadth of the searches of a join.
const (
	joinFirst = 64
	joinLast  = 1024
)

func (g *Graph) join(ctx context.Context, threshold float64, yield Yield) error {
	const block = 4096
	walkers := make([]*walker, parallel.Workers())
	for i := range walkers {
		walkers[i] = newWalker(g.v.Len())
	}
	low := float32(threshold - slack)
	found := make([][]uint32, block)
	for from := 0; from < g.v.Len(); from += block {
		if err := ctx.Err(); err != nil {
			return err
		}
		n := min(block, g.v.Len()-from)
		parallel.ForWorkers(n, 16, func(worker, i int) {
			found[i] = found[i][:0]
			if g.v.zero(from + i) {
				return
			}
			w, q := walkers[worker], g.v.Row(from+i)
			for ef := joinFirst; ; ef *= 2 {
				hits := g.walk(w, q, g.descend(w, q, 0), ef, 0)
				k := 0
				for k < len(hits) && 1-hits[k].dist >= low {
					k++
				}
				if k < len(hits) || ef >= joinLast || len(hits) < ef {
					for _, h := range hits[:k] {
						found[i] = append(found[i], h.row)
					}
					return
				}
			}
		})
		for i := range n {
			for _, j := range found[i] {
				if int(j) != from+i {
					yield(from+i, int(j))
				}
			}
		}
	}
	return nil
}
