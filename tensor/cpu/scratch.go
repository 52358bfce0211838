package cpu

import "runtime"

// scratch is memory that operations reuse: it grows to what they need, so a
// training step allocates nothing once it has run.
type scratch struct {
	rows, row, probs, grads, panels, low, values, more []float32
	scales, pairs                                      []float32
	wide                                               []float64
	out                                                [dotRows * dotCols]float32
}

// grow returns n elements of *s, which may hold anything. What it held before is
// collected first where it is much: a plan counts the larger of both, not the sum.
func grow[T float32 | float64](s *[]T, n int) []T {
	if cap(*s) < n {
		if large := cap(*s) >= leastPages; large {
			*s = nil
			runtime.GC()
		}
		*s = make([]T, n)
	}
	return (*s)[:n]
}
