//go:build cuda

package gpu

import (
	"fmt"
	"testing"

	"pipe/tensor"
)

// weight returns a frozen weight of equal rows: rates do not depend on
// numbers, but for the power that they take, so activations are random.
func (s *bench) weight(dt, precision tensor.DType, rows, cols int) *tensor.Tensor {
	s.Helper()
	x := s.normal(cols)
	for i := range x {
		x[i] *= 0.02
	}
	row := make([]byte, dt.Bytes(cols))
	if dt.Quantized() {
		for i := range row {
			row[i] = byte(s.rng.Uint32()) & 0x2f
		}
	} else {
		tt, _ := s.load(dt, x, 1, cols)
		s.b.download("test", row, mem("test", tt).ptr)
	}
	data := make([]byte, 0, rows*len(row))
	for range rows {
		data = append(data, row...)
	}
	w, err := s.b.Load(dt, data, rows, cols)
	if err != nil {
		s.Fatal(err)
	}
	s.b.Precision(w, precision)
	return w
}

// act returns an activation of random numbers.
func (s *bench) act(dt tensor.DType, rows, cols int) *tensor.Tensor {
	s.Helper()
	x := make([]float32, rows*cols)
	for i := range x {
		x[i] = s.rng.Float32() - 0.5
	}
	t := s.put(x, rows, cols)
	if dt == tensor.BF16 {
		h := s.alloc(dt, rows, cols)
		s.b.unpack(mem("test", h).ptr, cols, operand{dt: tensor.F32, ptr: mem("test", t).ptr, rows: rows, cols: cols}, cols, true)
		s.b.Free(t)
		return h
	}
	return t
}

// Products of training, of tokens by an 8B Llama's projections.
func BenchmarkProducts(b *testing.B) {
	const tokens = 4096
	for _, z := range [][2]int{{4096, 4096}, {1024, 4096}, {14336, 4096}, {4096, 14336}} {
		for _, dt := range []tensor.DType{tensor.BF16, tensor.F32} {
			b.Run(fmt.Sprintf("%dx%dx%d/%s", tokens, z[0], z[1], dt), func(b *testing.B) {
				s := newBench(b)
				out, in := z[0], z[1]
				x, y := s.act(dt, tokens, in), s.act(dt, tokens, out)
				w := s.weight(tensor.BF16, tensor.BF16, out, in)
				work := 2e-12 * tokens * float64(out) * float64(in)
				low := tensor.LowRank{U: s.act(tensor.F32, tokens, 16), V: s.act(tensor.F32, out, 16), TransV: true, Alpha: 1}
				forward := tensor.MatMul{TransB: true, Alpha: 1, Uniform: true}
				for _, plain := range []bool{false, true} {
					s.b.noWgmma = plain
					name := "wgmma"
					if plain {
						name = "mma"
					}
					rate(b, s.b, name+"/forward", "TFLOP/s", work, func() { s.b.MatMul(y, x, w, forward) })
					rate(b, s.b, name+"/backward", "TFLOP/s", work, func() { s.b.MatMul(x, y, w, tensor.MatMul{Alpha: 1}) })
				}
				s.b.noWgmma = false
				forward.LowRank = &low
				rate(b, s.b, "wgmma/forward with rank 16", "TFLOP/s", work, func() { s.b.MatMul(y, x, w, forward) })
			})
		}
	}
	b.Run("4096x4096x4096/in f32", func(b *testing.B) {
		s := newBench(b)
		x, y, w := s.act(tensor.F32, tokens, 4096), s.act(tensor.F32, tokens, 4096), s.act(tensor.F32, 4096, 4096)
		work := 2e-12 * tokens * 4096 * 4096
		rate(b, s.b, "forward", "TFLOP/s", work, func() { s.b.MatMul(y, x, w, tensor.MatMul{TransB: true, Alpha: 1}) })
		rate(b, s.b, "backward", "TFLOP/s", work, func() { s.b.MatMul(x, y, w, tensor.MatMul{Alpha: 1}) })
		rate(b, s.b, "gradient", "TFLOP/s", work, func() { s.b.MatMul(w, y, x, tensor.MatMul{TransA: true, Alpha: 1, Beta: 1}) })
	})
	b.Run("4096x4096x4096/gradient of bf16", func(b *testing.B) {
		s := newBench(b)
		x, y, w := s.act(tensor.BF16, tokens, 4096), s.act(tensor.BF16, tokens, 4096), s.act(tensor.F32, 4096, 4096)
		rate(b, s.b, "gradient", "TFLOP/s", 2e-12*tokens*4096*4096, func() { s.b.MatMul(w, y, x, tensor.MatMul{TransA: true, Alpha: 1, Beta: 1}) })
	})
}

