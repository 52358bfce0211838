//go:build cuda

package gpu

import (
	"encoding/binary"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"pipe/tensor"
	"pipe/tensor/quant"
	"pipe/tensor/tensortest"
)

// A bench makes tensors of random numbers.
type bench struct {
	testing.TB
	b   *Backend
	rng *rand.Rand
}

func newBench(t testing.TB) *bench {
	return &bench{t, device(t), rand.New(rand.NewPCG(20261127, 1))}
}

func (s *bench) normal(n int) []float32 {
	x := make([]float32, n)
	for i := range x {
		x[i] = float32(s.rng.NormFloat64())
	}
	return x
}

func (s *bench) alloc(dt tensor.DType, shape ...int) *tensor.Tensor {
	s.Helper()
	t, err := s.b.Alloc(dt, shape...)
	if err != nil {
		s.Fatal(err)
	}
	return t
}

func (s *bench) put(x []float32, shape ...int) *tensor.Tensor {
	s.Helper()
	t := s.alloc(tensor.F32, shape...)
	s.b.Upload(t, x)
	return t
}

// load returns a frozen tensor of type dt, of x if that can be, and what it holds.
func (s *bench) load(dt tensor.DType, x []float32, shape ...int) (*tensor.Tensor, []float32) {
	s.Helper()
	data := make([]byte, dt.Bytes(len(x)))
	switch dt {
	case tensor.F32, tensor.F16, tensor.BF16, tensor.Q8_0:
		quant.Quantize(data, dt, x)
	default: // numbers of any kind, with factors of about 0.1
		block := dt.Bytes(dt.Block())
		for i := range data {
			data[i] = byte(s.rng.Uint32())
			switch at := i % block; {
			case dt == tensor.NF4 && at < 4:
				data[i] = []byte{0, 0, 0xcc, 0x3d}[at]
			case dt == tensor.Q6_K && at == block-1, dt != tensor.NF4 && dt != tensor.Q6_K && at == 1, (dt == tensor.Q4_1 || dt == tensor.Q5_1 || dt == tensor.Q4_K || dt == tensor.Q5_K) && at == 3:
				data[i] = 0x2e
			}
		}
	}
	t, err := s.b.Load(dt, data, shape...)
	if err != nil {
		s.Fatal(err)
	}
	y := make([]float32, len(x))
	quant.Dequantize(y, dt, data)
	return t, y
}

// half returns x as a tensor of BF16, to be written, and what it holds.
func (s *bench) half(x []float32, shape ...int) (*tensor.Tensor, []float32) {
	s.Helper()
	t := s.alloc(tensor.BF16, shape...)
	data := make([]byte, 2*len(x))
	quant.Quantize(data, tensor.BF16, x)
	s.b.upload("test", mem("test", t).ptr, data)
	return t, rounded(x)
}

// get returns the elements of a tensor of F32 or BF16.
func (s *bench) get(t *tensor.Tensor) []float32 {
	s.Helper()
	x := make([]float32, t.Len())
	if t.DType == tensor.F32 {
		s.b.Download(x, t)
	} else {
		data := make([]byte, 2*len(x))
		s.b.download("test", data, mem("test", t).ptr)
		for i := range x {
			x[i] = math.Float32frombits(uint32(binary.LittleEndian.Uint16(data[2*i:])) << 16)
		}
	}
	if err := s.b.Sync(); err != nil {
		s.Fatal(err)
	}
	return x
}

// nan returns n numbers that must not be read.
func nan(n int) []float32 { return slices.Repeat([]float32{float32(math.NaN())}, n) }

// rounded returns x rounded to bfloat16, ties to even.
func rounded(x []float32) []float32 {
	y := make([]float32, len(x))
	for i, v := range x {
		u := math.Float32bits(v)
		y[i] = math.Float32frombits((u + 0x7fff + u>>16&1) &^ 0xffff)
	}
	return y
}

