package tensortest

import (
	"math"
	"slices"

	"pipe/tensor"
	"pipe/tensor/quant"
)

// moments8 are the states of an 8-bit update.
type moments8 struct{ m, v, mMax, vMax *tensor.Tensor }

func (s *suite) moments8(shape ...int) moments8 {
	m := moments8{m: s.alloc(tensor.U8, shape...), v: s.alloc(tensor.U8, shape...)}
	n := tensor.AdamWBlocks(m.m.Len())
	m.mMax, m.vMax = s.alloc(tensor.F32, n), s.alloc(tensor.F32, n)
	return m
}

func (m moments8) param(w, g *tensor.Tensor) tensor.AdamWParam {
	return tensor.AdamWParam{W: w, G: g, M: m.m, V: m.v, MMax: m.mMax, VMax: m.vMax}
}

func (s *suite) adamw8bit(w, g *tensor.Tensor, m moments8, o tensor.AdamW) {
	s.b.AdamW8bit([]tensor.AdamWParam{m.param(w, g)}, o)
}

func (s *suite) getBytes(t *tensor.Tensor) []byte {
	x := make([]byte, t.Len())
	s.b.DownloadBytes(x, t)
	return x
}

// codes reports an error unless every code is want's or the next: a float32
// rounding may cross the middle of two.
func (s *suite) codes(name string, got []byte, want []int32) {
	s.Helper()
	off := 0
	for i, c := range got {
		switch d := int32(c) - want[i]; {
		case d < -1 || d > 1:
			s.Errorf("%s: code %d is %d; want %d", name, i, c, want[i])
			return
		case d != 0:
			off++
		}
	}
	if len(got) != len(want) || off > 2+len(got)/1000 {
		s.Errorf("%s: %d codes of %d (want %d) are next to the right one", name, off, len(got), len(want))
	}
}

// refAdamW8bit is the definition: moments in float64, nearest codes by a search
// of the whole map.
func refAdamW8bit(w, g []float64, m, v []byte, mMax, vMax []float64, o tensor.AdamW) {
	signed, unsigned := quant.NewDynamic(true).Values, quant.NewDynamic(false).Values
	c1, c2 := 1-math.Pow(o.Beta1, float64(o.Step)), math.Sqrt(1-math.Pow(o.Beta2, float64(o.Step)))
	for lo := 0; lo < len(w); lo += 256 {
		b, most := lo/256, [2]float64{}
		ms, vs := make([]float64, min(256, len(w)-lo)), make([]float64, min(256, len(w)-lo))
		for j := range ms {
			i, x := lo+j, g[lo+j]*o.GradScale
			if math.IsNaN(x) || math.IsInf(x, 0) {
				continue
			}
			ms[j] = o.Beta1*float64(signed[m[i]])*mMax[b] + (1-o.Beta1)*x
			vs[j] = o.Beta2*float64(unsigned[v[i]])*vMax[b] + (1-o.Beta2)*x*x
			w[i] -= o.LR * c2 / c1 * ms[j] / (math.Sqrt(vs[j]) + c2*o.Eps)
			w[i] *= 1 - o.LR*o.WeightDecay
			most[0], most[1] = max(most[0], math.Abs(ms[j])), max(most[1], vs[j])
		}
		mMax[b], vMax[b] = most[0], most[1]
		for j := range ms {
			m[lo+j], v[lo+j] = nearest(signed[:], ms[j], most[0]), nearest(unsigned[:], vs[j], most[1])
			if ms[j] < 0 && signed[m[lo+j]] == 0 {
				m[lo+j]--
			}
		}
	}
}

func nearest(values []float32, x, most float64) (code byte) {
	if most > 0 {
		x /= most
	}
	best := math.Inf(1)
	for i, v := range values {
		if d := math.Abs(float64(v) - x); d < best {
			best, code = d, byte(i)
		}
	}
	return code
}

func testAdamW8bit(s *suite) {
	for _, n := range []int{1, 255, 256, 700} {
		w, m, v := s.normal(n), make([]byte, n), make([]byte, n)
		mMax, vMax := make([]float64, tensor.AdamWBlocks(n)), make([]float64, tensor.AdamWBlocks(n))
		wt, state := s.put(w, n), s.moments8(n)
		o := tensor.AdamW{LR: 0.01, Beta1: 0.9, Beta2: 0.99, Eps: 1e-6, WeightDecay: 0.1, GradScale: 0.5}
		for o.Step = 1; o.Step <= 4; o.Step++ {
			g := s.normal(n)
			switch {
			case n < 256: // one block of no gradients; the others have every size
				clear(g)
			default:
				for i := range g {
					g[i] = float64(float32(g[i] * math.Pow(10, -float64(i%11))))
				}
			}
			s.adamw8bit(wt, s.put(g, n), state, o)
			refAdamW8bit(w, g, m, v, mMax, vMax, o)
			s.check("w", wt, w, F32)
			s.check("mMax", state.mMax, mMax, F32)
			s.check("vMax", state.vMax, vMax, F32)
			s.codes("m", s.getBytes(state.m), ints(m))
			s.codes("v", s.getBytes(state.v), ints(v))
			// Go on from the same states, so that errors do not add up.
			m, v = s.getBytes(state.m), s.getBytes(state.v)
			copy(w, float64s(s.get(wt)))
			copy(mMax, float64s(s.get(state.mMax)))
			copy(vMax, float64s(s.get(state.vMax)))
		}
	}
}

