package train

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"pipe/model"
)

// A Preference is a prompt with a better and a worse answer, as token ids.
type Preference struct{ Prompt, Chosen, Rejected []int32 }

// LargestPairs returns up to n pairs, those with the most tokens first.
func LargestPairs(pairs []Preference, n int) []Preference {
	length := func(x Preference) int { return 2*len(x.Prompt) + len(x.Chosen) + len(x.Rejected) }
	s := slices.SortedStableFunc(slices.Values(pairs), func(a, b Preference) int { return cmp.Compare(length(b), length(a)) })
	return s[:min(n, len(s))]
}

// Losses of [Preferences].
const (
	LossSigmoid = "sigmoid" // [DPO]
	LossHinge   = "hinge"   // [Hinge]
	LossIPO     = "ipo"     // [IPO]
	LossORPO    = "orpo"    // [ORPO] plus the likelihood of prompt and chosen answer; no reference
)

// Losses returns the names of the preference losses.
func Losses() []string { return []string{LossSigmoid, LossIPO, LossHinge, LossORPO} }

// Preferences is the task of preference tuning: the mean loss over the pairs
// of a window.
type Preferences struct {
	Model *model.Decoder
	Pairs []Preference
	Loss  string
	Beta  float64
	// Ref holds the reference's summed log-probabilities, one for each of
	// Pairs; ORPO needs none. See [SumLogProbs].
	Ref []Pair

	batch model.Batch
	text  []int32 // prompt and answer of ORPO's likelihood
	grad  []float32
	means []Mean
}

// Len implements Task.
func (t *Preferences) Len() int { return len(t.Pairs) }

// Step implements Task.
func (t *Preferences) Step(p *model.Pass, micro, window []int) ([]Mean, error) {
	t.fill(micro)
	s, err := t.Model.LogProb(p, t.batch)
	if err != nil {
		return nil, err
	}
	t.grad = slices.Grow(t.grad[:0], len(s.LogP))[:len(s.LogP)]
	g := pairGrad{logp: s.LogP, grad: t.grad}
	tokens := 0 // of the likelihood term, over the window
	if t.Loss == LossORPO {
		for _, i := range window {
			tokens += len(t.Pairs[i].Prompt) + len(t.Pairs[i].Chosen) - 1
		}
	}
	t.means = t.means[:0]
	for _, i := range micro {
		t.pair(&g, i, float64(len(window)), float64(tokens))
	}
	return t.means, t.Model.Backward(p, t.grad)
}

// fill lays out the pairs: chosen and rejected one after the other. ORPO also
// scores the prompt before the chosen answer.
func (t *Preferences) fill(micro []int) {
	t.batch.Reset()
	for _, i := range micro {
		x := t.Pairs[i]
		if t.Loss == LossORPO {
			t.text = append(append(t.text[:0], x.Prompt[1:]...), x.Chosen...)
			t.batch.Add(model.Continuation{Context: x.Prompt[:1], Target: t.text})
		} else {
			t.batch.Add(model.Continuation{Context: x.Prompt, Target: x.Chosen})
		}
		t.batch.Add(model.Continuation{Context: x.Prompt, Target: x.Rejected})
	}
}

// A pairGrad walks along the scored tokens of a batch.
type pairGrad struct {
	logp, grad []float32
}

// take returns the next n log-probabilities and the place of their gradients.
func (g *pairGrad) take(n int) (logp, grad []float32) {
	logp, grad = g.logp[:n], g.grad[:n]
	g.logp, g.grad = g.logp[n:], g.grad[n:]
	return logp, grad
}

