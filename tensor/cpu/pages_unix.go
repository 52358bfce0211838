//go:build unix

package cpu

import "golang.org/x/sys/unix"

// mapPages returns zeroed memory outside of Go's heap, nil if there is none to
// have.
func mapPages(size int) []byte {
	p, err := unix.Mmap(-1, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	if err != nil {
		return nil
	}
	return p
}

func unmapPages(p []byte) { unix.Munmap(p) }
