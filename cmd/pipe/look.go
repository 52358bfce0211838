package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"strings"

	"pipe/runtime/artifact"
	"pipe/runtime/engine"
	"pipe/runtime/lang"
)

func runPlan(ctx context.Context, t *terminal, args []string) int {
	o, pos, err := parse(t, "plan", args, 1, func(fs *flag.FlagSet, o *options) {
		runFlags(fs, o)
		fs.BoolVar(&o.detailed, "detailed-exitcode", false, "exit 2 when there is work to do")
	})
	if err != nil {
		return usageCode(err)
	}
	_, steps, _, code := plan(ctx, t, o, pos[0])
	if code != exitOK {
		return code
	}
	work := 0
	g := grid{}
	for _, s := range steps {
		if s.Action != engine.PlanCached {
			work++
		}
		if o.json {
			json.NewEncoder(t.out).Encode(map[string]any{"type": "plan", "stage": s.Addr, "action": s.Action, "reason": s.Reason})
			continue
		}
		g.add("  "+s.Action, s.Addr, s.Reason)
	}
	g.write(t.out)
	if !o.json {
		fmt.Fprintf(t.out, "%d stages: %d up to date, %d to run or maybe\n", len(steps), len(steps)-work, work)
	}
	if o.detailed && work > 0 {
		return exitUsage
	}
	return exitOK
}

// plan loads the pipeline and plans it without touching the network.
func plan(ctx context.Context, t *terminal, o *options, path string) (*lang.Program, []engine.Step, *artifact.Store, int) {
	prog, ok := load(t, o, path)
	if !ok {
		return nil, nil, nil, exitUsage
	}
	os.Setenv("HF_HUB_OFFLINE", "1") // a plan never touches the network
	opts, closeAll, err := setup(t, o, prog)
	if err != nil {
		t.errorf("%v", err)
		return nil, nil, nil, exitFailed
	}
	defer closeAll()
	steps, err := engine.Plan(ctx, prog, opts)
	if err != nil {
		reportErrors(t, prog, nil, err)
		return nil, nil, nil, exitFailed
	}
	return prog, steps, opts.Store, exitOK
}

func runExplain(ctx context.Context, t *terminal, args []string) int {
	o, pos, err := parse(t, "explain", args, 2, nil)
	if err != nil {
		return usageCode(err)
	}
	_, steps, _, code := plan(ctx, t, o, pos[1])
	if code != exitOK {
		return code
	}
	found := false
	for _, s := range steps {
		if s.Addr == pos[0] || strings.HasPrefix(s.Addr, pos[0]+"[") {
			found = true
			fmt.Fprintf(t.out, "%s: %s: %s\n", s.Addr, s.Action, s.Reason)
		}
	}
	if !found {
		return unknownAddr(t, steps, pos[0])
	}
	return exitOK
}

func unknownAddr(t *terminal, steps []engine.Step, addr string) int {
	var names []string
	for _, s := range steps {
		names = append(names, s.Addr)
	}
	t.errorf("there is no stage %q%s", addr, suggest(addr, names))
	return exitUsage
}

func runLs(ctx context.Context, t *terminal, args []string) int {
	o, pos, err := parse(t, "ls", args, 1, nil)
	if err != nil {
		return usageCode(err)
	}
	_, steps, store, code := plan(ctx, t, o, pos[0])
	if code != exitOK {
		return code
	}
	g := grid{right: []bool{false, false, true, true}}
	for _, s := range steps {
		r, err := store.Record(s.Key)
		if err != nil {
			g.add(s.Addr, "–", "", "", s.Action)
			continue
		}
		for _, name := range sortedKeys(r.Outputs) {
			obj := r.Outputs[name]
			ref := s.Addr
			if name != "" {
				ref += "." + name
			}
			g.add(ref, string(obj.Type), fmt.Sprintf("%d rows", obj.Rows), size(obj.Bytes), obj.Digest.String()[:19])
		}
	}
	g.write(t.out)
	return exitOK
}

func size(n int64) string {
	switch {
	case n < 1<<10:
		return fmt.Sprintf("%d B", n)
	case n < 1<<20:
		return fmt.Sprintf("%.1f KiB", float64(n)/(1<<10))
	case n < 1<<30:
		return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20))
	}
	return fmt.Sprintf("%.1f GiB", float64(n)/(1<<30))
}