// refProduct returns alpha*op(a)·op(w) + beta*c, a [m,k] and w [k,n] unless transposed.
func refProduct(c, a, w []float32, m, n, k int, o tensor.MatMul) []float64 {
	y := make([]float64, m*n)
	for i := range m {
		for j := range n {
			var sum float64
			for t := range k {
				x, z := i*k+t, t*n+j
				if o.TransA {
					x = t*m + i
				}
				if o.TransB {
					z = j*k + t
				}
				sum += float64(a[x]) * float64(w[z])
			}
			y[i*n+j] = float64(o.Alpha) * sum
			if o.Beta != 0 {
				y[i*n+j] += float64(o.Beta) * float64(c[i*n+j])
			}
		}
	}
	return y
}

func shape(trans bool, rows, cols int) []int {
	if trans {
		return []int{cols, rows}
	}
	return []int{rows, cols}
}

// oneRounding is the error of a number that is rounded to bfloat16 once.
var oneRounding = tensortest.Tolerance{Abs: 1e-6, Rel: 1.0 / 255}

// lowHalf is the error of an update of low rank beside a product in bfloat16,
// whose operands have 16 bits.
var lowHalf = tensortest.Tolerance{Abs: 1e-4, Rel: 1e-4}

// Products in bfloat16 of both kinds of kernel, at sizes around those of tiles,
// with everything that may follow.
func TestHalfProducts(t *testing.T) {
	s := newBench(t)
	for _, z := range [][3]int{{1, 1, 1}, {17, 63, 8}, {63, 64, 72}, {64, 130, 257}, {130, 257, 64}, {257, 63, 130}, {40, 1024, 24}, {130, 1030, 200}, {129, 256, 328}, {20, 72, 1544}} {
		for _, kind := range []string{"tiles", "mma"} {
			s.b.noWgmma = kind == "mma"
			for i, r := range []int{0, 3, 40} {
				s.halfProduct(fmt.Sprintf("%s %v rank %d", kind, z, r), z[0], z[1], z[2], r, i%2 == 0)
			}
		}
	}
}

// How products are divided among blocks changes no bit, also where there are so few
// tiles that their sums are split.
func TestTiles(t *testing.T) {
	s := newBench(t)
	for _, z := range [][4]int{{300, 512, 200, s.b.sms}, {100, 256, 1056, 3}} {
		m, n, k := z[0], z[1], z[2]
		s.b.sms = z[3]
		wt, _ := s.load(tensor.BF16, s.normal(n*k), n, k)
		s.b.Precision(wt, tensor.BF16)
		x, _ := s.half(s.normal(m*k), m, k)
		y := s.put(nan(m*n), m, n)
		var first []float32
		for _, group := range []int{0, 1, 2} {
			s.b.Tiles(group)
			s.b.MatMul(y, x, wt, tensor.MatMul{TransB: true, Alpha: 1})
			got := s.get(y)
			if first == nil {
				first = got
			}
			s.same(fmt.Sprintf("%v, groups of %d", z, group), got, first)
		}
	}
}

