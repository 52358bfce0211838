package index

// Groups are sets of rows that pairs connect (union-find with path halving;
// the lower row is the root, so that the order of the pairs does not matter).
type Groups []int32

// NewGroups returns n groups of one.
func NewGroups(n int) Groups {
	g := make(Groups, n)
	for i := range g {
		g[i] = int32(i)
	}
	return g
}

// Root returns the lowest row of i's group.
func (g Groups) Root(i int) int {
	for int(g[i]) != i {
		g[i] = g[g[i]]
		i = int(g[i])
	}
	return i
}

// Union joins the groups of a and b.
func (g Groups) Union(a, b int) {
	a, b = g.Root(a), g.Root(b)
	if a < b {
		g[b] = int32(a)
	} else {
		g[a] = int32(b)
	}
}

// Same reports whether a and b are in one group.
func (g Groups) Same(a, b int) bool { return g.Root(a) == g.Root(b) }
