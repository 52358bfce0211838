// Package safetensors reads and writes safetensors files: a JSON header that
// says where each tensor lies, then the tensors, end to end.
//
// Files are untrusted. Everything a header claims is checked against the file
// before it is used, and nothing is allocated by a claimed size.
package safetensors

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"pipe/model"
	"pipe/model/disk"
)

// The usual file names of a checkpoint in a directory.
const (
	SingleName = "model.safetensors"
	IndexName  = "model.safetensors.index.json"
)

const (
	maxIndex  = 64 << 20
	maxShards = 10_000
)

// A File is an open safetensors file, or a checkpoint of several with an
// index. It implements [model.Source]. Its methods may be called concurrently,
// except Close.
type File struct {
	tensors  map[string]located
	metadata map[string]string
	maps     []*disk.Mapping
}

var _ model.Source = (*File)(nil)

type located struct {
	Tensor
	dtype dtype
	path  string
}

// Open opens one file.
func Open(path string) (*File, error) {
	f := &File{tensors: map[string]located{}}
	entries, err := f.add(path)
	if err != nil {
		f.Close()
		return nil, err
	}
	for _, e := range entries {
		f.tensors[e.Name] = e
	}
	return f, nil
}

// ErrNoWeights is wrapped by OpenDir's error for a directory without weights.
var ErrNoWeights = errors.New("no safetensors weights")

// OpenDir opens the checkpoint in a directory: model.safetensors or, if only
// that is there, the shards of model.safetensors.index.json.
func OpenDir(dir string) (*File, error) {
	single, index := filepath.Join(dir, SingleName), filepath.Join(dir, IndexName)
	if _, err := os.Stat(single); err == nil {
		return Open(single)
	}
	if _, err := os.Stat(index); err == nil {
		return OpenIndex(index)
	}
	return nil, fmt.Errorf("%s: %w: it has neither %s nor %s; pickled .bin and .pt files are never read", dir, ErrNoWeights, SingleName, IndexName)
}

// OpenIndex opens the shards that an index file names, in its directory.
// A shard's name must be bare: an index cannot lead out of its directory.
// When two shards have a tensor of the same name, the index decides.
func OpenIndex(path string) (*File, error) {
	weightMap, err := readIndex(path)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	shards := slices.Compact(slices.Sorted(maps.Values(weightMap)))
	if len(shards) > maxShards {
		return nil, fmt.Errorf("%s: names %d files; at most %d are read", path, len(shards), maxShards)
	}
	f := &File{tensors: map[string]located{}}
	for _, shard := range shards {
		entries, err := f.add(filepath.Join(filepath.Dir(path), shard))
		if err != nil {
			f.Close()
			return nil, err
		}
		for _, e := range entries {
			at, listed := weightMap[e.Name]
			if listed && at != shard {
				continue
			}
			if old, twice := f.tensors[e.Name]; twice {
				f.Close()
				return nil, fmt.Errorf("%s: tensor %q is also in %s, and the index does not say which counts", e.path, e.Name, filepath.Base(old.path))
			}
			f.tensors[e.Name] = e
		}
	}
	for _, name := range slices.Sorted(maps.Keys(weightMap)) {
		if _, ok := f.tensors[name]; !ok {
			f.Close()
			return nil, fmt.Errorf("%s: says that tensor %q is in %s, where it is not", path, name, weightMap[name])
		}
	}
	return f, nil
}

// readIndex returns tensor name → bare file name.
func readIndex(path string) (map[string]string, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if info.Size() > maxIndex {
		return nil, fmt.Errorf("is %d bytes long; at most %d are read", info.Size(), maxIndex)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var index struct {
		WeightMap map[string]string `json:"weight_map"`
	}
	if err := json.Unmarshal(data, &index); err != nil {
		return nil, err
	}
	if len(index.WeightMap) == 0 {
		return nil, errors.New("weight_map is missing or empty")
	}
	for _, name := range slices.Sorted(maps.Keys(index.WeightMap)) {
		if !bare(index.WeightMap[name]) {
			return nil, fmt.Errorf("weight_map of %q is %q; must be the bare name of a .safetensors file", name, index.WeightMap[name])
		}
	}
	return index.WeightMap, nil
}

func bare(name string) bool {
	return strings.HasSuffix(name, ".safetensors") && !strings.ContainsAny(name, "/\\:\x00") && !strings.HasPrefix(name, ".")
}

// add maps a file and returns its tensors in the order of their data.
func (f *File) add(path string) ([]located, error) {
	m, err := disk.Map(path)
	if err != nil {
		return nil, err
	}
	f.maps = append(f.maps, m)
	entries, metadata, data, err := parse(m.Data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if f.metadata == nil {
		f.metadata = metadata
	}
	out := make([]located, len(entries))
	for i, e := range entries {
		out[i] = located{
			Tensor: Tensor{Name: e.name, DType: e.dtype.ours, Shape: e.shape, Data: data[e.begin:e.end:e.end]},
			dtype:  e.dtype,
			path:   path,
		}
	}
	return out, nil
}

// Names implements [model.Source].
func (f *File) Names() []string { return slices.Sorted(maps.Keys(f.tensors)) }

// Weight implements [model.Source]. A tensor of a type that package tensor
// does not have is an error that names it; Raw reads those.
func (f *File) Weight(name string) (model.Weight, error) {
	t, ok := f.tensors[name]
	if !ok {
		return model.Weight{}, fmt.Errorf("%s: %w", name, model.ErrNoTensor)
	}
	if !t.dtype.ok {
		return model.Weight{}, fmt.Errorf("%s: tensor %q is of type %s, which is not supported; convert it to F32, F16 or BF16", t.path, name, t.dtype.name)
	}
	return model.Weight{DType: t.DType, Shape: slices.Clone(t.Shape), Data: t.Data}, nil
}

// Forget implements [model.Forgetter].
func (f *File) Forget(name string) {
	for _, m := range f.maps {
		m.Forget(f.tensors[name].Data)
	}
}

// InPlace implements [model.Forgetter].
func (f *File) InPlace(name string) bool {
	_, ok := f.tensors[name]
	return ok && !slices.ContainsFunc(f.maps, func(m *disk.Mapping) bool { return !m.Mapped() })
}

// Raw returns a tensor of any type of the format: the type's name there, such
// as "I8", the shape, and the bytes, little-endian.
func (f *File) Raw(name string) (dtype string, shape []int, data []byte, err error) {
	t, ok := f.tensors[name]
	if !ok {
		return "", nil, nil, fmt.Errorf("%s: %w", name, model.ErrNoTensor)
	}
	return t.dtype.name, slices.Clone(t.Shape), t.Data, nil
}

// Metadata returns the __metadata__ of the file, or of the first shard.
func (f *File) Metadata() map[string]string { return maps.Clone(f.metadata) }

// Close unmaps the files: the data of every tensor is dead after it.
func (f *File) Close() error {
	var errs []error
	for _, m := range f.maps {
		errs = append(errs, m.Close())
	}
	f.maps, f.tensors = nil, nil
	return errors.Join(errs...)
}
