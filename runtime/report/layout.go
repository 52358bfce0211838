package report

import (
	"cmp"
	"math"
	"slices"
)

// Sizes of the drawn graph, in pixels.
const (
	boxWidth, boxHeight = 164, 48
	boxGap, rowGap      = 16, 40
	laneWidth           = 14 // of an edge that passes a row
	perRow              = 6  // boxes of one layer beside each other; more are put into further rows
)

// A box is a node of the layout, or a place where an edge passes a row.
type box struct {
	node     int // index of the node; -1: an edge passes
	row, pos int
	x        float64 // of the middle
	up, down []int   // boxes in the rows above and below
}

func (b *box) width() float64 {
	if b.node < 0 {
		return laneWidth
	}
	return boxWidth
}

// A layout puts the nodes of an acyclic graph into rows, each below all that it
// needs, with few crossings (after Sugiyama, Tagawa and Toda 1981).
type layout struct {
	boxes []box
	rows  [][]int
	of    []int            // box of each node
	paths map[[2]int][]int // boxes that the edge from a to b passes, ends included
}

// arrange lays out n nodes; needs[i] are the nodes that i needs, all below i.
func arrange(needs [][]int) *layout {
	l := &layout{of: make([]int, len(needs)), paths: map[[2]int][]int{}}
	l.place(layers(needs))
	l.connect(needs)
	l.order()
	l.straighten()
	return l
}

// layers gives each node the row below its lowest need; one with more users
// than needs is moved down to them, which shortens edges.
func layers(needs [][]int) []int {
	n := len(needs)
	layer, users := make([]int, n), make([][]int, n)
	for i := range needs {
		for _, d := range needs[i] {
			layer[i] = max(layer[i], layer[d]+1)
			users[d] = append(users[d], i)
		}
	}
	for i := n - 1; i >= 0; i-- {
		if len(users[i]) == 0 || len(users[i]) <= len(needs[i]) {
			continue
		}
		low := math.MaxInt
		for _, u := range users[i] {
			low = min(low, layer[u]-1)
		}
		layer[i] = max(layer[i], low)
	}
	return layer
}

// place makes the rows, cutting layers that are too wide.
func (l *layout) place(layer []int) {
	deepest := 0
	for _, x := range layer {
		deepest = max(deepest, x)
	}
	byLayer := make([][]int, deepest+1)
	for i, x := range layer {
		byLayer[x] = append(byLayer[x], i)
	}
	for _, nodes := range byLayer {
		parts := max(1, (len(nodes)+perRow-1)/perRow)
		each := max(1, (len(nodes)+parts-1)/parts) // even rows
		for chunk := range slices.Chunk(nodes, each) {
			var row []int
			for _, n := range chunk {
				l.of[n] = len(l.boxes)
				row = append(row, len(l.boxes))
				l.boxes = append(l.boxes, box{node: n, row: len(l.rows)})
			}
			l.rows = append(l.rows, row)
		}
	}
}

// connect draws edges row by row. Those of one node share a lane as long as they
// pass the same rows.
func (l *layout) connect(needs [][]int) {
	lanes := map[[2]int]int{} // by node and row
	join := func(a, b int) {
		if !slices.Contains(l.boxes[a].down, b) {
			l.boxes[a].down = append(l.boxes[a].down, b)
			l.boxes[b].up = append(l.boxes[b].up, a)
		}
	}
	for i := range needs {
		for _, d := range needs[i] {
			path := []int{l.of[d]}
			for row := l.boxes[l.of[d]].row + 1; row < l.boxes[l.of[i]].row; row++ {
				lane, ok := lanes[[2]int{d, row}]
				if !ok {
					lane = len(l.boxes)
					lanes[[2]int{d, row}] = lane
					l.boxes = append(l.boxes, box{node: -1, row: row})
					l.rows[row] = append(l.rows[row], lane)
				}
				path = append(path, lane)
			}
			path = append(path, l.of[i])
			for k := 1; k < len(path); k++ {
				join(path[k-1], path[k])
			}
			l.paths[[2]int{d, i}] = path
		}
	}
}

