// Package memory holds work against the memory that there is, before it starts:
// the same code runs on a [tensor.Plan], and what that has counted must fit.
package memory

import (
	"io/fs"
	"math"
	"os"
	"path"
	"strconv"
	"strings"

	"pipe/tensor"
)

// A Limit is the memory that can still be had.
type Limit struct {
	Bytes int64
	From  string // what bounds it, for people
}

// Available returns the memory that this process can still have: what the
// system calls available, or what its control groups leave of their limits, if
// that is less. It is false where the system does not tell.
func Available() (Limit, bool) { return available(os.DirFS("/")) }

// AvailableTo returns the memory that b can still have: its own, if it has some,
// or that of this process.
func AvailableTo(b tensor.Backend) (Limit, bool) {
	if l, ok := b.(tensor.Limited); ok {
		bytes, from, ok := l.Limit()
		return Limit{bytes, from}, ok
	}
	return Available()
}

func available(root fs.FS) (l Limit, ok bool) {
	l = Limit{math.MaxInt64, "this machine has available"}
	if v, found := field(root, "proc/meminfo", "MemAvailable:"); found {
		l.Bytes, ok = v<<10, true
	}
	groups, _ := fs.ReadFile(root, "proc/self/cgroup")
	for _, line := range strings.Split(string(groups), "\n") {
		part := strings.SplitN(line, ":", 3) // number:controllers:path
		if len(part) != 3 {
			continue
		}
		dir, f := "sys/fs/cgroup", groupFiles{"memory.max", "memory.current", "inactive_file", "active_file"}
		if part[1] == "memory" { // version 1
			dir, f = "sys/fs/cgroup/memory", groupFiles{"memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file", "total_active_file"}
		} else if part[1] != "" {
			continue
		}
		// A group's own path may not be there in a container; its root is.
		for at := path.Join("/", part[2]); ; at = path.Dir(at) {
			if left, limited := f.left(root, path.Join(dir, at)); limited && left < l.Bytes {
				l, ok = Limit{left, "the memory limit of this process's control group leaves"}, true
			}
			if at == "/" {
				break
			}
		}
	}
	return l, ok
}

// groupFiles are names that differ between versions of control groups.
type groupFiles struct{ limit, current, inactive, active string }

// left returns what a group leaves: the pages of files that it holds can go.
func (f groupFiles) left(root fs.FS, dir string) (int64, bool) {
	limit, ok := number(root, path.Join(dir, f.limit))
	current, found := number(root, path.Join(dir, f.current))
	if !ok || !found || limit >= 1<<60 {
		return 0, false
	}
	stat := path.Join(dir, "memory.stat")
	inactive, _ := field(root, stat, f.inactive)
	active, _ := field(root, stat, f.active)
	return max(0, limit-current+inactive+active), true
}

// number reads a file of one number; "max" is none.
func number(root fs.FS, name string) (int64, bool) {
	data, err := fs.ReadFile(root, name)
	if err != nil {
		return 0, false
	}
	n, err := strconv.ParseInt(strings.TrimSpace(string(data)), 10, 64)
	return n, err == nil
}

// field reads the number after a word that begins a line.
func field(root fs.FS, name, word string) (int64, bool) {
	data, err := fs.ReadFile(root, name)
	if err != nil {
		return 0, false
	}
	for _, line := range strings.Split(string(data), "\n") {
		if f := strings.Fields(line); len(f) >= 2 && f[0] == word {
			n, err := strconv.ParseInt(f[1], 10, 64)
			return n, err == nil
		}
	}
	return 0, false
}
