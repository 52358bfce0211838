package engine

import (
	"crypto/sha256"
	"encoding/hex"
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

// A stamp is the file stamps/<name> in the store that a run leaves which found
// nothing to do. It lists every file and directory that this depended on, and
// holds one hash over their states (device, inode, size, times) and over facts
// that are no files, such as arguments and environment variables. While the
// hash is still the same, the next run with the same arguments would find the
// same, and can say so without reading the pipeline.
//
// A stamp decides in one direction only: what does not match, cannot be read,
// or was never written costs the time of an ordinary run.
const (
	stampHeader = "pipe run stamp 1"
	maxStamp    = 256 << 20 // bytes
	maxStamps   = 64        // kept in a store; the oldest go
)

// StampName names the stamp of runs that agree in all of parts.
func StampName(parts ...string) string {
	f := framer{sha256.New()}
	for _, p := range parts {
		f.text(p)
	}
	sum := f.sum()
	return hex.EncodeToString(sum[:])
}

// Facts are what a stamp depends on beside files. The variables are those of
// the environment that were looked up.
type Facts func(variables []string) []string

// FileState is the state of a file as stamps hold it, "" if there is none.
func FileState(path string) string {
	info, err := os.Stat(path)
	if err != nil {
		return ""
	}
	return state(info)
}

// CheckStamp reports whether the stamp of that name in the store, a directory,
// still holds, and the number of stages that are up to date.
func CheckStamp(store, name string, facts Facts) (stages int, ok bool) {
	s, err := readStamp(filepath.Join(store, "stamps", name), store)
	if err != nil {
		return 0, false
	}
	sum, err := s.hash(facts, func(string, fs.FileInfo) error { return nil })
	return s.stages, err == nil && sum == s.sum
}

// Stamp leaves a stamp for a run that began at begin and found nothing to do.
// It is an error if the run did something, if it depends on more than files, or
// if one of them changed so recently that it could change again unnoticed.
func (r *Result) Stamp(name string, begin time.Time, variables []string, facts Facts) error {
	if r.engine == nil || r.Ran > 0 || r.Cached != len(r.Stages) || !r.GatesPassed() || len(r.engine.forced) > 0 || !remembers {
		return errUnwatched
	}
	paths, err := r.engine.watched()
	if err != nil {
		return err
	}
	store := r.engine.Store.Dir()
	s := &stamp{store: store, stages: r.Cached, variables: variables}
	for _, p := range paths {
		abs, err := filepath.Abs(p)
		if err != nil {
			return err
		}
		if strings.Contains(abs, "\n") {
			return errUnwatched
		}
		s.paths = append(s.paths, abs)
	}
	latest := r.engine.latestPath() // this run itself wrote it
	s.sum, err = s.hash(facts, func(path string, info fs.FileInfo) error {
		if path != latest && !changed(info).Before(begin.Add(-racy)) {
			return fmt.Errorf("%s changed just now", path)
		}
		return nil
	})
	if err != nil {
		return err
	}
	return s.write(r.engine.Store, name, begin)
}

type stamp struct {
	store     string // directory
	sum       [32]byte
	stages    int
	variables []string
	paths     []string // absolute
}

// hash hashes the facts and the states of the paths. judge is told of what is
// there; that a path is missing is a state too.
func (s *stamp) hash(facts Facts, judge func(path string, info fs.FileInfo) error) ([32]byte, error) {
	f := framer{sha256.New()}
	list := facts(s.variables)
	f.count(len(list))
	for _, fact := range list {
		f.text(fact)
	}
	f.count(s.stages)
	for _, p := range s.paths {
		f.text(p)
		info, err := os.Stat(p)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			f.text("missing")
			continue
		case err != nil:
			return [32]byte{}, err
		}
		if err := judge(p, info); err != nil {
			return [32]byte{}, err
		}
		f.text(state(info))
	}
	return f.sum(), nil
}

// write publishes the stamp. It is not flushed: one that is torn or lost by a
// power failure does not match.
func (s *stamp) write(store *artifact.Store, name string, begin time.Time) error {
	var b strings.Builder
	fmt.Fprintf(&b, "%s\n%x\n%d\n%d\n", stampHeader, s.sum, s.stages, len(s.variables))
	for _, v := range s.variables {
		fmt.Fprintln(&b, v)
	}
	for _, p := range s.paths {
		if rel, ok := strings.CutPrefix(p, s.store+"/"); ok {
			p = rel
		}
		fmt.Fprintln(&b, p)
	}
	dir := filepath.Join(store.Dir(), "stamps")
	path := filepath.Join(dir, name)
	if err := store.Remember("stamps/"+name, []byte(b.String())); err != nil {
		return err
	}
	// Where the file system's clock is another than ours, nothing can be said
	// about when files changed.
	info, err := os.Stat(path)
	if err == nil && (changed(info).Before(begin.Add(-racy/2)) || changed(info).After(time.Now().Add(racy/2))) {
		err = errors.New("the clock of the store's file system differs from this machine's")
	}
	if err != nil {
		return errors.Join(err, os.Remove(path))
	}
	return pruneStamps(dir)
}

// pruneStamps removes the oldest stamps.
func pruneStamps(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) <= maxStamps {
		return err
	}
	age := map[string]time.Time{}
	for _, e := range entries {
		if info, err := e.Info(); err == nil {
			age[e.Name()] = info.ModTime()
		}
	}
	slices.SortFunc(entries, func(a, b os.DirEntry) int { return age[a.Name()].Compare(age[b.Name()]) })
	for _, e := range entries[:len(entries)-maxStamps] {
		err = errors.Join(err, os.Remove(filepath.Join(dir, e.Name())))
	}
	return err
}

// readStamp reads an untrusted stamp.
func readStamp(path, store string) (*stamp, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxStamp+1))
	if err != nil {
		return nil, err
	}
	if len(b) > maxStamp {
		return nil, errors.New("the stamp is too large")
	}
	return parseStamp(string(b), store)
}

func parseStamp(text, store string) (*stamp, error) {
	bad := errors.New("not a stamp")
	body, whole := strings.CutSuffix(text, "\n")
	lines := strings.Split(body, "\n")
	if !whole || len(lines) < 4 || lines[0] != stampHeader {
		return nil, bad
	}
	s := &stamp{store: store}
	sum, err := hex.DecodeString(lines[1])
	if err != nil || copy(s.sum[:], sum) != len(s.sum) || len(sum) != len(s.sum) {
		return nil, bad
	}
	var n int
	var err2 error
	s.stages, err = strconv.Atoi(lines[2])
	n, err2 = strconv.Atoi(lines[3])
	if lines = lines[4:]; err != nil || err2 != nil || s.stages < 0 || n < 0 || n > len(lines) {
		return nil, bad
	}
	s.variables, s.paths = lines[:n], lines[n:]
	for i, p := range s.paths {
		if !filepath.IsAbs(p) {
			s.paths[i] = store + "/" + p
		}
	}
	return s, nil
}
