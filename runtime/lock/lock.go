// Package lock reads and writes pipe.lock, the file beside a pipeline that pins
// what it takes from outside: modules and models of repositories by commit, what
// lies on this machine by digest.
//
// It is JSON with one entry for each thing, sorted, so that a change is a
// readable line in a git diff. It may have been edited, or merged, by anybody.
package lock

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"pipe/runtime/artifact"
)

const (
	// Name is the name of the file.
	Name = "pipe.lock"

	version  = 1
	maxBytes = 64 << 20
	// maxList is how many files of one dataset are listed: more would bury the
	// rest, and only their number and digest are kept.
	maxList = 1000
)

// A File is the content of pipe.lock. Sources are spelled as in the pipeline,
// and paths as seen from its directory.
type File struct {
	Modules []Module `json:"modules,omitempty"`
	Models  []Model  `json:"models,omitempty"`
	Data    []Data   `json:"data,omitempty"`
}

// A Module is a module of a repository.
type Module struct {
	Source string          `json:"source"`
	Commit string          `json:"commit"`
	Digest artifact.Digest `json:"digest"` // of all files of the commit
}

// A Model is a model of the hub, known by its commit, or another, known by the
// digest of its content.
type Model struct {
	Source string          `json:"source"`
	Commit string          `json:"commit,omitempty"`
	Digest artifact.Digest `json:"digest,omitzero"`
}

// Data is what one block reads.
type Data struct {
	Source string                     `json:"source"`
	Files  int                        `json:"files"`
	Digest artifact.Digest            `json:"digest"` // of the files, see [NewData]
	List   map[string]artifact.Digest `json:"list,omitempty"`
}

// content is a File as it is written.
type content struct {
	Version int `json:"version"`
	File
}

// Read reads the lock file in dir; without one it returns nil and no error.
func Read(dir string) (*File, error) {
	path := filepath.Join(dir, Name)
	f, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxBytes+1))
	if err != nil {
		return nil, err
	}
	file, err := Parse(b)
	if err != nil {
		return nil, fmt.Errorf("%s%w", path, err)
	}
	return file, nil
}

// Parse reads the content of a lock file. Its errors begin with a colon and
// what is known of the place.
func Parse(b []byte) (*File, error) {
	if len(b) > maxBytes {
		return nil, fmt.Errorf(": it is larger than %d MiB", maxBytes>>20)
	}
	if i := bytes.Index(b, []byte("<<<<<<< ")); i >= 0 {
		return nil, fmt.Errorf(":%d: it holds a conflict of a merge; take either side, and let pipe lock add what is missing", lineAt(b, int64(i)))
	}
	var v struct {
		Version int `json:"version"`
	}
	if err := decode(b, &v, false); err != nil {
		return nil, err
	}
	if v.Version != version {
		return nil, fmt.Errorf(": it has version %d, and this version of pipe reads version %d; use the pipe that wrote it, or remove it and run pipe lock", v.Version, version)
	}
	var c content
	if err := decode(b, &c, true); err != nil {
		return nil, err
	}
	if err := c.check(); err != nil {
		return nil, fmt.Errorf(": %w", err)
	}
	c.sort()
	return &c.File, nil
}

// decode decodes b as a whole.
func decode(b []byte, v any, strict bool) error {
	d := json.NewDecoder(bytes.NewReader(b))
	if strict {
		d.DisallowUnknownFields()
	}
	err := d.Decode(v)
	if _, more := d.Token(); err == nil && more != io.EOF {
		err = errors.New("there is more after the end")
	}
	var syntax *json.SyntaxError
	var wrong *json.UnmarshalTypeError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &syntax):
		return fmt.Errorf(":%d: %w; restore it, or remove it and run pipe lock", lineAt(b, syntax.Offset), err)
	case errors.As(err, &wrong):
		return fmt.Errorf(":%d: %s is a %s; restore the file, or remove it and run pipe lock", lineAt(b, wrong.Offset), strings.TrimPrefix(wrong.Field, "File."), wrong.Value)
	}
	return fmt.Errorf(":%d: %w; restore it, or remove it and run pipe lock", lineAt(b, d.InputOffset()), err)
}

func lineAt(b []byte, offset int64) int {
	return 1 + bytes.Count(b[:min(max(offset, 0), int64(len(b)))], []byte("\n"))
}

