//go:build cuda

package gpu

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"pipe/tensor"
	"pipe/tensor/quant"
	"pipe/tensor/tensortest"
)

// softmaxes are rows of logits on a device.
type softmaxes struct {
	*Backend
	t              *testing.T
	rows, words    int
	ld             int
	z              []float64
	target         []int32
	logits, goal   *tensor.Tensor
	logp, lse, one *tensor.Tensor
}

func put(t testing.TB, b tensor.Backend, x []float32, shape ...int) *tensor.Tensor {
	t.Helper()
	y, err := b.Alloc(tensor.F32, shape...)
	if err != nil {
		t.Fatal(err)
	}
	b.Upload(y, x)
	return y
}

func get(b tensor.Backend, x *tensor.Tensor) []float32 {
	y := make([]float32, x.Len())
	b.Download(y, x)
	return y
}

func newSoftmaxes(t *testing.T, b *Backend, rows, words int) *softmaxes {
	s := &softmaxes{Backend: b, t: t, rows: rows, words: words}
	_, s.ld = logitRows(rows, words)
	rng := rand.New(rand.NewPCG(uint64(rows), uint64(words)))
	padded := make([]float32, rows*s.ld)
	for i := range padded {
		padded[i] = float32(math.NaN())
		if i%s.ld < words {
			padded[i] = float32(5 * rng.NormFloat64())
			if words > 8 && (i%s.ld == words/2 || i%s.ld == words-1) {
				padded[i] = 25 // a tie
			}
			s.z = append(s.z, float64(padded[i]))
		}
	}
	for range rows {
		s.target = append(s.target, int32(rng.IntN(words)))
	}
	s.logits, s.logp, s.lse = put(t, b, padded, rows, s.ld), put(t, b, make([]float32, rows), rows), put(t, b, make([]float32, rows), rows)
	s.one = put(t, b, slices.Repeat([]float32{-1.5}, rows), rows)
	var err error
	if s.goal, err = b.Alloc(tensor.I32, rows); err != nil {
		t.Fatal(err)
	}
	b.UploadInts(s.goal, s.target)
	return s
}

// grads returns what is now where the logits were.
func (s *softmaxes) grads(half bool) []float32 {
	all := get(s.Backend, s.logits)
	var g []float32
	for t := range s.rows {
		row := all[t*s.ld:][:s.ld]
		if half {
			row = make([]float32, s.ld)
			quant.Dequantize(row, tensor.BF16, bytesOf(all[t*s.ld:][:s.ld])[:2*s.ld])
		}
		for _, v := range row[s.words:] {
			if v != 0 {
				s.t.Errorf("row %d: %v after the last word", t, v)
			}
		}
		g = append(g, row[:s.words]...)
	}
	return g
}

// want returns the log-probability, the log-sum-exp, the first maximum and the
// gradient of each row.
func (s *softmaxes) want() (logp, lse []float64, best []int32, grad []float64) {
	for t := range s.rows {
		z, sum := s.z[t*s.words:][:s.words], 0.0
		most := slices.Max(z)
		for _, v := range z {
			sum += math.Exp(v - most)
		}
		l, goal := most+math.Log(sum), int(s.target[t])
		lse, logp, best = append(lse, l), append(logp, z[goal]-l), append(best, int32(slices.Index(z, most)))
		for i, v := range z {
			g := -math.Exp(v - l)
			if i == goal {
				g++
			}
			grad = append(grad, g)
		}
	}
	return logp, lse, best, grad
}

// TestSoftmax compares the kernels on logits with float64: rows of less than a
// step, of whole steps and of several, in the place of which gradients come.
func TestSoftmax(t *testing.T) {
	b := device(t)
	for _, words := range []int{1, 5, 8, 1023, 2048, 2049, 9999} {
		for i, k := range []*kernel{kLogProb, kLogProbFloat, kLogProbHalf} {
			s := newSoftmaxes(t, b, 3, words)
			logp, lse, best, grad := s.want()
			am, _ := b.Alloc(tensor.I32, s.rows)
			launch(b, k, dim{x: s.rows}, logitThreads, 0, &logProbArgs{logits: input("", s.logits), logp: input("", s.logp), lse: input("", s.lse),
				argmax: am.Mem.(*memory).ptr, target: s.goal.Mem.(*memory).ptr, words: int32(words), ld: int32(s.ld)})
			name := fmt.Sprintf("%d words, kernel %d: ", words, i)
			tensortest.Close(t, name+"logp", get(b, s.logp), logp, tensortest.F32)
			tensortest.Close(t, name+"lse", get(b, s.lse), lse, tensortest.F32)
			got := make([]int32, s.rows)
			if b.DownloadInts(got, am); !slices.Equal(got, best) {
				t.Errorf("%sargmax %v; want %v", name, got, best)
			}
			if i > 0 {
				tensortest.Close(t, name+"gradient", s.grads(i == 2), grad, [...]tensortest.Tolerance{tensortest.F32Grad, tensortest.BF16}[i-1])
			}
		}
		for i, k := range []*kernel{kLogitsGradFloat, kLogitsGradHalf} {
			s := newSoftmaxes(t, b, 3, words)
			_, lse, _, grad := s.want()
			for j := range grad {
				grad[j] *= -1.5
			}
			for j, v := range lse {
				b.Upload(b.View(s.lse, j, 1), []float32{float32(v)})
			}
			launch(b, k, dim{x: s.rows}, logitThreads, 0, &logitsGradArgs{logits: input("", s.logits), lse: input("", s.lse), dy: input("", s.one),
				target: s.goal.Mem.(*memory).ptr, words: int32(words), ld: int32(s.ld)})
			tensortest.Close(t, fmt.Sprintf("%d words, gradient %d", words, i), s.grads(i == 1), grad, [...]tensortest.Tolerance{tensortest.F32Grad, tensortest.BF16}[i])
		}
	}
	if err := b.Sync(); err != nil {
		t.Fatal(err)
	}
}

