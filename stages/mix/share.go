package mix

import "math"

// A supply is what a source can give.
type supply struct {
	weight float64
	tokens int // of all its rows
	passes int // over them at most
}

// shares returns how many tokens to take from each source so that they stand
// in the proportion of their weights. total is their sum; 0 stands for the sum
// at which the source of the largest weight (the first of several) is taken
// once, as a whole.
//
// A source that cannot give its part in the passes that it may make gives what
// it has, which short tells; the others keep their parts.
func shares(sources []supply, total int) (tokens []int, short []bool) {
	var sum float64
	anchor := 0
	for i, s := range sources {
		sum += s.weight
		if s.weight > sources[anchor].weight {
			anchor = i
		}
	}
	all := float64(total)
	if total == 0 {
		all = float64(sources[anchor].tokens) * (sum / sources[anchor].weight)
	}
	tokens, short = make([]int, len(sources)), make([]bool, len(sources))
	for i, s := range sources {
		part, have := math.Round(all*(s.weight/sum)), float64(s.tokens)*float64(s.passes)
		short[i] = part > have
		tokens[i] = int(min(part, have))
	}
	return tokens, short
}

// draw returns which rows to take to come as near to want tokens as whole rows
// allow, at least one: all rows in one order drawn by order, pass after pass.
func draw(lengths []int, want, passes int, order func(pass int) []int) (rows []int) {
	got := 0
	for pass := range passes {
		for _, i := range order(pass) {
			// The row that crosses the line is taken when that is nearer.
			if over := got + lengths[i] - want; over > 0 && over >= want-got && len(rows) > 0 {
				return rows
			}
			rows = append(rows, i)
			if got += lengths[i]; got >= want {
				return rows
			}
		}
	}
	return rows
}
