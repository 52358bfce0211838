package tensortest

import (
	"cmp"
	"encoding/binary"
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
	for _, z := range [][3]int{{1, 1, 1}, {3, 5, 5}, {2, 2048, 1}, {2, 2049, 40}, {1, 4099, 256}, {5, 9000, 3}, {6, 40, 40}, {1, 140000, 256}} {
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

// testPenalize compares every bit with the host's.
func testPenalize(s *suite) {
	b, ok := s.b.(tensor.Sampler)
	if !ok {
		s.Skip("this backend leaves that to the host")
	}
	const n, v, m = 3, 700, 400
	x := float32s(s.normal(n * v))
	at, by := make([]int32, m), make([]float32, m)
	for i, p := range s.rng.Perm(n * v)[:m] {
		at[i], by[i] = int32(p), 1.1+float32(i%7)/10
	}
	x[at[0]], x[at[1]] = 0, float32(math.Inf(1))
	logits := s.alloc(tensor.F32, n, v)
	s.b.Upload(logits, x)
	penalties := s.alloc(tensor.F32, m)
	s.b.Upload(penalties, by)
	b.Penalize(logits, s.putInts(at), penalties)
	for i, p := range at {
		if x[p] > 0 {
			x[p] /= by[i]
		} else {
			x[p] *= by[i]
		}
	}
	s.same("penalized", s.get(logits), x)
}

// testWeigh compares totals and tokens drawn with those of the host, bit for bit.
func testWeigh(s *suite) {
	b, ok := s.b.(tensor.Sampler)
	if !ok {
		s.Skip("this backend leaves that to the host")
	}
	for _, z := range [][3]int{{1, 1, 1}, {2, 5, 3}, {3, 256, 1}, {2, 257, 40}, {9, 5000, 2}} {
		n, v, k := z[0], z[1], z[2]
		x := float32s(s.normal(n * v))
		for i := range x {
			x[i] *= 9
			if s.rng.IntN(9) == 0 {
				x[i] = float32(math.Inf(-1))
			}
		}
		if n > 2 { // rows of nothing, and of one token
			for i := range v {
				x[i], x[v+i] = float32(math.Inf(-1)), -1e30
			}
			x[v+v/2], x[v+v/2+1] = 3, 4
		}
		for range 4 {
			logits := s.alloc(tensor.F32, n, v)
			s.b.Upload(logits, x)
			ids, most, drawn, totals := s.alloc(tensor.I32, n, k), s.garbage(n, k), s.alloc(tensor.I32, n), s.alloc(tensor.U8, n, 8)
			t, u := make([]float64, n), make([]float64, n)
			for i := range t {
				t[i], u[i] = 1/(0.2+2*s.rng.Float64()), s.rng.Float64()
			}
			u[0], u[min(1, n-1)] = 0, 0 // the first token with a weight, after blocks without
			b.Largest(ids, most, logits)
			b.Weigh(drawn, totals, logits, ids, most, t, u)
			got, best, sums := s.getInts(drawn), s.getInts(ids), make([]byte, 8*n)
			s.b.DownloadBytes(sums, totals)
			for i := range n {
				want, sum := weigh(x[i*v:(i+1)*v], best[i*k], t[i], u[i])
				if total := math.Float64frombits(binary.LittleEndian.Uint64(sums[8*i:])); total != sum && (total == total || sum == sum) || got[i] != want {
					s.Errorf("%v, row %d at %v: token %d of %v, want %d of %v", z, i, u[i], got[i], total, want, sum)
				}
			}
		}
	}
}

// weigh is what Weigh does with a row.
func weigh(row []float32, best int32, t, u float64) (drawn int32, total float64) {
	top := row[best]
	weight := func(z float32) float64 { return float64(float32(tensor.ExpNegative(float64(z-top) * t))) }
	var sums []float64
	for i := 0; i < len(row); i += tensor.WeighBlock {
		sum := 0.0
		for _, z := range row[i:min(i+tensor.WeighBlock, len(row))] {
			sum += weight(z)
		}
		sums, total = append(sums, sum), total+sum
	}
	left := u * total
	for b, sum := range sums {
		if left >= sum {
			left -= sum
			continue
		}
		from := b * tensor.WeighBlock
		for i, z := range row[from:min(from+tensor.WeighBlock, len(row))] {
			w := weight(z)
			if w == 0 {
				continue
			}
			best = int32(from + i)
			if left -= w; left < 0 {
				break
			}
		}
		return best, total
	}
	return best, total
}
