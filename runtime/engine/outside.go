package engine

import (
	"context"
	"errors"

	"pipe/runtime/artifact"
	"pipe/runtime/lang"
	"pipe/runtime/stage"
)

// Outside is what a stage reads from outside the store, or the journal that a
// teacher block names.
type Outside struct {
	Node  *lang.Node
	Files []OutsideFile // in the order in which they are read
}

// An OutsideFile is one of those files.
type OutsideFile struct {
	Path   string // on this machine
	Digest artifact.Digest
}

// Sources returns what each stage reads from outside the store, and the journals
// of the teachers that stages ask, in the order of the program. Digests are remembered in the store as those of a run are. The
// error is that of each stage whose files cannot be read, a [*StageError].
func Sources(ctx context.Context, prog *lang.Program, store *artifact.Store) ([]Outside, error) {
	e := &engine{Options: Options{Store: store}, prog: prog}
	var out []Outside
	var errs []error
	asked := map[string]bool{}
	for _, n := range prog.Nodes {
		for _, in := range n.Inputs {
			asked[in.Ref.Addr] = asked[in.Ref.Addr] || n.Kind != nil
		}
	}
	for _, n := range prog.Nodes {
		if n.Teacher != nil && asked[n.Addr] {
			f, err := e.journal(ctx, n.Teacher, n.Dir)
			if err != nil {
				errs = append(errs, newStageError(n, stage.Fieldf("journal", "%v", err)))
			} else if f != nil {
				out = append(out, Outside{n, []OutsideFile{{f.path, f.Digest}}})
			}
			continue
		}
		s, ok := n.Stage.(stage.Sourcer)
		if !ok {
			continue
		}
		files, err := e.readSources(ctx, n, s)
		if err != nil {
			errs = append(errs, newStageError(n, err))
			continue
		}
		o := Outside{Node: n}
		for _, f := range files {
			o.Files = append(o.Files, OutsideFile{f.path, f.Digest})
		}
		out = append(out, o)
	}
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	return out, errors.Join(errs...)
}
