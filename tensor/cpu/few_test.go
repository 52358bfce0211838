package cpu

import (
	"fmt"
	"math"
	"testing"

	"pipe/tensor"
	"pipe/tensor/quant"
)

// TestFewRows: products of up to 16 rows with arranged weights, for every type
// and in both precisions, agree with sums in float64; a row has the same bits
// alone and with others; and rows of a part of the weight have those of the
// whole.
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
			n, in := z[0], (z[1]+dt.Block()-1)/dt.Block()*dt.Block()
			data := make([]byte, dt.Bytes(n*in))
			quant.Quantize(data, dt, wave(n*in))
			w, err := b.Load(dt, data, n, in)
			if err != nil {
				t.Fatal(err)
			}
			for _, precision := range []tensor.DType{tensor.F32, tensor.BF16} {
				b.Precision(w, precision)
				checkFew(t, b, dt, w, precision)
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

func checkFew(t *testing.T, b *Backend, dt tensor.DType, w *tensor.Tensor, precision tensor.DType) {
	t.Helper()
	const most, alpha = 16, 0.7
	o := b.operand("test", w)
	n, in := o.rows, o.cols
	x, row := wave(most*in), make([]float32, in)
	rounded := append([]float32{}, x...)
	rel := 3e-6
	if precision == tensor.BF16 {
		roundGo(rounded, x)
		rel = 1e-5 // VDPBF16PS rounds more often
		if dt == tensor.NF4 {
			rel = 4e-3 // its codes are rounded
		}
	}
	want, size := make([]float64, most*n), make([]float64, most*n)
	for j := range n {
		o.expandRow(b.k, row, j, 0)
		for i := range most {
			for p, v := range row {
				term := alpha * float64(v) * float64(rounded[i*in+p])
				want[i*n+j] += term
				size[i*n+j] += math.Abs(term)
			}
		}
	}
	var whole []float32
	for m := most; m >= 1; m-- {
		for _, beta := range []float32{0, 1} {
			name := fmt.Sprintf("%s [%d, %d] in %s, %d rows, beta %v", dt, n, in, precision, m, beta)
			got, check := guarded(wave(m * n))
			p := product{m: m, n: n, k: in, c: got, ldc: n, a: x, lda: in, w: o, transW: true, alpha: alpha, beta: beta}
			if s, _ := b.storedPanels(&p); s == nil {
				t.Fatalf("%s: not arranged", name)
			}
			b.multiply(&p)
			check(t, name)
			if beta == 0 {
				if m == most {
					whole = append(whole, got...)
				}
				sameBits(t, name, got, whole[:m*n])
			}
			before := wave(m * n)
			for i, g := range got {
				v := want[i] + float64(beta)*float64(before[i])
				if !(math.Abs(float64(g)-v) <= rel*size[i]+1e-6) {
					t.Fatalf("%s: element %d is %v; want %v", name, i, g, v)
				}
			}
		}
	}
	if n > 64 {
		got := make([]float32, 3*(n-64))
		b.multiply(&product{m: 3, n: n - 64, k: in, c: got, ldc: n - 64, a: x, lda: in, w: o.slice(64, n), transW: true, alpha: alpha})
		for i := range 3 {
			sameBits(t, dt.String()+": a part of the rows", got[i*(n-64):][:n-64], whole[i*n+64:][:n-64])
		}
	}
}
