package export

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"

	"pipe/model"
	"pipe/model/adapter"
	"pipe/model/bnb"
	"pipe/model/gguf"
	"pipe/model/pretrained"
	"pipe/runtime/artifact"
	"pipe/runtime/stage"
	"pipe/tensor"
)

// A source is the model to be written.
type source struct {
	*pretrained.Model
	weights   model.Source // merged with the adapter
	like      model.Source // weights and types of the base, and those to be written, as they are stored
	stored    model.Source
	adapter   string         // directory of the adapter, "" for none
	settings  map[string]any // its adapter_config.json
	base      string         // what the base model is called
	trained   bool           // the base is weights that a stage trained, and nothing else is said of them
	quantized string         // how the base is quantised when it is loaded, "" for not
	revision  string         // its commit on the hub, "" when unknown
	training  []artifact.Training
	decoder   *model.Decoder
}

// open loads the model; the adapter, if there is one, on the backend, which
// merges it tensor by tensor.
func open(ctx context.Context, env *stage.Env, s *spec) (*source, error) {
	paths, err := env.Store.Model(s.Model.Ref)
	if err != nil {
		return nil, err
	}
	m, err := pretrained.Open(paths.Base, pretrained.WithTemplate(paths.Template), pretrained.WithQuantization(paths.Quantize))
	if err != nil {
		return nil, err
	}
	m.ShareTemplate()
	src := &source{Model: m, adapter: paths.Adapter, training: paths.Training, quantized: paths.Quantize}
	src.base, src.revision = baseName(paths.Base)
	src.trained = "sha256:"+src.base == paths.Root.String() // in the store things are called by their digest
	if s.Base != "" {
		src.base, src.revision, src.trained = s.Base, "", false
	}
	var weights model.Source = m.Weights
	if paths.Adapter != "" {
		weights, err = src.merge(env.Backend)
	}
	if err != nil {
		src.Close()
		return nil, err
	}
	src.weights = cancellable{ctx, weights}
	src.like, src.stored = src.Config.ToStored(src.Weights), src.Config.ToStored(src.weights)
	if whole := src.Images; whole != nil {
		src.like, src.stored = model.WithImages(src.like, whole.Weights), model.WithImages(src.stored, cancellable{ctx, whole.Weights})
	}
	return src, nil
}

func (src *source) merge(b tensor.Backend) (model.Source, error) {
	data, err := os.ReadFile(filepath.Join(src.adapter, adapter.ConfigName))
	if err != nil {
		return nil, err
	}
	d := json.NewDecoder(bytes.NewReader(data))
	d.UseNumber()
	if err := d.Decode(&src.settings); err != nil {
		return nil, fmt.Errorf("%s: %w", adapter.ConfigName, err)
	}
	if src.decoder, err = model.Load(b, src.Config, src.Weights, false); err != nil {
		return nil, err
	}
	set, err := adapter.Load(src.decoder, src.adapter)
	if err != nil {
		return nil, err
	}
	return set.Merge(src.Weights), nil
}

// Close frees the model.
func (src *source) Close() {
	if src.decoder != nil {
		src.decoder.Close()
	}
	src.Model.Close()
}

// snapshot is a path in the cache of the hub.
var snapshot = sync.OnceValue(func() *regexp.Regexp {
	return regexp.MustCompile(`models--([A-Za-z0-9._-]+)--([A-Za-z0-9._-]+)/snapshots/([0-9a-f]{40})(/|$)`)
})

// baseName is what a model is called by its place: org/name and the commit for
// one of the hub, else the last part of the path. It never tells where on this
// machine the model lies.
func baseName(path string) (name, revision string) {
	if m := snapshot().FindStringSubmatch(filepath.ToSlash(path)); m != nil {
		return m[1] + "/" + m[2], m[3]
	}
	return filepath.Base(path), ""
}

// A cancellable source stops when its context does.
type cancellable struct {
	ctx context.Context
	model.Source
}

// Weight implements model.Source.
func (c cancellable) Weight(name string) (model.Weight, error) {
	if err := c.ctx.Err(); err != nil {
		return model.Weight{}, err
	}
	return c.Source.Weight(name)
}

// names are the tensors to be written: not those that are derived.
func (src *source) names() []string {
	return slices.DeleteFunc(src.stored.Names(), src.derived)
}

func (src *source) derived(name string) bool {
	return strings.HasSuffix(name, ".rotary_emb.inv_freq") || strings.HasSuffix(name, "lm_head.weight") && src.Config.Tied
}

// dtype is the type of the safetensors: the base's own, the widest if it mixes
// several; f16 in place of GGUF's blocks, whose scales are f16, and that of the
// embeddings in place of NF4's, which was that of the layers.
func (src *source) dtype(want string) (tensor.DType, error) {
	if dt, ok := plainTypes[want]; ok {
		return dt, nil
	}
	layers, others := map[tensor.DType]bool{}, map[tensor.DType]bool{} // of matrices
	_, isGGUF := src.Weights.(*gguf.File)
	tally := func(all model.Source) error {
		for _, name := range all.Names() {
			w, err := model.Describe(all, name)
			if err != nil {
				return err
			}
			switch {
			case src.derived(name):
			case isGGUF && strings.HasSuffix(name, ".router.weight"): // F32 in all files
			case bnb.Quantizes(name, w.Shape):
				layers[w.DType] = true
			case len(w.Shape) > 1:
				others[w.DType] = true
			}
		}
		return nil
	}
	err := tally(src.Weights)
	if src.Images != nil && err == nil {
		err = tally(model.WithImages(model.Weights{}, src.Images.Weights)) // but for the text
	}
	if err != nil {
		return 0, err
	}
	seen := others
	if !layers[tensor.NF4] {
		maps.Copy(seen, layers)
	}
	switch {
	case seen[tensor.F32]:
		return tensor.F32, nil
	case seen[tensor.BF16] && len(seen) == 1:
		return tensor.BF16, nil
	case seen[tensor.BF16]: // f16 would overflow, bf16 would lose the others' bits
		return tensor.F32, nil
	}
	return tensor.F16, nil
}
