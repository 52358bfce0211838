package cpu

import (
	"fmt"
	"math"
	"testing"

	"pipe/tensor"
)

// TestProductBeyondPanels: products larger than the panels that are packed at
// a time (2^20 floats of each operand, passes of 384 terms), in each direction
// alone and together, with rows that lie further apart than they are long.
func TestProductBeyondPanels(t *testing.T) {
	b := New(2)
	defer b.Close()
	for _, z := range [][3]int{ // m, n, k
		{11003, 3, 97},   // a transposed a is longer than its packed rows
		{5, 10501, 101},  // so is w
		{10373, 523, 17}, // tall and thin
		{197, 261, 5479}, // one strip of each at a time
		{401, 7, 5479},
		{17, 517, 5479},
		{1, 261, 5479},
		{5471, 517, 191},
	} {
		for _, transA := range []bool{false, true} {
			for _, transW := range []bool{false, true} {
				for _, beta := range []float32{0, 1, -0.5} {
					checkProduct(t, b, z[0], z[1], z[2], transA, transW, beta)
				}
			}
		}
	}
}

// checkProduct compares some rows and columns of a product, and every
// element between the rows, with sums in float64.
func checkProduct(t *testing.T, b *Backend, m, n, k int, transA, transW bool, beta float32) {
	t.Helper()
	const gap, alpha, mark = 5, 0.75, 777
	name := fmt.Sprintf("%dx%dx%d transA=%v transW=%v beta=%v", m, n, k, transA, transW, beta)
	ar, ac, wr, wc := m, k, k, n
	if transA {
		ar, ac = k, m
	}
	if transW {
		wr, wc = n, k
	}
	lda, ldw, ldc := ac+gap, wc+gap, n+gap
	// The last row ends where it ends: nothing after it may be read.
	a, w, c := wave((ar-1)*lda+ac), wave((wr-1)*ldw+wc), wave((m-1)*ldc+n)
	before := make([]float32, len(c))
	for i := range c {
		if i%ldc >= n {
			c[i] = mark
		}
	}
	copy(before, c)
	b.multiply(&product{m: m, n: n, k: k, c: c, ldc: ldc, a: a, lda: lda, transA: transA,
		w: operand{dt: tensor.F32, f: w, ld: ldw, rows: wr, cols: wc}, transW: transW, alpha: alpha, beta: beta})
	for i := range c {
		if i%ldc >= n && c[i] != mark {
			t.Fatalf("%s: element %d between the rows changed", name, i)
		}
	}
	for i := 0; i < m; i = sampled(i, m) {
		for j := 0; j < n; j = sampled(j, n) {
			sum, size := 0.0, 0.0
			for l := range k {
				x, y := i*lda+l, l*ldw+j
				if transA {
					x = l*lda + i
				}
				if transW {
					y = j*ldw + l
				}
				v := float64(a[x]) * float64(w[y])
				sum, size = sum+v, size+math.Abs(v)
			}
			want := alpha*sum + float64(beta)*float64(before[i*ldc+j])
			if diff := math.Abs(float64(c[i*ldc+j]) - want); !(diff <= 1e-6*(size+1)) {
				t.Fatalf("%s: (%d,%d) is %v, want %v", name, i, j, c[i*ldc+j], want)
			}
		}
	}
}

// sampled is the index after i of about 60 below n, the last among them.
func sampled(i, n int) int {
	if i == n-1 {
		return n
	}
	return min(i+max(1, n/60), n-1)
}
