package engine

import (
	"context"
	"errors"
	"io/fs"

	"pipe/runtime/artifact"
	"pipe/runtime/lang"
	"pipe/runtime/stage"
)

// A teacher block may name a file of recorded answers, its journal. What stands
// there is what the teacher answers, so the file's content is part of the key of
// the stages that ask it; its name is not. The journals that pipe itself keeps
// in the store are no part of any key: they hold what was asked and answered,
// and only spare asking again.

// journals hashes the journals that the teachers of n name, and returns them by
// the path of the teacher's handle in the spec.
func (e *engine) journals(ctx context.Context, n *lang.Node) (map[string]artifact.Digest, []sourceFile, error) {
	var files []sourceFile
	var digests map[string]artifact.Digest
	for _, in := range n.Inputs {
		if in.Ref.Type != artifact.Teacher {
			continue
		}
		t := e.prog.Node(in.Ref.Addr)
		if t == nil || t.Teacher == nil {
			continue
		}
		f, err := e.journal(ctx, t.Teacher, n.Dir)
		if err != nil {
			return nil, nil, stage.Fieldf(in.Path, "the journal of %s %v", in.Ref.Addr, err)
		}
		if f == nil {
			continue
		}
		if digests == nil {
			digests = map[string]artifact.Digest{}
		}
		files, digests[in.Path] = append(files, *f), f.Digest
	}
	return digests, files, nil
}

// journal hashes the journal that a teacher block names, from dir; nil when
// there is none that counts.
func (e *engine) journal(ctx context.Context, c *stage.TeacherConfig, dir string) (*sourceFile, error) {
	if c.Journal == "" {
		return nil, nil
	}
	f := &sourceFile{path: within(dir, c.Journal)}
	if inside(resolved(f.path), resolved(e.Store.Journals())) {
		return nil, nil
	}
	var err error
	f.Digest, f.id, f.fresh, err = e.fileDigest(ctx, f.path)
	if errors.Is(err, fs.ErrNotExist) && c.Provider != "journal" {
		return nil, nil // who opens it says so
	}
	if err != nil {
		return nil, &journalError{err}
	}
	return f, nil
}

// A journalError says what to do about a journal that cannot be read.
type journalError struct{ err error }

func (j *journalError) Error() string {
	text := "cannot be read: " + j.err.Error()
	if errors.Is(j.err, fs.ErrNotExist) {
		text += `; give a file of recorded answers, or ask a teacher with provider "openai" or "local"`
	}
	return text
}

func (j *journalError) Unwrap() error { return j.err }

// journalChanges compares the journals that the teachers of a stage name.
func (v viewer) journalChanges(a *past, b *preimage) (out []Change) {
	compare(a.Journals, b.Journals, func(path string, x, y artifact.Digest) {
		c := Change{What: "the journal of input " + path, How: how(x, y)}
		if ref, _, ok := v.teacher(path + "."); ok {
			c.What = "the journal of " + ref.Addr
			if t := v.prog.Node(ref.Addr); t != nil && t.Teacher != nil && t.Teacher.Journal != "" {
				c.What += " (" + relative(v.prog.Dir, within(t.Dir, t.Teacher.Journal)) + ")"
				c.Range = t.Range("journal")
			}
		}
		out = append(out, c)
	})
	return out
}
