package model

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
)

// A Family is an architecture of Llama's kind: the same decoder, but for biases and norms
// that it has, layers that it does not rotate, and how its configuration is written.
type Family int

// The families.
const (
	Llama   Family = iota // Llama 2, 3 and, with [Config.Llama4], 4
	Mistral               // as a Llama; some have a sliding window
	Qwen2                 // q, k and v have biases, o has none
	Qwen3                 // queries and keys are normed per head, with weights, before they are rotated
	SmolLM3               // some layers see no positions
)

// families are what config.json of transformers calls them.
var families = [...]struct{ modelType, class string }{
	Llama: {"llama", "LlamaForCausalLM"}, Mistral: {"mistral", "MistralForCausalLM"}, Qwen2: {"qwen2", "Qwen2ForCausalLM"},
	Qwen3: {"qwen3", "Qwen3ForCausalLM"}, SmolLM3: {"smollm3", "SmolLM3ForCausalLM"},
}

// String returns the model_type of config.json.
func (f Family) String() string { return families[f].modelType }

// QKVBias reports whether q, k and v have biases where o has none.
func (f Family) QKVBias() bool { return f == Qwen2 }

// HeadNorm reports whether queries and keys are normed per head, with weights, before they
// are rotated.
func (f Family) HeadNorm() bool { return f == Qwen3 }

// modelType is what a config.json of a model_type means where it says nothing, as
// transformers has it.
type modelType struct {
	family                              Family
	vocab, hidden, intermediate, layers int
	heads, kvHeads, headDim, positions  int // kvHeads 0: as heads; headDim 0: hidden/heads
	eps, theta                          float64
	bos, eos, pad                       int32
	tied                                bool
}

var modelTypes = map[string]modelType{
	"llama":    {Llama, 32000, 4096, 11008, 32, 32, 0, 0, 2048, 1e-6, 1e4, 1, 2, -1, false},
	"mistral":  {Mistral, 32000, 4096, 14336, 32, 32, 8, 0, 131072, 1e-6, 1e4, 1, 2, -1, false},
	"qwen2":    {Qwen2, 151936, 4096, 22016, 32, 32, 32, 0, 32768, 1e-6, 1e4, -1, -1, -1, false},
	"qwen3":    {Qwen3, 151936, 4096, 22016, 32, 32, 32, 128, 32768, 1e-6, 1e4, -1, -1, -1, false},
	"smollm3":  {SmolLM3, 128256, 2048, 11008, 36, 16, 4, 0, 32768, 1e-6, 2e6, 128000, 128001, 128004, true},
	llama4Text: {Llama, 202048, 5120, 8192, 48, 40, 8, 128, 131072, 1e-5, 5e5, 1, 2, -1, false},
}

// modelTypeNames returns those that are supported, quoted.
func modelTypeNames() (names []string) {
	for _, n := range append(slices.Sorted(maps.Keys(modelTypes)), llama4) {
		names = append(names, fmt.Sprintf("%q", n))
	}
	return names
}

// Sliding says that attention of some layers sees a window of positions only. Within it a
// layer sees everything, so that contexts are no longer: what it would do beyond is not
// implemented. The rest is kept to be written again.
type Sliding struct {
	Window    int    // positions that a query sees, its own among them
	Positions int    // what the checkpoint says of its context
	Layers    []bool // which; nil: all
}

// hfSliding is what config.json has for it.
type hfSliding struct {
	UseWindow       *bool           `json:"use_sliding_window,omitempty"`
	Window          json.RawMessage `json:"sliding_window,omitempty"`
	MaxWindowLayers *int            `json:"max_window_layers,omitempty"`
}

// slidingType is what layer_types calls it.
const slidingType = "sliding_attention"

// parseFamily reads what sets a family apart.
func (c *Config) parseFamily(h *hfConfig, images bool) (err error) {
	if h.ModelType == llama4Text {
		c.AttnBias = h.AttnBias
		if c.Llama4, err = h.hfLlama4.parse(c.Layers); err == nil {
			c.Llama4.Images = images
		}
		return err
	}
	switch c.Family { // others have no such settings, whatever a file says
	case Llama, SmolLM3:
		c.AttnBias, c.MLPBias = h.AttnBias, h.MLPBias
	case Qwen3:
		c.AttnBias = h.AttnBias
	}
	if c.Family == Llama {
		return nil
	}
	if c.Layers < 1 || c.Layers > maxLayers {
		return fmt.Errorf("num_hidden_layers is %d; must be between 1 and %d", c.Layers, maxLayers)
	}
	if c.Family == SmolLM3 {
		rope, err := h.hfLlama4.rotated(c.Layers)
		if err != nil {
			return err
		}
		for _, r := range rope {
			c.NoRope = append(c.NoRope, !r)
		}
	}
	return c.parseSliding(h)
}

