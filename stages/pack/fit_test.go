package pack

import (
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// The example of TRL's documentation, with seq_length 4, rows cut before.
func TestBestFitExample(t *testing.T) {
	if got, want := bestFit([]int{4, 2, 3, 1}, 4), [][]int{{0}, {2, 3}, {1}}; !reflect.DeepEqual(got, want) {
		t.Errorf("bfd: got %v, want %v", got, want)
	}
	// bfd_split: row 0 of 5 tokens became 4 and 1.
	if got, want := bestFit([]int{4, 1, 2, 3, 1}, 4), [][]int{{0}, {3, 1}, {2, 4}}; !reflect.DeepEqual(got, want) {
		t.Errorf("bfd_split: got %v, want %v", got, want)
	}
}

// slow is the definition: look at every bin.
func slow(lengths []int, size int) [][]int {
	order := make([]int, len(lengths))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int { return lengths[b] - lengths[a] })
	var bins [][]int
	var space, since []int // since: when the bin got its space
	for step, i := range order {
		best := -1
		for b := range bins {
			if space[b] >= lengths[i] && (best < 0 || space[b] < space[best] || space[b] == space[best] && since[b] < since[best]) {
				best = b
			}
		}
		if best < 0 {
			best = len(bins)
			bins, space, since = append(bins, nil), append(space, size), append(since, 0)
		}
		bins[best] = append(bins[best], i)
		space[best] -= lengths[i]
		since[best] = step
	}
	return bins
}

func TestBestFitProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		size := rapid.IntRange(1, 200).Draw(t, "size")
		lengths := rapid.SliceOfN(rapid.IntRange(1, size), 0, 120).Draw(t, "lengths")
		bins := bestFit(lengths, size)
		if want := slow(lengths, size); !reflect.DeepEqual(bins, want) {
			t.Fatalf("got %v\nwant %v", bins, want)
		}
		seen := make([]int, len(lengths))
		loads := make([]int, len(bins))
		for b, items := range bins {
			for _, i := range items {
				seen[i]++
				loads[b] += lengths[i]
			}
			if loads[b] > size {
				t.Fatalf("bin %d holds %d of %d", b, loads[b], size)
			}
			for a := range b {
				if loads[a]+loads[b] <= size {
					t.Fatalf("bins %d and %d fit into one", a, b)
				}
			}
		}
		for i, n := range seen {
			if n != 1 {
				t.Fatalf("item %d is packed %d times", i, n)
			}
		}
	})
}

func firstFit(lengths []int, size int) int {
	var space []int
next:
	for _, n := range lengths {
		for b := range space {
			if space[b] >= n {
				space[b] -= n
				continue next
			}
		}
		space = append(space, size-n)
	}
	return len(space)
}

// On lengths like those of conversations it needs no more rows than first fit,
// and wastes next to nothing.
func TestBestFitIsDense(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 20 {
		size, total := 1024, 0
		lengths := make([]int, 1000)
		for i := range lengths {
			lengths[i] = min(size, 20+int(r.ExpFloat64()*250))
			total += lengths[i]
		}
		n := len(bestFit(lengths, size))
		if f := firstFit(lengths, size); n > f {
			t.Errorf("%d rows; first fit needs %d", n, f)
		}
		if d := float64(total) / float64(n*size); !(d > 0.98) {
			t.Errorf("density %.4f", d)
		}
	}
}

func BenchmarkBestFit(b *testing.B) {
	r := rand.New(rand.NewPCG(1, 2))
	lengths := make([]int, 1_000_000)
	for i := range lengths {
		lengths[i] = min(4096, 20+int(r.ExpFloat64()*500))
	}
	for b.Loop() {
		bestFit(lengths, 4096)
	}
}
