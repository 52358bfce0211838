package lang

import (
	"container/heap"
	"errors"
	"maps"
	"slices"
	"strings"

	"github.com/dominikbraun/graph"
	"github.com/hashicorp/hcl/v2"

	"pipe/runtime/artifact"
)

// sorted returns the declarations in an order in which each comes after all
// that it refers to, and otherwise in the order of the files. Declarations on
// a cycle are reported, marked broken and left out.
func (l *loader) sorted() []*decl {
	g := graph.New(graph.StringHash, graph.Directed())
	for _, d := range l.order {
		must(g.AddVertex(d.addr))
	}
	for _, d := range l.order {
		for addr := range d.uses {
			if addr == d.addr {
				l.cycle([]*decl{d}) // the library keeps no loops
				continue
			}
			must(g.AddEdge(addr, d.addr))
		}
	}
	next, err := g.AdjacencyMap()
	must(err)
	out := l.kahn(next)
	if len(out) == len(l.order) {
		return out
	}
	components, err := graph.StronglyConnectedComponents(g)
	must(err)
	for _, c := range components {
		if len(c) > 1 {
			l.reportComponent(c)
		}
	}
	return l.kahn(next)
}

// must panics on an error of the graph library that its use here rules out.
func must(err error) {
	if err != nil && !errors.Is(err, graph.ErrEdgeAlreadyExists) {
		panic("lang: " + err.Error())
	}
}

// kahn walks the graph without the declarations that lie on a known cycle.
func (l *loader) kahn(next map[string]map[string]graph.Edge[string]) []*decl {
	missing := make([]int, len(l.order))
	for _, d := range l.order {
		for addr := range d.uses {
			if u := l.decls[addr]; !u.cyclic {
				missing[d.index]++
			}
		}
	}
	ready := &indexHeap{}
	for _, d := range l.order {
		if missing[d.index] == 0 && !d.cyclic {
			heap.Push(ready, d.index)
		}
	}
	var out []*decl
	for ready.Len() > 0 {
		d := l.order[heap.Pop(ready).(int)]
		out = append(out, d)
		for addr := range next[d.addr] {
			n := l.decls[addr]
			if missing[n.index]--; missing[n.index] == 0 && !n.cyclic {
				heap.Push(ready, n.index)
			}
		}
	}
	return out
}

// An indexHeap hands out the smallest index first.
type indexHeap []int

func (h indexHeap) Len() int           { return len(h) }
func (h indexHeap) Less(i, j int) bool { return h[i] < h[j] }
func (h indexHeap) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }
func (h *indexHeap) Push(x any)        { *h = append(*h, x.(int)) }
func (h *indexHeap) Pop() any {
	old := *h
	x := old[len(old)-1]
	*h = old[:len(old)-1]
	return x
}

// reportComponent names a shortest cycle through the first declaration, in the
// order of the files, of a strongly connected component.
func (l *loader) reportComponent(addrs []string) {
	in := map[string]bool{}
	var first *decl
	for _, a := range addrs {
		in[a] = true
		if d := l.decls[a]; first == nil || d.index < first.index {
			first = d
		}
		l.decls[a].broken, l.decls[a].cyclic = true, true
	}
	from := map[string]string{} // breadth-first tree along "uses"
	queue := []string{first.addr}
	for len(queue) > 0 {
		at := queue[0]
		queue = queue[1:]
		for _, u := range slices.Sorted(maps.Keys(l.decls[at].uses)) {
			if u == first.addr {
				path := []*decl{l.decls[at]}
				for at != first.addr {
					at = from[at]
					path = append(path, l.decls[at])
				}
				slices.Reverse(path)
				l.cycle(path)
				return
			}
			if _, seen := from[u]; in[u] && !seen {
				from[u] = at
				queue = append(queue, u)
			}
		}
	}
}

// cycle reports a path of declarations that each use the next, the last using
// the first.
func (l *loader) cycle(path []*decl) {
	names := make([]string, 0, len(path)+1)
	for _, d := range path {
		d.broken, d.cyclic = true, true
		names = append(names, d.addr)
	}
	names = append(names, path[0].addr)
	next := path[1%len(path)]
	l.errorAt(path[0].uses[next.addr], "Dependency cycle", "%s: each needs the next, so none can be first. Remove one of these references.",
		strings.Join(names, " → "))
}

// connect fills in what each node needs and builds the graph of nodes.
func (l *loader) connect() {
	p := l.prog
	p.Graph = graph.New(graph.StringHash, graph.Directed())
	for _, n := range p.Nodes {
		must(p.Graph.AddVertex(n.Addr))
	}
	for _, n := range p.Nodes {
		needs := map[string]bool{}
		for _, addr := range n.Needs {
			needs[addr] = true
		}
		for _, in := range n.Inputs {
			needs[in.Ref.Addr] = true
		}
		delete(needs, n.Addr)
		n.Needs = slices.Sorted(maps.Keys(needs))
		for _, addr := range n.Needs {
			must(p.Graph.AddEdge(addr, n.Addr))
		}
	}
}

// dependsOn resolves the depends_on attribute of d to addresses of nodes.
func (l *loader) dependsOn(d *decl) []string {
	a := d.block.Body.Attributes["depends_on"]
	if a == nil {
		return nil
	}
	exprs, diags := hcl.ExprList(a.Expr)
	if diags.HasErrors() {
		l.errorAt(a.Expr.Range(), "Wrong type", "depends_on takes a list of references, such as [data.docs].")
		return nil
	}
	var out []string
	for _, e := range exprs {
		t, diags := hcl.AbsTraversalForExpr(e)
		if diags.HasErrors() || !l.isRoot(t.RootName()) && t.RootName() != "module" || t.RootName() == "var" || t.RootName() == "local" {
			l.errorAt(e.Range(), "Invalid reference", "depends_on takes references to blocks, such as data.docs.")
			continue
		}
		addr, diag := l.resolve(d.mod, t, true, false)
		if diag != nil || addr == "" {
			continue // reported with the references
		}
		u := l.decls[addr]
		if u.broken || u.off {
			continue
		}
		if u.typ == "output" {
			out = append(out, handleAddrs(u.value)...)
			continue
		}
		if diag := u.checkSteps(t); diag != nil {
			l.diags = append(l.diags, diag)
			continue
		}
		if len(t) > 2 && u.swept {
			out = append(out, u.instance(stepName(t[2])).Addr)
			continue
		}
		for _, n := range u.nodes {
			out = append(out, n.Addr)
		}
	}
	return out
}

// resolveOutputs fills in n.Outputs; an alias is the handle that its attribute
// holds.
func (d *decl) resolveOutputs(n *Node) {
	n.Outputs = map[string]artifact.Ref{}
	for _, o := range n.Makes {
		ref := artifact.Ref{Type: o.Type, Addr: n.Addr, Output: o.Name}
		if o.Alias != "" {
			for _, in := range n.Inputs {
				if in.Path == o.Alias {
					ref = *in.Ref
				}
			}
		}
		n.Outputs[o.Name] = ref
	}
}
