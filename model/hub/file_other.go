//go:build !linux

package hub

import (
	"io/fs"
	"time"
)

// identity is not known here: files are hashed each time.
func identity(fs.FileInfo) (id []byte, changed time.Time, ok bool) { return nil, time.Time{}, false }