func runShow(ctx context.Context, t *terminal, args []string) int {
	o, pos, err := parse(t, "show", args, 2, nil)
	if err != nil {
		return usageCode(err)
	}
	_, steps, store, code := plan(ctx, t, o, pos[1])
	if code != exitOK {
		return code
	}
	for _, s := range steps {
		if s.Addr != pos[0] {
			continue
		}
		r, err := store.Record(s.Key)
		if err != nil {
			t.errorf("%s has not run with its present configuration; pipe plan says why", s.Addr)
			return exitFailed
		}
		fmt.Fprintf(t.out, "%s ran %s in %.1f s, key %s\n", s.Addr, r.Created.Format("2006-01-02 15:04:05"), r.Seconds, r.Key)
		for _, n := range r.Notes {
			fmt.Fprintln(t.out, " ", n)
		}
		for _, name := range sortedKeys(r.Outputs) {
			obj := r.Outputs[name]
			a, err := store.Open(obj.Digest)
			if err != nil {
				t.errorf("%v", err)
				return exitFailed
			}
			fmt.Fprintf(t.out, "%s (%s, %d rows) %s\n", name, obj.Type, obj.Rows, obj.Digest)
			for _, f := range a.Files() {
				fmt.Fprintf(t.out, "  %s %s\n", f.Name, size(f.Size))
			}
			var m artifact.MetricsFile
			if obj.Type == artifact.Metrics && artifact.ReadJSON(a, artifact.MetricsName, &m) == nil {
				metricTable(t, s.Addr+"."+name, m)
			}
		}
		return exitOK
	}
	return unknownAddr(t, steps, pos[0])
}

func runCat(ctx context.Context, t *terminal, args []string) int {
	o, pos, err := parse(t, "cat", args, 2, func(fs *flag.FlagSet, o *options) {
		fs.IntVar(&o.n, "n", 0, "print only the first `N` rows")
	})
	if err != nil {
		return usageCode(err)
	}
	_, steps, store, code := plan(ctx, t, o, pos[1])
	if code != exitOK {
		return code
	}
	for _, s := range steps {
		name, ok := strings.CutPrefix(pos[0], s.Addr)
		if !ok || name != "" && name[0] != '.' {
			continue
		}
		r, err := store.Record(s.Key)
		if err != nil {
			t.errorf("%s has not run with its present configuration", s.Addr)
			return exitFailed
		}
		obj, ok := r.Outputs[strings.TrimPrefix(name, ".")]
		if !ok {
			t.errorf("%s has no output %q%s", s.Addr, strings.TrimPrefix(name, "."), suggest(strings.TrimPrefix(name, "."), sortedKeys(r.Outputs)))
			return exitUsage
		}
		if err := printArtifact(t.out, store, obj, o.n); err != nil {
			t.errorf("%v", err)
			return exitFailed
		}
		return exitOK
	}
	return unknownAddr(t, steps, pos[0])
}

// printArtifact prints a table's rows as JSON lines, or the JSON files.
func printArtifact(w io.Writer, store *artifact.Store, obj artifact.Object, n int) error {
	a, err := store.Open(obj.Digest)
	if err != nil {
		return err
	}
	if !a.Has(artifact.TableName) {
		for _, f := range a.Files() {
			if strings.HasSuffix(f.Name, ".json") {
				path, err := a.Path(f.Name)
				if err != nil {
					return err
				}
				b, err := os.ReadFile(path)
				if err != nil {
					return err
				}
				w.Write(b)
			}
		}
		return nil
	}
	return firstOf(
		func() error { return printRows[artifact.Row](w, a, n) },
		func() error { return printRows[artifact.Packed](w, a, n) },
		func() error { return printRows[artifact.Drop](w, a, n) },
		func() error { return printRows[artifact.Point](w, a, n) },
	)
}

// firstOf returns nil at the first success, else the first error: a table is
// of one row type, and the readers of the others refuse it before any row.
func firstOf(tries ...func() error) (err error) {
	for _, try := range tries {
		e := try()
		if e == nil {
			return nil
		}
		if err == nil {
			err = e
		}
	}
	return err
}

func printRows[T any](w io.Writer, a *artifact.Artifact, n int) error {
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	i := 0
	for row, err := range artifact.Rows[T](a) {
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
