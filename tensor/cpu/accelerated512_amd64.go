package cpu

import "unsafe"

// stepAVX512 cuts rows into tiles for which there are kernels.
func stepAVX512(n int) int {
	switch {
	case n == 16: // the rank of most adapters: 8 and 8 are faster than 14 and 2
		return 8
	case n >= 14:
		return 14
	case n >= 8:
		return 8
	case n >= 4:
		return 4
	default:
		return min(n, 2)
	}
}

func tileAVX512(rows, cols, k int, a []float32, ar, ac int, b []float32, br int, c []float32, cr int, alpha float32, add bool, next ahead) {
	if rows == 0 {
		return
	}
	// The last elements, so that a wrong size panics here.
	_, _, _ = a[(rows-1)*ar+(k-1)*ac], b[(k-1)*br+cols-1], c[(rows-1)*cr+cols-1]
	plus, mask := 0, 1<<cols-1
	if add {
		plus = 1
	}
	tiles512[kernel512(rows, cols)](k, &a[0], 4*ar, 4*ac, &b[0], 4*br, &c[0], 4*cr, mask, plus, next.at, next.by, alpha)
}

func halfTileAVX512(rows, cols, k int, a []float32, ar, ac int, b []float32, br int, c []float32, cr int, alpha float32, add bool, next ahead) {
	if rows == 0 {
		return
	}
	_, _, _ = a[(rows-1)*ar+(k-1)*ac], b[(k-1)*br+cols-1], c[(rows-1)*cr+cols-1]
	plus, mask := 0, 1<<cols-1
	if add {
		plus = 1
	}
	halfTiles512[kernel512(rows, cols)](k, &a[0], 4*ar, 4*ac, &b[0], 4*br, &c[0], 4*cr, mask, plus, next.at, next.by, alpha)
}

type tile512 = func(k int, a *float32, ar, ac int, b *float32, br int, c *float32, cr, mask, add, ahead, by int, alpha float32)

// The kernels by kernel512.
var (
	tiles512     = [...]tile512{tile1x16, tile1x32, tile2x16, tile2x32, tile4x16, tile4x32, tile8x16, tile8x32, tile14x16, tile14x32}
	halfTiles512 = [...]tile512{halfTile1x16, halfTile1x32, halfTile2x16, halfTile2x32, halfTile4x16, halfTile4x32,
		halfTile8x16, halfTile8x32, halfTile14x16, halfTile14x32}
)

// kernel512 returns the place of the kernel for tiles of that size; rows is
// what stepAVX512 returns.
func kernel512(rows, cols int) int {
	i := 0
	switch rows {
	case 2:
		i = 2
	case 4:
		i = 4
	case 8:
		i = 6
	case 14:
		i = 8
	}
	if cols > 16 {
		i++
	}
	return i
}

func halvesAVX512(dst, x []float32) {
	n := len(x) / 32
	if n > 0 {
		halves32(n, &dst[:16*n][0], &x[0])
	}
	halvesGo(dst[16*n:], x[32*n:])
}

func roundBF16AVX512(dst []byte, x []float32) {
	n := len(x) / 32
	if n > 0 {
		halves32(n, (*float32)(unsafe.Pointer(&dst[:64*n][0])), &x[0])
	}
	roundBF16Go(dst[64*n:], x[32*n:])
}

func halfPairsAVX512(dst, low, high []float32) {
	low, high = low[:len(dst)], high[:len(dst)]
	n := len(dst) / 16
	if n > 0 {
		halfPairs16(n, &dst[0], &low[0], &high[0])
	}
	halfPairsGo(dst[16*n:], low[16*n:], high[16*n:])
}
