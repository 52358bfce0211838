// Package faultfs is a file system whose calls fail when a test wants them to.
package faultfs

import (
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"pipe/runtime/fsys"
)

// A Fault is what happens at the call that fails.
type Fault string

// The faults.
const (
	Full     Fault = "ENOSPC"        // half of a write arrives, nothing is made
	IO       Fault = "EIO"           // the call fails without an effect; a flush loses what was not flushed
	Short    Fault = "short write"   // half of a write arrives; other calls fail without an effect
	Late     Fault = "late error"    // the call takes effect and is reported as failed
	ReadOnly Fault = "EROFS"         // this call and all after it are refused
	Crash    Fault = "crash"         // the process dies before the call: it and all after it have no effect
	PowerCut Fault = "power failure" // a crash after which half of what was not flushed is zeros
)

// Faults lists all of them.
var Faults = []Fault{Full, IO, Short, Late, ReadOnly, Crash, PowerCut}

// An FS works on the disk, counts its calls and fails at one of them. It does
// not flush for real: only its own power fails.
type FS struct {
	at    int // the call that fails; 0 is none
	fault Fault

	mu    sync.Mutex
	calls int
	dead  bool
	log   []string
	dirty map[string]bool // files with content that was not flushed
}

// New returns a file system that has the fault at its at-th call, counted from
// 1; 0 never fails.
func New(at int, fault Fault) *FS {
	return &FS{at: at, fault: fault, dirty: map[string]bool{}}
}

// Calls returns how often the file system was called.
func (f *FS) Calls() int { f.mu.Lock(); defer f.mu.Unlock(); return f.calls }

// Last says which call failed, such as "sync objects/…".
func (f *FS) Last() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.at == 0 || f.at > len(f.log) {
		return "no call"
	}
	return f.log[f.at-1]
}

// call counts one call, which runs do unless it fails; half is what arrives of
// a call that fails halfway, and may be nil.
func (f *FS) call(op, path string, do func() error, half func()) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calls++
	f.log = append(f.log, op+" "+path)
	fail := func(err error) error { return &fs.PathError{Op: op, Path: path, Err: err} }
	if f.dead {
		if f.fault == ReadOnly {
			return fail(syscall.EROFS)
		}
		return fail(errDead)
	}
	if f.calls != f.at {
		return do()
	}
	switch f.fault {
	case Full, Short:
		if half != nil {
			half()
		}
		if f.fault == Full {
			return fail(syscall.ENOSPC)
		}
		return fail(io.ErrShortWrite)
	case Late:
		if err := do(); err != nil {
			return err
		}
		return fail(syscall.EIO)
	case ReadOnly:
		f.dead = true
		return fail(syscall.EROFS)
	case Crash:
		f.dead = true
		return fail(errDead)
	case PowerCut:
		f.dead = true
		for p := range f.dirty {
			lose(p)
		}
		return fail(errDead)
	}
	if op == "sync" {
		for p := range f.dirty {
			if p == path {
				lose(p)
			}
		}
	}
	return fail(syscall.EIO)
}

const errDead = syscall.ESHUTDOWN // of calls that a dead process no longer makes

// lose turns the second half of a file into zeros.
func lose(path string) {
	info, err := os.Stat(path)
	if err != nil || !info.Mode().IsRegular() {
		return
	}
	os.Chmod(path, 0o644)
	defer os.Chmod(path, info.Mode().Perm())
	if f, err := os.OpenFile(path, os.O_RDWR, 0); err == nil {
		defer f.Close()
		f.WriteAt(make([]byte, info.Size()-info.Size()/2), info.Size()/2)
	}
}

// Open implements fsys.FS.
func (f *FS) Open(path string, flag int, perm fs.FileMode) (out fsys.File, err error) {
	err = f.call("open", path, func() error {
		file, err := os.OpenFile(path, flag, perm)
		if err == nil {
			out = &File{fs: f, path: path, File: file}
		}
		return err
	}, nil)
	if err != nil && out != nil { // a late error: nobody will close it
		out.(*File).File.Close()
		out = nil
	}
	return out, err
}

// Mkdir implements fsys.FS.
func (f *FS) Mkdir(path string, perm fs.FileMode) error {
	return f.call("mkdir", path, func() error { return os.Mkdir(path, perm) }, nil)
}

// Rename implements fsys.FS.
func (f *FS) Rename(from, to string) error {
	return f.call("rename", to, func() error {
		if err := os.Rename(from, to); err != nil {
			return err
		}
		for p := range f.dirty {
			if rest, ok := strings.CutPrefix(p, from); ok && (rest == "" || rest[0] == filepath.Separator) {
				delete(f.dirty, p)
				f.dirty[to+rest] = true
			}
		}
		return nil
	}, nil)
}

// Link implements fsys.FS.
func (f *FS) Link(from, to string) error {
	return f.call("link", to, func() error { return os.Link(from, to) }, nil)
}

// Remove implements fsys.FS.
func (f *FS) Remove(path string) error {
	return f.call("remove", path, func() error { return os.Remove(path) }, nil)
}

// RemoveAll implements fsys.FS. One that fails halfway has removed an entry.
func (f *FS) RemoveAll(path string) error {
	return f.call("remove all", path, func() error { return os.RemoveAll(path) }, func() {
		if list, err := os.ReadDir(path); err == nil && len(list) > 0 {
			os.RemoveAll(filepath.Join(path, list[0].Name()))
		}
	})
}

// Chmod implements fsys.FS.
func (f *FS) Chmod(path string, mode fs.FileMode) error {
	return f.call("chmod", path, func() error { return os.Chmod(path, mode) }, nil)
}

// Chtimes implements fsys.FS.
func (f *FS) Chtimes(path string, t time.Time) error {
	return f.call("chtimes", path, func() error { return os.Chtimes(path, t, t) }, nil)
}

// Sync implements fsys.FS.
func (f *FS) Sync(path string) error {
	return f.call("sync", path, func() error {
		delete(f.dirty, path)
		_, err := os.Stat(path)
		return err
	}, nil)
}

// A File is open for writing.
type File struct {
	*os.File
	fs   *FS
	path string
}

// Write implements fsys.File.
func (f *File) Write(b []byte) (n int, err error) {
	write := func(b []byte) error {
		f.fs.dirty[f.path] = true
		n, err = f.File.Write(b)
		return err
	}
	return n, f.fs.call("write", f.path, func() error { return write(b) }, func() { write(b[:len(b)/2]) })
}

// Sync implements fsys.File.
func (f *File) Sync() error {
	return f.fs.call("sync", f.path, func() error { delete(f.fs.dirty, f.path); return nil }, nil)
}

// Close implements fsys.File. A file that fails to close is closed.
func (f *File) Close() error {
	closed := false
	err := f.fs.call("close", f.path, func() error { closed = true; return f.File.Close() }, nil)
	if !closed {
		f.File.Close()
	}
	return err
}
