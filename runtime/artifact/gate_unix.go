//go:build unix

package artifact

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

const (
	shared    = unix.LOCK_SH
	exclusive = unix.LOCK_EX
)

// A gate keeps those who name what they use apart from the one who takes away
// what nobody uses. On a file system without locks it is open, and only the age
// of things protects them.
type gate struct{ file *os.File }

// openGate opens the gate of the store in dir.
func openGate(dir string, share fs.FileMode) (*gate, error) {
	f, err := os.OpenFile(filepath.Join(dir, "gc.lock"), os.O_RDONLY|os.O_CREATE, 0o644)
	if err != nil {
		return nil, err
	}
	if share != 0 {
		_ = f.Chmod(0o644 | share&0o444) // another user's has its permissions
	}
	return &gate{f}, nil
}

func (g *gate) close() { g.file.Close() }

// lock waits for the lock, which one goroutine at a time may hold.
func (g *gate) lock(how int) (unlock func()) {
	for {
		err := unix.Flock(int(g.file.Fd()), how)
		switch {
		case err == nil:
			return func() { _ = unix.Flock(int(g.file.Fd()), unix.LOCK_UN) }
		case !errors.Is(err, unix.EINTR):
			return func() {}
		}
	}
}
