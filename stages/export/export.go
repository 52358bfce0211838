// Package export is the stage that writes a model for other programs: PEFT
// adapters, merged safetensors for transformers and vLLM, GGUF for llama.cpp.
package export

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"

	"pipe/model/pretrained"
	"pipe/runtime/artifact"
	"pipe/runtime/stage"
	"pipe/tensor"
)

//go:embed README.md
var doc string

// Kind is the stage kind "export".
var Kind = stage.Kind{
	Name: "export", Doc: doc, Version: 4, Compute: true,
	Outputs: []stage.Output{
		{Name: "files", Type: artifact.File, Doc: "One directory per family of formats: peft, safetensors, bnb, gguf"},
	},
	New: func() stage.Stage { return &spec{Name: "model", DType: "auto"} },
}

// spec is the block.
type spec struct {
	Model   stage.Model        `hcl:"model" doc:"The model to write: a model block or a stage's model output"`
	Formats []string           `hcl:"formats" doc:"Any of peft, safetensors, bnb:nf4, gguf:f32, gguf:f16, gguf:bf16, gguf:q8_0, gguf:q4_0"`
	DType   string             `hcl:"dtype,optional" doc:"Element type of the safetensors, and what the weights of bnb:nf4 count as: auto (the base's own; f16 for a quantised GGUF, that of the embeddings for NF4), f32, bf16 or f16"`
	Name    string             `hcl:"name,optional" doc:"Name of the model, in its card and in the names of GGUF files"`
	Base    string             `hcl:"base_model,optional" doc:"What the card and adapter_config.json name as the base model, such as org/name; by default what the cache of the hub knows it as"`
	Data    []stage.AnyDataset `hcl:"data,optional" doc:"Datasets the model was made with: the card lists their digests and numbers of rows"`
	Metrics []stage.Metrics    `hcl:"metrics,optional" doc:"Measurements that the card shows"`
	// Card are further lines of the card, such as the hyper-parameters.
	Card map[string]string `hcl:"card,optional" doc:"Further entries of the card, such as hyper-parameters: { epochs = \"2\" }"`
	Path string            `hcl:"path,optional" json:"-" doc:"Directory outside the store that holds a copy of the files, brought up to date by every run; a directory or file that export did not make is never touched"`
}

