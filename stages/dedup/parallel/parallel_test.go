package parallel

import (
	"runtime"
	"sync/atomic"
	"testing"
)

func TestEveryStepOnce(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(4))
	for _, n := range []int{0, 1, 7, 1000} {
		for _, chunk := range []int{1, 3, 64} {
			times := make([]atomic.Int32, n)
			ForWorkers(n, chunk, func(worker, i int) {
				if worker < 0 || worker >= Workers() {
					t.Errorf("worker %d", worker)
				}
				times[i].Add(1)
			})
			for i := range times {
				if c := times[i].Load(); c != 1 {
					t.Errorf("step %d of %d ran %d times", i, n, c)
				}
			}
		}
	}
}

func TestPanicComesBack(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(4))
	defer func() {
		if p := recover(); p != "step" {
			t.Errorf("recovered %v", p)
		}
	}()
	For(100, 1, func(i int) {
		if i == 37 {
			panic("step")
		}
	})
	t.Error("For returned")
}
