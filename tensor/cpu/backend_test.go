package cpu

import (
	"errors"
	"math"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"pipe/tensor"
	"pipe/tensor/quant"
)

// step runs every operation that sums, at sizes that make several jobs, and
// returns all results.
func step(t testing.TB, b *Backend) (all []float32) {
	const tokens, width, hidden, words = 300, 144, 400, 5000
	alloc := func(shape ...int) *tensor.Tensor {
		x, err := b.Alloc(tensor.F32, shape...)
		if err != nil {
			t.Fatal(err)
		}
		b.Upload(x, wave(x.Len()))
		return x
	}
	data := make([]byte, tensor.Q8_0.Bytes(words*160))
	quant.Quantize(data, tensor.Q8_0, wave(words*160))
	head, err := b.Load(tensor.Q8_0, data, words, 160)
	if err != nil {
		t.Fatal(err)
	}
	target, _ := b.Alloc(tensor.I32, tokens)
	x, w, g, r := alloc(tokens, width), alloc(hidden, width), alloc(width), alloc(tokens)
	y, dx, dw := alloc(tokens, hidden), alloc(tokens, width), alloc(hidden, width)
	h, dh, lp, lse := alloc(tokens, 160), alloc(tokens, 160), alloc(tokens), alloc(tokens)
	k, v, dk, dv, al := alloc(tokens, 48), alloc(tokens, 48), alloc(tokens, 48), alloc(tokens, 48), alloc(tokens, 9)
	one, cols, big := alloc(1), alloc(hidden), alloc(1<<18)
	o := tensor.Attention{Heads: 9, KVHeads: 3, HeadDim: 16, Q: []int32{0, 211, tokens}, K: []int32{0, 211}, KLen: []int32{211, tokens - 211}}

	b.RMSNorm(dx, r, x, g, 1e-5)
	b.MatMul(y, dx, w, tensor.MatMul{TransB: true, Alpha: 1})
	b.MatMul(dw, y, dx, tensor.MatMul{TransA: true, Alpha: 1, Beta: 1})
	b.RMSNormGrad(dx, g, x, g, r, dx, nil)
	b.ColSum(cols, y)
	scaled, norms := alloc(tokens, hidden), alloc(hidden)
	b.DoRANorm(norms, norms, cols, w, b.View(x, 0, 16, width), b.View(y, 0, hidden, 16), norms, 0.5)
	b.ScaleColsGrad(scaled, cols, y, y, norms, norms)
	b.Project(dx, &tensor.Projection{SwiGLU: scaled, Products: []tensor.Product{{Dst: y, W: w, MatMul: tensor.MatMul{TransB: true, Alpha: 1}}, {Dst: y, W: w, MatMul: tensor.MatMul{TransB: true, Alpha: 1}}}})
	b.SwiGLU(y, y, y)
	b.Attention(dx, al, x, k, v, o)
	b.AttentionGrad(dx, dk, dv, x, k, v, dx, al, x, o)
	b.LogProb(lp, lse, nil, nil, h, head, target)
	b.LogProbGrad(dh, nil, h, head, target, lse, lp)
	b.MatMul(b.View(big, 0, 1, words), b.View(h, 0, 1, 160), head, tensor.MatMul{TransB: true, Alpha: 1})
	b.SumSquares(one, big)
	b.Dropout(big, big, 0.1, 3)
	b.AdamW([]tensor.AdamWParam{{W: w, G: dw, M: dw, V: y0(b, dw)}}, tensor.AdamW{LR: 0.1, Beta1: 0.9, Beta2: 0.99, Eps: 1e-8, GradScale: 1, Step: 2})
	for _, x := range []*tensor.Tensor{y, dx, dw, g, cols, norms, scaled, dk, dv, al, lp, lse, dh, one, big, w} {
		all = append(all, x.Mem.(*memory).f32...)
	}
	if err := b.Sync(); err != nil {
		t.Fatal(err)
	}
	return all
}

// y0 returns a fresh tensor like x that holds positive numbers.
func y0(b *Backend, x *tensor.Tensor) *tensor.Tensor {
	t, _ := b.Alloc(tensor.F32, x.Shape...)
	for i := range t.Mem.(*memory).f32 {
		t.Mem.(*memory).f32[i] = 1
	}
	return t
}

func bits(x []float32) []uint32 {
	y := make([]uint32, len(x))
	for i, v := range x {
		y[i] = math.Float32bits(v)
	}
	return y
}

func TestThreadsAgree(t *testing.T) {
	for name, k := range tables() {
		one := newBackend(1, k)
		want := bits(step(t, one))
		for _, threads := range []int{2, 7} {
			b := newBackend(threads, k)
			for range 2 {
				if !slices.Equal(bits(step(t, b)), want) {
					t.Errorf("%s: %d threads differ from one", name, threads)
				}
			}
			b.Close()
		}
		one.Close()
	}
}