// parseSliding reads the window of attention, and shortens the context to it.
func (c *Config) parseSliding(h *hfConfig) error {
	window := 4096 // of Mistral and Qwen, where a file says nothing
	switch use := or(h.UseWindow, false); {
	case c.Family == SmolLM3 && (use || slices.Contains(h.LayerTypes, slidingType)): // its layers count without use
		window = 0
	case c.Family != Mistral && !use:
		return nil
	}
	if len(h.Window) > 0 {
		window = 0
		if err := json.Unmarshal(h.Window, &window); err != nil { // null: none
			return fmt.Errorf("sliding_window: %w", err)
		}
		if window < 1 && string(h.Window) != "null" {
			return fmt.Errorf("sliding_window is %d; must be at least 1, or null", window)
		}
	}
	s := Sliding{Window: window, Positions: c.MaxPositions}
	if c.Family != Mistral {
		layers, err := c.slidingLayers(h)
		if err != nil {
			return err
		}
		if !slices.Contains(layers, true) {
			return nil
		}
		s.Layers = layers
	}
	if window == 0 || window >= c.MaxPositions {
		return nil
	}
	c.Sliding, c.MaxPositions = &s, window
	return nil
}

// slidingLayers reads which layers have a window, if there is one.
func (c *Config) slidingLayers(h *hfConfig) ([]bool, error) {
	layers := make([]bool, c.Layers)
	if types := h.LayerTypes; len(types) > 0 {
		if len(types) != c.Layers {
			return nil, fmt.Errorf("layer_types has %d entries for %d layers", len(types), c.Layers)
		}
		for i, t := range types {
			if t != slidingType && t != layerTypes[false] {
				return nil, fmt.Errorf("layer_types[%d] is %q; must be %q or %q", i, t, layerTypes[false], slidingType)
			}
			layers[i] = t == slidingType
		}
		return layers, nil
	}
	for i := range layers {
		if layers[i] = i >= or(h.MaxWindowLayers, 28); c.Family == SmolLM3 {
			layers[i] = c.NoRope[i]
		}
	}
	return layers, nil
}

// validateFamily reports the first setting of a family that no model can have.
func (c *Config) validateFamily() error {
	switch s := c.Sliding; {
	case c.Family < 0 || int(c.Family) >= len(families):
		return fmt.Errorf("there is no family %d", int(c.Family))
	case c.NoRope != nil && len(c.NoRope) != c.Layers:
		return fmt.Errorf("no_rope_layers has %d entries for %d layers", len(c.NoRope), c.Layers)
	case s != nil && (s.Window < 1 || c.MaxPositions > s.Window || s.Positions < 1 || s.Positions > most):
		return fmt.Errorf("sliding_window is %d, for contexts of %d (max_position_embeddings is %d)", s.Window, c.MaxPositions, s.Positions)
	case s != nil && s.Layers != nil && len(s.Layers) != c.Layers:
		return fmt.Errorf("layer_types has %d entries for %d layers", len(s.Layers), c.Layers)
	case c.Llama4 == nil:
		return nil
	case c.Family != Llama || c.NoRope != nil || s != nil:
		return errors.New("a Llama 4 has settings of another family")
	}
	return c.Llama4.validate(c.Layers)
}

// familyJSON adds to h what is written of a family.
func (c *Config) familyJSON(h *hfConfig) {
	f := families[c.Family]
	h.Architectures, h.ModelType = []string{f.class}, f.modelType
	if c.Llama4 != nil {
		h.Architectures, h.ModelType, h.hfLlama4 = []string{"Llama4ForCausalLM"}, llama4Text, c.Llama4.json()
	}
	if c.Family == Llama {
		return
	}
	for _, no := range c.NoRope {
		rope := 1
		if no {
			rope = 0
		}
		h.hfLlama4.Rope = append(h.hfLlama4.Rope, rope)
	}
	s, use := c.Sliding, c.Sliding != nil
	if h.Window = json.RawMessage("null"); c.Family != Mistral {
		h.UseWindow = &use
	}
	if !use {
		return
	}
	h.Window, h.MaxPositions = fmt.Append(nil, s.Window), &s.Positions
	if s.Layers == nil {
		return
	}
	first := slices.Index(s.Layers, true)
	if h.MaxWindowLayers = &first; c.Family == SmolLM3 {
		h.MaxWindowLayers = nil
	}
	for _, sliding := range s.Layers {
		t := layerTypes[false]
		if sliding {
			t = slidingType
		}
		h.LayerTypes = append(h.LayerTypes, t)
	}
}
