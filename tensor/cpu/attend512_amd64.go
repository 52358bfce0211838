package cpu

import (
	"unsafe"

	"pipe/tensor"
)

// Queries and keys of a call of the kernels of attention.
const (
	attendMost = 4
	attendKeys = 4
)

type (
	scores512 = func(n, d int, q *float32, qr int, k *byte, kr int, p *float32, pr int, scale float32)
	mix512    = func(n int, p *float32, pr int, v *byte, vr int, c *float32, cr int)
)

// The kernels by queries, and of mix by 64 and 16 columns.
var (
	scoresOf  = [attendMost]scores512{scores1, scores2, scores3, scores4}
	mixOf     = [2][attendMost]mix512{{mix1x64, mix2x64, mix3x64, mix4x64}, {mix1x16, mix2x16, mix3x16, mix4x16}}
	mixOfBF16 = [2][attendMost]mix512{{mix1x64BF16, mix2x64BF16, mix3x64BF16, mix4x64BF16},
		{mix1x16BF16, mix2x16BF16, mix3x16BF16, mix4x16BF16}}
)

func scoresAVX512(rows, n, d int, q []float32, qr int, k unsafe.Pointer, kr int, p []float32, pr int, scale float32) {
	_, _ = q[(rows-1)*qr+d-1], p[(rows-1)*pr+max(n, 2*attendKeys-2)-1]
	for r := 0; r < rows; r += attendMost {
		m := min(attendMost, rows-r)
		run := func(i, groups, kr int) {
			scoresOf[m-1](groups, d/attendGroup, &q[r*qr], 4*qr, (*byte)(unsafe.Add(k, i*kr)), kr, &p[r*pr+i], 4*pr, scale)
		}
		if n >= attendKeys {
			run(0, n/attendKeys, kr)
			if n%attendKeys > 0 { // the last four, some of them again
				run(n-attendKeys, 1, kr)
			}
			continue
		}
		for i := range n { // four times the same key
			scoresOf[m-1](1, d/attendGroup, &q[r*qr], 4*qr, (*byte)(unsafe.Add(k, i*kr)), 0, &p[r*pr+i], 4*pr, scale)
		}
	}
}

func mixAVX512(rows, n, d int, p []float32, pr int, v unsafe.Pointer, vr int, dt tensor.DType, c []float32, cr int) {
	_, _ = p[(rows-1)*pr+n-1], c[(rows-1)*cr+d-1]
	kernels := &mixOf
	if dt == tensor.BF16 {
		kernels = &mixOfBF16
	}
	for r := 0; r < rows; r += attendMost {
		m := min(attendMost, rows-r)
		for j := 0; j < d; {
			width, cols := 0, 64
			if d-j < cols {
				width, cols = 1, attendGroup
			}
			kernels[width][m-1](n, &p[r*pr], 4*pr, (*byte)(unsafe.Add(v, dt.Bytes(j))), vr, &c[r*cr+j], 4*cr)
			j += cols
		}
	}
}
