//go:build unix

package artifact

import (
	"errors"
	"syscall"
)

// processAlive reports whether a process of that id runs on this machine.
func processAlive(pid int) bool {
	if pid <= 0 {
		return false // these are groups of processes
	}
	err := syscall.Kill(pid, 0)
	return err == nil || errors.Is(err, syscall.EPERM)
}