// fileName is what may become part of file names everywhere.
var fileName = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9._-]{0,99}$`) })

// ggufTypes are the matrix types of the gguf formats.
var ggufTypes = map[string]tensor.DType{
	"gguf:f32": tensor.F32, "gguf:f16": tensor.F16, "gguf:bf16": tensor.BF16,
	"gguf:q8_0": tensor.Q8_0, "gguf:q4_0": tensor.Q4_0,
}

var plainTypes = map[string]tensor.DType{"f32": tensor.F32, "bf16": tensor.BF16, "f16": tensor.F16}

// Check implements stage.Stage.
func (s *spec) Check() error {
	var errs []error
	bad := func(field, format string, args ...any) { errs = append(errs, stage.Fieldf(field, format, args...)) }
	if len(s.Formats) == 0 {
		bad("formats", "is empty; name at least one of peft, safetensors and gguf:q8_0")
	}
	for i, f := range s.Formats {
		if _, ok := ggufTypes[f]; !ok && f != "peft" && f != "safetensors" && f != "bnb:nf4" {
			bad("formats", "holds %q; must be peft, safetensors, bnb:nf4, gguf:f32, gguf:f16, gguf:bf16, gguf:q8_0 or gguf:q4_0", f)
		}
		if slices.Contains(s.Formats[:i], f) {
			bad("formats", "holds %q twice", f)
		}
	}
	if _, ok := plainTypes[s.DType]; !ok && s.DType != "auto" {
		bad("dtype", "is %q; must be auto, f32, bf16 or f16", s.DType)
	}
	if !fileName().MatchString(s.Name) {
		bad("name", "is %q; must be 1 to 100 letters, digits, dots, dashes and underscores: file names are made of it", s.Name)
	}
	if strings.ContainsAny(s.Base, "\n\r\"\\") || len(s.Base) > 200 {
		bad("base_model", "is %q; must be one plain line", s.Base)
	}
	for k, v := range s.Card {
		if k == "" || strings.ContainsAny(k+v, "\n\r|") {
			bad("card", "entry %q must be one line without |", k)
		}
	}
	return errors.Join(errs...)
}

// Run implements stage.Stage.
func (s *spec) Run(ctx context.Context, env *stage.Env) error {
	target := s.Target(env.Dir)
	if target != "" {
		if err := placeable(target); err != nil { // before the work
			return stage.Fieldf("path", "%v", err)
		}
	}
	src, err := open(ctx, env, s)
	if err != nil {
		return err
	}
	defer src.Close()
	if err := s.possible(src); err != nil {
		return err
	}
	card, err := s.card(env, src)
	if err != nil {
		return err
	}
	w, err := env.Create("files")
	if err != nil {
		return err
	}
	if src.trained && slices.Contains(s.Formats, "peft") {
		env.Note("peft: the adapter belongs to weights that a stage trained, which only this store has, and not to the model that they were made of: export those weights as safetensors too, and say with base_model where people find them")
	}
	heard := false
	for i, format := range s.Formats {
		env.Progress(int64(i), int64(len(s.Formats)), "formats")
		family, _, _ := strings.Cut(format, ":")
		dir := filepath.Join(w.Dir(), family)
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
		if err := s.write(src, format, dir); err != nil {
			return fmt.Errorf("write %s: %w", format, err)
		}
		if _, ok := ggufTypes[format]; ok && !heard { // all have one tokenizer
			heard = true
			if what, err := src.misheard(s.ggufPath(dir, format)); err != nil {
				return fmt.Errorf("read %s again: %w", format, err)
			} else if what != "" {
				env.Note("gguf: %s", what)
			}
		}
		if err := os.WriteFile(filepath.Join(dir, "README.md"), card.render(family), 0o644); err != nil {
			return err
		}
	}
	env.Progress(int64(len(s.Formats)), int64(len(s.Formats)), "formats")
	return nil
}

// Place implements stage.Placer.
func (s *spec) Place(dir string, open func(string) (*artifact.Artifact, error)) (string, error) {
	target := s.Target(dir)
	if target == "" {
		return "", nil
	}
	a, err := open("files")
	if err != nil {
		return "", err
	}
	if placed(a, target) {
		return "", nil
	}
	if err := place(a, target); err != nil {
		return "", stage.Fieldf("path", "%v", short(a, err))
	}
	return target, nil
}

// Target implements stage.Placer.
func (s *spec) Target(dir string) string {
	if s.Path == "" || filepath.IsAbs(s.Path) {
		return s.Path
	}
	return filepath.Join(dir, s.Path)
}

// possible refuses what a format cannot hold, before anything is written.
func (s *spec) possible(src *source) error {
	if slices.Contains(s.Formats, "peft") && src.adapter == "" {
		return stage.Fieldf("formats", "holds peft, but the model has no adapter: all its weights are its own; export it as safetensors")
	}
	return s.holds(src.Model)
}

// UsesAdapter implements stage.AdapterUser.
func (s *spec) UsesAdapter() (field string, of stage.Model) {
	if slices.Contains(s.Formats, "peft") {
		field = "formats"
	}
	return field, s.Model
}

// Takes implements stage.Demanding.
func (s *spec) Takes(p stage.ModelPath) error {
	m, err := pretrained.Open(p.Base, pretrained.WithTemplate(p.Template))
	if err != nil {
		return err
	}
	defer m.Close()
	return s.holds(m)
}

// holds reports which format cannot hold a model with such a configuration and
// tokenizer.
func (s *spec) holds(m *pretrained.Model) error {
	for _, f := range s.Formats {
		_, isGGUF := ggufTypes[f]
		var err error
		switch {
		case f == "peft": // it says nothing of the base
		case m.Config.Llama4 != nil && f == "bnb:nf4":
			return stage.Fieldf("formats", "holds %s, but a Llama 4 is written as peft, safetensors and gguf only", f)
		case isGGUF:
			c := s.checkpoint(m)
			err = c.Check()
		default:
			_, err = m.Config.JSON("float32")
		}
		if err != nil {
			return stage.Fieldf("formats", "holds %s, but %v", f, err)
		}
	}
	return nil
}
