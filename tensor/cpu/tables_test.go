package cpu

import (
	"fmt"
	"slices"
	"testing"

	"pipe/tensor"
	"pipe/tensor/quant"
)

// A witness collects what whole operations give on one table of kernels.
type witness struct {
	t     *testing.T
	b     *Backend
	names []string
	bits  [][]uint32
}

func (w *witness) alloc(seed int, shape ...int) *tensor.Tensor {
	x, err := w.b.Alloc(tensor.F32, shape...)
	if err != nil {
		w.t.Fatal(err)
	}
	w.b.Upload(x, wave(x.Len() + seed)[seed:])
	return x
}

// load returns a frozen weight.
func (w *witness) load(dt tensor.DType, rows, cols int) *tensor.Tensor {
	data := make([]byte, dt.Bytes(rows*cols))
	quant.Quantize(data, dt, wave(rows*cols))
	x, err := w.b.Load(dt, data, rows, cols)
	if err != nil {
		w.t.Fatal(err)
	}
	return x
}

func (w *witness) see(name string, xs ...*tensor.Tensor) {
	for i, x := range xs {
		w.names = append(w.names, fmt.Sprintf("%s, result %d", name, i))
		w.bits = append(w.bits, bits(x.Mem.(*memory).f32[:x.Len()]))
	}
}

// products sees products of few and of many rows with weights of all kinds.
func (w *witness) products(precision tensor.DType, types ...tensor.DType) {
	const out, in, rank = 130, 512, 5
	for _, dt := range types {
		weight := w.load(dt, out, in)
		w.b.Precision(weight, precision)
		for _, m := range []int{1, 2, 3, 8, 15, 16, 17, 45} {
			x, g := w.alloc(1, m, in), w.alloc(2, m, out)
			low := &tensor.LowRank{U: w.alloc(3, m, rank), V: w.alloc(4, out, rank), TransV: true, Alpha: 0.5}
			for i, o := range []tensor.MatMul{
				{Alpha: 1}, {Alpha: -0.5, Beta: 1}, {Alpha: 1, Uniform: true}, {Alpha: 1, LowRank: low, ColScale: w.alloc(5, out)},
			} {
				y := w.alloc(6, m, out)
				o.TransB = true
				w.b.MatMul(y, x, weight, o)
				w.see(fmt.Sprintf("%s in %s, %d rows, product %d", dt, precision, m, i), y)
			}
			w.b.MatMul(x, g, weight, tensor.MatMul{Alpha: 1})
			w.see(fmt.Sprintf("%s in %s, %d rows, gradient", dt, precision, m), x)
			target, _ := w.b.Alloc(tensor.I32, m)
			lp, lse, dx := w.alloc(0, m), w.alloc(0, m), w.alloc(0, m, in)
			w.b.LogProb(lp, lse, nil, nil, x, weight, target)
			w.see(fmt.Sprintf("%s in %s, %d rows, log prob", dt, precision, m), lp, lse)
			w.b.LogProb(lp, lse, nil, dx, x, weight, target)
			w.see(fmt.Sprintf("%s in %s, %d rows, log prob and gradient", dt, precision, m), lp, lse, dx)
			w.b.LogProbGrad(dx, nil, x, weight, target, lse, lp)
			w.see(fmt.Sprintf("%s in %s, %d rows, gradient of log prob", dt, precision, m), dx)
		}
	}
}

// attention sees it as in training, reading a prompt and decoding.
func (w *witness) attention() {
	for _, d := range []int{16, 40, 64} {
		for _, o := range []tensor.Attention{
			{Q: []int32{0, 150, 153, 200}, K: []int32{0, 150, 153}, KLen: []int32{150, 3, 47}},
			{Q: []int32{0, 64}, K: []int32{10}, KLen: []int32{190}},
			{Q: []int32{0, 1, 2, 3}, K: []int32{0, 100, 170}, KLen: []int32{77, 70, 1}},
		} {
			o.Heads, o.KVHeads, o.HeadDim = 6, 2, d
			n := int(o.Q[len(o.Q)-1])
			q, dy, k, v := w.alloc(1, n, 6*d), w.alloc(2, n, 6*d), w.alloc(3, 200, 2*d), w.alloc(4, 200, 2*d)
			y, lse := w.alloc(0, n, 6*d), w.alloc(0, n, 6)
			w.b.Attention(y, lse, q, k, v, o)
			w.see(fmt.Sprintf("attention, %d queries of %d", n, d), y, lse)
			dq, dk, dv := w.alloc(0, n, 6*d), w.alloc(0, 200, 2*d), w.alloc(0, 200, 2*d)
			w.b.AttentionGrad(dq, dk, dv, q, k, v, y, lse, dy, o)
			w.see(fmt.Sprintf("gradient of attention, %d queries of %d", n, d), dq, dk, dv)
		}
	}
}

// TestTablesAgree: with AVX2 and with AVX-512 whole operations have the same
// bits, products in bfloat16, which both emulate, among them. The bfloat16
// instructions, which have a name of their own, change nothing else. Kernels for
// few rows, which AVX-512 alone has, sum in another order and are left out.
func TestTablesAgree(t *testing.T) {
	narrow, wide, pairs := accelerated("avx2"), accelerated("avx512"), accelerated("")
	if narrow == nil || wide.rows == narrow.rows {
		t.Skip("this processor has no AVX-512")
	}
	if (pairs.halfTile != nil) == (pairs.name == wide.name) {
		t.Errorf("names are %q and %q", wide.name, pairs.name)
	}
	wide.few, pairs.few = nil, nil
	run := func(k *kernels, precisions ...tensor.DType) *witness {
		b := newBackend(2, k)
		defer b.Close()
		w := &witness{t: t, b: b}
		w.names, w.bits = []string{"a step"}, [][]uint32{bits(step(t, b))}
		w.attention()
		for _, p := range precisions {
			w.products(p, tensor.F32, tensor.F16, tensor.BF16, tensor.Q8_0, tensor.Q4_0, tensor.Q4_K, tensor.Q6_K, tensor.NF4)
		}
		if err := b.Sync(); err != nil {
			t.Fatal(err)
		}
		return w
	}
	want := run(narrow, tensor.F32, tensor.BF16)
	for name, got := range map[string]*witness{"avx512": run(wide, tensor.F32, tensor.BF16), pairs.name: run(pairs, tensor.F32)} {
		for i := range got.bits {
			if !slices.Equal(got.bits[i], want.bits[i]) {
				t.Errorf("%s: %s: %d of %d elements differ from those of AVX2", name, want.names[i], different(got.bits[i], want.bits[i]), len(want.bits[i]))
			}
		}
	}
}

func different(a, b []uint32) (n int) {
	for i := range a {
		if a[i] != b[i] {
			n++
		}
	}
	return n
}