// pair adds the means of pair i and sets the gradients of its tokens, for a
// window of so many pairs and tokens.
func (t *Preferences) pair(g *pairGrad, i int, pairs, tokens float64) {
	x := t.Pairs[i]
	nll := 0.0
	if t.Loss == LossORPO {
		lp, dp := g.take(len(x.Prompt) - 1)
		nll -= sum(lp)
		set(dp, -1/tokens)
	}
	lc, dc := g.take(len(x.Chosen))
	lr, dr := g.take(len(x.Rejected))
	policy := Pair{sum(lc), sum(lr)}
	nc, nr := float64(len(x.Chosen)), float64(len(x.Rejected))
	var loss float64
	var grad, reward Pair
	var avg Pair
	if t.Loss == LossORPO {
		avg = Pair{policy.Chosen / nc, policy.Rejected / nr}
		nll -= policy.Chosen
		odds, dodds := ORPO(t.Beta, avg)
		grad = Pair{dodds.Chosen/nc - pairs/tokens, dodds.Rejected / nr}
		loss = odds + nll*pairs/tokens
		reward = Pair{t.Beta * avg.Chosen, t.Beta * avg.Rejected}
	} else {
		ref := t.Ref[i]
		switch t.Loss {
		case LossHinge:
			loss, grad = Hinge(t.Beta, policy, ref)
		case LossIPO:
			loss, grad = IPO(t.Beta, policy, ref, len(x.Chosen), len(x.Rejected))
		default:
			loss, grad = DPO(t.Beta, policy, ref)
		}
		reward = Pair{t.Beta * (policy.Chosen - ref.Chosen), t.Beta * (policy.Rejected - ref.Rejected)}
	}
	set(dc, grad.Chosen/pairs)
	set(dr, grad.Rejected/pairs)
	right := 0.0
	if reward.Chosen > reward.Rejected {
		right = 1
	}
	t.means = add(t.means, []Mean{
		{"loss", loss, 1}, {"rewards/chosen", reward.Chosen, 1}, {"rewards/rejected", reward.Rejected, 1},
		{"rewards/accuracies", right, 1}, {"rewards/margins", reward.Chosen - reward.Rejected, 1},
		{"logps/chosen", policy.Chosen, 1}, {"logps/rejected", policy.Rejected, 1},
	})
	if t.Loss == LossORPO {
		t.means = add(t.means, []Mean{{"nll_loss", nll * pairs / tokens, 1}, {"log_odds", LogOdds(avg), 1}})
	}
}

func sum(v []float32) (s float64) {
	for _, x := range v {
		s += float64(x)
	}
	return s
}

func set(v []float32, to float64) {
	for i := range v {
		v[i] = float32(to)
	}
}

// SumLogProbs returns the summed log-probabilities of the answers of each pair
// under the model as it is, without dropout. base leaves out its adapter.
func SumLogProbs(ctx context.Context, d *model.Decoder, pairs []Preference, base bool, progress func(done int)) ([]Pair, error) {
	cs := make([]model.Continuation, 0, 2*len(pairs))
	for _, x := range pairs {
		cs = append(cs, model.Continuation{Context: x.Prompt, Target: x.Chosen}, model.Continuation{Context: x.Prompt, Target: x.Rejected})
	}
	o := model.ScoreOptions{Base: base}
	if progress != nil {
		o.Progress = func(done int) { progress(done / 2) }
	}
	s, err := d.Score(ctx, cs, o)
	if err != nil {
		return nil, fmt.Errorf("score preference pairs: %w", err)
	}
	out := make([]Pair, len(pairs))
	for i := range out {
		out[i] = Pair{sum(s[2*i].LogP), sum(s[2*i+1].LogP)}
	}
	return out, nil
}

// PreferenceAccuracy is the share of pairs whose chosen answer is more likely
// per token than the rejected one; an equal pair counts half.
func PreferenceAccuracy(pairs []Preference, sums []Pair) Estimate {
	return share(len(pairs), func(i int) float64 {
		return sums[i].Chosen/float64(len(pairs[i].Chosen)) - sums[i].Rejected/float64(len(pairs[i].Rejected))
	})
}

// RewardAccuracy is the share of pairs whose chosen answer gained more
// log-probability over the reference than the rejected one; an equal pair
// counts half, so that the reference itself has 0.5.
func RewardAccuracy(sums, ref []Pair) Estimate {
	return share(len(sums), func(i int) float64 { return margin(sums[i], ref[i]) })
}

// RewardMargin is the mean of beta·Δ over pairs.
func RewardMargin(beta float64, sums, ref []Pair) Estimate {
	each := make([]float64, len(sums))
	for i := range each {
		each[i] = beta * margin(sums[i], ref[i])
	}
	return MeanOf(each)
}

func share(n int, margin func(i int) float64) Estimate {
	each := make([]float64, n)
	for i := range each {
		switch m := margin(i); {
		case m > 0:
			each[i] = 1
		case m == 0:
			each[i] = 0.5
		}
	}
	return MeanOf(each)
}
