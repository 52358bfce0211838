//go:build cuda

package gpu

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"pipe/tensor"
	"pipe/tensor/cpu"
	"pipe/tensor/tensortest"
)

// newRouting returns a routing without rows.
func newRouting(t testing.TB, b tensor.Backend, n, k, experts int) *tensor.Routing {
	t.Helper()
	alloc := func(dt tensor.DType, shape ...int) *tensor.Tensor {
		x, err := b.Alloc(dt, shape...)
		if err != nil {
			t.Fatal(err)
		}
		return x
	}
	return &tensor.Routing{Gating: tensor.Softmax, Experts: experts, Gates: alloc(tensor.F32, n*k),
		Rows: alloc(tensor.I32, n*k), Slots: alloc(tensor.I32, n, k), Starts: alloc(tensor.I32, experts+1)}
}

// routed routes rows on the device, so that row t goes to experts to(t).
func (s *bench) routed(n, k, experts int, to func(t int) []int) (r *tensor.Routing, starts []int32) {
	s.Helper()
	z := make([]float32, n*experts)
	for t := range n {
		for j, e := range to(t) {
			z[t*experts+e] = float32(k - j)
		}
	}
	r, starts = newRouting(s, s.b, n, k, experts), make([]int32, experts+1)
	s.b.Route(r, s.put(z, n, experts))
	s.b.DownloadInts(starts, r.Starts)
	if err := s.b.Sync(); err != nil {
		s.Fatal(err)
	}
	return r, starts
}

// Many choices are sorted by several blocks; what they list is what the processor does.
func TestRouteMany(t *testing.T) {
	defer func(n int) { routeFew = n }(routeFew)
	s, host := newBench(t), cpu.New(1)
	defer host.Close()
	for _, c := range [][3]int{{1, 1, 1}, {3, 2, 1024}, {70, 3, 300}, {600, 8, 40}, {1500, 1, 16}, {400, 2, 1000}, {70000, 1, 3}} {
		n, k, experts := c[0], c[1], c[2]
		z := s.normal(n * experts)
		for i := range z {
			z[i] = float32(math.Round(2 * float64(z[i])))
		}
		z[n*experts/2] = float32(math.NaN())
		want := newRouting(t, host, n, k, experts)
		host.Route(want, put(t, host, z, n, experts))
		for _, routeFew = range []int{0, 4096} {
			if n > 5000 && routeFew > 0 {
				continue
			}
			r := newRouting(t, s.b, n, k, experts)
			s.b.Route(r, s.put(z, n, experts))
			for i, x := range [][2]*tensor.Tensor{{r.Rows, want.Rows}, {r.Slots, want.Slots}, {r.Starts, want.Starts}} {
				got, list := make([]int32, x[0].Len()), make([]int32, x[0].Len())
				s.b.DownloadInts(got, x[0])
				host.DownloadInts(list, x[1])
				if !slices.Equal(got, list) {
					t.Errorf("%v, one block up to %d: list %d differs", c, routeFew, i)
				}
			}
			gates := make([]float32, n*k)
			host.Download(gates, want.Gates)
			for i, g := range s.get(r.Gates) {
				if w := gates[i]; math.IsNaN(float64(g)) != math.IsNaN(float64(w)) || math.Abs(float64(g-w)) > 1e-6 {
					t.Errorf("%v: gate %d is %v; want %v", c, i, g, w)
					break
				}
			}
		}
	}
}

// Lists that kernels wrote are fetched when somebody on the host needs them.
func TestRouteMirrors(t *testing.T) {
	s := newBench(t)
	r, _ := s.routed(3, 1, 2, func(t int) []int { return []int{1 - t%2} })
	table := []float32{1, 2, 3, 4, 5, 6}
	y := s.alloc(tensor.F32, 3, 2)
	s.b.Embed(y, s.put(table, 3, 2), r.Rows)
	if got, want := s.get(y), []float32{3, 4, 1, 2, 5, 6}; !slices.Equal(got, want) {
		t.Errorf("rows %v; want %v", got, want)
	}
}

