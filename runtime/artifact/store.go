package artifact

import (
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"sync"
)

// A Store is a directory of artifacts and of the records of the actions that
// made them:
//
//	objects/sha256/ab/<digest>/   an artifact: its files and manifest.json
//	actions/ab/<key>.json         what an action made: see [Record]
//	journals/                     write-ahead journals of paid calls
//	work/<key>/                   private directories of unfinished stages
//	leases/<key>                  who runs an action now
//	tmp/                          what is being written
//
// Everything is written under a temporary name, flushed, and published by one
// rename; nothing published is ever changed. Several processes may use one
// store at once.
type Store struct {
	dir string

	mu       sync.Mutex
	verified map[string]bool // "digest/name" of files whose content was checked by this process
}

// ErrNotFound is returned for content or a record that is not in the store.
var ErrNotFound = errors.New("not in the store")

// OpenStore opens the store in dir, making it if needed.
func OpenStore(dir string) (*Store, error) {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("open store %s: %w", dir, err)
	}
	for _, sub := range []string{"objects/sha256", "actions", "journals", "work", "leases", "tmp"} {
		if err := os.MkdirAll(filepath.Join(abs, sub), 0o777); err != nil {
			return nil, fmt.Errorf("open store %s: %w", dir, err)
		}
	}
	return &Store{dir: abs, verified: map[string]bool{}}, nil
}

// Dir returns the absolute path of the store.
func (s *Store) Dir() string { return s.dir }

// Journals returns the directory for write-ahead journals of paid calls, which
// outlive the actions that made them.
func (s *Store) Journals() string { return filepath.Join(s.dir, "journals") }

func (s *Store) objectDir(d Digest) string {
	h := hex.EncodeToString(d[:])
	return filepath.Join(s.dir, "objects", "sha256", h[:2], h)
}

// Work returns the private directory of the action k, making it if needed. It
// survives a crash and is found again under the same key.
func (s *Store) Work(k Key) (string, error) {
	dir := filepath.Join(s.dir, "work", k.String())
	if err := os.MkdirAll(dir, 0o777); err != nil {
		return "", fmt.Errorf("make work directory: %w", err)
	}
	return dir, nil
}

// RemoveWork deletes the private directory of the action k.
func (s *Store) RemoveWork(k Key) error {
	return os.RemoveAll(filepath.Join(s.dir, "work", k.String()))
}

// publish renames the directory or file from to its final name, and flushes
// both directories. Somebody else having published the same name first is
// success: names are content.
func publish(from, to string) error {
	if err := os.MkdirAll(filepath.Dir(to), 0o777); err != nil {
		return err
	}
	if err := os.Rename(from, to); err != nil {
		if _, statErr := os.Stat(to); statErr == nil && (errors.Is(err, fs.ErrExist) || isNotEmpty(err)) {
			return os.RemoveAll(from)
		}
		return err
	}
	if err := syncDir(filepath.Dir(to)); err != nil {
		return err
	}
	return syncDir(filepath.Dir(filepath.Dir(to)))
}

// syncDir flushes a directory's entries to the disk. Windows cannot and need not.
func syncDir(dir string) error {
	if runtime.GOOS == "windows" {
		return nil
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
