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
	current atomic.Pointer[batch]
	parked  atomic.Int32
	mu      sync.Mutex
	wake    *sync.Cond
}

// A batch is the jobs of one operation. Late workers may still look at an old
// batch: all its jobs are taken by then.
type batch struct {
	n    int64
	next atomic.Int64 // first job not taken
	done atomic.Int64
	run  func(job, thread int)
	stop bool // workers end
}

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
	var last *batch
	for {
		last = p.await(last)
		if last.stop {
			return
		}
		last.take(thread)
	}
}

// await returns the batch that follows last.
func (p *pool) await(last *batch) *batch {
	for i := range spins {
		if c := p.current.Load(); c != last {
			return c
		}
		if i%64 == 63 {
			runtime.Gosched()
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.parked.Add(1) // before the test: publish looks after it has stored
	defer p.parked.Add(-1)
	for p.current.Load() == last {
		p.wake.Wait()
	}
	return p.current.Load()
}

func (p *pool) publish(c *batch) {
	p.current.Store(c)
	if p.parked.Load() > 0 {
		p.mu.Lock()
		p.wake.Broadcast()
		p.mu.Unlock()
	}
}

func (c *batch) take(thread int) {
	for {
		i := c.next.Add(1) - 1
		if i >= c.n {
			return
		}
		c.run(int(i), thread)
		c.done.Add(1)
	}
}

// run calls f for the jobs 0..n-1 and returns when all have finished. thread
// is the same for no two calls that overlap.
func (p *pool) run(n int, f func(job, thread int)) {
	if n == 1 || p.threads == 1 {
		for i := range n {
			f(i, 0)
		}
		return
	}
	c := &batch{n: int64(n), run: f}
	p.publish(c)
	c.take(0)
	for i := 0; c.done.Load() < c.n; i++ {
		if i%64 == 63 {
			runtime.Gosched()
		}
	}
}

func (p *pool) close() { p.publish(&batch{stop: true}) }

// An operation that takes less than this many units, of about a nanosecond,
// stays on one thread: sharing costs a microsecond or two while workers spin.
// A job is at least so many.
const (
	oneThread = 15_000
	leastJob  = 2_000
)

// split cuts 0..n into ranges that begin at multiples of align and calls f on
// each; unit is the estimated nanoseconds of one element.
func (b *Backend) split(n, align int, unit float64, f func(lo, hi, thread int)) {
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
	b.pool.run((n+per-1)/per, func(job, thread int) {
		f(job*per, min(n, (job+1)*per), thread)
	})
}
