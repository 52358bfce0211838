package index

import (
	"context"
	"errors"
	"math"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
	"testing"

	"pgregory.net/rapid"

	"pipe/model"
	"pipe/tensor"
	"pipe/tensor/cpu"
)

// planted returns n vectors in clusters, every eighth followed by a copy with
// noise whose cosine lies around 0.95, and a few rows of zeros.
func planted(n, width, clusters int, spread float64, seed uint64) Vectors {
	r := rand.New(rand.NewPCG(seed, 1))
	normal := func(row []float32) {
		for k := range row {
			row[k] = float32(r.NormFloat64())
		}
	}
	centers := Vectors{make([]float32, clusters*width), width}
	normal(centers.Data)
	v := Vectors{make([]float32, n*width), width}
	for i := range n {
		row := v.Row(i)
		normal(row)
		switch {
		case i%97 == 96:
			clear(row)
		case i%8 == 7:
			for k, x := range v.Row(i - 1) {
				row[k] = x + row[k]*float32(0.2*(1+r.Float64()))*rms(v.Row(i-1))
			}
		default:
			c := centers.Row(r.IntN(clusters))
			for k := range row {
				row[k] = c[k] + float32(spread)*row[k]
			}
		}
	}
	v.Normalize()
	return v
}

func rms(row []float32) float32 {
	var s float64
	for _, x := range row {
		s += float64(x) * float64(x)
	}
	return float32(math.Sqrt(s / float64(len(row))))
}

func backend(t testing.TB) tensor.Backend {
	b := cpu.New(0)
	t.Cleanup(func() { b.Close() })
	return b
}

// brute returns all pairs at or above the threshold, by definition.
func brute(v Vectors, threshold float64) map[[2]int]bool {
	pairs := map[[2]int]bool{}
	for i := range v.Len() {
		for j := range i {
			if v.Cosine(i, j) >= threshold {
				pairs[[2]int{j, i}] = true
			}
		}
	}
	return pairs
}

