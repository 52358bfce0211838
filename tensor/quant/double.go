package quant

import (
	"math/bits"
	"sync"
)

// Double quantisation (Dettmers et al. 2023, section 3): the scales of NF4
// blocks, less their mean, are stored in 8 bits, 256 of them to a scale of
// their own.

// DynamicBlock is how many numbers QuantizeDynamic gives one scale.
const DynamicBlock = 256

var signed = sync.OnceValue(func() *Dynamic { return NewDynamic(true) })

// DynamicMap returns the values of the 256 signed dynamic codes.
func DynamicMap() [256]float32 { return signed().Values }

// QuantizeDynamic sets q to the codes of x, and scale to the largest
// magnitude of each DynamicBlock of them, the last of which may be short. x
// must be finite; len(scale) is the number of blocks.
func QuantizeDynamic(q []byte, scale, x []float32) {
	codes := signed()
	for i := range scale {
		lo, hi := i*DynamicBlock, min(len(x), (i+1)*DynamicBlock)
		top := abs(extreme(x[lo:hi]))
		if hi-lo < DynamicBlock { // bitsandbytes has it so: it divides a short block, and raises its scale
			top = max(top, nf4Least)
		}
		scale[i] = top
		id := 1 / max(top, nf4Least)
		for j := lo; j < hi; j++ {
			v := float32(x[j] * id)
			if hi-lo < DynamicBlock {
				v = x[j] / top
			}
			q[j] = codes.Code(v)
		}
	}
}

// DequantizeDynamic sets dst to values[q]·scale + offset, a scale for each
// block of that many numbers: the scales of NF4 blocks from their 8 bits.
func DequantizeDynamic(dst []float32, q []byte, scale []float32, values *[256]float32, block int, offset float32) {
	for i, c := range q {
		dst[i] = float32(values[c]*scale[i/block]) + offset
	}
}

// Mean returns the mean of x in float32, summed in the order of one thread of
// torch on x86: four rows of eight lanes, in up to four levels. bitsandbytes'
// offset is that mean; with more threads, or on a GPU, its last bits vary.
func Mean(x []float32) float32 {
	const lanes, rows = 8, 4
	var acc [rows][lanes]float32
	vectors := len(x) / lanes
	cascade(&acc, x, vectors/rows)
	for i := vectors / rows * rows; i < vectors; i++ {
		for l := range lanes {
			acc[0][l] += x[i*lanes+l]
		}
	}
	for k := 1; k < rows; k++ {
		for l := range lanes {
			acc[0][l] += acc[k][l]
		}
	}
	var sum float32
	for _, v := range x[vectors*lanes:] {
		sum += v
	}
	for _, v := range acc[0] {
		sum += v
	}
	return sum / float32(len(x))
}

// cascade sums the first n groups of 32 numbers into acc, a level of partial
// sums over the other so that errors stay small.
func cascade(out *[4][8]float32, x []float32, n int) {
	const levels = 4
	power := max(4, bits.Len(uint(max(n, 1)-1))/levels)
	step := 1 << power
	var acc [levels][4][8]float32
	i := 0
	for i+step <= n {
		for range step {
			addGroup(&acc[0], x[i*32:])
			i++
		}
		for j := 1; j < levels; j++ {
			for k := range acc[j] {
				for l := range acc[j][k] {
					acc[j][k][l] += acc[j-1][k][l]
				}
			}
			acc[j-1] = [4][8]float32{}
			if i&((step-1)<<(j*power)) != 0 {
				break
			}
		}
	}
	for ; i < n; i++ {
		addGroup(&acc[0], x[i*32:])
	}
	for j := 1; j < levels; j++ {
		for k := range acc[j] {
			for l := range acc[j][k] {
				acc[0][k][l] += acc[j][k][l]
			}
		}
	}
	*out = acc[0]
}

func addGroup(acc *[4][8]float32, x []float32) {
	for k := range acc {
		for l := range acc[k] {
			acc[k][l] += x[k*8+l]
		}
	}
}
