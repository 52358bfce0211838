package model

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strings"

	"pipe/tensor"
)

// A Config describes a decoder: the fields of a Hugging Face config.json that
// matter to it. Build one with [ParseConfig], or fill it in and call Validate.
type Config struct {
	VocabSize    int // V, rows of the embedding
	Hidden       int // H, width of the residual stream
	Intermediate int // F, width of the feed-forward
	Layers       int
	Heads        int // query heads
	KVHeads      int // key and value heads; Heads is a multiple of it
	HeadDim      int // D, even; may differ from Hidden/Heads
	MaxPositions int // context length
	NormEps      float64
	InitRange    float64 // standard deviation of new weights
	Tied         bool    // the output head is the embedding
	AttnBias     bool    // q, k, v and o have biases
	MLPBias      bool    // gate, up and down have biases
	Rope         Rope
	Family       Family   // what sets it apart from a Llama 2 or 3
	NoRope       []bool   // by layer: queries and keys are not rotated; nil: those of all layers are
	Sliding      *Sliding // attention sees a window only; nil: it sees everything before
	Llama4       *Llama4  // nil: it is none

	BOS int32   // -1: none
	EOS []int32 // ids that end a text; may be empty
	PAD int32   // -1: none
}

// Rope describes the rotary position embedding.
type Rope struct {
	Theta float64 // base
	// Type is "default", "linear", which divides all frequencies by Factor, or
	// "llama3", to which the fields after Factor belong.
	Type                string
	Factor              float64
	LowFreq, HighFreq   float64
	OriginalMaxPosition int
	// Divisors, when set, divide the unscaled frequencies one by one and
	// stand instead of Type: GGUF stores the scaling so. [HeadDim/2]
	Divisors []float32
}

// hfConfig is config.json as it is written: transformers 4 has rope_theta and
// rope_scaling, transformers 5 merges both into rope_parameters.
type hfConfig struct {
	Architectures []string        `json:"architectures,omitempty"`
	ModelType     string          `json:"model_type"`
	VocabSize     *int            `json:"vocab_size"`
	Hidden        *int            `json:"hidden_size"`
	Intermediate  *int            `json:"intermediate_size"`
	Layers        *int            `json:"num_hidden_layers"`
	Heads         *int            `json:"num_attention_heads"`
	KVHeads       json.RawMessage `json:"num_key_value_heads"` // null: as heads
	HeadDim       *int            `json:"head_dim"`
	Act           *string         `json:"hidden_act"`
	MaxPositions  *int            `json:"max_position_embeddings"`
	NormEps       *float64        `json:"rms_norm_eps"`
	InitRange     *float64        `json:"initializer_range"`
	Tied          *bool           `json:"tie_word_embeddings"`
	AttnBias      bool            `json:"attention_bias"`
	MLPBias       bool            `json:"mlp_bias"`
	AttnDropout   float64         `json:"attention_dropout"`
	BOS           json.RawMessage `json:"bos_token_id"`
	EOS           json.RawMessage `json:"eos_token_id"`
	PAD           json.RawMessage `json:"pad_token_id"`
	Theta         *float64        `json:"rope_theta"`
	Scaling       *hfRope         `json:"rope_scaling"`
	Parameters    *hfRope         `json:"rope_parameters,omitempty"`
	Partial       *float64        `json:"partial_rotary_factor,omitempty"`
	Original      *int            `json:"original_max_position_embeddings,omitempty"`
	Causal        *bool           `json:"is_causal,omitempty"`
	Quantization  json.RawMessage `json:"quantization_config,omitempty"`
	DType         string          `json:"torch_dtype,omitempty"`
	hfSliding
	hfLlama4
}

type hfRope struct {
	RopeType   string   `json:"rope_type"`
	LegacyType string   `json:"type,omitempty"`
	Theta      *float64 `json:"rope_theta,omitempty"`
	Factor     *float64 `json:"factor,omitempty"`
	Low        *float64 `json:"low_freq_factor,omitempty"`
	High       *float64 `json:"high_freq_factor,omitempty"`
	Original   *int     `json:"original_max_position_embeddings,omitempty"`
	Partial    *float64 `json:"partial_rotary_factor,omitempty"`

	// Settings of layers of one kind, which none of the families has.
	Full    *struct{} `json:"full_attention,omitempty"`
	Sliding *struct{} `json:"sliding_attention,omitempty"`
	Chunked *struct{} `json:"chunked_attention,omitempty"`
}

