//go:build unix

package train_test

import (
	"bytes"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"testing"

	"pipe/train"
)

// TestFullDisk: a checkpoint that finds no room is an error that names the one
// before it, which is kept; with room, the next run goes on from there. The
// room is that of a process of its own, whose files cannot grow beyond a page.
func TestFullDisk(t *testing.T) {
	every := func(o *train.Options) { o.Every = 1 }
	if dir := os.Getenv("FULL_DISK"); dir != "" {
		signal.Ignore(syscall.SIGXFSZ)
		_, _, err := interrupted(t, dir, func(o *train.Options) {
			every(o)
			o.Report = func(done, _ int, _ []train.Point) {
				if done == 5 {
					if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &syscall.Rlimit{Cur: 4096, Max: 4096}); err != nil {
						t.Fatal(err)
					}
				}
			}
		}, -1)
		t.Fatal(err)
	}
	want, wantBits, err := interrupted(t, "", every, -1)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	c := exec.Command(os.Args[0], "-test.run=^TestFullDisk$")
	c.Env = append(os.Environ(), "FULL_DISK="+dir)
	out, err := c.CombinedOutput()
	for _, text := range []string{"write the checkpoint of step 5: ", "file too large; ", "checkpoint-00000004 is kept: mend that and run again"} {
		if !strings.Contains(string(out), text) {
			t.Fatalf("the run on the full disk does not say %q: %v\n%s", text, err, out)
		}
	}
	if left := names(t, dir); !slices.Equal(left, []string{"checkpoint-00000004"}) { // the older one gave its room
		t.Errorf("%v are left", left)
	}
	got, gotBits, err := interrupted(t, dir, every, -1)
	if err != nil || got.Resumed != 4 || !bytes.Equal(gotBits, wantBits) || !slices.Equal(got.Series, want.Series) {
		t.Errorf("gone on from %v: %v", got, err)
	}
}
