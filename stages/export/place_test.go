package export

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"pipe/model/modeltest"
	"pipe/runtime/artifact"
	"pipe/runtime/stage"
)

func write(t *testing.T, path, data string) {
	t.Helper()
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(data), 0o644)); err != nil {
		t.Fatal(err)
	}
}

// tree publishes files as an artifact.
func tree(t *testing.T, files map[string]string) *artifact.Artifact {
	t.Helper()
	s, err := artifact.OpenStore(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	w, err := s.Create(artifact.File)
	if err != nil {
		t.Fatal(err)
	}
	for name, data := range files {
		write(t, filepath.Join(w.Dir(), name), data)
	}
	o, err := w.Commit()
	if err != nil {
		t.Fatal(err)
	}
	a, err := s.Open(o.Digest)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func TestPlace(t *testing.T) {
	parent := t.TempDir()
	target := filepath.Join(parent, "deep", "out")
	a := tree(t, map[string]string{"gguf/a.gguf": "one"})
	if placed(a, target) {
		t.Error("nothing is there yet")
	}
	if err := place(a, target); err != nil || !placed(a, target) {
		t.Fatal(err)
	}
	file := filepath.Join(target, "gguf", "a.gguf")
	if b, err := os.ReadFile(file); err != nil || string(b) != "one" {
		t.Error(string(b), err)
	}
	// Touched is right still; changed, cut short or gone is not.
	later := time.Now().Add(time.Hour)
	if err := os.Chtimes(file, later, later); err != nil || !placed(a, target) {
		t.Error("a touched file is not its copy", err)
	}
	for what, change := range map[string]func() error{
		"changed": func() error {
			return errors.Join(os.WriteFile(file, []byte("two"), 0o644), os.Chtimes(file, later, later))
		},
		"cut short": func() error { return os.WriteFile(file, []byte("on"), 0o644) },
		"gone":      func() error { return os.Remove(file) },
	} {
		if err := change(); err != nil || placed(a, target) {
			t.Errorf("%s: taken for the copy, %v", what, err)
		}
		if err := place(a, target); err != nil || !placed(a, target) {
			t.Errorf("%s: not mended: %v", what, err)
		}
	}
	// Its own directory is replaced as a whole.
	if err := place(tree(t, map[string]string{"peft/a": "one"}), target); err != nil || placed(a, target) {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(target, "gguf")); err == nil {
		t.Error("files of the export before are left")
	}
	if left, err := os.ReadDir(filepath.Dir(target)); err != nil || len(left) != 1 {
		t.Errorf("left behind: %v, %v", left, err)
	}
	// A file of the user's own inside is not lost.
	write(t, filepath.Join(target, "notes.txt"), "mine")
	if err := place(a, target); err == nil || !strings.Contains(err.Error(), "notes.txt was not made by export") {
		t.Errorf("got %v", err)
	}
	if b, err := os.ReadFile(filepath.Join(target, "notes.txt")); err != nil || string(b) != "mine" {
		t.Error("a foreign file was touched")
	}
}

func TestPlaceRefuses(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "foreign", "precious.txt"), "x")
	write(t, filepath.Join(dir, "file"), "x")
	write(t, filepath.Join(dir, "forged", markName), "something else")
	for link, to := range map[string]string{"link": "foreign", "tofile": "file", "nowhere": "gone", "round": "round"} {
		if err := os.Symlink(filepath.Join(dir, to), filepath.Join(dir, link)); err != nil {
			t.Fatal(err)
		}
	}
	for name, want := range map[string]string{
		"foreign": "was not made by export", "file": "not a directory", "forged": "was not made by export", "link": "was not made by export",
		"tofile": "tofile is a symlink to ", "nowhere": "nowhere is a symlink that leads nowhere; make the directory", "round": "round is a symlink that cannot be followed",
	} {
		if err := place(tree(t, map[string]string{"a": "1"}), filepath.Join(dir, name)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %q", name, err, want)
		}
	}
	if b, err := os.ReadFile(filepath.Join(dir, "foreign", "precious.txt")); err != nil || string(b) != "x" {
		t.Error("a foreign directory was touched")
	}
}

