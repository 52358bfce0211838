package data

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

// checkPattern reports what is wrong with a pattern by itself.
func checkPattern(p string) error {
	switch {
	case strings.TrimSpace(p) == "":
		return errors.New("holds an empty name")
	case strings.HasPrefix(p, "hf://"):
		return fmt.Errorf("%q: datasets of the hub cannot be read yet; download the files and name them, as JSON lines or CSV", p)
	case strings.Contains(p, "://"):
		return fmt.Errorf("%q: only files can be read; download it and name the file", p)
	}
	if _, err := path.Match(filepath.ToSlash(p), ""); err != nil {
		return fmt.Errorf("%q is not a pattern: a [ or a \\ is not closed", p)
	}
	return nil
}

// find returns the files that patterns name, relative to dir: those of the
// first pattern first, sorted within each, every file once, however it is spelt.
// A link is a file of its own.
func find(dir string, patterns []string) ([]string, error) {
	var found []string
	seen := map[string]bool{}
	for _, p := range patterns {
		if err := checkPattern(p); err != nil {
			return nil, err
		}
		full := p
		if !filepath.IsAbs(p) {
			full = filepath.Join(dir, p)
		}
		files, err := match(full)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", p, err)
		}
		if len(files) == 0 {
			return nil, fmt.Errorf("no file matches %q in %s", p, dir)
		}
		for _, f := range files {
			spelt, err := filepath.Abs(f)
			if err != nil {
				return nil, err
			}
			if !seen[spelt] {
				seen[spelt] = true
				found = append(found, f)
			}
		}
	}
	return found, nil
}

// match returns the files that one pattern names, sorted. ** stands for any
// number of folders, as walk finds them.
func match(pattern string) ([]string, error) {
	if !strings.ContainsAny(pattern, "*?[") {
		info, err := os.Stat(pattern)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return nil, errors.New("the file does not exist")
		case err != nil:
			return nil, err
		case info.IsDir():
			return nil, fmt.Errorf("is a folder; name the files in it, such as %q", filepath.Join(pattern, "*.txt"))
		}
		return []string{pattern}, nil
	}
	head, tail, deep := strings.Cut(filepath.ToSlash(pattern), "/**/")
	if !deep {
		return files(filepath.Glob(pattern))
	}
	roots, err := filepath.Glob(filepath.FromSlash(head))
	if err != nil {
		return nil, err
	}
	var all []string
	err = walk(roots, func(p string) error {
		in, err := files(filepath.Glob(filepath.Join(escape(p), filepath.FromSlash(tail))))
		all = append(all, in...)
		return err
	})
	if err != nil {
		return nil, err
	}
	slices.Sort(all)
	return slices.Compact(all), nil
}

// escape makes a path match itself.
func escape(p string) string {
	if filepath.Separator == '\\' {
		return p
	}
	return strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`).Replace(p)
}

// files keeps what is a file.
func files(paths []string, err error) ([]string, error) {
	if err != nil {
		return nil, err
	}
	paths = slices.DeleteFunc(paths, func(p string) bool {
		info, err := os.Stat(p)
		return err == nil && info.IsDir()
	})
	slices.Sort(paths)
	return paths, nil
}

// relative names a file in ids and messages: its path from dir with slashes,
// which is the same on every machine that has the same checkout.
func relative(dir, p string) string {
	if r, err := filepath.Rel(dir, p); err == nil {
		return filepath.ToSlash(r)
	}
	return filepath.ToSlash(p)
}

func describe(patterns []string) string {
	if len(patterns) == 1 {
		return fmt.Sprintf("%q", patterns[0])
	}
	return fmt.Sprintf("%q", patterns)
}

func compareText(a, b string) int { return cmp.Compare(a, b) }