// found returns the pairs of a search that are at or above the threshold.
func found(t testing.TB, s Search, v Vectors, threshold float64) map[[2]int]bool {
	t.Helper()
	pairs := map[[2]int]bool{}
	err := s(context.Background(), backend(t), v, threshold, func(a, b int) {
		if a == b {
			t.Fatalf("row %d is paired with itself", a)
		}
		if v.Cosine(a, b) >= threshold {
			pairs[[2]int{min(a, b), max(a, b)}] = true
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	return pairs
}

func missing(want, got map[[2]int]bool) (n int) {
	for p := range want {
		if !got[p] {
			n++
		}
	}
	return n
}

// The exact searches find every pair, whatever the data is like.
func TestExactSearches(t *testing.T) {
	for _, c := range []struct {
		n, width, clusters int
		spread, threshold  float64
	}{
		{0, 16, 1, 1, 0.9}, {1, 16, 1, 1, 0.9}, {5, 7, 2, 0.5, 0.5}, {700, 24, 5, 0.3, 0.9},
		{2600, 40, 60, 0.4, 0.95}, {2500, 33, 1, 5, 0.92}, {900, 8, 3, 0.05, 0.999},
	} {
		v := planted(c.n, c.width, c.clusters, c.spread, 7)
		want := brute(v, c.threshold)
		for name, s := range map[string]Search{"tiles": Tiles, "cells": Cells} {
			if m := missing(want, found(t, s, v, c.threshold)); m > 0 {
				t.Errorf("%s: %d of %d pairs are missing for %+v", name, m, len(want), c)
			}
		}
	}
}

// Cells itself, without the way out into Tiles, is exact too.
func TestCellsPruneExactly(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		v := planted(rapid.IntRange(2, 300).Draw(rt, "n"), rapid.IntRange(2, 20).Draw(rt, "width"), rapid.IntRange(1, 9).Draw(rt, "clusters"),
			rapid.Float64Range(0, 2).Draw(rt, "spread"), rapid.Uint64().Draw(rt, "seed"))
		threshold := rapid.Float64Range(0.1, 1).Draw(rt, "threshold")
		c, err := newCells(context.Background(), backend(t), v, threshold)
		if err != nil {
			rt.Fatal(err)
		}
		defer c.close()
		got := map[[2]int]bool{}
		if err := c.join(context.Background(), threshold, func(a, b int) { got[[2]int{min(a, b), max(a, b)}] = true }); err != nil {
			rt.Fatal(err)
		}
		if m := missing(brute(v, threshold), got); m > 0 {
			rt.Fatalf("%d pairs are missing", m)
		}
	})
}

func TestCellsPrune(t *testing.T) {
	v := planted(4000, 64, 200, 0.4, 3)
	c, err := newCells(context.Background(), backend(t), v, 0.95)
	if err != nil {
		t.Fatal(err)
	}
	defer c.close()
	if n := float64(v.Len()); c.cost() > n*n/8 {
		t.Errorf("%.0f cosines for %.0f rows in clusters; tiles need %.0f", c.cost(), n, n*n/2)
	}
}

func TestGraphFindsNeighbours(t *testing.T) {
	v := planted(5000, 48, 100, 0.7, 5)
	g, err := BuildGraph(context.Background(), v, GraphOptions{M: 16, EfConstruction: 200, Seed: 1})
	if err != nil {
		t.Fatal(err)
	}
	if per := g.Bytes() / v.Len(); per > 200 {
		t.Errorf("the graph takes %d bytes a vector; must be at most 200", per)
	}
	w := g.NewWalker()
	hits, all := 0, 0
	for i := 3; i < v.Len(); i += 50 {
		if v.zero(i) {
			continue
		}
		type scored struct {
			row int
			cos float64
		}
		exact := make([]scored, v.Len())
		for j := range exact {
			exact[j] = scored{j, v.Cosine(i, j)}
		}
		slices.SortFunc(exact, func(a, b scored) int {
			if a.cos != b.cos {
				return int(math.Copysign(1, b.cos-a.cos))
			}
			return a.row - b.row
		})
		rows, cosines := g.Neighbours(w, v.Row(i), 10, 100)
		if rows[0] != i || math.Abs(float64(cosines[0])-1) > 1e-5 {
			t.Errorf("row %d: nearest is %d at %v", i, rows[0], cosines[0])
		}
		for _, e := range exact[:10] {
			all++
			if slices.Contains(rows, e.row) {
				hits++
			}
		}
	}
	if recall := float64(hits) / float64(all); !(recall >= 0.97) {
		t.Errorf("recall@10 is %.3f; must be at least 0.97", recall)
	}
}

func TestNavigate(t *testing.T) {
	v := planted(3000, 48, 150, 0.7, 6)
	want := brute(v, 0.92)
	if m := missing(want, found(t, Navigate, v, 0.92)); !(float64(m) <= 0.001*float64(len(want))) {
		t.Errorf("%d of %d pairs are missing", m, len(want))
	}
	same := Vectors{make([]float32, 500*4), 4}
	for i := range 500 {
		same.Row(i)[0] = 1
	}
	g := NewGroups(500)
	for p := range found(t, Navigate, same, 0.99) {
		g.Union(p[0], p[1])
	}
	for i := range 500 {
		if g.Root(i) != 0 {
			t.Fatalf("identical rows fall apart at row %d", i)
		}
	}
}

// A search gives the same candidates in the same order on 1, 2 and 7
// processors, with as many threads in the backend, and when other goroutines
// push its own about.
func TestSameOnAnyNumberOfProcessors(t *testing.T) {
	v := planted(2300, 32, 50, 0.5, 8)
	for name, s := range map[string]Search{"tiles": Tiles, "cells": Cells, "graph": Navigate} {
		var first [][2]int
		for i, procs := range []int{1, 2, 7, 7} {
			var got [][2]int
			err := disturbed(procs, i > 2, func(b tensor.Backend) error {
				return s(context.Background(), b, v, 0.9, func(x, y int) { got = append(got, [2]int{x, y}) })
			})
			if err != nil {
				t.Fatal(err)
			}
			if i == 0 {
				first = got
			} else if !slices.Equal(first, got) {
				t.Errorf("%s: %d candidates on one processor, %d on %d, or in another order", name, len(first), len(got), procs)
			}
		}
	}
}

// disturbed runs f on that many processors, with goroutines beside it that
// take and yield them all the time when asked to.
func disturbed(procs int, noise bool, f func(tensor.Backend) error) error {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(procs))
	b := cpu.New(procs)
	defer b.Close()
	stop := make(chan struct{})
	var wg sync.WaitGroup
	if noise {
		for range 2 * procs {
			wg.Go(func() {
				for r := rand.New(rand.NewPCG(rand.Uint64(), 1)); ; runtime.Gosched() {
					select {
					case <-stop:
						return
					default:
					}
					for range r.IntN(2000) {
						r.Uint64()
					}
				}
			})
		}
	}
	err := f(b)
	close(stop)
	wg.Wait()
	return err
}

