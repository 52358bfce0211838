//go:build cuda

package gpu

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"pipe/tensor"
	"pipe/tensor/quant"
	"pipe/tensor/tensortest"
)

// attentionTest is one attention on a device: numbers that bfloat16 holds, and
// tensors of F32 or BF16 with them.
type attentionTest struct {
	*testing.T
	b           *Backend
	o           tensor.Attention
	half        bool
	nq, nk      int
	q, k, v, dy []float64
	rng         *rand.Rand
}

// segments returns an attention whose segments have so many queries and keys
// each, one after the other, with gap key rows before each that none reads.
func segments(heads, kvHeads, d, gap int, sizes ...[2]int) (o tensor.Attention, keys int) {
	o = tensor.Attention{Heads: heads, KVHeads: kvHeads, HeadDim: d, Q: []int32{0}}
	for _, z := range sizes {
		keys += gap
		o.Q = append(o.Q, o.Q[len(o.Q)-1]+int32(z[0]))
		o.K, o.KLen = append(o.K, int32(keys)), append(o.KLen, int32(z[1]))
		keys += z[1]
	}
	return o, keys
}

func newAttentionTest(t *testing.T, o tensor.Attention, keys int, half bool) *attentionTest {
	a := &attentionTest{T: t, b: device(t), o: o, half: half, nq: int(o.Q[len(o.Q)-1]), nk: keys, rng: rand.New(rand.NewPCG(5, uint64(keys)))}
	q, k := a.nq*o.Heads*o.HeadDim, keys*o.KVHeads*o.HeadDim
	a.q, a.k, a.v, a.dy = a.numbers(q), a.numbers(k), a.numbers(k), a.numbers(q)
	return a
}

func (a *attentionTest) numbers(n int) []float64 {
	x := make([]float64, n)
	for i := range x {
		x[i] = float64(quant.FromBF16(quant.ToBF16(float32(a.rng.NormFloat64()))))
	}
	return x
}

// put returns rows of x.
func (a *attentionTest) put(x []float64, rows int) *tensor.Tensor {
	a.Helper()
	y := make([]float32, len(x))
	for i, v := range x {
		y[i] = float32(v)
	}
	t, err := a.b.Alloc(tensor.F32, rows, len(x)/max(rows, 1))
	if err != nil {
		a.Fatal(err)
	}
	a.b.Upload(t, y)
	if !a.half {
		return t
	}
	h, err := a.b.Alloc(tensor.BF16, t.Shape...)
	if err != nil {
		a.Fatal(err)
	}
	at, err := a.b.Alloc(tensor.I32, rows)
	if err != nil {
		a.Fatal(err)
	}
	rowsOf := make([]int32, rows)
	for i := range rowsOf {
		rowsOf[i] = int32(i)
	}
	a.b.UploadInts(at, rowsOf)
	a.b.ScatterRows(h, t, at)
	return h
}

// garbage returns rows of NaN.
func (a *attentionTest) garbage(rows, cols int) *tensor.Tensor {
	x := make([]float64, rows*cols)
	for i := range x {
		x[i] = math.NaN()
	}
	return a.put(x, rows)
}

func (a *attentionTest) get(t *tensor.Tensor) []float32 {
	a.Helper()
	if t.DType == tensor.BF16 {
		f, err := a.b.Alloc(tensor.F32, t.Shape...)
		if err != nil {
			a.Fatal(err)
		}
		at, err := a.b.Alloc(tensor.I32, t.Rows())
		if err != nil {
			a.Fatal(err)
		}
		rows := make([]int32, t.Rows())
		for i := range rows {
			rows[i] = int32(i)
		}
		a.b.UploadInts(at, rows)
		a.b.Embed(f, t, at)
		t = f
	}
	x := make([]float32, t.Len())
	a.b.Download(x, t)
	return x
}

func (a *attentionTest) lse() *tensor.Tensor {
	a.Helper()
	t, err := a.b.Alloc(tensor.F32, a.nq, a.o.Heads)
	if err != nil {
		a.Fatal(err)
	}
	return t
}

