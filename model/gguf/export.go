package gguf

import (
	"errors"
	"fmt"
	"io"
	"slices"

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
	name := archOf(c.Family).name
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
	if c.Rope.Type == "linear" {
		kvs = append(kvs, KV{name + ".rope.scaling.type", "linear"}, KV{name + ".rope.scaling.factor", float32(c.Rope.Factor)})
	}
	tensors, err := m.tensors(dt)
	return append(kvs, vocab...), tensors, err
}

// expressible reports why llama.cpp would run another model than c.
func expressible(c model.Config) error {
	name := archOf(c.Family).name
	switch {
	case c.Llama4 != nil:
		return errors.New("a Llama 4 is not written as GGUF")
	case c.Family != model.Llama && (c.AttnBias || c.MLPBias):
		return fmt.Errorf("a %s with biases (attention_bias %t, mlp_bias %t) is not written as GGUF: llama.cpp has none for %q", c.Family, c.AttnBias, c.MLPBias, name)
	case c.Family == model.SmolLM3 && !slices.Equal(c.NoRope, noRope(c.Layers)):
		return fmt.Errorf("a %s whose layers without positions are not each %dth one is not written as GGUF: llama.cpp has no other", c.Family, noRopeEvery)
	case c.Family != model.SmolLM3 && c.NoRope != nil:
		return fmt.Errorf("a %s with layers without positions is not written as GGUF", c.Family)
	}
	return nil
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
		gguf, ok := toGGUF(x.name)
		if !ok {
			return nil, fmt.Errorf("tensor %s has no name in GGUF", x.name)
		}
		target := m.target(x.name, x.shape, dt)
		out = append(out, Tensor{gguf, target, x.shape, func(to io.Writer) error {
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
		linear("mlp.gate_proj", c.Intermediate, c.Hidden, c.MLPBias)
		linear("mlp.up_proj", c.Intermediate, c.Hidden, c.MLPBias)
		linear("mlp.down_proj", c.Hidden, c.Intermediate, c.MLPBias)
	}
	out = append(out, shaped{"model.norm.weight", []int{c.Hidden}})
	if !c.Tied {
		out = append(out, shaped{"lm_head.weight", []int{c.VocabSize, c.Hidden}})
	}
	return out
}

// target is the type that a tensor is stored in.
func (m *Checkpoint) target(name string, shape []int, dt tensor.DType) tensor.DType {
	if len(shape) < 2 {
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