// Lists that are none of Route lead nowhere.
func TestRouteGarbage(t *testing.T) {
	s := newBench(t)
	const n, k, experts, h = 70, 2, 5, 64
	for _, bad := range [][]int32{{0, 30, 20, 1000, -5, 140}, {-9, -9, -9, -9, -9, -9}, {0, 1 << 30, 1 << 30, 1 << 30, 1 << 30, 1 << 30}, {0, 140, 0, 140, 0, 140}} {
		for _, n := range []int{n, 3} {
			r := newRouting(t, s.b, n, k, experts)
			s.b.UploadInts(r.Starts, bad)
			list := make([]int32, n*k)
			for i := range list {
				list[i] = int32(i-2) * 1e7
			}
			s.b.UploadInts(r.Rows, list)
			s.b.UploadInts(r.Slots, list)
			x, rows, dg := s.put(s.normal(n*h), n, h), s.put(s.normal(n*k*h), n*k, h), s.alloc(tensor.F32, n*k)
			s.b.Dispatch(rows, x, r, true)
			s.b.Combine(x, rows, nil, r, true)
			s.b.GateGrad(dg, rows, x, r)
			s.b.RouteGrad(s.alloc(tensor.F32, n, experts), dg, r)
			for _, precision := range []tensor.DType{tensor.F32, tensor.BF16} {
				w, _ := s.load(tensor.BF16, s.normal(experts*h*h), experts*h, h)
				s.b.Precision(w, precision)
				for _, o := range []tensor.MatMul{{TransB: true, Alpha: 1}, {TransB: true, Alpha: 1, Uniform: true}, {Alpha: 1}} {
					s.b.ExpertMatMul(rows, s.alloc(tensor.F32, n*k, h), w, r, o)
				}
			}
			s.b.ExpertOuter(s.alloc(tensor.F32, experts*h, h), rows, rows, r)
			half, _ := s.half(s.normal(n*k*h), n*k, h)
			s.b.ExpertOuter(s.alloc(tensor.F32, experts*h, h), half, half, r)
			if got := s.get(rows); len(got) != n*k*h {
				t.Errorf("%d elements", len(got))
			}
		}
	}
}

// expertRows returns what an expert's rows become.
func expertRows(a, w []float32, starts []int32, height, width int, trans bool) (y []float64) {
	in, out := height, width
	if trans {
		in, out = width, height
	}
	for e := range len(starts) - 1 {
		lo, hi := int(starts[e]), int(starts[e+1])
		y = append(y, refProduct(nil, a[lo*in:hi*in], w[e*height*width:][:height*width], hi-lo, out, in, tensor.MatMul{TransB: trans, Alpha: 1})...)
	}
	return y
}

// Products of many rows: several tiles of an expert, experts with no row, with one, and with
// whole tiles of them; weights in pieces; with descriptors and without.
func TestExpertTiles(t *testing.T) {
	s := newBench(t)
	defer func(n int) { panelBytes = n }(panelBytes)
	const experts = 7
	n := 0
	var rows []int
	for e, m := range []int{129, 0, 128, 1, 0, 300, 2} {
		for range m {
			rows = append(rows, e)
			n++
		}
	}
	s.rng.Shuffle(n, func(i, j int) { rows[i], rows[j] = rows[j], rows[i] })
	r, starts := s.routed(n, 1, experts, func(t int) []int { return rows[t : t+1] })
	for _, c := range [][2]int{{64, 264}, {72, 130}, {256, 40}, {20, 8}} {
		height, width := c[0], c[1]
		for _, types := range [][2]tensor.DType{{tensor.F16, tensor.F32}, {tensor.F32, tensor.BF16}, {tensor.BF16, tensor.BF16}} {
			dt, precision := types[0], types[1]
			w, x := s.load(dt, s.normal(experts*height*width), experts*height, width)
			s.b.Precision(w, precision)
			if precision == tensor.BF16 {
				x = rounded(x)
			}
			for _, trans := range []bool{false, true} {
				in, out := height, width
				if trans {
					in, out = width, height
				}
				a, full := s.half(s.normal(n*in), n, in)
				want := expertRows(full, x, starts, height, width, trans)
				for _, how := range []struct {
					noWgmma bool
					bytes   int
				}{{false, 256 << 20}, {true, 2 * 3 * height * width}} {
					s.b.noWgmma, panelBytes = how.noWgmma, how.bytes
					y := s.put(nan(n*out), n, out)
					s.b.ExpertMatMul(y, a, w, r, tensor.MatMul{TransB: trans, Alpha: 1})
					tensortest.Close(s, fmt.Sprintf("%v %s in %s transposed %v, %+v", c, dt, precision, trans, how), s.get(y), want, tensortest.F32)
				}
				s.b.noWgmma = false
			}
		}
	}
}

