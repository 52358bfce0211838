package train_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"pipe/train"
)

// interrupted trains with checkpoints in dir until a task dies.
func interrupted(t *testing.T, dir string, change func(o *train.Options), kill int) (*train.Result, []byte, error) {
	t.Helper()
	d := student(t, "dora")
	o := options(dir)
	change(&o)
	var task train.Task = &train.Likelihood{Model: d, Rows: rows()}
	if kill >= 0 {
		task = &dying{task, kill}
	}
	r, err := train.Run(context.Background(), d, task, o)
	return r, bits(d), err
}

// names returns what lies in dir.
func names(t *testing.T, dir string) (names []string) {
	t.Helper()
	es, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range es {
		names = append(names, e.Name())
	}
	return names
}

// TestDamagedCheckpoint: one that a disk has lost a part of is never used. The
// one before it is, or the run starts again, to the same end.
func TestDamagedCheckpoint(t *testing.T) {
	same := func(*train.Options) {}
	want, wantBits, err := interrupted(t, "", same, -1)
	if err != nil {
		t.Fatal(err)
	}
	killed := t.TempDir()
	if _, _, err := interrupted(t, killed, same, 13); !errors.Is(err, errKilled) {
		t.Fatal(err)
	}
	kept := names(t, killed)
	if !slices.Equal(kept, []string{"checkpoint-00000003", "checkpoint-00000006"}) {
		t.Fatalf("kept %v", kept)
	}
	tensors, state := "tensors.safetensors", "state.json"
	edit := func(name string, f func(b []byte) []byte) func(dir string) error {
		return func(dir string) error {
			b, err := os.ReadFile(filepath.Join(dir, name))
			if err != nil {
				return err
			}
			return os.WriteFile(filepath.Join(dir, name), f(b), 0o666)
		}
	}
	for what, damage := range map[string]func(dir string) error{
		"the checksum of tensors.safetensors does not match": edit(tensors, func(b []byte) []byte { b[len(b)-5] ^= 4; return b }),
		"checksum of tensors.safetensors":                    edit(tensors, func(b []byte) []byte { return b[:len(b)/2] }),
		"checksum":                                           edit(tensors, func([]byte) []byte { return nil }),
		"the checksum of state.json":                         edit(state, func(b []byte) []byte { return bytes.Replace(b, []byte(`"updates":`), []byte(`"updates":1`), 1) }),
		"state.json: unexpected end":                         edit(state, func(b []byte) []byte { return b[:len(b)-9] }),
		"state.json: invalid":                                edit(state, func(b []byte) []byte { clear(b); return b }),
		"it has no state.json":                               func(dir string) error { return os.Remove(filepath.Join(dir, state)) },
		"it has no tensors.safetensors":                      func(dir string) error { return os.Remove(filepath.Join(dir, tensors)) },
	} {
		for lost, from := range []int{6, 3, 0} { // how many of the two are damaged
			if lost != 1 && !strings.HasPrefix(what, "the checksum") {
				continue
			}
			dir := t.TempDir()
			if err := os.CopyFS(dir, os.DirFS(killed)); err != nil {
				t.Fatal(err)
			}
			for _, n := range kept[2-lost:] {
				if err := damage(filepath.Join(dir, n)); err != nil {
					t.Fatal(err)
				}
			}
			got, gotBits, err := interrupted(t, dir, same, -1)
			if err != nil {
				t.Fatalf("%s: %v", what, err)
			}
			if got.Resumed != from || len(got.Damaged) != lost {
				t.Errorf("%s: gone on from step %d, want %d; damaged: %q", what, got.Resumed, from, got.Damaged)
			}
			if lost > 0 && !(strings.HasPrefix(got.Damaged[0], "checkpoint-00000006: ") && strings.Contains(got.Damaged[0], what)) {
				t.Errorf("damaged %q, want %q", got.Damaged[0], what)
			}
			if !bytes.Equal(gotBits, wantBits) || !slices.Equal(got.Series, want.Series) {
				t.Errorf("%s, %d of 2 checkpoints: the result differs", what, lost)
			}
			if left := names(t, dir); len(left) > 2 {
				t.Errorf("%v are left", left)
			}
		}
	}
}

// TestTwoProcessesOneDirectory: when a lease was broken, two processes save the
// same steps in one directory. Neither spoils what the other has.
func TestTwoProcessesOneDirectory(t *testing.T) {
	every := func(o *train.Options) { o.Every = 1 }
	want, wantBits, err := interrupted(t, "", every, -1)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	inner := func(o *train.Options) {
		every(o)
		o.Report = func(done, _ int, points []train.Point) {
			if done != 4 || len(points) > 10 {
				return
			}
			// The other begins here, from the checkpoint of step 3, and ends.
			got, gotBits, err := interrupted(t, dir, every, -1)
			if err != nil || got.Resumed != 3 || !bytes.Equal(gotBits, wantBits) || !slices.Equal(got.Series, want.Series) {
				t.Errorf("the second process, gone on from %v: %v", got, err)
			}
		}
	}
	got, gotBits, err := interrupted(t, dir, inner, -1)
	if err != nil || !bytes.Equal(gotBits, wantBits) || !slices.Equal(got.Series, want.Series) {
		t.Errorf("the first process: %v", err)
	}
	if left := names(t, dir); !slices.Equal(left, []string{"checkpoint-00000009", "checkpoint-00000010"}) {
		t.Errorf("%v are left", left)
	}
}