// Model types of a Llama 4.
const (
	llama4Text = "llama4_text"
	llama4     = "llama4" // with images: its text is used
)

// ParseConfig reads a config.json. It refuses, by name, an architecture or an
// option that [Decoder] does not implement.
func ParseConfig(data []byte) (Config, error) {
	h, images, err := readConfig(data)
	if err != nil {
		return Config{}, fmt.Errorf("config.json: %w", err)
	}
	d, known := modelTypes[h.ModelType]
	switch {
	case h.ModelType == "":
		return Config{}, fmt.Errorf("config.json: model_type is missing; it must be %s", strings.Join(modelTypeNames(), ", "))
	case !known:
		return Config{}, fmt.Errorf("config.json: model_type %q is not supported; %s are", h.ModelType, strings.Join(modelTypeNames(), ", "))
	case h.Act != nil && *h.Act != "silu" && *h.Act != "swish":
		return Config{}, fmt.Errorf("config.json: hidden_act %q is not supported; \"silu\" is", *h.Act)
	case !or(h.Causal, true):
		return Config{}, errors.New("config.json: is_causal is false: a model whose tokens see those after them is not supported")
	}
	if err := checkQuantization(h.Quantization); err != nil {
		return Config{}, fmt.Errorf("config.json: %w", err)
	}
	c := Config{
		VocabSize: or(h.VocabSize, d.vocab), Hidden: or(h.Hidden, d.hidden), Intermediate: or(h.Intermediate, d.intermediate),
		Layers: or(h.Layers, d.layers), Heads: or(h.Heads, d.heads), MaxPositions: or(h.MaxPositions, d.positions),
		NormEps: or(h.NormEps, d.eps), InitRange: or(h.InitRange, 0.02),
		Tied: or(h.Tied, d.tied), Family: d.family,
	}
	if err = c.parseHeads(h, d); err == nil {
		err = c.parseFamily(h, images)
	}
	if err == nil {
		c.Rope, err = h.rope(d.theta)
	}
	if err == nil {
		err = c.parseTokens(h, d)
	}
	if err == nil {
		err = c.Validate()
	}
	if err != nil {
		return Config{}, fmt.Errorf("config.json: %w", err)
	}
	return c, nil
}

// readConfig reads a config.json; of a model of text and images, what it says of the text.
func readConfig(data []byte) (h *hfConfig, images bool, err error) {
	var all struct {
		hfConfig
		Text *hfConfig `json:"text_config"`
	}
	if err := json.Unmarshal(data, &all); err != nil {
		return nil, false, err
	}
	if all.ModelType != llama4 {
		return &all.hfConfig, false, nil
	}
	if all.Text == nil {
		return nil, false, fmt.Errorf("model_type %q, and no text_config", llama4)
	}
	h = all.Text
	if h.ModelType == "" {
		h.ModelType = llama4Text
	}
	if h.ModelType != llama4Text {
		return nil, false, fmt.Errorf("text_config: model_type %q is not supported in a %q; %q is", h.ModelType, llama4, llama4Text)
	}
	if len(h.Quantization) == 0 {
		h.Quantization = all.Quantization
	}
	return h, true, nil
}

// parseHeads reads the heads.
func (c *Config) parseHeads(h *hfConfig, d modelType) error {
	c.KVHeads, c.HeadDim = d.kvHeads, d.headDim
	if c.KVHeads == 0 || string(h.KVHeads) == "null" {
		c.KVHeads = c.Heads
	}
	if len(h.KVHeads) > 0 {
		if err := json.Unmarshal(h.KVHeads, &c.KVHeads); err != nil {
			return fmt.Errorf("num_key_value_heads: %w", err)
		}
	}
	if c.HeadDim == 0 && c.Heads > 0 {
		c.HeadDim = c.Hidden / c.Heads
	}
	c.HeadDim = or(h.HeadDim, c.HeadDim)
	if h.ModelType == Llama.String() && c.Heads > 0 && c.Hidden%c.Heads != 0 { // transformers refuses it, of others not
		return fmt.Errorf("hidden_size %d is not a multiple of num_attention_heads %d", c.Hidden, c.Heads)
	}
	return nil
}

