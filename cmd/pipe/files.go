package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"pipe/model/pretrained"
	"pipe/runtime/engine"
	"pipe/runtime/lang"
)

func runValidate(_ context.Context, t *app, args []string) int {
	o, pos, err := parse(t, "validate", args, nil)
	if err != nil {
		return usageCode(err)
	}
	prog, ok := load(t, o, pos[0])
	if !ok {
		return exitUsage
	}
	if err := engine.Check(prog, storeDir(o, prog), pretrained.CheckWeights, pretrained.CheckTemplate); err != nil {
		reportErrors(t, prog, nil, err)
		return exitUsage
	}
	fmt.Fprintf(t.out, "%s is valid: %s\n", pos[0], plural(countStages(prog)))
	return exitOK
}

func countStages(p *lang.Program) (n int) {
	for _, node := range p.Nodes {
		if node.Stage != nil {
			n++
		}
	}
	return n
}

func runFmt(_ context.Context, t *app, args []string) int {
	o, pos, err := parse(t, "fmt", args, func(fs *flag.FlagSet, o *options) {
		fs.BoolVar(&o.check, "check", false, "change nothing; exit 1 if a file is laid out otherwise")
	})
	if err != nil {
		return usageCode(err)
	}
	paths, err := pipelineFiles(pos)
	if err != nil {
		t.errorf("%v", err)
		return exitUsage
	}
	code := exitOK
	for _, path := range paths {
		src, err := os.ReadFile(path)
		if err != nil {
			t.errorf("%v", err)
			return exitUsage
		}
		if files, diags := lang.CheckSyntax(src, path); diags.HasErrors() {
			t.diagnose(files, diags)
			code = exitUsage
			continue
		}
		out := lang.Format(src)
		if bytes.Equal(src, out) {
			continue
		}
		fmt.Fprintln(t.out, path)
		if o.check {
			code = max(code, exitFailed)
			continue
		}
		if err := replaceFile(path, out); err != nil {
			t.errorf("%v", err)
			return exitFailed
		}
	}
	return code
}

// pipelineFiles puts the *.hcl files of a directory in its place.
func pipelineFiles(args []string) (paths []string, err error) {
	for _, a := range args {
		st, err := os.Stat(a)
		if err != nil {
			return nil, err
		}
		if !st.IsDir() {
			paths = append(paths, a)
			continue
		}
		list, err := os.ReadDir(a)
		if err != nil {
			return nil, err
		}
		n := len(paths)
		for _, e := range list {
			if !e.IsDir() && filepath.Ext(e.Name()) == ".hcl" {
				paths = append(paths, filepath.Join(a, e.Name()))
			}
		}
		if len(paths) == n {
			return nil, fmt.Errorf("%s holds no *.hcl file", a)
		}
	}
	return paths, nil
}

// replaceFile writes path anew under a temporary name, keeping its mode, and
// links as links.
func replaceFile(path string, b []byte) error {
	path, err := filepath.EvalSymlinks(path)
	if err != nil {
		return err
	}
	st, err := os.Stat(path)
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".fmt-")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(b)
	if err := errors.Join(err, f.Chmod(st.Mode().Perm()), f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}

func runGraph(_ context.Context, t *app, args []string) int {
	o, pos, err := parse(t, "graph", args, func(fs *flag.FlagSet, o *options) {
		fs.StringVar(&o.format, "format", "dot", "`FORMAT`: dot, mermaid or json")
	})
	if err != nil {
		return usageCode(err)
	}
	prog, ok := load(t, o, pos[0])
	if !ok {
		return exitUsage
	}
	switch o.format {
	case "dot":
		fmt.Fprintln(t.out, "digraph pipeline {")
		for _, n := range prog.Nodes {
			fmt.Fprintf(t.out, "  %q;\n", n.Addr)
			for _, d := range n.Needs {
				fmt.Fprintf(t.out, "  %q -> %q;\n", d, n.Addr)
			}
		}
		fmt.Fprintln(t.out, "}")
	case "mermaid":
		id := map[string]int{}
		fmt.Fprintln(t.out, "graph TD")
		for i, n := range prog.Nodes {
			id[n.Addr] = i
			fmt.Fprintf(t.out, "  n%d[\"%s\"]\n", i, strings.ReplaceAll(n.Addr, `"`, "#quot;"))
			for _, d := range n.Needs {
				fmt.Fprintf(t.out, "  n%d --> n%d\n", id[d], i)
			}
		}
	case "json":
		type node struct {
			Addr  string   `json:"addr"`
			Type  string   `json:"type"`
			Needs []string `json:"needs"`
		}
		nodes := []node{}
		for _, n := range prog.Nodes {
			nodes = append(nodes, node{n.Addr, n.Type, append([]string{}, n.Needs...)})
		}
		jsonLines(t.out).Encode(map[string]any{"nodes": nodes})
	default:
		t.errorf("--format %s: use dot, mermaid or json", o.format)
		return exitUsage
	}
	return exitOK
}

func runVersion(_ context.Context, t *app, _ []string) int {
	fmt.Fprintln(t.out, "pipe", version())
	return exitOK
}