func TestCoderDoesNotPanic(t *testing.T) {
	for _, n := range []int{0, 1, 50, 300} {
		v := planted(n, 16, 3, 0.3, 9)
		err := Coder(context.Background(), nil, v, 0.95, func(a, b int) {
			if v.Cosine(a, b) < 0.95 {
				t.Errorf("pair %d, %d is not near", a, b)
			}
		})
		if err != nil {
			t.Errorf("%d rows: %v", n, err)
		}
	}
}

func TestMeasureRecall(t *testing.T) {
	v := planted(800, 32, 20, 0.5, 10)
	g := NewGroups(v.Len())
	pairs := brute(v, 0.95)
	n := 0
	var kept [][2]int
	for p := range pairs {
		kept = append(kept, p)
	}
	slices.SortFunc(kept, func(a, b [2]int) int { return slices.Compare(a[:], b[:]) })
	for i, p := range kept {
		if i%4 != 0 {
			g.Union(p[0], p[1])
		}
	}
	for _, p := range kept {
		if g.Same(p[0], p[1]) {
			n++
		}
	}
	r, err := MeasureRecall(context.Background(), backend(t), v, 0.95, v.Len(), 1, g)
	if err != nil || r.Pairs != len(kept) || r.Found != n {
		t.Errorf("got %+v, %v; want %d pairs, %d found", r, err, len(kept), n)
	}
	// Of a sample: each pair with a row in it, once.
	part, err := MeasureRecall(context.Background(), backend(t), v, 0.95, v.Len()/2, 1, g)
	drawn := map[int]bool{}
	for _, i := range model.NewStream(1, "dedup.recall").Perm(v.Len())[:v.Len()/2] {
		drawn[i] = true
	}
	in := 0
	for _, p := range kept {
		if drawn[p[0]] || drawn[p[1]] {
			in++
		}
	}
	if err != nil || part.Pairs != in || in == 0 || in == len(kept) {
		t.Errorf("a sample: got %+v, %v; want %d pairs of %d", part, err, in, len(kept))
	}
	if !(r.Value() < 0.9 && r.Stderr() > 0) {
		t.Errorf("value %v, standard error %v", r.Value(), r.Stderr())
	}
}

func TestCancelled(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	v := planted(2000, 16, 3, 0.3, 9)
	for name, s := range map[string]Search{"tiles": Tiles, "cells": Cells, "graph": Navigate, "coder": Coder} {
		if err := s(ctx, backend(t), v, 0.9, func(int, int) {}); err != context.Canceled {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

// TestCellsCancelled: what stops the making of cells is their error.
func TestCellsCancelled(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	v := planted(2000, 16, 3, 0.3, 9)
	if _, err := newCells(ctx, backend(t), v, 0.95); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
}

func TestAbove(t *testing.T) {
	row := []float32{0.5, -1, 0.95, float32(math.Inf(-1)), 0.949, 1, 0.95, 0, 0.2, 0.99, -0.99}
	for _, low := range []float32{0.95, 0, -0.5, 2} {
		var want []int32
		for i, x := range row {
			if x >= low {
				want = append(want, int32(i))
			}
		}
		if got := above(nil, row, low); !slices.Equal(got, want) {
			t.Errorf("above %v: got %v, want %v", low, got, want)
		}
	}
}

func BenchmarkJoin(b *testing.B) {
	v := planted(20000, 128, 2000, 0.7, 1)
	for name, s := range map[string]Search{"tiles": Tiles, "cells": Cells, "graph": Navigate} {
		b.Run(name, func(b *testing.B) {
			be := backend(b)
			for b.Loop() {
				if err := s(context.Background(), be, v, 0.95, func(int, int) {}); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(v.Len()*b.N)/b.Elapsed().Seconds(), "vectors/s")
		})
	}
}
