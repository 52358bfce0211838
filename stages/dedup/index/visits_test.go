package index

import (
	"context"
	"math/rand/v2"
	"runtime"
	"slices"
	"testing"
)

func TestVisits(t *testing.T) {
	const n, k = 300, 130
	r := rand.New(rand.NewPCG(2, 2))
	v := newVisits(n, k)
	want := make([][]int32, k)
	for i := range n {
		for j := range k {
			if r.IntN(5) == 0 {
				v.row(i)[j/64] |= 1 << (j % 64)
				want[j] = append(want[j], int32(i))
			}
		}
	}
	v.tally()
	var got [64][]int32
	for j := range k {
		if j%64 == 0 {
			v.lists(j/64, &got)
		}
		if !slices.Equal(got[j%64], want[j]) || v.count[j] != len(want[j]) {
			t.Errorf("cell %d: %d rows, count %d; want %d", j, len(got[j%64]), v.count[j], len(want[j]))
		}
	}
}

// Rows that are all alike, or all unlike, visit all cells: what the search
// holds does not grow with the number of pairs.
func TestMemoryIsBounded(t *testing.T) {
	const n, width = 20000, 16
	same := Vectors{make([]float32, n*width), width}
	for i := range n {
		same.Row(i)[3] = 1
	}
	for name, v := range map[string]Vectors{"same": same, "apart": planted(n, width, 1, 50, 11)} {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		c, err := newCells(context.Background(), backend(t), v, 0.95)
		if err != nil {
			t.Fatal(err)
		}
		runtime.ReadMemStats(&after)
		c.close()
		// n·k bits of visits, k² planes and the sample; a list of them would take 4·n·k/2 bytes.
		if got := after.TotalAlloc - before.TotalAlloc; got > 16<<20 {
			t.Errorf("%s: %d MiB for vectors of %d MiB", name, got>>20, n*width*4>>20)
		}
	}
	if testing.Short() {
		return
	}
	g := NewGroups(n)
	pairs := 0
	err := Cells(context.Background(), backend(t), same, 0.999, func(a, b int) {
		pairs++
		if !g.Same(a, b) {
			g.Union(a, b)
		}
	})
	if err != nil || pairs < n*(n-1)/2 || g.Root(n-1) != 0 {
		t.Errorf("%d pairs, root %d, %v", pairs, g.Root(n-1), err)
	}
}
