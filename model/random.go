package model

import (
	"encoding/binary"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"

	"pipe/tensor"
)

// A Stream is an endless sequence of random numbers, each a fixed function of
// the seed and its index (SplitMix64, Steele et al. 2014): nothing has to be
// saved to go on after a restart.
type Stream uint64

// NewStream returns the stream of a purpose: labels keep the streams of one
// seed apart.
func NewStream[Label string | []byte](seed uint64, label Label) Stream {
	const offset, prime = 0xcbf29ce484222325, 0x100000001b3 // FNV-1a
	h := uint64(offset)
	for i := range 8 {
		h = (h ^ seed>>(8*i)&255) * prime
	}
	for i := range len(label) {
		h = (h ^ uint64(label[i])) * prime
	}
	return Stream(mix(h))
}

// At returns number i.
func (s Stream) At(i uint64) uint64 { return mix(uint64(s) + (i+1)*0x9e3779b97f4a7c15) }

// Float returns number i as a float in [0, 1).
func (s Stream) Float(i uint64) float64 { return float64(s.At(i)>>11) * 0x1p-53 }

// Normal returns a standard normal number (Box & Muller 1958).
func (s Stream) Normal(i uint64) float64 {
	u := 1 - s.Float(2*i) // (0, 1]
	return math.Sqrt(-2*math.Log(u)) * math.Cos(2*math.Pi*s.Float(2*i+1))
}

// Perm returns a permutation of the numbers below n (Fisher & Yates).
func (s Stream) Perm(n int) []int {
	p := make([]int, n)
	s.Order(p)
	return p
}

// Order sets p to Perm of its length.
func (s Stream) Order(p []int) {
	for i := range p {
		p[i] = i
	}
	for i := len(p) - 1; i > 0; i-- {
		j := int(s.Float(uint64(i)) * float64(i+1))
		p[i], p[j] = p[j], p[i]
	}
}

func mix(z uint64) uint64 {
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	return z ^ z>>31
}

// Random returns new weights for c: normal with deviation InitRange, norms 1
// and biases 0, each tensor a function of the seed and its name. They are made
// when they are asked for.
func Random(c Config, seed uint64) Source { return &random{c: c, seed: seed, shapes: c.shapes()} }

type random struct {
	c      Config
	seed   uint64
	shapes map[string][]int
	zeros  []byte
}

// Names implements Source.
func (r *random) Names() []string { return slices.Sorted(maps.Keys(r.shapes)) }

// Weight implements Source.
func (r *random) Weight(name string) (Weight, error) {
	w, err := r.Describe(name)
	if err != nil {
		return w, err
	}
	n := len(w.Data) / 4
	w.Data = make([]byte, 0, 4*n)
	s := NewStream(r.seed, name)
	for i := range n {
		var v float64
		switch {
		case strings.HasSuffix(name, "norm.weight"):
			v = 1
		case !strings.HasSuffix(name, ".bias"):
			v = r.c.InitRange * s.Normal(uint64(i))
		}
		w.Data = binary.LittleEndian.AppendUint32(w.Data, math.Float32bits(float32(v)))
	}
	return w, nil
}

// Describe implements Describer: the data is zeros.
func (r *random) Describe(name string) (Weight, error) {
	shape, ok := r.shapes[name]
	if !ok {
		return Weight{}, fmt.Errorf("%s: %w", name, ErrNoTensor)
	}
	n := 4
	for _, d := range shape {
		n *= d
	}
	if len(r.zeros) < n {
		r.zeros = make([]byte, n)
	}
	return Weight{tensor.F32, slices.Clone(shape), r.zeros[:n]}, nil
}

// feedForward is what the feed-forward of a layer is called.
func (c Config) feedForward() string {
	if c.Llama4 != nil {
		return ".feed_forward"
	}
	return ".mlp"
}

// shapes returns every tensor of a checkpoint of c, as [Config.FromStored] has it.
func (c Config) shapes() map[string][]int {
	h, f, q, kv := c.Hidden, c.Intermediate, c.Heads*c.HeadDim, c.KVHeads*c.HeadDim
	s := map[string][]int{"model.embed_tokens.weight": {c.VocabSize, h}, "model.norm.weight": {h}}
	if !c.Tied {
		s["lm_head.weight"] = []int{c.VocabSize, h}
	}
	linear := func(name string, out, in int, bias bool) {
		s[name+".weight"] = []int{out, in}
		if bias {
			s[name+".bias"] = []int{out}
		}
	}
	for i := range c.Layers {
		l := layerName(i)
		s[l+".input_layernorm.weight"], s[l+".post_attention_layernorm.weight"] = []int{h}, []int{h}
		bias := c.AttnBias || c.Family.QKVBias()
		linear(l+".self_attn.q_proj", q, h, bias)
		linear(l+".self_attn.k_proj", kv, h, bias)
		linear(l+".self_attn.v_proj", kv, h, bias)
		linear(l+".self_attn.o_proj", h, q, c.AttnBias)
		if c.Family.HeadNorm() {
			s[l+".self_attn.q_norm.weight"], s[l+".self_attn.k_norm.weight"] = []int{c.HeadDim}, []int{c.HeadDim}
		}
		swiglu := func(name string, f int) {
			linear(name+".gate_proj", f, h, c.MLPBias)
			linear(name+".up_proj", f, h, c.MLPBias)
			linear(name+".down_proj", h, f, c.MLPBias)
		}
		n := l + c.feedForward()
		switch {
		case c.Llama4 == nil:
			swiglu(n, f)
		case !c.Llama4.MoE[i]:
			swiglu(n, c.Llama4.Dense)
		default:
			e := c.Llama4.Experts
			swiglu(n+".shared_expert", f)
			linear(n+".router", e, h, false)
			linear(n+".experts.gate_proj", e*f, h, false)
			linear(n+".experts.up_proj", e*f, h, false)
			linear(n+".experts.down_proj", e*h, f, false)
		}
	}
	return s
}
