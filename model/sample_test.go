package model

import (
	"cmp"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"pipe/tensor"
)

func TestExpNegative(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 1))
	for range 100_000 {
		x := -math.Abs(r.NormFloat64()) * math.Exp(6*r.NormFloat64())
		want := math.Exp(x)
		if x < -700 {
			want = 0
		}
		if got := tensor.ExpNegative(x); !(math.Abs(got-want) <= 1e-10*want) {
			t.Fatalf("exp(%v) is %v, want %v", x, got, want)
		}
	}
	for _, x := range []float64{math.NaN(), math.Inf(-1)} {
		if got := tensor.ExpNegative(x); got != 0 {
			t.Errorf("exp(%v) is %v", x, got)
		}
	}
	if got := tensor.ExpNegative(0); got != 1 {
		t.Errorf("exp(0) is %v", got)
	}
}

// kept is what plainly sorted candidates leave: the distribution to draw from.
func kept(o Sampling, logits []float32) map[int32]float64 {
	type token struct {
		id int32
		p  float64
	}
	var all []token
	top := float64(slices.Max(logits))
	for i, z := range logits {
		all = append(all, token{int32(i), math.Exp((float64(z) - top) / o.Temperature)})
	}
	slices.SortFunc(all, func(a, b token) int { return cmp.Or(cmp.Compare(logits[b.id], logits[a.id]), cmp.Compare(a.id, b.id)) })
	if o.TopK > 0 && o.TopK < len(all) {
		all = all[:o.TopK]
	}
	sum := 0.0
	for _, x := range all {
		sum += x.p
	}
	if o.TopP > 0 && o.TopP < 1 {
		acc := 0.0
		for i, x := range all {
			if acc += x.p; acc >= o.TopP*sum {
				all = all[:i+1]
				break
			}
		}
	}
	out := map[int32]float64{}
	sum = 0
	for _, x := range all {
		if x.p >= o.MinP {
			out[x.id] = x.p
			sum += x.p
		}
	}
	for id := range out {
		out[id] /= sum
	}
	return out
}

// TestSamplerDistribution runs u through [0, 1) and compares how much of it
// each token takes with its probability.
func TestSamplerDistribution(t *testing.T) {
	r := rand.New(rand.NewPCG(2, 2))
	var s sampler
	for range 300 {
		logits := make([]float32, 1+r.IntN(60))
		for i := range logits {
			logits[i] = float32(math.Round(3 * r.NormFloat64())) // with ties
		}
		o := Sampling{Temperature: 0.3 + 2*r.Float64()}
		if r.IntN(2) == 0 {
			o.TopK = r.IntN(70)
		}
		if r.IntN(2) == 0 {
			o.TopP = r.Float64()
		}
		if r.IntN(2) == 0 {
			o.MinP = r.Float64() / 2
		}
		const n = 4000
		got := map[int32]float64{}
		for i := range n {
			got[s.next(o, logits, nil, (float64(i)+0.5)/n)] += 1. / n
		}
		want := kept(o, logits)
		for id := range logits {
			id := int32(id)
			if w := want[id]; w == 0 && got[id] > 0 || !(math.Abs(got[id]-w) <= 1.01/n) {
				t.Fatalf("%+v %v: token %d has %v of the draws, probability %v", o, logits, id, got[id], w)
			}
		}
	}
}

// TestSamplerExtremes: logits that are equal, infinite or not numbers yield a
// token and no panic.
func TestSamplerExtremes(t *testing.T) {
	inf, nan := float32(math.Inf(1)), float32(math.NaN())
	var s sampler
	for _, logits := range [][]float32{{0}, {-inf, -inf}, {nan, nan, nan}, {1, nan, 2}, {nan, 1}, {inf, 1}, {inf, inf, nan}, {3, 3, 3, 3}, {-1e30, 1e30, 0}} {
		for _, o := range []Sampling{{}, {Temperature: 1}, {Temperature: 1e-9}, {Temperature: 100, TopK: 2}, {Temperature: 1, TopP: 0.5}, {Temperature: 1, MinP: 1}, {Temperature: 1, TopK: 1, TopP: 0.1, MinP: 0.9, RepetitionPenalty: 2}} {
			for _, u := range []float64{0, 0.5, 1 - 0x1p-53} {
				if id := s.next(o, slices.Clone(logits), []int32{0, 0, 9}, u); id < 0 || int(id) >= len(logits) {
					t.Errorf("%v %+v: token %d", logits, o, id)
				}
			}
		}
	}
}

