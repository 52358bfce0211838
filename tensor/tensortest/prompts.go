package tensortest

import (
	"fmt"

	"pipe/tensor"
)

// testPrompts compares what is read together (see tensor.PromptReader) with the same
// alone, bit for bit: rows of products with Uniform, and segments of attention that
// share keys.
func testPrompts(s *suite) {
	for _, dt := range []tensor.DType{tensor.F32, tensor.BF16, tensor.Q4_0, tensor.NF4} {
		for _, precision := range []tensor.DType{tensor.F32, tensor.BF16, tensor.FP8} {
			if tensor.HasPrecision(s.b, precision) == nil {
				s.promptRows(dt, precision, 136)
			}
		}
	}
	for _, precision := range []tensor.DType{tensor.BF16, tensor.FP8} { // other tiles
		if tensor.HasPrecision(s.b, precision) == nil {
			s.promptRows(tensor.BF16, precision, 256)
		}
	}
	for _, d := range []int{20, 64, 128} {
		s.promptSegments(d, tensor.F32, tensor.F32)
		s.promptSegments(d, tensor.BF16, tensor.BF16)
	}
}

// read is x as activations: BF16 where they are in that precision.
func (s *suite) read(precision tensor.DType, x []float64, n, cols int) *tensor.Tensor {
	a := activations{suite: s, half: precision != tensor.F32 && tensor.Halves(s.b)}
	return a.act(x, n, cols)
}

func (s *suite) promptRows(dt, precision tensor.DType, out int) {
	s.Helper()
	const many, in, r = 300, 256, 8
	w := s.load(dt, s.stored(dt, out, in), out, in)
	s.b.Precision(w, precision)
	x, bias := s.normal(many*in), s.put(s.normal(out), out)
	down, up := s.put(s.normal(r*in), r, in), s.put(s.normal(out*r), out, r)
	product := func(lo, hi int) []float32 {
		y := s.garbage(hi-lo, out)
		low := &tensor.LowRank{U: s.garbage(hi-lo, r), V: up, A: down, TransV: true, Alpha: 0.5}
		s.b.MatMul(y, s.read(precision, x[lo*in:hi*in], hi-lo, in), w, tensor.MatMul{TransB: true, Alpha: 1, Uniform: true, LowRank: low, Bias: bias})
		return s.get(y)
	}
	all := product(0, many)
	for _, z := range [][2]int{{0, 1}, {5, 45}, {37, 165}, {299, 300}} {
		s.same(fmt.Sprintf("%s in %s, %d columns, rows %d to %d", dt, precision, out, z[0], z[1]), product(z[0], z[1]), all[z[0]*out:z[1]*out])
	}
}

// promptSegments are of three prompts: one in pieces, one of few tokens, and one that
// goes on.
func (s *suite) promptSegments(d int, keys, precision tensor.DType) {
	s.Helper()
	const rows, heads, kv = 500, 4, 2
	o := tensor.Attention{Heads: heads, KVHeads: kv, HeadDim: d, Precision: precision,
		Q: []int32{0, 32, 64, 128, 256, 258, 308}, K: []int32{40, 40, 40, 40, 10, 310}, KLen: []int32{32, 64, 128, 256, 2, 178}}
	q, n := s.normal(308*heads*d), heads*d
	k, v := s.rows(keys, s.normal(rows*kv*d), rows, kv*d), s.rows(keys, s.normal(rows*kv*d), rows, kv*d)
	attend := func(lo, hi int32, o tensor.Attention) []float32 {
		x := s.read(precision, q[int(lo)*n:int(hi)*n], int(hi-lo), n)
		y := s.alloc(x.DType, int(hi-lo), n)
		s.b.Attention(y, s.garbage(int(hi-lo), heads), x, k, v, o)
		z := s.garbage(int(hi-lo), n)
		s.b.Dequantize(z, y)
		return s.get(z)
	}
	all := attend(0, 308, o)
	for i := range o.K {
		lo, hi, one := o.Q[i], o.Q[i+1], o
		one.Q, one.K, one.KLen = []int32{0, hi - lo}, o.K[i:i+1], o.KLen[i:i+1]
		s.same(fmt.Sprintf("attention in %s, heads of %d, segment %d", precision, d, i), attend(lo, hi, one), all[int(lo)*n:int(hi)*n])
	}
}
