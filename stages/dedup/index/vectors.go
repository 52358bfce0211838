// Package index finds pairs of vectors whose cosine is at least a threshold:
// exactly, by dense tiles or by cells that pruning makes small, or nearly so,
// by a graph. All of them yield candidates, which [Vectors.Cosine] then judges.
package index

import (
	"context"
	"math"

	"pipe/tensor"
)

// Vectors are rows of the same width, each of length 1, or 0 for a row that is
// like no other.
type Vectors struct {
	Data  []float32 // [rows, Width]
	Width int
}

// Len returns the number of rows.
func (v Vectors) Len() int {
	if v.Width == 0 {
		return 0
	}
	return len(v.Data) / v.Width
}

// Row returns row i.
func (v Vectors) Row(i int) []float32 { return v.Data[i*v.Width : (i+1)*v.Width] }

// Cosine returns the cosine of rows i and j, summed in float64 in a fixed
// order: it is the same on every machine, and 1 for equal rows.
func (v Vectors) Cosine(i, j int) float64 { return Cosine(v.Row(i), v.Row(j)) }

// Cosine returns the cosine of two vectors of the same width; 0 when one of
// them is zero.
func Cosine(a, b []float32) float64 {
	ab, aa, bb := dot(a, b), dot(a, a), dot(b, b)
	if aa == 0 || bb == 0 {
		return 0
	}
	return max(-1, min(1, ab/math.Sqrt(aa*bb)))
}

func dot(a, b []float32) float64 {
	var s0, s1, s2, s3 float64
	k := 0
	for ; k+4 <= len(a); k += 4 {
		s0 += float64(a[k]) * float64(b[k])
		s1 += float64(a[k+1]) * float64(b[k+1])
		s2 += float64(a[k+2]) * float64(b[k+2])
		s3 += float64(a[k+3]) * float64(b[k+3])
	}
	for ; k < len(a); k++ {
		s0 += float64(a[k]) * float64(b[k])
	}
	return s0 + s1 + s2 + s3
}

// Normalize scales every row to length 1; rows of zeros stay.
func (v Vectors) Normalize() {
	for i := range v.Len() {
		row := v.Row(i)
		var s float64
		for _, x := range row {
			s += float64(x) * float64(x)
		}
		if s == 0 {
			continue
		}
		f := 1 / math.Sqrt(s)
		for k, x := range row {
			row[k] = float32(float64(x) * f)
		}
	}
}

// slack is how far below the threshold a backend's cosine may lie for a pair
// to be a candidate: more than backends round.
const slack = 1.0 / 256

// A Yield is called with each candidate pair, a != b, from one goroutine. A
// pair may come several times.
type Yield func(a, b int)

// A Search yields at least the pairs of rows that it finds with a cosine of
// threshold or more.
type Search func(ctx context.Context, b tensor.Backend, v Vectors, threshold float64, yield Yield) error

// zero reports whether row i is all zeros.
func (v Vectors) zero(i int) bool {
	for _, x := range v.Row(i) {
		if x != 0 {
			return false
		}
	}
	return true
}