// Ways to divide products by descriptors; -test.benchtime 100x measures all in
// some seconds.
func BenchmarkTiled(b *testing.B) {
	const tokens = 4096
	for _, z := range [][2]int{{4096, 4096}, {1024, 4096}, {14336, 4096}, {4096, 14336}} {
		b.Run(fmt.Sprintf("%dx%dx%d", tokens, z[0], z[1]), func(b *testing.B) {
			s := newBench(b)
			out, in := z[0], z[1]
			x, y := s.act(tensor.BF16, tokens, in), s.alloc(tensor.BF16, tokens, out)
			x32, y32 := s.alloc(tensor.F32, tokens, in), s.alloc(tensor.F32, tokens, out)
			w := s.weight(tensor.BF16, tensor.BF16, out, in)
			s.b.MatMul(y, x, w, tensor.MatMul{TransB: true, Alpha: 1})
			work := 2e-12 * tokens * float64(out) * float64(in)
			for _, group := range []int{8, 16, 32} {
				s.b.group = group
				name := fmt.Sprintf("group %d", group)
				rate(b, s.b, name+"/NT bf16", "TFLOP/s", work, func() { s.b.MatMul(y, x, w, tensor.MatMul{TransB: true, Alpha: 1}) })
				rate(b, s.b, name+"/NT f32", "TFLOP/s", work, func() { s.b.MatMul(y32, x, w, tensor.MatMul{TransB: true, Alpha: 1}) })
				rate(b, s.b, name+"/NT f32 added", "TFLOP/s", work, func() { s.b.MatMul(y32, x, w, tensor.MatMul{TransB: true, Alpha: 1, Beta: 1}) })
				rate(b, s.b, name+"/NN f32", "TFLOP/s", work, func() { s.b.MatMul(x32, y, w, tensor.MatMul{Alpha: 1}) })
			}
		})
	}
}

// Products of adapters, which read an activation once; rates are of that.
func BenchmarkAdapters(b *testing.B) {
	const tokens = 4096
	for _, width := range []int{4096, 14336} {
		for _, r := range []int{16, 64} {
			for _, dt := range []tensor.DType{tensor.BF16, tensor.F32} {
				b.Run(fmt.Sprintf("%dx%d/rank %d/%s", tokens, width, r, dt), func(b *testing.B) {
					s := newBench(b)
					x, low := s.act(dt, tokens, width), s.act(tensor.F32, tokens, r)
					down, up := s.act(tensor.F32, r, width), s.act(tensor.F32, width, r)
					size := 1e-9 * float64(dt.Bytes(tokens*width))
					rate(b, s.b, "down", "GB/s", size, func() { s.b.MatMul(low, x, down, tensor.MatMul{TransB: true, Alpha: 1, Uniform: true}) })
					rate(b, s.b, "up gradient", "GB/s", size, func() { s.b.MatMul(low, x, up, tensor.MatMul{Alpha: 1}) })
					rate(b, s.b, "gradient of B", "GB/s", size, func() { s.b.MatMul(up, x, low, tensor.MatMul{TransA: true, Alpha: 1, Beta: 1}) })
					rate(b, s.b, "gradient of A", "GB/s", size, func() { s.b.MatMul(down, low, x, tensor.MatMul{TransA: true, Alpha: 1, Beta: 1}) })
				})
			}
		}
	}
	b.Run("dora norm", func(b *testing.B) {
		s := newBench(b)
		const out, in, r = 14336, 4096, 16
		w := s.weight(tensor.BF16, tensor.BF16, out, in)
		q, c, sq, m := s.act(tensor.F32, out, 1), s.act(tensor.F32, out, 1), s.act(tensor.F32, out, 1), s.act(tensor.F32, out, 1)
		x, y := s.act(tensor.F32, r, in), s.act(tensor.F32, out, r)
		rate(b, s.b, "norm", "GB/s", 2e-9*out*in, func() { s.b.DoRANorm(q, c, sq, w, x, y, m, 2) })
	})
}

// Products of decoding; rates are of the weight's bytes.
func BenchmarkFewRows(b *testing.B) {
	for _, z := range [][2]int{{4096, 4096}, {14336, 4096}, {128256, 4096}} {
		for _, c := range [][2]tensor.DType{{tensor.BF16, tensor.BF16}, {tensor.BF16, tensor.F32}, {tensor.Q8_0, tensor.BF16}, {tensor.Q4_K, tensor.BF16}, {tensor.NF4, tensor.BF16}, {tensor.Q4_K, tensor.F32}} {
			b.Run(fmt.Sprintf("%dx%d/%s in %s", z[0], z[1], c[0], c[1]), func(b *testing.B) {
				s := newBench(b)
				out, in := z[0], z[1]
				w := s.weight(c[0], c[1], out, in)
				x, y := s.act(tensor.F32, 16, in), s.act(tensor.F32, 16, out)
				for _, m := range []int{1, 4, 16} {
					rate(b, s.b, fmt.Sprintf("%d rows", m), "GB/s", 1e-9*float64(c[0].Bytes(out*in)), func() {
						s.b.MatMul(s.b.View(y, 0, m, out), s.b.View(x, 0, m, in), w, tensor.MatMul{TransB: true, Alpha: 1})
					})
				}
			})
		}
	}
}