// What an expert's rows become has nothing of the next expert, be that finite or not.
func TestExpertsApart(t *testing.T) {
	s := newBench(t)
	const n, experts = 200, 3
	r, starts := s.routed(n, 1, experts, func(t int) []int { return []int{t % 3} })
	for _, height := range []int{64, 72, 100, 136} {
		const width = 256
		x := s.normal(experts * height * width)
		for i := range height * width {
			x[height*width+i] = float32(math.NaN())
		}
		w, _ := s.load(tensor.BF16, x, experts*height, width)
		for _, precision := range []tensor.DType{tensor.F32, tensor.BF16} {
			s.b.Precision(w, precision)
			for _, trans := range []bool{false, true} {
				in, out := height, width
				if trans {
					in, out = width, height
				}
				y := s.put(nan(n*out), n, out)
				s.b.ExpertMatMul(y, s.put(s.normal(n*in), n, in), w, r, tensor.MatMul{TransB: trans, Alpha: 1})
				s.onlyNaN(fmt.Sprintf("%d rows in %s transposed %v", height, precision, trans), s.get(y), int(starts[1])*out, int(starts[2])*out)
			}
		}
		for _, half := range []bool{false, true} {
			dy, u := s.normal(n*height), s.normal(n*width)
			for i := int(starts[1]); i < int(starts[2]); i++ {
				for _, c := range []int{3, height - 1} {
					dy[i*height+c] = float32(math.NaN())
				}
				for c := 3; c < width; c += 64 {
					u[i*width+c] = float32(math.NaN())
				}
			}
			dw := s.put(make([]float32, experts*height*width), experts*height, width)
			a, b := s.put(dy, n, height), s.put(u, n, width)
			if half {
				a, _ = s.half(dy, n, height)
				b, _ = s.half(u, n, width)
			}
			s.b.ExpertOuter(dw, a, b, r)
			got := s.get(dw)
			for i := range got[height*width : 2*height*width] {
				if math.IsNaN(float64(got[height*width+i])) != (i/width == 3 || i/width == height-1 || i%64 == 3) {
					t.Fatalf("outer, %d rows, half %v: element %d is %v", height, half, i, got[height*width+i])
				}
				got[height*width+i] = float32(math.NaN())
			}
			s.onlyNaN(fmt.Sprintf("outer, %d rows, half %v", height, half), got, height*width, 2*height*width)
		}
	}
}

func (s *bench) onlyNaN(name string, x []float32, lo, hi int) {
	s.Helper()
	for i, v := range x {
		if math.IsNaN(float64(v)) != (i >= lo && i < hi) {
			s.Errorf("%s: element %d is %v; NaN are %d to %d", name, i, v, lo, hi)
			return
		}
	}
}

// Sums over the rows of each expert, of one step, of many and of none.
func TestExpertOuter(t *testing.T) {
	s := newBench(t)
	const n, experts = 333, 4
	r, starts := s.routed(n, 1, experts, func(t int) []int {
		switch {
		case t < 64:
			return []int{3}
		case t == 64:
			return []int{0}
		}
		return []int{1}
	})
	for _, c := range [][2]int{{64, 256}, {136, 264}, {8, 1032}, {30, 20}} {
		out, in := c[0], c[1]
		dw := s.normal(experts * out * in)
		for _, halves := range [][2]bool{{false, false}, {true, false}, {false, true}, {true, true}} {
			dy, full := s.half(s.normal(n*out), n, out)
			if !halves[0] {
				dy = s.put(full, n, out)
			}
			x, of := s.half(s.normal(n*in), n, in)
			if !halves[1] {
				x = s.put(of, n, in)
			}
			var want []float64
			for e := range experts {
				lo, hi := int(starts[e]), int(starts[e+1])
				want = append(want, refProduct(dw[e*out*in:][:out*in], full[lo*out:hi*out], of[lo*in:hi*in], out, in, hi-lo, tensor.MatMul{TransA: true, Alpha: 1, Beta: 1})...)
			}
			for _, s.b.noWgmma = range []bool{false, true} {
				d := s.put(dw, experts*out, in)
				s.b.ExpertOuter(d, dy, x, r)
				tensortest.Close(s, fmt.Sprintf("%v, half %v, wgmma %v", c, halves, !s.b.noWgmma), s.get(d), want, tensortest.F32)
			}
			s.b.noWgmma = false
		}
	}
}

