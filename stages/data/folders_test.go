package data

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
)

// The folders of a pattern are those in which a new file or folder could be
// matched: in each case, adding one changes no other folder's entries.
func TestFoldersDecideWhatIsFound(t *testing.T) {
	for _, tc := range []struct {
		pattern string
		have    []string // files
		add     string
		found   int // files that match then
		want    []string
	}{
		{"a/x.txt", []string{"a/x.txt"}, "a/y.txt", 1, nil},
		{"a/*.txt", []string{"a/x.txt"}, "a/y.txt", 2, []string{"a"}},
		{"./*.txt", []string{"x.txt"}, "y.txt", 2, []string{"."}},
		{"a/*/c/*.txt", []string{"a/b/c/x.txt", "a/d/none"}, "a/d/c/y.txt", 2, []string{"a", "a/b", "a/b/c", "a/d"}},
		{"a/**/*.txt", []string{"a/b/x.txt"}, "a/new/deep/y.txt", 2, []string{"a", "a/b"}},
		{"a/**/c*/*.txt", []string{"a/b/c1/x.txt", "a/b/c2/none"}, "a/b/c2/y.txt", 2, []string{"a", "a/b", "a/b/c1", "a/b/c2"}},
		{"*/**/x.txt", []string{"a/x.txt"}, "b/x.txt", 2, []string{".", "a"}},
		{"a/x[12].txt", []string{"a/x1.txt"}, "a/x2.txt", 2, []string{"a"}},
	} {
		dir := t.TempDir()
		put := func(name string) {
			path := filepath.Join(dir, name)
			if err := os.MkdirAll(filepath.Dir(path), 0o777); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, []byte("x"), 0o666); err != nil {
				t.Fatal(err)
			}
		}
		for _, name := range tc.have {
			put(name)
		}
		s := &spec{Source: tc.pattern}
		folders, err := s.Folders(dir)
		if err != nil {
			t.Fatalf("%s: %v", tc.pattern, err)
		}
		for i, f := range folders {
			if folders[i], err = filepath.Rel(dir, f); err != nil {
				t.Fatal(err)
			}
		}
		slices.Sort(folders)
		if folders = slices.Compact(folders); !slices.Equal(folders, tc.want) {
			t.Errorf("%s: folders %q, want %q", tc.pattern, folders, tc.want)
		}
		changes := filepath.Dir(tc.add) // the folder that gets a new entry
		for {
			if _, err := os.Stat(filepath.Join(dir, changes)); err == nil {
				break
			}
			changes = filepath.Dir(changes)
		}
		put(tc.add)
		if files, err := s.Sources(dir); err != nil || len(files) != tc.found {
			t.Errorf("%s: found %q, %v", tc.pattern, files, err)
		}
		if tc.want != nil && !slices.Contains(tc.want, changes) {
			t.Errorf("%s: %s changes the entries of %s, which is not among %q", tc.pattern, tc.add, changes, tc.want)
		}
	}
}

// ** goes into links as * does, and not round in circles.
func TestLinksAreFollowed(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"far/x.txt", "far/deep/y.txt", "a/z.txt", "v/v2/w.txt"} {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o777); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte("x"), 0o666); err != nil {
			t.Fatal(err)
		}
	}
	for link, to := range map[string]string{"root": "far", "a/link": "../far", "far/deep/up": "..", "far/self": "self", "far/gone": "nowhere", "v/latest": "v2"} {
		if err := os.Symlink(to, filepath.Join(dir, filepath.FromSlash(link))); err != nil {
			t.Skip(err)
		}
	}
	for pattern, want := range map[string][]string{
		"root/**/*.txt": {"root/deep/y.txt", "root/x.txt"},
		"v/**/*.txt":    {"v/v2/w.txt"},
		"v/*/**/*.txt":  {"v/v2/w.txt"},
		"a/**/*.txt":    {"a/link/deep/y.txt", "a/link/x.txt", "a/z.txt"},
	} {
		s := &spec{Source: pattern}
		found, err := s.Sources(dir)
		if err != nil {
			t.Fatalf("%s: %v", pattern, err)
		}
		folders, err := s.Folders(dir)
		if err != nil {
			t.Fatalf("%s: %v", pattern, err)
		}
		for i, f := range found {
			if found[i] = relative(dir, f); !slices.Contains(folders, filepath.Dir(f)) {
				t.Errorf("%s: the folder of %s is not among %q", pattern, f, folders)
			}
		}
		if !slices.Equal(found, want) {
			t.Errorf("%s: found %q; want %q", pattern, found, want)
		}
	}
}
