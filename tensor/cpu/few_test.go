package cpu

import (
	"fmt"
	"math"
	"testing"

	"pipe/tensor"
	"pipe/tensor/quant"
)

// TestFewRows: the rows of a product have the same bits alone, with a few
// others, and in a product of many rows, for every type that is arranged, in
// both precisions; and rows of a part of the weight have those of the whole.
func TestFewRows(t *testing.T) {
	k := accelerated("")
	if k == nil || k.few == nil {
		t.Skip("this processor has no kernels for few rows")
	}
	b := newBackend(2, k)
	defer b.Close()
	for dt := tensor.F16; dt.Valid(); dt++ {
		if k.few(dt) == nil {
			continue
		}
		for _, z := range [][2]int{{5, 64}, {64, 32}, {200, 576}, {130, 1536}, {1, 448}} {
			n, in := z[0], z[1]
			in = (in + dt.Block() - 1) / dt.Block() * dt.Block()
			data := make([]byte, dt.Bytes(n*in))
			quant.Quantize(data, dt, wave(n*in))
			w, err := b.Load(dt, data, n, in)
			if err != nil {
				t.Fatal(err)
			}
			for _, precision := range []tensor.DType{tensor.F32, tensor.BF16} {
				b.Precision(w, precision)
				const many = 40
				x := wave(many * in)
				want := wave(many * n)
				o := b.operand("test", w)
				all := product{m: many, n: n, k: in, c: want, ldc: n, a: x, lda: in, w: o, transW: true, alpha: 0.7}
				b.multiply(&all)
				for m := 1; m <= 16; m++ {
					for _, beta := range []float32{0, 1} {
						name := fmt.Sprintf("%s %v in %s, %d rows, beta %v", dt, z, precision, m, beta)
						got, check := guarded(wave(m * n))
						p := product{m: m, n: n, k: in, c: got, ldc: n, a: x, lda: in, w: o, transW: true, alpha: 0.7, beta: beta}
						if s, _ := b.storedPanels(&p); s == nil {
							t.Fatalf("%s: not arranged", name)
						}
						b.multiply(&p)
						if beta == 0 {
							sameBits(t, name, got, want[:m*n])
						} else {
							sum := wave(m * n)
							q := product{m: m, n: n, k: in, c: sum, ldc: n, a: x, lda: in, w: o, transW: true, alpha: 0.7, beta: 1}
							b.multiplyPanels(&q)
							sameBits(t, name, got, sum)
						}
						check(t, name)
					}
				}
				if n > 64 {
					got := make([]float32, 3*(n-64))
					b.multiply(&product{m: 3, n: n - 64, k: in, c: got, ldc: n - 64, a: x, lda: in, w: o.slice(64, n), transW: true, alpha: 0.7})
					for i := range 3 {
						sameBits(t, dt.String()+": a part of the rows", got[i*(n-64):][:n-64], want[i*n+64:][:n-64])
					}
				}
			}
			// NaN in an operand reaches its row and no other.
			x := wave(2 * in)
			x[in-1] = float32(math.NaN())
			got := make([]float32, 2*n)
			b.multiply(&product{m: 2, n: n, k: in, c: got, ldc: n, a: x, lda: in, w: b.operand("test", w), transW: true, alpha: 1})
			if got[n-1] == got[n-1] || got[n] != got[n] {
				t.Errorf("%s: NaN in row 0 gives %v in it and %v in the next", dt, got[n-1], got[n])
			}
			b.Free(w)
		}
	}
}
