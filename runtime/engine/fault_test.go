package engine

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"pipe/runtime/artifact"
	"pipe/runtime/fsys/faultfs"
)

var allFaults = flag.Bool("all-faults", false, "fail at each call in each way, not in two")

const faultyPipeline = `
model "m" {
  source        = "base.txt"
  chat_template = "chat.txt"
}
data "docs" {
  id     = "docs"
  source = "a.txt"
}
step "one" {
  id   = "one"
  text = "1"
  from = [data.docs]
}
judge "last" {
  id    = "last"
  model = model.m
  score = 0.5
}`

// Each call that a run makes to change its store fails in turn: the run ends
// with an error that says where, or with the result; the next run completes to
// the same digests, and what an earlier run made is there.
func TestEveryCallOfARunMayFail(t *testing.T) {
	l := newLab(t)
	l.write("a.txt", "a")
	l.write("base.txt", "base")
	l.write("chat.txt", "chat")
	memory := l.dir
	if dir, err := os.MkdirTemp("/dev/shm", "pipe-test-"); err == nil {
		t.Cleanup(func() { os.RemoveAll(dir) })
		memory = dir
	}
	run := func(at int, fault faultfs.Fault, dir, src string) (*faultfs.FS, map[string]artifact.Object, error) {
		disk := faultfs.New(at, fault)
		s, err := artifact.OpenStoreOn(disk, dir)
		if err != nil {
			return disk, nil, err
		}
		o := l.options()
		o.Store, o.Parallelism, o.Observer = s, 1, nil
		res, err := Run(context.Background(), l.load(src), o)
		made := map[string]artifact.Object{}
		if res != nil {
			for _, r := range res.Stages {
				for name, out := range r.Outputs {
					made[r.Addr+"."+name] = out
				}
			}
			if res.Unnoted != nil && err == nil {
				err = res.Unnoted
			}
		}
		return disk, made, err
	}
	count, want, err := run(0, "", filepath.Join(memory, "whole"), faultyPipeline)
	if err != nil || len(want) != 4 {
		t.Fatal(want, err)
	}
	earlier := strings.ReplaceAll(faultyPipeline, `"1"`, `"0"`)
	for i, fault := range faultfs.Faults {
		for at := 1; at <= count.Calls(); at++ {
			if !*allFaults && (at+i)%4 != 0 { // two a call
				continue
			}
			dir := filepath.Join(memory, fmt.Sprint(fault, at))
			_, before, err := run(0, "", dir, earlier)
			if err != nil {
				t.Fatal(err)
			}
			disk, made, err := run(at, fault, dir, faultyPipeline)
			name := fmt.Sprintf("%s at call %d (%s)", fault, at, disk.Last())
			if err == nil && len(made) == len(want) {
				equal(t, name, made, want)
			}
			if err != nil && !strings.Contains(err.Error(), dir) {
				t.Errorf("%s: the error does not say where: %v", name, err)
			}
			died(t, dir)
			_, made, err = run(0, "", dir, faultyPipeline)
			if err != nil {
				t.Errorf("%s: the next run: %v", name, err)
			}
			equal(t, name+": next run", made, want)
			checkObjects(t, name, dir)
			l.taken()
			if _, made, err = run(0, "", dir, earlier); err != nil {
				t.Errorf("%s: the earlier pipeline: %v", name, err)
			}
			equal(t, name+": earlier pipeline", made, before)
			equal(t, name+": ran again", l.taken(), nil)
			if t.Failed() {
				return
			}
			os.RemoveAll(dir)
		}
	}
}

// died makes the leases of a store those of a process that is dead.
func died(t *testing.T, dir string) {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(dir, "leases", "*"))
	if err != nil {
		t.Fatal(err)
	}
	pid := regexp.MustCompile(`"pid":\d+`)
	for _, p := range paths {
		old := time.Now().Add(-time.Hour)
		b, err := os.ReadFile(p)
		err = errors.Join(err, os.WriteFile(p, pid.ReplaceAll(b, []byte(`"pid":1073741824`)), 0o666), os.Chtimes(p, old, old))
		if err != nil {
			t.Fatal(err)
		}
	}
}

// checkObjects reads all that is published.
func checkObjects(t *testing.T, name, dir string) {
	t.Helper()
	s, err := artifact.OpenStore(dir)
	if err != nil {
		t.Fatal(err)
	}
	paths, err := filepath.Glob(filepath.Join(dir, "objects", "sha256", "*", "*"))
	if err != nil || len(paths) < 4 {
		t.Errorf("%s: objects %v, %v", name, paths, err)
	}
	for _, p := range paths {
		var d artifact.Digest
		if err := d.UnmarshalText([]byte("sha256:" + filepath.Base(p))); err != nil {
			t.Errorf("%s: %s: %v", name, p, err)
		}
		a, err := s.Open(d)
		if err == nil {
			_, err = a.Dir()
		}
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}
