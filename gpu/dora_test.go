//go:build cuda

package gpu

import (
	"fmt"
	"math"
	"testing"

	"pipe/tensor"
	"pipe/tensor/tensortest"
)

// TestDoRANorm: ranks for each kernel and between them, parts of tiles and of chunks,
// and weights that are not multiplied as they are.
func TestDoRANorm(t *testing.T) {
	for _, major := range []int{8, 9} {
		t.Run(fmt.Sprintf("sm_%d0", major), func(t *testing.T) {
			p := newPair(t)
			if b := p.on[0].(*Backend); b.major != major {
				if b.major < major {
					t.Skip("the device has too little shared memory")
				}
				b.major = major
			}
			testDoRANorm(p)
		})
	}
}

func testDoRANorm(p *pair) {
	for _, z := range []struct {
		dt, precision tensor.DType
		out, in, r    int
		skip          int // elements of A and of B
	}{
		{tensor.BF16, tensor.BF16, 1, 8, 1, 0},
		{tensor.BF16, tensor.BF16, 300, 72, 3, 1},
		{tensor.BF16, tensor.BF16, 700, 1000, 16, 0},
		{tensor.BF16, tensor.BF16, 300, 2056, 24, 0},
		{tensor.BF16, tensor.BF16, 257, 520, 40, 3},
		{tensor.BF16, tensor.BF16, 520, 264, 100, 0},
		{tensor.BF16, tensor.BF16, 40, 300, 16, 0}, // no whole chunks of 16 bytes
		{tensor.BF16, tensor.BF16, 33, 64, 260, 0},
		{tensor.F32, tensor.BF16, 90, 136, 16, 0},
		{tensor.Q8_0, tensor.F32, 90, 256, 8, 0},
		{tensor.BF16, tensor.F32, 700, 520, 16, 0},
		{tensor.BF16, tensor.F32, 300, 264, 31, 1},
		{tensor.BF16, tensor.F32, 300, 72, 64, 0},
		{tensor.BF16, tensor.F32, 70, 72, 70, 0},
		{tensor.F32, tensor.F32, 90, 136, 16, 0},
	} {
		name := fmt.Sprintf("%s in %s %dx%d rank %d: ", z.dt, z.precision, z.out, z.in, z.r)
		w := p.load(z.dt, p.stored(z.dt, z.out*z.in), z.out, z.in)
		a, b, m := p.skewed(z.skip, z.r, z.in), p.skewed(z.skip, z.out, z.r), p.put(z.out)
		sq, c, ratio := p.put(z.out), p.put(z.out), p.put(z.out)
		scale := float32(0.3 / math.Sqrt(float64(z.r)))
		p.run(func(on tensor.Backend, i int) {
			on.Precision(w[i], z.precision)
			on.RowSquares(sq[i], w[i])
			on.DoRANorm(ratio[i], c[i], sq[i], w[i], a[i], b[i], m[i], scale)
		})
		p.same(name+"norm", c, tensortest.F32)
		p.same(name+"ratio", ratio, tensortest.F32)
	}
}
