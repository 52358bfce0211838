package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strings"

	"pipe/model/hub"
	"pipe/runtime/artifact"
	"pipe/runtime/checkout"
	"pipe/runtime/engine"
	"pipe/runtime/lang"
	"pipe/runtime/lock"
)

// pins are what a pipeline takes from outside: what pipe.lock says of it, where
// fetched modules lie, and which commits were used.
type pins struct {
	dir     string     // of the pipeline, and of its lock file
	file    *lock.File // nil without one
	modules checkout.Cache
	commits map[string]string // of fetched modules, by source
	// fetch is the context for fetching modules; nil keeps off the network.
	fetch   context.Context
	upgrade bool // ask again what refs are
	locked  bool // refuse what is not as the lock file says
	verify  bool // look at the content of fetched modules again, which a commit should tell
}

// openPins reads the lock file beside the pipeline at path.
func openPins(o *options, path string) (*pins, error) {
	dir := path
	if info, err := os.Stat(path); err != nil || !info.IsDir() {
		dir = filepath.Dir(path)
	}
	file, err := lock.Read(dir)
	if err != nil {
		return nil, err
	}
	if file == nil && o.locked {
		return nil, fmt.Errorf("--locked: there is no %s; pipe lock writes it", filepath.Join(dir, lock.Name))
	}
	return &pins{
		dir: dir, file: file, commits: map[string]string{}, fetch: o.fetch, upgrade: o.upgrade, locked: o.locked, verify: o.locked || o.upgrade,
		modules: checkout.Cache{Dir: filepath.Join(storeDirOf(o, dir), "modules")},
	}, nil
}

// module finds a module of a repository for package lang.
func (p *pins) module(source string) (dir, root string, err error) {
	s, err := checkout.Parse(source)
	if err != nil {
		return "", "", err
	}
	pin := p.file.Module(source)
	commit, err := p.commit(s, source, pin)
	if err == nil {
		dir, root, err = p.modules.Find(s, commit)
	}
	if errors.Is(err, checkout.ErrAbsent) && p.fetch != nil {
		if err = p.modules.Fetch(p.fetch, s, commit); err == nil {
			dir, root, err = p.modules.Find(s, commit)
		}
	}
	if err == nil && pin != nil && pin.Commit == commit && !p.upgrade {
		err = holds(root, pin)
	}
	if errors.Is(err, checkout.ErrAbsent) {
		return "", "", fmt.Errorf("%s was not fetched yet; pipe lock or pipe run fetches it, other commands stay off the network", source)
	}
	if err != nil {
		return "", "", fmt.Errorf("module %s: %w", source, err)
	}
	p.commits[source] = commit
	return dir, root, nil
}

// holds checks what was fetched against its entry.
func holds(root string, pin *lock.Module) error {
	d, err := checkout.Digest(root)
	if err == nil && d != pin.Digest {
		err = fmt.Errorf("what was fetched at commit %s is not what %s says: locked %v, now %v; remove %s to fetch it again, or accept it by pipe lock --upgrade", pin.Commit, lock.Name, pin.Digest, d, root)
	}
	return err
}

// commit returns the commit to use for a module: the pinned one, else what this
// machine was told last, else what the repository says.
func (p *pins) commit(s checkout.Source, source string, pin *lock.Module) (string, error) {
	if c := p.commits[source]; c != "" {
		return c, nil
	}
	if pin != nil && !p.upgrade {
		return pin.Commit, nil
	}
	if p.upgrade && p.fetch != nil {
		return p.modules.Ask(p.fetch, s)
	}
	commit, err := p.modules.Known(s)
	if errors.Is(err, checkout.ErrAbsent) && p.fetch != nil {
		return p.modules.Ask(p.fetch, s)
	}
	return commit, err
}

// resolver finds models as next does, hub models at their pinned commits.
func (p *pins) resolver(next func(ctx context.Context, source, dir string, progress func(done, total int64)) (string, [32]byte, error)) func(context.Context, string, string, func(done, total int64)) (string, [32]byte, error) {
	if p == nil || p.file == nil {
		return next
	}
	return func(ctx context.Context, source, dir string, progress func(done, total int64)) (string, [32]byte, error) {
		if pin := p.file.Model(source); pin != nil && hub.Remote(source) && !p.upgrade {
			at, err := hub.At(source, pin.Commit)
			if err != nil {
				return "", [32]byte{}, fmt.Errorf("%s: %w", lock.Name, err)
			}
			source = at
		}
		return next(ctx, source, dir, progress)
	}
}

