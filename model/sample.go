package model

import (
	"cmp"
	"fmt"
	"math"
	"slices"

	"pipe/tensor"
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

// A sampler chooses tokens by logits. Its memory is used again.
type sampler struct {
	weights []float32   // of every token
	sums    []float64   // of every weightBlock weights
	kept    []candidate // those that may be drawn
	seen    []uint32    // by token: the latest call that penalized it
	calls   uint32
}

type candidate struct {
	id int32
	z  float32 // logit
	w  float32 // weight: exp of the logit over the temperature, 1 at most
}

// next returns the token for logits, which it may change. seen are the tokens
// before it and u is a number in [0, 1) that decides.
//
// Unlikely tokens are cut in the order of transformers: top-k, top-p of what
// is left, min-p. Only what may be kept is ever sorted.
func (s *sampler) next(o Sampling, logits []float32, seen []int32, u float64) int32 {
	if o.RepetitionPenalty != 0 && o.RepetitionPenalty != 1 {
		s.penalize(logits, seen, float32(o.RepetitionPenalty))
	}
	best := argmax(logits)
	if o.Temperature == 0 {
		return best
	}
	top, t := logits[best], 1/o.Temperature
	nucleus := o.TopP > 0 && o.TopP < 1
	switch {
	case o.TopK > 0 && o.TopK < len(logits):
		s.largest(logits, o.TopK)
		slices.SortFunc(s.kept, candidate.compare)
		return s.nextOf(o, best, top, u)
	case nucleus:
		total := s.weighAll(logits, top, t)
		// All tokens below this weight together are less than 1-TopP of the
		// total, so none of them is in the nucleus.
		s.above(logits, float32((1-o.TopP)*total/float64(len(logits))))
		return s.draw(s.head(o, total), best, u)
	case o.MinP > 0: // these can be told by their logits, with a margin for rounding
		s.likely(logits, o.least(top))
		s.weigh(top, t)
		s.kept = slices.DeleteFunc(s.kept, func(c candidate) bool { return c.w < float32(o.MinP) })
		return s.draw(s.kept, best, u)
	default:
		return s.drawAll(s.weighAll(logits, top, t), best, u)
	}
}

// nextOf chooses among the tokens kept, which are in order; best and its logit top
// are of all.
func (s *sampler) nextOf(o Sampling, best int32, top float32, u float64) int32 {
	s.weigh(top, 1/o.Temperature)
	if o.TopP == 0 {
		o.TopP = 1
	}
	return s.draw(s.head(o, total(s.kept)), best, u)
}

// A fewNeed is what a token can be chosen by, without all logits.
type fewNeed struct {
	k     int  // so many of the most likely tokens, in order; 0: nothing but all logits will do
	weigh bool // the sum of all weights, and the token drawn by them
}

// few returns what next needs of n logits, once penalties are in them.
func (o *Sampling) few(n int) fewNeed {
	switch {
	case o.Temperature == 0:
		return fewNeed{k: 1}
	case o.TopK > 0 && o.TopK < n:
		if o.TopK > tensor.MostLargest {
			return fewNeed{}
		}
		return fewNeed{k: o.TopK}
	case o.TopP > 0 && o.TopP < 1:
		return fewNeed{min(n, tensor.MostLargest), true}
	case o.MinP > 0:
		return fewNeed{k: min(n, tensor.MostLargest)}
	}
	return fewNeed{1, true}
}

// nextFew is next, for what few asked for: the tokens ids with the first logits of
// n, in order, the sum of weights and the token drawn by them. It reports whether
// that was enough.
func (s *sampler) nextFew(o Sampling, n int, ids []int32, logits []float32, sum float64, drawn int32, u float64) (id int32, ok bool) {
	best, top, t := ids[0], logits[0], 1/o.Temperature
	if o.Temperature == 0 {
		return best, true
	}
	all := len(ids) == n
	s.kept = s.kept[:0]
	switch {
	case o.TopK > 0 && o.TopK < n:
		s.candidates(ids[:o.TopK], logits)
		return s.nextOf(o, best, top, u), true
	case o.TopP > 0 && o.TopP < 1:
		s.candidates(ids, logits)
		s.weigh(top, t)
		floor := float32((1 - o.TopP) * sum / float64(n))
		all = all || s.kept[len(ids)-1].w < floor
		s.kept = slices.DeleteFunc(s.kept, func(c candidate) bool { return c.w < floor })
		kept := len(s.kept)
		head := s.head(o, sum)
		return s.draw(head, best, u), all || len(head) < kept
	case o.MinP > 0:
		floor := o.least(top)
		s.candidates(ids, logits)
		all = all || !(logits[len(ids)-1] >= floor)
		s.weigh(top, t)
		s.kept = slices.DeleteFunc(s.kept, func(c candidate) bool { return !(c.z >= floor) || c.w < float32(o.MinP) })
		slices.SortFunc(s.kept, func(a, b candidate) int { return cmp.Compare(a.id, b.id) })
		return s.draw(s.kept, best, u), all
	}
	return drawn, true
}

// candidates keeps tokens, in order.
func (s *sampler) candidates(ids []int32, logits []float32) {
	for i, id := range ids {
		s.kept = append(s.kept, candidate{id: id, z: logits[i]})
	}
}

// least is the logit below which no token is as likely as MinP says, relative to
// one with the logit top: with a margin for rounding.
func (o *Sampling) least(top float32) float32 {
	return float32(float64(top) + o.Temperature*(math.Log(o.MinP)-1e-3))
}

// argmax returns the first largest logit.
func argmax(logits []float32) int32 {
	best, most := 0, logits[0]
	for i, z := range logits {
		if z > most {
			best, most = i, z
		}
	}
	return int32(best)
}

// look begins to look at tokens of n.
func (s *sampler) look(n int) {
	if len(s.seen) < n {
		s.seen = make([]uint32, n)
	}
	if s.calls++; s.calls == 0 {
		clear(s.seen)
		s.calls = 1
	}
}

// first reports whether id is one of n tokens, and was not looked at since look.
func (s *sampler) first(id int32, n int) bool {
	if int(id) >= n || s.seen[id] == s.calls {
		return false
	}
	s.seen[id] = s.calls
	return true
}

// penalize changes the logit of each seen token once.
func (s *sampler) penalize(logits []float32, seen []int32, by float32) {
	s.look(len(logits))
	for _, id := range seen {
		if !s.first(id, len(logits)) {
			continue
		}
		if logits[id] > 0 {
			logits[id] /= by
		} else {
			logits[id] *= by
		}
	}
}

// weightBlock is how many weights are summed before the sum of all: draws skip
// whole blocks.
const weightBlock = tensor.WeighBlock

// weighAll sets the weight of every token and returns their sum.
func (s *sampler) weighAll(logits []float32, top float32, t float64) (sum float64) {
	s.weights = slices.Grow(s.weights[:0], len(logits))[:len(logits)]
	s.sums = s.sums[:0]
	for i := 0; i < len(logits); i += weightBlock {
		block := logits[i:min(i+weightBlock, len(logits))]
		weights, part := s.weights[i:][:len(block)], 0.0
		for j, z := range block {
			w := float32(tensor.ExpNegative(float64(z-top) * t))
			weights[j] = w
			part += float64(w)
		}
		s.sums = append(s.sums, part)
		sum += part
	}
	return sum
}

// likely keeps the tokens whose logit is at least the floor, in order.
func (s *sampler) likely(logits []float32, floor float32) {
	s.kept = s.kept[:0]
	for i, z := range logits {
		if z >= floor {
			s.kept = append(s.kept, candidate{id: int32(i), z: z})
		}
	}
}

// above keeps the tokens whose weight is at least the floor, in order.
func (s *sampler) above(logits []float32, floor float32) {
	s.kept = s.kept[:0]
	for i, w := range s.weights {
		if w >= floor {
			s.kept = append(s.kept, candidate{int32(i), logits[i], w})
		}
	}
}

// weigh sets the weights of the tokens kept.
func (s *sampler) weigh(top float32, t float64) {
	for i := range s.kept {
		c := &s.kept[i]
		c.w = float32(tensor.ExpNegative(float64(c.z-top) * t))
	}
}

// before orders tokens by logit, the first of equals first; NaN comes last.
func (c candidate) before(d candidate) bool {
	return c.z > d.z || c.z == d.z && c.id < d.id || d.z != d.z && (c.z == c.z || c.id < d.id)
}

// compare is the order of before.
func (c candidate) compare(d candidate) int {
	if c.before(d) {
		return -1
	}
	return 1
}

// largest keeps the k most likely tokens, in a heap whose root is the least.
func (s *sampler) largest(logits []float32, k int) {
	h := s.kept[:0]
	for i, z := range logits[:k] {
		h = append(h, candidate{id: int32(i), z: z})
	}
	s.kept = h
	less := func(a, b candidate) bool { return b.before(a) }
	for i := k/2 - 1; i >= 0; i-- {
		sink(h, i, less)
	}
	for i := k; i < len(logits); i++ {
		if z := logits[i]; z > h[0].z || h[0].z != h[0].z { // the first of equals stays
			if c := (candidate{id: int32(i), z: z}); c.before(h[0]) {
				h[0] = c
				sink(h, 0, less)
			}
		}
	}
}

// head cuts the tokens kept by top-p and min-p and returns them, the most
// likely first. total is the weight that top-p is a part of.
func (s *sampler) head(o Sampling, total float64) []candidate {
	h := s.kept
	for i := len(h)/2 - 1; i >= 0; i-- {
		sink(h, i, candidate.before)
	}
	// The root moves behind the heap, which shrinks: the end is in order.
	n, sum := len(h), 0.0
	for n > 0 {
		c := h[0]
		if o.MinP > 0 && n < len(h) && c.w < float32(o.MinP) {
			break
		}
		n--
		h[0], h[n] = h[n], c
		sink(h[:n], 0, candidate.before)
		if sum += float64(c.w); o.TopP < 1 && sum >= o.TopP*total {
			break
		}
	}
	h = h[n:]
	slices.Reverse(h)
	return h
}

// sink restores the heap h, in which only element i may stand too high.
func sink(h []candidate, i int, before func(a, b candidate) bool) {
	for {
		j := 2*i + 1
		if j >= len(h) {
			return
		}
		if j+1 < len(h) && before(h[j+1], h[j]) {
			j++
		}
		if !before(h[j], h[i]) {
			return
		}
		h[i], h[j] = h[j], h[i]
		i = j
	}
}

func total(c []candidate) (sum float64) {
	for _, x := range c {
		sum += float64(x.w)
	}
	return sum
}

// draw returns the candidate in which u of the total weight falls.
func (s *sampler) draw(c []candidate, best int32, u float64) int32 {
	left := u * total(c)
	for _, x := range c {
		if left -= float64(x.w); left < 0 {
			return x.id
		}
	}
	return best // rounding, or no weight at all: logits that are not finite
}

// drawAll is draw among all tokens.
func (s *sampler) drawAll(sum float64, best int32, u float64) int32 {
	left := u * sum
	for b, part := range s.sums {
		if left >= part {
			left -= part
			continue
		}
		from := b * weightBlock
		last := best // of this block, when rounding leaves none
		for i, w := range s.weights[from:min(from+weightBlock, len(s.weights))] {
			if w == 0 {
				continue
			}
			last = int32(from + i)
			if left -= float64(w); left < 0 {
				break
			}
		}
		return last
	}
	return best
}
