package train

import "math"

// An Estimate is a number measured on a sample of items.
type Estimate struct {
	N             int // documents, pairs, or other items
	Value, Stderr float64
	// Each is what each item says about Value: their mean is Value, and their
	// spread gives Stderr (for a ratio by linearisation).
	Each []float64
	// Of a ratio what each item adds to its halves, Value being ΣY/ΣX.
	Y, X []float64 `json:"-"`
}

// MeanOf is the mean of each with its standard error, 0 for fewer than two.
func MeanOf(each []float64) Estimate {
	e := Estimate{N: len(each), Each: each}
	for _, v := range each {
		e.Value += v
	}
	if e.N > 0 {
		e.Value /= float64(e.N)
	}
	e.Stderr = stderr(each, e.Value)
	return e
}

// RatioOf is Σy/Σx over the items whose x is above 0, with the standard error of
// a ratio of means (Cochran 1977, 6.4).
func RatioOf(y, x []float64) Estimate {
	var e Estimate
	var sy, sx float64
	for i := range y {
		if x[i] > 0 {
			sy, sx, e.N = sy+y[i], sx+x[i], e.N+1
			e.Y, e.X = append(e.Y, y[i]), append(e.X, x[i])
		}
	}
	if e.N == 0 {
		return e
	}
	e.Value = sy / sx
	for i := range y {
		if x[i] > 0 {
			e.Each = append(e.Each, e.Value+(y[i]-e.Value*x[i])*float64(e.N)/sx)
		}
	}
	e.Stderr = stderr(e.Each, e.Value)
	return e
}

// Exp is the exponential of e, its standard error by linearisation.
func (e Estimate) Exp() Estimate {
	v := math.Exp(e.Value)
	out := Estimate{N: e.N, Value: v, Stderr: v * e.Stderr}
	for _, x := range e.Each {
		out.Each = append(out.Each, v+v*(x-e.Value))
	}
	return out
}

// Scale is e in another unit.
func (e Estimate) Scale(by float64) Estimate {
	out := Estimate{N: e.N, Value: by * e.Value, Stderr: math.Abs(by) * e.Stderr}
	for _, x := range e.Each {
		out.Each = append(out.Each, by*x)
	}
	return out
}

// Minus is e−f where item i of both is the same: what the items have in common
// does not count towards the standard error. It is false when the items are
// not the same number.
func (e Estimate) Minus(f Estimate) (Estimate, bool) {
	if len(e.Each) != len(f.Each) || len(e.Each) == 0 {
		return Estimate{}, false
	}
	d := Estimate{N: e.N, Value: e.Value - f.Value}
	for i := range e.Each {
		d.Each = append(d.Each, e.Each[i]-f.Each[i])
	}
	d.Stderr = stderr(d.Each, d.Value)
	return d, true
}

func stderr(each []float64, mean float64) float64 {
	n := float64(len(each))
	if n < 2 {
		return 0
	}
	ss := 0.0
	for _, v := range each {
		ss += (v - mean) * (v - mean)
	}
	return math.Sqrt(ss / (n - 1) / n)
}
