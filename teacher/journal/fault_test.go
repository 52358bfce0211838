package journal

import (
	"bytes"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// A faulty output fails at its at-th call, counted from 1.
type faulty struct {
	*os.File
	at, calls int
	fault     string
	dead      bool
	kept      int64 // bytes that are flushed
}

var journalFaults = []string{"full", "io", "late", "crash", "power failure"}

func (f *faulty) call(op string, do, half func() error) error {
	f.calls++
	fail := func(err error) error { return &fs.PathError{Op: op, Path: f.Name(), Err: err} }
	switch {
	case f.dead:
		return fail(syscall.ESHUTDOWN)
	case f.calls != f.at:
		return do()
	}
	switch f.fault {
	case "full":
		half()
		return fail(syscall.ENOSPC)
	case "late":
		do()
	case "crash", "power failure":
		half()
		f.dead = true
		if f.fault == "power failure" {
			f.lose()
		}
		return fail(syscall.ESHUTDOWN)
	default:
		if op == "sync" {
			f.lose()
		}
	}
	return fail(syscall.EIO)
}

// lose makes zeros of what was not flushed.
func (f *faulty) lose() {
	b, err := os.ReadFile(f.Name())
	if err != nil || int64(len(b)) <= f.kept {
		return
	}
	clear(b[f.kept:])
	if err := os.WriteFile(f.Name(), b, 0); err != nil {
		panic(err)
	}
}

func (f *faulty) Write(b []byte) (n int, err error) {
	write := func(b []byte) error { n, err = f.File.Write(b); return err }
	return n, f.call("write", func() error { return write(b) }, func() error { return write(b[:len(b)/2]) })
}

func (f *faulty) Truncate(size int64) error {
	return f.call("truncate", func() error { return f.File.Truncate(size) }, func() error { return nil })
}

func (f *faulty) Sync() error {
	return f.call("sync", func() error {
		st, err := f.File.Stat()
		f.kept = st.Size()
		return err
	}, func() error { return nil })
}

// Each call that changes the file fails in turn. An answer that was given is in
// the file; the next run asks for the rest and for nothing else; the file mends.
func TestEveryWriteMayFail(t *testing.T) {
	asks := []string{"one", "two", "three"}
	whole := written(t, asks...)
	first := bytes.IndexByte(whole, '\n') + 1
	for name, begin := range map[string][]byte{"empty": nil, "torn": whole[:first+30], "without its line feed": whole[:first-1]} {
		for _, fault := range journalFaults {
			for at := 1; ; at++ {
				what := fmt.Sprintf("%s file, %s at call %d", name, fault, at)
				path := filepath.Join(t.TempDir(), "j.jsonl")
				if begin != nil {
					if err := os.WriteFile(path, begin, 0o666); err != nil {
						t.Fatal(err)
					}
				}
				bad := &faulty{at: at, fault: fault, kept: int64(len(begin))}
				given := givenAnswers(t, what, path, bad, asks)
				f := &fake{id: "big"}
				j, err := Open(path)
				if err != nil {
					t.Fatalf("%s: %v", what, err)
				}
				w := j.Wrap(f)
				for i, s := range asks {
					if a := complete(t, w, ask(s)); given[i] && !a.Replayed {
						t.Errorf("%s: the answer to %q was given and not kept", what, s)
					}
				}
				j.Close()
				if got, _ := os.ReadFile(path); !bytes.Equal(got, whole) {
					t.Errorf("%s: the file did not mend:\n%s", what, got)
				}
				if bad.calls < at {
					break
				}
			}
		}
	}
}

// givenAnswers asks through a journal that fails, and returns which answers
// came back. After one that could not be kept, no more may be asked.
func givenAnswers(t *testing.T, what, path string, bad *faulty, asks []string) []bool {
	given := make([]bool, len(asks))
	j, err := openOn(path, func(f *os.File) file { bad.File = f; return bad })
	if err != nil {
		if !strings.Contains(err.Error(), path) {
			t.Errorf("%s: the error does not name the file: %v", what, err)
		}
		return given
	}
	defer j.Close()
	f := &fake{id: "big"}
	w := j.Wrap(f)
	paid := 0
	for i, s := range asks {
		_, err := w.Complete(t.Context(), ask(s))
		given[i] = err == nil
		if err != nil && !strings.Contains(err.Error(), "record an answer in "+path) {
			t.Errorf("%s: %v", what, err)
		}
		if err != nil && paid == 0 {
			paid = f.asked
		}
	}
	if paid > 0 && f.asked != paid {
		t.Errorf("%s: the teacher was asked %d times after an answer was lost", what, f.asked-paid)
	}
	return given
}