var commitID = regexp.MustCompile(`^([0-9a-f]{40}|[0-9a-f]{64})$`)

// check reports what is wrong with entries.
func (f *File) check() error {
	seen := map[string]bool{}
	entry := func(what, source string) error {
		if source == "" {
			return fmt.Errorf("a %s has no source", what)
		}
		if seen[what+" "+source] {
			return fmt.Errorf("%s %s stands in it twice; keep one of the entries", what, source)
		}
		seen[what+" "+source] = true
		return nil
	}
	for _, m := range f.Modules {
		if err := entry("module", m.Source); err != nil {
			return err
		}
		if !commitID.MatchString(m.Commit) {
			return fmt.Errorf("module %s: %q is not the hash of a commit", m.Source, m.Commit)
		}
	}
	for _, m := range f.Models {
		if err := entry("model", m.Source); err != nil {
			return err
		}
		if m.Commit != "" && !commitID.MatchString(m.Commit) {
			return fmt.Errorf("model %s: %q is not the hash of a commit", m.Source, m.Commit)
		}
		if (m.Commit == "") == m.Digest.IsZero() {
			return fmt.Errorf("model %s: an entry has either commit or digest", m.Source)
		}
	}
	for _, d := range f.Data {
		if err := entry("data", d.Source); err != nil {
			return err
		}
		if d.Files < 0 || d.List != nil && len(d.List) != d.Files {
			return fmt.Errorf("data %s: it claims %d files and lists %d", d.Source, d.Files, len(d.List))
		}
	}
	return nil
}

func (f *File) sort() {
	slices.SortFunc(f.Modules, func(a, b Module) int { return cmp.Compare(a.Source, b.Source) })
	slices.SortFunc(f.Models, func(a, b Model) int { return cmp.Compare(a.Source, b.Source) })
	slices.SortFunc(f.Data, func(a, b Data) int { return cmp.Compare(a.Source, b.Source) })
}

// Bytes returns the file as it is written.
func (f *File) Bytes() ([]byte, error) {
	f.sort()
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	err := e.Encode(content{version, *f})
	return b.Bytes(), err
}

// Write writes the lock file in dir, unless it is there with that content. It
// reports whether it wrote.
func (f *File) Write(dir string) (bool, error) {
	b, err := f.Bytes()
	if err != nil {
		return false, err
	}
	path := filepath.Join(dir, Name)
	if old, err := os.ReadFile(path); err == nil && bytes.Equal(old, b) {
		return false, nil
	}
	tmp, err := os.CreateTemp(dir, ".pipe.lock-")
	if err != nil {
		return false, err
	}
	defer os.Remove(tmp.Name())
	_, err = tmp.Write(b)
	if err = errors.Join(err, tmp.Chmod(0o644), tmp.Close()); err != nil {
		return false, err
	}
	return true, os.Rename(tmp.Name(), path)
}

// Module returns the entry of that source, or nil.
func (f *File) Module(source string) *Module {
	return find(f, func(f *File) []Module { return f.Modules }, func(m *Module) bool { return m.Source == source })
}

// Model returns the entry of that source, or nil.
func (f *File) Model(source string) *Model {
	return find(f, func(f *File) []Model { return f.Models }, func(m *Model) bool { return m.Source == source })
}

// Dataset returns the entry of that source, or nil.
func (f *File) Dataset(source string) *Data {
	return find(f, func(f *File) []Data { return f.Data }, func(d *Data) bool { return d.Source == source })
}

// find returns the first entry of a list that is the one looked for. A nil file
// has none.
func find[E any](f *File, list func(*File) []E, is func(*E) bool) *E {
	if f == nil {
		return nil
	}
	entries := list(f)
	for i := range entries {
		if is(&entries[i]) {
			return &entries[i]
		}
	}
	return nil
}

// NewData returns the entry of files, which are listed by their paths.
func NewData(source string, files map[string]artifact.Digest) Data {
	d := Data{Source: source, Files: len(files), Digest: digestOf(files)}
	if len(files) <= maxList {
		d.List = files
	}
	return d
}

// short is the beginning of a digest, for people.
func short(d artifact.Digest) string { return strings.TrimPrefix(d.String(), "sha256:")[:12] }
