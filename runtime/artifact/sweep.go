package artifact

import (
	"cmp"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// sweepWork removes the work directories of actions that are done with, or
// that nobody has gone on with for long.
func (c *collector) sweepWork() error {
	top := filepath.Join(c.dir, "work")
	list, err := readDir(top)
	if err != nil {
		return err
	}
	var garbage []found
	for _, e := range list {
		var k Key
		if k.UnmarshalText([]byte(e.Name())) != nil || !e.IsDir() {
			continue
		}
		path := filepath.Join(top, e.Name())
		size, newest, err := treeSize(path)
		if err != nil {
			return err
		}
		running := c.notes[noteKey+k.String()] || c.leased(k)
		grace := c.Grace
		if size > 0 {
			grace = c.WorkGrace
		}
		if !running && !c.young(newest, grace) {
			garbage = append(garbage, found{noteKey + k.String(), []string{path, path + workAddr}, size})
			continue
		}
		if size > 0 {
			age := c.Now.Sub(newest)
			addr, _ := os.ReadFile(path + workAddr)
			c.got.Unfinished = append(c.got.Unfinished, Unfinished{k, string(addr[:min(len(addr), 1000)]), size, age, running, max(0, grace-age)})
		}
	}
	slices.SortFunc(c.got.Unfinished, func(a, b Unfinished) int { return cmp.Compare(b.Age, a.Age) })
	_, err = c.remove(garbage, &c.got.Work)
	return err
}

// leased reports whether somebody runs the action now.
func (c *collector) leased(k Key) bool { return LeaseHeld(c.leasePath(k), c.Now) }

// LeaseHeld reports whether the lease at path is one of a process that lives, or
// may live.
func LeaseHeld(path string, now time.Time) bool {
	st, err := os.Stat(path)
	if err != nil {
		return false
	}
	who, _ := os.ReadFile(path) // of one that cannot be read its age tells
	return inUse(who, thisProcess(), now.Sub(st.ModTime()))
}

// sweepTemp removes what was being written when a process died.
func (c *collector) sweepTemp() error {
	top := filepath.Join(c.dir, "tmp")
	list, err := readDir(top)
	if err != nil {
		return err
	}
	mine := tempNames(c.notes)
	var garbage []found
	for _, e := range list {
		path := filepath.Join(top, e.Name())
		size, newest, err := treeSize(path)
		if err != nil {
			return err
		}
		if !mine[e.Name()] && !c.young(newest, max(c.Grace, minTempGrace)) {
			garbage = append(garbage, found{noteTemp + e.Name(), []string{path}, size})
		}
	}
	// Modules are fetched where they will lie.
	fetching, err := filepath.Glob(filepath.Join(c.dir, "modules", ".tmp-*"))
	if err != nil {
		return err
	}
	for _, path := range fetching {
		size, newest, err := treeSize(path)
		if err != nil {
			return err
		}
		if !c.young(newest, max(c.Grace, minTempGrace)) {
			garbage = append(garbage, found{noteTemp + filepath.Base(path), []string{path}, size})
		}
	}
	_, err = c.remove(garbage, &c.got.Temp)
	return err
}

// sweepLeases removes the leases and sessions of processes that died.
func (c *collector) sweepLeases() error {
	list, err := readDir(filepath.Join(c.dir, "leases"))
	if err != nil {
		return err
	}
	for _, e := range list {
		path := filepath.Join(c.dir, "leases", e.Name())
		st, err := os.Stat(path)
		if err != nil || c.young(st.ModTime(), max(c.Grace, liveStale)) {
			continue
		}
		free := true
		switch {
		case strings.HasSuffix(path, graveSuffix):
			if !c.DryRun {
				err = c.fs.Remove(path)
			}
		case c.DryRun:
			var h leaseHolder
			b, readErr := os.ReadFile(path)
			free = readErr != nil || json.Unmarshal(b, &h) != nil || h.judge(thisProcess()) != alive
		default:
			var l *lease
			if l, err = c.lease(path); err == nil {
				free, err = l.bury()
			}
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if free {
			c.got.Leases.add(st.Size())
		}
	}
	for _, path := range c.dead {
		st, err := os.Stat(path)
		if err != nil || c.young(st.ModTime(), c.Grace) {
			continue
		}
		c.got.Leases.add(st.Size())
		if c.DryRun {
			continue
		}
		if err := c.fs.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// treeSize returns the bytes of the files in a tree, and when any of it last
// changed. What goes away meanwhile counts nothing.
func treeSize(path string) (size int64, newest time.Time, err error) {
	err = filepath.WalkDir(path, func(_ string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		info, err := d.Info()
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		if !d.IsDir() {
			size += info.Size()
		}
		if info.ModTime().After(newest) {
			newest = info.ModTime()
		}
		return nil
	})
	return size, newest, err
}