func (s *bench) halfProduct(name string, m, n, k, r int, full bool) {
	s.Helper()
	for _, trans := range []bool{true, false} {
		a, w, c := s.normal(m*k), s.normal(n*k), s.normal(m*n)
		wt, _ := s.load(tensor.BF16, w, shape(trans, k, n)...)
		s.b.Precision(wt, tensor.BF16)
		at := s.put(a, m, k)
		if !full {
			at, _ = s.half(a, m, k)
		}
		o := tensor.MatMul{TransB: trans, Alpha: 0.7, Uniform: true}
		want, tol := refProduct(nil, rounded(a), rounded(w), m, n, k, o), tensortest.F32
		if r > 0 {
			tol = lowHalf
			u, v := s.normal(m*r), s.normal(n*r)
			o.LowRank = &tensor.LowRank{U: s.put(u, m, r), V: s.put(v, shape(full, r, n)...), TransV: full, Alpha: -1.3}
			for i, x := range refProduct(nil, u, v, m, n, r, tensor.MatMul{TransB: full, Alpha: -1.3}) {
				want[i] += x
			}
		}
		y := s.put(c, m, n)
		o.Beta = 1
		s.b.MatMul(y, at, wt, o)
		added := slices.Clone(want)
		for i := range added {
			added[i] += float64(c[i])
		}
		tensortest.Close(s, fmt.Sprintf("%s, transposed %v, added", name, trans), s.get(y), added, tol)
		scale, bias := s.normal(n), s.normal(n)
		o.Beta, o.ColScale, o.Bias = 0, s.put(scale, n), s.put(bias, n)
		for i := range want {
			want[i] = want[i]*float64(scale[i%n]) + float64(bias[i%n])
		}
		y = s.put(nan(m*n), m, n)
		s.b.MatMul(y, at, wt, o)
		tensortest.Close(s, fmt.Sprintf("%s, transposed %v, scaled", name, trans), s.get(y), want, tol)
		h, _ := s.half(nan(m*n), m, n)
		s.b.MatMul(h, at, wt, o)
		tensortest.Close(s, fmt.Sprintf("%s, transposed %v, in bf16", name, trans), s.get(h), want, oneRounding)
		if m > tensor.DecodeRows && k >= 1024 { // in parts
			parts := o
			parts.Uniform = false
			again := s.put(nan(m*n), m, n)
			s.b.MatMul(again, at, wt, parts)
			first := s.get(again)
			tensortest.Close(s, fmt.Sprintf("%s, transposed %v, in parts", name, trans), first, want, tol)
			s.b.MatMul(again, at, wt, parts)
			s.same(name+", again", s.get(again), first)
		}
		if m > 1 { // a row alone
			one := s.put(nan(n), 1, n)
			last := s.b.View(at, (m-1)*k, 1, k)
			if o.LowRank != nil {
				low := *o.LowRank
				low.U = s.b.View(low.U, (m-1)*r, 1, r)
				o.LowRank = &low
			}
			s.b.MatMul(one, last, wt, o)
			s.same(name+", a row", s.get(one), s.get(y)[(m-1)*n:])
		}
	}
}

func (s *bench) same(name string, got, want []float32) {
	s.Helper()
	for i := range want {
		if math.Float32bits(got[i]) != math.Float32bits(want[i]) {
			s.Errorf("%s: element %d of %d: got %v, want %v", name, i, len(want), got[i], want[i])
			return
		}
	}
}

// Sums that are split into parts, operands that are read once.
func TestSplitSums(t *testing.T) {
	s := newBench(t)
	s.b.noThin = true
	for _, z := range [][3]int{{70, 16, 3000}, {5, 32, 1025}, {16, 600, 900}, {33, 20, 257}, {1, 1, 2100}, {100, 90, 1100}, {600, 5, 130}, {104, 96, 584}, {264, 40, 72}, {40, 1032, 136}, {200, 24, 1304}, {40, 264, 1304}, {136, 72, 520}, {8, 520, 16}} {
		m, n, k := z[0], z[1], z[2]
		for i := range 32 {
			o := tensor.MatMul{TransA: i&1 > 0, TransB: i&2 > 0, Alpha: 0.5, Beta: float32(i & 4)}
			halfA, halfW := i&8 > 0, i&16 > 0
			if halfW && (!o.TransA || o.TransB) {
				continue
			}
			a, w, c := s.normal(m*k), s.normal(k*n), s.normal(m*n)
			at, wt := s.put(a, shape(o.TransA, m, k)...), s.put(w, shape(o.TransB, k, n)...)
			if halfA {
				at, a = s.half(a, at.Shape...)
			}
			if halfW {
				wt, w = s.half(w, wt.Shape...)
			}
			want := refProduct(c, a, w, m, n, k, o)
			var first []float32
			for range 2 {
				y := s.put(c, m, n)
				s.b.MatMul(y, at, wt, o)
				got := s.get(y)
				tensortest.Close(s, fmt.Sprintf("%v %+v, halves %v %v", z, o, halfA, halfW), got, want, tensortest.F32Grad)
				if first == nil {
					first = got
				}
				s.same("again", got, first)
			}
		}
	}
}

