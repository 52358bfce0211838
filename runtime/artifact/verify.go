package artifact

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// A Maker is an action that made an artifact.
type Maker struct {
	Key    Key    `json:"key"`
	Addr   string `json:"stage"`
	Output string `json:"output"`
	Run    string `json:"run"`
}

// A Damage is a file of the store that is not what it was when it was written.
type Damage struct {
	Path    string  `json:"path"`
	Problem string  `json:"problem"`
	Makers  []Maker `json:"made_by"` // empty for an artifact that no record names

	whole string // what has to go for the damage to be gone: an artifact is replaced as a whole
}

// Verified is what Verify found.
type Verified struct {
	Records int      `json:"records"`
	Objects int      `json:"objects"`
	Bytes   int64    `json:"bytes"`   // read
	Damages []Damage `json:"damages"` // sorted by path
	Missing []Maker  `json:"missing"` // actions with an output that is not in the store: they run again when they are needed
}

// Verify reads the whole store and compares it with its digests. check, which
// may be nil, is asked about each record too. progress, which may be nil, is
// told of the bytes read. What comes or goes meanwhile is passed over.
func (s *Store) Verify(ctx context.Context, check func(*Record) error, progress func(done, total int64)) (*Verified, error) {
	if progress == nil {
		progress = func(int64, int64) {}
	}
	v := &verifier{Store: s, ctx: ctx, progress: progress, makers: map[Digest][]Maker{},
		found: &Verified{Damages: []Damage{}, Missing: []Maker{}}}
	if err := v.run(check); err != nil {
		return v.found, fmt.Errorf("verify the store: %w", err)
	}
	slices.SortFunc(v.found.Damages, func(a, b Damage) int { return strings.Compare(a.Path, b.Path) })
	return v.found, nil
}

type verifier struct {
	*Store
	ctx      context.Context
	progress func(done, total int64)
	total    int64
	makers   map[Digest][]Maker
	found    *Verified
}

func (v *verifier) run(check func(*Record) error) error {
	if err := v.eachRecord(func(k Key, path string, _ fs.FileInfo) error { return v.record(k, path, check) }); err != nil {
		return err
	}
	present := map[Digest]bool{}
	err := v.eachObject(func(d Digest, path string, _ fs.FileInfo) error {
		present[d] = true
		size, _, err := treeSize(path)
		v.total += size
		return err
	})
	if err != nil {
		return err
	}
	for d, makers := range v.makers {
		if !present[d] {
			v.found.Missing = append(v.found.Missing, makers...)
		}
	}
	slices.SortFunc(v.found.Missing, func(a, b Maker) int { return strings.Compare(a.Addr, b.Addr) })
	if err := v.eachObject(v.object); err != nil {
		return err
	}
	v.progress(v.found.Bytes, v.found.Bytes)
	return nil
}

func (v *verifier) damage(path, whole string, makers []Maker, format string, args ...any) {
	v.found.Damages = append(v.found.Damages, Damage{path, fmt.Sprintf(format, args...), makers, whole})
}

func (v *verifier) record(k Key, path string, check func(*Record) error) error {
	if err := v.ctx.Err(); err != nil {
		return err
	}
	r, err := v.readRecord(k)
	if _, statErr := os.Lstat(path); errors.Is(statErr, fs.ErrNotExist) {
		return nil
	}
	if err == nil && check != nil {
		err = check(r)
	}
	if err != nil {
		v.damage(path, path, nil, "%v", err)
		return nil
	}
	v.found.Records++
	me := Maker{Key: k, Addr: r.Addr, Run: r.Run}
	if _, err := v.Series(k); err != nil {
		if _, statErr := os.Lstat(v.seriesPath(k)); statErr == nil {
			v.damage(v.seriesPath(k), v.seriesPath(k), []Maker{me}, "%v", err)
		}
	}
	for name, o := range r.Outputs {
		made := me
		made.Output = name
		v.makers[o.Digest] = append(v.makers[o.Digest], made)
	}
	return nil
}

func (v *verifier) object(d Digest, dir string, _ fs.FileInfo) error {
	makers := v.makers[d]
	manifest := filepath.Join(dir, manifestName)
	m, err := v.manifest(d)
	if err != nil {
		if _, statErr := os.Lstat(dir); errors.Is(statErr, fs.ErrNotExist) {
			return nil
		}
		v.damage(manifest, dir, makers, "%v", err)
		return nil
	}
	v.found.Objects++
	if st, err := os.Lstat(manifest); err == nil {
		v.found.Bytes += st.Size()
	}
	known := map[string]bool{manifest: true}
	for _, f := range m.Files {
		path := filepath.Join(dir, filepath.FromSlash(f.Name))
		known[path] = true
		got, err := v.hash(path)
		switch {
		case v.ctx.Err() != nil:
			return v.ctx.Err()
		case err != nil:
			if _, statErr := os.Lstat(dir); errors.Is(statErr, fs.ErrNotExist) {
				return nil
			}
			v.damage(path, dir, makers, "%v", err)
		case got != f.SHA256:
			v.damage(path, dir, makers, "its content hashes to %v; it was %v", got, f.SHA256)
		}
	}
	return filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err == nil && !e.IsDir() && !known[path] {
			v.damage(path, dir, makers, "it is not part of the artifact it lies in")
		}
		return err
	})
}

// hash hashes a file, telling of progress.
func (v *verifier) hash(path string) (d Digest, err error) {
	f, err := os.Open(path)
	if err != nil {
		return d, err
	}
	defer f.Close()
	h := sha256.New()
	buf := make([]byte, 1<<20)
	for {
		if err := v.ctx.Err(); err != nil {
			return d, err
		}
		n, err := f.Read(buf)
		h.Write(buf[:n])
		v.found.Bytes += int64(n)
		v.progress(v.found.Bytes, max(v.total, v.found.Bytes))
		if err == io.EOF {
			h.Sum(d[:0])
			return d, nil
		}
		if err != nil {
			return d, err
		}
	}
}

// SetAside moves what is damaged into the directory damaged/ of the store and
// returns where it lies: the action that made it runs again when it is needed.
// Damages of one artifact move once; moved is empty for the others.
func (s *Store) SetAside(d Damage) (moved string, err error) {
	if _, err := os.Lstat(d.whole); errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	to := filepath.Join(s.dir, "damaged", filepath.Base(d.whole)+"-"+rand.Text()[:8])
	if err := s.rename(d.whole, to); err != nil {
		return "", s.Advise(fmt.Errorf("set aside: %w", err))
	}
	if err := errors.Join(s.fs.Sync(filepath.Dir(d.whole)), s.fs.Sync(filepath.Dir(to))); err != nil {
		return "", s.Advise(fmt.Errorf("set aside: %w", err))
	}
	return to, nil
}
