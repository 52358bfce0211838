package main

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// volumeOf describes the file system that path lies on.
func volumeOf(path string) (volume, bool) {
	var st unix.Statfs_t
	if err := unix.Statfs(path, &st); err != nil {
		return volume{}, false
	}
	kinds := map[uint64]string{
		unix.EXT4_SUPER_MAGIC: "ext4", unix.XFS_SUPER_MAGIC: "xfs", unix.BTRFS_SUPER_MAGIC: "btrfs", unix.TMPFS_MAGIC: "tmpfs",
		unix.NFS_SUPER_MAGIC: "nfs", unix.OVERLAYFS_SUPER_MAGIC: "overlay", unix.SMB_SUPER_MAGIC: "smb", unix.SMB2_SUPER_MAGIC: "smb",
		unix.FUSE_SUPER_MAGIC: "fuse", unix.V9FS_MAGIC: "9p", unix.F2FS_SUPER_MAGIC: "f2fs", 0x2fc12fc1: "zfs", 0xff534d42: "smb",
	}
	magic := uint64(uint32(st.Type))
	kind := kinds[magic]
	if kind == "" {
		kind = fmt.Sprintf("kind %#x", magic)
	}
	unit := int64(st.Bsize)
	return volume{kind, int64(st.Bavail) * unit, int64(st.Blocks) * unit}, true
}

// flushDir flushes the names in a directory.
func flushDir(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Sync()
}
