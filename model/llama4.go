package model

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
)

// Llama4 is what the decoder of a Llama 4 has beyond that of a Llama 3: layers of experts, and
// layers whose attention sees no positions beside layers that see them within a chunk only
// (iRoPE). In its configuration, Intermediate is the width of an expert and of the
// shared expert. An image is no part of it.
type Llama4 struct {
	Experts int // E, of a layer of experts
	Top     int // experts that a token goes to
	Dense   int // width of the feed-forward of layers without experts

	// By layer.
	MoE     []bool // it has experts
	Rope    []bool // it rotates queries and keys
	Chunked []bool // attention sees the chunk of the query only

	Chunk  int  // positions of a chunk; 0: no layer is chunked
	QKNorm bool // queries and keys of layers that rotate are normed after it, per head and without a weight

	// Queries of layers that do not rotate are scaled by 1 + AttnScale·ln(1 + ⌊(p+1)/FloorScale⌋) at
	// position p of their document.
	Tuned                 bool
	FloorScale, AttnScale float64

	// Images: the checkpoint is of a model that takes images too. Its text part is used, and what
	// JSON writes is a text model; see also WithImages.
	Images bool
}

// JSONWithImages returns whole, the config.json of a model that takes images too, with c as what it
// says of the text and dtype as the element type of all weights.
func (c Config) JSONWithImages(whole []byte, dtype string) ([]byte, error) {
	h := map[string]json.RawMessage{}
	if err := json.Unmarshal(whole, &h); err != nil {
		return nil, err
	}
	text, err := c.JSON(dtype)
	if err != nil {
		return nil, err
	}
	h["text_config"], h["torch_dtype"] = text, fmt.Appendf(nil, "%q", dtype)
	delete(h, "dtype") // the same, as transformers 5 has it
	delete(h, "quantization_config")
	return json.MarshalIndent(h, "", "  ")
}

// hfLlama4 is what config.json has for it.
type hfLlama4 struct {
	Dense      *int            `json:"intermediate_size_mlp,omitempty"`
	Experts    *int            `json:"num_local_experts,omitempty"`
	Top        *int            `json:"num_experts_per_tok,omitempty"`
	Step       *int            `json:"interleave_moe_layer_step,omitempty"`
	MoE        *[]int          `json:"moe_layers,omitempty"`
	QKNorm     *bool           `json:"use_qk_norm,omitempty"`
	Rope       []int           `json:"no_rope_layers,omitempty"`
	Interval   *int            `json:"no_rope_layer_interval,omitempty"`
	Chunk      json.RawMessage `json:"attention_chunk_size,omitempty"`
	LayerTypes []string        `json:"layer_types,omitempty"`
	Tuned      json.RawMessage `json:"attn_temperature_tuning,omitempty"`
	FloorScale *float64        `json:"floor_scale,omitempty"`
	AttnScale  *float64        `json:"attn_scale,omitempty"`
}

// layerTypes are the names of full and of chunked attention.
var layerTypes = map[bool]string{false: "full_attention", true: "chunked_attention"}

// parse reads the settings of a decoder with so many layers.
func (h *hfLlama4) parse(layers int) (*Llama4, error) {
	if layers < 1 || layers > maxLayers {
		return nil, fmt.Errorf("num_hidden_layers is %d; must be between 1 and %d", layers, maxLayers)
	}
	l := &Llama4{
		Experts: or(h.Experts, 16), Top: or(h.Top, 1), Dense: or(h.Dense, 16384), QKNorm: or(h.QKNorm, true),
		FloorScale: or(h.FloorScale, 8192), AttnScale: or(h.AttnScale, 0.1), Tuned: true, Chunk: 8192,
		MoE: make([]bool, layers), Chunked: make([]bool, layers),
	}
	if len(h.Chunk) > 0 {
		l.Chunk = 0
		if err := json.Unmarshal(h.Chunk, &l.Chunk); err != nil { // null: none
			return nil, fmt.Errorf("attention_chunk_size: %w", err)
		}
		if l.Chunk < 1 && string(h.Chunk) != "null" {
			return nil, fmt.Errorf("attention_chunk_size is %d; must be at least 1, or null", l.Chunk)
		}
	}
	switch t := string(h.Tuned); t { // some published files have the number 4
	case "", "true":
	case "false", "null":
		l.Tuned = false
	default:
		n := 0.0
		if err := json.Unmarshal(h.Tuned, &n); err != nil {
			return nil, fmt.Errorf("attn_temperature_tuning is %s; must be true, false or a number", t)
		}
		l.Tuned = n != 0
	}
	if err := h.experts(l); err != nil {
		return nil, err
	}
	rope, err := h.rotated(layers)
	if err != nil {
		return nil, err
	}
	l.Rope = rope
	for i := range layers {
		l.Chunked[i] = l.Rope[i] && l.Chunk > 0
	}
	return l, h.types(l)
}

// rotated reads which of so many layers rotate queries and keys.
func (h *hfLlama4) rotated(layers int) ([]bool, error) {
	interval := or(h.Interval, 4)
	switch {
	case len(h.Rope) > 0 && len(h.Rope) < layers:
		return nil, fmt.Errorf("no_rope_layers has %d entries for %d layers", len(h.Rope), layers)
	case len(h.Rope) == 0 && interval < 1:
		return nil, fmt.Errorf("no_rope_layer_interval is %d; must be at least 1", interval)
	}
	rope := make([]bool, layers)
	for i := range rope {
		if rope[i] = (i+1)%max(interval, 1) != 0; len(h.Rope) > 0 {
			rope[i] = h.Rope[i] != 0
		}
	}
	return rope, nil
}

