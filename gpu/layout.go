//go:build cuda

package gpu

// How things are cut into pieces, and how they lie in memory.

// index is 1 for true.
func index(b bool) int {
	if b {
		return 1
	}
	return 0
}

func ceil(n, by int) int    { return (n + by - 1) / by }
func roundUp(n, to int) int { return ceil(n, to) * to }

// vectors reports whether vectors of 16 bytes can be moved from and to the
// addresses; 0 is none.
func vectors(ptrs ...uint64) bool {
	for _, p := range ptrs {
		if p%16 != 0 {
			return false
		}
	}
	return true
}

// rowVectors reports whether rows of ld elements from p on begin at whole vectors of
// four elements.
func rowVectors(p uint64, ld int, half bool) bool {
	bytes := uint64(16)
	if half {
		bytes = 8
	}
	return p%bytes == 0 && ld%4 == 0
}

// chunks reports whether bfloat16 rows of ld elements from p on, of which k count,
// are whole chunks of 16 bytes.
func chunks(p uint64, ld, k int) bool { return p%16 == 0 && ld%8 == 0 && k%8 == 0 }
