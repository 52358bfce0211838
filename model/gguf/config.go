package gguf

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"

	"pipe/model"
)

// A fields reader keeps the first error, so that reading goes straight through.
type fields struct {
	f   *File
	err error
}

func (r *fields) integer(key string, def int64) int {
	n, err := r.f.Int(key, def)
	if err == nil && int64(int(n)) != n {
		err = r.f.mistyped(key, "a number of this machine's size")
	}
	r.err = errors.Join(r.err, err)
	return int(n)
}

// token reads the id of a special token; -1, also written as the largest
// number of 32 bits, is none.
func (r *fields) token(name string) int32 {
	key := "tokenizer.ggml." + name + "_token_id"
	n, err := r.f.Int(key, -1)
	switch {
	case err == nil && (n == -1 || n == math.MaxUint32):
		return -1
	case err == nil && (n < 0 || n > math.MaxInt32):
		err = fmt.Errorf("%s: metadata key %q is %d, which is no token id", r.f.path, key, n)
	}
	r.err = errors.Join(r.err, err)
	return int32(n)
}

func (r *fields) need(key string) int {
	r.has(key)
	return r.integer(key, 0)
}

func (r *fields) needNumber(key string) float64 {
	r.has(key)
	return r.number(key, 0)
}

func (r *fields) has(key string) {
	if !r.f.Has(key) {
		r.err = errors.Join(r.err, fmt.Errorf("%s: metadata key %q is missing", r.f.path, key))
	}
}

func (r *fields) number(key string, def float64) float64 {
	v, err := r.f.Float(key, def)
	r.err = errors.Join(r.err, err)
	return v
}

func (r *fields) text(key string) string {
	v, err := r.f.Text(key)
	r.err = errors.Join(r.err, err)
	return v
}

// readConfig builds the configuration from metadata and the tensors there are.
func (f *File) readConfig(a arch) (model.Config, error) {
	r := &fields{f: f}
	c := model.Config{
		Family:       a.family,
		Hidden:       r.need(a.name + ".embedding_length"),
		Intermediate: r.need(a.name + ".feed_forward_length"),
		Layers:       r.need(a.name + ".block_count"),
		Heads:        r.need(a.name + ".attention.head_count"),
		MaxPositions: r.need(a.name + ".context_length"),
		NormEps:      round32(r.needNumber(a.name + ".attention.layer_norm_rms_epsilon")),
		InitRange:    0.02,
		Rope:         model.Rope{Theta: round32(r.number(a.name+".rope.freq_base", 10000)), Type: "default"},
	}
	if r.err == nil && c.Heads < 1 {
		return c, fmt.Errorf("%s: %s.attention.head_count is %d", f.path, a.name, c.Heads)
	}
	c.KVHeads = r.integer(a.name+".attention.head_count_kv", int64(c.Heads))
	if r.err == nil {
		c.HeadDim = r.integer(a.name+".attention.key_length", int64(c.Hidden/c.Heads))
	}
	if n := r.integer(a.name+".attention.value_length", int64(c.HeadDim)); r.err == nil && n != c.HeadDim {
		return c, fmt.Errorf("%s: values of width %d beside keys of width %d are not supported", f.path, n, c.HeadDim)
	}
	if n := r.integer(a.name+".rope.dimension_count", int64(c.HeadDim)); r.err == nil && n != c.HeadDim {
		return c, fmt.Errorf("%s: rotating %d of %d dimensions of a head is not supported", f.path, n, c.HeadDim)
	}
	if a.name == llama4 {
		if err := r.llama4(&c); err != nil {
			return c, fmt.Errorf("%s: %w", f.path, err)
		}
	} else if n := r.integer(a.name+".expert_count", 0); r.err == nil && n > 0 {
		return c, fmt.Errorf("%s: mixtures of experts of architecture %q are not supported; those of %q are", f.path, a.name, llama4)
	}
	if err := r.rope(a.name, &c.Rope); err != nil {
		return c, fmt.Errorf("%s: %w", f.path, err)
	}
	if scale := r.number(a.name+".attention.scale", 0); r.err == nil && scale != 0 {
		return c, fmt.Errorf("%s: %s.attention.scale %v is not supported; scores are divided by the root of the head's width", f.path, a.name, scale)
	}
	causal, err := f.Bool(a.name+".attention.causal", true)
	if r.err = errors.Join(r.err, err); r.err == nil && !causal {
		return c, fmt.Errorf("%s: %s.attention.causal is false: a model whose tokens see those after them is not supported", f.path, a.name)
	}
	if c.Family == model.SmolLM3 && r.err == nil && r.some(c.Layers) {
		c.NoRope = noRope(c.Layers)
	}
	c.BOS = r.token("bos")
	c.PAD = r.token("padding")
	for _, key := range []string{"eos", "eot", "eom"} {
		if id := r.token(key); id >= 0 && !slices.Contains(c.EOS, id) {
			c.EOS = append(c.EOS, id)
		}
	}
	if r.err != nil {
		return c, r.err
	}
	return c, f.shapesConfig(&c)
}

