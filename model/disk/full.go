package disk

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"syscall"
)

// Full reports whether err says that a disk, or a user's share of it, is full.
func Full(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
}

// A meter is a file whose error, when the disk is full, says how much did not
// fit.
type meter struct {
	w       io.Writer
	written int64
}

func (m *meter) Write(b []byte) (int, error) {
	n, err := m.w.Write(b)
	m.written += int64(n)
	return n, m.short(err, int64(len(b)-n))
}

// ReadFrom implements io.ReaderFrom: systems copy from file to file faster.
func (m *meter) ReadFrom(r io.Reader) (int64, error) {
	n, err := io.Copy(m.w, r)
	m.written += n
	more := int64(1)
	if f, ok := r.(interface{ Stat() (fs.FileInfo, error) }); ok && Full(err) {
		if info, err := f.Stat(); err == nil {
			more = max(more, info.Size()-n)
		}
	}
	return n, m.short(err, more)
}

func (m *meter) short(err error, more int64) error {
	if Full(err) {
		err = fmt.Errorf("%w after %s: at least %s more are needed", err, Size(m.written), Size(more))
	}
	return err
}

// Size words a number of bytes for people.
func Size(n int64) string {
	switch {
	case n < 1<<10:
		return fmt.Sprintf("%d bytes", n)
	case n < 1<<20:
		return fmt.Sprintf("%.1f KiB", float64(n)/(1<<10))
	case n < 1<<30:
		return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20))
	}
	return fmt.Sprintf("%.1f GiB", float64(n)/(1<<30))
}