// TestSoftmaxNotFinite: a row that holds NaN or +Inf has a log-probability that
// is no number; words of -Inf are left out, however many.
func TestSoftmaxNotFinite(t *testing.T) {
	b := device(t)
	const words = 2100
	inf, nan := float32(math.Inf(1)), float32(math.NaN())
	for _, c := range []struct {
		from, to int
		bad      float32
		want     bool // a number
	}{{3, 4, inf, false}, {2099, 2100, nan, false}, {0, 1, nan, false}, {2080, 2081, -inf, true}, {0, 2090, -inf, true}} {
		s := newSoftmaxes(t, b, 1, words)
		s.target[0] = 2095
		b.UploadInts(s.goal, s.target)
		for i := c.from; i < c.to; i++ {
			b.Upload(b.View(s.logits, i, 1), []float32{c.bad})
			s.z[i] = float64(c.bad)
		}
		logp, _, _, _ := s.want()
		launch(b, kLogProbHalf, dim{x: 1}, logitThreads, 0, &logProbArgs{logits: input("", s.logits), logp: input("", s.logp), lse: input("", s.lse),
			target: s.goal.Mem.(*memory).ptr, words: words, ld: int32(s.ld)})
		if got := get(b, s.logp); c.want {
			tensortest.Close(t, fmt.Sprint(c.bad), got, logp, tensortest.F32)
		} else if got[0] == got[0] && !math.IsInf(float64(got[0]), -1) {
			t.Errorf("logp beside %v is %v", c.bad, got[0])
		}
	}
	if err := b.Sync(); err != nil {
		t.Fatal(err)
	}
}

// TestLogProbChunks: rows that come chunk by chunk give what they give together,
// with a gradient bit for bit.
func TestLogProbChunks(t *testing.T) {
	b := device(t)
	const rows, words, width = 40, 150, 24
	s := newSoftmaxes(t, b, rows, words)
	x := put(t, b, wave(rows*width), rows, width)
	w := put(t, b, wave(words*width), words, width)
	all := func(precision tensor.DType) (r [][]float32) {
		b.Precision(w, precision)
		lp, ls, dx, dy, dw := put(t, b, make([]float32, rows), rows), put(t, b, make([]float32, rows), rows), put(t, b, make([]float32, rows*width), rows, width),
			put(t, b, wave(rows), rows), put(t, b, wave(words*width), words, width)
		am, _ := b.Alloc(tensor.I32, rows)
		b.LogProb(lp, ls, am, dx, x, w, s.goal)
		best := make([]int32, rows)
		b.DownloadInts(best, am)
		r = append(r, get(b, lp), get(b, ls), get(b, dx))
		for _, i := range best {
			r[0] = append(r[0], float32(i))
		}
		b.LogProbGrad(dx, nil, x, w, s.goal, ls, dy)
		r = append(r, get(b, dx))
		b.LogProbGrad(dx, dw, x, w, s.goal, ls, dy)
		return append(r, get(b, dx), get(b, dw))
	}
	for _, precision := range []tensor.DType{tensor.F32, tensor.BF16} {
		want := all(precision)
		func() {
			defer func(was int) { logitBytes = was }(logitBytes)
			logitBytes = 1
			if n, _ := logitRows(rows, words); n != 16 {
				t.Fatalf("%d rows at a time", n)
			}
			for i, got := range all(precision) {
				if i < 3 && !slices.Equal(got, want[i]) {
					t.Errorf("result %d in %s differs by chunks: %v, %v", i, precision, got, want[i])
				}
				tol := tensortest.F32Grad
				if precision == tensor.BF16 {
					tol = tensortest.BF16
				}
				tensortest.Close(t, fmt.Sprintf("result %d in %s", i, precision), got, want[i], tol)
			}
		}()
	}
	if err := b.Sync(); err != nil {
		t.Fatal(err)
	}
}

func wave(n int) []float32 {
	x := make([]float32, n)
	for i := range x {
		x[i] = float32(math.Sin(float64(i*i%1009 + i)))
	}
	return x
}

// BenchmarkSoftmax is of a chunk of rows of Llama 3's vocabulary.
func BenchmarkSoftmax(bench *testing.B) {
	b := device(bench)
	if b.emulated {
		bench.Skip("the emulator is slow")
	}
	const words = 128256
	rows, ld := logitRows(4096, words)
	alloc := func(dt tensor.DType, n int) uint64 {
		x, err := b.Alloc(dt, n)
		if err != nil {
			bench.Fatal(err)
		}
		return x.Mem.(*memory).ptr
	}
	a := logProbArgs{logits: alloc(tensor.F32, rows*ld), logp: alloc(tensor.F32, rows), lse: alloc(tensor.F32, rows), target: alloc(tensor.I32, rows), words: words, ld: int32(ld)}
	for name, c := range map[string]struct {
		*kernel
		bytes int // a word
	}{"logp": {kLogProb, 4}, "float gradient": {kLogProbFloat, 12}, "half gradient": {kLogProbHalf, 10}} {
		bench.Run(name, func(bench *testing.B) {
			launch(b, c.kernel, dim{x: rows}, logitThreads, 0, &a)
			b.Sync()
			bench.SetBytes(int64(rows * words * c.bytes))
			for bench.Loop() {
				launch(b, c.kernel, dim{x: rows}, logitThreads, 0, &a)
				if err := b.Sync(); err != nil {
					bench.Fatal(err)
				}
			}
		})
	}
}
