package export

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"

	"pipe/model"
	"pipe/model/adapter"
	"pipe/model/bnb"
	"pipe/model/disk"
	"pipe/model/gguf"
	"pipe/model/pretrained"
	"pipe/model/safetensors"
	"pipe/tensor"
	"pipe/tensor/quant"
	"pipe/text/tokenizer"
)

// write writes the model into dir in one format.
func (s *spec) write(src *source, format, dir string) error {
	switch format {
	case "peft":
		return writePEFT(src, dir)
	case "safetensors":
		return s.writeSafetensors(src, dir)
	case "bnb:nf4":
		return s.writeNF4(src, dir)
	}
	c := s.checkpoint(src.Model)
	c.Weights = src.weights
	return gguf.Export(s.ggufPath(dir, format), c, ggufTypes[format])
}

// checkpoint is what GGUF files say of a model, without its weights.
func (s *spec) checkpoint(m *pretrained.Model) gguf.Checkpoint {
	return gguf.Checkpoint{
		Name: s.Name, Config: m.Config, TokenizerJSON: m.TokenizerJSON, ChatTemplate: m.TemplateSource,
		Sample: m.Sample(), EOS: ends(m),
	}
}

func (s *spec) ggufPath(dir, format string) string {
	return filepath.Join(dir, fmt.Sprintf("%s-%s.gguf", s.Name, ggufTypes[format]))
}

// misheard says where a GGUF file's tokens of a conversation are not those that the
// model knows; "" if they are.
func (src *source) misheard(path string) (string, error) {
	f, err := gguf.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	data, err := f.TokenizerJSON()
	if err != nil {
		return "", err
	}
	theirs, err := tokenizer.Load(data)
	if err != nil {
		return "", err
	}
	text := src.Sample()
	want, got := src.Tokenizer.Encode(text), theirs.Encode(text)
	for i := range max(len(want), len(got)) {
		if i >= len(want) || i >= len(got) || want[i] != got[i] {
			at := func(t *tokenizer.Tokenizer, ids []int32) string {
				if i < len(ids) {
					return fmt.Sprintf("%q", t.TokenString(ids[i]))
				}
				return "nothing"
			}
			return fmt.Sprintf("llama.cpp takes a conversation for other tokens than those the model knows, first %s where tokenizer.json has %s: GGUF cannot say all that tokenizer.json says of white space and characters", at(theirs, got), at(src.Tokenizer, want)), nil
		}
	}
	return "", nil
}

// ends lists the ids that end a text, that of the end of a turn first.
func ends(m *pretrained.Model) []int32 {
	if m.EndOfTurn < 0 {
		return m.EOS
	}
	return slices.Insert(slices.Clone(m.EOS), 0, m.EndOfTurn)
}

// writePEFT copies the adapter; only the name of its base changes.
func writePEFT(src *source, dir string) error {
	src.settings["base_model_name_or_path"] = src.base
	if src.revision != "" {
		src.settings["revision"] = src.revision
	}
	data, err := marshal(src.settings)
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, adapter.ConfigName), data, 0o644); err != nil {
		return err
	}
	if err := copyFile(filepath.Join(dir, adapter.WeightsName), filepath.Join(src.adapter, adapter.WeightsName)); err != nil {
		return err
	}
	return src.SaveTokenizer(dir)
}

var torchNames = map[tensor.DType]string{tensor.F32: "float32", tensor.BF16: "bfloat16", tensor.F16: "float16"}

// writeSafetensors writes a directory that transformers loads, all tensors in
// one type.
func (s *spec) writeSafetensors(src *source, dir string) error {
	dt, err := src.dtype(s.DType)
	if err != nil {
		return err
	}
	config, err := src.config(torchNames[dt])
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, "config.json"), append(config, '\n'), 0o644); err != nil {
		return err
	}
	if src.Images != nil {
		for name, data := range src.Images.Files {
			if err := os.WriteFile(filepath.Join(dir, name), data, 0o644); err != nil {
				return err
			}
		}
	}
	var tensors []safetensors.Tensor
	for _, name := range src.names() {
		t, err := src.tensor(name, dt)
		if err != nil {
			return err
		}
		tensors = append(tensors, t)
	}
	if err := safetensors.Write(filepath.Join(dir, safetensors.SingleName), tensors, nil); err != nil {
		return err
	}
	return src.SaveTokenizer(dir)
}

// config is the config.json of what is written, with weights of that type.
func (src *source) config(dtype string) ([]byte, error) {
	if src.Images != nil {
		return src.Config.JSONWithImages(src.Images.Config, dtype)
	}
	return src.Config.JSON(dtype)
}

// tensor is a tensor to be written as dt, made when its turn comes.
func (src *source) tensor(name string, dt tensor.DType) (safetensors.Tensor, error) {
	like, err := model.Describe(src.like, name)
	return safetensors.Tensor{Name: name, DType: dt, Shape: like.Shape, Fill: func(w io.Writer) error {
		x, err := src.stored.Weight(name)
		if err != nil {
			return err
		}
		return quant.Convert(w, dt, x.DType, x.Data, x.Shape[len(x.Shape)-1])
	}}, err
}

// writeNF4 writes a directory that transformers loads with bitsandbytes: the
// linear layers in 4 bits, the rest as writeSafetensors has it. What is in 4
// bits is in memory together: the header of the file tells of all of it.
func (s *spec) writeNF4(src *source, dir string) error {
	dt, err := src.dtype(s.DType)
	if err != nil {
		return err
	}
	config, err := bnb.ConfigJSON(src.Config, dt)
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, "config.json"), append(config, '\n'), 0o644); err != nil {
		return err
	}
	var tensors []safetensors.Tensor
	for _, name := range src.names() {
		like, err := model.Describe(src.Weights, name)
		if err != nil {
			return err
		}
		if !bnb.Quantizes(name, like.Shape) {
			t, err := src.tensor(name, dt)
			if err != nil {
				return err
			}
			tensors = append(tensors, t)
			continue
		}
		w, err := src.weights.Weight(name)
		if err != nil {
			return err
		}
		parts, err := bnb.Tensors(name, w, dt)
		if err != nil {
			return err
		}
		tensors = append(tensors, parts...)
	}
	if err := safetensors.Write(filepath.Join(dir, safetensors.SingleName), tensors, nil); err != nil {
		return err
	}
	return src.SaveTokenizer(dir)
}

func copyFile(dst, from string) error {
	f, err := os.Open(from)
	if err != nil {
		return err
	}
	defer f.Close()
	return disk.Write(dst, func(w io.Writer) error { _, err := io.Copy(w, f); return err })
}

// marshal indents, sorts keys and leaves <, > and & alone.
func marshal(v any) ([]byte, error) {
	b := &bytes.Buffer{}
	e := json.NewEncoder(b)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	err := e.Encode(v)
	return b.Bytes(), err
}
