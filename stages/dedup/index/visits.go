package index

import "math/bits"

// Visits say which rows visit which cells, a bit for each pair: their memory
// is n·k/8 bytes whatever the data is like, where lists would grow to 4·n·k.
type visits struct {
	words int      // of a row
	set   []uint64 // [n, words]
	count []int    // [k] rows that visit each cell, once counted
}

func newVisits(n, k int) *visits {
	w := (k + 63) / 64
	return &visits{words: w, set: make([]uint64, n*w), count: make([]int, k)}
}

// row returns the bits of row i.
func (v *visits) row(i int) []uint64 { return v.set[i*v.words : (i+1)*v.words] }

// tally fills count.
func (v *visits) tally() {
	clear(v.count)
	for i, x := range v.set {
		for at := i % v.words * 64; x != 0; x &= x - 1 {
			v.count[at+bits.TrailingZeros64(x)]++
		}
	}
}

// lists puts the rows that visit cell 64·w + b into out[b], ascending.
func (v *visits) lists(w int, out *[64][]int32) {
	for b := range out {
		out[b] = out[b][:0]
	}
	for i := w; i < len(v.set); i += v.words {
		for x := v.set[i]; x != 0; x &= x - 1 {
			b := bits.TrailingZeros64(x)
			out[b] = append(out[b], int32(i/v.words))
		}
	}
}
