package artifact

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"pipe/runtime/fsys"
)

// ErrUnwritable is wrapped by errors about a store that this user may only
// read.
var ErrUnwritable = errors.New("the store cannot be written to")

// An advised error says what to do, and is not told twice.
type advised struct {
	error
	unwritable bool
}

func (a *advised) Unwrap() error { return a.error }

// Is makes it an ErrUnwritable.
func (a *advised) Is(target error) bool { return a.unwritable && target == ErrUnwritable }

// AdviseFull adds to an error about a full disk, wherever it is, how much is
// free there. Other errors are returned as they are.
func AdviseFull(err error) error {
	if !fsys.Full(err) || errors.As(err, new(*advised)) {
		return err
	}
	for _, p := range fsys.Paths(err) {
		dir := filepath.Dir(p)
		for n := 0; n < 100 && dir != filepath.Dir(dir); n++ { // what was half written may be gone
			if _, err := os.Stat(dir); err == nil {
				break
			}
			dir = filepath.Dir(dir)
		}
		if n, ok := fsys.Free(dir); ok {
			return &advised{error: fmt.Errorf("%w; the disk of %s is full, %s are free: make room there, and run again", err, dir, sizeText(n))}
		}
	}
	return &advised{error: fmt.Errorf("%w; make room on that disk, and run again", err)}
}

// Advise adds to an error about a path in the store what can be done about a
// full disk, or about a store that this user may not write to. To one about
// another full disk it adds how much is free there. Other errors are returned as
// they are.
func (s *Store) Advise(err error) error {
	if err == nil || errors.As(err, new(*advised)) {
		return err
	}
	if !s.holds(fsys.Paths(err)) {
		return AdviseFull(err)
	}
	const other = "or choose another store with --store or PIPE_STORE"
	switch {
	case fsys.Full(err):
		left := ""
		if n, ok := fsys.Free(s.dir); ok {
			left = fmt.Sprintf("; %s are free", sizeText(n))
		}
		return &advised{error: fmt.Errorf("%w; the disk of the store %s is full%s: make room there (pipe gc removes what no recent run needs) %s, and run again", err, s.dir, left, other)}
	case fsys.ReadOnly(err):
		return &advised{fmt.Errorf("%w; the store %s cannot be written to: get the permission to write there, %s", err, s.dir, other), true}
	}
	return err
}

// holds reports whether one of the paths lies in the store.
func (s *Store) holds(paths []string) bool {
	for _, p := range paths {
		if p == s.dir || strings.HasPrefix(p, s.dir+string(filepath.Separator)) {
			return true
		}
		if strings.HasPrefix(s.dir, p+string(filepath.Separator)) {
			return true // the store could not be made
		}
	}
	return false
}

// A storeFile is a file of the store that is being written. Its first failure
// sticks, for those who write through libraries that may pass over one, and
// says how much did not fit.
type storeFile struct {
	fsys.File
	written int64
	err     error
}

func (s *Store) create(path string) (*storeFile, error) {
	return s.open(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o666)
}

// open opens a file, which those who share the store may read.
func (s *Store) open(path string, flag int, mode fs.FileMode) (*storeFile, error) {
	f, err := s.fs.Open(path, flag, mode)
	if err != nil {
		return nil, err
	}
	if s.share != 0 {
		if err := s.fs.Chmod(path, mode|s.share&0o444); err != nil {
			f.Close()
			return nil, err
		}
	}
	return &storeFile{File: f}, nil
}

// Write implements io.Writer.
func (f *storeFile) Write(b []byte) (int, error) {
	if f.err != nil {
		return 0, f.err
	}
	n, err := f.File.Write(b)
	f.written += int64(n)
	if fsys.Full(err) {
		err = fmt.Errorf("%w after %s: at least %s more are needed", err, sizeText(f.written), sizeText(int64(len(b)-n)))
	}
	f.err = err
	return n, err
}

// Close implements io.Closer.
func (f *storeFile) Close() error {
	err := f.File.Close()
	if f.err != nil {
		return f.err
	}
	return err
}

// sizeText prints a number of bytes for people.
func sizeText(n int64) string {
	switch {
	case n < 1<<10:
		return fmt.Sprintf("%d bytes", n)
	case n < 1<<20:
		return fmt.Sprintf("%.1f KiB", float64(n)/(1<<10))
	case n < 1<<30:
		return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20))
	}
	return fmt.Sprintf("%.1f GiB", float64(n)/(1<<30))
}