// A symlink to a directory is followed: that directory is replaced, and only if
// it is export's own; the link stays.
func TestPlaceBehindALink(t *testing.T) {
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "disk", "real"), 0o755); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, "disk", "beside.txt"), "mine")
	link := filepath.Join(dir, "out")
	if err := os.Symlink(filepath.Join("disk", "real"), link); err != nil {
		t.Fatal(err)
	}
	for _, data := range []string{"one", "two"} {
		a := tree(t, map[string]string{"peft/a": data})
		if placed(a, link) {
			t.Error("nothing is there yet")
		}
		if err := place(a, link); err != nil || !placed(a, link) {
			t.Fatalf("%s: %v", data, err)
		}
		if b, err := os.ReadFile(filepath.Join(dir, "disk", "real", "peft", "a")); err != nil || string(b) != data {
			t.Errorf("got %q, %v", b, err)
		}
	}
	if to, err := os.Readlink(link); err != nil || to != filepath.Join("disk", "real") {
		t.Errorf("the link leads to %q, %v", to, err)
	}
	if left, err := os.ReadDir(filepath.Join(dir, "disk")); err != nil || len(left) != 2 {
		t.Errorf("left behind: %v, %v", left, err)
	}
	write(t, filepath.Join(link, "notes.txt"), "mine")
	if err := place(tree(t, map[string]string{"a": "1"}), link); err == nil || !strings.Contains(err.Error(), "notes.txt was not made by export") {
		t.Errorf("got %v", err)
	}
}

// A copy that does not fit says how large it is and what is free.
func TestPlaceOnAFullDisk(t *testing.T) {
	a := tree(t, map[string]string{"peft/a": strings.Repeat("x", 3000), "peft/b": strings.Repeat("x", 2120)})
	err := short(a, &os.PathError{Op: "write", Path: filepath.Join(t.TempDir(), "f"), Err: syscall.ENOSPC})
	if err == nil || !strings.HasPrefix(err.Error(), "copy the files, 5.0 KiB in all: write ") || !strings.Contains(err.Error(), " are free: make room there") {
		t.Errorf("got %v", err)
	}
	if other := errors.New("x"); short(a, other) != other {
		t.Error("other errors change")
	}
}

// TestPath: the copy lies relative to the pipeline file, and a foreign
// directory is refused before any work.
func TestPath(t *testing.T) {
	b := bench(t)
	m := b.Model(modeltest.Directory(t, true))
	s := newSpec(m, "gguf:f16")
	s.Path = "out/model"
	r := b.Run(Kind, s)
	open := func(name string) (*artifact.Artifact, error) { return r.Outputs[name], nil }
	for i, want := range []string{filepath.Join(b.Dir, "out", "model"), ""} {
		if got, err := s.Place(b.Dir, open); err != nil || got != want {
			t.Errorf("call %d: wrote to %q, %v", i, got, err)
		}
	}
	got, err := os.ReadFile(filepath.Join(b.Dir, "out", "model", "gguf", "model-f16.gguf"))
	if err != nil {
		t.Fatal(err)
	}
	path, err := r.Outputs["files"].Path("gguf/model-f16.gguf")
	if err != nil {
		t.Fatal(err)
	}
	if want, err := os.ReadFile(path); err != nil || string(got) != string(want) {
		t.Errorf("the copy differs: %v", err)
	}
	write(t, filepath.Join(b.Dir, "mine", "x"), "x")
	s.Path = "mine"
	var field *stage.FieldError
	if _, err := b.Try(t.Context(), Kind, s); !errors.As(err, &field) || field.Field != "path" {
		t.Errorf("got %v", err)
	}
}
