//go:build unix

package artifact

import (
	"os"
	"sync"
	"syscall"
)

// umask returns the process's file mode creation mask, so that a directory
// made private by os.MkdirTemp can be given the mode that os.Mkdir would have.
var umask = sync.OnceValue(func() os.FileMode {
	m := syscall.Umask(0)
	syscall.Umask(m)
	return os.FileMode(m)
})