// run returns the results of both passes.
func (a *attentionTest) run() (out, lse, dq, dk, dv []float32) {
	a.Helper()
	wide, narrow := a.o.Heads*a.o.HeadDim, a.o.KVHeads*a.o.HeadDim
	q, k, v, dy := a.put(a.q, a.nq), a.put(a.k, a.nk), a.put(a.v, a.nk), a.put(a.dy, a.nq)
	y, l := a.garbage(a.nq, wide), a.lse()
	a.b.Attention(y, l, q, k, v, a.o)
	gq, gk, gv := a.garbage(a.nq, wide), a.garbage(a.nk, narrow), a.garbage(a.nk, narrow)
	a.b.AttentionGrad(gq, gk, gv, q, k, v, y, l, dy, a.o)
	out, lse, dq, dk, dv = a.get(y), a.get(l), a.get(gq), a.get(gk), a.get(gv)
	if err := a.b.Sync(); err != nil {
		a.Fatal(err)
	}
	return out, lse, dq, dk, dv
}

// Both passes agree with the reference, at sizes that cross the tiles.
func TestAttention(t *testing.T) {
	packed := [][2]int{{1, 1}, {63, 63}, {64, 64}, {65, 65}, {130, 130}, {300, 300}}
	short := [][2]int{{3, 3}, {0, 0}, {2, 40}, {17, 150}, {1, 300}, {70, 133}, {128, 128}}
	for _, c := range []struct {
		heads, kvHeads, d, gap int
		sizes                  [][2]int
		precision              tensor.DType
	}{
		{4, 1, 64, 0, packed[:5], tensor.BF16},
		{1, 1, 128, 0, packed, tensor.BF16},
		{4, 1, 128, 3, short, tensor.BF16},
		{2, 2, 96, 0, short, tensor.BF16},
		{4, 1, 64, 2, short, tensor.F32},
		{1, 1, 96, 0, packed[3:5], tensor.F32},
		{2, 1, 200, 0, short[2:4], tensor.F32},
		{2, 1, 40, 0, short, tensor.BF16},
	} {
		for i := range 4 {
			half, noWgmma := i&1 != 0, i&2 != 0
			name := fmt.Sprintf("%d of %d x %d in %s", c.kvHeads, c.heads, c.d, c.precision)
			if half {
				name += ", halves"
			}
			if noWgmma {
				if c.precision == tensor.F32 || !slices.Contains(wgmmaWidths, c.d) {
					continue // the same
				}
				name += ", without wgmma"
			}
			t.Run(name, func(t *testing.T) {
				o, keys := segments(c.heads, c.kvHeads, c.d, c.gap, c.sizes...)
				o.Precision = c.precision
				a := newAttentionTest(t, o, keys, half)
				a.b.noWgmma = noWgmma
				out, lse, dq, dk, dv := a.run()
				tol, grad := tensortest.F32, tensortest.F32Grad
				if half || c.precision == tensor.BF16 && c.d >= 64 {
					tol, grad = tensortest.BF16, roundedGrad
				}
				y, l := tensortest.Attention(a.q, a.k, a.v, o)
				tensortest.Close(t, "output", out, y, tol)
				tensortest.Close(t, "lse", lse, l, tensortest.F32)
				gq, gk, gv := tensortest.AttentionGrad(a.q, a.k, a.v, a.dy, o)
				tensortest.Close(t, "dq", dq, gq, grad)
				tensortest.Close(t, "dk", dk, gk, grad)
				tensortest.Close(t, "dv", dv, gv, grad)
				again := func() []float32 { out, lse, dq, dk, dv := a.run(); return slices.Concat(out, lse, dq, dk, dv) }
				same(t, "again", again(), slices.Concat(out, lse, dq, dk, dv))
			})
		}
	}
}

// roundedGrad is for gradients of rounded probabilities, which cancel: single
// elements are off by more than the rounding, all together by less.
var roundedGrad = tensortest.Tolerance{Abs: 1e-3, Rel: 0.1, Cosine: 0.99999}

// Several segments that read the same keys.
func TestAttentionSharedKeys(t *testing.T) {
	o := tensor.Attention{Heads: 4, KVHeads: 2, HeadDim: 64, Precision: tensor.BF16,
		Q: []int32{0, 70, 75, 215}, K: []int32{0, 0, 90}, KLen: []int32{100, 160, 140}}
	a := newAttentionTest(t, o, 250, false)
	_, _, dq, dk, dv := a.run()
	gq, gk, gv := tensortest.AttentionGrad(a.q, a.k, a.v, a.dy, o)
	tensortest.Close(t, "dq", dq, gq, roundedGrad)
	tensortest.Close(t, "dk", dk, gk, roundedGrad)
	tensortest.Close(t, "dv", dv, gv, roundedGrad)
}

