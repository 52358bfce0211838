package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"pipe/runtime/artifact"
)

const (
	tightSpace = 5 << 30   // bytes; less is worth a warning
	noSpace    = 256 << 20 // bytes; less fails
	slowFlush  = 200 * time.Millisecond
)

// store checks the directory of artifacts, or where it will be.
func (d *doctor) store() {
	dir, err := filepath.Abs(d.storeDir)
	if err != nil {
		d.add("store", "path", statusFail, "", "%v", err)
		return
	}
	at := dir // what exists of it
	info, err := os.Stat(at)
	for errors.Is(err, fs.ErrNotExist) && filepath.Dir(at) != at {
		at = filepath.Dir(at)
		info, err = os.Stat(at)
	}
	switch {
	case err != nil:
		d.add("store", "path", statusFail, "name another directory with --store or PIPE_STORE", "%v", err)
		return
	case !info.IsDir():
		d.add("store", "path", statusFail, "name a directory with --store or PIPE_STORE", "%s is a file", at)
		return
	case at == dir:
		d.ok("store", "path", "%s", dir)
	default:
		d.ok("store", "path", "%s: the first run makes it", dir)
	}
	d.space(at)
	d.operations(at)
	if at == dir {
		d.areas(dir)
		d.leases(filepath.Join(dir, "leases"))
	}
}

// space checks the file system that dir lies on.
func (d *doctor) space(dir string) {
	v, ok := volumeOf(dir)
	if !ok {
		d.ok("store", "file system", "this system does not tell")
		return
	}
	status, advice := statusOK, ""
	switch v.kind {
	case "tmpfs":
		status, advice = statusWarn, "what is in memory is lost when the machine stops; put the store on a disk"
	case "nfs", "smb", "fuse", "9p":
		status, advice = statusWarn, "runs on several machines are safe only if it keeps the promises checked below, on all of them"
	}
	d.add("store", "file system", status, advice, "%s", v.kind)
	found := fmt.Sprintf("%s free of %s", size(v.free), size(v.total))
	switch {
	case v.free < noSpace:
		d.add("store", "space", statusFail, "free some, or put the store elsewhere with --store or PIPE_STORE", "%s", found)
	case v.free < tightSpace:
		d.add("store", "space", statusWarn, "models and checkpoints need gigabytes", "%s", found)
	default:
		d.ok("store", "space", "%s", found)
	}
}

// A volume is a file system. Sizes are in bytes.
type volume struct {
	kind        string
	free, total int64
}

// operations tries, in a directory of its own, all that publishing relies on.
func (d *doctor) operations(dir string) {
	tmp, err := os.MkdirTemp(dir, ".pipe-doctor-")
	if err != nil {
		d.add("store", "writing", statusFail, "give yourself the right to write there, or use another store with --store or PIPE_STORE", "%v", err)
		return
	}
	defer os.RemoveAll(tmp)
	begin := time.Now()
	if what, err := tryFiles(tmp); err != nil {
		d.add("store", "writing", statusFail, "a store needs a file system that can do this; use another directory with --store or PIPE_STORE", "%s: %v", what, err)
		return
	}
	took := time.Since(begin)
	if took > slowFlush {
		d.add("store", "writing", statusWarn, "every artifact is flushed to the disk; a store on a faster disk makes short stages faster",
			"works, but a flushed file takes %s", duration(took))
		return
	}
	d.ok("store", "writing", "flushing, renaming and exclusive creation work (%s)", duration(took))
}

// tryFiles says what failed.
func tryFiles(dir string) (what string, err error) {
	one, two := filepath.Join(dir, "one"), filepath.Join(dir, "two")
	f, err := os.OpenFile(one, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o666)
	if err != nil {
		return "create a file", err
	}
	_, err = f.WriteString("pipe doctor\n")
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return "write and flush a file", err
	}
	if g, err := os.OpenFile(one, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o666); !errors.Is(err, fs.ErrExist) {
		if err == nil {
			err = errors.Join(errors.New("a file that exists was created again"), g.Close())
		}
		return "exclusive creation", err
	}
	if err := os.Rename(one, two); err != nil {
		return "rename a file", err
	}
	if b, err := os.ReadFile(two); err != nil || string(b) != "pipe doctor\n" {
		return "read a renamed file", errors.Join(err, errors.New("it does not hold what was written"))
	}
	sub := filepath.Join(dir, "sub")
	if err := os.Mkdir(sub, 0o777); err != nil {
		return "make a directory", err
	}
	if err := os.Rename(two, filepath.Join(sub, "two")); err != nil {
		return "rename into a directory", err
	}
	return "flush a directory", flushDir(dir)
}

// areas says what lies in the store.
func (d *doctor) areas(dir string) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		d.add("store", "content", statusFail, "", "%v", err)
		return
	}
	type area struct {
		name         string
		bytes, files int64
	}
	var list []area
	var total int64
	for _, e := range entries {
		a := area{name: e.Name()}
		err := filepath.WalkDir(filepath.Join(dir, e.Name()), func(_ string, e fs.DirEntry, err error) error {
			if err != nil || e.IsDir() {
				return err
			}
			if info, err := e.Info(); err == nil {
				a.bytes, a.files = a.bytes+info.Size(), a.files+1
			}
			return nil
		})
		if err != nil && !errors.Is(err, fs.ErrNotExist) { // another run's temporary files go
			d.add("store", "content", statusWarn, "files of another user? a shared store needs a common group", "%v", err)
		}
		total += a.bytes
		if a.files > 0 {
			list = append(list, a)
		}
	}
	slices.SortStableFunc(list, func(a, b area) int { return int(min(1, max(-1, b.bytes-a.bytes))) })
	parts := []string{size(total)}
	for _, a := range list {
		parts = append(parts, fmt.Sprintf("%s %s", a.name, size(a.bytes)))
	}
	d.ok("store", "content", "%s", strings.Join(parts, ", "))
	objects, _ := filepath.Glob(filepath.Join(dir, "objects", "sha256", "??", "*"))
	runs, _ := filepath.Glob(filepath.Join(dir, "runs", "*.json"))
	d.ok("store", "count", "%s, %s", counted(int64(len(objects)), "object"), counted(int64(len(runs)), "run"))
}

// leases counts those of runs that live and of runs that are gone.
func (d *doctor) leases(dir string) {
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		d.add("store", "leases", statusFail, "", "%v", err)
		return
	}
	held, stale := 0, 0
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		if artifact.LeaseHeld(path, time.Now()) {
			held++
		} else if _, err := os.Stat(path); err == nil { // not released just now
			stale++
		}
	}
	if stale > 0 {
		d.add("store", "leases", statusWarn, "nothing to do: the next run of the same stage takes it over",
			"%d held by runs that are on, %d left by runs that are gone", held, stale)
		return
	}
	d.ok("store", "leases", "%d held by runs that are on, none stale", held)
}
