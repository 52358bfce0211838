package tensortest

import (
	"fmt"

	"pipe/tensor"
)

// sizesOfMany are of tensors that one operation works on: empty ones, those of
// odd sizes, and of more elements than a device takes at a time.
var sizesOfMany = []int{1, 0, 37, 4096, 255, 0, 2049, 33001, 256, 3, 8192, 70003, 0}

// skewed returns a tensor that begins at element skip of its memory.
func (s *suite) skewed(x []float64, skip int) *tensor.Tensor {
	t := s.put(append(make([]float64, skip), x...), skip+len(x))
	return s.b.View(t, skip, len(x))
}

func testZeroAll(s *suite) {
	var ts, edges []*tensor.Tensor
	for i, n := range sizesOfMany {
		all := s.put(s.normal(n+7), n+7)
		ts = append(ts, s.b.View(all, i%4, n))
		edges = append(edges, s.b.View(all, 0, i%4), s.b.View(all, i%4+n, 7-i%4))
	}
	ids, codes := s.putInts([]int32{1, 2, 3, 4, 5}), s.alloc(tensor.U8, 41)
	s.b.UploadBytes(codes, []byte("forty-one bytes, of which some are kept.."))
	ts = append(ts, s.b.View(ids, 1, 3), s.b.View(codes, 3, 33))
	var before [][]float32
	for _, t := range edges {
		before = append(before, s.get(t))
	}
	s.b.ZeroAll(ts)
	for i, n := range sizesOfMany {
		s.same(fmt.Sprintf("tensor %d", i), s.get(ts[i]), make([]float32, n))
	}
	for i, t := range edges {
		s.same(fmt.Sprintf("beside tensor %d", i/2), s.get(t), before[i])
	}
	got := make([]int32, 5)
	s.b.DownloadInts(got, ids)
	if fmt.Sprint(got) != "[1 0 0 0 5]" {
		s.Errorf("ints are %v; want [1 0 0 0 5]", got)
	}
	if got := s.getBytes(codes); string(got) != "for"+string(make([]byte, 33))+"ept.." {
		s.Errorf("bytes are %q", got)
	}
}

func testSumSquaresOfMany(s *suite) {
	for round := range 3 { // each time of other tensors
		want, xs := []float64{2}, []*tensor.Tensor(nil)
		for i, n := range sizesOfMany[round:] {
			x := s.normal(n)
			want[0] += inner(x, x)
			xs = append(xs, s.skewed(x, (i+round)%4))
		}
		d := s.put([]float64{2}, 1)
		s.b.SumSquares(d, xs...)
		s.check("sum", d, want, F32)
		again := s.put([]float64{2}, 1)
		s.b.SumSquares(again, xs...)
		s.same("the sum again", s.get(again), s.get(d))
	}
}

// Many parameters are updated as each would be alone.
func testAdamWOfMany(s *suite) {
	for _, bits := range []int{32, 8} {
		o := tensor.AdamW{LR: 0.01, Beta1: 0.9, Beta2: 0.99, Eps: 1e-8, WeightDecay: 0.1, GradScale: 0.5, Step: 1}
		var together, alone []tensor.AdamWParam
		for i, n := range sizesOfMany {
			w, g := s.normal(n), s.normal(n)
			param := func() tensor.AdamWParam {
				p := tensor.AdamWParam{W: s.skewed(w, i%4), G: s.skewed(g, i%3)}
				if bits == 8 {
					p = s.moments8(n).param(p.W, p.G)
				} else {
					p.M, p.V = s.alloc(tensor.F32, n), s.alloc(tensor.F32, n)
				}
				p.NoDecay = i%3 == 1
				return p
			}
			together, alone = append(together, param()), append(alone, param())
		}
		step := s.b.AdamW
		if bits == 8 {
			step = s.b.AdamW8bit
		}
		for o.Step = 1; o.Step <= 3; o.Step++ {
			step(together, o)
			for i := range alone {
				one := alone[i : i+1 : i+1]
				a := o.For(&one[0])
				one[0].NoDecay = false
				step(one, a)
				one[0].NoDecay = i%3 == 1
			}
		}
		for i, p := range together {
			q, name := alone[i], fmt.Sprintf("of %d bits: parameter %d", bits, i)
			s.same(name, s.get(p.W), s.get(q.W))
			if bits == 8 {
				s.same(name+": largest of m", s.get(p.MMax), s.get(q.MMax))
				s.same(name+": largest of v", s.get(p.VMax), s.get(q.VMax))
				if string(s.getBytes(p.M)) != string(s.getBytes(q.M)) || string(s.getBytes(p.V)) != string(s.getBytes(q.V)) {
					s.Errorf("%s: other codes than alone", name)
				}
				continue
			}
			s.same(name+": m", s.get(p.M), s.get(q.M))
			s.same(name+": v", s.get(p.V), s.get(q.V))
		}
	}
}
