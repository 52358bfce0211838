package engine

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"time"

	"pipe/runtime/artifact"
	"pipe/runtime/lang"
	"pipe/runtime/stage"
)

// racy is how long after a change a file may change again without its times
// telling: file systems keep them in ticks.
const racy = 2 * time.Second

// A source is a file outside the store that a stage reads.
type source struct {
	Path   string          `json:"path"` // relative to the pipeline file's directory, slash-separated
	Digest artifact.Digest `json:"digest"`
}

type sourceFile struct {
	source
	path  string // as the stage named it
	id    string // of the file before it was hashed
	fresh bool   // it changed so recently that id alone proves nothing
}

var errSourceChanged = errors.New("nothing was kept; run again when nobody writes to it")

// readSources hashes the files that s will read.
func (e *engine) readSources(ctx context.Context, n *lang.Node, s stage.Sourcer) ([]sourceFile, error) {
	paths, err := s.Sources(n.Dir)
	if err != nil {
		return nil, err
	}
	files := make([]sourceFile, len(paths))
	for i, p := range paths {
		f := &files[i]
		if n.Checkout != "" && !lang.Inside(p, n.Checkout) {
			return nil, fmt.Errorf("%s lies outside of what was fetched with the module; make the dataset a variable of the module", p)
		}
		f.path = p
		f.Path = relative(n.Dir, p)
		if f.Digest, f.id, f.fresh, err = e.fileDigest(ctx, p); err != nil {
			return nil, err
		}
	}
	return files, nil
}

// unchanged is an error if the files that n reads are not what they were.
func (e *engine) unchanged(ctx context.Context, n *lang.Node, a *action) error {
	if s, ok := n.Stage.(stage.Sourcer); ok {
		paths, err := s.Sources(n.Dir)
		if err != nil {
			return err
		}
		was := make([]string, len(a.files))
		for i, f := range a.files {
			was[i] = f.path
		}
		if !slices.Equal(paths, was) {
			return fmt.Errorf("files were added or removed while they were read: %w", errSourceChanged)
		}
	}
	for _, f := range slices.Concat(a.files, a.journals) {
		info, err := os.Stat(f.path)
		if err != nil {
			return fmt.Errorf("%s went away while it was read: %w", f.path, errSourceChanged)
		}
		same := identity(info) == f.id
		if same && f.fresh {
			d, err := hashFile(ctx, f.path)
			if err != nil {
				return err
			}
			same = d == f.Digest
		}
		if !same {
			return fmt.Errorf("%s changed while it was read: %w", f.path, errSourceChanged)
		}
	}
	return nil
}

// relative returns path as seen from dir, so that a pipeline keeps its keys
// when its directory moves.
func relative(dir, path string) string {
	absDir, err1 := filepath.Abs(dir)
	absPath, err2 := filepath.Abs(path)
	if err1 == nil && err2 == nil {
		if rel, err := filepath.Rel(absDir, absPath); err == nil {
			path = rel
		}
	}
	return filepath.ToSlash(path)
}

// fileDigest hashes a file, or remembers its hash by the file's identity
// (device, inode, size, times). A hash is remembered only when the file had
// been left alone for a while.
func (e *engine) fileDigest(ctx context.Context, path string) (d artifact.Digest, id string, fresh bool, err error) {
	info, err := os.Stat(path)
	if err != nil {
		return d, "", false, err
	}
	if !info.Mode().IsRegular() {
		return d, "", false, fmt.Errorf("%s is not a regular file", path)
	}
	id = identity(info)
	fresh = time.Since(changed(info)) <= racy
	memo := "sources/" + id
	if b, err := os.ReadFile(filepath.Join(e.Store.Dir(), memo)); err == nil && !fresh && d.UnmarshalText(b) == nil {
		return d, id, fresh, nil
	}
	if d, err = hashFile(ctx, path); err != nil {
		return d, "", false, err
	}
	if after, err := os.Stat(path); err != nil || identity(after) != id {
		return d, "", false, fmt.Errorf("%s changed while it was read: %w", path, errSourceChanged)
	}
	if !fresh && remembers {
		if err := e.Store.Remember(memo, []byte(d.String())); err != nil {
			e.Log.Debug().Err(err).Msg("could not remember a digest")
		}
	}
	return d, id, fresh, nil
}

func hashFile(ctx context.Context, path string) (d artifact.Digest, err error) {
	f, err := os.Open(path)
	if err != nil {
		return d, err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, &reader{ctx, f}); err != nil {
		return d, fmt.Errorf("read %s: %w", path, err)
	}
	return artifact.Digest(h.Sum(nil)), nil
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

// nameOf turns an identity into a file name.
func nameOf(id string) string {
	sum := sha256.Sum256([]byte(id))
	return hex.EncodeToString(sum[:])
}
