package harness

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// laboratory builds pipe and runs the small recipe once.
func laboratory(t *testing.T) *Harness {
	t.Helper()
	if testing.Short() {
		t.Skip("builds and runs pipe")
	}
	dir := t.TempDir()
	h := &Harness{Pipe: filepath.Join(dir, "pipe"), Dir: dir}
	if out, err := exec.Command("go", "build", "-o", h.Pipe, "pipe/cmd/pipe").CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	var err error
	if h.Recipe, err = Small(filepath.Join(dir, "recipe")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(h.Recipe.Teacher.Close)
	if err := h.Whole(); err != nil {
		t.Fatal(err)
	}
	return h
}

// TestKill is the short form of go run ./bench/kill. It shares one build and
// one whole run with the check that the harness would notice what is wrong.
func TestKill(t *testing.T) {
	h := laboratory(t)
	t.Run("eight processes on one store", func(t *testing.T) {
		if err := h.Together(8); err != nil {
			t.Fatal(err)
		}
	})
	t.Run("a killed process is taken over", func(t *testing.T) {
		if err := h.TakenOver(); err != nil {
			t.Fatal(err)
		}
	})
	t.Run("ten kills", func(t *testing.T) {
		tally, err := h.Kill(10, 1)
		if err != nil {
			t.Fatal(err)
		}
		if tally.Kills != 10 || tally.Runs <= tally.Kills || tally.Hashed == 0 || tally.MostInFlight > 4 || tally.MostCheckpoints > 3 {
			t.Errorf("%+v", tally)
		}
	})
	t.Run("what is wrong is noticed", func(t *testing.T) { mustNotice(t, h) })
}

// forget removes the record of the stage at addr.
func forget(t *testing.T, store, addr string) {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(store, "actions", "*", "*.json"))
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range paths {
		b, err := os.ReadFile(p)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(b), `"addr":"`+addr+`"`) {
			if err := os.Remove(p); err != nil {
				t.Fatal(err)
			}
			return
		}
	}
	t.Fatalf("%s has no record", addr)
}

// mustNotice does what must not happen to the store of the whole run.
func mustNotice(t *testing.T, h *Harness) {
	store := filepath.Join(h.Dir, "whole")
	journal := filepath.Join(store, "journals", "teacher.jsonl")
	again := func() error { // as after a kill
		h.Recipe.Teacher.Begin()
		if _, _, err := h.Recipe.Teacher.settle(journal); err != nil {
			t.Fatal(err)
		}
		b, err := os.ReadFile(journal)
		if err != nil {
			t.Fatal(err)
		}
		lines := strings.SplitAfter(string(b), "\n")
		if err := os.WriteFile(journal, []byte(strings.Join(lines[1:], "")), 0o666); err != nil {
			t.Fatal(err)
		}
		forget(t, store, "synth.cot")
		if _, err := h.once(&Tally{}, store, nil); err != nil {
			return err
		}
		return h.same(store)
	}
	if err := again(); err == nil || !strings.Contains(err.Error(), "1 calls were asked again although") {
		t.Errorf("an answer was paid for twice: %v", err)
	}
	if n, err := damaged(store); err != nil || n < h.Recipe.Stages {
		t.Errorf("%d artifacts, %v", n, err)
	}
	for name := range h.whole.outputs {
		h.whole.outputs[name] = "sha256:00"
		break
	}
	if err := h.same(store); err == nil || !strings.Contains(err.Error(), "a run that was not killed has \"sha256:00\"") {
		t.Errorf("another result: %v", err)
	}
	rows, err := filepath.Glob(filepath.Join(store, "objects", "sha256", "*", "*", "rows.arrow"))
	if err != nil || len(rows) == 0 {
		t.Fatal(rows, err)
	}
	b, err := os.ReadFile(rows[0])
	if err != nil {
		t.Fatal(err)
	}
	b[len(b)/2] ^= 1
	if err := os.Remove(rows[0]); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(rows[0], b, 0o444); err != nil {
		t.Fatal(err)
	}
	if _, err := damaged(store); err == nil || !strings.Contains(err.Error(), "is damaged") {
		t.Errorf("a flipped bit: %v", err)
	}
}