// A row of few has the bits that it has alone, in both precisions, and what
// follows is right.
// Sums of chains of several parts: the kernels of one row and of many give the same
// bits, the right ones.
// Products of few rows by descriptors: right however many blocks there are, and a row has
// the bits that it has alone, and beside the products of other weights.
// codesRounded returns a weight that load made as products in bfloat16 of few rows
// take it: the codes of blocks are exact, but those of NF4.
// Weights that are expanded piece by piece.
func TestPieces(t *testing.T) {
	s := newBench(t)
	defer func(n int) { panelBytes = n }(panelBytes)
	const m, out, in, r = 20, 70, 96, 4
	for _, precision := range []tensor.DType{tensor.F32, tensor.BF16} {
		wt, w := s.load(tensor.Q8_0, s.normal(out*in), out, in)
		s.b.Precision(wt, precision)
		for _, trans := range []bool{true, false} {
			n, k := in, out
			if trans {
				n, k = out, in
			}
			o := tensor.MatMul{TransB: trans, Alpha: 0.5, ColScale: s.put(s.normal(n), n), Bias: s.put(s.normal(n), n)}
			o.LowRank = &tensor.LowRank{U: s.put(s.normal(m*r), m, r), V: s.put(s.normal(n*r), shape(!trans, r, n)...), TransV: !trans, Alpha: 2}
			a := s.put(s.normal(m*k), m, k)
			var whole []float32
			for _, bytes := range []int{256 << 20, 6000} {
				panelBytes = bytes
				y := s.put(nan(m*n), m, n)
				s.b.MatMul(y, a, wt, o)
				got := s.get(y)
				if whole == nil {
					whole = got
				}
				want := make([]float64, len(whole))
				for i, v := range whole {
					want[i] = float64(v)
				}
				tensortest.Close(s, fmt.Sprintf("%s, transposed %v, %d bytes", precision, trans, bytes), got, want, tensortest.F32)
			}
		}
		_ = w
	}
}

// A weight whose copy in bfloat16 finds no memory gives the same bits.
func TestCopyFails(t *testing.T) {
	s := newBench(t)
	if !s.b.emulated {
		t.Skip("only the emulator fails on demand")
	}
	defer func(n int) { panelBytes = n }(panelBytes)
	panelBytes = 6000
	const m, out, in, r = 80, 300, 96, 4
	x, y, z := s.put(s.normal(m*in), m, in), s.put(nan(m*out), m, out), s.put(nan(m*in), m, in)
	low := &tensor.LowRank{U: s.put(s.normal(m*r), m, r), V: s.put(s.normal(out*r), r, out), Alpha: 2}
	a, b, scale := s.put(s.normal(r*in), r, in), s.put(s.normal(out*r), out, r), s.put(s.normal(out), out)
	sq, norm, ratio := s.put(nan(out), out), s.put(nan(out), out), s.put(nan(out), out)
	for _, dt := range []tensor.DType{tensor.F16, tensor.F32} {
		data := s.normal(out * in)
		for _, op := range []struct {
			name string
			do   func(w *tensor.Tensor)
			to   *tensor.Tensor
		}{
			{"by rows", func(w *tensor.Tensor) { s.b.MatMul(y, x, w, tensor.MatMul{TransB: true, Alpha: 0.5, LowRank: low}) }, y},
			{"by columns", func(w *tensor.Tensor) { s.b.MatMul(z, y, w, tensor.MatMul{Alpha: 1}) }, z},
			{"norm", func(w *tensor.Tensor) { s.b.DoRANorm(ratio, norm, sq, w, a, b, scale, 0.5) }, norm},
		} {
			var want []float32
			for _, fail := range []string{"", "cuMemAlloc_v2:1"} { // the first makes what scratch there is
				w, _ := s.load(dt, data, out, in)
				s.b.Precision(w, tensor.BF16)
				s.b.RowSquares(sq, w)
				t.Setenv("PIPE_EMU_FAIL", fail)
				op.do(w)
				t.Setenv("PIPE_EMU_FAIL", "")
				if kept := mem("test", w).copied != 0; kept != (fail == "") {
					t.Fatalf("%s, %s: there is a copy: %v", op.name, dt, kept)
				}
				got := s.get(op.to)
				if want != nil {
					s.same(fmt.Sprintf("%s, %s", op.name, dt), got, want)
				}
				want = got
			}
		}
	}
}

