package gguf

import (
	"fmt"
	"io"
	"reflect"
	"slices"
	"strings"

	"pipe/model"
	"pipe/tensor"
	"pipe/tensor/quant"
)

// A Checkpoint is a model to be written as GGUF.
type Checkpoint struct {
	Name          string // general.name, for people
	Config        model.Config
	Weights       model.Source
	TokenizerJSON []byte
	ChatTemplate  string // Jinja source; "" for none
	// Sample is a text as the model sees it, such as a conversation in its chat template.
	// Where GGUF cannot say when a tokenizer puts a space before a text, what is right
	// for the sample is written. "" is a text without special tokens.
	Sample string
	// EOS are ids that end a text beside those of Config, that of the end of a turn
	// first: GGUF has a place for one of them.
	EOS []int32
}

// fileTypes are the values of general.file_type.
var fileTypes = map[tensor.DType]uint32{tensor.F32: 0, tensor.F16: 1, tensor.BF16: 32, tensor.Q8_0: 7, tensor.Q4_0: 2}

// Export writes a checkpoint to path with its matrices in type dt: F32, F16,
// BF16, Q8_0 or Q4_0. As in llama.cpp, vectors stay F32; with Q4_0 the output
// head is Q6_K; and a matrix whose rows are not whole blocks falls back to
// Q8_0 or F16. The tokenizer must be one that llama.cpp knows.
func Export(path string, m Checkpoint, dt tensor.DType) error {
	kvs, tensors, err := m.layout(dt)
	if err != nil {
		return fmt.Errorf("export %s: %w", path, err)
	}
	return Write(path, kvs, tensors)
}

// Check reports why Export could not write a model with this configuration and
// tokenizer. It needs no weights.
func (m *Checkpoint) Check() error {
	_, err := m.vocabulary()
	return err
}

// vocabulary returns the metadata of the tokenizer of a model that GGUF can hold.
func (m *Checkpoint) vocabulary() ([]KV, error) {
	if err := m.Config.Validate(); err != nil {
		return nil, err
	}
	if err := expressible(m.Config); err != nil {
		return nil, err
	}
	kvs, err := vocabularyKVs(m)
	if err != nil {
		return nil, fmt.Errorf("tokenizer: %w", err)
	}
	return kvs, nil
}

func (m *Checkpoint) layout(dt tensor.DType) ([]KV, []Tensor, error) {
	fileType, ok := fileTypes[dt]
	if !ok {
		return nil, nil, fmt.Errorf("type %s is not written; f32, f16, bf16, q8_0 and q4_0 are", dt)
	}
	vocab, err := m.vocabulary()
	if err != nil {
		return nil, nil, err
	}
	c := m.Config
	name := archOf(c).name
	kvs := []KV{
		{"general.architecture", name}, {"general.type", "model"}, {"general.name", m.Name},
		{"general.file_type", fileType}, {"general.quantization_version", uint32(2)},
		{name + ".block_count", uint32(c.Layers)}, {name + ".context_length", uint32(c.MaxPositions)},
		{name + ".embedding_length", uint32(c.Hidden)}, {name + ".feed_forward_length", uint32(c.Intermediate)},
		{name + ".attention.head_count", uint32(c.Heads)}, {name + ".attention.head_count_kv", uint32(c.KVHeads)},
		{name + ".attention.key_length", uint32(c.HeadDim)}, {name + ".attention.value_length", uint32(c.HeadDim)},
		{name + ".attention.layer_norm_rms_epsilon", float32(c.NormEps)},
		{name + ".rope.freq_base", float32(c.Rope.Theta)}, {name + ".rope.dimension_count", uint32(c.HeadDim)},
		{name + ".vocab_size", uint32(c.VocabSize)},
	}
	if v4 := c.Llama4; v4 != nil {
		kvs = slices.DeleteFunc(kvs, func(kv KV) bool { return kv.Key == name+".feed_forward_length" })
		kvs = append(kvs, KV{name + ".feed_forward_length", uint32(v4.Dense)}, KV{name + ".expert_feed_forward_length", uint32(c.Intermediate)},
			KV{name + ".expert_count", uint32(v4.Experts)}, KV{name + ".expert_used_count", uint32(v4.Top)},
			KV{name + ".interleave_moe_layer_step", uint32(stepOf(v4))})
	}
	if c.Rope.Type == "linear" {
		kvs = append(kvs, KV{name + ".rope.scaling.type", "linear"}, KV{name + ".rope.scaling.factor", float32(c.Rope.Factor)})
	}
	tensors, err := m.tensors(dt)
	return append(kvs, vocab...), tensors, err
}