// checkQuantization refuses quantised checkpoints other than those in NF4.
func checkQuantization(raw json.RawMessage) error {
	if len(raw) == 0 || string(raw) == "null" {
		return nil
	}
	var q struct {
		Method string `json:"quant_method"`
		Type   string `json:"bnb_4bit_quant_type"`
		Four   bool   `json:"load_in_4bit"`
	}
	if err := json.Unmarshal(raw, &q); err != nil {
		return fmt.Errorf("quantization_config: %w", err)
	}
	const instead = "; use the unquantised checkpoint or a GGUF file"
	switch {
	case q.Method != "bitsandbytes":
		return fmt.Errorf("quantization_config: quant_method %q is not supported; \"bitsandbytes\" in nf4 is%s", q.Method, instead)
	case !q.Four:
		return fmt.Errorf("quantization_config: bitsandbytes without load_in_4bit is not supported; 4 bits in nf4 are%s", instead)
	case q.Type != "nf4":
		return fmt.Errorf("quantization_config: bnb_4bit_quant_type %q is not supported; \"nf4\" is%s", q.Type, instead)
	}
	return nil
}

func or[T any](p *T, def T) T {
	if p == nil {
		return def
	}
	return *p
}

// rope reads either form of the rotary settings. Of both, rope_scaling counts, as in
// every transformers: whoever adds it to a file of transformers 5 means it.
func (h *hfConfig) rope(theta float64) (Rope, error) {
	r := Rope{Theta: or(h.Theta, theta), Type: "default"}
	s, field := h.Parameters, "rope_parameters"
	if h.Scaling != nil && *h.Scaling != (hfRope{}) {
		s, field = h.Scaling, "rope_scaling"
	}
	if p := or(h.Partial, 1); p != 1 {
		return r, fmt.Errorf("partial_rotary_factor %v is not supported: all of a head is rotated", p)
	}
	if s == nil {
		return r, nil
	}
	switch p := or(s.Partial, 1); {
	case p != 1:
		return r, fmt.Errorf("%s: partial_rotary_factor %v is not supported: all of a head is rotated", field, p)
	case s.Full != nil || s.Sliding != nil || s.Chunked != nil:
		return r, fmt.Errorf("%s: settings of their own for layers of one kind are not supported", field)
	}
	if s.Theta != nil {
		r.Theta = *s.Theta
	}
	if s.RopeType != "" {
		r.Type = s.RopeType
	} else if s.LegacyType != "" {
		r.Type = s.LegacyType
	}
	switch r.Type {
	case "default":
	case "linear":
		if s.Factor == nil {
			return r, fmt.Errorf("%s: rope_type \"linear\" needs factor", field)
		}
		r.Factor = *s.Factor
	case "llama3":
		if h.Original != nil { // as in transformers, it counts
			s.Original = h.Original
		}
		if s.Factor == nil || s.Low == nil || s.High == nil || s.Original == nil {
			return r, fmt.Errorf("%s: rope_type \"llama3\" needs factor, low_freq_factor, high_freq_factor and original_max_position_embeddings", field)
		}
		r.Factor, r.LowFreq, r.HighFreq, r.OriginalMaxPosition = *s.Factor, *s.Low, *s.High, *s.Original
	default:
		return r, fmt.Errorf("%s: rope_type %q is not supported; \"default\", \"linear\" and \"llama3\" are", field, r.Type)
	}
	return r, nil
}

// parseTokens reads the special token ids; eos may be a list.
func (c *Config) parseTokens(h *hfConfig, d modelType) error {
	one := func(field string, raw json.RawMessage, def int32) (int32, error) {
		if raw == nil {
			return def, nil
		}
		id := int32(-1) // null: none
		if err := json.Unmarshal(raw, &id); err != nil {
			return 0, fmt.Errorf("%s: %w", field, err)
		}
		return id, nil
	}
	var err error
	if c.BOS, err = one("bos_token_id", h.BOS, d.bos); err != nil {
		return err
	}
	if c.PAD, err = one("pad_token_id", h.PAD, d.pad); err != nil {
		return err
	}
	if len(h.EOS) > 0 && h.EOS[0] == '[' {
		if err := json.Unmarshal(h.EOS, &c.EOS); err != nil {
			return fmt.Errorf("eos_token_id: %w", err)
		}
		return nil
	}
	id, err := one("eos_token_id", h.EOS, d.eos)
	if err == nil && id >= 0 {
		c.EOS = []int32{id}
	}
	return err
}

