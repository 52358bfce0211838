package tensortest

import (
	"cmp"
	"math"
	"slices"

	"pipe/tensor"
)

// testLargest compares the largest of rows with what sorting gives: with many
// equal numbers, zeros of both signs, infinities and NaN.
func testLargest(s *suite) {
	b, ok := s.b.(tensor.Sampler)
	if !ok {
		s.Skip("this backend leaves that to the host")
	}
	for _, z := range [][3]int{{1, 1, 1}, {3, 5, 5}, {2, 2048, 1}, {2, 2049, 40}, {1, 4099, 256}, {5, 9000, 3}, {1, 70000, 200}} {
		n, v, k := z[0], z[1], z[2]
		x := s.normal(n * v)
		for i := range x {
			switch s.rng.IntN(5) {
			case 0:
				x[i] = float64(s.rng.IntN(5) - 2)
			case 1:
				x[i] = math.Copysign(0, float64(s.rng.IntN(2))-0.5)
			}
		}
		for _, odd := range []float64{0, math.Inf(1), math.Inf(-1), math.NaN()} {
			if odd != 0 {
				for range v/100 + 1 {
					x[(n-1)*v+s.rng.IntN(v)] = odd
				}
			}
			logits := s.put(x, n, v)
			ids, most := s.alloc(tensor.I32, n, k), s.garbage(n, k)
			b.Largest(ids, most, logits)
			got, at, all := s.get(most), s.getInts(ids), s.get(logits)
			for r := range n {
				row, order := all[r*v:(r+1)*v], make([]int32, v)
				for i := range order {
					order[i] = int32(i)
				}
				slices.SortFunc(order, func(i, j int32) int { return cmp.Or(cmp.Compare(row[j], row[i]), cmp.Compare(i, j)) })
				want := order[:k]
				if math.IsNaN(odd) && r == n-1 {
					want = slices.Repeat([]int32{-1}, k)
				}
				if !slices.Equal(at[r*k:(r+1)*k], want) {
					s.Errorf("%v, with %v, row %d: %v, want %v", z, odd, r, at[r*k:][:min(k, 8)], want[:min(k, 8)])
					continue
				}
				for j, id := range want {
					if id >= 0 && math.Float32bits(got[r*k+j]) != math.Float32bits(row[id]) {
						s.Errorf("%v, with %v, row %d: number %d is %v, want %v", z, odd, r, j, got[r*k+j], row[id])
						break
					}
				}
			}
		}
	}
	logits := s.put(s.normal(20), 2, 10)
	for _, shape := range [][2]int{{2, 11}, {1, 5}, {3, 5}, {2, 0}} {
		func() {
			defer func() {
				if recover() == nil {
					s.Errorf("largest %v of 2 rows of 10 did not panic", shape)
				}
			}()
			b.Largest(s.alloc(tensor.I32, shape[0], shape[1]), s.garbage(shape[0], shape[1]), logits)
		}()
	}
}
