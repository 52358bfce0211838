package data

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
)

// Folders implements stage.Folderer.
func (s *spec) Folders(dir string) (folders []string, err error) {
	for _, p := range s.Patterns() {
		if !filepath.IsAbs(p) {
			p = filepath.Join(dir, p)
		}
		in, err := foldersOf(p)
		if err != nil {
			return nil, err
		}
		folders = append(folders, in...)
	}
	return folders, nil
}

// foldersOf returns the directories whose entries match looks at.
func foldersOf(pattern string) ([]string, error) {
	head, tail, deep := strings.Cut(filepath.ToSlash(pattern), "/**/")
	if !deep {
		return globbed(pattern)
	}
	folders, err := globbed(filepath.FromSlash(head))
	if err != nil {
		return nil, err
	}
	roots, err := filepath.Glob(filepath.FromSlash(head))
	if err != nil {
		return nil, err
	}
	for _, root := range roots {
		err := walk(root, func(p string) error {
			in, err := globbed(filepath.Join(escape(p), filepath.FromSlash(tail)))
			folders = append(append(folders, p), in...)
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	return folders, nil
}

// globbed returns the directories whose entries filepath.Glob compares with a
// part of the pattern, from the first part on that is more than a name.
func globbed(pattern string) (folders []string, err error) {
	parts := strings.Split(filepath.ToSlash(pattern), "/")
	meta := false
	for i, part := range parts {
		if meta = meta || strings.ContainsAny(part, `*?[\\`); !meta {
			continue
		}
		in := strings.Join(parts[:i], "/")
		if in == "" && i > 0 {
			in = "/"
		}
		if in == "" {
			in = "."
		}
		found, err := filepath.Glob(filepath.FromSlash(in))
		if err != nil {
			return nil, err
		}
		for _, f := range found {
			if info, err := os.Stat(f); err == nil && info.IsDir() {
				folders = append(folders, f)
			}
		}
	}
	return folders, nil
}

// walk calls visit for a directory and all below it, in order, hidden ones left
// out, until it fails. Links to directories are followed, as * follows them, unless
// they lead back to a directory above them. What is no directory is passed over.
func walk(dir string, visit func(dir string) error) error { return descend(dir, nil, visit) }

func descend(dir string, above []fs.FileInfo, visit func(dir string) error) error {
	info, err := os.Stat(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ELOOP): // a link to nothing
		return nil
	case err != nil:
		return err
	case !info.IsDir(), slices.ContainsFunc(above, func(a fs.FileInfo) bool { return os.SameFile(a, info) }):
		return nil
	}
	if err := visit(dir); err != nil {
		return err
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	above = append(above[:len(above):len(above)], info)
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), ".") || !e.IsDir() && e.Type()&fs.ModeSymlink == 0 {
			continue
		}
		if err := descend(filepath.Join(dir, e.Name()), above, visit); err != nil {
			return err
		}
	}
	return nil
}
