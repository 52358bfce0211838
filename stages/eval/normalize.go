package eval

import "strings"

// overlap is the F1 of the words of got and want.
func overlap(got, want string) float64 {
	g, w := strings.Fields(got), strings.Fields(want)
	left := map[string]int{}
	for _, x := range w {
		left[x]++
	}
	same := 0
	for _, x := range g {
		if left[x] > 0 {
			left[x]--
			same++
		}
	}
	if same == 0 {
		return 0
	}
	p, r := float64(same)/float64(len(g)), float64(same)/float64(len(w))
	return 2 * p * r / (p + r)
}
