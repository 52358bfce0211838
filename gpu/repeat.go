//go:build cuda

package gpu

import (
	"errors"
	"runtime"
	"slices"

	"pipe/gpu/cux"
	"pipe/tensor"
)

// Steps that are repeated are captured as graphs: docs/decisions/015-graphs.md.
//
// A step runs as it is the first time, which loads its kernels and gives scratch its
// size; it is captured the second time, and launched at once from then on. What
// differs between steps lies on the device: the elements of tensors, and the lists
// of attention, which are sent before the launch. A graph holds addresses, so all are
// forgotten when memory is given back: see release.

// steps are those that are known.
type steps struct {
	known map[stepKey]*step
	off   bool
	clock int
	done  StepCounts
}

// mostSteps bounds the steps that are known, and stepBytes is counted for the graph
// of each.
const (
	mostSteps = 32
	stepBytes = 2 << 20
)

// forGraphs is the memory of captured steps.
const forGraphs = "captured steps"

// A stepKey is what steps have in common that one graph does: what their caller
// says, and what grids depend on beside that.
type stepKey struct {
	tensor.Step
	single fewCounts
}

// A step was seen, and has a graph once it was captured.
type step struct {
	state stepState
	graph cux.Graph
	used  int // when, by the clock
	needs needs
}

type stepState int

const (
	stepNew stepState = iota
	stepSeen
	stepCaptured
	stepPlain // it cannot be captured
)

// needs are what operations of a step do on the host when they are queued one by
// one, and has to be done before a graph is launched.
type needs struct {
	indices   []indices
	attention []attentionRows
	written   [][]int32 // copies of elements that kernels write
	rows      int       // of the tiles in constTiles; 0: none
	tiles     int
}

// indices are elements of a tensor, all less than n.
type indices struct {
	at       uint64
	host     []int32
	n        int
	distinct bool
}

type attentionRows struct{ queries, keys int }

// A capture is under way. It is broken when something was to be done that a graph
// cannot have.
type capture struct{ broken bool }

// StepCounts count the calls of Repeat, by what was done.
type StepCounts struct{ Queued, Captured, Repeated int }

// Steps returns what was done with steps, for tests and measurements.
func (b *Backend) Steps() StepCounts { return b.steps.done }

// Graphs switches graphs on or off, for who measures what they bring.
func (b *Backend) Graphs(on bool) {
	b.forget()
	b.steps.off = !on
}

// Repeat implements [tensor.Repeater].
func (b *Backend) Repeat(s tensor.Step, o tensor.Attention, f func()) {
	if b.counts != nil && !b.steps.off {
		b.counts.repeats()
	}
	if b.err != nil || b.counts != nil || b.capture != nil || b.watch != nil || b.steps.off || b.profile != nil || b.each {
		f()
		return
	}
	list, single := b.work.few(o)
	if single.parts > 0 {
		b.constants(constFew, list)
	}
	x := b.step(stepKey{s, single})
	switch {
	case x.state == stepNew:
		b.watched(&x.needs, f)
		x.state = stepSeen
	case x.state == stepPlain || !b.ready(&x.needs, o): // or f says what is wrong
		f()
	case x.state == stepSeen && b.record(x, f) && b.relaunch(x):
		b.steps.done.Captured++
		return
	case x.state == stepCaptured && b.relaunch(x):
		b.steps.done.Repeated++
		return
	default:
		f()
	}
	b.steps.done.Queued++
}

// step returns the step of that key, which may be new. The one that was not used for
// the longest time makes room.
func (b *Backend) step(key stepKey) *step {
	c := &b.steps
	c.clock++
	x := c.known[key]
	if x == nil {
		if c.known == nil {
			c.known = map[stepKey]*step{}
		}
		if len(c.known) == mostSteps {
			var oldest stepKey
			at := c.clock
			for k, y := range c.known {
				if y.used < at {
					oldest, at = k, y.used
				}
			}
			c.known[oldest].close()
			delete(c.known, oldest)
		}
		x = &step{}
		c.known[key] = x
	}
	x.used = c.clock
	return x
}

