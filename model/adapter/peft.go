package adapter

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"pipe/model"
	"pipe/model/safetensors"
	"pipe/tensor"
	"pipe/tensor/quant"
)

// Files of a PEFT directory.
const (
	ConfigName  = "adapter_config.json"
	WeightsName = "adapter_model.safetensors"
)

// prefix is what PEFT puts before a module path.
const prefix = "base_model.model."

// peftConfig is adapter_config.json as it is written.
type peftConfig struct {
	Alpha          float64        `json:"lora_alpha"`
	AlphaPattern   patterns       `json:"alpha_pattern"`
	Base           string         `json:"base_model_name_or_path"`
	Bias           string         `json:"bias"`
	Dropout        float64        `json:"lora_dropout"`
	ExcludeModules any            `json:"exclude_modules"`
	FanInFanOut    bool           `json:"fan_in_fan_out"`
	Inference      bool           `json:"inference_mode"`
	Init           any            `json:"init_lora_weights"`
	Layers         any            `json:"layers_to_transform"`
	LayersPattern  any            `json:"layers_pattern"`
	Replication    any            `json:"layer_replication"`
	LoftQ          map[string]any `json:"loftq_config"`
	LoRABias       bool           `json:"lora_bias"`
	ToSave         []string       `json:"modules_to_save"`
	PEFTType       string         `json:"peft_type"`
	PEFTVersion    string         `json:"peft_version,omitempty"`
	Rank           int            `json:"r"`
	RankPattern    patterns       `json:"rank_pattern"`
	Revision       *string        `json:"revision"`
	Targets        names          `json:"target_modules"`
	TargetParams   []string       `json:"target_parameters"`
	TaskType       string         `json:"task_type"`
	DoRA           bool           `json:"use_dora"`
	RSLoRA         bool           `json:"use_rslora"`
}

// names is a list of strings that may be written as one string.
type names []string

// UnmarshalJSON implements json.Unmarshaler.
func (n *names) UnmarshalJSON(b []byte) error {
	var one string
	if json.Unmarshal(b, &one) == nil {
		if *n = nil; one != "" {
			*n = names{one}
		}
		return nil
	}
	return json.Unmarshal(b, (*[]string)(n))
}

// patterns are settings for some modules, in the order of the file: the first
// that matches counts.
type patterns []pattern

type pattern struct {
	key   string
	value float64
}

// UnmarshalJSON implements json.Unmarshaler.
func (p *patterns) UnmarshalJSON(b []byte) error {
	d := json.NewDecoder(strings.NewReader(string(b)))
	t, err := d.Token()
	if err != nil || t != json.Delim('{') {
		return err // null: none
	}
	for d.More() {
		var one pattern
		key, err := d.Token()
		if err != nil {
			return err
		}
		one.key = key.(string)
		if err := d.Decode(&one.value); err != nil {
			return err
		}
		*p = append(*p, one)
	}
	return nil
}

// MarshalJSON writes the empty object: what Save makes has no patterns.
func (p patterns) MarshalJSON() ([]byte, error) { return []byte("{}"), nil }

// get returns the value for a module path, or def.
func (p patterns) get(path string, def float64) (float64, error) {
	for _, x := range p {
		re, err := regexp.Compile(`^(.*\.)?(` + x.key + `)$`)
		if err != nil {
			return 0, fmt.Errorf("pattern %q: %w", x.key, err)
		}
		if re.MatchString(path) {
			return x.value, nil
		}
	}
	return def, nil
}