// Bounds of configurations: far beyond any model, far below overflow.
const (
	most       = 1 << 24
	maxLayers  = 4096
	maxExperts = tensor.MostExperts
)

// Validate reports the first field that no model can have.
func (c Config) Validate() error {
	for _, f := range []struct {
		name string
		v    int
	}{
		{"vocab_size", c.VocabSize}, {"hidden_size", c.Hidden}, {"intermediate_size", c.Intermediate},
		{"num_hidden_layers", c.Layers}, {"num_attention_heads", c.Heads}, {"num_key_value_heads", c.KVHeads},
		{"head_dim", c.HeadDim}, {"max_position_embeddings", c.MaxPositions},
	} {
		if f.v < 1 || f.v > most {
			return fmt.Errorf("%s is %d; must be between 1 and %d", f.name, f.v, most)
		}
	}
	switch {
	case c.Layers > maxLayers:
		return fmt.Errorf("num_hidden_layers is %d; must be at most %d", c.Layers, maxLayers)
	case c.Heads%c.KVHeads != 0:
		return fmt.Errorf("num_attention_heads %d is not a multiple of num_key_value_heads %d", c.Heads, c.KVHeads)
	case c.HeadDim%2 != 0:
		return fmt.Errorf("head_dim is %d; must be even", c.HeadDim)
	case c.Heads*c.HeadDim > most:
		return fmt.Errorf("num_attention_heads × head_dim is %d; must be at most %d", c.Heads*c.HeadDim, most)
	case !(c.NormEps > 0 && c.NormEps < 1):
		return fmt.Errorf("rms_norm_eps is %v; must be between 0 and 1", c.NormEps)
	case !(c.InitRange >= 0 && c.InitRange <= 10):
		return fmt.Errorf("initializer_range is %v; must be between 0 and 10", c.InitRange)
	}
	for _, id := range c.EOS {
		if id < 0 {
			return fmt.Errorf("eos_token_id is %d; must not be negative", id)
		}
	}
	if err := c.validateFamily(); err != nil {
		return err
	}
	return c.Rope.validate(c.HeadDim)
}

// minDivisor keeps angles, which grow with the position, far from infinity.
const minDivisor = 1e-3

func (r Rope) validate(headDim int) error {
	switch {
	case !(r.Theta >= 1 && r.Theta < math.MaxFloat32):
		return fmt.Errorf("rope_theta is %v; must be at least 1", r.Theta)
	case r.Divisors != nil && len(r.Divisors) != headDim/2:
		return fmt.Errorf("rope_freqs has %d divisors; head_dim %d needs %d", len(r.Divisors), headDim, headDim/2)
	case r.Type == "llama3" && !(r.Factor >= 1 && r.LowFreq > 0 && r.HighFreq >= r.LowFreq && r.OriginalMaxPosition > 0):
		return fmt.Errorf("rope_scaling: factor %v must be at least 1; low_freq_factor %v, high_freq_factor %v and original_max_position_embeddings %d must be above 0, low at most high",
			r.Factor, r.LowFreq, r.HighFreq, r.OriginalMaxPosition)
	case r.Type == "linear" && !(r.Factor >= 1 && r.Factor <= most):
		return fmt.Errorf("rope_scaling: factor is %v; must be between 1 and %d", r.Factor, most)
	case r.Type == "linear" && r.Divisors != nil:
		return errors.New("rope_type \"linear\" beside divisors of the frequencies is not supported")
	case r.Type != "" && r.Type != "default" && r.Type != "linear" && r.Type != "llama3":
		return fmt.Errorf("rope_type %q is not supported; \"default\", \"linear\" and \"llama3\" are", r.Type)
	}
	for i, d := range r.Divisors {
		if !(d >= minDivisor && d <= math.MaxFloat32) {
			return fmt.Errorf("rope_freqs[%d] is %v; must be a number of at least %v", i, d, minDivisor)
		}
	}
	return nil
}

// InvFreq returns the angle per position of each rotated pair [HeadDim/2],
// scaled in the manner of transformers.
func (c Config) InvFreq() []float32 {
	f := make([]float32, c.HeadDim/2)
	for i := range f {
		f[i] = float32(1 / math.Pow(c.Rope.Theta, float64(float32(2*i)/float32(c.HeadDim))))
		switch {
		case c.Rope.Divisors != nil:
			f[i] /= c.Rope.Divisors[i]
		case c.Rope.Type == "linear":
			f[i] /= float32(c.Rope.Factor)
		case c.Rope.Type == "llama3":
			f[i] = c.Rope.llama3(f[i])
		}
	}
	return f
}

