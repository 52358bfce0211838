//go:build unix

package disk

import (
	"os"

	"golang.org/x/sys/unix"
)

func mapFile(f *os.File, size int) (*Mapping, error) {
	data, err := unix.Mmap(int(f.Fd()), 0, size, unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		return read(f, size) // file systems without mmap
	}
	return &Mapping{Data: data, unmap: func() error { return unix.Munmap(data) }}, nil
}

func forget(pages []byte) { unix.Madvise(pages, unix.MADV_DONTNEED) }
