package harness

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"pipe/runtime/artifact"
)

// damaged reads everything that is published in the store at dir, content too.
// It returns the number of artifacts.
func damaged(dir string) (objects int, err error) {
	if _, err := os.Stat(filepath.Join(dir, "objects")); errors.Is(err, fs.ErrNotExist) {
		return 0, nil // killed before it made the store
	}
	s, err := artifact.OpenStore(dir)
	if err != nil {
		return 0, err
	}
	paths, err := filepath.Glob(filepath.Join(dir, "objects", "sha256", "*", "*"))
	if err != nil {
		return 0, err
	}
	for _, p := range paths {
		var d artifact.Digest
		if n, err := hex.Decode(d[:], []byte(filepath.Base(p))); err != nil || n != len(d) {
			return 0, fmt.Errorf("%s is no artifact", p)
		}
		a, err := s.Open(d)
		if err != nil {
			return 0, err
		}
		if _, err := a.Dir(); err != nil { // hashes every file
			return 0, err
		}
	}
	records, err := filepath.Glob(filepath.Join(dir, "actions", "*", "*.json"))
	if err != nil {
		return 0, err
	}
	for _, p := range records {
		name := strings.TrimSuffix(filepath.Base(p), ".json")
		if strings.HasSuffix(name, ".series") {
			b, err := os.ReadFile(p)
			if err != nil || !json.Valid(b) {
				return 0, fmt.Errorf("%s is damaged: %w", p, err)
			}
			continue
		}
		var k artifact.Key
		if err := k.UnmarshalText([]byte(name)); err != nil {
			return 0, fmt.Errorf("%s is no record", p)
		}
		if _, err := s.Record(k); err != nil {
			return 0, err
		}
	}
	return len(paths), nil
}

// series returns the stored series of every action of the store, by its key.
func series(dir string) (map[string]string, error) {
	out := map[string]string{}
	paths, err := filepath.Glob(filepath.Join(dir, "actions", "*", "*.series.json"))
	if err != nil {
		return nil, err
	}
	for _, p := range paths {
		b, err := os.ReadFile(p)
		if err != nil {
			return nil, err
		}
		out[filepath.Base(p)] = string(b)
	}
	return out, nil
}

// files returns the hashes of all files below dir, by path.
func files(dir string) (map[string]string, error) {
	out := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		sum, err := artifact.HashFile(path)
		out[path] = sum.String()
		return err
	})
	return out, err
}

// remains are what killed runs left unfinished.
type remains struct {
	artifacts   int // files that were to become an artifact
	records     int // records that were not published
	checkpoints int // that were not whole
	kept        int // whole checkpoints of the action that has most
}

func left(dir string) (r remains) {
	count := func(pattern string) int {
		m, _ := filepath.Glob(filepath.Join(dir, pattern)) // the pattern is a constant
		return len(m)
	}
	r.artifacts, r.records = count("tmp/artifact-*"), count("tmp/record-*")
	r.checkpoints = count("work/*/tmp-checkpoint-*")
	actions, _ := filepath.Glob(filepath.Join(dir, "work", "*"))
	for _, a := range actions {
		m, _ := filepath.Glob(filepath.Join(a, "checkpoint-*"))
		r.kept = max(r.kept, len(m))
	}
	return r
}