// vocabulary is logits like a model's, of 49,152 tokens.
func vocabulary() []float32 {
	r := rand.New(rand.NewPCG(3, 3))
	logits := make([]float32, 49152)
	for i := range logits {
		logits[i] = float32(3 * r.NormFloat64())
	}
	return logits
}

var samplings = map[string]Sampling{
	"greedy":      {},
	"temperature": {Temperature: 0.8},
	"top_k":       {Temperature: 0.8, TopK: 40},
	"top_p":       {Temperature: 0.8, TopP: 0.95},
	"min_p":       {Temperature: 0.8, MinP: 0.05},
	"all":         {Temperature: 0.8, TopK: 100, TopP: 0.9, MinP: 0.02, RepetitionPenalty: 1.2},
}

func TestSamplerAllocates(t *testing.T) {
	logits, seen := vocabulary(), []int32{1, 2, 3, 3, 1}
	for name, o := range samplings {
		var s sampler
		if n := testing.AllocsPerRun(3, func() { s.next(o, logits, seen, 0.7) }); n != 0 {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
}

func BenchmarkSampler(b *testing.B) {
	logits, seen := vocabulary(), []int32{1, 2, 3, 3, 1}
	for name, o := range samplings {
		b.Run(name, func(b *testing.B) {
			var s sampler
			for i := range b.N {
				s.next(o, logits, seen, Stream(1).Float(uint64(i)))
			}
		})
	}
}

// TestSamplerFew: a token chosen by the largest logits, and by what a backend finds
// out about all, is that chosen by all, unless that is not enough.
func TestSamplerFew(t *testing.T) {
	r := rand.New(rand.NewPCG(4, 4))
	var s sampler
	enough := 0
	for range 3000 {
		logits := make([]float32, 2+r.IntN(700))
		spread := float32(1 + r.IntN(20))
		for i := range logits {
			logits[i] = float32(r.IntN(200)) * spread / 200 // many are equal
		}
		n := len(logits)
		o := Sampling{Temperature: 0.2 + r.Float64(), TopP: float64(r.IntN(3)) * 0.45, MinP: float64(r.IntN(2)) * 0.1}
		switch r.IntN(5) {
		case 0:
			o = Sampling{}
		case 1, 2:
			o.TopK = 1 + r.IntN(n)
		}
		need, u := o.few(n), r.Float64()
		if o.TopK > tensor.MostLargest && o.TopK < n {
			if need.k != 0 {
				t.Fatalf("%+v needs %d logits", o, need.k)
			}
			continue
		}
		order := make([]int32, n)
		for i := range order {
			order[i] = int32(i)
		}
		slices.SortStableFunc(order, func(a, b int32) int { return cmp.Compare(logits[b], logits[a]) })
		z := make([]float32, need.k)
		for i := range z {
			z[i] = logits[order[i]]
		}
		want := s.next(o, slices.Clone(logits), nil, u)
		var sum float64
		var drawn int32
		if need.weigh {
			sum = s.weighAll(logits, z[0], 1/o.Temperature)
			drawn = s.drawAll(sum, order[0], u)
		}
		got, ok := s.nextFew(o, n, order[:need.k], z, sum, drawn, u)
		if ok && got != want {
			t.Fatalf("%+v of %d: %d, want %d", o, n, got, want)
		}
		if ok {
			enough++
		} else if n <= tensor.MostLargest {
			t.Fatalf("%+v of %d: all are there, and not enough", o, n)
		}
	}
	if enough < 2000 {
		t.Errorf("%d of 3000 were enough", enough)
	}
}
