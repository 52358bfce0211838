package cpu

import (
	"fmt"
	"math"
	"slices"
	"testing"

	"pipe/tensor"
)

// attentionOf runs forward and backward and returns the results and their names.
func (b *Backend) attentionOf(t testing.TB, o tensor.Attention, nk int, from []float32) (names []string, all [][]float32) {
	t.Helper()
	nq, hq, hk := int(o.Q[len(o.Q)-1]), o.Heads*o.HeadDim, o.KVHeads*o.HeadDim
	put := func(rows, cols int, from []float32) *tensor.Tensor {
		x, err := b.Alloc(tensor.F32, rows, cols)
		if err != nil {
			t.Fatal(err)
		}
		if from != nil {
			b.Upload(x, from[:rows*cols])
		}
		return x
	}
	const apart = 101
	q, k, v, dy := put(nq, hq, from), put(nk, hk, from[apart:]), put(nk, hk, from[2*apart:]), put(nq, hq, from[3*apart:])
	y, lse, dq, dk, dv := put(nq, hq, nil), put(nq, o.Heads, nil), put(nq, hq, nil), put(nk, hk, nil), put(nk, hk, nil)
	b.Attention(y, lse, q, k, v, o)
	b.AttentionGrad(dq, dk, dv, q, k, v, y, lse, dy, o)
	for _, x := range []*tensor.Tensor{y, lse, dq, dk, dv} {
		r := make([]float32, x.Len())
		b.Download(r, x)
		all = append(all, r)
	}
	return []string{"output", "log-sum-exp", "dq", "dk", "dv"}, all
}

// TestAttentionPairs: in bfloat16, long segments are those of float32 but for
// rounding, short ones the same, and none depends on the others or on threads.
func TestAttentionPairs(t *testing.T) {
	k := accelerated("")
	if k == nil || k.halfTile == nil {
		t.Skip("this processor has no products of pairs")
	}
	b := newBackend(2, k)
	defer b.Close()
	for _, d := range []int{16, 48, 64, 128} {
		for _, o := range []tensor.Attention{
			{Q: []int32{0, 300}, K: []int32{0}, KLen: []int32{300}},
			{Q: []int32{0, 5, 262, 520}, K: []int32{0, 5, 262}, KLen: []int32{5, 257, 258}},
			{Q: []int32{0, 1, 130, 133}, K: []int32{3, 10, 0}, KLen: []int32{299, 411, 256}}, // with a beginning in common
		} {
			o.Heads, o.KVHeads, o.HeadDim = 4, 2, d
			name := fmt.Sprintf("%v of %d", o.KLen, d)
			nq, nk, width := int(o.Q[len(o.Q)-1]), 0, o.Heads*d
			for s := range o.K {
				nk = max(nk, int(o.K[s]+o.KLen[s]))
			}
			from := wave((max(nq, nk) + 20) * width)
			names, want := b.attentionOf(t, o, nk, from)
			o.Precision = tensor.BF16
			_, got := b.attentionOf(t, o, nk, from)
			for i := range want {
				size, diff := 0.0, 0.0
				for j, w := range want[i] {
					size += float64(w) * float64(w)
					diff += math.Pow(float64(got[i][j])-float64(w), 2)
				}
				if e := math.Sqrt(diff / size); !(e > 0 && e < 6e-3) {
					t.Errorf("%s: %s differs by %.2g of its norm", name, names[i], e)
				}
			}
			for _, threads := range []int{1, 7} {
				other := newBackend(threads, k)
				_, again := other.attentionOf(t, o, nk, from)
				other.Close()
				for i := range got {
					if !slices.Equal(bits(got[i]), bits(again[i])) {
						t.Errorf("%s: %s has other bits with %d threads", name, names[i], threads)
					}
				}
			}
		}
	}
}

// TestAttentionAllocates: nothing, once it has run.
func TestAttentionAllocates(t *testing.T) {
	for _, limit := range []string{"", "generic"} {
		b := newBackend(2, choose(limit))
		defer b.Close()
		x := func(rows, cols int) *tensor.Tensor {
			y, err := b.Alloc(tensor.F32, rows, cols)
			if err != nil {
				t.Fatal(err)
			}
			return y
		}
		const n, heads, d = 300, 2, 16
		for _, precision := range []tensor.DType{tensor.F32, tensor.BF16} {
			o := tensor.Attention{Heads: heads, KVHeads: heads, HeadDim: d, Precision: precision, Q: []int32{0, 280, n}, K: []int32{0, 280}, KLen: []int32{280, 20}}
			q, k, v, y, lse, dq, dk, dv := x(n, heads*d), x(n, heads*d), x(n, heads*d), x(n, heads*d), x(n, heads), x(n, heads*d), x(n, heads*d), x(n, heads*d)
			step := func() {
				b.Attention(y, lse, q, k, v, o)
				b.AttentionGrad(dq, dk, dv, q, k, v, y, lse, y, o)
			}
			step()
			if a := testing.AllocsPerRun(10, step); a > 0 {
				t.Errorf("%s, %s: %v allocations a step", b.k.name, precision, a)
			}
		}
	}
}

// TestAttentionAlone: the bits of a segment are the same beside others.
func TestAttentionAlone(t *testing.T) {
	for _, limit := range []string{"", "avx2", "generic"} {
		b := newBackend(2, choose(limit))
		defer b.Close()
		for _, precision := range []tensor.DType{tensor.F32, tensor.BF16} {
			const heads, d = 2, 32
			lengths := []int32{300, 17, 2, 257}
			o := tensor.Attention{Heads: heads, KVHeads: heads, HeadDim: d, Precision: precision, Q: []int32{0}, KLen: lengths}
			for i, n := range lengths {
				o.K, o.Q = append(o.K, o.Q[i]), append(o.Q, o.Q[i]+n)
			}
			total := int(o.Q[len(lengths)])
			from := wave((total + 20) * heads * d)
			names, all := b.attentionOf(t, o, total, from)
			for s, n := range lengths {
				one := o
				one.Q, one.K, one.KLen = []int32{0, n}, []int32{0}, []int32{n}
				_, alone := b.attentionOf(t, one, int(n), from[int(o.K[s])*heads*d:])
				for i := range alone {
					width := len(alone[i]) / int(n)
					if got := all[i][int(o.K[s])*width:][:len(alone[i])]; !slices.Equal(bits(got), bits(alone[i])) {
						t.Errorf("%s, %s: %s of segment %d has other bits alone", b.k.name, precision, names[i], s)
					}
				}
			}
		}
	}
}
