package engine

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"pipe/runtime/lang"
	"pipe/runtime/stage"
)

// errUnwatched is why a run is not stamped.
var errUnwatched = errors.New("it depends on more than files")

// watched returns every file and directory on whose state it depends that this
// run found nothing to do: another run with the same arguments finds the same
// as long as none of them changes. It is an error if there is more to it, such
// as a branch of the hub that may move.
func (e *engine) watched() ([]string, error) {
	w := &watch{e: e}
	w.add(e.prog.Dir)
	w.add(e.prog.Watched...)
	for _, n := range e.nodes {
		if err := w.node(n); err != nil {
			return nil, err
		}
	}
	for _, m := range e.prog.Modules {
		if m.Checkout == "" {
			continue
		}
		// All of it: the digest in a lock file is that of the whole.
		if err := errors.Join(w.tree(m.Checkout), w.tree(filepath.Join(e.Store.Dir(), "modules", "refs"))); err != nil {
			return nil, err
		}
	}
	// Who judges gates by a run that people pinned looks at more than this.
	baselines := filepath.Join(e.Store.Dir(), "baselines")
	if pinned, err := os.ReadDir(baselines); err == nil && len(pinned) > 0 && e.gated() {
		return nil, errUnwatched
	}
	w.add(filepath.Join(e.prog.Dir, "pipe.lock"), baselines, filepath.Join(e.Store.Dir(), e.last.name()), e.latestPath())
	return w.paths, nil
}

// latestPath is the file that names the latest run of the pipeline. It changes
// with every run, whatever its arguments, so that a stamp holds only as long as
// the run that left it is the latest of the notes of runs.
func (e *engine) latestPath() string { return filepath.Join(e.Store.Dir(), e.latestName()) }

func (e *engine) latestName() string { return "latest/" + e.last.file }

func (e *engine) noteLatest() error { return e.Store.Remember(e.latestName(), []byte(e.run+"\n")) }

func (e *engine) gated() bool {
	return slices.ContainsFunc(e.nodes, func(n *lang.Node) bool { return len(n.Gates) > 0 })
}

type watch struct {
	e     *engine
	paths []string
	seen  map[string]bool
}

func (w *watch) add(paths ...string) {
	if w.seen == nil {
		w.seen = map[string]bool{}
	}
	for _, p := range paths {
		if !w.seen[p] {
			w.seen[p] = true
			w.paths = append(w.paths, p)
		}
	}
}

func (w *watch) node(n *lang.Node) error {
	switch {
	case n.Model != nil:
		return w.model(n)
	case n.Teacher != nil:
		if n.Teacher.Journal != "" {
			w.add(within(n.Dir, n.Teacher.Journal))
		}
		return nil
	}
	r := w.e.results[n.Addr]
	if r == nil || r.State != Cached {
		return errUnwatched
	}
	w.add(w.e.Store.RecordPath(r.Key))
	for _, o := range n.Makes {
		if o.Alias != "" {
			continue
		}
		a, err := w.e.Store.Open(r.Outputs[o.Name].Digest)
		if err != nil {
			return err
		}
		w.add(a.Paths()...)
	}
	if s, ok := n.Stage.(stage.Sourcer); ok {
		if err := w.sources(n, s); err != nil {
			return err
		}
	}
	if p, ok := n.Stage.(stage.Placer); ok {
		if target := p.Target(w.e.prog.Dir); target != "" {
			return w.tree(target)
		}
	}
	return nil
}

func (w *watch) sources(n *lang.Node, s stage.Sourcer) error {
	f, ok := s.(stage.Folderer)
	if !ok {
		return errUnwatched
	}
	folders, err := f.Folders(n.Dir)
	if err != nil {
		return err
	}
	files, err := s.Sources(n.Dir)
	if err != nil {
		return err
	}
	w.add(folders...)
	w.add(files...)
	return nil
}

// fixedRevision matches sources of the hub that name a commit, which never
// changes.
var fixedRevision = regexp.MustCompile(`^hf://[^/]+/[^/@]+@[0-9a-f]{40}(/|$)`)

// model watches the files of a model block, which lie side by side.
func (w *watch) model(n *lang.Node) error {
	if remote(n) && !fixedRevision.MatchString(n.Model.Source) {
		return errUnwatched
	}
	w.e.mu.Lock()
	m := w.e.roots[w.e.outputs[n.Addr][""].Digest]
	w.e.mu.Unlock()
	w.add(m.Base)
	info, err := os.Stat(m.Base)
	if err != nil {
		return err
	}
	if info.IsDir() {
		files, err := os.ReadDir(m.Base)
		if err != nil {
			return err
		}
		for _, f := range files {
			w.add(filepath.Join(m.Base, f.Name()))
		}
	}
	if n.Model.ChatTemplate != "" {
		w.add(within(n.Dir, n.Model.ChatTemplate))
	}
	if m.Template != "" {
		w.add(m.Template)
	}
	return nil
}

// tree watches a directory with all that is below it.
func (w *watch) tree(dir string) error {
	return filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case !d.IsDir() && !d.Type().IsRegular():
			return errUnwatched
		}
		w.add(strings.TrimSuffix(p, string(filepath.Separator)))
		return nil
	})
}