// Kept panels, and panels made again each time, give the same bits.
func TestKeptPanelsAgree(t *testing.T) {
	data := make([]byte, tensor.Q4_1.Bytes(600*128))
	quant.Quantize(data, tensor.Q4_1, wave(600*128))
	var results [2][]uint32
	for i, limit := range []int{0, panelCache} {
		b := newBackend(1, tables()["portable"])
		b.maxKept = limit
		w, _ := b.Load(tensor.Q4_1, data, 600, 128)
		x, _ := b.Alloc(tensor.F32, 50, 128)
		y, _ := b.Alloc(tensor.F32, 50, 600)
		b.Upload(x, wave(50*128))
		for _, trans := range []bool{true, false} {
			if trans {
				b.MatMul(y, x, w, tensor.MatMul{TransB: true, Alpha: 1})
			} else {
				b.MatMul(x, y, w, tensor.MatMul{Alpha: 1})
			}
		}
		results[i] = bits(x.Mem.(*memory).f32)
		if kept := b.kept; (limit == 0) != (kept == 0) {
			t.Errorf("limit %d: %d bytes are kept", limit, kept)
		}
		b.Free(w)
		if b.kept != 0 {
			t.Errorf("%d bytes are kept of a freed weight", b.kept)
		}
	}
	if !slices.Equal(results[0], results[1]) {
		t.Error("results differ")
	}
}

// A step that has run once allocates nothing; the runtime may, now and then.
func TestSteadyMemory(t *testing.T) {
	b := New(2)
	defer b.Close()
	x, _ := b.Alloc(tensor.F32, 200, 256)
	w, _ := b.Alloc(tensor.F32, 512, 256)
	y, _ := b.Alloc(tensor.F32, 200, 512)
	lse, _ := b.Alloc(tensor.F32, 200)
	target, _ := b.Alloc(tensor.I32, 200)
	run := func() {
		b.MatMul(y, x, w, tensor.MatMul{TransB: true, Alpha: 1})
		b.MatMul(w, y, x, tensor.MatMul{TransA: true, Alpha: 1, Beta: 1})
		b.LogProb(lse, lse, nil, nil, x, w, target)
		b.LogProbGrad(x, w, x, w, target, lse, lse)
	}
	run()
	var before, after runtime.MemStats
	const steps = 20
	runtime.ReadMemStats(&before)
	for range steps {
		run()
	}
	runtime.ReadMemStats(&after)
	if n := after.Mallocs - before.Mallocs; n >= steps {
		t.Errorf("a step allocates %d times", n/steps)
	}
}

func TestPool(t *testing.T) {
	for _, threads := range []int{1, 2, 5} {
		p := newPool(threads)
		for n := range 300 { // many short batches, some after the workers have parked
			var sum atomic.Int64
			busy := make([]atomic.Bool, threads)
			p.run(n, 1, nil, func(_ *args, job, _, thread int) {
				if busy[thread].Swap(true) {
					t.Errorf("thread %d runs two jobs", thread)
				}
				sum.Add(int64(job))
				busy[thread].Store(false)
			})
			if want := int64(n) * int64(n-1) / 2; sum.Load() != want {
				t.Fatalf("%d threads, %d jobs: sum %d; want %d", threads, n, sum.Load(), want)
			}
		}
		p.close()
	}
}

func TestSplitCoversAll(t *testing.T) {
	b := New(3)
	defer b.Close()
	for _, n := range []int{0, 1, 15, 16, 17, 1000, 1 << 20} {
		var total atomic.Int64
		b.split(n, 16, 1, args{}, func(_ *args, lo, hi, _ int) {
			if lo%16 != 0 || lo >= hi || hi > n {
				t.Errorf("range %d to %d of %d", lo, hi, n)
			}
			total.Add(int64(hi - lo))
		})
		if total.Load() != int64(n) {
			t.Errorf("%d of %d elements", total.Load(), n)
		}
	}
}

// A limit that is not known is never taken for none in silence.
func TestLimits(t *testing.T) {
	for limit, want := range map[string]string{"": "", "generic": "", "avx2": "", "avx512": "", "AVX2": "PIPE_CPU=AVX2", "foo": "use generic, avx2, avx512, or unset it"} {
		t.Setenv("PIPE_CPU", limit)
		if err := CheckEnvironment(); want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%q: got %v; want %q", limit, err, want)
		}
	}
}

func TestNames(t *testing.T) {
	t.Setenv("PIPE_CPU", "generic")
	b := New(1)
	if !strings.HasPrefix(b.Name(), "cpu:generic:") {
		t.Errorf("name is %q", b.Name())
	}
	b.Close()
	if !errors.Is(b.Sync(), ErrClosed) {
		t.Errorf("sync: %v", b.Sync())
	}
	if k := accelerated(""); k != nil {
		t.Setenv("PIPE_CPU", "")
		if b := New(1); b.Name() != "cpu:"+k.name || b.Name() == "cpu:"+portable().name {
			t.Errorf("name is %q", b.Name())
		}
	}
}