// now returns what the pipeline uses, as a lock file has it.
func (p *pins) now(ctx context.Context, o *options, prog *lang.Program, opts engine.Options) (f *lock.File, err error) {
	f = &lock.File{}
	for _, c := range prog.Modules {
		commit := p.commits[c.Source]
		if commit == "" || f.Module(c.Source) != nil {
			continue // a directory beside the pipeline
		}
		var d artifact.Digest
		if pin := p.file.Module(c.Source); pin != nil && pin.Commit == commit && !p.verify {
			d = pin.Digest
		} else if d, err = checkout.Digest(c.Checkout); err != nil {
			return nil, fmt.Errorf("%s: %w", c.Addr, err)
		}
		f.Modules = append(f.Modules, lock.Module{Source: c.Source, Commit: commit, Digest: d})
	}
	for _, n := range prog.Nodes {
		if n.Model == nil {
			continue
		}
		m, err := p.model(ctx, o, n, opts)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", n.Addr, err)
		}
		if m.Source != "" && f.Model(m.Source) == nil {
			f.Models = append(f.Models, m)
		}
	}
	read, err := engine.Sources(ctx, prog, opts.Store)
	if err != nil {
		return nil, err
	}
	for _, r := range read {
		if d := p.data(r); d.Source != "" && f.Dataset(d.Source) == nil {
			f.Data = append(f.Data, d)
		}
	}
	return f, nil
}

// model returns the entry of a model block; it has no source when the
// commit of its module covers it.
func (p *pins) model(ctx context.Context, o *options, n *lang.Node, opts engine.Options) (lock.Model, error) {
	source := n.Model.Source
	if hub.Remote(source) {
		if pin := p.file.Model(source); pin != nil && !p.upgrade {
			return *pin, nil // what is used
		}
		commit, err := o.hub.Commit(ctx, source)
		if err != nil && o.offline {
			return lock.Model{Source: source, Commit: "(not looked up)"}, nil
		}
		return lock.Model{Source: source, Commit: commit}, err
	}
	if !strings.Contains(source, "://") && n.Checkout != "" {
		return lock.Model{}, nil
	}
	_, d, err := opts.Resolve(ctx, source, n.Dir, nil)
	return lock.Model{Source: p.fromPipeline(n.Dir, source), Digest: d}, err
}

// data returns the entry of what a stage reads; it has no source when the
// commit of its module covers it.
func (p *pins) data(r engine.Outside) lock.Data {
	if r.Node.Checkout != "" || len(r.Files) == 0 {
		return lock.Data{}
	}
	files := map[string]artifact.Digest{}
	for _, f := range r.Files {
		files[p.fromPipeline("", f.Path)] = f.Digest
	}
	return lock.NewData(p.origin(r.Node), files)
}

// origin spells where a stage reads from, as seen from the pipeline.
func (p *pins) origin(n *lang.Node) string {
	if n.Teacher != nil {
		return p.fromPipeline(n.Dir, n.Teacher.Journal)
	}
	s, ok := n.Stage.(interface{ Patterns() []string })
	if !ok {
		return n.Addr
	}
	var names []string
	for _, pattern := range s.Patterns() {
		names = append(names, p.fromPipeline(n.Dir, pattern))
	}
	return strings.Join(names, ", ")
}

// fromPipeline spells a path that starts in dir as seen from the pipeline.
func (p *pins) fromPipeline(dir, name string) string {
	if strings.Contains(name, "://") {
		return name
	}
	if !filepath.IsAbs(name) && dir != "" {
		name = filepath.Join(dir, name)
	}
	here, err1 := filepath.Abs(p.dir)
	there, err2 := filepath.Abs(name)
	if rel, err := filepath.Rel(here, there); err == nil && errors.Join(err1, err2) == nil {
		name = rel
	}
	return path.Clean(filepath.ToSlash(name))
}

// checkLock compares what the pipeline uses with its lock file. With --locked a
// difference is an error and nothing runs; without, it is a warning.
func checkLock(ctx context.Context, t *app, o *options, prog *lang.Program, opts engine.Options) (code int) {
	p := o.pins
	if p == nil || p.file == nil {
		return exitOK
	}
	now, err := p.now(ctx, o, prog, opts)
	if err != nil && !p.locked {
		return exitOK // the run says it, where it matters
	}
	if err != nil {
		reportErrors(t, prog, nil, err)
		return exitFailed
	}
	var drift []lock.Difference
	for _, d := range p.file.Compare(now) {
		if p.locked || d.Locked != "" {
			drift = append(drift, d)
		}
	}
	if len(drift) == 0 {
		return exitOK
	}
	path := fromHere(filepath.Join(p.dir, lock.Name))
	if !p.locked {
		for _, d := range drift {
			t.printf("%s %s is not as %s has it: %s\n", t.errInk.paint(yellow, "warning:"), clean(d.What), path, clean(strings.ReplaceAll(strings.TrimPrefix(d.String(), d.What+": "), "\n ", ";")))
		}
		return exitOK
	}
	lines := make([]string, len(drift))
	for i, d := range drift {
		lines[i] = "  " + strings.ReplaceAll(d.String(), "\n", "\n  ")
	}
	t.errorf("--locked: %s is not what this pipeline uses\n%s\npipe lock adds what is missing, pipe lock --upgrade accepts what changed", path, strings.Join(lines, "\n"))
	return exitUsage
}
