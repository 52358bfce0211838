// Package parallel runs the steps of a loop on all processors.
package parallel

import (
	"runtime"
	"sync"
	"sync/atomic"
)

// For calls f(i) for every i below n, from several goroutines. Steps are
// handed out in ascending order, chunk at a time. A panic in f is raised again
// by For.
func For(n, chunk int, f func(i int)) {
	ForWorkers(n, chunk, func(_, i int) { f(i) })
}

// Workers returns how many goroutines ForWorkers uses at most.
func Workers() int { return runtime.GOMAXPROCS(0) }

// ForWorkers is For with the number of the goroutine, below Workers, for
// scratch memory that is kept from step to step.
func ForWorkers(n, chunk int, f func(worker, i int)) {
	workers := min(Workers(), (n+chunk-1)/chunk)
	if workers <= 1 {
		for i := range n {
			f(0, i)
		}
		return
	}
	var next atomic.Int64
	var wg sync.WaitGroup
	var once sync.Once
	var failure any
	for w := range workers {
		wg.Go(func() {
			defer func() {
				if p := recover(); p != nil {
					once.Do(func() { failure = p })
					next.Store(int64(n))
				}
			}()
			for {
				to := int(next.Add(int64(chunk)))
				for i := to - chunk; i < min(to, n); i++ {
					f(w, i)
				}
				if to >= n {
					return
				}
			}
		})
	}
	wg.Wait()
	if failure != nil {
		panic(failure)
	}
}
