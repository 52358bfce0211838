package quant

import (
	"encoding/binary"
	"math"
)

// NF4 (Dettmers et al. 2023, section 3): 16 quantiles of the normal
// distribution, scaled to ±1, times the largest magnitude of 64 elements. Byte
// j of a block holds element 2j in its high and element 2j+1 in its low nibble.

const (
	nf4Block = 64
	nf4Bytes = 4 + nf4Block/2
)

// nf4 are the values of the codes, to the last bit as bitsandbytes has them.
var nf4 = [16]float32{
	-1, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453,
	-0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0,
	0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
	0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1,
}

// nf4Bounds are the numbers above which the next code is nearer: the means of
// neighbours, in float32.
var nf4Bounds = func() (b [16]float32) {
	for i := range 15 {
		b[i] = (nf4[i] + nf4[i+1]) / 2
	}
	b[15] = float32(math.Inf(1))
	return b
}()

// nf4Cells is the code of a number at the lower end of each of 64 cells of
// [-1, 1], and of 1. A cell has at most one bound; one at the very end of a
// cell counts as inside, whichever way the number of the cell was rounded.
var nf4Cells = func() (c [65]uint8) {
	for i := range c {
		for low := float32(i)/32 - 1 - 1e-6; low > nf4Bounds[c[i]]; c[i]++ {
		}
	}
	return c
}()

// NF4Map returns the values of the 16 codes.
func NF4Map() [16]float32 { return nf4 }

// nf4Least is what bitsandbytes divides by at least, so that a block of zeros
// has codes of zero.
const nf4Least = 1e-38

func quantizeNF4(dst []byte, src []float32) {
	for ; len(src) >= nf4Block; dst, src = dst[nf4Bytes:], src[nf4Block:] {
		x, b := (*[nf4Block]float32)(src), (*[nf4Bytes]byte)(dst)
		top := abs(extreme(x[:]))
		id := 1 / max(top, nf4Least)
		binary.LittleEndian.PutUint32(b[:], math.Float32bits(top))
		for j := range nf4Block / 2 {
			b[4+j] = nf4Code(x[2*j]*id)<<4 | nf4Code(x[2*j+1]*id)
		}
	}
}

// nf4Code returns the code nearest to v, the lower one of two equally near.
// Numbers beyond ±1, and NaN, have some code.
func nf4Code(v float32) uint8 {
	q := nf4Cells[uint32(min(max(int32((v+1)*32), 0), 64))] & 15
	if v > nf4Bounds[q] {
		q++
	}
	return q
}

func dequantizeNF4(dst []float32, src []byte) {
	for ; len(dst) >= nf4Block; dst, src = dst[nf4Block:], src[nf4Bytes:] {
		y, b := (*[nf4Block]float32)(dst), (*[nf4Bytes]byte)(src)
		var v [16]float32 // the values of the 16 codes
		d := math.Float32frombits(binary.LittleEndian.Uint32(b[:]))
		for q := range v {
			v[q] = d * nf4[q]
		}
		for j := range nf4Block / 2 {
			q := b[4+j]
			y[2*j], y[2*j+1] = v[q>>4], v[q&15]
		}
	}
}
