package artifact

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// An artifact that was being written when its process died leaves something in
// tmp/ and nothing else: it is not seen, and does not hinder the next writer.
func TestCrashInTheMiddle(t *testing.T) {
	s := testStore(t)
	w, err := s.Create(Dataset)
	if err != nil {
		t.Fatal(err)
	}
	if err := Append(w, testRows...); err != nil {
		t.Fatal(err)
	}
	if err := w.table.close(); err != nil { // and no Commit
		t.Fatal(err)
	}
	again, err := OpenStore(s.Dir())
	if err != nil {
		t.Fatal(err)
	}
	if objects, err := filepath.Glob(filepath.Join(s.Dir(), "objects", "sha256", "*")); err != nil || len(objects) != 0 {
		t.Errorf("published before Commit: %v, %v", objects, err)
	}
	if o := commit(t, again, testRows...); !again.Has(o.Digest) {
		t.Error("the next writer did not publish")
	}
}

// Writers of the same artifact at once all succeed, and leave one object.
func TestWritersAtOnce(t *testing.T) {
	s := testStore(t)
	var wg sync.WaitGroup
	objects := make([]Object, 8)
	errs := make([]error, len(objects))
	for i := range objects {
		wg.Go(func() {
			w, err := s.Create(Dataset)
			if err == nil {
				err = Append(w, testRows...)
			}
			if err == nil {
				objects[i], err = w.Commit()
			}
			errs[i] = err
		})
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
	for _, o := range objects {
		if o != objects[0] || !s.Has(o.Digest) {
			t.Errorf("got %v and %v", o, objects[0])
		}
	}
	if left, err := os.ReadDir(filepath.Join(s.Dir(), "tmp")); err != nil || len(left) != 0 {
		t.Errorf("left in tmp: %v, %v", left, err)
	}
}

func TestHostileNames(t *testing.T) {
	s := testStore(t)
	w, err := s.Create(File)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Abort()
	for _, name := range []string{"", ".", "..", "../x", "/x", "a/../../x", "a//b", "a/", "./a", `a\b`, manifestName} {
		if err := w.AddFile(name, func(io.Writer) error { return nil }); err == nil {
			t.Errorf("%q was taken", name)
		}
		m := manifest{Format: 1, Type: File, Files: []FileInfo{{Name: name}}}
		d, b, err := m.digest()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := parseManifest(b, d); err == nil || !strings.Contains(err.Error(), "bad file name") {
			t.Errorf("%q in a manifest: %v", name, err)
		}
	}
	if err := os.Symlink("/etc/hosts", filepath.Join(w.Dir(), "link")); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Commit(); err == nil || !strings.Contains(err.Error(), "not a regular file") {
		t.Errorf("a link was published: %v", err)
	}
}

// A writer that fails leaves nothing, and says what it was doing.
func TestFailedWriteLeavesNothing(t *testing.T) {
	s := testStore(t)
	w, err := s.Create(File)
	if err != nil {
		t.Fatal(err)
	}
	full := errors.New("no space left on device")
	if err := w.AddFile("a/b", func(io.Writer) error { return full }); !errors.Is(err, full) || !strings.Contains(err.Error(), "add a/b") {
		t.Errorf("error is %v", err)
	}
	w.Abort()
	if left, err := os.ReadDir(filepath.Join(s.Dir(), "tmp")); err != nil || len(left) != 0 {
		t.Errorf("left in tmp: %v, %v", left, err)
	}
	if _, err := w.Commit(); err == nil {
		t.Error("an aborted artifact was committed")
	}
}

func TestRecords(t *testing.T) {
	s := testStore(t)
	o := commit(t, s, testRows...)
	k := Key{1}
	r := &Record{Key: k, Addr: "a.b", Outputs: map[string]Object{"x": o}, Series: []Point{{"loss", 1, 0.5}, {"lr", 1, 2}, {"loss", 2, 0.25}}}
	if _, err := s.Record(k); !errors.Is(err, ErrNotFound) {
		t.Errorf("before: %v", err)
	}
	if err := s.PutRecord(r); err != nil {
		t.Fatal(err)
	}
	got, err := s.Record(k)
	if err != nil || got.Outputs["x"] != o {
		t.Errorf("got %+v, %v", got, err)
	}
	if list, err := s.Series(k); err != nil || len(list) != 3 || list[1] != (Point{"loss", 2, 0.25}) {
		t.Errorf("series %v, %v", list, err)
	}
	if err := s.PutRecord(&Record{Key: Key{2}, Outputs: map[string]Object{"x": {Digest: Digest{9}}}}); err == nil {
		t.Error("a record of nothing was kept")
	}
	path := s.recordPath(k)
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	other := *r
	other.Key = Key{3}
	wrong, err := json.Marshal(&other)
	if err != nil {
		t.Fatal(err)
	}
	for what, b := range map[string][]byte{"cut short": whole[:len(whole)/2], "empty": nil, "another's": wrong} {
		overwrite(t, path, b)
		if _, err := s.Record(k); !errors.Is(err, ErrNotFound) {
			t.Errorf("%s: %v", what, err)
		}
	}
	overwrite(t, path, whole)
	if err := os.RemoveAll(s.ObjectDir(o.Digest)); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Record(k); !errors.Is(err, ErrNotFound) {
		t.Errorf("without its output: %v", err)
	}
}

func TestLease(t *testing.T) {
	s := testStore(t)
	k := Key{7}
	release, err := s.Lease(t.Context(), k)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.Lease(ctx, k); !errors.Is(err, context.Canceled) {
		t.Errorf("a second holder: %v", err)
	}
	release()
	release() // twice is once
	path := filepath.Join(s.Dir(), "leases", k.String())
	if _, err := os.Stat(path); err == nil {
		t.Error("the lease is still there")
	}
	// The lease of a process whose heart stopped is taken over.
	for _, content := range []string{`{"host":"elsewhere","pid":1,"token":"x"}`, "", "garbage"} {
		if err := os.WriteFile(path, []byte(content), 0o666); err != nil {
			t.Fatal(err)
		}
		old := time.Now().Add(-time.Hour)
		if err := os.Chtimes(path, old, old); err != nil {
			t.Fatal(err)
		}
		if release, err = s.Lease(t.Context(), k); err != nil {
			t.Fatal(err)
		}
		release()
	}
}

// TestHeart: a heart stands still when a waiter has looked long enough, whatever
// the time is elsewhere.
func TestHeart(t *testing.T) {
	now := time.Now()
	for _, skew := range []time.Duration{0, -5 * time.Minute, 5 * time.Minute} {
		var l lease
		at := now
		look := func(beat time.Time, after time.Duration) bool {
			at = at.Add(after)
			return l.stopped(beat, at)
		}
		for i := range 100 { // it beats
			if beat := now.Add(skew + time.Duration(i/20)*leaseBeat); look(beat, leaseBeat/20) {
				t.Fatalf("clocks differ by %v: a beating heart is taken for dead", skew)
			}
		}
		beat := now.Add(skew + time.Hour)
		if look(beat, time.Hour) || look(beat, time.Hour) {
			t.Errorf("clocks differ by %v: a waiter that was suspended breaks a lease", skew)
		}
		n := 1
		for !look(beat, leasePoll) {
			n++
		}
		if got := time.Duration(n) * leasePoll; got < leaseStale-2*time.Second || got > leaseStale {
			t.Errorf("clocks differ by %v: broken after %v", skew, got)
		}
	}
	if l := (lease{}); !l.stopped(now.Add(-leaseOld-time.Second), now) {
		t.Error("an old lease is not broken at once")
	}
}

// FuzzManifest: whatever is taken has names inside the artifact, in order.
func FuzzManifest(f *testing.F) {
	for _, s := range []string{`{"format":1,"type":"file","rows":0,"files":[]}`, `{"format":1,"rows":-1}`, `{"format":1,"files":[{"name":"../x","size":-1}]}`, `{"format":1,"files":[{"name":"a","size":9223372036854775807},{"name":"b","size":1}]}`, `[`, ``} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := parseManifest(b, Digest(sha256.Sum256(b)))
		if err != nil {
			return
		}
		for i, fi := range m.Files {
			if !filepath.IsLocal(fi.Name) || fi.Size < 0 || i > 0 && m.Files[i-1].Name >= fi.Name {
				t.Errorf("took %+v", fi)
			}
		}
		if _, err := parseManifest(b, Digest{}); err == nil {
			t.Error("a manifest of another digest was taken")
		}
	})
}

// FuzzRecord: a damaged record is not found; it never crashes.
func FuzzRecord(f *testing.F) {
	for _, s := range []string{`{}`, `{"key":"00"}`, `{"outputs":{"x":{"digest":"sha256:00"}}}`, `[{"series":"a","steps":[1],"values":[]}]`, `[`, ``} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := OpenStore(t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		for _, path := range []string{s.recordPath(Key{}), s.seriesPath(Key{})} {
			if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o777), os.WriteFile(path, b, 0o666)); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := s.Record(Key{}); err != nil && !errors.Is(err, ErrNotFound) {
			t.Errorf("record: %v", err)
		}
		if _, err := s.Series(Key{}); err != nil && !errors.Is(err, ErrNotFound) {
			t.Errorf("series: %v", err)
		}
	})
}
