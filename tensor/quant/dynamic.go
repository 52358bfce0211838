package quant

import (
	"math"
	"slices"
	"sort"
)

// A Dynamic is an 8-bit code for numbers of [-1, 1] or [0, 1] whose leading
// bits are an exponent of ten of growing length (Dettmers 2015, section 2;
// the map "dynamic" of bitsandbytes).
type Dynamic struct {
	// Values are what the codes stand for, ascending. The signed map has +1
	// but not -1: it begins with -0.99297.
	Values [256]float32
	Zero   uint8 // the code of 0

	middle [256]float32      // between code i and i+1; +Inf after the last
	least  [2][buckets]uint8 // of the numbers of a bucket, positive and negative
}

// A number's bucket is the upper half of its float32 bits, from 2^-23 to 1:
// narrower than the distance of two middles, so that a number has the least
// code of its bucket or the next.
const (
	firstBucket = (127 - 23) << 7
	buckets     = 127<<7 - firstBucket + 1
)

// NewDynamic returns the map with seven exponent bits.
func NewDynamic(signed bool) *Dynamic {
	d := &Dynamic{}
	values := []float64{0, 1}
	for i := range 7 {
		n := 1 << i // codes of a decade, and their boundaries
		if !signed {
			n *= 2
		}
		scale := float32(math.Pow(10, float64(i-6)))
		for j := range n {
			v := float64(scale * ((boundary(j, n) + boundary(j+1, n)) / 2))
			values = append(values, v)
			if signed {
				values = append(values, -v)
			}
		}
	}
	slices.Sort(values)
	for i, v := range values {
		d.Values[i] = float32(v)
		if v == 0 {
			d.Zero = uint8(i)
		}
	}
	for i := range 255 {
		d.middle[i] = (d.Values[i] + d.Values[i+1]) / 2
	}
	d.middle[255] = float32(math.Inf(1))
	for k := range buckets {
		low := math.Float32frombits(uint32(firstBucket+k) << 16)
		high := math.Float32frombits(uint32(firstBucket+k)<<16 | 0xffff)
		if k == 0 {
			low = 0
		}
		d.least[0][k], d.least[1][k] = d.search(low), d.search(-high)
	}
	return d
}

// boundary is number i of n+1 float32 numbers from 0.1 to 1, counted from the
// nearer end as torch.linspace does, in one rounding.
func boundary(i, n int) float32 {
	step := (float32(1) - float32(0.1)) / float32(n)
	if i < (n+1)/2 {
		return float32(float64(float32(0.1)) + float64(step)*float64(i))
	}
	return float32(1 - float64(step)*float64(n-i))
}

// search is Code by bisection.
func (d *Dynamic) search(x float32) uint8 {
	return uint8(sort.Search(255, func(i int) bool { return d.middle[i] >= x }))
}

// Code returns the code whose value is nearest to x, the lower of two; numbers
// beyond the map have its ends, and NaN has the last code.
func (d *Dynamic) Code(x float32) uint8 {
	bits := math.Float32bits(x)
	k := max(int(bits&0x7fffffff>>16), firstBucket) - firstBucket
	i := d.least[bits>>31][min(k, buckets-1)]
	if d.middle[i] < x {
		i++
	}
	return i
}
