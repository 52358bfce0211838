package engine

import (
	"encoding/json"
	"os"
	"path/filepath"
	"time"

	"pipe/runtime/artifact"
	"pipe/runtime/lang"
)

// A RunFile is the note of a run in the store, the file runs/<run>.json.
type RunFile struct {
	Pipeline string    `json:"pipeline"`
	Dir      string    `json:"dir"` // absolute
	Started  time.Time `json:"started"`
	Result
}

// history says under which key each stage of a pipeline was last up to date,
// the file heads/<pipeline>.json. It explains; it decides nothing.
type history struct {
	Pipeline string                  `json:"pipeline"`
	Dir      string                  `json:"dir"`
	Run      string                  `json:"run"`
	Keys     map[string]artifact.Key `json:"keys"`
}

// readHistory returns the history of prog, empty when there is none.
func readHistory(s *artifact.Store, prog *lang.Program) *history {
	dir, err := filepath.Abs(prog.Dir)
	if err != nil {
		dir = prog.Dir
	}
	h := &history{Pipeline: prog.Name, Dir: dir}
	if b, err := os.ReadFile(filepath.Join(s.Dir(), h.name())); err == nil {
		if old, err := parseHistory(b); err == nil {
			h.Keys = old.Keys
		}
	}
	if h.Keys == nil {
		h.Keys = map[string]artifact.Key{}
	}
	return h
}

func (h *history) name() string { return "heads/" + nameOf(h.Dir+"\x00"+h.Pipeline) + ".json" }

// remember notes the run in the store.
func (e *engine) remember(res *Result, begin time.Time) error {
	h := e.last
	h.Run = res.Run
	changed := false
	for _, r := range res.Stages {
		if (r.State == Done || r.State == Cached) && h.Keys[r.Addr] != r.Key {
			h.Keys[r.Addr] = r.Key
			changed = true
		}
	}
	note := "runs/" + res.Run + ".json"
	file := RunFile{Pipeline: h.Pipeline, Dir: h.Dir, Started: begin.UTC(), Result: *res}
	if !changed && res.Ran == 0 {
		return writeJSON(e.Store.Remember, note, file)
	}
	if err := writeJSON(e.Store.Replace, h.name(), h); err != nil {
		return err
	}
	return writeJSON(e.Store.Replace, note, file)
}

func writeJSON(write func(name string, b []byte) error, name string, v any) error {
	b, err := json.MarshalIndent(v, "", " ")
	if err != nil {
		return err
	}
	return write(name, append(b, '\n'))
}