// Save writes the adapter into dir as PEFT does: adapter_config.json and
// adapter_model.safetensors. base names the model it belongs to.
func (s *Set) Save(dir, base string) error {
	for _, path := range s.paths {
		if a := s.linear[path].Adapter.(*lora); a.a.Value.Rows() != s.Config.Rank || a.scale != float32(s.Config.Scale()) {
			return fmt.Errorf("save adapter: %s has rank %d and scale %v of its own, which Save does not write", path, a.a.Value.Rows(), a.scale)
		}
	}
	targets := slices.Clone(s.Config.Targets)
	if len(targets) == 1 && targets[0] == AllLinear {
		targets = nil
		for _, p := range s.paths {
			if n := p[strings.LastIndexByte(p, '.')+1:]; !slices.Contains(targets, n) {
				targets = append(targets, n)
			}
		}
	}
	slices.Sort(targets)
	c := peftConfig{
		Alpha: s.Config.Alpha, Base: base, Bias: "none", Dropout: s.Config.Dropout, Inference: true, Init: true,
		LoftQ: map[string]any{}, PEFTType: "LORA", Rank: s.Config.Rank, Targets: targets, TaskType: "CAUSAL_LM",
		DoRA: s.Config.DoRA, RSLoRA: s.Config.RSLoRA,
	}
	data, err := marshalConfig(c)
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, ConfigName), data, 0o666); err != nil {
		return fmt.Errorf("save adapter: %w", err)
	}
	if err := safetensors.Write(filepath.Join(dir, WeightsName), s.tensors(), nil); err != nil {
		return fmt.Errorf("save adapter: %w", err)
	}
	return s.d.Backend().Sync()
}

// marshalConfig writes a single regular expression as a string: in a list PEFT
// would take it literally.
func marshalConfig(c peftConfig) ([]byte, error) {
	if len(c.Targets) == 1 && isRegexp(c.Targets[0]) {
		type plain peftConfig
		return json.MarshalIndent(struct {
			plain
			Targets string `json:"target_modules"`
		}{plain(c), c.Targets[0]}, "", "  ")
	}
	return json.MarshalIndent(c, "", "  ")
}

// tensors returns the parameters under PEFT's names.
func (s *Set) tensors() []safetensors.Tensor {
	var ts []safetensors.Tensor
	for _, path := range s.paths {
		s.linear[path].Adapter.Params(func(name string, p *model.Param) {
			ts = append(ts, safetensors.Tensor{Name: prefix + path + "." + name, DType: tensor.F32, Shape: p.Value.Shape,
				Fill: func(w io.Writer) error {
					v := make([]float32, p.Value.Len())
					s.d.Backend().Download(v, p.Value)
					data := make([]byte, 4*len(v))
					quant.Quantize(data, tensor.F32, v)
					_, err := w.Write(s.ordered(path, name, data, true))
					return err
				}})
		})
	}
	return ts
}

// ordered returns the data of a parameter of the adapter of a layer in the order of the rows of its
// output here, or, the other way round, in that of PEFT: see model.Config.StoredRows.
func (s *Set) ordered(path, param string, data []byte, back bool) []byte {
	order := s.d.Config.StoredRows(path)
	if order == nil || param == "lora_A.weight" || len(data)%len(order) != 0 {
		return data
	}
	out := make([]byte, len(data))
	model.Permute(out, data, len(data)/len(order), order, back)
	return out
}

// Load attaches the adapter of a PEFT directory to d.
func Load(d *model.Decoder, dir string) (*Set, error) {
	s, err := load(d, dir)
	if err != nil {
		return nil, fmt.Errorf("read adapter %s: %w", dir, err)
	}
	return s, nil
}

func load(d *model.Decoder, dir string) (*Set, error) {
	c, err := readConfig(dir)
	if err != nil {
		return nil, err
	}
	f, err := safetensors.Open(filepath.Join(dir, WeightsName))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	s := newSet(d, Config{DoRA: c.DoRA, Rank: c.Rank, Alpha: c.Alpha, RSLoRA: c.RSLoRA, Dropout: c.Dropout, Targets: c.Targets})
	if err := s.Config.Check(); err != nil {
		return nil, fmt.Errorf("%s: %w", ConfigName, err)
	}
	have := f.Names()
	known := map[string]bool{}
	for _, path := range s.all() {
		if !slices.Contains(have, prefix+path+".lora_A.weight") {
			continue
		}
		if err := s.read(f, c, path, known); err != nil {
			s.Detach()
			return nil, err
		}
	}
	for _, name := range have {
		if !known[name] {
			s.Detach()
			return nil, fmt.Errorf("tensor %s belongs to no linear layer of the model, or its pair is missing", name)
		}
	}
	if len(s.paths) == 0 {
		return nil, errors.New("it holds no tensors")
	}
	d.Changed()
	return s, nil
}

