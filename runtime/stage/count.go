package stage

import "fmt"

// Count words a number of things for notes: "1 row", "2 rows". noun is singular
// and takes an s.
func Count[T int | int64](n T, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}
