package artifact

import (
	"os"
	"strings"
	"testing"
)

func TestPathsAreWhatOpenChecks(t *testing.T) {
	s, err := OpenStore(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	w, err := s.Create(File)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(w.Dir()+"/a.txt", []byte("a"), 0o666); err != nil {
		t.Fatal(err)
	}
	obj, err := w.Commit()
	if err != nil {
		t.Fatal(err)
	}
	a, err := s.Open(obj.Digest)
	if err != nil {
		t.Fatal(err)
	}
	if a.m.Format != ManifestFormat {
		t.Errorf("the manifest has format %d", a.m.Format)
	}
	paths := a.Paths()
	if len(paths) != 2 || !strings.HasSuffix(paths[0], "/manifest.json") || !strings.HasSuffix(paths[1], "/a.txt") {
		t.Fatalf("got %q", paths)
	}
	for _, p := range paths {
		if err := os.Rename(p, p+".away"); err != nil {
			t.Fatal(err)
		}
		if s.Has(obj.Digest) {
			t.Errorf("it is there without %s", p)
		}
		if err := os.Rename(p+".away", p); err != nil {
			t.Fatal(err)
		}
	}
}
