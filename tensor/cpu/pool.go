package cpu

import (
	"runtime"
	"sync"
	"sync/atomic"
)

// A pool runs the jobs of one operation at a time on the calling goroutine
// and threads-1 workers. Between operations a worker spins for some
// microseconds, then parks.
type pool struct {
	threads int
	parked  atomic.Int32
	closed  atomic.Bool
	mu      sync.Mutex
	wake    *sync.Cond

	// The operation: written while no job is left, read by who has taken one.
	n, per int // elements, and those of a job
	args   *args
	f      part
	jobs   int64

	_    [64]byte
	left atomic.Int64 // jobs not taken; less when workers looked for more
	_    [64]byte
	done atomic.Int64
}

// A part does the elements lo..hi of an operation. thread is the same for no two
// calls that overlap. It captures nothing: see operation.
type part func(a *args, lo, hi, thread int)

const spins = 20000 // about 200 microseconds: longer than what lies between two products

func newPool(threads int) *pool {
	p := &pool{threads: threads}
	p.wake = sync.NewCond(&p.mu)
	for t := 1; t < threads; t++ {
		go p.worker(t)
	}
	return p
}

func (p *pool) worker(thread int) {
	for p.await() {
		p.take(thread)
	}
}

// await returns when there are jobs, or were when it was roused: it spins again
// then. It reports false when the pool was closed.
func (p *pool) await() bool {
	for i := range spins {
		if p.left.Load() > 0 {
			return true
		}
		if i%64 == 63 {
			runtime.Gosched()
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.parked.Add(1) // before the test: rouse looks after the change
	defer p.parked.Add(-1)
	if p.left.Load() <= 0 && !p.closed.Load() {
		p.wake.Wait()
	}
	return !p.closed.Load()
}

func (p *pool) rouse() {
	if p.parked.Load() > 0 {
		p.mu.Lock()
		p.wake.Broadcast()
		p.mu.Unlock()
	}
}

// take runs jobs, the first one first, while there are any. Whoever comes late
// takes nothing, or jobs of the next operation.
func (p *pool) take(thread int) {
	for {
		left := p.left.Add(-1)
		if left < 0 {
			return
		}
		lo := int(p.jobs-1-left) * p.per
		p.f(p.args, lo, min(p.n, lo+p.per), thread)
		p.done.Add(1)
	}
}

// run calls f for the elements 0..n-1, per at a time, and returns when all are
// done.
func (p *pool) run(n, per int, a *args, f part) {
	if n <= per || p.threads == 1 {
		for i := 0; i < n; i += per {
			f(a, i, min(n, i+per), 0)
		}
		return
	}
	p.n, p.per, p.args, p.f = n, per, a, f
	p.jobs = int64((n + per - 1) / per)
	p.done.Store(0)
	p.left.Store(p.jobs)
	p.rouse()
	p.take(0)
	for i := 0; p.done.Load() < p.jobs; i++ {
		if i%64 == 63 {
			runtime.Gosched()
		}
	}
}

func (p *pool) close() {
	p.closed.Store(true)
	p.rouse()
}

// An operation that takes less than this many units, of about a nanosecond,
// stays on one thread: sharing costs a microsecond or two while workers spin.
// A job is at least so many.
const (
	oneThread = 15_000
	leastJob  = 2_000
)

// split cuts 0..n into ranges that begin at multiples of align and calls f on
// each; unit is the estimated nanoseconds of one element.
func (b *Backend) split(n, align int, unit float64, a args, f part) {
	if n == 0 {
		return
	}
	cost := float64(n) * unit
	parts := 1
	if cost > oneThread && b.pool.threads > 1 {
		parts = min(int(cost/leastJob), 8*b.pool.threads)
	}
	per := (n + parts - 1) / parts
	per = (per + align - 1) / align * align
	b.op.args, b.op.args.b = a, b
	b.pool.run(n, per, &b.op.args, f)
}

// each calls f for each of n jobs, which together take the given nanoseconds.
func (b *Backend) each(n int, cost float64, a args, f part) {
	b.op.args, b.op.args.b = a, b
	if cost > oneThread {
		b.pool.run(n, 1, &b.op.args, f)
		return
	}
	for i := range n {
		f(&b.op.args, i, i+1, 0)
	}
}
