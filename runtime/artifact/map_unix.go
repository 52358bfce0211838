//go:build unix

package artifact

import (
	"os"

	"golang.org/x/sys/unix"
)

// mapFile returns the content of a file of the given size without reading it.
// The memory may only be read, and is never given back: what was read from it
// may live for as long as the process.
func mapFile(f *os.File, size int64) (b []byte, keep bool, err error) {
	b, err = unix.Mmap(int(f.Fd()), 0, int(size), unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		return nil, false, &os.PathError{Op: "map", Path: f.Name(), Err: err}
	}
	return b, true, nil
}
