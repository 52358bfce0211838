package tensortest

import (
	"fmt"
	"slices"

	"pipe/tensor"
)

// testHostMemory: tensors in the machine's memory are as others for the operations
// of Memory, and moments that lie there give the same bits.
func testHostMemory(s *suite) {
	b, ok := s.b.(tensor.HostAllocator)
	if !ok {
		s.Skip("this backend has no memory of its own")
	}
	host := func(dt tensor.DType, shape ...int) *tensor.Tensor {
		t, err := b.AllocHost(dt, shape...)
		if err != nil {
			s.Fatal(err)
		}
		return t
	}
	a := host(tensor.F32, 3, 5)
	s.same("fresh memory", s.get(a), make([]float32, 15))
	x := s.normal(15)
	s.b.Upload(a, float32s(x))
	c, d := s.garbage(5, 3), host(tensor.F32, 15)
	s.b.Copy(c, a) // to the device
	s.b.Copy(d, c) // from it
	s.check("copy", c, x, Exact)
	s.check("copy of the copy", d, x, Exact)
	s.b.ZeroAll([]*tensor.Tensor{s.b.View(a, 3, 7), c})
	s.b.Zero(s.b.View(a, 14, 1))
	s.check("cleared in part", a, slices.Concat(x[:3], make([]float64, 7), x[10:14], []float64{0}), Exact)
	s.b.Upload(s.b.View(a, 2, 2), float32s(x[:2]))
	s.check("a view that was set", s.b.View(s.b.View(a, 1, 4), 1, 2), x[:2], Exact)
	u := host(tensor.U8, 7)
	s.b.UploadBytes(s.b.View(u, 3, 3), []byte{1, 2, 255})
	if got := s.getBytes(u); !slices.Equal(got, []byte{0, 0, 0, 1, 2, 255, 0}) {
		s.Errorf("bytes: %v", got)
	}
	i := host(tensor.I32, 3)
	s.b.UploadInts(i, []int32{5, -6, 7})
	if got := s.getInts(s.b.View(i, 1, 2)); !slices.Equal(got, []int32{-6, 7}) {
		s.Errorf("ints: %v", got)
	}
	for _, t := range []*tensor.Tensor{a, d, u, i} {
		s.b.Free(t)
	}
	for _, dt := range []tensor.DType{tensor.F32, tensor.U8} {
		s.momentsOnHost(dt, host)
	}
}

// momentsOnHost takes steps with moments of dt, some of which lie on the host.
func (s *suite) momentsOnHost(dt tensor.DType, host func(dt tensor.DType, shape ...int) *tensor.Tensor) {
	var here, there []tensor.AdamWParam // all on the device; some on the host
	for i, n := range sizesOfMany {
		w, g := s.normal(n), s.normal(n)
		param := func(alloc func(dt tensor.DType, shape ...int) *tensor.Tensor) tensor.AdamWParam {
			p := tensor.AdamWParam{W: s.skewed(w, i%4), G: s.put(g, n), NoDecay: i%3 == 1}
			p.M, p.V = alloc(dt, n), alloc(dt, n)
			if dt == tensor.U8 {
				p.MMax, p.VMax = s.alloc(tensor.F32, tensor.AdamWBlocks(n)), s.alloc(tensor.F32, tensor.AdamWBlocks(n))
			}
			return p
		}
		alloc := host
		if i%5 == 4 {
			alloc = s.alloc
		}
		here, there = append(here, param(s.alloc)), append(there, param(alloc))
	}
	step := s.b.AdamW
	if dt == tensor.U8 {
		step = s.b.AdamW8bit
	}
	o := tensor.AdamW{LR: 0.01, Beta1: 0.9, Beta2: 0.99, Eps: 1e-8, WeightDecay: 0.1, GradScale: 0.5}
	for o.Step = 1; o.Step <= 3; o.Step++ {
		for _, ps := range [][]tensor.AdamWParam{here, there} {
			step(ps, o)
			if o.Step == 2 { // what is read, and set, between two steps
				for i := range ps {
					s.setAgain(ps[i].M, dt)
				}
			}
		}
	}
	for i := range here {
		name := fmt.Sprintf("moments of %s, parameter %d", dt, i)
		s.same(name+": w", s.get(there[i].W), s.get(here[i].W))
		for what, t := range map[string][2]*tensor.Tensor{"m": {here[i].M, there[i].M}, "v": {here[i].V, there[i].V}} {
			if dt == tensor.U8 {
				if !slices.Equal(s.getBytes(t[1]), s.getBytes(t[0])) {
					s.Errorf("%s: other codes of %s", name, what)
				}
				continue
			}
			s.same(name+": "+what, s.get(t[1]), s.get(t[0]))
		}
		s.b.Free(there[i].M)
		s.b.Free(there[i].V)
	}
}

// setAgain downloads t, turns the order of its elements, and uploads it.
func (s *suite) setAgain(t *tensor.Tensor, dt tensor.DType) {
	if dt == tensor.U8 {
		x := s.getBytes(t)
		slices.Reverse(x)
		s.b.UploadBytes(t, x)
		return
	}
	x := s.get(t)
	slices.Reverse(x)
	s.b.Upload(t, x)
}
