package tensortest

import (
	"fmt"

	"pipe/tensor"
)

// testDecodeRows compares rows that are computed together, up to
// tensor.RowsTogether of them, with the same rows alone, bit for bit.
func testDecodeRows(s *suite) {
	const out, in = 39, 512
	for _, dt := range weightTypes {
		w := s.load(dt, s.stored(dt, out, in), out, in)
		s.alone(fmt.Sprintf("matmul with %s", dt), in, out, func(dst, x *tensor.Tensor) {
			s.b.MatMul(dst, x, w, tensor.MatMul{TransB: true, Alpha: 1})
		})
		s.alone(fmt.Sprintf("matmul added, with %s", dt), in, out, func(dst, x *tensor.Tensor) {
			s.b.Zero(dst)
			s.b.MatMul(dst, x, w, tensor.MatMul{TransB: true, Alpha: 0.7, Beta: 1})
		})
	}
	const odd = 37
	v := s.put(s.normal(odd), odd)
	s.alone("rmsnorm", odd, odd, func(dst, x *tensor.Tensor) {
		s.b.RMSNorm(dst, s.alloc(tensor.F32, x.Rows()), x, v, 1e-5)
	})
	s.alone("add row, add", odd, odd, func(dst, x *tensor.Tensor) {
		s.b.Copy(dst, x)
		s.b.AddRow(dst, v)
		s.b.Add(dst, dst, x, 0.3)
	})
	s.alone("scale columns", odd, odd, func(dst, x *tensor.Tensor) { s.b.ScaleCols(dst, x, v) })
	s.alone("swiglu", odd, odd, func(dst, x *tensor.Tensor) { s.b.SwiGLU(dst, x, x) })
	s.decodeAttention()
}

// alone checks that f gives each row of x [n, in] the same bits whatever n is
// and wherever it stands.
func (s *suite) alone(name string, in, out int, f func(dst, x *tensor.Tensor)) {
	s.Helper()
	most := tensor.RowsTogether(s.b)
	x := s.normal(most * in)
	want := make([]float32, 0, most*out)
	for n := 1; n <= most; n++ {
		last := s.garbage(1, out)
		f(last, s.put(x[(n-1)*in:n*in], 1, in))
		want = append(want, s.get(last)...)
		if n > tensor.DecodeRows && n != 33 && n < most {
			continue
		}
		all := s.garbage(n, out)
		f(all, s.put(x[:n*in], n, in))
		s.same(fmt.Sprintf("%s, %d rows", name, n), s.get(all), want)
	}
}

// decodeAttention compares segments of one query, whose keys lie anywhere.
func (s *suite) decodeAttention() {
	for _, dt := range []tensor.DType{tensor.F32, tensor.BF16} {
		for _, d := range []int{20, 64, 80} {
			s.decodeHeads(dt, d)
		}
	}
}

func (s *suite) decodeHeads(dt tensor.DType, d int) {
	const rows = 1200
	o := tensor.Attention{Heads: 6, KVHeads: 2, HeadDim: d}
	k, v, q := s.normal(rows*2*d), s.normal(rows*2*d), s.normal(4*6*d)
	o.Q, o.K, o.KLen = []int32{0, 1, 2, 3, 4}, []int32{3, 0, 640, 1189}, []int32{600, 1, 513, 11}
	kt, vt := s.rows(dt, k, rows, 2*d), s.rows(dt, v, rows, 2*d)
	dst := s.garbage(4, 6*d)
	s.b.Attention(dst, s.garbage(4, 6), s.put(q, 4, 6*d), kt, vt, o)
	together := s.get(dst)
	for i := range 4 {
		at, n := int(o.K[i])*2*d, int(o.KLen[i])
		one := tensor.Attention{Heads: 6, KVHeads: 2, HeadDim: d, Q: []int32{0, 1}, K: []int32{0}, KLen: o.KLen[i : i+1]}
		dst := s.garbage(1, 6*d)
		s.b.Attention(dst, s.garbage(1, 6), s.put(q[i*6*d:(i+1)*6*d], 1, 6*d), s.rows(dt, k[at:at+n*2*d], n, 2*d), s.rows(dt, v[at:at+n*2*d], n, 2*d), one)
		s.same(fmt.Sprintf("attention of segment %d, heads of %d, keys of %s", i, d, dt), s.get(dst), together[i*6*d:(i+1)*6*d])
	}
}
