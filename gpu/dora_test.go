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

// TestDoRANorms: norms of many weights together, more than there are at a time, for
// kernels that copy A ahead and that do not, with parts of tiles and of chunks.
func TestDoRANorms(t *testing.T) {
	p := newPair(t)
	b := p.on[0].(*Backend)
	own, sms := b.major, b.sms
	for i := range 16 {
		major, half, r := 8+i&1, i&2 > 0, []int{1, 16, 20, 40}[i>>2]
		if major > own {
			continue // the device has too little shared memory
		}
		b.major, b.sms = major, []int{1, 7, 40, 132}[i*5%16/4]
		name := fmt.Sprintf("sm_%d0, half %v, rank %d, %d multiprocessors: ", major, half, r, b.sms)
		var ns []tensor.DoRANorm
		var norms, ratios []both
		for at := range doraMost + 2 {
			out, in := []int{8, 300, 256, 30, 513}[at%5], []int{64, 72, 200, 8}[at%4]
			w := p.load(tensor.BF16, p.stored(tensor.BF16, out*in), out, in)
			x, y, m := p.skewed(at%3/2, r, in), p.put(out, r), p.put(out)
			sq, c, ratio := p.put(out), p.put(out), p.put(out)
			p.run(func(on tensor.Backend, i int) {
				if half {
					on.Precision(w[i], tensor.BF16)
				}
				on.RowSquares(sq[i], w[i])
				if n := (tensor.DoRANorm{Ratio: ratio[i], C: c[i], W2: sq[i], W: w[i], A: x[i], B: y[i], M: m[i], Scale: 0.1}); i == 0 {
					ns = append(ns, n)
				} else {
					on.DoRANorm(n.Ratio, n.C, n.W2, n.W, n.A, n.B, n.M, n.Scale)
				}
			})
			norms, ratios = append(norms, c), append(ratios, ratio)
		}
		b.DoRANorms(ns)
		for at := range ns {
			p.same(fmt.Sprintf("%snorm %d", name, at), norms[at], tensortest.F32)
			p.same(fmt.Sprintf("%sratio %d", name, at), ratios[at], tensortest.F32)
		}
	}
	b.major, b.sms = own, sms
}