// expressible reports why llama.cpp would run another model than c.
func expressible(c model.Config) error {
	name, v4 := archOf(c).name, c.Llama4
	switch {
	case v4 != nil && (stepOf(v4) == 0 || c.Tied || !sameLlama4(v4, llama4Of(c.Layers, max(1, stepOf(v4)), v4.Experts, v4.Top, v4.Dense))):
		return fmt.Errorf("a Llama 4 of other settings than the published ones have is not written as GGUF: llama.cpp knows attention_chunk_size %d, floor_scale %d, attn_scale %v, "+
			"each %dth layer without positions, experts in layers at regular distances, and use_qk_norm unless there are %d experts", chunk4, floorScale4, attnScale4, noRopeEvery, unnormed4)
	case v4 != nil && (c.AttnBias || c.MLPBias):
		return fmt.Errorf("a Llama 4 with biases is not written as GGUF: llama.cpp has none for %q", name)
	case c.Family != model.Llama && (c.AttnBias || c.MLPBias):
		return fmt.Errorf("a %s with biases (attention_bias %t, mlp_bias %t) is not written as GGUF: llama.cpp has none for %q", c.Family, c.AttnBias, c.MLPBias, name)
	case c.Family == model.SmolLM3 && !slices.Equal(c.NoRope, noRope(c.Layers)):
		return fmt.Errorf("a %s whose layers without positions are not each %dth one is not written as GGUF: llama.cpp has no other", c.Family, noRopeEvery)
	case c.Family != model.SmolLM3 && c.NoRope != nil:
		return fmt.Errorf("a %s with layers without positions is not written as GGUF", c.Family)
	}
	return nil
}

// sameLlama4 reports whether two differ in nothing that is computed.
func sameLlama4(a, b *model.Llama4) bool {
	x, y := *a, *b
	x.Images, y.Images = false, false
	return reflect.DeepEqual(x, y)
}

// tensors lists what is written: every tensor of the configuration.
func (m *Checkpoint) tensors(dt tensor.DType) ([]Tensor, error) {
	var out []Tensor
	if d := divisors(m.Config); d != nil {
		out = append(out, Tensor{ropeFreqs, tensor.F32, []int{len(d)}, func(w io.Writer) error {
			b := make([]byte, 4*len(d))
			quant.Quantize(b, tensor.F32, d)
			_, err := w.Write(b)
			return err
		}})
	}
	for _, x := range m.expected() {
		gguf, ok := archOf(m.Config).toGGUF(x.name)
		if !ok {
			return nil, fmt.Errorf("tensor %s has no name in GGUF", x.name)
		}
		target := m.target(x.name, x.shape, dt)
		shape := x.shape
		if strings.Contains(x.name, ".experts.") {
			e := m.Config.Llama4.Experts
			shape = []int{e, x.shape[0] / e, x.shape[1]}
		}
		out = append(out, Tensor{gguf, target, shape, func(to io.Writer) error {
			w, err := m.Weights.Weight(x.name)
			if err != nil {
				return err
			}
			if !slices.Equal(w.Shape, x.shape) {
				return fmt.Errorf("has shape %v; the configuration says %v", w.Shape, x.shape)
			}
			return m.convert(to, x.name, w, target)
		}})
	}
	return out, nil
}

type shaped struct {
	name  string
	shape []int
}

