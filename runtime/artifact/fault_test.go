package artifact

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"pipe/runtime/fsys/faultfs"
)

var (
	faultKey  = Key{9}
	faultRows = append(append([]Row(nil), testRows...), Row{ID: "d", Text: strings.Repeat("long ", 5000)})
)

// publishAll does everything that a run does with a store.
func publishAll(t *testing.T, s *Store) (o Object, err error) {
	end, err := s.Begin()
	_ = err // a run goes on without, and fails where it has to write
	defer end()
	release, err := s.Lease(t.Context(), faultKey)
	if err != nil {
		return o, err
	}
	defer release()
	if _, err := s.Work(faultKey, "a.b"); err != nil {
		return o, err
	}
	w, err := s.Create(Dataset)
	if err != nil {
		return o, err
	}
	defer w.Abort()
	if err := Append(w, faultRows...); err != nil {
		return o, err
	}
	err = w.AddFile("notes/a.txt", func(f io.Writer) error {
		_, err := io.WriteString(f, strings.Repeat("a note\n", 1000))
		return err
	})
	if err != nil {
		return o, err
	}
	if o, err = w.Commit(); err != nil {
		return o, err
	}
	r := &Record{Key: faultKey, Addr: "a.b", Outputs: map[string]Object{"x": o}, Series: []Point{{"loss", 1, 0.5}}}
	if err := s.PutRecord(r); err != nil {
		return o, err
	}
	if err := s.Replace("heads/x.json", []byte(strings.Repeat("new", 100))); err != nil {
		return o, err
	}
	s.RemoveWork(faultKey)
	return o, nil
}

