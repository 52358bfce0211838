package hub

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"

	"pipe/model/adapter"
	"pipe/model/disk"
	"pipe/model/safetensors"
)

// A repo is one revision of a repository.
type repo struct {
	org, name, rev string
	file           string // one .gguf file; "" for the safetensors checkpoint
}

// Compiled when first needed: every start of the program would pay for them.
var (
	partName = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9._-]{0,95}$`) })
	revName  = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9._/-]{0,199}$`) })
	commitID = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^[0-9a-f]{40}$`) })
	etagName = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^([0-9a-f]{40}|[0-9a-f]{64})$`) })
)

// parseRepo reads org/name[@rev][/file.gguf]; a slash in rev is written %2F.
func parseRepo(s string) (p repo, err error) {
	org, rest, _ := strings.Cut(s, "/")
	name, file, _ := strings.Cut(rest, "/")
	name, rev, given := strings.Cut(name, "@")
	if !given {
		rev = "main"
	}
	if rev, err = url.PathUnescape(rev); err != nil {
		return p, err
	}
	switch {
	case !partName().MatchString(org) || !partName().MatchString(name):
		return p, errors.New("is not of the form hf://org/name, hf://org/name@revision or hf://org/name/file.gguf")
	case !revName().MatchString(rev) || strings.Contains(rev, ".."):
		return p, fmt.Errorf("revision %q is not a branch, tag or commit", rev)
	case file != "" && (!strings.HasSuffix(file, ".gguf") || !safePath(file)):
		return p, fmt.Errorf("%q is not the path of a .gguf file", file)
	}
	return repo{org, name, rev, file}, nil
}

// bare reports whether a file name stays in its directory.
func bare(name string) bool {
	return name != "" && !strings.HasPrefix(name, ".") && !strings.ContainsAny(name, "/\\:\x00")
}

func safePath(path string) bool {
	for _, part := range strings.Split(path, "/") {
		if !bare(part) {
			return false
		}
	}
	return true
}

func (p repo) String() string { return p.org + "/" + p.name }

func (r *Resolver) root(p repo) string {
	return filepath.Join(r.Cache, "models--"+p.org+"--"+p.name)
}

// remote returns the snapshot of a repository, or the file of one that is
// asked for, downloading what is missing.
func (r *Resolver) remote(ctx context.Context, source string, progress func(done, total int64)) (string, error) {
	p, err := parseRepo(source)
	if err != nil {
		return "", err
	}
	if commitID().MatchString(p.rev) { // never changes
		if path, err := r.cached(p, p.rev); err == nil {
			return path, nil
		}
	}
	if r.Offline {
		path, err := r.latest(p)
		if err != nil {
			return "", fmt.Errorf("%w, and HF_HUB_OFFLINE is set; unset it, or download the model first", err)
		}
		return path, nil
	}
	list, err := r.list(ctx, p)
	if err != nil {
		var unreachable *url.Error
		if path, cacheErr := r.latest(p); cacheErr == nil && errors.As(err, &unreachable) && ctx.Err() == nil {
			r.warn("%s cannot be reached; using the revision of %s in the cache", r.endpoint(), p)
			return path, nil
		}
		return "", err
	}
	return r.fetch(ctx, p, list, progress)
}

func (r *Resolver) warn(format string, args ...any) {
	if r.Warn != nil {
		r.Warn(format, args...)
	}
}

// latest returns what the cache has of p, by the commit that the revision was
// when it was last looked up.
func (r *Resolver) latest(p repo) (string, error) {
	commit, err := r.remembered(p)
	if err != nil {
		return "", err
	}
	return r.cached(p, commit)
}

// remembered returns the commit that the revision was when it was last looked up.
func (r *Resolver) remembered(p repo) (string, error) {
	if commitID().MatchString(p.rev) {
		return p.rev, nil
	}
	b, err := os.ReadFile(filepath.Join(r.root(p), "refs", filepath.FromSlash(p.rev)))
	commit := strings.TrimSpace(string(b))
	if err != nil || !commitID().MatchString(commit) {
		return "", fmt.Errorf("the cache %s does not have revision %q", r.Cache, p.rev)
	}
	return commit, nil
}

// cached returns the snapshot if all that p needs is there.
func (r *Resolver) cached(p repo, commit string) (string, error) {
	dir := filepath.Join(r.root(p), "snapshots", commit)
	if p.file != "" {
		path := filepath.Join(dir, filepath.FromSlash(p.file))
		if info, err := os.Stat(path); err != nil || !info.Mode().IsRegular() {
			return "", fmt.Errorf("the cache %s does not have %s", r.Cache, p.file)
		}
		return path, nil
	}
	if _, err := modelFiles(dir); err != nil {
		return "", fmt.Errorf("the cache is incomplete: %w", err)
	}
	return dir, nil
}

