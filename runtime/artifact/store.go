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

	"pipe/runtime/fsys"
)

// A Store is a directory of artifacts and of the records of the actions that
// made them:
//
//	objects/sha256/ab/<digest>/   an artifact: its files and manifest.json
//	actions/ab/<key>.json         what an action made: see [Record]
//	journals/                     write-ahead journals of paid calls
//	work/<key>/                   private directories of unfinished stages
//	leases/<key>                  who runs an action now
//	live/<name>                   what a process uses now: see [Store.Begin]
//	tmp/                          what is being written
//
// Everything is written under a temporary name, flushed, and published by one
// rename; nothing published is ever changed. Several processes may use one
// store at once.
//
// A store that belongs to several users is a directory whose group, or others,
// may write to it: the directories that pipe makes in it get the same
// permission, whatever the umask.
type Store struct {
	dir    string
	fs     fsys.FS
	share  fs.FileMode // permissions of every directory in the store, beyond the umask
	unmade error       // why the store cannot be written to, if its directories could not be made

	mu       sync.Mutex
	verified map[string]bool   // "digest/name" of files whose content was checked by this process
	tables   map[Digest][]byte // mapped by this process
	session  *session          // nil: not begun
}

// ErrNotFound is returned for content or a record that is not in the store.
var ErrNotFound = errors.New("not in the store")

// OpenStore opens the store in dir, making it if needed. One that cannot be
// written to can be read: writing to it is an error then.
func OpenStore(dir string) (*Store, error) { return OpenStoreOn(fsys.OS{}, dir) }

// OpenStoreOn is OpenStore with another way to write.
func OpenStoreOn(disk fsys.FS, dir string) (*Store, error) {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("open store %s: %w", dir, err)
	}
	s := &Store{dir: abs, fs: disk, verified: map[string]bool{}, tables: map[Digest][]byte{}}
	if st, err := os.Stat(abs); err == nil {
		s.share = sharing(st.Mode())
	}
	for _, sub := range []string{"objects/sha256", "actions", "journals", "work", "leases", "live", "tmp"} {
		err := s.mkdirAll(filepath.Join(abs, sub))
		if fsys.ReadOnly(err) {
			s.unmade = err
			break
		}
		if err != nil {
			return nil, s.Advise(fmt.Errorf("open store %s: %w", dir, err))
		}
	}
	return s, nil
}

// sharing returns the permissions that others than the owner have on all of a
// store whose directory has this mode.
func sharing(mode fs.FileMode) (share fs.FileMode) {
	if runtime.GOOS == "windows" {
		return 0
	}
	if mode&0o020 != 0 {
		share |= 0o070
	}
	if mode&0o002 != 0 {
		share |= 0o007
	}
	return share
}

// mkdir makes one directory.
func (s *Store) mkdir(dir string) error {
	if err := s.fs.Mkdir(dir, 0o777); err != nil {
		return err
	}
	return s.openUp(dir)
}

// openUp gives a directory to those who share the store, whatever the umask.
func (s *Store) openUp(dir string) error {
	if s.share == 0 {
		return nil
	}
	st, err := os.Stat(dir)
	if err != nil {
		return err
	}
	if have := st.Mode(); have.Perm()|s.share != have.Perm() {
		return s.fs.Chmod(dir, have.Perm()|s.share|have&(fs.ModeSetgid|fs.ModeSticky))
	}
	return nil
}

// mkdirAll makes a directory and those it lies in.
func (s *Store) mkdirAll(dir string) error {
	if st, err := os.Stat(dir); err == nil && st.IsDir() {
		return nil
	}
	if err := s.mkdirAll(filepath.Dir(dir)); err != nil {
		return err
	}
	if err := s.mkdir(dir); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return nil
}

