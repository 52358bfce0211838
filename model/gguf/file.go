// Package gguf reads and writes GGUF files of Llama-architecture models.
//
// Files are untrusted: everything they claim is checked against their size
// first. What comes out is in Hugging Face's terms: tensor names, the row
// order of q and k, a configuration, and a tokenizer.json.
//
// # Rows of q and k
//
// GGUF keeps the rows of q_proj and k_proj so that the two numbers rotated
// together are neighbours; Hugging Face keeps the halves of a head apart. Row
// 2i+s of a head in GGUF is row s·D/2+i of it there (s = 0, 1; D the head's
// width). Rows move whole, so block types stay as they are. Those of Qwen 2 and 3 lie
// as they do there.
package gguf

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"pipe/model"
	"pipe/model/disk"
)

// A File is an open GGUF file. It implements [model.Source]. Its methods may
// be called concurrently, except Close.
type File struct {
	path    string
	mapping *disk.Mapping
	meta    map[string]value
	infos   []info
	byName  map[string]int // Hugging Face name → infos
	config  model.Config
	arch    string
}

var _ model.Source = (*File)(nil)

// Open maps and checks the file at path. It must be a whole model of
// architecture "llama" (Mistral's too), "llama4", "qwen2", "qwen3" or "smollm3".
func Open(path string) (*File, error) {
	m, err := disk.Map(path)
	if err != nil {
		return nil, err
	}
	f := &File{path: path, mapping: m}
	if f.meta, f.infos, err = parse(m.Data); err != nil {
		err = fmt.Errorf("%s: %w", path, err)
	} else {
		err = f.describe()
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

func (f *File) describe() (err error) {
	if f.arch, err = f.Text("general.architecture"); err != nil {
		return err
	}
	a, known := archNamed(f.arch)
	kind, err := f.Text("general.type")
	switch {
	case err != nil:
		return err
	case f.arch == "":
		return fmt.Errorf("%s: metadata key \"general.architecture\" is missing", f.path)
	case !known:
		return fmt.Errorf("%s: architecture %q is not supported; %s are", f.path, f.arch, archNames())
	case kind != "" && kind != "model":
		return fmt.Errorf("%s: holds %q, not a model", f.path, kind)
	}
	if split, err := f.Int("split.count", 1); err != nil || split > 1 {
		return errors.Join(err, fmt.Errorf("%s: is one of %d parts; join them with llama-gguf-split --merge", f.path, split))
	}
	f.byName = map[string]int{}
	for i := range f.infos {
		name := f.infos[i].name
		if name == ropeFreqs {
			continue
		}
		hf, ok := a.toHF(name)
		if !ok {
			return fmt.Errorf("%s: tensor %q does not belong to the %s architecture", f.path, name, f.arch)
		}
		if j, twice := f.byName[hf]; twice {
			return fmt.Errorf("%s: tensors %q and %q are both %s", f.path, f.infos[j].name, name, hf)
		}
		f.byName[hf] = i
	}
	f.config, err = f.readConfig(a)
	return err
}

// Config returns the model's configuration.
func (f *File) Config() model.Config { return f.config }

// Names implements [model.Source].
func (f *File) Names() []string {
	names := make([]string, 0, len(f.byName))
	for name := range f.byName {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// Weight implements [model.Source]. The weights and biases of q and k are
// copies with their rows in Hugging Face's order; the rest is the file itself.
func (f *File) Weight(name string) (model.Weight, error) {
	w, err := f.Describe(name)
	if err != nil {
		return w, err
	}
	if heads, permuted := f.headsOf(name); permuted {
		w.Data = moveRows(w.Data, heads, f.config.HeadDim, false)
		f.Forget(name)
	}
	return w, nil
}

// Describe implements [model.Describer]: it copies nothing.
func (f *File) Describe(name string) (model.Weight, error) {
	i, ok := f.byName[name]
	if !ok {
		return model.Weight{}, fmt.Errorf("%s: %w", name, model.ErrNoTensor)
	}
	x := &f.infos[i]
	if !x.typ.ok {
		return model.Weight{}, fmt.Errorf("%s: tensor %q is of type %s, which is not supported; use a file of f16, bf16, q4_0, q4_1, q5_0, q5_1, q8_0, q4_K, q5_K or q6_K", f.path, x.name, x.typ.name)
	}
	w := model.Weight{DType: x.typ.ours, Shape: slices.Clone(x.dims), Data: x.data}
	slices.Reverse(w.Shape)
	if len(w.Shape) == 3 && strings.Contains(name, ".experts.") { // [E,out,in]
		w.Shape = []int{w.Shape[0] * w.Shape[1], w.Shape[2]}
	}
	heads, permuted := f.headsOf(name)
	if !permuted {
		return w, nil
	}
	rows := heads * f.config.HeadDim
	if len(w.Shape) == 0 || w.Shape[0] != rows || len(w.Data)%rows != 0 {
		return model.Weight{}, fmt.Errorf("%s: tensor %q has dimensions %v; %d heads of %d need %d rows", f.path, x.name, x.dims, heads, f.config.HeadDim, rows)
	}
	return w, nil
}

// Forget implements [model.Forgetter].
func (f *File) Forget(name string) {
	if i, ok := f.byName[name]; ok {
		f.mapping.Forget(f.infos[i].data)
	}
}

// InPlace implements [model.Forgetter].
func (f *File) InPlace(name string) bool {
	_, permuted := f.headsOf(name)
	_, ok := f.byName[name]
	return ok && !permuted && f.mapping.Mapped()
}

// headsOf returns the heads of a tensor whose rows are permuted.
func (f *File) headsOf(name string) (heads int, permuted bool) { return headsOf(f.config, name) }

// Close unmaps the file: the data of every tensor is dead after it.
func (f *File) Close() error {
	f.infos, f.byName, f.meta = nil, nil, nil
	return f.mapping.Close()
}

// moveRows returns the rows of a q or k projection in GGUF's order (permute)
// or back in Hugging Face's.
func moveRows(data []byte, heads, headDim int, permute bool) []byte {
	out := make([]byte, len(data))
	row := len(data) / (heads * headDim)
	var all sync.WaitGroup
	for h := range heads {
		all.Go(func() {
			for i := range headDim {
				hf, gguf := h*headDim+i, h*headDim+i%(headDim/2)*2+i/(headDim/2)
				if permute {
					hf, gguf = gguf, hf
				}
				copy(out[hf*row:(hf+1)*row], data[gguf*row:])
			}
		})
	}
	all.Wait()
	return out
}

// elements returns the number of elements of a shape.
func elements(shape []int) int {
	n := 1
	for _, d := range shape {
		n *= d
	}
	return n
}
