package tensortest

import (
	"math"
	"slices"

	"pipe/tensor"
)

func testMemory(s *suite) {
	a := s.alloc(tensor.F32, 3, 5)
	if !slices.Equal(s.get(a), make([]float32, 15)) {
		s.Error("fresh memory is not zero")
	}
	x := s.normal(15)
	s.b.Upload(a, float32s(x))
	c := s.garbage(5, 3)
	s.b.Copy(c, a)
	s.check("copy", c, x, Exact)
	s.b.Zero(a)
	s.same("zero", s.get(a), make([]float32, 15))
	s.check("the copy stays", c, x, Exact)
	i := s.putInts([]int32{-7, 0, math.MaxInt32})
	if got := s.getInts(i); !slices.Equal(got, []int32{-7, 0, math.MaxInt32}) {
		s.Errorf("ints: %v", got)
	}
	u := s.alloc(tensor.U8, 2, 3)
	if got := s.getBytes(u); !slices.Equal(got, make([]byte, 6)) {
		s.Errorf("fresh bytes: %v", got)
	}
	s.b.UploadBytes(u, []byte{0, 1, 127, 128, 254, 255})
	if got := s.getBytes(s.b.View(u, 2, 4)); !slices.Equal(got, []byte{127, 128, 254, 255}) {
		s.Errorf("bytes: %v", got)
	}
	s.b.Free(c)
	if a.DType != tensor.F32 || !slices.Equal(a.Shape, []int{3, 5}) {
		s.Errorf("tensor is %s %v", a.DType, a.Shape)
	}
}

func testViews(s *suite) {
	x := s.normal(24)
	a := s.put(x, 6, 4)
	v := s.b.View(a, 8, 2, 4)
	s.check("view", v, x[8:16], Exact)
	w := s.b.View(v, 4, 2, 2)
	s.check("view of a view", w, x[12:16], Exact)
	s.b.Zero(w)
	clear(x[12:16])
	s.check("written through the view", a, x, Exact)
	s.b.Add(v, v, v, 1)
	for i := 8; i < 16; i++ {
		x[i] *= 2
	}
	s.check("operation on a view", a, x, Exact)
	ids := s.b.View(s.putInts([]int32{4, 5, 6, 7}), 1, 2)
	if got := s.getInts(ids); !slices.Equal(got, []int32{5, 6}) {
		s.Errorf("view of ints: %v", got)
	}
	s.b.View(a, 24, 0, 4) // empty, at the end
}

// stored are the types of weights with bytes of four rows of 256 elements.
// Scales are 0x2e66 = 0.1 in half precision, and neighbours.
func (s *suite) stored(dt tensor.DType, rows, cols int) []byte {
	data := make([]byte, dt.Bytes(rows*cols))
	for i := range data {
		data[i] = byte(s.rng.Uint32())
	}
	half := func(at int) { data[at], data[at+1] = byte(s.rng.Uint32()), 0x2e }
	block := dt.Bytes(dt.Block())
	for at := 0; at < len(data); at += block {
		switch dt {
		case tensor.F32:
			data[at+3] = 0x3e | data[at+3]&0x80
		case tensor.F16, tensor.BF16:
			data[at+1] = 0x3c | data[at+1]&0x80
		case tensor.NF4: // 0x3dcc.... is 0.1 in single precision
			data[at+2], data[at+3] = 0xcc, 0x3d
		case tensor.Q6_K:
			half(at + block - 2)
		case tensor.Q4_1, tensor.Q5_1, tensor.Q4_K, tensor.Q5_K:
			half(at)
			half(at + 2)
		default:
			half(at)
		}
	}
	return data
}

var weightTypes = []tensor.DType{tensor.F32, tensor.F16, tensor.BF16, tensor.Q4_0, tensor.Q4_1, tensor.Q5_0,
	tensor.Q5_1, tensor.Q8_0, tensor.Q4_K, tensor.Q5_K, tensor.Q6_K, tensor.NF4}

// expanded returns the elements of a weight, by Dequantize: package quant's
// own tests hold those of the CPU to ggml's.
func (s *suite) expanded(w *tensor.Tensor) []float64 {
	d := s.garbage(w.Shape...)
	s.b.Dequantize(d, w)
	return float64s(s.get(d))
}

func testLoadTypes(s *suite) {
	x := float32s(s.normal(35))
	w := s.load(tensor.F32, bytesOf(x), 5, 7)
	s.same("load", s.get(w), x)
	odd := append(make([]byte, 1), bytesOf(x)...)
	s.same("load from an odd address", s.get(s.load(tensor.F32, odd[1:], 5, 7)), x)
	i := s.load(tensor.I32, []byte{1, 0, 0, 0, 0xff, 0xff, 0xff, 0xff}, 2)
	if got := s.getInts(i); !slices.Equal(got, []int32{1, -1}) {
		s.Errorf("ints: %v", got)
	}
	// One block of each of four formats, worked out by hand.
	q4 := make([]byte, 18)
	q4[1], q4[2], q4[17] = 0x3c, 0x1f, 0x80 // scale 1
	got := s.expanded(s.load(tensor.Q4_0, q4, 1, 32))
	for j, want := range map[int]float64{0: 7, 16: -7, 15: -8, 31: 0, 1: -8} {
		if got[j] != want {
			s.Errorf("q4_0 element %d is %v; want %v", j, got[j], want)
		}
	}
	q8 := make([]byte, 34)
	q8[1], q8[2], q8[33] = 0x38, 0x80, 3 // scale 0.5
	if got := s.expanded(s.load(tensor.Q8_0, q8, 1, 32)); got[0] != -64 || got[31] != 1.5 || got[1] != 0 {
		s.Errorf("q8_0: %v", got)
	}
	nf4 := make([]byte, 36) // absmax 2; codes 0 and 15, then 7
	nf4[3], nf4[4], nf4[35] = 0x40, 0x0f, 0x78
	got = s.expanded(s.load(tensor.NF4, nf4, 1, 64))
	for j, want := range map[int]float64{0: -2, 1: 2, 2: -2, 62: 0, 63: 2 * float64(float32(0.07958029955625534))} {
		if got[j] != want {
			s.Errorf("nf4 element %d is %v; want %v", j, got[j], want)
		}
	}
	if got := s.expanded(s.load(tensor.BF16, []byte{0x80, 0x3f, 0, 0xc0}, 1, 2)); got[0] != 1 || got[1] != -2 {
		s.Errorf("bf16: %v", got)
	}
}
