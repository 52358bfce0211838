package data

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
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
		err := filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
			if err != nil || !d.IsDir() {
				return err
			}
			if p != root && strings.HasPrefix(d.Name(), ".") {
				return fs.SkipDir
			}
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
