package artifact

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"pipe/runtime/fsys/faultfs"
)

const day = 24 * time.Hour

// made makes an artifact with one row, and the record of an action that made it.
func made(t *testing.T, s *Store, k Key, text string) Object {
	t.Helper()
	o := commit(t, s, Row{Text: text})
	if err := s.PutRecord(&Record{Key: k, Outputs: map[string]Object{"x": o}}); err != nil {
		t.Fatal(err)
	}
	return o
}

// older makes all of a store that much older.
func older(t *testing.T, s *Store, by time.Duration) {
	t.Helper()
	err := filepath.WalkDir(s.Dir(), func(path string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		st, err := d.Info()
		if err != nil {
			return err
		}
		return os.Chtimes(path, time.Time{}, st.ModTime().Add(-by))
	})
	if err != nil {
		t.Fatal(err)
	}
}

func collect(t *testing.T, s *Store, o CollectOptions) *Collected {
	t.Helper()
	c, err := s.Collect(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestCollectKeepsWhatIsNeeded(t *testing.T) {
	s := testStore(t)
	kept, gone, common := made(t, s, Key{1}, "kept"), made(t, s, Key{2}, "gone"), made(t, s, Key{3}, "common")
	if err := s.PutRecord(&Record{Key: Key{4}, Outputs: map[string]Object{"x": common}, Series: []Point{{"loss", 1, 1}}}); err != nil {
		t.Fatal(err)
	}
	older(t, s, 2*day)
	young := made(t, s, Key{5}, "young")
	o := CollectOptions{Keep: map[Key]bool{{1}: true, {3}: true}, Grace: day}

	o.DryRun = true
	dry := collect(t, s, o)
	if dry.Records.N != 2 || dry.Objects.N != 1 || dry.KeptObjects.N != 3 || !s.Has(gone.Digest) {
		t.Errorf("dry run: %+v", dry)
	}
	if _, err := s.Record(Key{2}); err != nil {
		t.Errorf("a dry run removed a record: %v", err)
	}
	o.DryRun = false
	got := collect(t, s, o)
	if got.Freed() != dry.Freed() || got.Records != dry.Records || got.Objects != dry.Objects || got.Freed() == 0 {
		t.Errorf("got %+v after a dry run of %+v", got, dry)
	}
	for name, x := range map[string]Object{"kept": kept, "common": common, "young": young} {
		if !s.Has(x.Digest) {
			t.Errorf("%s was collected", name)
		}
	}
	if s.Has(gone.Digest) {
		t.Error("what nobody needs is still there")
	}
	for _, k := range []Key{{2}, {4}} {
		if _, err := s.Record(k); !errors.Is(err, ErrNotFound) {
			t.Errorf("record %v: %v", k, err)
		}
		if _, err := s.Series(k); !errors.Is(err, ErrNotFound) {
			t.Errorf("series %v: %v", k, err)
		}
	}
	if again := collect(t, s, o); again.Freed() != 0 {
		t.Errorf("a second time: %+v", again)
	}
	if left, err := os.ReadDir(filepath.Join(s.Dir(), "tmp")); err != nil || len(left) != 0 {
		t.Errorf("left in tmp: %v, %v", left, err)
	}
}

// An adapter is of no use without the weights that it was trained over.
func TestCollectKeepsBases(t *testing.T) {
	s := testStore(t)
	model := func(k Key, base Digest, text string) Object {
		w, err := s.Create(Model)
		if err != nil {
			t.Fatal(err)
		}
		err = errors.Join(w.WriteJSON(ModelFile, ModelManifest{Base: base}), w.WriteJSON("x.json", text))
		if err != nil {
			t.Fatal(err)
		}
		o, err := w.Commit()
		if err != nil {
			t.Fatal(err)
		}
		if err := s.PutRecord(&Record{Key: k, Outputs: map[string]Object{"model": o}}); err != nil {
			t.Fatal(err)
		}
		return o
	}
	base := model(Key{1}, Digest{}, "base")
	adapter := model(Key{2}, base.Digest, "adapter")
	other := model(Key{3}, Digest{}, "other")
	older(t, s, 2*day)
	collect(t, s, CollectOptions{Keep: map[Key]bool{{2}: true}, Grace: day})
	if !s.Has(base.Digest) || !s.Has(adapter.Digest) || s.Has(other.Digest) {
		t.Error(s.Has(base.Digest), s.Has(adapter.Digest), s.Has(other.Digest))
	}
}

// What a run that goes on has found or is making stays, however old, and with
// no grace at all.
func TestCollectSparesLiveRuns(t *testing.T) {
	s := testStore(t)
	found, lost := made(t, s, Key{1}, "found"), made(t, s, Key{2}, "lost")
	older(t, s, 100*day)
	run, err := OpenStore(s.Dir())
	if err != nil {
		t.Fatal(err)
	}
	end, err := run.Begin()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := run.Record(Key{1}); err != nil {
		t.Fatal(err)
	}
	w, err := run.Create(Dataset) // which will be what is lost
	if err != nil {
		t.Fatal(err)
	}
	if err := Append(w, Row{Text: "lost"}); err != nil {
		t.Fatal(err)
	}
	work, err := run.Work(Key{1}, "sft.a")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(work, "checkpoint"), []byte("x"), 0o666); err != nil {
		t.Fatal(err)
	}
	older(t, s, 100*day)
	touch(t, filepath.Join(s.Dir(), "live")) // as its heartbeat does
	none := CollectOptions{}
	got := collect(t, s, none)
	if got.Live != 1 || len(got.Unfinished) != 1 || !got.Unfinished[0].Running || got.Unfinished[0].Addr != "sft.a" {
		t.Errorf("%+v", got)
	}
	if !s.Has(found.Digest) || s.Has(lost.Digest) {
		t.Error(s.Has(found.Digest), s.Has(lost.Digest))
	}
	o, err := w.Commit()
	if err != nil || o != lost {
		t.Fatal(o, err)
	}
	older(t, s, 100*day)
	touch(t, filepath.Join(s.Dir(), "live"))
	collect(t, s, none) // published, but its record is not written yet
	if err := run.PutRecord(&Record{Key: Key{2}, Outputs: map[string]Object{"x": o}}); err != nil {
		t.Fatal(err)
	}
	end()
	older(t, s, 100*day)
	if got := collect(t, s, none); got.Live != 0 || got.Objects.N != 2 || got.Work.N != 1 {
		t.Errorf("after the run: %+v", got)
	}
}

func touch(t *testing.T, dir string) {
	t.Helper()
	list, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range list {
		if err := os.Chtimes(filepath.Join(dir, e.Name()), time.Time{}, time.Now()); err != nil {
			t.Fatal(err)
		}
	}
}

// A stage that was stopped has saved what it needs to go on: that outlives the
// grace, is told of, and goes in the end.
func TestCollectSparesCheckpoints(t *testing.T) {
	s := testStore(t)
	for _, k := range []Key{{1}, {2}} {
		dir, err := s.Work(k, "sft.long")
		if err != nil {
			t.Fatal(err)
		}
		if k == (Key{1}) {
			if err := os.WriteFile(filepath.Join(dir, "checkpoint"), []byte("weights"), 0o666); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := os.WriteFile(filepath.Join(s.Journals(), "j.jsonl"), []byte("paid"), 0o666); err != nil {
		t.Fatal(err)
	}
	older(t, s, 3*day)
	o := CollectOptions{Grace: day, WorkGrace: 14 * day}
	got := collect(t, s, o)
	if got.Work.N != 1 || len(got.Unfinished) != 1 {
		t.Fatalf("%+v", got)
	}
	u := got.Unfinished[0]
	if u.Key != (Key{1}) || u.Addr != "sft.long" || u.Bytes != 7 || u.Running || u.Left < 10*day || u.Left > 11*day {
		t.Errorf("%+v", u)
	}
	older(t, s, 12*day)
	if got := collect(t, s, o); got.Work.N != 1 || got.Work.Bytes != 7 || len(got.Unfinished) != 0 {
		t.Errorf("%+v", got)
	}
	if left, err := os.ReadDir(filepath.Join(s.Dir(), "work")); err != nil || len(left) != 0 {
		t.Errorf("left in work: %v, %v", left, err)
	}
	if _, err := os.Stat(filepath.Join(s.Journals(), "j.jsonl")); err != nil {
		t.Error(err)
	}
}

// What died with its process goes.
func TestCollectSweepsWhatDied(t *testing.T) {
	s := testStore(t)
	w, err := s.Create(File)
	if err != nil {
		t.Fatal(err)
	}
	if err := w.WriteJSON("x.json", "x"); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"leases/" + Key{1}.String(), "leases/" + Key{2}.String() + ".x" + graveSuffix, "live/x"} {
		if err := os.WriteFile(filepath.Join(s.Dir(), name), []byte(`{"host":"elsewhere","pid":1}`), 0o666); err != nil {
			t.Fatal(err)
		}
	}
	if got := collect(t, s, CollectOptions{Grace: day}); got.Freed() != 0 {
		t.Errorf("what is young: %+v", got)
	}
	older(t, s, 2*day)
	if got := collect(t, s, CollectOptions{Grace: day}); got.Temp.N != 1 || got.Leases.N != 3 {
		t.Errorf("%+v", got)
	}
}

// A file that cannot be read stops everything: it may name what is needed.
func TestCollectStopsAtWhatItCannotRead(t *testing.T) {
	s := testStore(t)
	o := made(t, s, Key{1}, "a")
	path := s.recordPath(Key{0, 2})
	if err := os.MkdirAll(filepath.Dir(path), 0o777); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(filepath.Dir(path), path); err != nil { // reads as a directory: EISDIR
		t.Fatal(err)
	}
	older(t, s, 2*day)
	if _, err := s.Collect(t.Context(), CollectOptions{Grace: day}); err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("error is %v", err)
	}
	if !s.Has(o.Digest) {
		t.Error("an artifact was removed although a record cannot be read")
	}
}

// Killed or failing at any call, Collect leaves a store in which what is kept is
// whole and every record that is left has its artifacts, or is a miss.
func TestCollectMayFailAtEveryCall(t *testing.T) {
	memory := memoryDir(t)
	keep := CollectOptions{Keep: map[Key]bool{{1}: true}, Grace: day}
	prepare := func(dir string) (kept Object) {
		s := openOn(t, faultfs.New(0, ""), dir)
		kept = made(t, s, Key{1}, "kept")
		made(t, s, Key{2}, "gone")
		made(t, s, Key{3}, "gone too")
		if _, err := s.Work(Key{4}, "x"); err != nil {
			t.Fatal(err)
		}
		older(t, s, 2*day)
		return kept
	}
	calls := 1
	for _, fault := range faultfs.Faults {
		for at := 1; at <= calls; at++ {
			name := fmt.Sprintf("%s at call %d", fault, at)
			dir := filepath.Join(memory, name)
			kept := prepare(dir)
			opened := faultfs.New(0, "")
			openOn(t, opened, dir)
			bad := faultfs.New(at, fault)
			_, err := openOn(t, bad, dir).Collect(t.Context(), keep)
			if err != nil && !strings.Contains(err.Error(), dir) {
				t.Errorf("%s: %v", name, err)
			}
			if fault == faultfs.Full && strings.HasPrefix(bad.Last(), "mkdir") {
				if left, _ := filepath.Glob(filepath.Join(dir, "objects", "sha256", "*", "*")); err != nil || len(left) != 1 {
					t.Errorf("%s: a full disk hindered gc from making room: %v, %v", name, left, err)
				}
			}
			if at == 1 && fault == faultfs.Faults[0] {
				whole := faultfs.New(0, "")
				prepare(dir + " whole")
				collect(t, openOn(t, whole, dir+" whole"), keep)
				calls = whole.Calls()
			}
			s, err := OpenStore(dir)
			if err != nil {
				t.Fatal(err)
			}
			for _, k := range []Key{{1}, {2}, {3}} {
				r, err := s.Record(k)
				if k == (Key{1}) && (err != nil || r.Outputs["x"] != kept) {
					t.Errorf("%s (%s): %v", name, bad.Last(), err)
				}
				if err != nil && !errors.Is(err, ErrNotFound) {
					t.Errorf("%s (%s): record %v: %v", name, bad.Last(), k, err)
				}
				if _, statErr := os.Stat(s.recordPath(k)); statErr == nil && err != nil {
					t.Errorf("%s (%s): record %v is left without its artifact: %v", name, bad.Last(), k, err)
				}
			}
			older(t, s, 2*day)
			collect(t, s, keep)
			if all, err := filepath.Glob(filepath.Join(dir, "objects", "sha256", "*", "*")); err != nil || len(all) != 1 {
				t.Errorf("%s (%s): after the next collection: %v, %v", name, bad.Last(), all, err)
			}
			if left, err := os.ReadDir(filepath.Join(dir, "tmp")); err != nil || len(left) != 0 {
				t.Errorf("%s (%s): left in tmp: %v, %v", name, bad.Last(), left, err)
			}
		}
	}
	if calls < 10 {
		t.Errorf("only %d calls", calls)
	}
}

// Runs and collections at once, without any grace: no run ever fails, and what
// each has made and looked up is there until it ends.
func TestCollectBesideRuns(t *testing.T) {
	dir := memoryDir(t)
	stop := make(chan struct{})
	var gc, runs sync.WaitGroup
	for range 2 {
		gc.Go(func() {
			s, err := OpenStoreOn(faultfs.New(0, ""), dir)
			for err == nil {
				select {
				case <-stop:
					return
				default:
					_, err = s.Collect(t.Context(), CollectOptions{})
				}
			}
			t.Error(err)
		})
	}
	for range 3 {
		runs.Go(func() {
			for i := range 60 {
				if err := shortRun(t, dir, byte(i%3)); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	runs.Wait()
	close(stop)
	gc.Wait()
}

// shortRun takes an action from the store, or makes it, and uses it.
func shortRun(t *testing.T, dir string, i byte) error {
	s, err := OpenStoreOn(faultfs.New(0, ""), dir)
	if err != nil {
		return err
	}
	end, err := s.Begin()
	if err != nil {
		return err
	}
	defer end()
	k := Key{i}
	r, err := s.Record(k)
	if errors.Is(err, ErrNotFound) {
		w, err := s.Create(File)
		if err != nil {
			return err
		}
		if err := w.AddFile("a.txt", func(f io.Writer) error { _, err := f.Write([]byte{i}); return err }); err != nil {
			return err
		}
		o, err := w.Commit()
		if err != nil {
			return err
		}
		r = &Record{Key: k, Outputs: map[string]Object{"x": o}}
		if err := s.PutRecord(r); err != nil {
			return err
		}
	} else if err != nil {
		return err
	}
	time.Sleep(time.Millisecond)
	a, err := s.Open(r.Outputs["x"].Digest)
	if err != nil {
		return err
	}
	_, err = a.Dir()
	return err
}

// FuzzLease: whatever lies in the files of leases and sessions, they are taken
// for those of living or dead processes, and a lease is taken over in the end.
func FuzzLease(f *testing.F) {
	for _, s := range []string{`{"host":"h","pid":1,"token":"x"}`, `{"pid":-1}`, `{"pid":99999999999999999999}`, "{}\nkey x\nobject y\ntemp ../..\n", "temp artifact-x", "\x00", ""} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		s := testStore(t)
		old := time.Now().Add(-30 * day)
		for _, path := range []string{s.leasePath(Key{}), filepath.Join(s.Dir(), "live", "x")} {
			if err := errors.Join(os.WriteFile(path, b, 0o666), os.Chtimes(path, old, old)); err != nil {
				t.Fatal(err)
			}
		}
		if _, _, _, err := s.liveNotes(time.Now()); err != nil {
			t.Error(err)
		}
		release, err := s.Lease(t.Context(), Key{})
		if err != nil {
			t.Fatal(err)
		}
		release()
		if err := os.WriteFile(s.leasePath(Key{}), b, 0o666); err != nil {
			t.Fatal(err)
		}
		touch(t, filepath.Join(s.Dir(), "live"))
		if _, err := s.Collect(t.Context(), CollectOptions{}); err != nil {
			t.Error(err)
		}
	})
}
