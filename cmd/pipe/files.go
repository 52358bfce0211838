package main

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"os"
	"runtime/debug"
	"sort"
	"strings"

	"pipe/runtime/lang"
	"pipe/runtime/stage"
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
	fmt.Fprintf(t.out, "%s is valid: %d stages\n", pos[0], countStages(prog))
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
	code := exitOK
	for _, path := range pos {
		src, err := os.ReadFile(path)
		if err != nil {
			t.errorf("%v", err)
			return exitUsage
		}
		out := lang.Format(src)
		if bytes.Equal(src, out) {
			continue
		}
		fmt.Fprintln(t.out, path)
		if o.check {
			code = exitFailed
			continue
		}
		if err := replaceFile(path, out); err != nil {
			t.errorf("%v", err)
			return exitFailed
		}
	}
	return code
}

// replaceFile writes path anew under a temporary name, keeping its mode.
func replaceFile(path string, b []byte) error {
	st, err := os.Stat(path)
	if err != nil {
		return err
	}
	tmp := path + ".tmp"
	if err := os.WriteFile(tmp, b, st.Mode().Perm()); err != nil {
		return err
	}
	return os.Rename(tmp, path)
}

func runGraph(_ context.Context, t *app, args []string) int {
	o, pos, err := parse(t, "graph", args, func(fs *flag.FlagSet, o *options) {
		fs.StringVar(&o.format, "format", "dot", "dot or mermaid")
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
	default:
		t.errorf("--format %s: use dot or mermaid", o.format)
		return exitUsage
	}
	return exitOK
}

func runVersion(_ context.Context, t *app, _ []string) int {
	version := "(unknown)"
	if bi, ok := debug.ReadBuildInfo(); ok {
		version = bi.Main.Version
		for _, s := range bi.Settings {
			if s.Key == "vcs.revision" && (version == "" || version == "(devel)") {
				version = s.Value
			}
		}
	}
	fmt.Fprintln(t.out, "pipe", version)
	return exitOK
}

func runHelp(_ context.Context, t *app, args []string) int {
	if len(args) == 0 {
		usage(t.out)
		fmt.Fprintln(t.out, "\nStage kinds and blocks:")
		for _, k := range t.kinds {
			fmt.Fprintf(t.out, "  %-10s %s\n", k.Name, firstSentence(k.Doc))
		}
		fmt.Fprintf(t.out, "  %-10s %s\n  %-10s %s\n", "model", "Names a model: weights, tokenizer, chat template.", "teacher", "Names a larger model that answers questions.")
		return exitOK
	}
	name := args[0]
	for _, k := range t.kinds {
		if k.Name == name {
			fmt.Fprintln(t.out, strings.TrimSpace(k.Doc))
			fmt.Fprintf(t.out, "\n## Attributes\n\n")
			writeFields(t, lang.Fields(k), "")
			fmt.Fprintf(t.out, "\n## Outputs\n\n")
			for _, o := range k.Outputs {
				ref := k.Name + ".NAME"
				if o.Name != "" {
					ref += "." + o.Name
				}
				fmt.Fprintf(t.out, "  %s (%s)\n      %s\n", ref, o.Type, o.Doc)
			}
			return exitOK
		}
	}
	switch name {
	case "model":
		writeFields(t, lang.FieldsOf(&stage.ModelBlock{}), "")
		return exitOK
	case "teacher":
		writeFields(t, lang.FieldsOf(stage.NewTeacherConfig()), "")
		return exitOK
	}
	names := []string{"model", "teacher"}
	for _, k := range t.kinds {
		names = append(names, k.Name)
	}
	for _, c := range commands() {
		names = append(names, c.name)
		if c.name == name && name != "help" && name != "version" {
			return c.run(context.Background(), t, []string{"--help"})
		}
	}
	sort.Strings(names)
	t.errorf("there is no stage kind or command %q%s; pipe help lists them", name, suggest(name, names))
	return exitUsage
}

func writeFields(t *app, fields []lang.Field, indent string) {
	for _, f := range fields {
		what := f.Type
		switch {
		case f.Label:
			what = "label"
		case f.Required:
			what += ", required"
		case f.Default != "":
			what += ", default " + f.Default
		}
		if f.Many {
			what += ", any number"
		}
		fmt.Fprintf(t.out, "%s  %s (%s)\n%s      %s\n", indent, f.Name, what, indent, f.Doc)
		writeFields(t, f.Fields, indent+"    ")
	}
}

// firstSentence returns the first sentence of a README after its title.
func firstSentence(doc string) string {
	var text []string
	for _, line := range strings.Split(doc, "\n") {
		line = strings.TrimSpace(line)
		if strings.HasPrefix(line, "#") || line == "" {
			if len(text) > 0 {
				break
			}
			continue
		}
		text = append(text, line)
	}
	s := strings.Join(text, " ")
	if i := strings.Index(s, ". "); i >= 0 {
		s = s[:i+1]
	}
	return s
}
