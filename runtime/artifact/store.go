package artifact

import (
	"crypto/rand"
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

// ObjectDir returns where the artifact d lies, or would lie. Its content is
// checked only by those who [Store.Open] it.
func (s *Store) ObjectDir(d Digest) string {
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

// tempDir makes an empty directory below tmp/, with the mode that others have.
func (s *Store) tempDir(prefix string) (string, error) {
	dir := filepath.Join(s.dir, "tmp", prefix+"-"+rand.Text())
	return dir, os.Mkdir(dir, 0o777)
}

// publish renames the directory or file from to its final name, and flushes
// the directories that name it.
func publish(from, to string) error {
	if err := os.MkdirAll(filepath.Dir(to), 0o777); err != nil {
		return err
	}
	if err := os.Rename(from, to); err != nil {
		return err
	}
	if err := syncDir(filepath.Dir(to)); err != nil {
		return err
	}
	return syncDir(filepath.Dir(filepath.Dir(to)))
}

// publishObject publishes the finished directory from as the artifact d.
// Somebody else having published it first is success: names are content. What
// has the name but is not whole gives way.
func (s *Store) publishObject(from string, d Digest) error {
	to := s.ObjectDir(d)
	for range 3 {
		err := publish(from, to)
		if err == nil {
			return nil
		}
		if _, statErr := os.Lstat(to); statErr != nil {
			return err
		}
		if s.whole(d) {
			return os.RemoveAll(from)
		}
		grave, err := s.tempDir("broken")
		if err != nil {
			return err
		}
		err = os.Rename(to, filepath.Join(grave, "object"))
		if err = errors.Join(err, os.RemoveAll(grave)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return fmt.Errorf("%s is broken and comes back", to)
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
