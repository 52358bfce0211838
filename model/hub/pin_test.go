package hub

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
)

// A pinned source names the commit, whatever the branch is by now, and asking
// for it downloads nothing.
func TestPin(t *testing.T) {
	h := newHub(t, bigModel())
	r := h.resolver(t)
	ctx := context.Background()
	got, err := r.Commit(ctx, "hf://org/name")
	if err != nil || got != commit {
		t.Fatalf("got %q, %v", got, err)
	}
	if n := h.count("GET /org/name/resolve"); n != 0 {
		t.Errorf("%d files were downloaded", n)
	}
	r.Offline = true
	if _, err := r.Commit(ctx, "hf://org/name"); err == nil {
		t.Error("offline and not in the cache: no error")
	}
	r.Offline = false
	if _, _, err := r.Resolve(ctx, "hf://org/name", "", nil); err != nil {
		t.Fatal(err)
	}
	r.Offline = true
	if got, err := r.Commit(ctx, "hf://org/name"); err != nil || got != commit {
		t.Errorf("offline: got %q, %v", got, err)
	}
	path, _, err := r.Resolve(ctx, "hf://org/name", "", nil)
	if err != nil {
		t.Fatal(err)
	}
	files, err := r.CacheFiles("hf://org/name", path)
	if err != nil || len(files) != 4 { // config, tokenizer, weights and the branch
		t.Fatalf("got %v, %v", files, err)
	}
	other := h.resolver(t)
	other.Offline = true
	for name, from := range files {
		b, err := os.ReadFile(from)
		to := filepath.Join(other.Cache, filepath.FromSlash(name))
		if err = errors.Join(err, os.MkdirAll(filepath.Dir(to), 0o755), os.WriteFile(to, b, 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	if _, _, err := other.Resolve(ctx, "hf://org/name", "", nil); err != nil {
		t.Errorf("another cache with the files: %v", err)
	}
	at, err := At("hf://org/name", commit)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := r.Commit(ctx, at); err != nil || got != commit {
		t.Errorf("%s: got %q, %v", at, got, err)
	}
	if path, _, err := r.Resolve(ctx, at, "", nil); err != nil {
		t.Errorf("%s: %s, %v", at, path, err)
	}
}

func TestAt(t *testing.T) {
	for source, want := range map[string]string{
		"hf://org/name":               "hf://org/name@" + commit,
		"hf://org/name@main":          "hf://org/name@" + commit,
		"hf://org/name@a%2Fb/x.gguf":  "hf://org/name@" + commit + "/x.gguf",
		"hf://org/name/q/x.gguf":      "hf://org/name@" + commit + "/q/x.gguf",
		"hf://org":                    "",
		"hf://org/name@../x":          "",
		"hf://org/name/../../x.gguf/": "",
	} {
		if got, err := At(source, commit); got != want || (err == nil) != (want != "") {
			t.Errorf("%s: got %q, %v; want %q", source, got, err, want)
		}
	}
	if _, err := At("hf://org/name", "main"); err == nil {
		t.Error("a branch is no commit")
	}
	if !Remote("hf://org/name") || Remote("./hf") {
		t.Error("Remote")
	}
}
