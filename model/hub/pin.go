package hub

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

const scheme = "hf://"

// Remote reports whether a source is of the hub.
func Remote(source string) bool { return strings.HasPrefix(source, scheme) }

// At returns a source of the hub with its revision replaced by a commit.
func At(source, commit string) (string, error) {
	p, err := parseRepo(strings.TrimPrefix(source, scheme))
	if err != nil {
		return "", fmt.Errorf("model %q: %w", source, err)
	}
	if !commitID().MatchString(commit) {
		return "", fmt.Errorf("model %q: %q is not the hash of a commit", source, commit)
	}
	at := scheme + p.String() + "@" + commit
	if p.file != "" {
		at += "/" + p.file
	}
	return at, nil
}

// Commit returns which commit the revision of a source of the hub is now: what
// the hub says, or, when the resolver is offline, what the cache was told last.
// It downloads nothing.
func (r *Resolver) Commit(ctx context.Context, source string) (string, error) {
	commit, err := r.commit(ctx, source)
	if err != nil {
		return "", fmt.Errorf("model %q: %w", source, err)
	}
	return commit, nil
}

func (r *Resolver) commit(ctx context.Context, source string) (string, error) {
	p, err := parseRepo(strings.TrimPrefix(source, scheme))
	if err != nil {
		return "", err
	}
	if commitID().MatchString(p.rev) {
		return p.rev, nil
	}
	if r.Offline {
		return r.remembered(p)
	}
	l, err := r.list(ctx, p)
	return l.SHA, err
}

// Files returns the files of a model at path, which Resolve returned.
func Files(path string) ([]string, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.IsDir() {
		return []string{path}, nil
	}
	names, err := modelFiles(path)
	for i := range names {
		names[i] = filepath.Join(path, names[i])
	}
	return names, err
}

// CacheFiles returns the files by which another cache, with them at the same
// places, has the model of a source of the hub, which Resolve found at path:
// where they lie here by where they lie in a cache.
func (r *Resolver) CacheFiles(source, path string) (map[string]string, error) {
	p, err := parseRepo(strings.TrimPrefix(source, scheme))
	if err != nil {
		return nil, fmt.Errorf("model %q: %w", source, err)
	}
	files, err := Files(path)
	if err != nil {
		return nil, err
	}
	if ref := filepath.Join(r.root(p), "refs", filepath.FromSlash(p.rev)); !commitID().MatchString(p.rev) {
		files = append(files, ref)
	}
	out := map[string]string{}
	for _, f := range files {
		rel, err := filepath.Rel(r.Cache, f)
		if err != nil || !filepath.IsLocal(rel) {
			return nil, fmt.Errorf("model %q: %s does not lie in the cache %s", source, f, r.Cache)
		}
		out[filepath.ToSlash(rel)] = f
	}
	return out, nil
}
