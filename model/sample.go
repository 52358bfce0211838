package model

import (
	"cmp"
	"fmt"
	"math"
	"slices"
)

// Sampling says how the next token is chosen. The zero value is greedy.
type Sampling struct {
	Temperature float64 // 0: greedy, the first most likely token
	TopK        int     // keep this many most likely tokens; 0: all
	TopP        float64 // keep the smallest set with this total probability; 0 or 1: all
	MinP        float64 // keep tokens at least this likely relative to the most likely; 0: all
	// RepetitionPenalty divides the positive and multiplies the negative
	// logits of tokens seen before (Keskar et al. 2019); 0 or 1: none.
	RepetitionPenalty float64
}

// Check reports a setting out of range.
func (s Sampling) Check() error {
	for _, f := range []struct {
		name   string
		v      float64
		lo, hi float64
	}{
		{"temperature", s.Temperature, 0, 100}, {"top_p", s.TopP, 0, 1}, {"min_p", s.MinP, 0, 1},
		{"top_k", float64(s.TopK), 0, math.MaxInt32}, {"repetition_penalty", s.RepetitionPenalty, 0, 100},
	} {
		if !(f.v >= f.lo && f.v <= f.hi) {
			return fmt.Errorf("%s is %v; must be between %v and %v", f.name, f.v, f.lo, f.hi)
		}
	}
	return nil
}

type candidate struct {
	id int32
	p  float64 // weight, then probability
}

// A sampler chooses tokens by logits. scratch is reused between calls.
type sampler struct{ scratch []candidate }

// next returns the token for logits, which it may change. seen are the tokens
// before it and u is a number in [0, 1) that decides.
func (s *sampler) next(o Sampling, logits []float32, seen []int32, u float64) int32 {
	if o.RepetitionPenalty != 0 && o.RepetitionPenalty != 1 {
		penalize(logits, seen, float32(o.RepetitionPenalty))
	}
	best := 0
	for i, z := range logits {
		if z > logits[best] {
			best = i
		}
	}
	if o.Temperature == 0 {
		return int32(best)
	}
	c := s.scratch[:0]
	top, sum := float64(logits[best]), 0.0
	for i, z := range logits {
		w := math.Exp((float64(z) - top) / o.Temperature)
		sum += w
		c = append(c, candidate{int32(i), w})
	}
	s.scratch = c
	return choose(o.keep(c, sum), u)
}

// penalize changes the logit of each seen token once.
func penalize(logits []float32, seen []int32, by float32) {
	done := make(map[int32]bool, len(seen))
	for _, id := range seen {
		if done[id] || int(id) >= len(logits) {
			continue
		}
		done[id] = true
		if logits[id] > 0 {
			logits[id] /= by
		} else {
			logits[id] *= by
		}
	}
}

// keep drops unlikely candidates in the order of transformers: top-k, top-p of
// what is left, min-p. sum is the total weight of c.
func (o Sampling) keep(c []candidate, sum float64) []candidate {
	if o.TopK > 0 && o.TopK < len(c) {
		sortCandidates(c)
		c = c[:o.TopK]
		sum = total(c)
	}
	if o.TopP > 0 && o.TopP < 1 {
		// All tokens below this weight together are less than 1-TopP of the
		// total, so none of them is in the nucleus: no need to sort them.
		floor := (1 - o.TopP) * sum / float64(len(c))
		c = slices.DeleteFunc(c, func(x candidate) bool { return x.p < floor })
		sortCandidates(c)
		acc := 0.0
		for i, x := range c {
			acc += x.p
			if acc >= o.TopP*sum {
				c = c[:i+1]
				break
			}
		}
	}
	if o.MinP > 0 {
		most := 0.0
		for _, x := range c {
			most = max(most, x.p)
		}
		c = slices.DeleteFunc(c, func(x candidate) bool { return x.p < o.MinP*most })
	}
	return c
}

func sortCandidates(c []candidate) {
	slices.SortFunc(c, func(a, b candidate) int { return cmp.Or(cmp.Compare(b.p, a.p), cmp.Compare(a.id, b.id)) })
}

func total(c []candidate) (sum float64) {
	for _, x := range c {
		sum += x.p
	}
	return sum
}

// choose returns the candidate in which u of the total weight falls.
func choose(c []candidate, u float64) int32 {
	left := u * total(c)
	for _, x := range c {
		if left -= x.p; left < 0 {
			return x.id
		}
	}
	return c[len(c)-1].id
}