// close frees the graph of x, once it has run.
func (x *step) close() {
	if x.state == stepCaptured {
		x.graph.Close()
	}
	x.state = stepPlain
}

// forget gives up all steps.
func (b *Backend) forget() {
	for _, x := range b.steps.known {
		x.close()
	}
	clear(b.steps.known)
}

// watched calls f and sets n to what its operations need.
func (b *Backend) watched(n *needs, f func()) {
	b.watch = n
	defer func() { b.watch = nil }()
	f()
}

// record captures f as the graph of x, and reports whether it could. Nothing has run
// then, either way.
func (b *Backend) record(x *step, f func()) bool {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	b.rotate.root = nil // the graph makes its own
	if err := b.stream.Capture(); err != nil {
		b.steps.off = true
		return false
	}
	c, n := &capture{}, needs{}
	b.capture = c
	func() {
		defer func() {
			if b.capture = nil; recover() != nil { // whatever it is, it happens again without a capture
				c.broken = true
			}
		}()
		b.watched(&n, f)
	}()
	b.rotate.root = nil // nothing has been made yet
	g, err := b.stream.EndCapture()
	switch {
	case err == nil && !c.broken:
		x.state, x.graph, x.needs = stepCaptured, g, n
		return true
	case err == nil:
		g.Close()
	case !c.broken:
		b.steps.off = true
	}
	x.state = stepPlain
	return false
}

// relaunch queues the graph of x, unless the driver refuses.
func (b *Backend) relaunch(x *step) bool {
	if err := b.stream.Replay(x.graph); err != nil {
		b.Graphs(false)
		return false
	}
	b.rotate.root = nil
	for _, m := range x.needs.written {
		forgetInts(m)
	}
	return true
}

// ready does what operations with such needs do on the host, and reports whether
// they can be queued.
func (b *Backend) ready(n *needs, o tensor.Attention) bool {
	for _, x := range n.indices {
		for _, v := range x.host {
			if v < 0 || int(v) >= x.n { // or it is unknown
				return false
			}
		}
		if x.distinct && !ascending(x.host) && b.rows.repeated(x.host, x.n) {
			return false
		}
	}
	for _, x := range n.attention {
		if badSegments(o, x.queries, x.keys) != "" {
			return false
		}
	}
	if n.rows > 0 {
		list, tiles := b.work.tiles(o, n.rows, fewQueries)
		if tiles != n.tiles {
			return false
		}
		p := b.consts[constTiles].ptr
		if b.constants(constTiles, list) != p { // it has moved
			return false
		}
	}
	return b.err == nil
}

// errCapture is why there is no memory while a step is captured.
var errCapture = errors.New("a step is being captured")

// breaks reports whether a step is being captured; then it is not any more, because
// what comes cannot be part of a graph.
func (b *Backend) breaks() bool {
	if b.capture == nil {
		return false
	}
	b.capture.broken = true
	return true
}

// index says that the elements host of the tensor at an address are indices.
func (n *needs) index(at uint64, host []int32, below int, distinct bool) {
	if n == nil {
		return
	}
	for i := range n.indices {
		if x := &n.indices[i]; x.at == at && x.n == below && len(x.host) == len(host) {
			x.distinct = x.distinct || distinct
			return
		}
	}
	n.indices = append(n.indices, indices{at, host, below, distinct})
}

// attends says that there is attention of so many rows.
func (n *needs) attends(queries, keys int) {
	if x := (attentionRows{queries, keys}); n != nil && !slices.Contains(n.attention, x) {
		n.attention = append(n.attention, x)
	}
}

// wrote says that a kernel writes the elements that m has copies of.
func (b *Backend) wrote(m []int32) {
	if b.watch != nil {
		b.watch.written = append(b.watch.written, m)
	}
	forgetInts(m)
}

func forgetInts(m []int32) {
	for i := range m {
		m[i] = unknown
	}
}

// repeats counts the memory of graphs.
func (c *counts) repeats() {
	if c.tally.Of(forGraphs) == 0 {
		c.tally.Add(forGraphs, mostSteps*stepBytes)
	}
}
