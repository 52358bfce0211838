package engine

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"pipe/runtime/artifact"
	"pipe/runtime/lang"
)

// A Baseline is the run that later runs of a pipeline are compared with, the
// file baselines/<pipeline>.json of the store. It is moved by people only.
type Baseline struct {
	Pipeline string    `json:"pipeline"`
	Dir      string    `json:"dir"` // see homeOf
	Run      string    `json:"run"`
	Set      time.Time `json:"set"`
}

func baselineName(s *artifact.Store, prog *lang.Program) string {
	return "baselines/" + PipelineName(s, prog) + ".json"
}

func baselinePath(s *artifact.Store, prog *lang.Program) string {
	return filepath.Join(s.Dir(), baselineName(s, prog))
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
	return writeJSON(s.Replace, baselineName(s, prog), Baseline{prog.Name, homeOf(s, prog.Dir), run.Run, time.Now().UTC().Truncate(time.Second)})
}

// ClearBaseline unpins the baseline of prog, and reports whether there was one.
func ClearBaseline(s *artifact.Store, prog *lang.Program) (bool, error) {
	err := s.Forget(baselineName(s, prog))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

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

// Unmeasured lists the stages of which a run has no results although they are not
// gone: it did not come to them or to their end, or they were none of its targets.
func Unmeasured(prog *lang.Program, r *Result) (addrs []string) {
	in := map[string]bool{}
	for _, s := range r.Stages {
		if in[s.Addr] = true; s.State != Done && s.State != Cached {
			addrs = append(addrs, s.Addr)
		}
	}
	for _, n := range prog.Nodes {
		if n.Kind != nil && !in[n.Addr] {
			addrs = append(addrs, n.Addr)
		}
	}
	return addrs
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
