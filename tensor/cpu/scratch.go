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

// muchScratch is how many elements are collected before more take their place: a
// plan counts the larger of both, not the sum.
const muchScratch = 1 << 18

// grow returns n elements of *s, which may hold anything, with a little room to
// grow, so that work of rising sizes seldom does.
func grow[T float32 | float64](s *[]T, n int) []T {
	if cap(*s) < n {
		if cap(*s) >= muchScratch {
			*s = nil
			runtime.GC()
		}
		*s = make([]T, n, n+n/8)
	}
	return (*s)[:n]
}
