// Package dag runs the nodes of an acyclic graph, each after those it needs,
// several at once.
package dag

import (
	"context"
	"errors"
	"fmt"
	"slices"
)

// A State is how a node ended.
type State int

// The states of a node.
const (
	Skipped   State = iota // not started: a need failed, or the walk stopped before its turn
	Done                   // its function returned nil
	Failed                 // its function returned an error
	Cancelled              // its function returned an error after the walk's context was cancelled
)

// String returns the state in lower case.
func (s State) String() string {
	switch s {
	case Skipped:
		return "skipped"
	case Done:
		return "done"
	case Failed:
		return "failed"
	case Cancelled:
		return "cancelled"
	}
	return fmt.Sprintf("State(%d)", int(s))
}

// A Result is how one node ended.
type Result struct {
	Node  string
	State State
	Err   error // of a failed or cancelled node
	// Blame is set for a node that was skipped because of a failed one: of
	// those it needs, itself or through others, the one listed first.
	Blame string
}

// Options bound a walk.
type Options struct {
	Parallelism int  // nodes running at once; below 1 means 1
	KeepGoing   bool // after a failure, go on with nodes that do not need what failed
}

// Errors of a malformed graph, wrapped with the nodes concerned.
var (
	ErrCycle     = errors.New("the nodes need each other")
	ErrUnknown   = errors.New("a needed node does not exist")
	ErrDuplicate = errors.New("a node is listed twice")
)

// Walk calls fn for every node once all that needs names for it are done. Of
// the nodes that are ready the one listed first starts first. It returns one
// result a node, in the order of nodes, after every fn has returned.
//
// After a failure no new node starts, unless opts.KeepGoing; the context given
// to the running ones stays alive, so that their work is not lost. After ctx is
// cancelled no new node starts either. A malformed graph is an error, and then
// nothing ran; errors of nodes are in the results only.
func Walk(ctx context.Context, nodes []string, needs func(node string) []string, opts Options, fn func(ctx context.Context, node string) error) ([]Result, error) {
	w, err := newWalk(nodes, needs)
	if err != nil {
		return nil, err
	}
	type ended struct {
		index int
		err   error
	}
	ends := make(chan ended)
	running, stopped := 0, false
	for {
		for !stopped && running < max(1, opts.Parallelism) && len(w.ready) > 0 && ctx.Err() == nil {
			i := w.ready[0]
			w.ready = w.ready[1:]
			running++
			go func() { ends <- ended{i, fn(ctx, nodes[i])} }()
		}
		if running == 0 {
			break
		}
		e := <-ends
		running--
		w.finish(e.index, e.err, ctx.Err() != nil)
		stopped = stopped || e.err != nil && !opts.KeepGoing
	}
	w.blame()
	return w.results, nil
}

// A walk is the state of one Walk, with nodes by index.
type walk struct {
	order   []int   // a topological order
	needs   [][]int // sorted
	feeds   [][]int // the reverse of needs
	missing []int   // how many needs are not done
	ready   []int   // sorted
	results []Result
}

func newWalk(nodes []string, needs func(string) []string) (*walk, error) {
	n := len(nodes)
	index := make(map[string]int, n)
	for i, name := range nodes {
		if _, dup := index[name]; dup {
			return nil, fmt.Errorf("%w: %s", ErrDuplicate, name)
		}
		index[name] = i
	}
	w := &walk{needs: make([][]int, n), feeds: make([][]int, n), missing: make([]int, n), results: make([]Result, n)}
	for i, name := range nodes {
		w.results[i].Node = name
		for _, need := range needs(name) {
			j, ok := index[need]
			if !ok {
				return nil, fmt.Errorf("%w: %s needs %s", ErrUnknown, name, need)
			}
			w.needs[i] = append(w.needs[i], j)
		}
		slices.Sort(w.needs[i])
		w.needs[i] = slices.Compact(w.needs[i])
		w.missing[i] = len(w.needs[i])
		for _, j := range w.needs[i] {
			w.feeds[j] = append(w.feeds[j], i)
		}
	}
	return w, w.sort()
}

// sort fills in order and ready, or names a cycle.
func (w *walk) sort() error {
	missing := slices.Clone(w.missing)
	var queue []int
	for i, m := range missing {
		if m == 0 {
			queue = append(queue, i)
		}
	}
	w.ready = slices.Clone(queue)
	for len(queue) > 0 {
		i := queue[0]
		queue = queue[1:]
		w.order = append(w.order, i)
		for _, j := range w.feeds[i] {
			if missing[j]--; missing[j] == 0 {
				queue = append(queue, j)
			}
		}
	}
	if len(w.order) == len(w.needs) {
		return nil
	}
	// Going from a node that was not reached to a need that was not reached
	// comes back to a node already seen.
	at := slices.IndexFunc(missing, func(m int) bool { return m > 0 })
	var path []string
	seen := map[int]int{}
	for {
		if from, ok := seen[at]; ok {
			return fmt.Errorf("%w: %s", ErrCycle, arrows(append(path[from:], w.results[at].Node)))
		}
		seen[at] = len(path)
		path = append(path, w.results[at].Node)
		at = w.needs[at][slices.IndexFunc(w.needs[at], func(j int) bool { return missing[j] > 0 })]
	}
}

func arrows(names []string) string {
	s := names[0]
	for _, n := range names[1:] {
		s += " → " + n
	}
	return s
}

// finish notes how node i ended and which nodes it makes ready.
func (w *walk) finish(i int, err error, cancelled bool) {
	r := &w.results[i]
	r.Err = err
	switch {
	case err == nil:
		r.State = Done
	case cancelled:
		r.State = Cancelled
	default:
		r.State = Failed
	}
	if err != nil {
		return
	}
	for _, j := range w.feeds[i] {
		if w.missing[j]--; w.missing[j] == 0 {
			at, _ := slices.BinarySearch(w.ready, j)
			w.ready = slices.Insert(w.ready, at, j)
		}
	}
}

// blame names, for each node that was skipped, the failed node behind it.
func (w *walk) blame() {
	none := len(w.results)
	culprit := make([]int, len(w.results))
	for _, i := range w.order {
		culprit[i] = none
		switch w.results[i].State {
		case Failed:
			culprit[i] = i
		case Skipped:
			for _, j := range w.needs[i] {
				culprit[i] = min(culprit[i], culprit[j])
			}
			if culprit[i] != none {
				w.results[i].Blame = w.results[culprit[i]].Node
			}
		}
	}
}