// experts reads which layers have them.
func (h *hfLlama4) experts(l *Llama4) error {
	layers := len(l.MoE)
	if h.MoE == nil {
		step := or(h.Step, 1)
		if step < 1 {
			return fmt.Errorf("interleave_moe_layer_step is %d; must be at least 1", step)
		}
		for i := step - 1; i < layers; i += step {
			l.MoE[i] = true
		}
		return nil
	}
	for _, i := range *h.MoE {
		if i < 0 || i >= layers {
			return fmt.Errorf("moe_layers holds %d; must be from 0 to %d", i, layers-1)
		}
		l.MoE[i] = true
	}
	return nil
}

// types reads layer_types, which says once more which layers are chunked.
func (h *hfLlama4) types(l *Llama4) error {
	if len(h.LayerTypes) == 0 {
		return nil
	}
	if len(h.LayerTypes) != len(l.Chunked) {
		return fmt.Errorf("layer_types has %d entries for %d layers", len(h.LayerTypes), len(l.Chunked))
	}
	for i, t := range h.LayerTypes {
		switch {
		case t != layerTypes[true] && t != layerTypes[false]:
			return fmt.Errorf("layer_types[%d] is %q; must be %q or %q", i, t, layerTypes[true], layerTypes[false])
		case t == layerTypes[true] && l.Chunk == 0:
			return fmt.Errorf("layer_types[%d] is %q, and attention_chunk_size is null", i, t)
		}
		l.Chunked[i] = t == layerTypes[true]
	}
	return nil
}

// json returns l as config.json has it.
func (l *Llama4) json() hfLlama4 {
	moe, one := []int{}, 1
	h := hfLlama4{Dense: &l.Dense, Experts: &l.Experts, Top: &l.Top, Step: &one, MoE: &moe, QKNorm: &l.QKNorm,
		FloorScale: &l.FloorScale, AttnScale: &l.AttnScale, Chunk: json.RawMessage("null"), Tuned: fmt.Append(nil, l.Tuned)}
	if l.Chunk > 0 {
		h.Chunk = fmt.Append(nil, l.Chunk)
	}
	for i := range l.MoE {
		if l.MoE[i] {
			moe = append(moe, i)
		}
		rope := 0
		if l.Rope[i] {
			rope = 1
		}
		h.Rope, h.LayerTypes = append(h.Rope, rope), append(h.LayerTypes, layerTypes[l.Chunked[i]])
	}
	return h
}

// validate reports the first setting that no model can have.
func (l *Llama4) validate(layers int) error {
	switch {
	case l.Experts < 1 || l.Experts > maxExperts:
		return fmt.Errorf("num_local_experts is %d; must be between 1 and %d", l.Experts, maxExperts)
	case l.Top < 1 || l.Top > l.Experts:
		return fmt.Errorf("num_experts_per_tok is %d; must be between 1 and num_local_experts, %d", l.Top, l.Experts)
	case l.Dense < 1 || l.Dense > most:
		return fmt.Errorf("intermediate_size_mlp is %d; must be between 1 and %d", l.Dense, most)
	case l.Chunk < 0 || l.Chunk == 0 && slices.Contains(l.Chunked, true):
		return errors.New("a layer has chunked attention, and attention_chunk_size is not above 0")
	case !(l.FloorScale >= 1 && l.FloorScale <= most):
		return fmt.Errorf("floor_scale is %v; must be between 1 and %d", l.FloorScale, most)
	case !(l.AttnScale >= 0 && l.AttnScale <= most):
		return fmt.Errorf("attn_scale is %v; must be between 0 and %d", l.AttnScale, most)
	case len(l.MoE) != layers || len(l.Rope) != layers || len(l.Chunked) != layers:
		return fmt.Errorf("the settings of %d, %d and %d layers are not those of %d", len(l.MoE), len(l.Rope), len(l.Chunked), layers)
	}
	return nil
}

// heat returns the factor of the queries of layers that do not rotate, at a position.
func (l *Llama4) heat(pos int32) float32 {
	if !l.Tuned {
		return 1
	}
	steps := math.Floor(float64((float32(pos) + 1) / float32(l.FloorScale)))
	return float32(math.Log1p(steps))*float32(l.AttnScale) + 1
}

// heats sets the factors of the queries of a pass, unless all are 1.
func (l *Llama4) heats(p *Pass) {
	p.heat, p.heatOf = nil, p.heatOf[:0]
	scales := false
	for _, pos := range p.pos {
		h := l.heat(pos)
		p.heatOf, scales = append(p.heatOf, h), scales || h != 1
	}
	if scales {
		p.heat = p.New(len(p.heatOf))
		p.Upload(p.heat, p.heatOf)
	}
}

// chunk sets to to the segments of s, each cut where a chunk of its document begins.
func (s *Segments) chunk(to *Segments, chunk int32) {
	to.Q, to.K, to.KLen = append(to.Q[:0], 0), to.K[:0], to.KLen[:0]
	for i, first := range s.K {
		at, end, keys := s.Q[i], s.Q[i+1], s.KLen[i]
		if at == end {
			to.Q, to.K, to.KLen = append(to.Q, end), append(to.K, first), append(to.KLen, keys)
		}
		for at < end { // position of query at: keys before it
			pos := keys - (end - at)
			begin := pos / chunk * chunk
			n := min(end-at, begin+chunk-pos)
			to.Q, to.K, to.KLen = append(to.Q, at+n), append(to.K, first+begin), append(to.KLen, pos+n-begin)
			at += n
		}
	}
}
