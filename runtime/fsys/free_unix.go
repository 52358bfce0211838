//go:build linux || darwin || freebsd

package fsys

import "golang.org/x/sys/unix"

// Free returns the bytes that this user may still write to the disk of path,
// and false when that is not known.
func Free(path string) (int64, bool) {
	var st unix.Statfs_t
	if err := unix.Statfs(path, &st); err != nil {
		return 0, false
	}
	return int64(st.Bavail) * int64(st.Bsize), true
}
