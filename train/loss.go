// Package train turns log-probabilities into gradients and gradients into
// weights.
//
// Losses are pure functions of log-probabilities in float64. A [Task] applies
// one to a model, and [Run] is the loop: it orders the data, steps the
// optimizer, and writes checkpoints from which a killed run goes on to the
// same bytes.
package train

import "math"

// A Pair is a number for a chosen and a rejected answer: the sum of the
// log-probabilities of its tokens, or the gradient with respect to it.
type Pair struct{ Chosen, Rejected float64 }

// DPO returns the sigmoid loss of Rafailov et al. 2023 (eq. 7) and its gradient
// with respect to policy. At policy == ref it is ln 2.
func DPO(beta float64, policy, ref Pair) (loss float64, grad Pair) {
	z := beta * margin(policy, ref)
	g := -beta * sigmoid(-z)
	return softplus(-z), Pair{g, -g}
}

// Hinge returns max(0, 1 - beta·Δ) (Zhao et al. 2023) and its gradient.
func Hinge(beta float64, policy, ref Pair) (loss float64, grad Pair) {
	z := 1 - beta*margin(policy, ref)
	if z <= 0 {
		return 0, Pair{}
	}
	return z, Pair{-beta, beta}
}

// IPO returns (Δc/nc - Δr/nr - 1/(2·beta))² (Azar et al. 2023, eq. 17, with
// log-ratios averaged over the nc and nr tokens of the answers, at least 1) and
// its gradient with respect to the sums in policy.
func IPO(beta float64, policy, ref Pair, nc, nr int) (loss float64, grad Pair) {
	c, r := float64(max(nc, 1)), float64(max(nr, 1))
	z := (policy.Chosen-ref.Chosen)/c - (policy.Rejected-ref.Rejected)/r - 1/(2*beta)
	return z * z, Pair{2 * z / c, -2 * z / r}
}

// ORPO returns the odds-ratio term -beta·log σ(log odds ratio) of Hong et al.
// 2024 (eq. 7) and its gradient, for average log-probabilities per token. The
// likelihood term is not part of it.
func ORPO(beta float64, avg Pair) (loss float64, grad Pair) {
	c, r := min(avg.Chosen, -1e-7), min(avg.Rejected, -1e-7)
	z := LogOdds(avg)
	g := -beta * sigmoid(-z)
	return beta * softplus(-z), Pair{g / -math.Expm1(c), -g / -math.Expm1(r)}
}

// LogOdds returns the log of the odds ratio of two average log-probabilities,
// each taken as at most -1e-7.
func LogOdds(avg Pair) float64 {
	c, r := min(avg.Chosen, -1e-7), min(avg.Rejected, -1e-7)
	return (c - r) - (log1mexp(c) - log1mexp(r))
}

// margin is Δ, how much more than ref the policy prefers the chosen answer.
func margin(policy, ref Pair) float64 {
	return (policy.Chosen - ref.Chosen) - (policy.Rejected - ref.Rejected)
}

// softplus returns log(1+e^x) without overflow.
func softplus(x float64) float64 { return max(x, 0) + math.Log1p(math.Exp(-math.Abs(x))) }

func sigmoid(x float64) float64 {
	if x < 0 {
		e := math.Exp(x)
		return e / (1 + e)
	}
	return 1 / (1 + math.Exp(-x))
}

// log1mexp returns log(1-e^x) for x < 0 (Mächler 2012).
func log1mexp(x float64) float64 {
	if x < -math.Ln2 {
		return math.Log1p(-math.Exp(x))
	}
	return math.Log(-math.Expm1(x))
}
