//go:build unix

package journal

import (
	"errors"

	"golang.org/x/sys/unix"
)

// lock waits for the lock of the file, and returns what releases it.
func lock(f interface{ Fd() uintptr }) (unlock func(), err error) {
	for {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX)
		switch {
		case err == nil:
			return func() { _ = unix.Flock(int(f.Fd()), unix.LOCK_UN) }, nil
		case !errors.Is(err, unix.EINTR):
			return func() {}, nil // a file system without locks
		}
	}
}