// read attaches one linear's adapter and fills it from f.
func (s *Set) read(f *safetensors.File, c peftConfig, path string, known map[string]bool) error {
	rank, err := c.RankPattern.get(path, float64(c.Rank))
	if err != nil {
		return err
	}
	if !(rank >= 1 && rank <= 4096) || rank != math.Trunc(rank) {
		return fmt.Errorf("%s: rank %v of %s; must be between 1 and 4096", ConfigName, rank, path)
	}
	alpha, err := c.AlphaPattern.get(path, c.Alpha)
	if err != nil {
		return err
	}
	own := s.Config
	own.Rank, own.Alpha = int(rank), alpha
	a, err := s.attach(path, own.Rank, float32(own.Scale()))
	if err != nil {
		return err
	}
	a.Params(func(name string, p *model.Param) {
		if err != nil {
			return
		}
		param := name
		name = prefix + path + "." + name
		known[name] = true
		var w model.Weight
		if w, err = f.Weight(name); err != nil {
			err = fmt.Errorf("tensor %s: %w", name, err)
			return
		}
		if !slices.Equal(w.Shape, p.Value.Shape) {
			err = fmt.Errorf("tensor %s has shape %v; the model and rank %d need %v", name, w.Shape, own.Rank, p.Value.Shape)
			return
		}
		w.Data = s.ordered(path, param, w.Data, false)
		err = s.upload(p.Value, w)
	})
	return err
}

// upload expands w into dst.
func (s *Set) upload(dst *tensor.Tensor, w model.Weight) error {
	b := s.d.Backend()
	t, err := b.Load(w.DType, w.Data, w.Shape...)
	if err != nil {
		return err
	}
	b.Dequantize(dst, t)
	err = b.Sync() // the file is closed before the adapter is used
	b.Free(t)
	return err
}

// readConfig reads adapter_config.json and refuses what would change the
// result and is not implemented.
func readConfig(dir string) (peftConfig, error) {
	c := peftConfig{Rank: 8, Alpha: 8, Bias: "none", PEFTType: "LORA"}
	data, err := os.ReadFile(filepath.Join(dir, ConfigName))
	if errors.Is(err, fs.ErrNotExist) {
		return c, fmt.Errorf("%s is missing: not a PEFT directory", ConfigName)
	}
	if err != nil {
		return c, err
	}
	if err := json.Unmarshal(data, &c); err != nil {
		return c, fmt.Errorf("%s: %w", ConfigName, err)
	}
	refuse := func(what string) error { return fmt.Errorf("%s: %s is not supported", ConfigName, what) }
	init, _ := c.Init.(string)
	switch {
	case c.PEFTType != "LORA":
		return c, refuse(fmt.Sprintf("peft_type %q", c.PEFTType))
	case c.Bias != "none" && c.Bias != "":
		return c, refuse(fmt.Sprintf("bias %q", c.Bias))
	case c.LoRABias:
		return c, refuse("lora_bias")
	case c.FanInFanOut:
		return c, refuse("fan_in_fan_out")
	case c.Replication != nil:
		return c, refuse("layer_replication")
	case len(c.ToSave) > 0:
		return c, refuse(fmt.Sprintf("modules_to_save %q", c.ToSave))
	case len(c.TargetParams) > 0:
		return c, refuse(fmt.Sprintf("target_parameters %q", c.TargetParams))
	case slices.ContainsFunc([]string{"pissa", "olora", "corda", "lora_ga"}, func(p string) bool { return strings.HasPrefix(init, p) }):
		return c, refuse(fmt.Sprintf("init_lora_weights %q, which changes the base weights,", init))
	}
	if len(c.Targets) == 0 {
		c.Targets = names{AllLinear}
	}
	return c, nil
}
