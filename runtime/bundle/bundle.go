// Package bundle writes and reads archives of a pipeline with all that it needs.
//
// An archive is a tar file, compressed with gzip or not. Its first member,
// bundle.json, lists the others in their order with size and hash; what an
// archive holds and what its list says must agree in every point, and whatever
// else it could hold (links, devices, paths that lead out) is refused.
package bundle

import (
	"archive/tar"
	"compress/gzip"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"pipe/runtime/artifact"
)

const (
	// ListName is the member that lists the others.
	ListName = "bundle.json"

	format   = 1
	maxList  = 64 << 20 // bytes of bundle.json
	maxFiles = 1 << 20
)

// A List is the content of bundle.json.
type List struct {
	Format int     `json:"format"`
	Recipe string  `json:"recipe"` // the pipeline file or directory, by its name in the archive
	Files  []Entry `json:"files"`  // in the order of the archive, sorted by name
}

// An Entry is one file of an archive.
type Entry struct {
	Name       string          `json:"name"` // slash-separated
	Size       int64           `json:"size"`
	SHA256     artifact.Digest `json:"sha256"`
	Executable bool            `json:"executable,omitempty"`
}

// Write writes an archive of files, given by the path of each name. The same
// files make the same bytes.
func Write(w io.Writer, recipe string, files map[string]string, compress bool) (*List, error) {
	l := &List{Format: format, Recipe: recipe, Files: []Entry{}}
	for _, name := range slices.Sorted(maps.Keys(files)) {
		e, err := entry(name, files[name])
		if err != nil {
			return nil, err
		}
		l.Files = append(l.Files, e)
	}
	if err := l.check(); err != nil {
		return nil, err
	}
	out := w
	var z *gzip.Writer
	if compress {
		z = gzip.NewWriter(w)
		out = z
	}
	t := tar.NewWriter(out)
	b, err := json.MarshalIndent(l, "", " ")
	if err != nil {
		return nil, err
	}
	if len(b) > maxList {
		return nil, fmt.Errorf("there are too many files for one bundle: %d", len(l.Files))
	}
	if err := header(t, ListName, int64(len(b)), false); err != nil {
		return nil, err
	}
	if _, err := t.Write(b); err != nil {
		return nil, err
	}
	for _, e := range l.Files {
		if err := add(t, e, files[e.Name]); err != nil {
			return nil, err
		}
	}
	err = t.Close()
	if z != nil {
		err = errors.Join(err, z.Close())
	}
	return l, err
}

func entry(name, path string) (Entry, error) {
	info, err := os.Stat(path)
	if err != nil {
		return Entry{}, err
	}
	if !info.Mode().IsRegular() {
		return Entry{}, fmt.Errorf("%s is not a regular file", path)
	}
	d, err := artifact.HashFile(path)
	return Entry{name, info.Size(), d, info.Mode()&0o100 != 0}, err
}

// header begins a member: no times and no owners, which would differ.
func header(t *tar.Writer, name string, size int64, executable bool) error {
	h := &tar.Header{Typeflag: tar.TypeReg, Name: name, Size: size, Mode: 0o644, ModTime: time.Unix(0, 0)}
	if executable {
		h.Mode = 0o755
	}
	return t.WriteHeader(h)
}

func add(t *tar.Writer, e Entry, path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := header(t, e.Name, e.Size, e.Executable); err != nil {
		return fmt.Errorf("%s: %w", e.Name, err)
	}
	h := sha256.New()
	n, err := io.Copy(io.MultiWriter(t, h), io.LimitReader(f, e.Size))
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	if n != e.Size || artifact.Digest(h.Sum(nil)) != e.SHA256 {
		return fmt.Errorf("%s changed while it was read; run again when nobody writes to it", path)
	}
	return nil
}

// check reports what is wrong with a list by itself.
func (l *List) check() error {
	if l.Format != format {
		return fmt.Errorf("it has format %d, and this version of pipe reads format %d", l.Format, format)
	}
	if len(l.Files) > maxFiles {
		return fmt.Errorf("it lists %d files; at most %d are read", len(l.Files), maxFiles)
	}
	if err := checkName(l.Recipe); err != nil {
		return err
	}
	found := false
	for i, e := range l.Files {
		if err := checkName(e.Name); err != nil {
			return err
		}
		if e.Name == ListName {
			return fmt.Errorf("it lists itself")
		}
		if i > 0 && l.Files[i-1].Name >= e.Name {
			return fmt.Errorf("%q is listed out of order", e.Name)
		}
		if e.Size < 0 {
			return fmt.Errorf("%q has size %d", e.Name, e.Size)
		}
		found = found || e.Name == l.Recipe || strings.HasPrefix(e.Name, l.Recipe+"/")
	}
	if !found {
		return fmt.Errorf("it has no pipeline %q", l.Recipe)
	}
	return nil
}

// checkName refuses names that could lead anywhere but below the directory that
// an archive is unpacked to.
func checkName(name string) error {
	if !fs.ValidPath(name) || name == "." || path.Clean(name) != name || strings.ContainsAny(name, "\\\x00") || !filepath.IsLocal(filepath.FromSlash(name)) {
		return fmt.Errorf("%q is not the name of a file in it", name)
	}
	return nil
}
