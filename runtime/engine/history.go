package engine

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"pipe/runtime/artifact"
	"pipe/runtime/lang"
)

// A RunFile is the note of a run in the store, the file runs/<run>.json.
type RunFile struct {
	Pipeline string    `json:"pipeline"`
	Dir      string    `json:"dir"` // of the pipeline, absolute; in the file as homeOf has it
	Started  time.Time `json:"started"`
	Seed     uint64    `json:"seed"`
	Backend  string    `json:"backend,omitempty"` // of stages that compute
	Recipe   []Recipe  `json:"recipe,omitempty"`  // sorted by name
	Result
}

// A Recipe is one file that the run was described by. Its text is kept in the
// store under its digest: see [ReadRecipe].
type Recipe struct {
	Name   string          `json:"name"` // slash-separated, from the pipeline's directory
	Digest artifact.Digest `json:"digest"`
}

// keepRecipe keeps the text of the pipeline's files, each once. Files of values
// are no part of it: they may hold secrets.
func keepRecipe(s *artifact.Store, prog *lang.Program) ([]Recipe, error) {
	dir, err := filepath.Abs(prog.Dir)
	if err != nil {
		return nil, err
	}
	var out []Recipe
	for path, f := range prog.Files {
		if slices.Contains(prog.ValueFiles, path) {
			continue
		}
		name := filepath.Base(path)
		if abs, err := filepath.Abs(path); err == nil {
			if rel, err := filepath.Rel(dir, abs); err == nil && filepath.IsLocal(rel) {
				name = filepath.ToSlash(rel)
			}
		}
		r := Recipe{name, sha256.Sum256(f.Bytes)}
		out = append(out, r)
		if _, err := os.Stat(filepath.Join(s.Dir(), recipeName(r.Digest))); err == nil {
			continue
		}
		if err := s.Replace(recipeName(r.Digest), f.Bytes); err != nil {
			return nil, err
		}
	}
	slices.SortFunc(out, func(a, b Recipe) int { return strings.Compare(a.Name, b.Name) })
	return out, nil
}

func recipeName(d artifact.Digest) string { return "recipes/" + hex.EncodeToString(d[:]) }

// maxRecipe bounds what is read of one file.
const maxRecipe = 16 << 20

// ReadRecipe returns the text of a recipe's file, checked against its digest.
func ReadRecipe(s *artifact.Store, r Recipe) ([]byte, error) {
	path := filepath.Join(s.Dir(), recipeName(r.Digest))
	if st, err := os.Stat(path); err != nil || st.Size() > maxRecipe {
		return nil, fmt.Errorf("the text of %s is not in the store: %w", r.Name, artifact.ErrNotFound)
	}
	b, err := os.ReadFile(path)
	if err == nil && sha256.Sum256(b) != r.Digest {
		err = fmt.Errorf("%s is damaged", path)
	}
	return b, err
}

// history says under which key each stage of a pipeline was last up to date,
// the file heads/<pipeline>.json. It explains; it decides nothing.
type history struct {
	Pipeline string                  `json:"pipeline"`
	Dir      string                  `json:"dir"` // see homeOf
	Run      string                  `json:"run"`
	Keys     map[string]artifact.Key `json:"keys"`

	file string // its name, and that of others about the pipeline: see PipelineName
}

// readHistory returns the history of prog, empty when there is none.
func readHistory(s *artifact.Store, prog *lang.Program) *history {
	h := &history{Pipeline: prog.Name, Dir: homeOf(s, prog.Dir), file: PipelineName(s, prog)}
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

func (h *history) name() string { return headName(h.file) }

func headName(pipeline string) string { return "heads/" + pipeline + ".json" }

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
	recipe, err := keepRecipe(e.Store, e.prog)
	if err != nil {
		return err
	}
	file := RunFile{Pipeline: h.Pipeline, Dir: h.Dir, Started: begin.UTC(), Seed: e.prog.Seed, Backend: e.BackendName, Recipe: recipe, Result: *res}
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
