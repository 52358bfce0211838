package checkout

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"pipe/runtime/artifact"
)

// A Cache is a directory of checkouts:
//
//	<commit>/        the files of one commit, without git's own
//	refs/<hash>      the commit that a ref was when it was last asked for
//
// Several processes may use one at once.
type Cache struct {
	Dir string // made when it is needed
	Git string // the program; "git" when empty
}

// ErrAbsent is returned for a commit that was not fetched yet, and for a ref
// that was never asked for.
var ErrAbsent = errors.New("it was not fetched yet")

// Known returns the commit of s as far as this cache knows it, without asking.
func (c Cache) Known(s Source) (commit string, err error) {
	if s.Pinned() {
		return s.Ref, nil
	}
	b, err := os.ReadFile(c.refPath(s))
	if commit = strings.TrimSpace(string(b)); err != nil || !hash.MatchString(commit) {
		return "", ErrAbsent
	}
	return commit, nil
}

// refPath names the file that remembers a ref.
func (c Cache) refPath(s Source) string {
	sum := sha256.Sum256([]byte(s.Repo + "\x00" + s.Ref))
	return filepath.Join(c.Dir, "refs", hex.EncodeToString(sum[:]))
}

// Find returns the directory of the module s at a commit, and that of the whole
// checkout, which nothing in the module may lead out of.
func (c Cache) Find(s Source, commit string) (dir, root string, err error) {
	if !hash.MatchString(commit) {
		return "", "", fmt.Errorf("%q is not the hash of a commit", commit)
	}
	root = filepath.Join(c.Dir, commit)
	if _, err := os.Stat(root); err != nil {
		return "", "", ErrAbsent
	}
	dir = filepath.Join(root, filepath.FromSlash(s.Dir))
	if info, err := os.Stat(dir); err != nil || !info.IsDir() {
		return "", "", fmt.Errorf("%s has no directory %s at commit %.12s", s.Repo, s.Dir, commit)
	}
	return dir, root, nil
}

// Ask asks the repository which commit s is now, and remembers it.
func (c Cache) Ask(ctx context.Context, s Source) (commit string, err error) {
	if s.Pinned() {
		return s.Ref, nil
	}
	patterns := []string{"HEAD"}
	if s.Ref != "" { // a tag before a branch; ^{} is the commit of an annotated tag
		patterns = []string{"refs/tags/" + s.Ref + "^{}", "refs/tags/" + s.Ref, "refs/heads/" + s.Ref}
	}
	out, err := c.git(ctx, "", append([]string{"ls-remote", "--", s.Repo}, patterns...)...)
	if err != nil {
		return "", err
	}
	found := map[string]string{}
	for line := range strings.Lines(out) {
		id, name, _ := strings.Cut(strings.TrimSpace(line), "\t")
		found[name] = id
	}
	for _, p := range patterns {
		if commit = found[p]; hash.MatchString(commit) {
			return commit, c.write(c.refPath(s), commit+"\n")
		}
	}
	if s.Ref == "" {
		return "", fmt.Errorf("%s is empty", s.Repo)
	}
	return "", fmt.Errorf("%s has no branch or tag %q, and a commit is named by its whole hash", s.Repo, s.Ref)
}

// Fetch brings the files of a commit, unless they are here.
func (c Cache) Fetch(ctx context.Context, s Source, commit string) error {
	if !hash.MatchString(commit) {
		return fmt.Errorf("%q is not the hash of a commit", commit)
	}
	final := filepath.Join(c.Dir, commit)
	if _, err := os.Stat(final); err == nil {
		return nil
	}
	if err := artifact.MakeDir(filepath.Dir(c.Dir), c.Dir); err != nil {
		return err
	}
	tmp, err := os.MkdirTemp(c.Dir, ".tmp-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	if err := c.fetch(ctx, tmp, s, commit); err != nil {
		return err
	}
	if err := os.RemoveAll(filepath.Join(tmp, ".git")); err != nil {
		return err
	}
	if err := readable(tmp); err != nil {
		return err
	}
	if err := os.Rename(tmp, final); err != nil {
		if _, statErr := os.Stat(final); statErr == nil {
			return nil // somebody else was faster
		}
		return err
	}
	return nil
}

// readable lets all who share the store read what lies below dir, whatever the
// umask of the one who fetched it.
func readable(dir string) error {
	return filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		read := info.Mode().Perm() & 0o500
		return os.Chmod(path, info.Mode().Perm()|read>>3|read>>6)
	})
}

func (c Cache) fetch(ctx context.Context, dir string, s Source, commit string) error {
	if _, err := c.git(ctx, dir, "init", "-q", "--template="); err != nil {
		return err
	}
	fetch := []string{"fetch", "-q", "--no-tags", "--no-recurse-submodules"}
	_, err := c.git(ctx, dir, append(fetch, "--depth=1", "--", s.Repo, commit)...)
	if err != nil && ctx.Err() == nil { // not every server hands out a commit by its hash
		_, err = c.git(ctx, dir, append(fetch, "--", s.Repo, "+refs/heads/*:refs/pipe/heads/*", "+refs/tags/*:refs/pipe/tags/*")...)
	}
	if err != nil {
		return err
	}
	if _, err := c.git(ctx, dir, "cat-file", "-e", commit+"^{commit}"); err != nil {
		return fmt.Errorf("%s has no commit %s on a branch or tag any more", s.Repo, commit)
	}
	// Links become files that hold their target, so that none leads anywhere,
	// and no program of the user's settings sees or changes the files.
	_, err = c.git(ctx, dir, "-c", "core.symlinks=false", "-c", "core.autocrlf=false", "-c", "core.eol=lf", "-c", "core.hooksPath=/dev/null",
		"-c", "core.fsmonitor=false", "-c", "core.attributesFile=/dev/null", "-c", "filter.lfs.smudge=", "-c", "filter.lfs.process=", "-c", "filter.lfs.required=false",
		"checkout", "-q", "--detach", commit)
	return err
}

// Digest returns the digest of the files below root: of their paths and their
// content, sorted.
func Digest(root string) (d artifact.Digest, err error) {
	h := sha256.New()
	text := func(s string) {
		h.Write(binary.BigEndian.AppendUint64(nil, uint64(len(s))))
		h.Write([]byte(s))
	}
	text("pipe module")
	err = filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		if !e.Type().IsRegular() {
			return fmt.Errorf("%s is not a regular file", path)
		}
		rel, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		sum, err := artifact.HashFile(path)
		text(filepath.ToSlash(rel))
		text(sum.String())
		return err
	})
	return artifact.Digest(h.Sum(nil)), err
}

// write replaces a small file.
func (c Cache) write(path, text string) error {
	if err := artifact.MakeDir(filepath.Dir(c.Dir), filepath.Dir(path)); err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".tmp-")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.WriteString(text)
	if err = errors.Join(err, f.Chmod(0o644), f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}

// Files returns the files by which another cache, with them at the same places,
// has a commit, and knows that the ref of the source is that commit.
func (c Cache) Files(source, commit string) ([]string, error) {
	s, err := Parse(source)
	if err != nil {
		return nil, err
	}
	if !hash.MatchString(commit) {
		return nil, fmt.Errorf("%q is not the hash of a commit", commit)
	}
	var files []string
	if known, err := c.Known(s); err == nil && known == commit && !s.Pinned() {
		files = append(files, c.refPath(s))
	}
	err = filepath.WalkDir(filepath.Join(c.Dir, commit), func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			files = append(files, path)
		}
		return err
	})
	return files, err
}
