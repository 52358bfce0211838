package engine

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"

	"github.com/hashicorp/hcl/v2"

	"pipe/runtime/lang"
	"pipe/runtime/stage"
)

// Check reports what can be known to be wrong with a program, beyond its text,
// without reading data: copies outside the store that are in the way of
// something, chat templates that are none, and models on this machine whose
// weights cannot be used. store is the directory of the store, and the checks are
// those of [Options].
func Check(prog *lang.Program, store string, checkWeights func(path, quantize string) error, checkTemplate func(name, text string) error) error {
	errs := []error{checkPlaces(prog.Dir, store, prog.Nodes)}
	uses := weightUses(prog.Nodes)
	for _, n := range prog.Nodes {
		if n.Model != nil && n.Model.ChatTemplate != "" {
			_, err := readTemplate(n, checkTemplate)
			if err != nil && !errors.Is(err, fs.ErrNotExist) { // it may be on the machine that runs this
				errs = append(errs, newStageError(n, stage.Fieldf("chat_template", "%v", err)))
			}
		}
		if n.Model == nil || !uses[n.Addr] || strings.Contains(n.Model.Source, "://") {
			continue
		}
		path := within(n.Dir, n.Model.Source)
		if _, err := filepath.EvalSymlinks(path); err != nil {
			continue // it may be on the machine that runs this
		}
		if err := usable(n.Model, path, checkWeights); err != nil {
			errs = append(errs, newStageError(n, err))
		}
	}
	return flat(errs)
}

// flat joins errors, and those that were joined already, into one list.
func flat(errs []error) error {
	var out []error
	for _, err := range errs {
		if j, ok := err.(interface{ Unwrap() []error }); ok {
			out = append(out, j.Unwrap()...)
		} else if err != nil {
			out = append(out, err)
		}
	}
	return errors.Join(out...)
}

// A place is a file or directory outside the actions, and what it is.
type place struct{ path, what string }

// checkPlaces reports every directory that a stage would replace and in which
// something else lies, or which lies in something else that is replaced.
func checkPlaces(dir, store string, nodes []*lang.Node) error {
	var targets []*lang.Node
	for _, n := range nodes {
		if p, ok := n.Stage.(stage.Placer); ok && p.Target(dir) != "" {
			targets = append(targets, n)
		}
	}
	if len(targets) == 0 {
		return nil
	}
	kept := keptPlaces(dir, nodes)
	var errs []error
	var taken []place
	for _, n := range targets {
		target := resolved(n.Stage.(stage.Placer).Target(dir))
		if problem := conflict(target, resolved(store), taken, kept); problem != "" {
			err := stage.Fieldf("path", "%s", problem)
			errs = append(errs, &StageError{Addr: n.Addr, Err: err, Diags: hcl.Diagnostics{n.Diagnostic("Paths collide", err)}})
		}
		taken = append(taken, place{target, n.Addr + at(n, "path")})
	}
	return errors.Join(errs...)
}

// conflict says why target cannot be replaced as a whole, "" when it can.
func conflict(target, store string, taken, kept []place) string {
	for _, p := range taken {
		switch {
		case p.path == target:
			return fmt.Sprintf("is also the path of %s; give each its own directory", p.what)
		case inside(target, p.path):
			return fmt.Sprintf("lies inside the path of %s, which is replaced as a whole; put them side by side", p.what)
		case inside(p.path, target):
			return fmt.Sprintf("holds the path of %s, and is replaced as a whole; put them side by side", p.what)
		}
	}
	if target == store || inside(target, store) {
		return fmt.Sprintf("lies in the artifact store %s; choose a directory outside", store)
	}
	for _, p := range append(kept, place{store, "the artifact store"}) {
		if p.path == target || inside(p.path, target) {
			return fmt.Sprintf("holds %s, and is replaced as a whole; choose another directory", p.what)
		}
	}
	return ""
}

// keptPlaces lists what the pipeline reads, and its own directory.
func keptPlaces(dir string, nodes []*lang.Node) []place {
	out := []place{{resolved(dir), "the pipeline itself"}}
	for _, n := range nodes {
		if s, ok := n.Stage.(stage.Sourcer); ok {
			paths, _ := s.Sources(n.Dir) // an error is the stage's own
			for _, p := range paths {
				out = append(out, place{resolved(p), fmt.Sprintf("%s, which %s reads", p, n.Addr+at(n, "source"))})
			}
		}
		if n.Model != nil && !strings.Contains(n.Model.Source, "://") {
			out = append(out, place{resolved(within(n.Dir, n.Model.Source)), n.Addr + at(n, "source")})
		}
		if n.Teacher != nil && n.Teacher.Journal != "" {
			path := within(n.Dir, n.Teacher.Journal)
			out = append(out, place{resolved(path), fmt.Sprintf("%s, the journal of %s", path, n.Addr+at(n, "journal"))})
		}
	}
	return out
}

// at says where an attribute of n stands: " (p.hcl:7)".
func at(n *lang.Node, path string) string {
	r := n.Range(path)
	if r.Filename == "" {
		return ""
	}
	return fmt.Sprintf(" (%s:%d)", r.Filename, r.Start.Line)
}

func within(dir, path string) string {
	if filepath.IsAbs(path) {
		return path
	}
	return filepath.Join(dir, path)
}

// inside reports whether path lies below dir; both are resolved.
func inside(path, dir string) bool {
	rel, err := filepath.Rel(dir, path)
	return err == nil && rel != "." && rel != ".." && !strings.HasPrefix(rel, ".."+string(filepath.Separator))
}

// resolved returns path without relative parts and, as far as it exists,
// without links.
func resolved(path string) string {
	abs, err := filepath.Abs(path)
	if err != nil {
		return filepath.Clean(path)
	}
	for rest := ""; ; {
		if real, err := filepath.EvalSymlinks(abs); err == nil {
			return filepath.Join(real, rest)
		}
		up := filepath.Dir(abs)
		if up == abs {
			return filepath.Join(abs, rest)
		}
		rest = filepath.Join(filepath.Base(abs), rest)
		abs = up
	}
}