func ints(b []byte) []int32 {
	x := make([]int32, len(b))
	for i, v := range b {
		x[i] = int32(v)
	}
	return x
}

// A gradient that is not finite stops its own element only, and what is stored
// of a negative moment is negative.
func testAdamW8bitEdges(s *suite) {
	g := []float64{1, math.NaN(), math.Inf(1), math.Inf(-1), 1e38, -1e-9, 1e-9, 0}
	w := []float64{1, 2, 3, 4, 5, 6, 7, 8}
	wt, state := s.put(w, 8), s.moments8(8)
	o := tensor.AdamW{LR: 0.5, Beta1: 0.5, Beta2: 0.5, Eps: 1e-30, WeightDecay: 0.5, GradScale: 1, Step: 1}
	s.adamw8bit(wt, s.put([]float64{1, 1, 1, 1, 1, -1, 1, 1}, 8), state, o)
	first := s.get(wt)
	want := []float32{0.375, 1.125, 1.875, 2.625, 3.375, 4.875, 4.875, 5.625} // (w ∓ 0.5)·0.75
	for i := range want {
		if !(math.Abs(float64(first[i]-want[i])) <= 1e-6) {
			s.Errorf("w after one step is %v; want %v: the decay comes last", first, want)
			break
		}
	}
	o.Step, o.GradScale = 2, 10 // 1e38 overflows
	s.adamw8bit(wt, s.put(g, 8), state, o)
	got, m, v := s.get(wt), s.getBytes(state.m), s.getBytes(state.v)
	for _, i := range []int{1, 2, 3, 4} {
		if got[i] != first[i] || m[i] != 127 || v[i] != 0 {
			s.Errorf("element %d with gradient %v: w %v (was %v), codes %d and %d; want it left alone", i, g[i], got[i], first[i], m[i], v[i])
		}
	}
	for _, i := range []int{0, 5, 6, 7} {
		if got[i] == first[i] || math.IsNaN(float64(got[i])) {
			s.Errorf("element %d beside it is %v; was %v", i, got[i], first[i])
		}
	}
	fresh := s.moments8(8)
	o.Step, o.GradScale = 1, 1
	s.adamw8bit(wt, s.put([]float64{1, -1e-9, 1e-9, 0, 0, 0, 0, 0}, 8), fresh, o)
	if m := s.getBytes(fresh.m); !slices.Equal(m, []byte{255, 126, 127, 127, 127, 127, 127, 127}) {
		s.Errorf("codes %v; want the negative one to stay negative", m)
	}
	bad := s.put([]float64{math.NaN()}, 1)
	one := moments8{s.b.View(fresh.m, 0, 1), s.b.View(fresh.v, 0, 1), bad, s.b.View(fresh.vMax, 0, 1)}
	x := s.put([]float64{1}, 1)
	s.adamw8bit(x, s.put([]float64{1}, 1), one, o)
	s.isNaN("w after a NaN in the states", s.get(x)[0])
}

// testBitsAndBytes compares five steps with bitsandbytes' AdamW8bit.
func testBitsAndBytes(s *suite) {
	l := &loaded{s, LoadFixture(s.T, Path("tensor", "tensortest", "testdata", "adamw8bit", "adamw8bit.safetensors"))}
	for name, d := range map[string]*quant.Dynamic{"signed": quant.NewDynamic(true), "unsigned": quant.NewDynamic(false)} {
		want, _ := l.Floats(name)
		s.same("the map "+name, d.Values[:], float32s(want))
	}
	for run, decay := range map[string]float64{"plain": 0, "decay": 0.1} {
		w := l.tensor("w")
		state := s.moments8(w.Len())
		o := tensor.AdamW{LR: 1e-3, Beta1: 0.9, Beta2: 0.98, Eps: 1e-8, WeightDecay: decay, GradScale: 1}
		for i, g := range []string{"g0", "g1", "g2", "g3", "g4"} {
			o.Step = i + 1
			s.adamw8bit(w, l.tensor(g), state, o)
			if i != 0 && i != 4 {
				continue
			}
			k := run + "." + string(rune('0'+i)) + "."
			l.compare(k+"w", w, F32)
			l.compare(k+"mmax", state.mMax, F32)
			l.compare(k+"vmax", state.vMax, F32)
			s.codes(k+"m", s.getBytes(state.m), l.Ints(k+"m"))
			s.codes(k+"v", s.getBytes(state.v), l.Ints(k+"v"))
		}
	}
}
