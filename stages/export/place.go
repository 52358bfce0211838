package export

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"pipe/model/disk"
)

// markName is the file by which export knows a directory that it made.
const markName = ".pipe-export"

const mark = "This directory was made by pipe export and is replaced by the next run.\n"

// placeable reports why export may not write to target.
func placeable(target string) error {
	info, err := os.Lstat(target)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case !info.IsDir():
		return fmt.Errorf("%s exists and is not a directory; choose another path", target)
	}
	if b, err := os.ReadFile(filepath.Join(target, markName)); err == nil && string(b) == mark {
		return nil
	}
	if entries, err := os.ReadDir(target); err != nil || len(entries) > 0 {
		return errors.Join(err, fmt.Errorf("%s exists and was not made by export; choose another path, or remove it", target))
	}
	return nil
}

// place makes target a copy of dir: under a temporary name beside it, then
// renamed, so that it is never half there.
func place(dir, target string) error {
	if err := placeable(target); err != nil {
		return err
	}
	parent := filepath.Dir(target)
	if err := os.MkdirAll(parent, 0o755); err != nil {
		return err
	}
	tmp, err := os.MkdirTemp(parent, "."+filepath.Base(target)+".tmp-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	fresh, old := filepath.Join(tmp, "new"), filepath.Join(tmp, "old")
	if err := os.CopyFS(fresh, os.DirFS(dir)); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(fresh, markName), []byte(mark), 0o644); err != nil {
		return err
	}
	if err := os.Rename(target, old); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.Rename(fresh, target); err != nil {
		return errors.Join(err, os.Rename(old, target))
	}
	return disk.SyncDir(parent)
}