func same(t *testing.T, name string, got, want []float32) {
	t.Helper()
	if !slices.EqualFunc(got, want, func(a, b float32) bool { return math.Float32bits(a) == math.Float32bits(b) }) {
		t.Errorf("%s: bits differ", name)
	}
}

// A key of NaN is seen by the queries that see it, and by no others.
func TestAttentionNaN(t *testing.T) {
	for _, precision := range []tensor.DType{tensor.F32, tensor.BF16} {
		o, keys := segments(2, 1, 64, 0, [2]int{40, 40}, [2]int{100, 100}, [2]int{30, 30}, [2]int{1, 9})
		o.Precision = precision
		a := newAttentionTest(t, o, keys, false)
		const bad = 40 + 70
		a.k[bad*64+5] = math.NaN()
		out, lse, dq, dk, dv := a.run()
		for i := range a.nq {
			row := slices.Concat(out[i*128:i*128+128], lse[i*2:i*2+2])
			if sees := i >= bad && i < 140; slices.ContainsFunc(row, func(v float32) bool { return (v != v) != sees }) {
				t.Fatalf("%s: output of query %d is %v", precision, i, row)
			}
			// A gradient is a product with all keys of a tile.
			if i < 40 || i >= 140 {
				if slices.ContainsFunc(dq[i*128:i*128+128], func(v float32) bool { return v != v }) {
					t.Fatalf("%s: gradient of query %d is NaN", precision, i)
				}
			}
		}
		for i := range keys {
			if in := i >= 40 && i < 140; !in && (dk[i*64+5] != dk[i*64+5] || dv[i*64+5] != dv[i*64+5]) {
				t.Fatalf("%s: gradient of key %d is NaN", precision, i)
			}
		}
	}
}

// Queries of a step of decoding do not change one another.
func TestAttentionDecode(t *testing.T) {
	for _, c := range []struct{ heads, kvHeads, d int }{{4, 1, 128}, {2, 2, 64}, {9, 3, 20}, {18, 2, 80}, {8, 1, 256}, {2, 1, 1}} {
		for _, half := range []bool{false, true} {
			o, keys := segments(c.heads, c.kvHeads, c.d, 1, [2]int{1, 600}, [2]int{1, 1}, [2]int{1, 127}, [2]int{1, 128}, [2]int{1, 129}, [2]int{5, 70}, [2]int{2, 257})
			a := newAttentionTest(t, o, keys, half)
			wide, narrow := o.Heads*o.HeadDim, o.KVHeads*o.HeadDim
			y, l := a.garbage(a.nq, wide), a.lse()
			a.b.Attention(y, l, a.put(a.q, a.nq), a.put(a.k, keys), a.put(a.v, keys), o)
			out := a.get(y)
			tol := tensortest.F32
			if half {
				tol = tensortest.BF16
			}
			want, lse := tensortest.Attention(a.q, a.k, a.v, o)
			name := fmt.Sprintf("%d of %d x %d", c.kvHeads, c.heads, c.d)
			tensortest.Close(t, name, out, want, tol)
			tensortest.Close(t, name+": lse", a.get(l), lse, tensortest.F32)
			for s := range 5 {
				q, at, n := int(o.Q[s]), int(o.K[s]), int(o.KLen[s])
				one, _ := segments(c.heads, c.kvHeads, c.d, 0, [2]int{1, n})
				y, l := a.garbage(1, wide), a.lse()
				l = a.b.View(l, 0, 1, o.Heads)
				a.b.Attention(y, l, a.put(a.q[q*wide:(q+1)*wide], 1), a.put(a.k[at*narrow:(at+n)*narrow], n), a.put(a.v[at*narrow:(at+n)*narrow], n), one)
				same(t, fmt.Sprintf("%s: segment %d", name, s), a.get(y), out[q*wide:(q+1)*wide])
			}
		}
	}
}

func TestAttentionTooWide(t *testing.T) {
	o, keys := segments(1, 1, 257, 0, [2]int{2, 2})
	a := newAttentionTest(t, o, keys, false)
	a.b.Attention(a.garbage(2, 257), a.lse(), a.put(a.q, 2), a.put(a.k, 2), a.put(a.v, 2), o)
	if a.b.Sync() == nil {
		t.Error("no failure")
	}
}

