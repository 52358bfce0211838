package report

import (
	"fmt"
	"slices"
	"strings"

	"pipe/runtime/engine"
)

// A graph of more than manyStages draws the instances of a sweep as one box; one
// of more than mostBoxes even so is not drawn.
const manyStages, mostBoxes = 24, 120

// A graph is the drawn graph of stages.
type graph struct {
	Width, Height int
	Boxes         []boxView
	Edges         []string // SVG paths
	Note          string
	Joined        bool // sweeps are drawn as one box each
}

type boxView struct {
	X, Y, W, H   int
	MidX         int
	Line1, Line2 int // baselines of the text
	State        string
	Name, Detail string
	Full         string // for the tooltip and screen readers
	Many         bool   // it is several instances
	Link         string
}

// states are the classes, symbols and words of the states of a stage.
var states = map[engine.State]struct{ class, symbol, word string }{
	engine.Done:      {"done", "✓", "ran"},
	engine.Cached:    {"cached", "=", "cached"},
	engine.Failed:    {"failed", "✗", "failed"},
	engine.Skipped:   {"skipped", "–", "not run"},
	engine.Cancelled: {"stopped", "■", "stopped"},
}

func look(s engine.State) (class, symbol, word string) {
	x, ok := states[s]
	if !ok {
		return "skipped", "?", "unknown"
	}
	return x.class, x.symbol, x.word
}

// block is an address without the key of its sweep.
func block(addr string) string {
	b, _, _ := strings.Cut(addr, "[")
	return b
}

// group is one box: a stage, or the instances of a sweep.
type group struct {
	name   string
	stages []*engine.StageResult
	needs  []string // addresses
}

func (r *reader) graph() *graph {
	groups := r.groups(func(addr string) string { return addr })
	g := &graph{}
	if blocks := r.groups(block); len(groups) > manyStages && len(blocks) < len(groups) {
		groups, g.Joined = blocks, true
	}
	if len(groups) > mostBoxes {
		g.Note = fmt.Sprintf("The graph has %s, too many to draw; the table of stages lists them.", counted(len(r.run.Stages), "stage"))
		return g
	}
	if len(groups) == 0 {
		g.Note = "The run has no stages."
		return g
	}
	byName, needs := map[string]int{}, make([][]int, len(groups))
	for i, x := range groups {
		byName[x.name] = i
	}
	for i, x := range groups {
		for _, n := range x.needs {
			if g.Joined {
				n = block(n)
			}
			if d, ok := byName[n]; ok && d < i && !slices.Contains(needs[i], d) {
				needs[i] = append(needs[i], d)
			}
		}
	}
	if countEdges(needs) > mostEdges {
		reduce(needs)
		g.Note = "Edges that follow from others are left out."
	}
	g.draw(arrange(needs), groups, needs, r.index)
	return g
}

// mostEdges is how many edges are drawn before those go that follow from others.
const mostEdges = 250

func countEdges(needs [][]int) (n int) {
	for _, d := range needs {
		n += len(d)
	}
	return n
}

// reduce drops edges between nodes that a longer way joins too.
func reduce(needs [][]int) {
	reach := make([]map[int]bool, len(needs)) // all that i needs, at any distance
	for i := range needs {
		reach[i] = map[int]bool{}
		far := map[int]bool{}
		for _, d := range needs[i] {
			for x := range reach[d] {
				far[x] = true
			}
		}
		needs[i] = slices.DeleteFunc(needs[i], func(d int) bool { return far[d] })
		for x := range far {
			reach[i][x] = true
		}
		for _, d := range needs[i] {
			reach[i][d] = true
		}
	}
}

// groups puts stages of one name together, in an order in which each comes after
// what it needs.
func (r *reader) groups(name func(addr string) string) []group {
	var out []group
	at := map[string]int{}
	for i := range r.run.Stages {
		st := &r.run.Stages[i]
		n := name(st.Addr)
		k, ok := at[n]
		if !ok {
			k = len(out)
			at[n] = k
			out = append(out, group{name: n})
		}
		out[k].stages, out[k].needs = append(out[k].stages, st), append(out[k].needs, st.Needs...)
	}
	return sorted(out, name)
}

