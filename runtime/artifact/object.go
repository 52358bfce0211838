package artifact

import (
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sort"
	"strings"
)

const (
	manifestName = "manifest.json"
	maxManifest  = 16 << 20 // bytes; a manifest has about 120 a file
)

// TableName is the file that holds the rows of a Dataset.
const TableName = "rows.arrow"

// An Object is a published artifact as records name it.
type Object struct {
	Digest Digest `json:"digest"`
	Type   Type   `json:"type"`
	Rows   int64  `json:"rows"`
	Bytes  int64  `json:"bytes"`
}

// A FileInfo is one file of an artifact.
type FileInfo struct {
	Name   string `json:"name"` // slash-separated, below the artifact's directory
	Size   int64  `json:"size"`
	SHA256 Digest `json:"sha256"`
}

// manifest is the content of manifest.json. Its canonical JSON is what the
// artifact's digest is of: nothing in it says who made the artifact, or when.
type manifest struct {
	Format int        `json:"format"`
	Type   Type       `json:"type"`
	Rows   int64      `json:"rows"`
	Files  []FileInfo `json:"files"` // sorted by name
}

func (m *manifest) digest() (Digest, []byte, error) {
	sort.Slice(m.Files, func(i, j int) bool { return m.Files[i].Name < m.Files[j].Name })
	b, err := json.Marshal(m)
	return sha256.Sum256(b), b, err
}

func (m *manifest) bytes() (n int64) {
	for _, f := range m.Files {
		n += f.Size
	}
	return n
}

// A badManifest is an error about the content of a manifest.
type badManifest struct{ error }

// manifest reads the manifest of an artifact and nothing else of it.
func (s *Store) manifest(d Digest) (*manifest, error) {
	f, err := os.Open(filepath.Join(s.ObjectDir(d), manifestName))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxManifest))
	if err != nil {
		return nil, err
	}
	m, err := parseManifest(b, d)
	if err != nil {
		return nil, badManifest{err}
	}
	return m, nil
}

// parseManifest reads an untrusted manifest that must hash to want.
func parseManifest(b []byte, want Digest) (*manifest, error) {
	if got := Digest(sha256.Sum256(b)); got != want {
		return nil, fmt.Errorf("%s is damaged: it hashes to %v", manifestName, got)
	}
	var m manifest
	if err := json.Unmarshal(b, &m); err != nil {
		return nil, fmt.Errorf("%s: %w", manifestName, err)
	}
	if m.Format != 1 {
		return nil, fmt.Errorf("%s has format %d; this version of pipe reads format 1", manifestName, m.Format)
	}
	if m.Rows < 0 {
		return nil, fmt.Errorf("%s claims %d rows", manifestName, m.Rows)
	}
	for i, f := range m.Files {
		if err := checkName(f.Name); err != nil {
			return nil, fmt.Errorf("%s: %w", manifestName, err)
		}
		if f.Size < 0 {
			return nil, fmt.Errorf("%s: file %q has size %d", manifestName, f.Name, f.Size)
		}
		if i > 0 && m.Files[i-1].Name >= f.Name {
			return nil, fmt.Errorf("%s: file %q is out of order", manifestName, f.Name)
		}
	}
	return &m, nil
}

// checkName refuses names that could lead out of the artifact's directory.
func checkName(name string) error {
	if name == "." || name == manifestName || !filepath.IsLocal(filepath.FromSlash(name)) || strings.Contains(name, "\\") || filepath.ToSlash(filepath.Clean(filepath.FromSlash(name))) != name {
		return fmt.Errorf("bad file name %q in an artifact", name)
	}
	return nil
}

// An Artifact is an immutable tree of files in a store.
type Artifact struct {
	store  *Store
	digest Digest
	m      *manifest
}

// Has reports whether the artifact d is in the store with all its files at
// their right sizes. It reads no content.
func (s *Store) Has(d Digest) bool {
	_, err := s.Open(d)
	return err == nil
}

// whole is Has for those who are about to rely on it: it reads all content.
func (s *Store) whole(d Digest) bool {
	a, err := s.Open(d)
	if err == nil {
		_, err = a.Dir()
	}
	return err == nil
}

