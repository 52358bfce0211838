// Package hub finds the files of a model: in a directory, in a GGUF file, in
// the program itself, or on the Hugging Face hub, whose cache it shares with
// the Python libraries.
//
// # Sources
//
//	./dir                        a directory with config.json and safetensors
//	./file.gguf                  one file
//	hf://org/name[@rev]          the safetensors checkpoint of a repository
//	hf://org/name[@rev]/x.gguf   one file of a repository
//	embedded://name              a model that is part of the program
//
// Relative paths are relative to the pipeline file. Only the files that a
// model needs are downloaded, and a download counts when its size and hash are
// what the hub said.
package hub

import (
	"context"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"pipe/model/disk"
)

// DefaultEndpoint is the hub's address.
const DefaultEndpoint = "https://huggingface.co"

// A Resolver finds models. Its methods may be called concurrently.
type Resolver struct {
	Endpoint string           // address of the hub, DefaultEndpoint when empty
	Token    string           // access token; "" for none
	Cache    string           // the hub's cache directory, such as ~/.cache/huggingface/hub
	Offline  bool             // use only what the cache has
	Scratch  string           // directory for extracted models and remembered digests
	Embedded map[string]fs.FS // the models of embedded://
	Client   *http.Client     // http.DefaultClient when nil
	// MakeDir makes a directory below Scratch, and those it lies in, for those who
	// share it; nil: for this user, as the umask says.
	MakeDir func(dir string) error
	// Warn is told what people should know although it is no failure, such as
	// that the hub cannot be reached and its cache is used; nil discards it.
	Warn func(format string, args ...any)

	// Tests set these: how to wait before another attempt, and the clock.
	sleep func(ctx context.Context, d time.Duration) error
	now   func() time.Time
}

// FromEnv returns a resolver set up by the variables that Hugging Face's own
// libraries read: HF_ENDPOINT, HF_TOKEN (or the file at HF_TOKEN_PATH or
// HF_HOME/token), HF_HUB_CACHE, HF_HOME, XDG_CACHE_HOME and HF_HUB_OFFLINE.
func FromEnv(scratch string, getenv func(string) string) *Resolver {
	home := getenv("HF_HOME")
	if home == "" {
		cache := getenv("XDG_CACHE_HOME")
		if cache == "" {
			user, err := os.UserHomeDir()
			if err != nil {
				user = scratch
			}
			cache = filepath.Join(user, ".cache")
		}
		home = filepath.Join(cache, "huggingface")
	}
	r := &Resolver{Endpoint: getenv("HF_ENDPOINT"), Token: getenv("HF_TOKEN"), Cache: getenv("HF_HUB_CACHE"), Scratch: scratch}
	if r.Cache == "" {
		r.Cache = filepath.Join(home, "hub")
	}
	if r.Token == "" {
		path := getenv("HF_TOKEN_PATH")
		if path == "" {
			path = filepath.Join(home, "token")
		}
		if b, err := os.ReadFile(path); err == nil {
			r.Token = strings.TrimSpace(string(b))
		}
	}
	switch strings.ToLower(getenv("HF_HUB_OFFLINE")) {
	case "1", "true", "yes", "on":
		r.Offline = true
	}
	return r
}

// Resolve returns where the model of a source lies on this machine, a
// Hugging Face directory or a GGUF file, and the digest of its content: of its
// weights, configuration, tokenizer and templates, wherever they came from.
// dir is the directory that relative paths start from. progress, which may be
// nil, is told of downloaded bytes.
func (r *Resolver) Resolve(ctx context.Context, source, dir string, progress func(done, total int64)) (path string, digest [32]byte, err error) {
	if progress == nil {
		progress = func(done, total int64) {}
	}
	scheme, rest, ok := strings.Cut(source, "://")
	switch {
	case !ok:
		path = source
		if !filepath.IsAbs(path) {
			path = filepath.Join(dir, path)
		}
	case scheme == "hf":
		path, err = r.remote(ctx, rest, progress)
	case scheme == "embedded":
		path, err = r.extract(rest)
	default:
		err = fmt.Errorf("%s:// is not supported; name a hub id (hf://org/name), a directory, a .gguf file or an embedded model", scheme)
	}
	if err == nil {
		digest, err = r.digest(ctx, path)
	}
	if err != nil {
		return "", digest, fmt.Errorf("model %q: %w", source, err)
	}
	return path, digest, nil
}

// extract writes an embedded model into the scratch directory, once.
func (r *Resolver) extract(name string) (string, error) {
	files, ok := r.Embedded[name]
	if !ok {
		return "", fmt.Errorf("no such embedded model; there are %q", slices.Sorted(maps.Keys(r.Embedded)))
	}
	sum, err := digestFS(files)
	if err != nil {
		return "", err
	}
	parent := filepath.Join(r.Scratch, "embedded")
	final := filepath.Join(parent, fmt.Sprintf("%s-%x", name, sum[:8]))
	if _, err := os.Stat(final); err == nil {
		return final, nil
	}
	if err := r.makeDir(parent); err != nil {
		return "", err
	}
	tmp, err := os.MkdirTemp(parent, ".tmp-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(tmp)
	if err := r.unpack(filepath.Join(tmp, "model"), files); err != nil {
		return "", err
	}
	if err := os.Rename(filepath.Join(tmp, "model"), final); err != nil {
		if _, there := os.Stat(final); there != nil { // not lost a race: failed
			return "", err
		}
	}
	return final, nil
}

func (r *Resolver) makeDir(dir string) error {
	if r.MakeDir != nil {
		return r.MakeDir(dir)
	}
	return os.MkdirAll(dir, 0o755)
}

// unpack writes the files of a model, which lie side by side, into a new
// directory.
func (r *Resolver) unpack(dir string, files fs.FS) error {
	entries, err := fs.ReadDir(files, ".")
	if err != nil {
		return err
	}
	if err := r.makeDir(dir); err != nil {
		return err
	}
	for _, e := range entries {
		data, err := fs.ReadFile(files, e.Name())
		if err == nil {
			err = disk.Write(filepath.Join(dir, e.Name()), func(w io.Writer) error { _, err := w.Write(data); return err })
		}
		if err != nil {
			return fmt.Errorf("unpack %s: %w", e.Name(), err)
		}
	}
	return nil
}
