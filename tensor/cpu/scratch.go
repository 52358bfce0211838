package cpu

// scratch is memory that operations reuse: it grows to what they need, so a
// training step allocates nothing once it has run.
type scratch struct {
	rows, row, probs, grads, panels, low, values, more []float32
	scales                                             []float32
	wide                                               []float64
	out                                                [dotRows * dotCols]float32
}

// grow returns n elements of *s, which may hold anything.
func grow[T float32 | float64](s *[]T, n int) []T {
	if cap(*s) < n {
		*s = make([]T, n, n+n/4)
	}
	return (*s)[:n]
}