// Open returns the artifact d after checking its manifest and the sizes of its
// files. Their content is checked when Path, Dir or Rows first reads them. An
// artifact that is missing or incomplete is ErrNotFound.
func (s *Store) Open(d Digest) (*Artifact, error) {
	dir := s.ObjectDir(d)
	m, err := s.manifest(d)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("artifact %v: %w", d, ErrNotFound)
	}
	if errors.As(err, new(badManifest)) {
		return nil, fmt.Errorf("artifact %v: %w: %w", d, err, ErrNotFound)
	}
	if err != nil {
		return nil, fmt.Errorf("open artifact %v: %w", d, err)
	}
	for _, fi := range m.Files {
		st, err := os.Stat(filepath.Join(dir, filepath.FromSlash(fi.Name)))
		if err != nil || st.Size() != fi.Size {
			return nil, fmt.Errorf("artifact %v: file %s is missing or cut short: %w", d, fi.Name, ErrNotFound)
		}
	}
	return &Artifact{s, d, m}, nil
}

// Digest returns the digest of the artifact's content.
func (a *Artifact) Digest() Digest { return a.digest }

// Type returns what the artifact is.
func (a *Artifact) Type() Type { return a.m.Type }

// Count returns the number of rows of the artifact's table, 0 without one.
func (a *Artifact) Count() int64 { return a.m.Rows }

// Object returns the artifact as records name it.
func (a *Artifact) Object() Object {
	return Object{a.digest, a.m.Type, a.m.Rows, a.m.bytes()}
}

// Files returns the artifact's files, sorted by name.
func (a *Artifact) Files() []FileInfo { return a.m.Files }

// Has reports whether the artifact has a file of that name.
func (a *Artifact) Has(name string) bool {
	for _, f := range a.m.Files {
		if f.Name == name {
			return true
		}
	}
	return false
}

// size returns the recorded size of the named file.
func (a *Artifact) size(name string) int64 {
	for _, f := range a.m.Files {
		if f.Name == name {
			return f.Size
		}
	}
	return 0
}

// Path returns the path of the named file after checking its content against
// the manifest, once per process. The file must not be changed.
func (a *Artifact) Path(name string) (string, error) {
	for _, f := range a.m.Files {
		if f.Name != name {
			continue
		}
		path := filepath.Join(a.store.ObjectDir(a.digest), filepath.FromSlash(name))
		id := a.digest.String() + "/" + name
		a.store.mu.Lock()
		done := a.store.verified[id]
		a.store.mu.Unlock()
		if done {
			return path, nil
		}
		got, err := HashFile(path)
		if err != nil {
			return "", fmt.Errorf("read %s of artifact %v: %w", name, a.digest, err)
		}
		if got != f.SHA256 {
			return "", fmt.Errorf("%s is damaged: its content hashes to %v, recorded was %v; run pipe verify --repair, and then again", path, got, f.SHA256)
		}
		a.store.mu.Lock()
		a.store.verified[id] = true
		a.store.mu.Unlock()
		return path, nil
	}
	return "", fmt.Errorf("artifact %v has no file %q", a.digest, name)
}

// Dir returns the artifact's directory after checking all its files.
func (a *Artifact) Dir() (string, error) {
	for _, f := range a.m.Files {
		if _, err := a.Path(f.Name); err != nil {
			return "", err
		}
	}
	return a.store.ObjectDir(a.digest), nil
}

// ReadJSON decodes the named file of a into v.
func ReadJSON(a *Artifact, name string, v any) error {
	path, err := a.Path(name)
	if err != nil {
		return err
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("read %s: %w", name, err)
	}
	if err := json.Unmarshal(b, v); err != nil {
		return fmt.Errorf("read %s: %w", path, err)
	}
	return nil
}

// HashFile returns the hash of the content of a file.
func HashFile(path string) (d Digest, err error) {
	f, err := os.Open(path)
	if err != nil {
		return d, err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return d, err
	}
	h.Sum(d[:0])
	return d, nil
}
