package engine

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"pipe/runtime/artifact"
	"pipe/runtime/lang"
)

// A Baseline is the run that later runs of a pipeline are compared with, the
// file baselines/<pipeline>.json of the store. It is moved by people only.
type Baseline struct {
	Pipeline string    `json:"pipeline"`
	Dir      string    `json:"dir"` // absolute
	Run      string    `json:"run"`
	Set      time.Time `json:"set"`
}

// pipelineDir is the absolute directory that, with its name, says which
// pipeline of a store a program is.
func pipelineDir(prog *lang.Program) string {
	dir, err := filepath.Abs(prog.Dir)
	if err != nil {
		return prog.Dir
	}
	return dir
}

// PipelineName is the name of the files that a store keeps about a pipeline.
func PipelineName(prog *lang.Program) string {
	return nameOf(pipelineDir(prog) + "\x00" + prog.Name)
}

func baselinePath(s *artifact.Store, prog *lang.Program) string {
	return filepath.Join(s.Dir(), "baselines", PipelineName(prog)+".json")
}

// ReadBaseline returns the baseline of prog, nil when none is set.
func ReadBaseline(s *artifact.Store, prog *lang.Program) (*Baseline, error) {
	path := baselinePath(s, prog)
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the baseline: %w", err)
	}
	var b Baseline
	if err := json.Unmarshal(data, &b); err != nil || b.Run == "" {
		return nil, fmt.Errorf("the baseline %s is damaged; set it anew: pipe baseline set RUN", path)
	}
	return &b, nil
}

// SetBaseline pins a run of prog. Its metrics must be in the store.
func SetBaseline(s *artifact.Store, prog *lang.Program, run *RunFile) error {
	measured := 0
	for _, r := range run.Stages {
		for _, o := range r.Outputs {
			if o.Type != artifact.Metrics {
				continue
			}
			if measured++; !s.Has(o.Digest) {
				return fmt.Errorf("the metrics of %s in run %s are no longer in the store; run the pipeline again and pin that run", r.Addr, run.Run)
			}
		}
	}
	if measured == 0 {
		return fmt.Errorf("run %s measured nothing: it has no stage with metrics", run.Run)
	}
	return writeJSON(baselinePath(s, prog), Baseline{prog.Name, pipelineDir(prog), run.Run, time.Now().UTC().Truncate(time.Second)})
}

// ClearBaseline unpins the baseline of prog, and reports whether there was one.
func ClearBaseline(s *artifact.Store, prog *lang.Program) (bool, error) {
	err := os.Remove(baselinePath(s, prog))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

// maxRunFile bounds what is read of a note: 5,000 stages have about 5 MB.
const maxRunFile = 256 << 20

// ReadRun returns the note of a run.
func ReadRun(s *artifact.Store, name string) (*RunFile, error) {
	if name == "" || name != filepath.Base(name) || !filepath.IsLocal(name) {
		return nil, fmt.Errorf("%q is not the name of a run", name)
	}
	path := filepath.Join(s.Dir(), "runs", name+".json")
	st, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("there is no run %s in the store %s", name, s.Dir())
	}
	if err != nil {
		return nil, err
	}
	if st.Size() > maxRunFile {
		return nil, fmt.Errorf("the note of run %s has %d bytes; it is damaged", name, st.Size())
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var f RunFile
	if err := json.Unmarshal(b, &f); err != nil || f.Run != name {
		return nil, fmt.Errorf("the note of run %s, %s, is damaged", name, path)
	}
	return &f, nil
}

// FindRun returns the run of prog that name means: its name or the end or
// beginning of it, if that is one run; "last" or "" the newest; "baseline" the
// pinned one.
func FindRun(s *artifact.Store, prog *lang.Program, name string) (*RunFile, error) {
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
	entries, err := os.ReadDir(filepath.Join(s.Dir(), "runs"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	last := name == "" || name == "last"
	var newest *RunFile
	var found []*RunFile
	for _, e := range slices.Backward(entries) { // by name, which begins with the time
		id, ok := strings.CutSuffix(e.Name(), ".json")
		if !ok || !last && !strings.HasPrefix(id, name) && !strings.HasSuffix(id, name) {
			continue
		}
		if newest != nil && !strings.HasPrefix(id, second(newest.Run)) {
			break
		}
		f, err := ReadRun(s, id)
		if err != nil || f.Pipeline != prog.Name || f.Dir != pipelineDir(prog) {
			continue
		}
		switch {
		case id == name:
			return f, nil
		case !last:
			found = append(found, f)
		case newest == nil || f.Started.After(newest.Started):
			newest = f
		}
	}
	switch {
	case newest != nil:
		return newest, nil
	case last:
		return nil, fmt.Errorf("pipeline %q has not run with this store", prog.Name)
	case len(found) == 0:
		return nil, fmt.Errorf("pipeline %q has no run %q in this store; %s lists them", prog.Name, name, filepath.Join(s.Dir(), "runs"))
	case len(found) > 1:
		return nil, fmt.Errorf("%q means %d runs, %s and %s among them; write more of the name", name, len(found), found[1].Run, found[0].Run)
	}
	return found[0], nil
}

// second is the part of a run's name that is its time, which several runs may
// share.
func second(run string) string { return run[:min(len(run), len("20060102-150405"))] }

// Outputs returns what the stages of a run made, by address.
func (r *Result) Outputs() map[string]map[string]artifact.Object {
	out := map[string]map[string]artifact.Object{}
	for _, s := range r.Stages {
		if s.State == Done || s.State == Cached {
			out[s.Addr] = s.Outputs
		}
	}
	return out
}

// pinned is the baseline of a run that judges gates.
type pinned struct {
	run     string
	outputs map[string]map[string]artifact.Object
}

// readPinned returns the pinned run of the program, nil when there is none.
func (e *engine) readPinned() (*pinned, error) {
	b, err := ReadBaseline(e.Store, e.prog)
	if b == nil || err != nil {
		return nil, err
	}
	f, err := ReadRun(e.Store, b.Run)
	if err != nil {
		return nil, fmt.Errorf("read the baseline: %w; pin another run: pipe baseline set RUN", err)
	}
	return &pinned{b.Run, f.Outputs()}, nil
}