// sorted is a topological order that keeps the given one where it can.
func sorted(in []group, name func(string) string) []group {
	at := map[string]int{}
	for i, g := range in {
		at[g.name] = i
	}
	var out []group
	seen := make([]bool, len(in))
	var visit func(i int)
	visit = func(i int) {
		if seen[i] {
			return
		}
		seen[i] = true
		for _, n := range in[i].needs {
			if d, ok := at[name(n)]; ok {
				visit(d)
			}
		}
		out = append(out, in[i])
	}
	for i := range in {
		visit(i)
	}
	return out
}

func (g *graph) draw(l *layout, groups []group, needs [][]int, index map[string]int) {
	top := func(row int) int { return boxGap + row*(boxHeight+rowGap) }
	for _, b := range l.boxes {
		g.Width = max(g.Width, int(b.x+b.width()/2)+boxGap)
	}
	g.Height = top(len(l.rows)) - rowGap + boxGap
	for i, x := range groups {
		b := l.boxes[l.of[i]]
		v := x.view(index)
		v.MidX, v.Y, v.W, v.H = int(b.x), top(b.row), boxWidth, boxHeight
		v.X, v.Line1, v.Line2 = v.MidX-boxWidth/2, v.Y+20, v.Y+37
		g.Boxes = append(g.Boxes, v)
	}
	for i := range needs {
		for _, d := range needs[i] {
			g.Edges = append(g.Edges, curve(l, l.paths[[2]int{d, i}], top))
		}
	}
}

// curve is the SVG path of an edge: down between rows, straight past boxes.
func curve(l *layout, path []int, top func(int) int) string {
	var b strings.Builder
	x, y := 0, 0
	for k, id := range path {
		p := l.boxes[id]
		nx, ny := int(p.x), top(p.row)
		if k == 0 {
			x, y = nx, ny+boxHeight
			fmt.Fprintf(&b, "M%d %d", x, y)
			continue
		}
		if k == len(path)-1 {
			ny -= 5 // the arrow's head
		}
		if nx == x {
			fmt.Fprintf(&b, "V%d", ny)
		} else {
			mid := (y + ny) / 2
			fmt.Fprintf(&b, "C%d %d %d %d %d %d", x, mid, nx, mid, nx, ny)
		}
		x, y = nx, ny
		if p.node < 0 {
			y += boxHeight
			fmt.Fprintf(&b, "V%d", y)
		}
	}
	return b.String()
}

func (x group) view(index map[string]int) boxView {
	st := x.stages[0]
	class, symbol, word := look(st.State)
	v := boxView{State: class, Name: middle(strings.ReplaceAll(block(st.Addr), "module.", ""), 20), Link: fmt.Sprintf("#s%d", index[st.Addr])}
	if len(x.stages) == 1 {
		v.Detail = symbol + " " + word
		if st.State == engine.Done {
			v.Detail = symbol + " " + seconds(st.Seconds)
		}
		v.Full = clean(st.Addr) + ": " + word
		if _, key, ok := strings.Cut(st.Addr, `["`); ok {
			v.Detail = symbol + " " + middle(strings.TrimSuffix(key, `"]`), 21)
		}
		return v
	}
	v.Many = true
	count := map[engine.State]int{}
	for _, s := range x.stages {
		count[s.State]++
	}
	var parts []string
	for _, s := range []engine.State{engine.Failed, engine.Cancelled, engine.Skipped, engine.Done, engine.Cached} {
		if n := count[s]; n > 0 {
			c, sym, w := look(s)
			if parts == nil {
				v.State = c // the worst
			}
			parts = append(parts, fmt.Sprintf("%s %d %s", sym, n, w))
		}
	}
	v.Detail = clip(strings.Join(parts, ", "), 24)
	v.Full = fmt.Sprintf("%s, %s: %s", clean(x.name), counted(len(x.stages), "instance"), strings.Join(parts, ", "))
	return v
}
