package exec

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"pipe/runtime/artifact"
	"pipe/runtime/artifact/jsonl"
	"pipe/runtime/stage"
)

// keep publishes what the program wrote under $OUT.
func (r *running) keep(ctx context.Context) error {
	for _, name := range r.made() {
		if err := r.keepFiles(name); err != nil {
			return err
		}
	}
	for _, name := range r.Datasets {
		if err := r.keepRows(ctx, name); err != nil {
			return err
		}
	}
	entries, err := os.ReadDir(r.sub("out"))
	if err != nil {
		return err
	}
	var rest []string
	for _, e := range entries {
		if !slices.Contains(r.made(), e.Name()) && !slices.Contains(r.Datasets, e.Name()) {
			rest = append(rest, e.Name())
		}
	}
	if len(rest) > 0 {
		r.env.Note("not kept, since neither outputs nor datasets names it: %s", strings.Join(rest, ", "))
	}
	return nil
}

// written returns the path of an output that must be there.
func (r *running) written(list []string, field, name string) (string, fs.FileInfo, error) {
	path := filepath.Join(r.sub("out"), name)
	info, err := os.Lstat(path)
	if err == nil {
		return path, info, nil
	}
	if i := slices.Index(list, name); i >= 0 {
		field = fmt.Sprintf("%s[%d]", field, i)
	}
	return "", nil, stage.Fieldf(field, "the program ended well and did not write $OUT/%s", name)
}

// keepFiles copies a file or a directory: a copy is nobody else's, whatever
// still has the original open.
func (r *running) keepFiles(name string) error {
	path, info, err := r.written(r.Made, "outputs", name)
	if err != nil {
		return err
	}
	w, err := r.env.Create(name)
	if err != nil {
		return err
	}
	if info.Mode().IsRegular() {
		return copyFile(path, filepath.Join(w.Dir(), name))
	}
	if !info.IsDir() {
		return fmt.Errorf("$OUT/%s is neither a file nor a directory", name)
	}
	return filepath.WalkDir(path, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(path, p)
		if err != nil {
			return err
		}
		to := filepath.Join(w.Dir(), rel)
		switch {
		case d.IsDir():
			return os.MkdirAll(to, 0o777)
		case !d.Type().IsRegular():
			return fmt.Errorf("$OUT/%s/%s is a link or a special file; only files and directories can be kept", name, filepath.ToSlash(rel))
		}
		return copyFile(p, to)
	})
}

// keepRows reads a file of JSON lines into a dataset.
func (r *running) keepRows(ctx context.Context, name string) error {
	path, info, err := r.written(r.Datasets, "datasets", name)
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		return fmt.Errorf("$OUT/%s is not a file of JSON lines", name)
	}
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	w, err := r.env.Create(name)
	if err != nil {
		return err
	}
	if err := artifact.Append[artifact.Row](w); err != nil { // an empty file is an empty table
		return err
	}
	seen := map[string]string{} // id -> where
	unused := jsonl.Unused{}
	err = jsonl.Read(ctx, f, name, unused, func(row artifact.Row) error {
		if first, twice := seen[row.ID]; twice {
			return fmt.Errorf("the id %q is given twice in $OUT/%s, to rows from %s and %s; ids must be unique in a dataset", row.ID, name, first, row.Source)
		}
		seen[row.ID] = row.Source
		return artifact.Append(w, row)
	})
	if err == nil && len(unused) > 0 {
		r.env.Note("$OUT/%s: keys of messages that are not used: %s", name, unused)
	}
	return err
}
