package data

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
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
	err = walk(roots, func(p string) error {
		in, err := globbed(filepath.Join(escape(p), filepath.FromSlash(tail)))
		folders = append(append(folders, p), in...)
		return err
	})
	return folders, err
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

// walk calls visit for directories and all below them, hidden ones left out, until
// it fails. Links to directories are followed, as * follows them, but a directory is
// visited once: by its own name where that is among those walked. What is no
// directory is passed over.
func walk(roots []string, visit func(dir string) error) error {
	w := walker{visit: visit, seen: map[string]bool{}}
	for _, root := range roots {
		info, err := os.Lstat(root)
		if err == nil && info.IsDir() {
			err = w.enter(root)
		} else {
			w.links = append(w.links, root)
		}
		if err != nil {
			return err
		}
	}
	for len(w.links) > 0 {
		link := w.links[0]
		w.links = w.links[1:]
		if err := w.enter(link); err != nil {
			return err
		}
	}
	return nil
}

type walker struct {
	visit func(dir string) error
	seen  map[string]bool // directories, as they are called without links
	links []string        // that were passed on the way
}

// enter descends into what may be a link.
func (w *walker) enter(dir string) error {
	info, err := os.Stat(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ELOOP): // a link to nothing
		return nil
	case err != nil:
		return err
	case !info.IsDir():
		return nil
	}
	real, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return err
	}
	if real, err = filepath.Abs(real); err != nil {
		return err
	}
	return w.descend(dir, real)
}

func (w *walker) descend(dir, real string) error {
	if w.seen[real] {
		return nil
	}
	w.seen[real] = true
	if err := w.visit(dir); err != nil {
		return err
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		switch name := e.Name(); {
		case strings.HasPrefix(name, "."):
		case e.IsDir():
			if err := w.descend(filepath.Join(dir, name), filepath.Join(real, name)); err != nil {
				return err
			}
		case e.Type()&fs.ModeSymlink != 0:
			w.links = append(w.links, filepath.Join(dir, name))
		}
	}
	return nil
}