// llama3 scales one frequency: short wavelengths stay, long ones shrink by
// Factor, those between are interpolated. Low == High leaves nothing between.
func (r Rope) llama3(f float32) float32 {
	wave, c := 2*math.Pi/float64(f), float64(r.OriginalMaxPosition)
	switch {
	case wave < c/r.HighFreq:
		return f
	case wave > c/r.LowFreq:
		return float32(float64(f) / r.Factor)
	case r.HighFreq == r.LowFreq:
		return f
	}
	t := (c/wave - r.LowFreq) / (r.HighFreq - r.LowFreq)
	return float32((1-t)*float64(f)/r.Factor + t*float64(f))
}

// JSON returns the configuration as a config.json that transformers 4 and 5
// read; dtype is the element type of the weights beside it, such as "float32".
// Divisors become the llama3 settings they came from only if Type says so.
func (c Config) JSON(dtype string) ([]byte, error) {
	act, b, p := "silu", json.RawMessage("null"), json.RawMessage("null")
	if c.BOS >= 0 {
		b = fmt.Append(nil, c.BOS)
	}
	if c.PAD >= 0 {
		p = fmt.Append(nil, c.PAD)
	}
	e, err := json.Marshal(c.EOS)
	if len(c.EOS) == 1 {
		e = fmt.Append(nil, c.EOS[0])
	}
	if err != nil {
		return nil, err
	}
	h := hfConfig{
		VocabSize: &c.VocabSize, Hidden: &c.Hidden,
		Intermediate: &c.Intermediate, Layers: &c.Layers, Heads: &c.Heads, KVHeads: fmt.Append(nil, c.KVHeads), HeadDim: &c.HeadDim,
		Act: &act, MaxPositions: &c.MaxPositions, NormEps: &c.NormEps, InitRange: &c.InitRange, Tied: &c.Tied,
		AttnBias: c.AttnBias, MLPBias: c.MLPBias, BOS: b, EOS: e, PAD: p, Theta: &c.Rope.Theta, DType: dtype,
	}
	c.familyJSON(&h)
	r := c.Rope
	if r.Divisors != nil && r.Type != "llama3" {
		if r, err = c.fitRope(); err != nil {
			return nil, err
		}
	}
	switch r.Type {
	case "linear":
		h.Scaling = &hfRope{RopeType: "linear", Factor: &r.Factor}
	case "llama3":
		h.Scaling = &hfRope{RopeType: "llama3", Factor: &r.Factor, Low: &r.LowFreq, High: &r.HighFreq, Original: &r.OriginalMaxPosition}
	}
	return json.MarshalIndent(h, "", "  ")
}

// fitRope finds the settings whose divisors are those of the configuration. Of
// llama3 it knows those with the released low 1 and high 4.
func (c Config) fitRope() (Rope, error) {
	plain := c
	plain.Rope = Rope{Theta: c.Rope.Theta, Type: "default"}
	base, last := plain.InvFreq(), c.Rope.Divisors[len(c.Rope.Divisors)-1]
	try := []Rope{plain.Rope, {Theta: c.Rope.Theta, Type: "linear", Factor: float64(last)}}
	llama3 := Rope{Theta: c.Rope.Theta, Type: "llama3", Factor: float64(last), LowFreq: 1, HighFreq: 4, OriginalMaxPosition: 8192}
	try = append(try, llama3)
	for n := 1; n <= most; n *= 2 {
		llama3.OriginalMaxPosition = n
		try = append(try, llama3)
	}
	for _, r := range try {
		same := r.validate(c.HeadDim) == nil
		scaled := plain
		scaled.Rope = r
		for i, f := range scaled.InvFreq() {
			same = same && math.Abs(float64(base[i]/f/c.Rope.Divisors[i]-1)) <= 1e-4
		}
		if same {
			return r, nil
		}
	}
	return Rope{}, fmt.Errorf("config.json cannot express the divisors of the rotary frequencies of this model, the last of which is %v: an adapter can be trained over it and written as GGUF, a Hugging Face directory of it cannot", last)
}
