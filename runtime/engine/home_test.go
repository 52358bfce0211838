package engine

import (
	"os"
	"path/filepath"
	"testing"

	"pipe/runtime/artifact"
	"pipe/runtime/lang"
)

func TestHomes(t *testing.T) {
	top := RealDir(t.TempDir())
	at := func(dir ...string) string { return filepath.Join(append([]string{top}, dir...)...) }
	open := func(dir string) *artifact.Store {
		s, err := artifact.OpenStore(dir)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	inside, beside, deep := open(at("p", ".pipe")), open(at("store")), open(at("data", "store"))
	if err := os.MkdirAll(at("p", "sub"), 0o777); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		store     *artifact.Store
		dir, want string
	}{
		{inside, at("p"), ".."},
		{inside, top, "../.."},
		{inside, at("p", "sub"), "../sub"},
		{beside, at("p"), "../p"},
		{beside, at("store"), "."},
		{deep, at("p"), at("p")},
	} {
		got := homeOf(c.store, c.dir)
		if got != c.want {
			t.Errorf("the home of %s with a store in %s is %q, want %q", c.dir, c.store.Dir(), got, c.want)
		}
		if back := dirAt(c.store, got); back != c.dir {
			t.Errorf("%q is %s, want %s", got, back, c.dir)
		}
	}
	// What an older version of pipe noted is found.
	prog := &lang.Program{Name: "p", Dir: at("p")}
	name := PipelineName(inside, prog)
	older := nameOf(at("p") + "\x00p")
	if name == older {
		t.Fatal("it goes by its absolute directory")
	}
	if err := inside.Replace(headName(older), []byte("{}")); err != nil {
		t.Fatal(err)
	}
	if got := PipelineName(inside, prog); got != older {
		t.Errorf("it goes by %s, not by the name that the store has", got)
	}
}