// some reports whether there can be so many layers: each has tensors.
func (r *fields) some(layers int) bool { return layers > 0 && layers <= len(r.f.infos) }

// llama4 reads what a Llama 4 has beyond a Llama 3. llama.cpp takes the rest for granted.
func (r *fields) llama4(c *model.Config) error {
	experts, top, step := r.need(llama4+".expert_count"), r.need(llama4+".expert_used_count"), r.need(llama4+".interleave_moe_layer_step")
	dense := c.Intermediate
	c.Intermediate = r.need(llama4 + ".expert_feed_forward_length")
	window := r.integer(llama4+".attention.sliding_window", chunk4)
	switch {
	case r.err != nil || !r.some(c.Layers):
		return nil // readConfig returns it, and Validate refuses
	case window != chunk4:
		return fmt.Errorf("%s.attention.sliding_window %d is not supported; %d is", llama4, window, chunk4)
	case r.f.Has(llama4+".rope.freq_base_swa") || r.text(llama4+".rope.scaling.type") == "none" && r.f.Has(llama4+".rope.scaling.factor"):
		return fmt.Errorf("rotary settings of their own for layers whose attention is chunked (%s.rope.freq_base_swa, or a scaling factor beside type \"none\") are not supported", llama4)
	case step < 1:
		return fmt.Errorf("%s.interleave_moe_layer_step is %d; must be at least 1", llama4, step)
	}
	c.Llama4 = llama4Of(c.Layers, step, experts, top, dense)
	return nil
}

// rope reads how the frequencies are scaled. Without a type a factor, which older files
// have under another name, scales linearly.
func (r *fields) rope(arch string, to *model.Rope) error {
	kind := r.text(arch + ".rope.scaling.type")
	factor := round32(r.number(arch+".rope.scaling.factor", r.number(arch+".rope.scale_linear", 0)))
	attn := r.number(arch+".rope.scaling.attn_factor", 1)
	switch {
	case r.err != nil || kind == "none":
		return nil // readConfig returns it
	case kind != "" && kind != "linear":
		return fmt.Errorf("rope scaling %q is not supported; \"linear\" and that of Llama 3 are", kind)
	case attn != 1:
		return fmt.Errorf("%s.rope.scaling.attn_factor %v is not supported", arch, attn)
	case factor != 0 && factor != 1: // 0 is none, as in llama.cpp
		to.Type, to.Factor = "linear", factor
	}
	return nil
}

// shapesConfig fills in what only the tensors say.
func (f *File) shapesConfig(c *model.Config) error {
	i, ok := f.byName["model.embed_tokens.weight"]
	if !ok || len(f.infos[i].dims) != 2 {
		return fmt.Errorf("%s: tensor \"token_embd.weight\" is missing or not a matrix", f.path)
	}
	c.VocabSize = f.infos[i].dims[1]
	_, head := f.byName["lm_head.weight"]
	c.Tied = !head
	if !c.Family.QKVBias() {
		_, c.AttnBias = f.byName["model.layers.0.self_attn.q_proj.bias"]
	}
	_, c.MLPBias = f.byName["model.layers.0.mlp.gate_proj.bias"]
	for _, x := range f.infos {
		if x.name != ropeFreqs {
			continue
		}
		if x.typ.name != "f32" || len(x.dims) != 1 {
			return fmt.Errorf("%s: tensor %q is not a vector of f32", f.path, ropeFreqs)
		}
		c.Rope.Divisors = make([]float32, x.dims[0])
		for i := range c.Rope.Divisors {
			c.Rope.Divisors[i] = math.Float32frombits(binary.LittleEndian.Uint32(x.data[4*i:]))
		}
	}
	if err := c.Validate(); err != nil {
		return fmt.Errorf("%s: %w", f.path, err)
	}
	return nil
}

// round32 undoes the widening of a decimal that was stored as a 32-bit float:
// 9.999999747378752e-06 becomes 1e-05 again.
func round32(v float64) float64 {
	out, err := strconv.ParseFloat(strconv.FormatFloat(v, 'g', -1, 32), 64)
	if err != nil || float32(out) != float32(v) {
		return v
	}
	return out
}
