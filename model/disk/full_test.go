package disk

import (
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// small is a disk with room for a number of bytes.
type small struct{ room int }

func (s *small) Write(b []byte) (int, error) {
	n := min(len(b), s.room)
	if s.room -= n; n < len(b) {
		return n, &os.PathError{Op: "write", Path: "x", Err: syscall.ENOSPC}
	}
	return n, nil
}

// A full disk says how much fitted and how much did not, however it is written
// to.
func TestFullDiskSaysHowMuch(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	if err := os.WriteFile(path, make([]byte, 5000), 0o666); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for name, write := range map[string]func(m *meter) error{
		"at once": func(m *meter) error { _, err := m.Write(make([]byte, 5000)); return err },
		"a file":  func(m *meter) error { _, err := io.Copy(m, f); return err },
	} {
		err := write(&meter{w: &small{room: 3000}})
		if want := "no space left on device after 2.9 KiB: at least 2.0 KiB more are needed"; !Full(err) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v; want %q", name, err, want)
		}
	}
	m := &meter{w: &small{room: 1 << 20}}
	if _, err := io.Copy(m, strings.NewReader("abc")); err != nil || m.written != 3 {
		t.Errorf("%d bytes, %v", m.written, err)
	}
}
