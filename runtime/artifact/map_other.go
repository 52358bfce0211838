//go:build !unix

package artifact

import (
	"io"
	"os"
)

// mapFile returns the content of a file of the given size, which it reads.
func mapFile(f *os.File, size int64) (b []byte, keep bool, err error) {
	b = make([]byte, size)
	_, err = io.ReadFull(f, b)
	return b, false, err
}