// Few rows: all to one expert, to each its own, with less shared memory, and in any number of
// chains of parts.
func TestExpertsFew(t *testing.T) {
	s := newBench(t)
	whole := s.b.shared
	const experts, out, in = 5, 72, 2304
	for _, dt := range []tensor.DType{tensor.F32, tensor.BF16, tensor.Q4_0, tensor.Q6_K} {
		w, x := s.load(dt, s.normal(experts*out*in), experts*out, in)
		for _, precision := range []tensor.DType{tensor.F32, tensor.BF16} {
			s.b.Precision(w, precision)
			of := x
			if precision == tensor.BF16 {
				of = codesRounded(dt, x)
			}
			var alone []float32
			for _, n := range []int{64, 40, 17, 2, 1} {
				for way, to := range []func(t int) []int{func(int) []int { return []int{3, 1} }, func(t int) []int { return []int{t % experts, (t + 1 + t%3) % experts} }} {
					r, starts := s.routed(n, 2, experts, to)
					s.rng = rand.New(rand.NewPCG(9, 9))
					a := s.put(s.normal(n*in), n, in)
					rows, y, sum := s.alloc(tensor.F32, 2*n, in), s.put(nan(2*n*out), 2*n, out), s.alloc(tensor.F32, n, out)
					s.b.Dispatch(rows, a, r, false)
					full := s.get(rows)
					if precision == tensor.BF16 {
						full = rounded(full)
					}
					want := expertRows(full, of, starts, out, in, true)
					for _, s.b.shared = range []int{whole, 99 << 10} {
						s.b.ExpertMatMul(y, rows, w, r, tensor.MatMul{TransB: true, Alpha: 1})
						name := fmt.Sprintf("%s in %s, %d rows, way %d, %d bytes", dt, precision, n, way, s.b.shared)
						tensortest.Close(s, name, s.get(y), want, tensortest.F32)
						s.b.Combine(sum, y, nil, r, false)
						if way == 0 { // the first row goes the same way in each batch
							if alone == nil {
								alone = s.get(sum)[:out]
							}
							s.same(name, s.get(sum)[:out], alone)
						}
					}
					s.b.shared = whole
				}
			}
		}
	}
}

// TestPlanExperts: what the lists and expanded weights take is counted.
func TestPlanExperts(t *testing.T) {
	p := planned()
	const n, k, experts, out, in = 4096, 2, 8, 256, 128
	r := newRouting(t, p, n, k, experts)
	w, _ := p.Load(tensor.Q8_0, nil, experts*out, in)
	p.Precision(w, tensor.BF16)
	x, _ := p.Alloc(tensor.F32, n*k, in)
	y, _ := p.Alloc(tensor.F32, n*k, out)
	z, _ := p.Alloc(tensor.F32, n, experts)
	p.Route(r, z)
	if got, want := p.scratches[scratchParts].bytes, 4*(n*k+ceil(n*k, routePart)*experts); got != want {
		t.Errorf("%d bytes for routes; want %d", got, want)
	}
	p.ExpertMatMul(y, x, w, r, tensor.MatMul{TransB: true, Alpha: 1})
	if got, want := p.scratches[scratchRight].bytes, 2*experts*out*in; got != want {
		t.Errorf("%d bytes of weights; want %d", got, want)
	}
	if got, want := p.scratches[scratchExperts].bytes, 16*(1+n*k/128+experts); got != want {
		t.Errorf("%d bytes of tiles; want %d", got, want)
	}
}
