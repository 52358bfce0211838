// Package fsys is the seam between a store and its disk: whatever changes the
// store goes through an [FS], so that a test can make every single call fail.
// Reading does not: what was read is checked by its digest.
package fsys

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"runtime"
	"syscall"
	"time"
)

// An FS changes files. Its methods are those of package os, and their errors
// name the path.
type FS interface {
	// Open opens a file for writing; flag is as for os.OpenFile.
	Open(path string, flag int, perm fs.FileMode) (File, error)
	Mkdir(path string, perm fs.FileMode) error
	Rename(from, to string) error
	Link(from, to string) error
	Remove(path string) error
	RemoveAll(path string) error
	Chmod(path string, mode fs.FileMode) error
	Chtimes(path string, t time.Time) error // of access and change
	// Sync flushes the content of a file, or the entries of a directory, to the
	// disk.
	Sync(path string) error
}

// A File is open for writing.
type File interface {
	io.WriteCloser
	io.Seeker
	Sync() error
}

// OS is the file system of this machine.
type OS struct{}

// Open implements FS.
func (OS) Open(path string, flag int, perm fs.FileMode) (File, error) {
	f, err := os.OpenFile(path, flag, perm)
	if err != nil {
		return nil, err
	}
	return f, nil
}

// Mkdir implements FS.
func (OS) Mkdir(path string, perm fs.FileMode) error { return os.Mkdir(path, perm) }

// Rename implements FS.
func (OS) Rename(from, to string) error { return os.Rename(from, to) }

// Link implements FS.
func (OS) Link(from, to string) error { return os.Link(from, to) }

// Remove implements FS.
func (OS) Remove(path string) error { return os.Remove(path) }

// RemoveAll implements FS.
func (OS) RemoveAll(path string) error { return os.RemoveAll(path) }

// Chmod implements FS.
func (OS) Chmod(path string, mode fs.FileMode) error { return os.Chmod(path, mode) }

// Chtimes implements FS.
func (OS) Chtimes(path string, t time.Time) error { return os.Chtimes(path, t, t) }

// Sync implements FS. Windows cannot flush a directory and need not; it flushes
// only files that are open for writing.
func (OS) Sync(path string) error {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	flag := os.O_RDWR
	if info.IsDir() {
		if runtime.GOOS == "windows" {
			return nil
		}
		flag = os.O_RDONLY
	}
	f, err := os.OpenFile(path, flag, 0)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// Full reports whether err says that a disk, or a user's share of it, is full.
func Full(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
}

// ReadOnly reports whether err says that nothing may be written there.
func ReadOnly(err error) bool {
	return errors.Is(err, syscall.EROFS) || errors.Is(err, fs.ErrPermission)
}

// Paths returns the paths that an error of package os names.
func Paths(err error) (list []string) {
	if e := (*fs.PathError)(nil); errors.As(err, &e) {
		list = append(list, e.Path)
	}
	if e := (*os.LinkError)(nil); errors.As(err, &e) {
		list = append(list, e.Old, e.New)
	}
	return list
}