// A listing is the hub's answer about a revision.
type listing struct {
	SHA      string
	Siblings []remoteFile
}

// A remoteFile is a file of a repository. Files in LFS are known by the
// SHA-256 of their content, others by their git blob hash.
type remoteFile struct {
	Name   string `json:"rfilename"`
	Size   *int64
	BlobID string
	LFS    *struct {
		SHA256 string
		Size   int64
	}
}

const maxListing = 64 << 20

func (r *Resolver) list(ctx context.Context, p repo) (listing, error) {
	at := fmt.Sprintf("%s/api/models/%s/revision/%s?blobs=true", r.endpoint(), p, url.PathEscape(p.rev))
	var l listing
	res, err := r.get(ctx, p, http.MethodGet, at, 0)
	if err != nil {
		return l, err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(io.LimitReader(res.Body, maxListing))
	if err == nil {
		err = json.Unmarshal(body, &l)
	}
	if err != nil {
		return l, fmt.Errorf("the answer of %s cannot be read: %w", at, err)
	}
	if !commitID().MatchString(l.SHA) {
		return l, fmt.Errorf("the answer of %s has no commit", at)
	}
	return l, nil
}

// fetch downloads what p needs of a listing and returns where it lies.
func (r *Resolver) fetch(ctx context.Context, p repo, l listing, progress func(done, total int64)) (string, error) {
	byName := map[string]remoteFile{}
	for _, f := range l.Siblings {
		byName[f.Name] = f
	}
	d := &download{r: r, p: p, commit: l.SHA, progress: progress}
	if p.file != "" {
		f, ok := byName[p.file]
		if !ok {
			return "", fmt.Errorf("%s has no file %s; its .gguf files are %q", p, p.file, ggufs(l))
		}
		if err := d.all(ctx, f); err != nil {
			return "", err
		}
		return filepath.Join(d.snapshot(), filepath.FromSlash(p.file)), r.remember(p, l.SHA)
	}
	var files []remoteFile
	for _, name := range wanted {
		if f, ok := byName[name]; ok {
			files = append(files, f)
		}
	}
	single, ok := byName[safetensors.SingleName]
	index, sharded := byName[safetensors.IndexName]
	switch {
	case !slices.ContainsFunc(files, func(f remoteFile) bool { return f.Name == "config.json" }):
		if _, ok := byName[adapter.ConfigName]; ok {
			return "", fmt.Errorf("%s is an adapter, and no model: %s", p, adapter.MergeFirst)
		}
		return "", fmt.Errorf("%s has no config.json; %s", p, hint(l))
	case ok:
		files = append(files, single)
	case sharded:
		if err := d.all(ctx, index); err != nil {
			return "", err
		}
		data, err := os.ReadFile(filepath.Join(d.snapshot(), safetensors.IndexName))
		if err != nil {
			return "", err
		}
		shards, err := shardNames(data)
		if err != nil {
			return "", fmt.Errorf("%s of %s: %w", safetensors.IndexName, p, err)
		}
		for _, s := range shards {
			f, ok := byName[s]
			if !ok {
				return "", fmt.Errorf("%s has no %s, which its index names", p, s)
			}
			files = append(files, f)
		}
	default:
		return "", fmt.Errorf("%s has no safetensors weights; %s", p, hint(l))
	}
	if err := d.all(ctx, files...); err != nil {
		return "", err
	}
	return d.snapshot(), r.remember(p, l.SHA)
}

// hint says what else a repository offers.
func hint(l listing) string {
	if g := ggufs(l); len(g) > 0 {
		return fmt.Sprintf("it has GGUF files, one of which can be named as hf://org/name/FILE: %q", g)
	}
	return "pickled .bin and .pt files are never read"
}

func ggufs(l listing) []string {
	names := []string{}
	for _, f := range l.Siblings {
		if strings.HasSuffix(f.Name, ".gguf") {
			names = append(names, f.Name)
		}
	}
	slices.Sort(names)
	return names[:min(len(names), 20)]
}

// remember notes which commit a branch or tag is.
func (r *Resolver) remember(p repo, commit string) error {
	if commitID().MatchString(p.rev) {
		return nil
	}
	path := filepath.Join(r.root(p), "refs", filepath.FromSlash(p.rev))
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return disk.Write(path, func(w io.Writer) error { _, err := io.WriteString(w, commit); return err })
}
