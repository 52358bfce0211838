package main

import (
	"context"
	_ "embed"
	"flag"
	"fmt"
	"io"
	"slices"
	"sort"
	"strings"

	"pipe/runtime/lang"
	"pipe/runtime/stage"
)

// blockDocs documents the blocks that are no stages: sections that start with
// a line of the form "# NAME: TITLE".
//
//go:embed blocks.md
var blockDocs string

// A block is one of those sections.
type block struct {
	name, doc string
	fields    []lang.Field
}

func blocks() []block {
	var out []block
	for section := range strings.SplitSeq("\n"+blockDocs, "\n# ") {
		name, _, ok := strings.Cut(section, ": ")
		if !ok {
			continue
		}
		b := block{name: name, doc: "# " + section}
		switch name {
		case "pipeline":
			b.fields = lang.PipelineFields()
		case "model":
			b.fields = lang.FieldsOf(&stage.ModelBlock{})
		case "teacher":
			b.fields = lang.FieldsOf(stage.NewTeacherConfig())
		case "stage":
			b.fields = []lang.Field{
				{Name: "retry", Type: "block", Doc: "Start a stage that failed again", Fields: lang.FieldsOf(&lang.Retry{})},
				{Name: "resources", Type: "block", Doc: "What the stage asks of a cluster; without effect in this version, which runs every stage on this machine", Fields: lang.FieldsOf(&lang.Resources{})},
			}
		}
		out = append(out, b)
	}
	return out
}

func runHelp(ctx context.Context, t *app, args []string) int {
	if len(args) == 0 {
		helpAll(t)
		return exitOK
	}
	name := args[0]
	var names []string
	for _, k := range t.kinds {
		if names = append(names, k.Name); k.Name == name {
			helpKind(t, k)
			return exitOK
		}
	}
	for _, b := range blocks() {
		if names = append(names, b.name); b.name == name {
			writeDoc(t.out, b.doc, b.fields)
			return exitOK
		}
	}
	for _, c := range commands() {
		if names = append(names, c.name); c.name == name {
			return helpOf(ctx, t, c)
		}
	}
	if slices.Contains(later(), name) {
		t.errorf("pipe %s is not part of this version; pipe help lists the commands", name)
		return exitUsage
	}
	sort.Strings(names)
	t.errorf("there is no command, stage kind or block %q%s; pipe help lists them", name, suggest(name, names))
	return exitUsage
}

// helpOf explains a command: those that take flags do it themselves.
func helpOf(ctx context.Context, t *app, c command) int {
	if c.name == "help" || c.name == "version" {
		helpCommand(t.out, c.name, flag.NewFlagSet("", flag.ContinueOnError))
		return exitOK
	}
	return c.run(ctx, t, []string{"--help"})
}

func helpAll(t *app) {
	usage(t.out)
	fmt.Fprintln(t.out, "\nStages:")
	for _, k := range t.kinds {
		fmt.Fprintf(t.out, "  %-10s %s\n", k.Name, title(k.Doc))
	}
	fmt.Fprintln(t.out, "\nOther blocks:")
	for _, b := range blocks() {
		fmt.Fprintf(t.out, "  %-10s %s\n", b.name, title(b.doc))
	}
}

func helpKind(t *app, k stage.Kind) {
	writeDoc(t.out, k.Doc, lang.Fields(k))
	fmt.Fprintf(t.out, "\n## References\n\n")
	for _, o := range k.Outputs {
		ref := k.Name + ".NAME"
		if o.Name != "" {
			ref += "." + o.Name
		}
		fmt.Fprintf(t.out, "  %s (%s)\n      %s\n", ref, o.Type, o.Doc)
	}
}

func writeDoc(w io.Writer, doc string, fields []lang.Field) {
	fmt.Fprintln(w, strings.TrimSpace(doc))
	if len(fields) > 0 {
		fmt.Fprintf(w, "\n## Attributes\n\n")
		writeFields(w, fields, "")
	}
}

func writeFields(w io.Writer, fields []lang.Field, indent string) {
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
		fmt.Fprintf(w, "%s  %s (%s)\n%s      %s\n", indent, f.Name, what, indent, f.Doc)
		writeFields(w, f.Fields, indent+"    ")
	}
}

// title returns what the title of a document says after the name.
func title(doc string) string {
	line, _, _ := strings.Cut(strings.TrimSpace(doc), "\n")
	if _, t, ok := strings.Cut(line, ": "); ok {
		return t
	}
	return strings.TrimPrefix(line, "# ")
}

// helpCommand explains a command and its flags.
func helpCommand(w io.Writer, name string, fs *flag.FlagSet) {
	for _, c := range commands() {
		if c.name == name {
			fmt.Fprintf(w, "pipe %s: %s.\n", strings.TrimSpace(c.name+" "+c.args), c.about)
		}
	}
	first := true
	fs.VisitAll(func(f *flag.Flag) {
		if first {
			fmt.Fprintln(w)
			first = false
		}
		arg, usage := flag.UnquoteUsage(f)
		fmt.Fprintf(w, "  --%-22s %s\n", strings.TrimSpace(f.Name+" "+arg), usage)
	})
}