// order sorts each row by the middle of its neighbours, up and down in turn, and
// keeps the order with the fewest crossings.
func (l *layout) order() {
	l.number()
	best, fewest := l.snapshot(), l.crossings()
	for sweep := range 16 {
		rows := l.rows
		for k := range rows {
			row := rows[k]
			near := func(b int) []int { return l.boxes[b].up }
			if sweep%2 == 1 {
				row = rows[len(rows)-1-k]
				near = func(b int) []int { return l.boxes[b].down }
			}
			slices.SortStableFunc(row, func(a, b int) int {
				return cmp.Compare(l.middle(a, near(a)), l.middle(b, near(b)))
			})
			for p, b := range row {
				l.boxes[b].pos = p
			}
		}
		if c := l.crossings(); c < fewest {
			best, fewest = l.snapshot(), c
		}
	}
	l.rows = best
	l.number()
}

func (l *layout) number() {
	for _, row := range l.rows {
		for p, b := range row {
			l.boxes[b].pos = p
		}
	}
}

func (l *layout) snapshot() (out [][]int) {
	for _, row := range l.rows {
		out = append(out, slices.Clone(row))
	}
	return out
}

// middle is the mean position of neighbours; a box without any stays.
func (l *layout) middle(b int, near []int) float64 {
	if len(near) == 0 {
		return float64(l.boxes[b].pos)
	}
	sum := 0.0
	for _, n := range near {
		sum += float64(l.boxes[n].pos)
	}
	return sum / float64(len(near))
}

func (l *layout) crossings() (n int) {
	for _, row := range l.rows {
		var ends []int // lower ends of the edges below the row, by upper end
		for _, b := range row {
			down := slices.Clone(l.boxes[b].down)
			slices.SortFunc(down, func(x, y int) int { return cmp.Compare(l.boxes[x].pos, l.boxes[y].pos) })
			for _, d := range down {
				ends = append(ends, l.boxes[d].pos)
			}
		}
		for i := range ends {
			for _, e := range ends[:i] {
				if e > ends[i] {
					n++
				}
			}
		}
	}
	return n
}

// straighten moves the boxes of each row towards their neighbours, in turn from
// above and below, as far as their order and width allow.
func (l *layout) straighten() {
	for _, row := range l.rows {
		x := 0.0
		for _, b := range row {
			w := l.boxes[b].width()
			l.boxes[b].x = x + w/2
			x += w + boxGap
		}
		for _, b := range row {
			l.boxes[b].x -= x / 2
		}
	}
	for sweep := range 40 {
		for k := range l.rows {
			row := l.rows[k]
			if sweep%2 == 1 {
				row = l.rows[len(l.rows)-1-k]
			}
			want, weight := make([]float64, len(row)), make([]float64, len(row))
			for i, b := range row {
				near := l.boxes[b].up
				if sweep%2 == 1 {
					near = l.boxes[b].down
				}
				if sweep >= 36 || l.boxes[b].node < 0 { // at the end, and where edges pass, both
					near = slices.Concat(l.boxes[b].up, l.boxes[b].down)
				}
				want[i], weight[i] = l.boxes[b].x, 0.1
				if len(near) > 0 {
					want[i], weight[i] = 0, 1
					for _, n := range near {
						want[i] += l.boxes[n].x / float64(len(near))
					}
				}
				if l.boxes[b].node < 0 {
					weight[i] *= 8 // long edges straight before all
				}
			}
			l.spread(row, want, weight)
		}
	}
	left := math.Inf(1)
	for i := range l.boxes {
		left = min(left, l.boxes[i].x-l.boxes[i].width()/2)
	}
	for i := range l.boxes {
		l.boxes[i].x = math.Round(l.boxes[i].x - left + boxGap)
	}
}

// spread puts the boxes of a row as near as possible to where they want to be
// without touching: least squares under an order, by pooling.
func (l *layout) spread(row []int, want, weight []float64) {
	type pool struct {
		sum, weight float64
		n           int
	}
	offset := make([]float64, len(row))
	for i := 1; i < len(row); i++ {
		offset[i] = offset[i-1] + l.boxes[row[i-1]].width()/2 + l.boxes[row[i]].width()/2 + boxGap
	}
	var pools []pool
	for i := range row {
		pools = append(pools, pool{(want[i] - offset[i]) * weight[i], weight[i], 1})
		for n := len(pools); n > 1 && pools[n-2].sum/pools[n-2].weight > pools[n-1].sum/pools[n-1].weight; n-- {
			p, q := pools[n-2], pools[n-1]
			pools = append(pools[:n-2], pool{p.sum + q.sum, p.weight + q.weight, p.n + q.n})
		}
	}
	i := 0
	for _, p := range pools {
		for range p.n {
			l.boxes[row[i]].x = p.sum/p.weight + offset[i]
			i++
		}
	}
}
