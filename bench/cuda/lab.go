//go:build cuda

package main

import (
	"fmt"
	"os"
	"regexp"

	"pipe/gpu/cux"
	"pipe/tensor"
	"pipe/tensor/quant"
)

// sizes are those of what is measured: of a layer of a model, and of its input.
type sizes struct {
	tokens, documents            int
	hidden, kv, ff, vocab        int
	heads, kvHeads, headDim      int
	sequences, keys              int // of decoding
	rank                         int
	mixture                      mixture
	cache, pad, source, parallel int // bytes that no cache holds; timer's memory; elements of noise; most copies of an operand
}

var allSizes = map[string]sizes{
	"8b": {
		tokens: 4096, documents: 32, hidden: 4096, kv: 1024, ff: 14336, vocab: 128256, heads: 32, kvHeads: 8, headDim: 128,
		sequences: 16, keys: 4096, rank: 16, cache: 192 << 20, pad: 1 << 30, source: 16 << 20, parallel: 8,
		mixture: mixture{5120, 8192, 16, 1}, // of Llama 4 Scout
	},
	"1b": {
		tokens: 4096, documents: 32, hidden: 2048, kv: 512, ff: 8192, vocab: 128256, heads: 32, kvHeads: 8, headDim: 64,
		sequences: 16, keys: 4096, rank: 16, cache: 192 << 20, pad: 1 << 30, source: 16 << 20, parallel: 8,
		mixture: mixture{2048, 1024, 64, 8}, // of OLMoE
	},
	"tiny": {
		tokens: 128, documents: 4, hidden: 256, kv: 128, ff: 512, vocab: 512, heads: 4, kvHeads: 2, headDim: 64,
		sequences: 4, keys: 64, rank: 16, cache: 1, pad: 1 << 16, source: 1 << 16, parallel: 2,
		mixture: mixture{256, 128, 4, 2},
	},
}

// A lab has what measurements need, and frees what each made.
type lab struct {
	sizes
	b      tensor.Backend
	stream *cux.Stream
	timer  *timer
	only   *regexp.Regexp
	noise  map[tensor.DType]*tensor.Tensor // F32 and BF16, normal with deviation 1
	half   tensor.DType                    // of activations: BF16 where the backend can
	filler *filler
	host   map[tensor.DType][]byte
	owned  []*tensor.Tensor
	at     int // where the next tensor takes its elements from
}

func newLab(b device, s sizes, samples int, only *regexp.Regexp) (l *lab, err error) {
	l = &lab{sizes: s, b: b.Backend, stream: streamOf(b.Backend), only: only, filler: newFiller(min(4_000_000, s.source)), host: map[tensor.DType][]byte{}}
	if l.timer, err = newTimer(l.stream, samples, s.pad); err != nil {
		return nil, err
	}
	if l.half = tensor.F32; tensor.Halves(l.b) {
		l.half = tensor.BF16
	}
	x := make([]float32, s.source)
	for i := range x {
		x[i] = l.filler.elements[i%len(l.filler.elements)] / deviation
	}
	l.noise = map[tensor.DType]*tensor.Tensor{}
	for _, dt := range []tensor.DType{tensor.F32, tensor.BF16} {
		data := make([]byte, dt.Bytes(len(x)))
		quant.Quantize(data, dt, x)
		if l.noise[dt], err = l.b.Load(dt, data, len(x)); err != nil {
			return nil, err
		}
	}
	return l, l.b.Sync()
}

// must panics with an error: attempt makes a record of it.
func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func (l *lab) own(t *tensor.Tensor) *tensor.Tensor {
	l.owned = append(l.owned, t)
	return t
}

// f32 returns a tensor of normal numbers, and act one of the type of activations.
func (l *lab) f32(shape ...int) *tensor.Tensor { return l.normal(tensor.F32, shape) }
func (l *lab) act(shape ...int) *tensor.Tensor { return l.normal(l.half, shape) }

func (l *lab) normal(dt tensor.DType, shape []int) *tensor.Tensor {
	t := l.own(must(l.b.Alloc(dt, shape...)))
	for done, n := 0, t.Len(); done < n; {
		l.at = (l.at + 4099) % (l.source / 2)
		part := min(n-done, l.source/2)
		l.b.Copy(l.b.View(t, done, part), l.b.View(l.noise[dt], l.at, part))
		done += part
	}
	return t
}

// empty returns a tensor of zeros.
func (l *lab) empty(dt tensor.DType, shape ...int) *tensor.Tensor {
	return l.own(must(l.b.Alloc(dt, shape...)))
}

func (l *lab) ints(v []int32) *tensor.Tensor {
	t := l.empty(tensor.I32, len(v))
	l.b.UploadInts(t, v)
	return t
}

// weight loads a frozen weight; of one type all begin with the same elements.
func (l *lab) weight(dt, precision tensor.DType, rows, cols int) *tensor.Tensor {
	n := dt.Bytes(rows * cols)
	if len(l.host[dt]) < n {
		l.host[dt] = make([]byte, n)
		l.filler.fill(l.host[dt], dt)
	}
	t := l.own(must(l.b.Load(dt, l.host[dt][:n], rows, cols)))
	l.b.Precision(t, precision)
	return t
}

// several calls f so often that the bytes of each time together exceed the
// caches.
func several[T any](l *lab, bytes int, f func() T) (all []T) {
	for range max(2, min(l.parallel, l.cache/max(bytes, 1)+1)) {
		all = append(all, f())
	}
	return all
}

// of returns the element of number i, from the beginning again at the end.
func of[T any](all []T, i int) T { return all[i%len(all)] }

// A job is one measurement.
type job struct {
	side, name string
	flops      float64 // of an operation, for TFLOP/s
	bytes      float64 // that it must move, for GB/s; counts when flops is 0
	op         func(i int)
	check      func() string // what is wrong or how good the result is; may be nil
}

// measure runs a job that make prepares, unless it is not wanted, and frees what
// make allocated.
func (l *lab) measure(side, name string, make func() job) {
	if !l.only.MatchString(name) {
		return
	}
	r := record{Side: side, Name: name}
	err := attempt(func() error {
		j := make()
		ms, err := l.timer.run(j.op)
		if err != nil {
			return err
		}
		if err := l.b.Sync(); err != nil { // of the backend: what it did not queue
			return err
		}
		r.MS = ms
		if j.flops > 0 {
			r.Value, r.Unit = j.flops/ms/1e9, "TFLOP/s"
		} else {
			r.Value, r.Unit = j.bytes/ms/1e6, "GB/s"
		}
		if j.check != nil {
			r.Note = j.check()
		}
		return nil
	})
	if err != nil {
		r.Error = err.Error()
	}
	r.write(os.Stdout)
	for _, t := range l.owned {
		if err := attempt(func() error { l.b.Free(t); return nil }); err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
	}
	l.owned = l.owned[:0]
}
