package engine

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"pipe/runtime/artifact"
	"pipe/runtime/lang"
	"pipe/runtime/stage"
)

// CheckRecord reports a record whose pre-image is not that of its key.
func CheckRecord(r *artifact.Record) error {
	var p preimage
	if err := json.Unmarshal(r.Preimage, &p); err != nil {
		return fmt.Errorf("its pre-image is damaged: %w", err)
	}
	if p.Format == keyFormat && p.key() != r.Key {
		return fmt.Errorf("its pre-image is that of %v", p.key())
	}
	return nil
}

// A Difference is the first byte in which what a stage made again differs from
// what is stored.
type Difference struct {
	Output string `json:"output"`
	File   string `json:"file"`
	Offset int64  `json:"offset"` // of the first byte that differs; -1 when one of the files is missing
	Why    string `json:"why"`
}

// A Rerun is a stage that was run again to compare.
type Rerun struct {
	Addr        string       `json:"stage"`
	Key         artifact.Key `json:"key"`
	Files       int          `json:"files"` // compared
	Bytes       int64        `json:"bytes"`
	Differences []Difference `json:"differences"` // one a file
}

// RunAgain runs the stage at addr once more, with what it was made from, and
// compares its outputs byte for byte with those in the store. All that it needs
// must be up to date. The store stays as it is: the outputs, the work directory
// and a copy of the journals lie in a directory of their own, which is removed.
// Answers that are not in the journals are asked for, and paid, again.
func RunAgain(ctx context.Context, prog *lang.Program, addr string, o Options) (*Rerun, error) {
	o.Targets, o.Force = []string{addr}, nil
	halt := stage.NewHalt() // what is in flight is thrown away: nobody waits for it
	defer context.AfterFunc(ctx, halt.AtOnce)()
	ctx = stage.WithHalt(ctx, halt)
	e, err := newEngine(prog, o)
	if err != nil {
		return nil, err
	}
	if addrs := prog.Addrs(addr); len(addrs) != 1 || prog.Node(addrs[0]).Kind == nil {
		return nil, fmt.Errorf("%s is not one stage", addr)
	}
	if end, err := o.Store.Begin(); err == nil {
		defer end()
	}
	var out *Rerun
	ends, err := e.walk(ctx, 1, false, func(ctx context.Context, n *lang.Node) error {
		rec, a, err := e.stored(ctx, n)
		if err != nil || n.Addr != addr {
			return err
		}
		out, err = e.again(ctx, n, a, rec)
		return err
	})
	if err != nil {
		return nil, err
	}
	for i, end := range ends {
		if end.Err != nil {
			return nil, newStageError(e.nodes[i], end.Err)
		}
	}
	if out == nil {
		return nil, context.Cause(ctx)
	}
	return out, nil
}

// stored makes the outputs of a node known from the store alone.
func (e *engine) stored(ctx context.Context, n *lang.Node) (*artifact.Record, *action, error) {
	switch {
	case n.Model != nil:
		if err := e.resolve(ctx, n, nil); err != nil {
			return nil, nil, err
		}
		return nil, nil, e.weigh(n)
	case n.Teacher != nil:
		return nil, nil, e.configure(n)
	}
	if unknown := e.bind(n); len(unknown) > 0 {
		return nil, nil, fmt.Errorf("%s is not known", unknown[0])
	}
	a, err := e.action(ctx, n)
	if err != nil {
		return nil, nil, err
	}
	rec, err := e.find(n, a.key)
	if err != nil {
		return nil, nil, err
	}
	if rec == nil {
		return nil, nil, errors.New("it is not up to date, so there is nothing to compare with; run the pipeline first")
	}
	e.made(n.Addr, e.withAliases(n, rec.Outputs))
	return rec, a, nil
}