// Rates are of the nominal operations: two products for each query and key that
// it sees forward, five backward.
func BenchmarkAttention(b *testing.B) {
	for _, c := range []struct {
		heads, kvHeads, d, segments, length int
		precision                           tensor.DType
	}{
		{32, 8, 128, 1, 4096, tensor.BF16},
		{32, 8, 128, 16, 256, tensor.BF16},
		{32, 8, 64, 1, 4096, tensor.BF16},
		{32, 32, 128, 1, 4096, tensor.BF16},
		{32, 8, 96, 1, 4096, tensor.BF16},
		{32, 8, 128, 1, 1024, tensor.F32},
	} {
		for _, dt := range []tensor.DType{tensor.BF16, tensor.F32} {
			o, keys := segments(c.heads, c.kvHeads, c.d, 0, slices.Repeat([][2]int{{c.length, c.length}}, c.segments)...)
			o.Precision = c.precision
			pairs := float64(c.segments*c.heads*c.d) * float64(c.length) * float64(c.length+1) / 2
			name := fmt.Sprintf("%dx%d/heads=%d,%d/d=%d/%s in %s", c.segments, c.length, c.heads, c.kvHeads, c.d, dt, c.precision)
			b.Run(name, func(b *testing.B) {
				back := device(b)
				rows := func(heads int) *tensor.Tensor {
					f := fill(b, back, keys, heads*c.d)
					if dt == tensor.F32 {
						return f
					}
					return halved(b, back, f)
				}
				q, k, v, y, dy := rows(c.heads), rows(c.kvHeads), rows(c.kvHeads), rows(c.heads), rows(c.heads)
				dq, dk, dv, lse := rows(c.heads), rows(c.kvHeads), rows(c.kvHeads), fill(b, back, keys, c.heads)
				rate(b, back, "forward", "TFLOP/s", 4*pairs/1e12, func() { back.Attention(y, lse, q, k, v, o) })
				rate(b, back, "backward", "TFLOP/s", 10*pairs/1e12, func() { back.AttentionGrad(dq, dk, dv, q, k, v, y, lse, dy, o) })
			})
		}
	}
}

// Rates are of the keys and values that are read.
func BenchmarkAttentionDecode(b *testing.B) {
	for _, sequences := range []int{1, 16} {
		for _, length := range []int{512, 4096} {
			for _, dt := range []tensor.DType{tensor.BF16, tensor.F32} {
				const heads, kvHeads, d = 32, 8, 128
				o, keys := segments(heads, kvHeads, d, 0, slices.Repeat([][2]int{{1, length}}, sequences)...)
				b.Run(fmt.Sprintf("%dx%d/%s", sequences, length, dt), func(b *testing.B) {
					back := device(b)
					q, k, v := fill(b, back, sequences, heads*d), fill(b, back, keys, kvHeads*d), fill(b, back, keys, kvHeads*d)
					y, lse := fill(b, back, sequences, heads*d), fill(b, back, sequences, heads)
					if dt == tensor.BF16 {
						k, v = halved(b, back, k), halved(b, back, v)
					}
					rate(b, back, "step", "GB/s", 2*float64(keys*kvHeads*dt.Bytes(d))/1e9, func() { back.Attention(y, lse, q, k, v, o) })
				})
			}
		}
	}
}

// rate reports how much of a quantity f does in a second.
func rate(b *testing.B, back *Backend, name, unit string, quantity float64, f func()) {
	b.Run(name, func(b *testing.B) {
		f()
		if err := back.Sync(); err != nil {
			b.Fatal(err)
		}
		b.ResetTimer()
		for range b.N {
			f()
		}
		if err := back.Sync(); err != nil {
			b.Fatal(err)
		}
		b.ReportMetric(quantity*float64(b.N)/b.Elapsed().Seconds(), unit)
	})
}

// fill returns a tensor of numbers around 0.
func fill(b *testing.B, back *Backend, rows, cols int) *tensor.Tensor {
	x := make([]float32, rows*cols)
	for i := range x {
		x[i] = float32(int32(uint32(i)*2654435761)) * (1.0 / (1 << 31))
	}
	t, err := back.Alloc(tensor.F32, rows, cols)
	if err != nil {
		b.Fatal(err)
	}
	back.Upload(t, x)
	return t
}

// halved returns t in bfloat16.
func halved(b *testing.B, back *Backend, t *tensor.Tensor) *tensor.Tensor {
	h, err := back.Alloc(tensor.BF16, t.Shape...)
	if err != nil {
		b.Fatal(err)
	}
	back.round(mem("halved", h).ptr, mem("halved", t).ptr, t.Len())
	if err := back.Sync(); err != nil {
		b.Fatal(err)
	}
	back.Free(t)
	return h
}