// MakeDir makes a directory below the store at root, and those it lies in, for
// those who share the store: they may write to it as they may to the store.
func MakeDir(root, dir string) error {
	s := &Store{fs: fsys.OS{}}
	if st, err := os.Stat(root); err == nil {
		s.share = sharing(st.Mode())
	}
	return s.mkdirAll(dir)
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
// survives a crash and is found again under the same key. addr is the address
// of its stage, for people.
func (s *Store) Work(k Key, addr string) (string, error) {
	if s.unmade != nil {
		return "", s.Advise(fmt.Errorf("make work directory: %w", s.unmade))
	}
	dir := s.workDir(k)
	if err := s.mkdirAll(dir); err != nil {
		return "", s.Advise(fmt.Errorf("make work directory: %w", err))
	}
	if b, err := os.ReadFile(dir + workAddr); err != nil || string(b) != addr {
		if err := s.putFile(dir+workAddr, []byte(addr), 0o644, false); err != nil {
			return "", s.Advise(fmt.Errorf("make work directory: %w", err))
		}
	}
	return dir, nil
}

// workAddr ends the name of the file beside a work directory that says whose it
// is.
const workAddr = ".stage"

func (s *Store) workDir(k Key) string { return filepath.Join(s.dir, "work", k.String()) }

// RemoveWork deletes the private directory of the action k.
func (s *Store) RemoveWork(k Key) error {
	err := s.fs.Remove(s.workDir(k) + workAddr)
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	return errors.Join(s.fs.RemoveAll(s.workDir(k)), err)
}

// tempDir makes an empty directory below tmp/, with the mode that others have.
func (s *Store) tempDir(prefix string) (string, error) {
	if s.unmade != nil {
		return "", s.unmade
	}
	dir := filepath.Join(s.dir, "tmp", prefix+"-"+rand.Text())
	return dir, s.mkdir(dir)
}

// Replace writes a small file of the store anew: those who read it see the old
// content or the new, also after a power failure. name is slash-separated.
func (s *Store) Replace(name string, b []byte) error { return s.replace(name, b, true) }

// Remember is Replace for what may be lost: after a power failure the file may
// be empty, or end in zeros. It is fast.
func (s *Store) Remember(name string, b []byte) error { return s.replace(name, b, false) }

func (s *Store) replace(name string, b []byte, flush bool) error {
	err := s.putFile(filepath.Join(s.dir, filepath.FromSlash(name)), b, 0o644, flush)
	if err != nil {
		return s.Advise(fmt.Errorf("write %s: %w", name, err))
	}
	return nil
}

// Forget removes a small file that Replace wrote. One that is not there is an
// fs.ErrNotExist.
func (s *Store) Forget(name string) error {
	return s.Advise(s.fs.Remove(filepath.Join(s.dir, filepath.FromSlash(name))))
}

// putFile publishes a small file.
func (s *Store) putFile(path string, b []byte, mode fs.FileMode, flush bool) error {
	dir, err := s.tempDir("file")
	if err != nil {
		return err
	}
	defer s.fs.RemoveAll(dir)
	tmp := filepath.Join(dir, filepath.Base(path))
	if err := s.writeNew(tmp, b, mode, flush); err != nil {
		return err
	}
	if err := s.rename(tmp, path); err != nil || !flush {
		return err
	}
	return s.syncNames(path)
}

// rename gives the directory or file from its final name.
func (s *Store) rename(from, to string) error {
	if err := s.mkdirAll(filepath.Dir(to)); err != nil {
		return err
	}
	return s.fs.Rename(from, to)
}

// syncNames flushes the directories that name path.
func (s *Store) syncNames(path string) error {
	if err := s.fs.Sync(filepath.Dir(path)); err != nil {
		return err
	}
	return s.fs.Sync(filepath.Dir(filepath.Dir(path)))
}

// readDir lists a directory; one that is not there is empty.
func readDir(dir string) ([]fs.DirEntry, error) {
	list, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return list, err
}

// publishObject publishes the finished directory from as the artifact d.
// Somebody else having published it first is success: names are content. What
// has the name but is not whole gives way.
func (s *Store) publishObject(from string, d Digest) error {
	to := s.ObjectDir(d)
	for range 3 {
		err := s.rename(from, to)
		if err == nil {
			return s.syncNames(to)
		}
		if _, statErr := os.Lstat(to); statErr != nil {
			return err
		}
		if s.whole(d) {
			s.fs.RemoveAll(from) // what stays is garbage
			return s.syncNames(to)
		}
		grave, err := s.tempDir("broken")
		if err != nil {
			return err
		}
		err = s.fs.Rename(to, filepath.Join(grave, "object"))
		if err = errors.Join(err, s.fs.RemoveAll(grave)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return fmt.Errorf("%s is broken and comes back", to)
}
