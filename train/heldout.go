package train

import (
	"math"

	"pipe/model"
)

// HoldOut chooses the groups to measure on and not to learn from: in the order
// of s, until they hold share (0 to 1) of all items, rounded. sizes[i] are the
// items of group i. At least one group is held out and one is not; with fewer
// than two groups none is.
func HoldOut(sizes []int, share float64, s model.Stream) (held []bool) {
	held = make([]bool, len(sizes))
	all := 0
	for _, n := range sizes {
		all += n
	}
	want := max(1, int(math.Round(share*float64(all))))
	for i, g := range s.Perm(len(sizes)) {
		if want <= 0 || i == len(sizes)-1 {
			break
		}
		held[g] = true
		want -= sizes[g]
	}
	return held
}
