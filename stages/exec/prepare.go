package exec

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"pipe/runtime/artifact"
	"pipe/runtime/artifact/jsonl"
	"pipe/runtime/stage"
)

// A running program has a directory of its own, new for every attempt: one
// that an earlier attempt left running cannot write into it.
type running struct {
	*spec
	env  *stage.Env
	dir  string   // holds in/, out/, tmp/ and files/
	vars []string // environment
}

// attempts begins the names of the directories of attempts.
const attempts = "attempt-"

func (s *spec) prepare(ctx context.Context, env *stage.Env) (*running, error) {
	old, err := filepath.Glob(filepath.Join(escape(env.Work), attempts+"*"))
	if err != nil {
		return nil, err
	}
	for _, dir := range old { // of a run that was killed
		if err := os.RemoveAll(dir); err != nil {
			return nil, err
		}
	}
	work, err := filepath.Abs(env.Work)
	if err != nil {
		return nil, err
	}
	r := &running{spec: s, env: env}
	if r.dir, err = os.MkdirTemp(work, attempts); err != nil {
		return nil, err
	}
	keep := filepath.Join(work, "keep")
	for _, dir := range []string{r.sub("in"), r.sub("out"), r.sub("tmp"), r.sub("files"), keep} {
		if err := os.MkdirAll(dir, 0o777); err != nil {
			return nil, err
		}
	}
	for _, name := range givenNames {
		if v, ok := os.LookupEnv(name); ok {
			r.vars = append(r.vars, name+"="+v)
		}
	}
	for i, name := range s.Env {
		v, ok := os.LookupEnv(name)
		if !ok {
			return nil, stage.Fieldf(fmt.Sprintf("env[%d]", i), "the environment variable %s is not set", name)
		}
		r.vars = append(r.vars, name+"="+v)
	}
	r.vars = append(r.vars, "OUT="+r.sub("out"), "WORK="+keep, "TMPDIR="+r.sub("tmp"), "SEED="+strconv.FormatUint(env.Seed, 10))
	if err := r.copyFiles(); err != nil {
		return nil, err
	}
	for _, b := range s.Inputs {
		if err := r.give(ctx, b); err != nil {
			return nil, fmt.Errorf("input %s: %w", b.Name, err)
		}
	}
	return r, nil
}

func (r *running) sub(name string) string { return filepath.Join(r.dir, name) }

// copyFiles puts the declared files where the program runs, and nothing else:
// a file that the key does not know of is not there.
func (r *running) copyFiles() error {
	paths, err := r.Sources(r.env.Dir)
	if err != nil {
		return err
	}
	for _, path := range paths {
		rel, err := filepath.Rel(r.env.Dir, path)
		if err != nil {
			return err
		}
		to := filepath.Join(r.sub("files"), rel)
		if err := os.MkdirAll(filepath.Dir(to), 0o777); err != nil {
			return err
		}
		if err := copyFile(path, to); err != nil {
			return err
		}
	}
	return nil
}

// copyFile copies a regular file and whether it can be executed.
func copyFile(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	info, err := in.Stat()
	if err != nil {
		return err
	}
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644|info.Mode().Perm()&0o111)
	if err != nil {
		return err
	}
	defer out.Close()
	if _, err := io.Copy(out, in); err != nil {
		return fmt.Errorf("copy %s: %w", from, err)
	}
	return out.Close()
}

// give makes an input a path that the program finds in its environment.
func (r *running) give(ctx context.Context, b stage.Binding) error {
	set := func(suffix, path string) { r.vars = append(r.vars, "IN_"+b.Name+suffix+"="+path) }
	switch b.Ref.Type {
	case artifact.Model:
		m, err := r.env.Store.Model(b.Ref)
		if err != nil {
			return err
		}
		set("", m.Base)
		if m.Adapter != "" {
			set("_ADAPTER", m.Adapter)
		}
		return nil
	case artifact.Dataset:
		a, err := r.env.Store.Open(b.Ref)
		if err != nil {
			return err
		}
		path := filepath.Join(r.sub("in"), b.Name+".jsonl")
		set("", path)
		return writeRows(ctx, a, path)
	}
	a, err := r.env.Store.Open(b.Ref)
	if err != nil {
		return err
	}
	dir, err := a.Dir()
	if err != nil {
		return err
	}
	if files := a.Files(); len(files) == 1 && !strings.Contains(files[0].Name, "/") {
		dir = filepath.Join(dir, files[0].Name)
	}
	set("", dir)
	return nil
}

// writeRows writes a table as JSON lines.
func writeRows(ctx context.Context, a *artifact.Artifact, path string) error {
	rows, err := jsonl.Views(a)
	if err != nil {
		return err
	}
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer f.Close()
	w := bufio.NewWriterSize(f, 1<<16)
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	for row, err := range rows {
		if err == nil {
			err = ctx.Err()
		}
		if err == nil {
			err = e.Encode(row)
		}
		if err != nil {
			return err
		}
	}
	if err := w.Flush(); err != nil {
		return err
	}
	return f.Close()
}