// again runs an action into a store of its own and compares.
func (e *engine) again(ctx context.Context, n *lang.Node, a *action, rec *artifact.Record) (out *Rerun, err error) {
	dir, err := os.MkdirTemp(filepath.Join(e.Store.Dir(), "tmp"), "rerun-")
	if err != nil { // it may only be read
		if dir, err = os.MkdirTemp("", "pipe-rerun-"); err != nil {
			return nil, err
		}
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	aside, err := artifact.OpenStore(dir)
	if err != nil {
		return nil, err
	}
	if err := copyFiles(aside.Journals(), e.Store.Journals()); err != nil {
		return nil, fmt.Errorf("copy the journals: %w", err)
	}
	made, err := e.runAside(ctx, n, a, aside)
	if err != nil {
		return nil, err
	}
	out = &Rerun{Addr: n.Addr, Key: a.key, Differences: []Difference{}}
	for _, name := range slices.Sorted(maps.Keys(made)) {
		if err := out.compare(name, e.Store, rec.Outputs[name], aside, made[name]); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// runAside runs an action with outputs, work and journals in another store.
func (e *engine) runAside(ctx context.Context, n *lang.Node, a *action, aside *artifact.Store) (map[string]artifact.Object, error) {
	work, err := aside.Work(a.key, n.Addr)
	if err != nil {
		return nil, err
	}
	j := newJob(e, n)
	j.store = aside
	defer j.abort()
	env := j.env(a, work)
	if n.Kind.Compute {
		if env.Backend, err = e.backend(); err != nil {
			return nil, err
		}
	}
	e.emitStage(StageResult{Addr: n.Addr, Kind: n.Type, State: Started, Key: a.key})
	if err := call(ctx, n.Stage, env); err != nil {
		return nil, aside.Advise(err)
	}
	if err := e.unchanged(ctx, n, a); err != nil {
		return nil, err
	}
	return j.commit()
}

// copyFiles copies the files of one directory into another.
func copyFiles(to, from string) error {
	list, err := os.ReadDir(from)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	for _, f := range list {
		if err != nil {
			return err
		}
		if f.Type().IsRegular() {
			err = copyFile(filepath.Join(to, f.Name()), filepath.Join(from, f.Name()))
		}
	}
	return err
}

func copyFile(to, from string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.Create(to)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}

// compare compares one output, file by file.
func (r *Rerun) compare(name string, stored *artifact.Store, was artifact.Object, aside *artifact.Store, is artifact.Object) error {
	old, err := stored.Open(was.Digest)
	if err != nil {
		return err
	}
	now, err := aside.Open(is.Digest)
	if err != nil {
		return err
	}
	files := map[string][2]*artifact.FileInfo{}
	for i, a := range []*artifact.Artifact{old, now} {
		for _, f := range a.Files() {
			pair := files[f.Name]
			pair[i] = &f
			files[f.Name] = pair
		}
	}
	for _, file := range slices.Sorted(maps.Keys(files)) {
		d := Difference{Output: name, File: file, Offset: -1}
		switch pair := files[file]; {
		case pair[0] == nil:
			d.Why = "was made now and is not stored"
		case pair[1] == nil:
			d.Why = "is stored and was not made now"
		default:
			r.Files++
			r.Bytes += pair[1].Size
			if pair[0].SHA256 == pair[1].SHA256 {
				continue
			}
			if d.Offset, err = firstDifference(filepath.Join(stored.ObjectDir(was.Digest), filepath.FromSlash(file)), filepath.Join(aside.ObjectDir(is.Digest), filepath.FromSlash(file))); err != nil {
				return err
			}
			d.Why = fmt.Sprintf("differs from byte %d on; it has %d bytes, stored are %d", d.Offset, pair[1].Size, pair[0].Size)
		}
		r.Differences = append(r.Differences, d)
	}
	if len(r.Differences) == 0 && was.Digest != is.Digest { // its type or number of rows
		r.Differences = append(r.Differences, Difference{name, "manifest.json", -1, "is another"})
	}
	return nil
}

// firstDifference returns the offset of the first byte in which two files
// differ, or where the shorter ends.
func firstDifference(a, b string) (int64, error) {
	f, err := os.Open(a)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	g, err := os.Open(b)
	if err != nil {
		return 0, err
	}
	defer g.Close()
	x, y := make([]byte, 1<<16), make([]byte, 1<<16)
	for at := int64(0); ; {
		n, errA := io.ReadFull(f, x)
		m, errB := io.ReadFull(g, y)
		if k := min(n, m); !bytes.Equal(x[:k], y[:k]) {
			for i := range k {
				if x[i] != y[i] {
					return at + int64(i), nil
				}
			}
		}
		at += int64(min(n, m))
		for _, err := range []error{errA, errB} {
			if err != nil && err != io.EOF && err != io.ErrUnexpectedEOF {
				return 0, err
			}
		}
		if n != m || errA != nil {
			return at, nil
		}
	}
}
