package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"pipe/model/hub"
	"pipe/runtime/bundle"
	"pipe/runtime/engine"
	"pipe/runtime/lang"
	"pipe/runtime/lock"
)

const (
	treeDir  = "tree"     // of the files that lie beside the pipeline, in a bundle
	varsName = "vars.hcl" // the values of variables, in a bundle
	hubDir   = "hub"      // models of the hub, in the store of a bundle
)

// runBundle packs a pipeline with everything that it needs.
func runBundle(ctx context.Context, t *app, args []string) int {
	out := ""
	o, pos, err := parse(t, "bundle", args, func(fs *flag.FlagSet, o *options) {
		fs.StringVar(&out, "o", "", "`FILE` to write (default: NAME.tar); one that ends with .gz or .tgz is compressed")
		fs.BoolVar(&o.models, "models", false, "include the models of the hub, which are downloaded again otherwise")
		fs.BoolVar(&o.noArtifacts, "no-artifacts", false, "leave out what stages made: they run again where the bundle is unpacked")
	})
	if err != nil {
		return usageCode(err)
	}
	prog, ok := load(t, o, pos[0])
	if !ok {
		return exitUsage
	}
	o.offline = true
	opts, closeAll, err := setup(t, o, prog)
	if err != nil {
		t.errorf("%v", err)
		return setupCode(err)
	}
	defer closeAll()
	steps, err := engine.Plan(ctx, prog, opts)
	if err != nil {
		reportErrors(t, prog, nil, err)
		return exitFailed
	}
	if out == "" {
		out = prog.Name + ".tar"
	}
	k := &packer{t: t, o: o, prog: prog, opts: opts, inStore: map[string]string{}}
	defer k.close()
	if err := k.gather(ctx, pos[0], steps); err != nil {
		reportErrors(t, prog, nil, err)
		return exitFailed
	}
	if err := k.write(pos[0], out); err != nil {
		t.errorf("write %s: %v", out, err)
		return exitFailed
	}
	if b, err := engine.ReadBaseline(opts.Store, prog); err == nil && b != nil {
		t.printf("%s the baseline, run %s, stays here: where the bundle is unpacked, gates that name it compare with the base model\n", t.errInk.paint(yellow, "warning:"), b.Run)
	}
	return exitOK
}

// A packer gathers what a pipeline needs.
type packer struct {
	t       *app
	o       *options
	prog    *lang.Program
	opts    engine.Options
	beside  []string          // absolute paths of files that lie beside the pipeline
	inStore map[string]string // paths of files by where they lie in the store of the bundle
	temp    []string          // files to remove in the end
	made    int               // stages with what they made
}

func (k *packer) close() {
	for _, f := range k.temp {
		os.Remove(f)
	}
}

// add notes a file beside the pipeline.
func (k *packer) add(name string) error {
	abs, err := filepath.Abs(name)
	k.beside = append(k.beside, abs)
	return err
}

// store notes files of the store.
func (k *packer) store(files ...string) error {
	for _, f := range files {
		abs, err := filepath.Abs(f)
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(k.opts.Store.Dir(), abs)
		if err != nil || !filepath.IsLocal(rel) {
			return fmt.Errorf("%s does not lie in the store", f)
		}
		k.inStore[filepath.ToSlash(rel)] = f
	}
	return nil
}

func (k *packer) gather(ctx context.Context, path string, steps []engine.Step) error {
	for _, name := range slices.Concat(slices.Sorted(maps.Keys(k.prog.Files)), k.prog.Reads) {
		if slices.Contains(k.o.varFiles, name) || k.fetched(name) {
			continue
		}
		if err := k.add(name); err != nil {
			return err
		}
	}
	if name := filepath.Join(k.o.pins.dir, lock.Name); k.o.pins.file != nil {
		if err := k.add(name); err != nil {
			return err
		}
	}
	if err := k.relative(); err != nil {
		return err
	}
	read, err := engine.Sources(ctx, k.prog, k.opts.Store)
	if err != nil {
		return err
	}
	for _, r := range read {
		for _, f := range r.Files {
			if r.Node.Checkout != "" {
				continue // part of the module
			}
			if err := k.add(f.Path); err != nil {
				return err
			}
		}
	}
	for _, n := range k.prog.Nodes {
		if err := errors.Join(k.model(ctx, n), k.journal(n)); err != nil {
			return fmt.Errorf("%s: %w", n.Addr, err)
		}
	}
	return errors.Join(k.modules(), k.answers(), k.artifacts(steps))
}

// fetched reports whether a file is part of a module that was fetched.
func (k *packer) fetched(name string) bool {
	return slices.ContainsFunc(k.prog.Modules, func(m lang.ModuleCall) bool { return m.Checkout != "" && lang.Inside(name, m.Checkout) })
}

// relative refuses what would be looked for at one place of this machine.
func (k *packer) relative() error {
	var errs []error
	absolute := func(addr string, names ...string) {
		for _, name := range names {
			if filepath.IsAbs(name) {
				errs = append(errs, fmt.Errorf("%s names %s, a place on this machine; a bundle can hold what is named relative to the pipeline", addr, name))
			}
		}
	}
	for _, m := range k.prog.Modules {
		absolute(m.Addr, m.Source)
	}
	for _, n := range k.prog.Nodes {
		if n.Model != nil {
			absolute(n.Addr, n.Model.Source, n.Model.ChatTemplate)
		}
		absolute(n.Addr, n.Journal)
		if p, ok := n.Stage.(interface{ Patterns() []string }); ok {
			absolute(n.Addr, p.Patterns()...)
		}
	}
	return errors.Join(errs...)
}

