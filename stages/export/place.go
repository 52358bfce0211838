package export

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"pipe/model/disk"
	"pipe/runtime/artifact"
)

// markName is the file by which export knows a directory that it made. Its
// first line is mark; the others are the names and hashes of what it wrote.
const markName = ".pipe-export"

const mark = "This directory was made by pipe export and is replaced by the next run.\n"

// marking is the content of the mark file of a copy of a.
func marking(a *artifact.Artifact) []byte {
	b := bytes.NewBufferString(mark)
	for _, f := range a.Files() {
		fmt.Fprintf(b, "%v %s\n", f.SHA256, f.Name)
	}
	return b.Bytes()
}

// follow returns the directory that target is or, as a symlink, leads to: that
// one is checked and replaced, and the link stays.
func follow(target string) (string, error) {
	info, err := os.Lstat(target)
	if err != nil || info.Mode()&fs.ModeSymlink == 0 {
		return target, nil // what is wrong with it, placeable says
	}
	to, err := filepath.EvalSymlinks(target)
	if errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("%s is a symlink that leads nowhere; make the directory that it names, or remove the link", target)
	} else if err != nil {
		return "", fmt.Errorf("%s is a symlink that cannot be followed: %w", target, err)
	}
	if info, err = os.Stat(to); err == nil && !info.IsDir() {
		err = fmt.Errorf("%s is a symlink to %s, which is not a directory; remove the link, or choose another path", target, to)
	}
	return to, err
}

// placeable reports why export may not write to target.
func placeable(target string) error {
	target, err := follow(target)
	if err != nil {
		return err
	}
	info, err := os.Lstat(target)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case !info.IsDir():
		return fmt.Errorf("%s exists and is not a directory; choose another path", target)
	}
	b, err := os.ReadFile(filepath.Join(target, markName))
	if lines, ok := strings.CutPrefix(string(b), mark); err == nil && ok {
		return foreign(target, lines)
	}
	if entries, err := os.ReadDir(target); err != nil || len(entries) > 0 {
		return errors.Join(err, fmt.Errorf("%s exists and was not made by export; choose another path, or remove it", target))
	}
	return nil
}

// foreign refuses a directory of export's with a file that is not among those
// that lines, of its mark file, list.
func foreign(target, lines string) error {
	known := map[string]bool{markName: true}
	for line := range strings.Lines(lines) {
		_, name, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
		known[name] = true
	}
	return filepath.WalkDir(target, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		name, err := filepath.Rel(target, path)
		if err == nil && !known[filepath.ToSlash(name)] {
			err = fmt.Errorf("%s was not made by export, and the directory is replaced as a whole; move that file away, or choose another path", path)
		}
		return err
	})
}

// placed reports whether target is a copy of a already. A file that was not
// touched since the copy was made is not read.
func placed(a *artifact.Artifact, target string) bool {
	target, err := follow(target)
	if err != nil {
		return false
	}
	markPath := filepath.Join(target, markName)
	b, err := os.ReadFile(markPath)
	made, statErr := os.Lstat(markPath)
	if err != nil || statErr != nil || !bytes.Equal(b, marking(a)) {
		return false
	}
	for _, f := range a.Files() {
		path := filepath.Join(target, filepath.FromSlash(f.Name))
		info, err := os.Lstat(path)
		if err != nil || !info.Mode().IsRegular() || info.Size() != f.Size {
			return false
		}
		if !info.ModTime().After(made.ModTime()) {
			continue
		}
		if d, err := artifact.HashFile(path); err != nil || d != f.SHA256 {
			return false
		}
	}
	return foreign(target, strings.TrimPrefix(string(b), mark)) == nil
}

// short adds to an error about a full disk what the copy of a needs and what is
// free.
func short(a *artifact.Artifact, err error) error {
	if !disk.Full(err) {
		return err
	}
	var all int64
	for _, f := range a.Files() {
		all += f.Size
	}
	return artifact.AdviseFull(fmt.Errorf("copy the files, %s in all: %w", disk.Size(all), err))
}

// place makes target a copy of a: under a temporary name beside it, then
// renamed, so that it is never half there.
func place(a *artifact.Artifact, target string) error {
	if err := placeable(target); err != nil {
		return err
	}
	target, err := follow(target)
	if err != nil {
		return err
	}
	parent := filepath.Dir(target)
	if err := os.MkdirAll(parent, 0o755); err != nil {
		return err
	}
	tmp, err := os.MkdirTemp(parent, "."+filepath.Base(target)+".tmp-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	fresh, old := filepath.Join(tmp, "new"), filepath.Join(tmp, "old")
	for _, f := range a.Files() {
		from, err := a.Path(f.Name)
		if err != nil {
			return err
		}
		to := filepath.Join(fresh, filepath.FromSlash(f.Name))
		if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
			return err
		}
		if err := copyFile(to, from); err != nil {
			return err
		}
	}
	// Last: it is as new as the newest file.
	if err := os.WriteFile(filepath.Join(fresh, markName), marking(a), 0o644); err != nil {
		return err
	}
	if err := os.Rename(target, old); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.Rename(fresh, target); err != nil {
		return errors.Join(err, os.Rename(old, target))
	}
	return disk.SyncDir(parent)
}
