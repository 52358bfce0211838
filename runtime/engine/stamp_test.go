package engine

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"pipe/runtime/artifact"
)

// A stamp as it is written is read back, and holds until a fact, a file or the
// stamp itself is another.
func TestStampComesBack(t *testing.T) {
	if !remembers {
		t.Skip("this system's file times prove nothing")
	}
	store, other := t.TempDir(), t.TempDir()
	inside, outside, missing := filepath.Join(store, "a"), filepath.Join(other, "b"), filepath.Join(other, "c")
	for _, p := range []string{inside, outside} {
		if err := os.WriteFile(p, []byte("x"), 0o666); err != nil {
			t.Fatal(err)
		}
	}
	facts := func(value string) Facts {
		return func(variables []string) []string { return []string{fmt.Sprint(variables), value} }
	}
	s := &stamp{store: store, stages: 7, variables: []string{"HOME", "PIPE_VAR_x"}, paths: []string{inside, outside, missing}}
	var err error
	if s.sum, err = s.hash(facts("1"), func(string, os.FileInfo) error { return nil }); err != nil {
		t.Fatal(err)
	}
	name := StampName("a", "b")
	opened, err := artifact.OpenStore(store)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.write(opened, name, time.Now()); err != nil {
		t.Fatal(err)
	}
	holds := func() bool { _, ok := CheckStamp(store, name, facts("1")); return ok }
	if n, ok := CheckStamp(store, name, facts("1")); !ok || n != 7 {
		t.Fatalf("got %d stages, %v", n, ok)
	}
	if _, ok := CheckStamp(store, name, facts("2")); ok {
		t.Error("it holds with another fact")
	}
	if _, ok := CheckStamp(store, StampName("ab"), facts("1")); ok {
		t.Error("it is found under another name")
	}
	path := filepath.Join(store, "stamps", name)
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for i := range whole {
		torn := whole[:i]
		if i%2 == 1 { // or damaged
			torn = append([]byte{}, whole...)
			torn[i] ^= 1
		}
		if err := os.WriteFile(path, torn, 0o666); err != nil {
			t.Fatal(err)
		}
		if holds() {
			t.Errorf("it holds although it is %q", torn)
		}
	}
	if err := os.WriteFile(path, whole, 0o666); err != nil || !holds() {
		t.Fatal("it does not hold when it is whole again", err)
	}
	if err := os.WriteFile(missing, nil, 0o666); err != nil || holds() {
		t.Error("it holds although a file is there now", err)
	}
}

// Only so many stamps are kept.
func TestOldStampsGo(t *testing.T) {
	store := t.TempDir()
	dir := filepath.Join(store, "stamps")
	opened, err := artifact.OpenStore(store)
	if err != nil {
		t.Fatal(err)
	}
	for i := range maxStamps + 3 {
		if err := (&stamp{store: store}).write(opened, fmt.Sprint("s", i), time.Now()); err != nil {
			t.Fatal(err)
		}
		long := time.Now().Add(-10 * racy)
		if err := os.Chtimes(filepath.Join(dir, fmt.Sprint("s", i)), long, long); err != nil {
			t.Fatal(err)
		}
	}
	if err := (&stamp{store: store}).write(opened, "last", time.Now()); err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != maxStamps {
		t.Fatalf("%d stamps are left, %v", len(entries), err)
	}
	if _, err := os.Stat(filepath.Join(dir, "last")); err != nil {
		t.Error("the newest is gone:", err)
	}
}

func TestWhichModelsNeverMove(t *testing.T) {
	c := strings.Repeat("0a", 20)
	for source, want := range map[string]bool{
		"hf://a/b@" + c: true, "hf://a/b@" + c + "/x.gguf": true,
		"hf://a/b": false, "hf://a/b@main": false, "hf://a/b@" + c + "0": false, "hf://a/b@" + c[:39]: false,
		"hf://a/b@main/" + c: false, "hf://a/b/x@" + c: false, "x hf://a/b@" + c: false,
	} {
		if fixedRevision.MatchString(source) != want {
			t.Errorf("%s: %v", source, !want)
		}
	}
}

// A stamp is read without trust: any bytes give a stamp or an error.
func FuzzStamp(f *testing.F) {
	f.Add(stampHeader + "\n" + strings.Repeat("00", 32) + "\n3\n1\nHOME\nruns\n/etc\n")
	f.Add(stampHeader + "\n\n\n\n")
	f.Add(stampHeader + "\n" + strings.Repeat("00", 32) + "\n-1\n99999999999\n")
	f.Fuzz(func(t *testing.T, text string) {
		s, err := parseStamp(text, "/store")
		if err != nil {
			return
		}
		if s.stages < 0 || len(s.variables)+len(s.paths) > strings.Count(text, "\n") {
			t.Errorf("%d stages, %d variables, %d paths", s.stages, len(s.variables), len(s.paths))
		}
		for _, p := range s.paths {
			if !filepath.IsAbs(p) {
				t.Errorf("%q is not absolute", p)
			}
		}
	})
}