// model adds the files of a model block: those beside the pipeline, which lie
// nowhere else, and with --models those of the hub.
func (k *packer) model(ctx context.Context, n *lang.Node) error {
	if n.Model == nil {
		return nil
	}
	if n.Model.ChatTemplate != "" && n.Checkout == "" {
		if err := k.add(filepath.Join(n.Dir, n.Model.ChatTemplate)); err != nil {
			return err
		}
	}
	source := n.Model.Source
	local := !strings.Contains(source, "://")
	switch {
	case local && n.Checkout != "", !local && !hub.Remote(source):
		return nil // part of its module, or of pipe
	case !local && !k.o.models:
		k.t.printf("%s (%s) is not in the bundle: it is downloaded again, or --models includes it\n", n.Addr, clean(source))
		return nil
	}
	at, _, err := k.opts.Resolve(ctx, source, n.Dir, nil)
	if err != nil {
		return err
	}
	if !local {
		files, err := k.o.hub.CacheFiles(source, at)
		for rel, f := range files {
			k.inStore[path.Join(hubDir, rel)] = f
		}
		return err
	}
	files, err := hub.Files(at)
	for _, f := range files {
		err = errors.Join(err, k.add(f))
	}
	return err
}

// journal adds the recorded answers that a teacher block names.
func (k *packer) journal(n *lang.Node) error {
	if n.Teacher == nil || n.Teacher.Journal == "" || n.Checkout != "" {
		return nil
	}
	name := n.Teacher.Journal
	if !filepath.IsAbs(name) {
		name = filepath.Join(n.Dir, name)
	}
	if _, err := os.Stat(name); errors.Is(err, os.ErrNotExist) && n.Teacher.Provider != "journal" {
		return nil // there is none yet
	}
	return k.add(name)
}

// modules adds the modules that were fetched, and what their refs are.
func (k *packer) modules() error {
	for _, m := range k.prog.Modules {
		commit := k.o.pins.commits[m.Source]
		if commit == "" {
			continue
		}
		files, err := k.o.pins.modules.Files(m.Source, commit)
		if err != nil {
			return fmt.Errorf("%s: %w", m.Addr, err)
		}
		if err := k.store(files...); err != nil {
			return err
		}
	}
	return nil
}

// artifacts adds what the stages made, as far as it is there.
func (k *packer) artifacts(steps []engine.Step) error {
	if k.o.noArtifacts {
		return nil
	}
	for _, s := range steps {
		if s.Action != engine.PlanCached {
			continue
		}
		files, err := k.opts.Store.RecordFiles(s.Key)
		if err != nil {
			return fmt.Errorf("%s: %w", s.Addr, err)
		}
		if err := k.store(files...); err != nil {
			return err
		}
		k.made++
	}
	if left := len(steps) - k.made; left > 0 {
		k.t.printf("%s without a result, which will run where the bundle is unpacked; pipe run first includes them\n", plural(left))
	}
	return nil
}

// write writes the archive.
func (k *packer) write(recipe, out string) error {
	abs, err := filepath.Abs(recipe)
	if err != nil {
		return err
	}
	dir, err := filepath.Abs(k.o.pins.dir)
	if err != nil {
		return err
	}
	base := dir
	for _, f := range k.beside {
		for !within(f, base) {
			base = filepath.Dir(base)
		}
	}
	name := func(p string) string {
		rel, _ := filepath.Rel(base, p) // base holds it
		return path.Join(treeDir, filepath.ToSlash(rel))
	}
	files := map[string]string{}
	for _, f := range k.beside {
		files[name(f)] = f
	}
	for rel, f := range k.inStore {
		files[path.Join(name(dir), ".pipe", rel)] = f
	}
	if err := k.vars(files); err != nil {
		return err
	}
	tmp, err := os.CreateTemp(filepath.Dir(out), ".bundle-")
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name())
	compress := strings.HasSuffix(out, ".gz") || strings.HasSuffix(out, ".tgz")
	l, err := bundle.Write(tmp, name(abs), files, compress)
	if err = errors.Join(err, tmp.Chmod(0o644), tmp.Close()); err != nil {
		return err
	}
	if err := os.Rename(tmp.Name(), out); err != nil {
		return err
	}
	info, err := os.Stat(out)
	if err != nil {
		return err
	}
	with := "with what " + plural(k.made) + " made"
	if k.o.noArtifacts {
		with = "without what its stages made"
	}
	fmt.Fprintf(k.t.out, "%s holds %s %s: %s, %s\nRun it anywhere with: pipe run %s\n",
		out, k.prog.Name, with, counted(int64(len(l.Files)), "file"), size(info.Size()), filepath.Base(out))
	return nil
}

func within(p, dir string) bool {
	rel, err := filepath.Rel(dir, p)
	return err == nil && filepath.IsLocal(rel)
}

// vars adds the values that variables were given here.
func (k *packer) vars(files map[string]string) error {
	for _, name := range k.prog.Withheld {
		k.t.printf("variable %s is sensitive and not in the bundle; give it again where it runs\n", name)
	}
	if len(k.prog.Given) == 0 {
		return nil
	}
	var b strings.Builder
	for _, name := range sortedKeys(k.prog.Given) {
		fmt.Fprintf(&b, "%s = %s\n", name, k.prog.Given[name])
	}
	f, err := k.tempFile()
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := f.WriteString(b.String()); err != nil {
		return err
	}
	files[varsName] = f.Name()
	return f.Close()
}

func (k *packer) tempFile() (*os.File, error) {
	f, err := os.CreateTemp("", "pipe-bundle-")
	if err == nil {
		k.temp = append(k.temp, f.Name())
	}
	return f, err
}
