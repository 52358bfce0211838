package hub

import (
	"fmt"
	"io/fs"
	"syscall"
	"time"
)

// identity returns bytes that change whenever a file's content can have
// changed, and the time of its last change.
func identity(info fs.FileInfo) (id []byte, changed time.Time, ok bool) {
	s, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return nil, time.Time{}, false
	}
	return fmt.Appendf(nil, "%d %d %d %d.%09d %d.%09d", s.Dev, s.Ino, s.Size, s.Mtim.Sec, s.Mtim.Nsec, s.Ctim.Sec, s.Ctim.Nsec),
		time.Unix(s.Ctim.Unix()), true
}
