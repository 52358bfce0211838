package train

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"pipe/model"
	"pipe/model/adapter"
	"pipe/model/pretrained"
	"pipe/model/safetensors"
	"pipe/tensor"
)

// A Student is a model that is being trained, with all it takes to save it.
type Student struct {
	Base    *pretrained.Model // nil for a model with new weights
	Config  model.Config
	Decoder *model.Decoder // nil until Load
	Adapter *adapter.Set   // nil: all weights are trained

	path, template string // of the base, and of the chat template that replaces its own
	tuning         Tuning
	weights        model.Source
}

// Tuning says what of a model is trained.
type Tuning struct {
	Adapter  string // directory of the PEFT adapter that the base carries; "" when there is none
	Template string // chat template file that replaces the base's own; "" when there is none
	Quantize string // "nf4" quantises the linear layers of the base, which then cannot be trained; "" none
	// New is the adapter to attach. It must be nil when the base carries one
	// already, which is then trained on.
	New *adapter.Config
	// Full trains all weights instead.
	Full bool
	// Random replaces the weights by new ones: the base is a directory of
	// which only config.json and the tokenizer are read. It implies Full.
	Random bool
	Seed   uint64
	// Precision of products with the model's matrices: F32, BF16 or FP8.
	Precision tensor.DType
}

// ErrHasAdapter says that a new adapter was asked for on top of another.
var ErrHasAdapter = errors.New("the base carries an adapter already, which is trained on: leave out the adapter block, or start from the base of that adapter")

// ErrQuantized says that weights were to be trained that are to be quantised.
var ErrQuantized = errors.New("weights in 4 bits cannot be trained: take an adapter \"lora\" or \"dora\", or leave out quantize in the model block")

// OpenStudent loads the model at base, a Hugging Face directory or a GGUF
// file, and makes it trainable.
func OpenStudent(b tensor.Backend, base string, t Tuning) (*Student, error) {
	s, err := OpenBase(base, t)
	if err != nil {
		return nil, err
	}
	if err := s.Load(b); err != nil {
		s.Close()
		return nil, err
	}
	return s, nil
}

// OpenBase opens the files at base, of a student that Load makes.
func OpenBase(base string, t Tuning) (s *Student, err error) {
	if t.Adapter != "" && (t.New != nil || t.Full || t.Random) {
		return nil, ErrHasAdapter
	}
	if t.Quantize != "" && (t.Full || t.Random) {
		return nil, ErrQuantized
	}
	s = &Student{path: base, template: t.Template, tuning: t}
	if t.Random {
		if s.Config, err = newConfig(base); err != nil {
			return nil, err
		}
		s.weights = model.Random(s.Config, t.Seed)
		return s, nil
	}
	if s.Base, err = pretrained.Open(base, pretrained.WithTemplate(t.Template), pretrained.WithQuantization(t.Quantize)); err != nil {
		return nil, err
	}
	s.Config, s.weights = s.Base.Config, s.Base.Weights
	if _, err := s.Config.JSON("float32"); err != nil && t.Full { // Save could not write it
		s.Close()
		return nil, fmt.Errorf("%s: %w", base, err)
	}
	return s, nil
}

// Load loads the model into the memory of b.
func (s *Student) Load(b tensor.Backend) (err error) {
	t := s.tuning
	if s.Decoder, err = model.Load(b, s.Config, s.weights, t.Full || t.Random); err != nil {
		return fmt.Errorf("load %s: %w", s.path, err)
	}
	s.Decoder.SetPrecision(t.Precision)
	switch {
	case t.Adapter != "":
		s.Adapter, err = adapter.Load(s.Decoder, t.Adapter)
	case !t.Full && t.New != nil:
		s.Adapter, err = adapter.Attach(s.Decoder, *t.New, t.Seed)
	}
	return err
}

// OverRanked says of a new adapter that its rank is of no use in some layers; ""
// when there is nothing to say. See [adapter.Set.OverRanked].
func (s *Student) OverRanked() string {
	if s.Adapter == nil || s.tuning.New == nil {
		return ""
	}
	return s.Adapter.OverRanked()
}

// Shadow returns the same student on a plan. It needs no Close.
func (s *Student) Shadow(p tensor.Plan) (*Student, error) {
	c := &Student{Config: s.Config, path: s.path, tuning: s.tuning, weights: model.Described(s.weights)}
	return c, c.Load(p)
}

// newConfig reads the configuration of a model with new weights.
func newConfig(base string) (c model.Config, err error) {
	data, err := os.ReadFile(filepath.Join(base, "config.json"))
	if err != nil {
		return c, fmt.Errorf("new weights need the config.json of a Hugging Face directory: %w", err)
	}
	if c, err = model.ParseConfig(data); err != nil {
		return c, fmt.Errorf("%s: %w", base, err)
	}
	return c, nil
}

// Close frees the model.
func (s *Student) Close() {
	if s.Decoder != nil {
		s.Decoder.Close()
	}
	if s.Base != nil {
		s.Base.Close()
	}
}

// Save writes the trained model into dir: a PEFT directory, or, when all
// weights were trained, a Hugging Face directory with F32 weights and the
// base's tokenizer. base names the model that an adapter belongs to.
func (s *Student) Save(dir, base string) error {
	if s.Adapter != nil {
		return s.Adapter.Save(dir, base)
	}
	config, err := s.Decoder.Config.JSON("float32")
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, "config.json"), append(config, '\n'), 0o666); err != nil {
		return err
	}
	if err := s.saveTokenizer(dir); err != nil {
		return err
	}
	var ts []safetensors.Tensor
	all := s.Decoder.Weights()
	src := s.Decoder.Config.ToStored(all)
	for _, name := range src.Names() {
		like, err := model.Describe(src, name)
		if err != nil {
			return err
		}
		ts = append(ts, safetensors.Tensor{Name: name, DType: like.DType, Shape: like.Shape, Fill: func(w io.Writer) error {
			if src == model.Source(all) { // piece by piece
				return download(w, s.Decoder.Backend(), all.Params[name].Value)
			}
			x, err := src.Weight(name)
			if err == nil {
				_, err = w.Write(x.Data)
			}
			return err
		}})
	}
	if err := safetensors.Write(filepath.Join(dir, "model.safetensors"), ts, nil); err != nil {
		return err
	}
	return s.Decoder.Backend().Sync()
}

// saveTokenizer writes the base's tokenizer and template.
func (s *Student) saveTokenizer(dir string) error {
	if s.Base != nil {
		return s.Base.SaveTokenizer(dir)
	}
	for _, name := range []string{"tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "generation_config.json", "chat_template.jinja"} {
		if err := copyFile(filepath.Join(dir, name), filepath.Join(s.path, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	if s.template != "" {
		return copyFile(filepath.Join(dir, "chat_template.jinja"), s.template)
	}
	return nil
}

func copyFile(dst, src string) error {
	data, err := os.ReadFile(src)
	if err != nil {
		return err
	}
	return os.WriteFile(dst, data, 0o666)
}
