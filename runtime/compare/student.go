package compare

import "math"

// Quantile returns the p quantile, 0.5 <= p < 1, of Student's t with df > 0
// degrees of freedom: 1.96 is Quantile(0.975, math.Inf(1)).
func Quantile(p, df float64) float64 {
	if df > 1e7 {
		return normalQuantile(p)
	}
	lo, hi := 0.0, 1.0
	for tail(hi, df)/2 > 1-p && hi < 1e300 {
		hi *= 2
	}
	for range 200 {
		mid := lo + (hi-lo)/2
		if mid == lo || mid == hi {
			break
		}
		if tail(mid, df)/2 > 1-p {
			lo = mid
		} else {
			hi = mid
		}
	}
	return hi
}

func normalQuantile(p float64) float64 { return math.Sqrt2 * math.Erfinv(2*p-1) }

// tail is the probability that Student's t with df degrees of freedom is
// farther from 0 than t (Abramowitz and Stegun 1964, 26.7.1).
func tail(t, df float64) float64 {
	if math.IsInf(t, 0) {
		return 0
	}
	if df > 1e7 {
		return math.Erfc(math.Abs(t) / math.Sqrt2)
	}
	return incompleteBeta(df/2, 0.5, df/(df+t*t))
}

// incompleteBeta is the regularised incomplete beta function, by its continued
// fraction (Abramowitz and Stegun 1964, 26.5.8) after Lentz.
func incompleteBeta(a, b, x float64) float64 {
	switch {
	case x <= 0:
		return 0
	case x >= 1:
		return 1
	case x > (a+1)/(a+b+2):
		return 1 - incompleteBeta(b, a, 1-x)
	}
	la, _ := math.Lgamma(a)
	lb, _ := math.Lgamma(b)
	lab, _ := math.Lgamma(a + b)
	front := math.Exp(lab-la-lb+a*math.Log(x)+b*math.Log1p(-x)) / a
	const tiny = 1e-300
	c, d, f := 1.0, 0.0, 1.0
	for i := range 10000 {
		m := float64(i / 2)
		var num float64
		switch {
		case i == 0:
			num = 1
		case i%2 == 0:
			num = m * (b - m) * x / ((a + 2*m - 1) * (a + 2*m))
		default:
			num = -(a + m) * (a + b + m) * x / ((a + 2*m) * (a + 2*m + 1))
		}
		if d = 1 + num*d; math.Abs(d) < tiny {
			d = tiny
		}
		if c = 1 + num/c; math.Abs(c) < tiny {
			c = tiny
		}
		d = 1 / d
		f *= c * d
		if i > 0 && math.Abs(1-c*d) < 1e-15 {
			break
		}
	}
	return front * (f - 1)
}

// mcnemar is the two-sided probability of a split of b+c differing pairs at
// least as uneven as b to c when both ways are equally likely (McNemar 1947,
// exact: Fay 2010).
func mcnemar(b, c int) float64 {
	n := float64(b + c)
	ln, _ := math.Lgamma(n + 1)
	p := 0.0
	for k := range min(b, c) + 1 {
		lk, _ := math.Lgamma(float64(k) + 1)
		lr, _ := math.Lgamma(n - float64(k) + 1)
		p += math.Exp(ln - lk - lr - n*math.Ln2)
	}
	return min(1, 2*p)
}

// holm returns the probabilities adjusted for how many there are, so that the
// chance of any false claim among them stays below the level, however they
// depend on each other (Holm 1979).
func holm(ps []float64, order []int) []float64 {
	out := make([]float64, len(ps))
	worst := 0.0
	for rank, i := range order {
		worst = max(worst, min(1, ps[i]*float64(len(ps)-rank)))
		out[i] = worst
	}
	return out
}

// alike reports whether a standard error is that of items which all moved by the
// same amount, but for rounding.
func alike(delta, se float64) bool { return se <= 1e-12*math.Abs(delta) }

// signs is the two-sided probability that n items move the same way when both
// ways are equally likely.
func signs(n int) float64 { return min(1, 2*math.Pow(0.5, float64(n))) }