func openOn(t *testing.T, disk *faultfs.FS, dir string) *Store {
	t.Helper()
	s, err := OpenStoreOn(disk, dir)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// Each call to the file system fails in turn, in each way that one can: what
// was published before is never lost, nothing damaged is ever read as good, and
// the next run makes the same.
func TestEveryCallMayFail(t *testing.T) {
	count := faultfs.New(0, "")
	want, err := publishAll(t, openOn(t, count, t.TempDir()))
	if err != nil {
		t.Fatal(err)
	}
	calls := count.Calls()
	if calls < 40 {
		t.Fatalf("only %d calls were counted", calls)
	}
	memory := memoryDir(t)
	silent := map[string]int{}
	for _, fault := range faultfs.Faults {
		for at := 1; at <= calls; at++ {
			if testing.Short() && at%5 != 0 {
				continue
			}
			name := fmt.Sprintf("%s at call %d", fault, at)
			dir := filepath.Join(memory, fmt.Sprint(fault, at))
			old := commit(t, openOn(t, faultfs.New(0, ""), dir), testRows...)
			bad := faultfs.New(at, fault)
			s, err := OpenStoreOn(bad, dir)
			if err == nil {
				_, err = publishAll(t, s)
			}
			name += " (" + bad.Last() + ")"
			op, _, _ := strings.Cut(strings.ReplaceAll(bad.Last(), dir+"/", ""), "-")
			if live, _, ok := strings.Cut(op, "live/"); ok {
				op = live + "live"
			}
			switch {
			case err != nil:
				checkAdvice(t, name, fault, dir, err)
			case strings.HasPrefix(op, "rename objects/") && fault == faultfs.Late: // it was found to be there
			case strings.HasPrefix(op, "sync") || strings.HasPrefix(op, "rename"):
				t.Errorf("%s was reported as success", name)
			default:
				silent[op]++
			}
			checkStore(t, name, dir, old, want, err == nil)
			age(t, filepath.Join(dir, "leases"))
			again, err := publishAll(t, openOn(t, faultfs.New(0, ""), dir))
			if err != nil || again != want {
				t.Errorf("%s: the next run made %v, %v", name, again, err)
			}
			checkStore(t, name+", then a clean run", dir, old, want, true)
			if t.Failed() {
				return
			}
			os.RemoveAll(dir)
		}
	}
	t.Logf("%d calls, %d faults each; of no consequence: %v", calls, len(faultfs.Faults), silent)
}

// memoryDir returns a directory in memory where there is one: a disk that is
// busy with other things makes thousands of small files slow.
func memoryDir(t *testing.T) string {
	t.Helper()
	if dir, err := os.MkdirTemp("/dev/shm", "pipe-test-"); err == nil {
		t.Cleanup(func() { os.RemoveAll(dir) })
		return dir
	}
	return t.TempDir()
}

// checkAdvice wants an error to say where, and what to do.
func checkAdvice(t *testing.T, name string, fault faultfs.Fault, dir string, err error) {
	t.Helper()
	var words []string
	switch fault {
	case faultfs.Full:
		words = []string{"the disk of the store " + dir + " is full", "pipe gc", "--store"}
	case faultfs.ReadOnly:
		words = []string{"the store " + dir + " cannot be written to", "--store"}
		if !errors.Is(err, ErrUnwritable) {
			t.Errorf("%s: %v is no ErrUnwritable", name, err)
		}
	}
	for _, w := range append(words, dir) {
		if strings.Count(err.Error(), w) == 0 {
			t.Errorf("%s: the error does not say %q: %v", name, w, err)
		}
	}
	if strings.Count(err.Error(), "--store") > 1 {
		t.Errorf("%s: advice is given twice: %v", name, err)
	}
}

// checkStore opens a store as the next process does. Everything that it says it
// has must be whole.
func checkStore(t *testing.T, name, dir string, old, want Object, done bool) {
	t.Helper()
	s, err := OpenStore(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range []Object{old, want} {
		a, err := s.Open(o.Digest)
		if errors.Is(err, ErrNotFound) && o == want && !done {
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if _, err := a.Dir(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		rows, err := All[Row](a)
		if wants := map[Object][]Row{old: testRows, want: faultRows}[o]; err != nil || !reflect.DeepEqual(rows, wants) {
			t.Errorf("%s: rows of %v: %v", name, o.Digest, err)
		}
	}
	objects, err := filepath.Glob(filepath.Join(dir, "objects", "sha256", "*", "*"))
	if err != nil || len(objects) > 2 {
		t.Errorf("%s: objects %v, %v", name, objects, err)
	}
	r, err := s.Record(faultKey)
	switch {
	case err == nil:
		if r.Outputs["x"] != want {
			t.Errorf("%s: the record says %v", name, r.Outputs)
		}
	case !errors.Is(err, ErrNotFound) || done:
		t.Errorf("%s: record: %v", name, err)
	}
	if b, err := os.ReadFile(filepath.Join(dir, "heads", "x.json")); err == nil && string(b) != strings.Repeat("new", 100) {
		t.Errorf("%s: a file is torn: %q", name, b)
	}
}

var leasePID = regexp.MustCompile(`"pid":\d+`)

// age makes leases those of a process that died long ago: their holder is this
// one, which lives.
func age(t *testing.T, dir string) {
	t.Helper()
	list, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range list {
		path, old := filepath.Join(dir, e.Name()), time.Now().Add(-time.Hour)
		b, err := os.ReadFile(path)
		err = errors.Join(err, os.WriteFile(path, leasePID.ReplaceAll(b, []byte(`"pid":1073741824`)), 0o666), os.Chtimes(path, old, old))
		if err != nil {
			t.Fatal(err)
		}
	}
}

// A full disk says how much more it had to hold.
func TestFullDiskSaysHowMuch(t *testing.T) {
	for at := 1; ; at++ {
		dir := t.TempDir()
		bad := faultfs.New(at, faultfs.Full)
		s, err := OpenStoreOn(bad, dir)
		if err == nil {
			_, err = publishAll(t, s)
		}
		if !strings.HasPrefix(bad.Last(), "write") || !strings.HasSuffix(bad.Last(), "a.txt") {
			continue
		}
		if err == nil || !strings.Contains(err.Error(), "no space left on device after 3.4 KiB: at least 3.4 KiB more are needed") {
			t.Errorf("error is %v", err)
		}
		return
	}
}

// Wherever a disk is full, its free room is told, once.
func TestAnyFullDiskSaysWhatIsFree(t *testing.T) {
	s := testStore(t)
	dir := t.TempDir()
	full := &os.PathError{Op: "write", Path: filepath.Join(dir, "gone", "f"), Err: syscall.ENOSPC}
	for _, advise := range []func(error) error{AdviseFull, s.Advise} {
		err := advise(fmt.Errorf("copy: %w", full))
		if !errors.Is(err, syscall.ENOSPC) || !strings.Contains(err.Error(), "the disk of "+dir+" is full, ") || !strings.HasSuffix(err.Error(), " are free: make room there, and run again") {
			t.Errorf("got %v", err)
		}
		if again := s.Advise(err); again != err {
			t.Errorf("told twice: %v", again)
		}
		if other := errors.New("x"); advise(other) != other || advise(nil) != nil {
			t.Error("other errors change")
		}
	}
}
