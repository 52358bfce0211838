package engine

import (
	"fmt"
	"os"
	"syscall"
	"time"
)

// remembers says that identity tells every change of a file.
const remembers = true

// identity names the file and its state: device, inode, size, and the times of
// its last changes.
func identity(info os.FileInfo) string {
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return nameOf(fmt.Sprint(info.Size(), info.ModTime().UnixNano()))
	}
	return nameOf(fmt.Sprint(st.Dev, st.Ino, st.Size, st.Mtim.Nano(), st.Ctim.Nano()))
}

// state is what identity is a hash of, and the kind of file.
func state(info os.FileInfo) string {
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return ""
	}
	return fmt.Sprint(st.Mode, st.Dev, st.Ino, st.Size, st.Mtim.Nano(), st.Ctim.Nano())
}

// changed returns when the file was last changed in any way.
func changed(info os.FileInfo) time.Time {
	t := info.ModTime()
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		if c := time.Unix(0, st.Ctim.Nano()); c.After(t) {
			t = c
		}
	}
	return t
}
