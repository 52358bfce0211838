package cpu

import (
	"unsafe"

	"pipe/tensor"
)

// A tile computes c = alpha*a·b, or c += alpha*a·b, for rows×cols elements of c
// and k terms each. Element (i, p) of a lies at i*ar+p*ac, (p, j) of b at
// p*br+j, (i, j) of c at i*cr+j. rows is what kernels.step returned and cols at
// most kernels.cols. Every element is one chain of k fused steps in order,
// whatever rows and cols are: their bits do not depend on how a matrix is cut.
//
// What next says may be fetched into the caches meanwhile.
type tile func(rows, cols, k int, a []float32, ar, ac int, b []float32, br int, c []float32, cr int, alpha float32, add bool, next ahead)

// ahead is memory that will be read soon: for each fourth term a line, at bytes
// behind b and by bytes apart.
type ahead struct{ at, by int }

const (
	dotRows = 4 // weights of one call of kernels.dots
	dotCols = 3 // its most vectors

	packRows = 16 // of one call of kernels.pack

	attendGroup = 16 // elements of a head in whole groups of kernels.scores and mix
)

// kernels is the table of inner loops. Slices of one call have equal lengths
// (that of the first) unless said otherwise; dst may be an operand. All pass
// NaN on, and infinities as IEEE arithmetic has them.
type kernels struct {
	name       string
	rows, cols int // of the largest tile
	tile       tile
	// step returns how many of n rows the next tile takes, at most kernels.rows.
	step func(n int) int
	// halfTile is the tile over pairs of bfloat16: k counts pairs, and an
	// element of a or b holds two numbers, the first in its lower half. Denormal
	// numbers count as zeros. Nil: products round to bfloat16 and use tile.
	halfTile tile

	// dots sets out[4*j+i] to the dot product of rows i of w (four, wr apart)
	// and j of x (n ≤ dotCols, xr apart), of k elements. The bits of a product
	// do not depend on n.
	dots func(n, k int, w []float32, wr int, x []float32, xr int, out *[dotRows * dotCols]float32)
	// scores and mix are attention of a few queries to n keys in place: nil:
	// with dots and tile. d is in whole groups of attendGroup, kr and vr are
	// bytes, and a row of p has room for 6 at least. scores sets p[j*pr+i] to the
	// scaled product of rows j of q (qr apart) and i of k, in bfloat16: its bits
	// depend on nothing else. mix is tile, with 1 and add, over values of either
	// type: c[j*cr:] += Σ p[j*pr+i]·v[i].
	scores func(rows, n, d int, q []float32, qr int, k unsafe.Pointer, kr int, p []float32, pr int, scale float32)
	mix    func(rows, n, d int, p []float32, pr int, v unsafe.Pointer, vr int, dt tensor.DType, c []float32, cr int)
	// few returns how weights of a type are arranged for products with few rows;
	// nil, or a nil function: not at all.
	few func(dt tensor.DType) *fewFormat
	// pack writes the transpose of 16 rows of k elements, sr apart, to k rows of
	// 16 in dst, dr apart. It moves bits: elements may be pairs of bfloat16.
	pack func(k int, dst []float32, dr int, src []float32, sr int)
	// pack8 is pack of 8 rows to k rows of 8, without a gap.
	pack8 func(k int, dst, src []float32, sr int)
	// halves sets dst [⌈n/2⌉] to the n elements of x as pairs of bfloat16, the
	// last one padded by zero; halfPairs makes pairs of low[i] and high[i].
	halves    func(dst, x []float32)
	halfPairs func(dst, low, high []float32)
	// round sets dst to x rounded to bfloat16, roundBF16 to how that is stored;
	// there denormal numbers may become zeros.
	round     func(dst, x []float32)
	roundBF16 func(dst []byte, x []float32)
	// expand sets dst to the elements of src.
	expand func(dst []float32, dt tensor.DType, src []byte)
	// rowDots is expand and dots for one vector, bit for bit, of four rows of
	// stored elements, wr bytes apart. It reports whether it knows the type.
	rowDots func(k int, w []byte, wr int, x []float32, dt tensor.DType, out *[dotRows * dotCols]float32) bool

	dot   func(x, y []float32) float32
	dot64 func(x, y []float32) float64 // products and sum in float64
	max   func(x []float32) float32    // of the numbers; -Inf without one

	addScaled  func(dst, a, b []float32, s float32)         // dst = a + s*b
	scale      func(dst, x []float32, s float32)            // dst = s*x
	mul        func(dst, x, y []float32, s float32)         // dst = s*x*y
	addMul     func(dst, x, y []float32, s float32)         // dst += s*x*y
	scaleDot   func(dst, sum, x, y, s []float32)            // dst = s*x, sum += x*y
	rotate     func(x, y, cos, sin []float32, sign float32) // x, y = x*cos - y*sign*sin, y*cos + x*sign*sin
	exp        func(dst, x []float32, by float32) float32   // dst = exp(x-by); the sum
	swiglu     func(dst, g, u []float32)                    // dst = silu(g)*u
	swigluGrad func(dg, du, g, u, dy []float32)
	// scoreGrad sets dp = p*(dp-delta)*s.
	scoreGrad func(dp, p []float32, delta, s float32)
	adamw     func(w, g, m, v []float32, c *adamw)
}

// adamw is an update with its constants worked out: see [tensor.AdamW].
type adamw struct {
	gradScale, decay      float32 // decay = 1 - lr*wd
	beta1c, beta2, beta2c float32 // the c stands for 1-beta
	step, root, eps       float32 // step = lr/(1-β1^t), root = 1/sqrt(1-β2^t)
}
