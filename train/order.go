package train

// Seen returns, for each of n examples, the optimizer steps that learn from it,
// from 1: [Run] takes the same order, which is a function of the seed.
func (o Options) Seen(n int) [][]int {
	seen := make([][]int, n)
	if n == 0 {
		return seen
	}
	r := &run{Options: o, epoch: -1, order: make([]int, n)}
	for done := range o.Steps(n) {
		for _, i := range r.window(done) {
			seen[i] = append(seen[i], done+1)
		}
	}
	return seen
}