// Rotation and the gradient of SwiGLU by the kernel that stores the product give
// what they give by themselves.
func TestFused(t *testing.T) {
	s := newBench(t)
	for _, dt := range []tensor.DType{tensor.F32, tensor.BF16} {
		tol := tensortest.F32
		if dt == tensor.BF16 {
			tol = tensortest.BF16 // alone, the product is rounded before it is rotated
		}
		for _, half := range []int{32, 64, 128, 0} {
			for _, n := range []int{256, 640, 1024} {
				if half > 0 && n%(2*half) != 0 {
					continue
				}
				s.fused(fmt.Sprintf("%s, %d columns, heads of %d", dt, n, 2*half), dt, tol, n, half, true)
				if half == 0 {
					s.fused(fmt.Sprintf("%s, %d columns, no factors", dt, n), dt, tol, n, 0, false)
				}
			}
		}
	}
}

// A weight in bfloat16 that is expanded in pieces, as its rows are no whole chunks,
// is rotated when all of the product is there.
func TestFusedPieces(t *testing.T) {
	s := newBench(t)
	defer func(n int) { panelBytes = n }(panelBytes)
	const m, n, k, half = 70, 256, 12, 64
	w, _ := s.load(tensor.BF16, s.normal(n*k), n, k)
	s.b.Precision(w, tensor.BF16)
	pos := make([]int32, m)
	for i := range pos {
		pos[i] = int32(3 * i)
	}
	p := s.alloc(tensor.I32, m)
	s.b.UploadInts(p, pos)
	x, y := s.put(s.normal(m*k), m, k), s.put(nan(m*n), m, n)
	o := tensor.MatMul{TransB: true, Alpha: 1, Uniform: true, Rope: &tensor.Rope{Positions: p, InvFreq: s.put(s.normal(half), half)}}
	var whole []float64
	for _, panelBytes = range []int{256 << 20, 6000} {
		s.b.MatMul(y, x, w, o)
		got := s.get(y)
		if whole != nil {
			tensortest.Close(s, fmt.Sprintf("%d bytes", panelBytes), got, whole, tensortest.F32)
		}
		whole = make([]float64, len(got))
		for i, v := range got {
			whole[i] = float64(v)
		}
	}
}

func (s *bench) fused(name string, dt tensor.DType, tol tensortest.Tolerance, n, half int, factors bool) {
	s.Helper()
	const m, k = 170, 72
	act := func(x []float32) *tensor.Tensor {
		if dt == tensor.BF16 {
			t, _ := s.half(x, m, n)
			return t
		}
		return s.put(x, m, n)
	}
	w, _ := s.load(tensor.BF16, s.normal(n*k), n, k)
	s.b.Precision(w, tensor.BF16)
	x := s.put(s.normal(m*k), m, k)
	o := tensor.MatMul{TransB: true, Alpha: 0.5, Uniform: true}
	if factors {
		o.ColScale, o.Bias = s.put(s.normal(n), n), s.put(s.normal(n), n)
	}
	gate, up := s.normal(m*n), s.normal(m*n)
	if half > 0 {
		pos := make([]int32, m)
		for i := range pos {
			pos[i] = int32(3 * i)
		}
		p := s.alloc(tensor.I32, m)
		s.b.UploadInts(p, pos)
		o.Rope = &tensor.Rope{Positions: p, InvFreq: s.put(s.normal(half), half)}
	}
	var results [2][3][]float32
	for i := range results {
		s.b.noWgmma = i > 0
		y, du := act(nan(m*n)), act(nan(m*n))
		q := o
		if half == 0 {
			q.SwiGLUGrad = &tensor.SwiGLUGrad{DGate: act(nan(m * n)), DUp: du, Gate: act(gate), Up: act(up)}
			if n == 256 {
				q.SwiGLUGrad.DGate = y
			}
		}
		p := s.b.product(y, x, w, &q)
		if got, want := s.b.fuses(&p), i == 0 && s.b.wgmma(); got != want {
			s.Fatalf("%s: fused %v; want %v", name, got, want)
		}
		s.b.MatMul(y, x, w, q)
		results[i][0] = s.get(y)
		if half == 0 {
			results[i][1], results[i][2] = s.get(du), s.get(q.SwiGLUGrad.DGate)
		}
	}
	s.b.noWgmma = false
	for i, got := range results[0] {
		want := make([]float64, len(got))
		for j := range want {
			want[j] = float64(results[1][i][j])
		}
		tensortest.Close(s, fmt.Sprintf("%s, result %d", name, i), got, want, tol)
	}
}
