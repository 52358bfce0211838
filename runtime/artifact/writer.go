package artifact

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// A Writer writes one artifact. Nothing of it is visible until Commit. A
// Writer is used by one goroutine at a time.
type Writer struct {
	store *Store
	typ   Type
	dir   string
	table *tableWriter
	done  bool
}

// Create starts an artifact.
func (s *Store) Create(typ Type) (*Writer, error) {
	dir, err := s.tempDir("artifact")
	if err != nil {
		return nil, s.Advise(fmt.Errorf("create artifact: %w", err))
	}
	s.note(noteTemp + filepath.Base(dir)) // its stage may take days
	return &Writer{store: s, typ: typ, dir: dir}, nil
}

// Dir returns the directory that becomes the artifact: whatever regular files
// lie in it at Commit are part of it.
func (w *Writer) Dir() string { return w.dir }

// AddFile adds a file of the given slash-separated name, written by f.
func (w *Writer) AddFile(name string, f func(io.Writer) error) error {
	if err := checkName(name); err != nil {
		return err
	}
	if err := w.addFile(filepath.Join(w.dir, filepath.FromSlash(name)), f); err != nil {
		return w.store.Advise(fmt.Errorf("add %s: %w", name, err))
	}
	return nil
}

func (w *Writer) addFile(path string, f func(io.Writer) error) error {
	if err := w.store.mkdirAll(filepath.Dir(path)); err != nil {
		return err
	}
	file, err := w.store.create(path)
	if err != nil {
		return err
	}
	b := bufio.NewWriterSize(file, 1<<16)
	if err := f(b); err != nil {
		file.Close()
		return err
	}
	if err := b.Flush(); err != nil {
		file.Close()
		return err
	}
	return file.Close()
}

// WriteJSON adds a file holding v as indented JSON.
func (w *Writer) WriteJSON(name string, v any) error {
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return fmt.Errorf("add %s: %w", name, err)
	}
	return w.AddFile(name, func(f io.Writer) error {
		_, err := f.Write(append(b, '\n'))
		return err
	})
}

// Commit hashes and flushes what was written and publishes it by one rename.
// An equal artifact that is there already is kept; a damaged one is replaced.
func (w *Writer) Commit() (Object, error) {
	if w.done {
		return Object{}, fmt.Errorf("commit artifact: it was committed or aborted already")
	}
	o, err := w.commit()
	if err != nil {
		w.Abort()
		return Object{}, w.store.Advise(fmt.Errorf("write artifact: %w", err))
	}
	w.done = true
	return o, nil
}

func (w *Writer) commit() (Object, error) {
	m := manifest{Format: 1, Type: w.typ, Files: []FileInfo{}}
	if w.table != nil {
		if err := w.table.close(); err != nil {
			return Object{}, err
		}
		m.Rows = w.table.rows
	}
	err := filepath.WalkDir(w.dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() { // which the stage made
			return w.store.openUp(path)
		}
		if !d.Type().IsRegular() {
			return fmt.Errorf("%s is not a regular file", path)
		}
		rel, err := filepath.Rel(w.dir, path)
		if err != nil {
			return err
		}
		fi := FileInfo{Name: filepath.ToSlash(rel)}
		if err := checkName(fi.Name); err != nil {
			return err
		}
		if fi.Size, fi.SHA256, err = w.store.seal(path); err != nil {
			return err
		}
		m.Files = append(m.Files, fi)
		return nil
	})
	if err != nil {
		return Object{}, err
	}
	digest, b, err := m.digest()
	if err != nil {
		return Object{}, err
	}
	o := Object{digest, w.typ, m.Rows, m.bytes()}
	if len(b) > maxManifest {
		return Object{}, fmt.Errorf("it has %d files, too many for a manifest of %d MiB; put them into an archive", len(m.Files), maxManifest>>20)
	}
	w.store.note(noteObject + digest.String())
	if w.store.whole(digest) {
		w.store.fs.RemoveAll(w.dir) // what stays is garbage
		return o, nil
	}
	if err := w.store.writeNew(filepath.Join(w.dir, manifestName), b, 0o444, true); err != nil {
		return Object{}, err
	}
	if err := w.store.syncTree(w.dir); err != nil {
		return Object{}, err
	}
	return o, w.store.publishObject(w.dir, digest)
}

// Abort throws away what was not committed. It may be called at any time.
func (w *Writer) Abort() {
	if w.done {
		return
	}
	w.done = true
	if w.table != nil {
		w.table.abort()
	}
	w.store.fs.RemoveAll(w.dir)
}

// seal flushes a file, makes it read-only, and returns its size and hash.
func (s *Store) seal(path string) (int64, Digest, error) {
	if err := s.fs.Chmod(path, 0o644); err != nil { // a copy of what was read-only
		return 0, Digest{}, err
	}
	if err := s.fs.Sync(path); err != nil {
		return 0, Digest{}, err
	}
	if err := s.fs.Chmod(path, 0o444); err != nil {
		return 0, Digest{}, err
	}
	st, err := os.Stat(path)
	if err != nil {
		return 0, Digest{}, err
	}
	d, err := HashFile(path)
	return st.Size(), d, err
}

// writeNew writes a small new file, and flushes it if it must not be lost.
func (s *Store) writeNew(path string, b []byte, mode fs.FileMode, flush bool) error {
	f, err := s.open(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if err == nil && flush {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

func (s *Store) syncTree(dir string) error {
	return filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.IsDir() {
			return err
		}
		return s.fs.Sync(path)
	})
}
