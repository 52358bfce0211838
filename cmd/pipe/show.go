package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"strings"

	"pipe/runtime/artifact"
	"pipe/runtime/artifact/jsonl"
)

func runShow(ctx context.Context, t *app, args []string) int {
	o, pos, err := parse(t, "show", args, nil)
	if err != nil {
		return usageCode(err)
	}
	if isRun(pos[0]) {
		return showRun(t, o, pos[0], pos[1])
	}
	p, code := makePlan(ctx, t, o, pos[1])
	if p == nil {
		return code
	}
	s, ok := p.step(t, pos[0])
	if !ok {
		return exitUsage
	}
	r, ok := p.record(t, s)
	if !ok {
		return exitFailed
	}
	fmt.Fprintf(t.out, "%s ran on %s in %.1f s\nkey %s\n", s.Addr, moment(r.Created), r.Seconds, r.Key)
	for _, n := range r.Notes {
		fmt.Fprintln(t.out, " ", clean(n))
	}
	for _, name := range sortedKeys(r.Outputs) {
		if err := showOutput(t, p.store, strings.TrimSuffix(s.Addr+"."+name, "."), r.Outputs[name]); err != nil {
			t.errorf("%v", err)
			return exitFailed
		}
	}
	return exitOK
}

func showOutput(t *app, store *artifact.Store, ref string, o artifact.Object) error {
	a, err := store.Open(o.Digest)
	if err != nil {
		return err
	}
	fmt.Fprintf(t.out, "\n%s: %s", ref, o.Type)
	if o.Type == artifact.Dataset {
		fmt.Fprint(t.out, " of "+counted(o.Rows, "row"))
	}
	fmt.Fprintf(t.out, "\n  %s\n", store.ObjectDir(o.Digest))
	g := grid{right: []bool{false, true}}
	for _, f := range a.Files() {
		g.add("  "+f.Name, size(f.Size))
	}
	g.write(t.out)
	if o.Type == artifact.Dataset {
		return showSample(t, a)
	}
	if o.Type != artifact.Metrics {
		return nil
	}
	m, err := readMetrics(store, o)
	if err != nil {
		return err
	}
	metricTable(t, ref, m)
	return nil
}

func runCat(ctx context.Context, t *app, args []string) int {
	o, pos, err := parse(t, "cat", args, func(fs *flag.FlagSet, o *options) {
		fs.IntVar(&o.n, "n", 0, "print only the first `N` rows")
		fs.StringVar(&o.file, "file", "", "print this `NAME` of the artifact's files")
	})
	if err != nil {
		return usageCode(err)
	}
	p, code := makePlan(ctx, t, o, pos[1])
	if p == nil {
		return code
	}
	addr, output := pos[0], ""
	for _, s := range p.steps {
		if rest, ok := strings.CutPrefix(pos[0], s.Addr+"."); ok {
			addr, output = s.Addr, rest
		}
	}
	s, ok := p.step(t, addr)
	if !ok {
		return exitUsage
	}
	r, ok := p.record(t, s)
	if !ok {
		return exitFailed
	}
	names := sortedKeys(r.Outputs)
	if output == "" && len(names) == 1 {
		output = names[0]
	}
	obj, ok := r.Outputs[output]
	if !ok {
		t.errorf("%s has no output %q%s; it has %s", s.Addr, output, suggest(output, names), strings.Join(names, ", "))
		return exitUsage
	}
	if err := printArtifact(t.out, p.store, obj, o); err != nil {
		t.errorf("%s: %v", pos[0], err)
		return exitFailed
	}
	return exitOK
}

// printArtifact prints the rows of a table, the metrics of metrics, the file
// that was asked for, or else the only file.
func printArtifact(w io.Writer, store *artifact.Store, obj artifact.Object, o *options) error {
	a, err := store.Open(obj.Digest)
	if err != nil {
		return err
	}
	if o.file == "" && a.Has(artifact.TableName) {
		return printTable(w, a, o.n)
	}
	name := o.file
	if files := a.Files(); name == "" && len(files) == 1 {
		name = files[0].Name
	}
	if name == "" {
		var names []string
		for _, f := range a.Files() {
			names = append(names, f.Name)
		}
		return fmt.Errorf("it has several files; choose one with --file: %s", strings.Join(names, ", "))
	}
	path, err := a.Path(name)
	if err != nil {
		return err
	}
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = io.Copy(w, f)
	return err
}

// printTable prints rows as JSON lines. Those of a dataset are what a data
// block reads.
func printTable(w io.Writer, a *artifact.Artifact, n int) error {
	rows, err := jsonl.Views(a)
	if err != nil {
		return err
	}
	enc := jsonLines(w)
	i := 0
	for row, err := range rows {
		if err != nil {
			return err
		}
		if err := enc.Encode(row); err != nil {
			return err
		}
		if i++; i == n {
			break
		}
	}
	return nil
}
