package engine

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"pipe/runtime/artifact"
)

// maxRunFile bounds a note of a run, in bytes: about 400 a stage.
const maxRunFile = 64 << 20

// RunNames returns the names of the runs noted in the store, the newest first.
func RunNames(s *artifact.Store) ([]string, error) {
	list, err := os.ReadDir(filepath.Join(s.Dir(), "runs"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	var names []string
	written := map[string]time.Time{}
	for _, e := range list {
		if name, ok := strings.CutSuffix(e.Name(), ".json"); ok && !e.IsDir() && !strings.HasPrefix(name, ".") {
			names = append(names, name)
			if info, err := e.Info(); err == nil {
				written[name] = info.ModTime()
			}
		}
	}
	slices.SortFunc(names, func(a, b string) int { // names begin with the second
		return -cmp.Or(cmp.Compare(second(a), second(b)), written[a].Compare(written[b]), cmp.Compare(a, b))
	})
	return names, nil
}

// second is the part of a run's name that tells when it began.
func second(name string) string { return name[:min(len(name), len("20060102-150405"))] }

// ReadRun returns the note of the run named so, which must be the whole name.
func ReadRun(s *artifact.Store, name string) (*RunFile, error) {
	if name == "" || name != filepath.Base(name) {
		return nil, fmt.Errorf("%q is not the name of a run", name)
	}
	path := filepath.Join(s.Dir(), "runs", name+".json")
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("read run %s: %w", name, err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxRunFile))
	if err != nil {
		return nil, fmt.Errorf("read run %s: %w", name, err)
	}
	var r RunFile
	if err := json.Unmarshal(b, &r); err != nil {
		return nil, fmt.Errorf("%s is damaged: %w", path, err)
	}
	if r.Run != name {
		return nil, fmt.Errorf("%s is damaged: it is the note of run %q", path, r.Run)
	}
	return &r, nil
}

// FindRun returns the run that people mean by name: the whole name, the
// beginning of a single one, "last", or "last~N" for the Nth before the last.
// With dir, which is absolute, "last" counts the runs of pipelines there only.
func FindRun(s *artifact.Store, name, dir string) (*RunFile, error) {
	names, err := RunNames(s)
	if err != nil {
		return nil, err
	}
	if back, ok := strings.CutPrefix(name, "last"); ok {
		n := 0
		if back != "" {
			if n, err = strconv.Atoi(strings.TrimPrefix(back, "~")); err != nil || n < 0 || back[0] != '~' {
				return nil, fmt.Errorf("%q is not a run; write last, or last~1 for the one before", name)
			}
		}
		return nthRun(s, names, n, dir)
	}
	var found []string
	for _, n := range names {
		if n == name {
			return ReadRun(s, n)
		}
		if strings.HasPrefix(n, name) {
			found = append(found, n)
		}
	}
	switch len(found) {
	case 0:
		return nil, fmt.Errorf("the store has no run %q; pipe ls --runs lists them", name)
	case 1:
		return ReadRun(s, found[0])
	}
	return nil, fmt.Errorf("%d runs begin with %q, such as %s and %s; write more of the name", len(found), name, found[0], found[1])
}

func nthRun(s *artifact.Store, names []string, n int, dir string) (*RunFile, error) {
	seen := 0
	for _, name := range names {
		r, err := ReadRun(s, name)
		if err != nil || dir != "" && r.Dir != dir {
			continue
		}
		if seen == n {
			return r, nil
		}
		seen++
	}
	if seen == 0 {
		return nil, errors.New("the store has no run yet; pipe run FILE makes one")
	}
	return nil, fmt.Errorf("there are only %d runs", seen)
}

// maxHistory is how many notes of runs are looked through for an explanation
// or an estimate, the newest first.
const maxHistory = 200

// pastRuns yields the runs of the pipeline, the newest first. What cannot be
// read is passed over: these notes explain and decide nothing.
func (e *engine) pastRuns(yield func(*RunFile) bool) {
	names, err := RunNames(e.Store)
	if err != nil {
		return
	}
	for _, name := range names[:min(maxHistory, len(names))] {
		r, err := ReadRun(e.Store, name)
		if err == nil && r.Pipeline == e.last.Pipeline && r.Dir == e.last.Dir && !yield(r) {
			return
		}
	}
}

// entry returns what a run says of a stage, nil if nothing.
func (r *RunFile) entry(addr string) *StageResult {
	for i := range r.Stages {
		if r.Stages[i].Addr == addr {
			return &r.Stages[i]
		}
	}
	return nil
}
