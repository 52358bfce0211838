package disk

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"
)

func TestMap(t *testing.T) {
	dir := t.TempDir()
	want := bytes.Repeat([]byte("0123456789"), 1000)
	for _, c := range []struct {
		name string
		data []byte
	}{{"full", want}, {"empty", nil}} {
		path := filepath.Join(dir, c.name)
		if err := os.WriteFile(path, c.data, 0o644); err != nil {
			t.Fatal(err)
		}
		m, err := Map(path)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(m.Data, c.data) {
			t.Errorf("%s: the content differs", c.name)
		}
		if err := errors.Join(m.Close(), m.Close()); err != nil {
			t.Errorf("%s: close: %v", c.name, err)
		}
		if m.Data != nil {
			t.Errorf("%s: data outlives Close", c.name)
		}
	}
	if _, err := Map(dir); err == nil {
		t.Error("a directory was mapped")
	}
	if _, err := Map(filepath.Join(dir, "absent")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("absent file: %v", err)
	}
}

func TestReadPortably(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	if err := os.WriteFile(path, []byte("abc"), 0o644); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if m, err := read(f, 3); err != nil || string(m.Data) != "abc" {
		t.Errorf("got %q, %v", m.Data, err)
	}
	if _, err := read(f, 1); err == nil {
		t.Error("a file that shrank was read")
	}
}

func TestWrite(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "f")
	put := func(s string, fail error) error {
		return Write(path, func(w io.Writer) error {
			if _, err := io.WriteString(w, s); err != nil {
				return err
			}
			return fail
		})
	}
	broken := errors.New("broken")
	if err := put("half", broken); err != broken {
		t.Fatalf("got %v", err)
	}
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		t.Fatal("a failed write left a file")
	}
	if err := put("one", nil); err != nil {
		t.Fatal(err)
	}
	if err := put("half", broken); err != broken {
		t.Fatalf("got %v", err)
	}
	if b, err := os.ReadFile(path); err != nil || string(b) != "one" {
		t.Fatalf("a failed write changed the old file: %q, %v", b, err)
	}
	names, err := os.ReadDir(dir)
	if err != nil || len(names) != 1 {
		t.Errorf("left behind: %v, %v", names, err)
	}
	if err := Write(filepath.Join(dir, "no", "dir"), func(io.Writer) error { return nil }); err == nil {
		t.Error("wrote into a directory that is not there")
	}
}
