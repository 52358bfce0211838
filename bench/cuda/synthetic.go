package main

import (
	"encoding/binary"
	"fmt"
	"math"
	"runtime"
	"strings"
	"sync"

	"pipe/model"
	"pipe/tensor"
	"pipe/tensor/quant"
)

// configOf returns the shape of a model by name: those of Llama 3.2 1B and
// Llama 3.1 8B, and one for trying the programs out.
func configOf(name string) (model.Config, error) {
	c := model.Config{
		VocabSize: 128256, MaxPositions: 131072, NormEps: 1e-5, InitRange: deviation, BOS: -1, PAD: -1,
		Rope: model.Rope{Theta: 500000, Type: "default"},
	}
	switch name {
	case "1b":
		c.Layers, c.Hidden, c.Intermediate, c.Heads, c.KVHeads, c.HeadDim, c.Tied = 16, 2048, 8192, 32, 8, 64, true
	case "8b":
		c.Layers, c.Hidden, c.Intermediate, c.Heads, c.KVHeads, c.HeadDim = 32, 4096, 14336, 32, 8, 128
	case "tiny":
		c.Layers, c.Hidden, c.Intermediate, c.Heads, c.KVHeads, c.HeadDim, c.VocabSize = 2, 256, 512, 4, 2, 64, 512
	default:
		return c, fmt.Errorf("model %q: must be 1b, 8b or tiny", name)
	}
	return c, c.Validate()
}

// deviation is that of the weights.
const deviation = 0.02

// A filler makes random elements of any type: so many of them, which are
// repeated. Their number is a multiple of every block and of no row.
type filler struct {
	elements []float32
}

// newFiller makes at least n elements.
func newFiller(n int) *filler {
	const most = 256 // elements of a block
	f := &filler{make([]float32, (n/most|1)*most)}
	s := model.NewStream(1, "bench")
	parallel(len(f.elements), most, func(lo, hi int) {
		for i := lo; i < hi; i++ {
			f.elements[i] = float32(deviation * s.Normal(uint64(i)))
		}
	})
	return f
}

// fill sets the bytes of dst to elements of dt.
func (f *filler) fill(dst []byte, dt tensor.DType) {
	period := dt.Bytes(len(f.elements))
	head := dst[:min(period, len(dst))]
	if quant.CanQuantize(dt) {
		parallel(len(head)/dt.Bytes(dt.Block()), 1, func(lo, hi int) {
			b := dt.Block()
			quant.Quantize(head[dt.Bytes(lo*b):dt.Bytes(hi*b)], dt, f.elements[lo*b:hi*b])
		})
	} else {
		f.q5k(head)
	}
	parallel(len(dst)-len(head), 1<<20, func(lo, hi int) {
		for lo < hi {
			at := lo % period
			n := min(hi-lo, period-at)
			copy(dst[len(head)+lo:][:n], head[at:at+n])
			lo += n
		}
	})
}

// q5k makes blocks that nothing here quantises to: random codes under scales of
// the right size.
func (f *filler) q5k(dst []byte) {
	size := tensor.Q5_K.Bytes(tensor.Q5_K.Block())
	s := model.NewStream(2, "bench")
	for at := 0; at+size <= len(dst); at += size {
		block := dst[at : at+size]
		for i := range block {
			block[i] = byte(s.At(uint64(at + i)))
		}
		binary.LittleEndian.PutUint16(block, quant.ToF16(deviation/512))
		binary.LittleEndian.PutUint16(block[2:], quant.ToF16(deviation/128))
	}
}

// parallel calls f for parts of 0..n, multiples of align but for the last end,
// on all cores.
func parallel(n, align int, f func(lo, hi int)) {
	part := (n/runtime.GOMAXPROCS(0)/align + 1) * align
	var wg sync.WaitGroup
	for lo := 0; lo < n; lo += part {
		wg.Go(func() { f(lo, min(n, lo+part)) })
	}
	wg.Wait()
}

// A checkpoint is made-up weights of a decoder, slices of one random buffer for
// each type of element.
type checkpoint struct {
	shapes  model.Describer
	base    tensor.DType
	buffers map[tensor.DType][]byte
	bytes   int // of the weights that were asked for
}

// newCheckpoint makes weights of c: with base BF16 or a GGUF type all matrices
// are of it, with NF4 the linear layers are and the rest is BF16, as pipe's
// quantisation has it.
func newCheckpoint(c model.Config, base tensor.DType) *checkpoint {
	s := &checkpoint{shapes: model.Random(c, 1).(model.Describer), base: base, buffers: map[tensor.DType][]byte{}}
	largest := map[tensor.DType]int{}
	for _, name := range s.Names() {
		dt, shape := s.describe(name)
		largest[dt] = max(largest[dt], elements(shape))
	}
	f := newFiller(min(4_000_000, c.VocabSize*c.Hidden))
	for dt, n := range largest {
		if dt == tensor.F32 {
			s.buffers[dt] = ones(n)
			continue
		}
		// Room for tensors to begin at different places.
		s.buffers[dt] = make([]byte, dt.Bytes(n+n/8/dt.Block()*dt.Block()))
		f.fill(s.buffers[dt], dt)
	}
	return s
}

func ones(n int) []byte {
	b := make([]byte, 0, 4*n)
	for range n {
		b = binary.LittleEndian.AppendUint32(b, math.Float32bits(1))
	}
	return b
}

func elements(shape []int) int {
	n := 1
	for _, d := range shape {
		n *= d
	}
	return n
}

// describe returns the type and shape of a weight.
func (s *checkpoint) describe(name string) (tensor.DType, []int) {
	w, err := s.shapes.Describe(name)
	if err != nil {
		panic(err) // a name of Names
	}
	switch {
	case strings.HasSuffix(name, "norm.weight"):
		return tensor.F32, w.Shape
	case s.base == tensor.NF4 && !strings.HasPrefix(name, "model.layers."):
		return tensor.BF16, w.Shape
	}
	return s.base, w.Shape
}

// Names implements model.Source.
func (s *checkpoint) Names() []string { return s.shapes.Names() }

// Weight implements model.Source.
func (s *checkpoint) Weight(name string) (model.Weight, error) {
	if _, err := s.shapes.Describe(name); err != nil {
		return model.Weight{}, err
	}
	dt, shape := s.describe(name)
	n, buf := dt.Bytes(elements(shape)), s.buffers[dt]
	block := dt.Bytes(dt.Block())
	from := int(model.NewStream(3, name).At(0)%uint64((len(buf)-n)/block+1)) * block
	s.bytes += n
	return model.Weight{DType: dt, Shape: shape, Data: buf[from : from+n]}, nil
}

// multiplied is the number of weights that a token is multiplied with: those of
// the linear layers and of the head, not the embedding.
func multiplied(c model.Config) float64 {
	q, kv := c.Heads*c.HeadDim, c.KVHeads*c.HeadDim
	layer := 2*c.Hidden*q + 2*c.Hidden*kv + 3*c.Hidden*c.Intermediate
	return float64(c.Layers*layer + c.VocabSize*c.Hidden)
}

// tokens are n random ids.
func tokens(c model.Config, n int, seed uint64) []int32 {
	s := model.NewStream(seed, "tokens")
	ids := make([]int32, n)
	for i := range ids {
		ids[i] = int32(s.At(uint64(i)) % uint64(c.VocabSize))
	}
	return ids
}