// expected lists the tensors of the configuration, in the order of the file.
func (m *Checkpoint) expected() []shaped {
	c := m.Config
	q, kv := c.Heads*c.HeadDim, c.KVHeads*c.HeadDim
	out := []shaped{{"model.embed_tokens.weight", []int{c.VocabSize, c.Hidden}}}
	for i := range c.Layers {
		at := fmt.Sprintf("model.layers.%d.", i)
		linear := func(name string, rows, cols int, bias bool) {
			out = append(out, shaped{at + name + ".weight", []int{rows, cols}})
			if bias {
				out = append(out, shaped{at + name + ".bias", []int{rows}})
			}
		}
		out = append(out, shaped{at + "input_layernorm.weight", []int{c.Hidden}})
		bias := c.AttnBias || c.Family.QKVBias()
		linear("self_attn.q_proj", q, c.Hidden, bias)
		linear("self_attn.k_proj", kv, c.Hidden, bias)
		linear("self_attn.v_proj", kv, c.Hidden, bias)
		linear("self_attn.o_proj", c.Hidden, q, c.AttnBias)
		if c.Family.HeadNorm() {
			out = append(out, shaped{at + "self_attn.q_norm.weight", []int{c.HeadDim}}, shaped{at + "self_attn.k_norm.weight", []int{c.HeadDim}})
		}
		out = append(out, shaped{at + "post_attention_layernorm.weight", []int{c.Hidden}})
		swiglu := func(name string, e, width int, bias bool) {
			linear(name+".gate_proj", e*width, c.Hidden, bias)
			linear(name+".up_proj", e*width, c.Hidden, bias)
			linear(name+".down_proj", e*c.Hidden, width, bias)
		}
		switch v4 := c.Llama4; {
		case v4 == nil:
			swiglu("mlp", 1, c.Intermediate, c.MLPBias)
		case !v4.MoE[i]:
			swiglu("feed_forward", 1, v4.Dense, false)
		default:
			linear("feed_forward.router", v4.Experts, c.Hidden, false)
			swiglu("feed_forward.experts", v4.Experts, c.Intermediate, false)
			swiglu("feed_forward.shared_expert", 1, c.Intermediate, false)
		}
	}
	out = append(out, shaped{"model.norm.weight", []int{c.Hidden}})
	if !c.Tied {
		out = append(out, shaped{"lm_head.weight", []int{c.VocabSize, c.Hidden}})
	}
	return out
}

// target is the type that a tensor is stored in.
func (m *Checkpoint) target(name string, shape []int, dt tensor.DType) tensor.DType {
	if len(shape) < 2 || strings.HasSuffix(name, ".router.weight") {
		return tensor.F32
	}
	cols := shape[len(shape)-1]
	head := name == "lm_head.weight" || m.Config.Tied && name == "model.embed_tokens.weight"
	if head && dt == tensor.Q4_0 {
		dt = tensor.Q6_K
		if cols%dt.Block() != 0 {
			dt = tensor.Q8_0
		}
	}
	if cols%dt.Block() != 0 {
		return tensor.F16
	}
	return dt
}

// convert writes a weight in another type, in GGUF's order of rows.
func (m *Checkpoint) convert(to io.Writer, name string, w model.Weight, target tensor.DType) error {
	data := w.Data
	if heads, permuted := headsOf(m.Config, name); permuted {
		data = moveRows(data, heads, m.Config.HeadDim, true)
	}
	return quant.Convert(to, target, w.DType, data, w.Shape[len(w.Shape)-1])
}

// divisors returns what the unscaled rotary frequencies are divided by; nil
// when by nothing.
func divisors(c model.Config) []float32 {
	if c.Rope.Divisors != nil {
		return slices.Clone(c.Rope.Divisors)
	}
	if c.Rope.Type != "llama3" {
		return nil
	}
	plain := c
	plain.Rope = model.Rope{Theta: c.Rope.Theta, Type: "default"}
	base, scaled := plain.InvFreq(), c.InvFreq()
	out := make([]float32, len(base))
	for i := range out {
		out[i] = base[i] / scaled[i]
	}
	return out
}
