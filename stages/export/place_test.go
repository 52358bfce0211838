package export

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"pipe/model/modeltest"
	"pipe/runtime/stage"
)

func write(t *testing.T, path, data string) {
	t.Helper()
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(data), 0o644)); err != nil {
		t.Fatal(err)
	}
}

func TestPlace(t *testing.T) {
	from, parent := t.TempDir(), t.TempDir()
	write(t, filepath.Join(from, "gguf", "a.gguf"), "one")
	target := filepath.Join(parent, "deep", "out")
	if err := place(from, target); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(filepath.Join(target, "gguf", "a.gguf")); err != nil || string(b) != "one" {
		t.Error(string(b), err)
	}
	// Its own directory is replaced as a whole.
	if err := os.Rename(filepath.Join(from, "gguf"), filepath.Join(from, "peft")); err != nil {
		t.Fatal(err)
	}
	if err := place(from, target); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(target, "gguf")); err == nil {
		t.Error("files of the export before are left")
	}
	if left, err := os.ReadDir(filepath.Dir(target)); err != nil || len(left) != 1 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

func TestPlaceRefuses(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "foreign", "precious.txt"), "x")
	write(t, filepath.Join(dir, "file"), "x")
	write(t, filepath.Join(dir, "forged", markName), "something else")
	if err := os.Symlink(filepath.Join(dir, "foreign"), filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"foreign": "was not made by export", "file": "not a directory", "forged": "was not made by export", "link": "not a directory",
	} {
		if err := place(t.TempDir(), filepath.Join(dir, name)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %q", name, err, want)
		}
	}
	if b, err := os.ReadFile(filepath.Join(dir, "foreign", "precious.txt")); err != nil || string(b) != "x" {
		t.Error("a foreign directory was touched")
	}
}

// TestPath: a run copies its files out of the store, relative to the pipeline
// file, and refuses a foreign directory before it works.
func TestPath(t *testing.T) {
	b := bench(t)
	m := b.Model(modeltest.Directory(t, true))
	s := newSpec(m, "gguf:f16")
	s.Path = "out/model"
	r := b.Run(Kind, s)
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
	if r.Outputs["files"].Has(markName) {
		t.Error("the mark is part of the artifact")
	}
	write(t, filepath.Join(b.Dir, "mine", "x"), "x")
	s.Path = "mine"
	var field *stage.FieldError
	if _, err := b.Try(t.Context(), Kind, s); !errors.As(err, &field) || field.Field != "path" {
		t.Errorf("got %v", err)
	}
}
