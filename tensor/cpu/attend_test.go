package cpu

import (
	"math"
	"slices"
	"testing"
	"unsafe"

	"pipe/tensor"
)

// TestAttendKernels: the sums of values have the bits of tiles, in both types;
// scores agree with sums in float64 and do not depend on what stands beside a key.
func TestAttendKernels(t *testing.T) {
	k := accelerated("")
	if k == nil || k.scores == nil {
		t.Skip("this processor has no kernels of attention in place")
	}
	for _, d := range []int{16, 48, 64, 80, 128} {
		for _, n := range []int{1, 2, 3, 4, 5, 7, 8, 130} {
			for rows := 1; rows <= 9; rows++ {
				ld := d + 16
				stored := make([]byte, 2*n*ld)
				roundBF16Go(stored, wave(n*ld))
				x := make([]float32, n*ld)
				k.expand(x, tensor.BF16, stored)
				checkMix(t, k, rows, n, d, x, stored)
				checkScores(t, k, rows, n, d, x, stored)
			}
		}
	}
}

func checkMix(t *testing.T, k *kernels, rows, n, d int, x []float32, stored []byte) {
	t.Helper()
	ld, cr := d+16, d+8
	p, want := wave(rows*(n+3)), wave(rows*cr)
	got, check := guarded(want)
	half, checkHalf := guarded(want)
	k.mix(rows, n, d, p, n+3, unsafe.Pointer(&x[0]), 4*ld, tensor.F32, got, cr)
	k.mix(rows, n, d, p, n+3, unsafe.Pointer(&stored[0]), 2*ld, tensor.BF16, half, cr)
	for r := range rows {
		for j := 0; j < d; j += k.cols {
			k.tile(1, min(k.cols, d-j), n, p[r*(n+3):], n+3, 1, x[j:], ld, want[r*cr+j:], cr, 1, true, ahead{})
		}
	}
	check(t, "mix")
	checkHalf(t, "mix of bfloat16")
	if !slices.Equal(bits(got), bits(want)) || !slices.Equal(bits(half), bits(want)) {
		t.Fatalf("mix of %d rows, %d keys, %d elements: %v and %v; tiles have %v", rows, n, d, got[:4], half[:4], want[:4])
	}
}

func checkScores(t *testing.T, k *kernels, rows, n, d int, x []float32, stored []byte) {
	t.Helper()
	ld, pr, scale := d+16, max(n, 6), float32(0.3)
	q := wave(rows * d)
	got, check := guarded(make([]float32, rows*pr))
	k.scores(rows, n, d, q, d, unsafe.Pointer(&stored[0]), 2*ld, got, pr, scale)
	check(t, "scores")
	for r := range rows {
		for i := range n {
			want, size, one := 0.0, 0.0, [6]float32{}
			for j, v := range q[r*d:][:d] {
				want += float64(v) * float64(x[i*ld+j]) * float64(scale)
				size += math.Abs(float64(v) * float64(x[i*ld+j]))
			}
			k.scores(1, 1, d, q[r*d:], d, unsafe.Pointer(&stored[2*i*ld]), 2*ld, one[:], 6, scale)
			if g := got[r*pr+i]; g != one[0] || math.Abs(float64(g)-want) > 1e-6*size {
				t.Fatalf("score of query %d of %d and key %d of %d, %d elements: %v, alone %v; want %v", r, rows, i, n, d, g, one[0], want)
			}
		}
	}
}
