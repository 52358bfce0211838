package bundle

import (
	"archive/tar"
	"bufio"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"pipe/runtime/artifact"
)

// Is reports whether the file at path begins like a bundle.
func Is(path string) bool {
	f, err := os.Open(path)
	if err != nil {
		return false
	}
	defer f.Close()
	t, _, err := open(f)
	if err != nil {
		return false
	}
	h, err := t.Next()
	return err == nil && h.Name == ListName
}

// open returns the members of an archive, compressed or not.
func open(r io.Reader) (t *tar.Reader, compressed bool, err error) {
	b := bufio.NewReader(r)
	if magic, _ := b.Peek(2); !bytes.Equal(magic, []byte{0x1f, 0x8b}) {
		return tar.NewReader(b), false, nil
	}
	z, err := gzip.NewReader(b)
	if err != nil {
		return nil, true, err
	}
	return tar.NewReader(z), true, nil
}

// Unpack unpacks the archive at path into dir, which must not be there yet. It
// comes into being whole, with every hash checked, or not at all.
func Unpack(path, dir string) (*List, error) {
	if _, err := os.Lstat(dir); err == nil {
		return nil, fmt.Errorf("%s is there already; remove it, or run the pipeline in it", dir)
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	tmp, err := os.MkdirTemp(filepath.Dir(dir), ".unpack-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(tmp)
	l, err := unpack(f, info.Size(), tmp)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if err := os.Chmod(tmp, 0o755); err != nil {
		return nil, err
	}
	return l, os.Rename(tmp, dir)
}

// unpack writes the members of an archive of size bytes below dir, which is
// empty and nobody else's.
func unpack(r io.Reader, size int64, dir string) (*List, error) {
	t, compressed, err := open(r)
	if err != nil {
		return nil, err
	}
	limit := size
	if compressed {
		limit = 1<<30 + 100*size // text packs well, and a bomb packs better
	}
	l, err := readList(t)
	if err != nil {
		return nil, err
	}
	total := int64(0)
	for _, e := range l.Files {
		if total += e.Size; total > limit || total < 0 {
			return nil, fmt.Errorf("its files claim more than the %d bytes that an archive of %d can hold", limit, size)
		}
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	for _, e := range l.Files {
		if err := next(t, e.Name, e.Size); err != nil {
			return nil, err
		}
		if err := extract(root, t, e); err != nil {
			return nil, fmt.Errorf("%s: %w", e.Name, err)
		}
	}
	if h, err := t.Next(); err != io.EOF {
		if err == nil {
			err = fmt.Errorf("it holds %q, which its list does not name", h.Name)
		}
		return nil, err
	}
	return l, nil
}

// next goes on to the member that must come next.
func next(t *tar.Reader, name string, size int64) error {
	h, err := t.Next()
	switch {
	case err == io.EOF:
		return fmt.Errorf("it ends before %s", name)
	case err != nil:
		return err
	case h.Name != name:
		return fmt.Errorf("it holds %q where its list has %q", h.Name, name)
	case h.Typeflag != tar.TypeReg:
		return fmt.Errorf("%q is not a plain file", h.Name)
	case size >= 0 && h.Size != size:
		return fmt.Errorf("%q has %d bytes, and its list says %d", h.Name, h.Size, size)
	}
	return nil
}

func readList(t *tar.Reader) (*List, error) {
	if err := next(t, ListName, -1); err != nil {
		return nil, fmt.Errorf("it is not a bundle of pipe: %w", err)
	}
	b, err := io.ReadAll(io.LimitReader(t, maxList+1))
	if err != nil {
		return nil, err
	}
	if len(b) > maxList {
		return nil, fmt.Errorf("its list is larger than %d MiB", maxList>>20)
	}
	var l List
	if err := json.Unmarshal(b, &l); err != nil {
		return nil, fmt.Errorf("%s: %w", ListName, err)
	}
	return &l, l.check()
}

func extract(root *os.Root, t io.Reader, e Entry) error {
	if dir := filepath.Dir(filepath.FromSlash(e.Name)); dir != "." {
		if err := root.MkdirAll(dir, 0o777); err != nil {
			return err
		}
	}
	mode := os.FileMode(0o644)
	if e.Executable {
		mode = 0o755
	}
	f, err := root.OpenFile(filepath.FromSlash(e.Name), os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return err
	}
	defer f.Close()
	h := sha256.New()
	n, err := io.Copy(io.MultiWriter(f, h), io.LimitReader(t, e.Size))
	if err != nil {
		return err
	}
	if n != e.Size {
		return errors.New("it is cut short")
	}
	if got := artifact.Digest(h.Sum(nil)); got != e.SHA256 {
		return fmt.Errorf("it is damaged: it hashes to %v, and its list says %v", got, e.SHA256)
	}
	return f.Close()
}
