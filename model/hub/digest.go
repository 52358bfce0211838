package hub

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"pipe/model/adapter"
	"pipe/model/disk"
	"pipe/model/safetensors"
)

// wanted are the files, beside the weights, that say what a model is. The last two say how
// images become what it reads.
var wanted = [...]string{
	"chat_template.jinja", "config.json", "generation_config.json",
	"special_tokens_map.json", "tokenizer.json", "tokenizer_config.json",
	"preprocessor_config.json", "processor_config.json",
}

// digest hashes what the model at path is: the names and hashes of its files,
// sorted. A GGUF file is one file, whatever its name.
func (r *Resolver) digest(ctx context.Context, path string) (sum [32]byte, err error) {
	info, err := os.Stat(path)
	if err != nil {
		return sum, err
	}
	var names []string
	switch {
	case !info.IsDir() && strings.HasSuffix(path, ".gguf"):
	case !info.IsDir():
		return sum, fmt.Errorf("%s is a file but not a .gguf file; name the directory that holds config.json", path)
	default:
		if names, err = modelFiles(path); err != nil {
			return sum, err
		}
	}
	h := sha256.New()
	for _, name := range names {
		one, err := r.fileDigest(ctx, filepath.Join(path, name))
		if err != nil {
			return sum, err
		}
		fmt.Fprintf(h, "%s\x00%x\n", name, one)
	}
	if names == nil {
		one, err := r.fileDigest(ctx, path)
		if err != nil {
			return sum, err
		}
		fmt.Fprintf(h, "gguf\x00%x\n", one)
	}
	return [32]byte(h.Sum(nil)), nil
}

// modelFiles lists the files of a model directory that count, sorted; it is an
// error when one that a model cannot do without is missing.
func modelFiles(dir string) ([]string, error) {
	has := func(name string) bool {
		info, err := os.Stat(filepath.Join(dir, name))
		return err == nil && info.Mode().IsRegular()
	}
	var names []string
	for _, name := range wanted {
		if has(name) {
			names = append(names, name)
		}
	}
	if !slices.Contains(names, "config.json") {
		if err := adapter.NoModel(dir); err != nil {
			return nil, err
		}
		return nil, fmt.Errorf("%s has no config.json; a model directory is a Hugging Face checkpoint (config.json, tokenizer.json, *.safetensors)", dir)
	}
	if !slices.Contains(names, "tokenizer.json") {
		return nil, fmt.Errorf("%s has no tokenizer.json; save the tokenizer with transformers' save_pretrained to get one", dir)
	}
	switch {
	case has(safetensors.SingleName):
		names = append(names, safetensors.SingleName)
	case has(safetensors.IndexName):
		index, err := os.ReadFile(filepath.Join(dir, safetensors.IndexName))
		if err != nil {
			return nil, err
		}
		shards, err := shardNames(index)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", filepath.Join(dir, safetensors.IndexName), err)
		}
		for _, s := range shards {
			if !has(s) {
				return nil, fmt.Errorf("%s has no %s, which its index names", dir, s)
			}
		}
		names = append(append(names, safetensors.IndexName), shards...)
	case hasPickle(dir):
		return nil, fmt.Errorf("%s has no safetensors weights (%s or %s); pickled .bin and .pt files are never read", dir, safetensors.SingleName, safetensors.IndexName)
	}
	slices.Sort(names)
	return names, nil
}

// hasPickle reports whether dir holds weights in a format that is never read.
// A directory without any weights is a model yet to be trained.
func hasPickle(dir string) bool {
	for _, pattern := range []string{"*.bin", "*.pt", "*.pth", "*.ckpt"} {
		if m, _ := filepath.Glob(filepath.Join(dir, pattern)); len(m) > 0 {
			return true
		}
	}
	return false
}

// shardNames returns the bare file names in an index, sorted.
func shardNames(index []byte) ([]string, error) {
	var x struct {
		WeightMap map[string]string `json:"weight_map"`
	}
	if err := json.Unmarshal(index, &x); err != nil {
		return nil, err
	}
	var names []string
	for _, name := range x.WeightMap {
		if !bare(name) || !strings.HasSuffix(name, ".safetensors") {
			return nil, fmt.Errorf("weight_map names %q; must be the bare name of a .safetensors file", name)
		}
		names = append(names, name)
	}
	slices.Sort(names)
	if names = slices.Compact(names); len(names) == 0 {
		return nil, errors.New("weight_map is missing or empty")
	}
	return names, nil
}

// fileDigest hashes a file. Hashes are remembered by the file's identity
// (device, inode, size and times), so that big files are read once.
func (r *Resolver) fileDigest(ctx context.Context, path string) (sum [32]byte, err error) {
	f, err := os.Open(path)
	if err != nil {
		return sum, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return sum, err
	}
	if !info.Mode().IsRegular() {
		return sum, fmt.Errorf("%s is not a regular file", path)
	}
	id, changed, known := identity(info)
	memo := ""
	if known && r.Scratch != "" {
		key := sha256.Sum256(id)
		memo = filepath.Join(r.Scratch, "digests", hex.EncodeToString(key[:16]))
		if b, err := os.ReadFile(memo); err == nil {
			if n, err := hex.Decode(sum[:], b[:min(len(b), 64)]); err == nil && n == 32 {
				return sum, nil
			}
		}
	}
	h := sha256.New()
	if _, err := io.Copy(h, &reader{ctx, f}); err != nil {
		return sum, fmt.Errorf("read %s: %w", path, err)
	}
	after, err := f.Stat()
	if err != nil {
		return sum, err
	}
	if after.Size() != info.Size() || !after.ModTime().Equal(info.ModTime()) {
		return sum, fmt.Errorf("%s changed while it was read", path)
	}
	sum = [32]byte(h.Sum(nil))
	// A file that changed just now could change again within the clock's tick.
	if memo != "" && r.clock().Sub(changed) > 2*time.Second {
		if err := r.makeDir(filepath.Dir(memo)); err == nil {
			// Without the memo the next run only takes longer.
			_ = disk.Write(memo, func(w io.Writer) error { _, err := fmt.Fprintf(w, "%x\n", sum); return err })
		}
	}
	return sum, nil
}

func (r *Resolver) clock() time.Time {
	if r.now != nil {
		return r.now()
	}
	return time.Now()
}

// digestFS hashes an embedded model's files, by name.
func digestFS(files fs.FS) (sum [32]byte, err error) {
	h := sha256.New()
	err = fs.WalkDir(files, ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := fs.ReadFile(files, path)
		if err != nil {
			return err
		}
		h.Write(binary.LittleEndian.AppendUint64(append([]byte(path), 0), uint64(len(data))))
		h.Write(data)
		return nil
	})
	return [32]byte(h.Sum(nil)), err
}

// A reader stops when its context is cancelled.
type reader struct {
	ctx context.Context
	r   io.Reader
}

func (r *reader) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	return r.r.Read(p)
}
