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
	"pipe/runtime/lang"
	"pipe/runtime/stage"
)

// maxRunFile bounds a note of a run, in bytes: about 1,000 a stage.
const maxRunFile = 256 << 20

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
	r.Dir = dirAt(s, r.Dir)
	return &r, nil
}

// FindRun returns the run that people mean by name: the whole name, the
// beginning or end of a single one, "last" or "", or "last~N" for the Nth before
// the last. With dir, as RealDir has it, "last" counts the runs of pipelines there
// only, and with pipeline those of the one that is named so.
func FindRun(s *artifact.Store, name, dir, pipeline string) (*RunFile, error) {
	counts := func(r *RunFile) bool {
		return (dir == "" || r.Dir == dir) && (pipeline == "" || r.Pipeline == pipeline)
	}
	if n, ok, err := last(name); ok || err != nil {
		whose := "the store"
		if pipeline != "" {
			whose = fmt.Sprintf("pipeline %q", pipeline)
		} else if dir != "" {
			whose = "directory " + dir
		}
		return nthRun(s, n, whose, counts, err)
	}
	return namedRun(s, name, "the store", func(*RunFile) bool { return true })
}

// FindRunOf is FindRun among the runs of prog; "baseline" is the pinned one.
func FindRunOf(s *artifact.Store, prog *lang.Program, name string) (*RunFile, error) {
	if name == "baseline" {
		b, err := ReadBaseline(s, prog)
		if err == nil && b == nil {
			err = errors.New("no baseline is set; pipe baseline set RUN pins one")
		}
		if err != nil {
			return nil, err
		}
		return ReadRun(s, b.Run)
	}
	dir := RealDir(prog.Dir)
	its := func(r *RunFile) bool { return r.Pipeline == prog.Name && r.Dir == dir }
	whose := fmt.Sprintf("pipeline %q", prog.Name)
	if n, ok, err := last(name); ok || err != nil {
		return nthRun(s, n, whose, its, err)
	}
	return namedRun(s, name, whose, its)
}

// last returns how many runs before the last one name means, and whether it
// means any.
func last(name string) (n int, ok bool, err error) {
	back, ok := strings.CutPrefix(name, "last")
	if name == "" || ok && back == "" {
		return 0, true, nil
	}
	if ok {
		if n, err = strconv.Atoi(strings.TrimPrefix(back, "~")); err != nil || n < 0 || back[0] != '~' {
			return 0, false, fmt.Errorf("%q is not a run; write last, or last~1 for the one before", name)
		}
	}
	return n, ok, nil
}

// namedRun returns the one run that is named so, or whose name begins or ends
// so. whose says to people what the runs are among.
func namedRun(s *artifact.Store, name, whose string, among func(*RunFile) bool) (*RunFile, error) {
	names, err := RunNames(s)
	if err != nil {
		return nil, err
	}
	var found []*RunFile
	for _, n := range names {
		if !strings.HasPrefix(n, name) && !strings.HasSuffix(n, name) {
			continue
		}
		r, err := ReadRun(s, n)
		switch {
		case n == name && err != nil:
			return nil, err
		case err != nil || !among(r):
		case n == name:
			return r, nil
		default:
			found = append(found, r)
		}
	}
	switch len(found) {
	case 0:
		return nil, fmt.Errorf("%s has no run %q; pipe ls --runs lists them", whose, name)
	case 1:
		return found[0], nil
	}
	return nil, fmt.Errorf("%q means %d runs, %s and %s among them; write more of the name", name, len(found), found[0].Run, found[1].Run)
}

// nthRun returns the nth run before the last, unless there was an error already.
// whose says to people what the runs are among.
func nthRun(s *artifact.Store, n int, whose string, among func(*RunFile) bool, err error) (*RunFile, error) {
	if err != nil {
		return nil, err
	}
	names, err := RunNames(s)
	if err != nil {
		return nil, err
	}
	seen := 0
	for _, name := range names {
		r, err := ReadRun(s, name)
		if err != nil || !among(r) {
			continue
		}
		if seen == n {
			return r, nil
		}
		seen++
	}
	if seen == 0 {
		return nil, fmt.Errorf("%s has no run yet; pipe run FILE makes one", whose)
	}
	return nil, fmt.Errorf("no run is that far back: %s has only %s", whose, stage.Count(int64(seen), "run"))
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
	dir := RealDir(e.prog.Dir)
	for _, name := range names[:min(maxHistory, len(names))] {
		r, err := ReadRun(e.Store, name)
		if err == nil && r.Pipeline == e.last.Pipeline && r.Dir == dir && !yield(r) {
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
