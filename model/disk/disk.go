// Package disk maps model files into memory and writes files that are whole or
// absent, never half there.
package disk

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"unsafe"
)

// A Mapping is the read-only content of a file. Where the system can, it is
// mapped: pages come in as they are touched and are shared between processes.
// The file must not shrink while it is mapped.
type Mapping struct {
	Data  []byte // valid until Close; must not be written
	unmap func() error
}

// Map opens the regular file at path.
func Map(path string) (*Mapping, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	switch {
	case !info.Mode().IsRegular():
		return nil, fmt.Errorf("%s: not a regular file", path)
	case info.Size() != int64(int(info.Size())):
		return nil, fmt.Errorf("%s: %d bytes do not fit this machine's address space", path, info.Size())
	case info.Size() == 0:
		return &Mapping{}, nil
	}
	m, err := mapFile(f, int(info.Size()))
	if err != nil {
		return nil, fmt.Errorf("map %s: %w", path, err)
	}
	return m, nil
}

// Close releases the memory: slices of Data are dead after it. It may be
// called twice.
func (m *Mapping) Close() error {
	unmap := m.unmap
	m.Data, m.unmap = nil, nil
	if unmap == nil {
		return nil
	}
	return unmap()
}

// Mapped reports whether Data is of the file, and not a copy.
func (m *Mapping) Mapped() bool { return m.unmap != nil }

// Forget takes the pages of part, a slice of Data, out of memory, where they
// were mapped: what has been copied need not stay. They come back when they are
// touched.
func (m *Mapping) Forget(part []byte) {
	if m.unmap == nil || len(part) == 0 {
		return
	}
	from := int(uintptr(unsafe.Pointer(&part[0])) - uintptr(unsafe.Pointer(&m.Data[0])))
	if from < 0 || from+len(part) > len(m.Data) {
		return // of another mapping
	}
	page := os.Getpagesize()
	if lo, hi := (from+page-1)/page*page, (from+len(part))/page*page; lo < hi {
		forget(m.Data[lo:hi])
	}
}

// read is the portable way: it copies the file into memory.
func read(f *os.File, size int) (*Mapping, error) {
	m := &Mapping{Data: make([]byte, size)}
	_, err := io.ReadFull(f, m.Data)
	return m, err
}

// Write creates or replaces the file at path with what fill writes: under a
// temporary name beside it, flushed to disk, then renamed. After a failure
// nothing of it is left and an old file stays as it was; a full disk's says how
// much did not fit.
func Write(path string, fill func(io.Writer) error) (err error) {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".tmp-")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			f.Close()
			os.Remove(f.Name())
		}
	}()
	w := bufio.NewWriterSize(&meter{w: f}, 1<<20)
	if err = fill(w); err != nil {
		return err
	}
	if err = errors.Join(w.Flush(), f.Chmod(0o644), f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	if err = os.Rename(f.Name(), path); err != nil {
		return err
	}
	return SyncDir(filepath.Dir(path))
}

// SyncDir flushes the names in a directory to disk, where the system can.
func SyncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	d.Sync() // not every file system has it; the rename itself is done
	return nil
}
