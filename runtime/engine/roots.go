package engine

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"pipe/runtime/artifact"
)

// KeepRunsDefault is how many runs of each pipeline gc keeps.
const KeepRunsDefault = 10

// Roots are the actions that gc keeps, and why.
type Roots struct {
	Keys      map[artifact.Key]bool
	Runs      int // the last ones of their pipelines
	Pinned    int
	Baselines int
	Pipelines int      // whose last state is kept
	Warnings  []string // about files that keep nothing
}

// FindRoots reads what the store says is needed: the pinned runs, the last
// keepRuns runs of each pipeline, its baselines, and what each of its stages
// was last up to date with.
func FindRoots(s *artifact.Store, keepRuns int) (*Roots, error) {
	r := &Roots{Keys: map[artifact.Key]bool{}}
	runs, err := r.readRuns(s)
	if err != nil {
		return nil, err
	}
	left := map[string]int{}
	latest := slices.SortedFunc(maps.Values(runs), func(a, b *RunFile) int { return b.Started.Compare(a.Started) })
	for _, f := range latest {
		if id := f.Dir + "\x00" + f.Pipeline; left[id] < keepRuns {
			left[id]++
			r.Runs++
			r.keep(f)
		}
	}
	if r.Pinned, err = r.named(s, "pins", runs, pinOf); err != nil {
		return nil, err
	}
	if r.Baselines, err = r.named(s, "baselines", runs, baselineOf); err != nil {
		return nil, err
	}
	return r, r.heads(s)
}

func (r *Roots) warnf(format string, args ...any) {
	r.Warnings = append(r.Warnings, fmt.Sprintf(format, args...))
}

// keep keeps what a run made and used.
func (r *Roots) keep(f *RunFile) {
	for _, st := range f.Stages {
		if st.Key != (artifact.Key{}) {
			r.Keys[st.Key] = true
		}
	}
}

func (r *Roots) readRuns(s *artifact.Store) (map[string]*RunFile, error) {
	runs := map[string]*RunFile{}
	err := eachNote(s, "runs", func(name, path string, b []byte) {
		f, err := parseRun(b)
		if err != nil {
			r.warnf("%s keeps nothing: %v", path, err)
			return
		}
		runs[name] = f
	})
	return runs, err
}

// parseRun reads the note of a run, which may be damaged.
func parseRun(b []byte) (*RunFile, error) {
	var f RunFile
	if err := json.Unmarshal(b, &f); err != nil {
		return nil, fmt.Errorf("it is damaged: %w", err)
	}
	return &f, nil
}

// named keeps the runs that the files of a directory name.
func (r *Roots) named(s *artifact.Store, dir string, runs map[string]*RunFile, runOf func(name string, b []byte) (string, error)) (n int, err error) {
	err = eachNote(s, dir, func(name, path string, b []byte) {
		run, err := runOf(name, b)
		if err == nil {
			err = checkRunName(run)
		}
		if err != nil {
			r.warnf("%s keeps nothing: %v", path, err)
			return
		}
		f := runs[run]
		if f == nil {
			r.warnf("%s keeps nothing: run %s is not in the store", path, run)
			return
		}
		n++
		r.keep(f)
	})
	return n, err
}

func pinOf(name string, _ []byte) (string, error) { return name, nil }

func baselineOf(_ string, b []byte) (string, error) {
	var f struct{ Run string }
	if err := json.Unmarshal(b, &f); err != nil {
		return "", fmt.Errorf("it is damaged: %w", err)
	}
	return f.Run, nil
}

// heads keeps what the stages of each pipeline were last up to date with.
func (r *Roots) heads(s *artifact.Store) error {
	return eachNote(s, "heads", func(_, path string, b []byte) {
		h, err := parseHistory(b)
		if err != nil {
			r.warnf("%s keeps nothing: %v", path, err)
			return
		}
		r.Pipelines++
		for _, k := range h.Keys {
			r.Keys[k] = true
		}
	})
}

// parseHistory reads a heads file, which may be damaged.
func parseHistory(b []byte) (*history, error) {
	var h history
	if err := json.Unmarshal(b, &h); err != nil {
		return nil, fmt.Errorf("it is damaged: %w", err)
	}
	return &h, nil
}

// maxNote bounds a file that eachNote reads, in bytes. A run of 10,000 stages
// takes 5 MB.
const maxNote = 256 << 20

// eachNote reads the files *.json of a directory of the store; name is without
// the ending. A file that cannot be read is an error: it might name something.
func eachNote(s *artifact.Store, dir string, visit func(name, path string, b []byte)) error {
	top := filepath.Join(s.Dir(), dir)
	list, err := os.ReadDir(top)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, e := range list {
		name, ok := strings.CutSuffix(e.Name(), ".json")
		if !ok || e.IsDir() {
			continue
		}
		path := filepath.Join(top, e.Name())
		f, err := os.Open(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		b, err := io.ReadAll(io.LimitReader(f, maxNote))
		if err = errors.Join(err, f.Close()); err != nil {
			return err
		}
		visit(name, path, b)
	}
	return nil
}

var runName = regexp.MustCompile(`^[0-9A-Za-z][0-9A-Za-z_-]{0,99}$`)

// checkRunName refuses what is no name of a run, which is part of paths.
func checkRunName(run string) error {
	if !runName.MatchString(run) {
		return fmt.Errorf("%q is not the name of a run", run)
	}
	return nil
}

// Pin keeps a run from gc until it is unpinned.
func Pin(s *artifact.Store, run string) error {
	if err := checkRunName(run); err != nil {
		return err
	}
	if _, err := os.Stat(filepath.Join(s.Dir(), "runs", run+".json")); err != nil {
		return fmt.Errorf("run %s is not in the store: %w", run, err)
	}
	return s.Replace("pins/"+run+".json", []byte("{}\n"))
}

// Unpin lets gc collect a run again.
func Unpin(s *artifact.Store, run string) error {
	if err := checkRunName(run); err != nil {
		return err
	}
	err := s.Forget("pins/" + run + ".json")
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("run %s is not pinned", run)
	}
	return err
}
