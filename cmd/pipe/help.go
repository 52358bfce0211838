package main

import (
	"context"
	_ "embed"
	"fmt"
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
			t.explain(kindPage(k))
			return exitOK
		}
	}
	for _, b := range blocks() {
		if names = append(names, b.name); b.name == name {
			t.explain(blockPage(b))
			return exitOK
		}
	}
	for _, c := range commands() {
		if names = append(names, c.name); c.name == name {
			return helpOf(ctx, t, c)
		}
	}
	sort.Strings(names)
	t.errorf("there is no command, stage kind or block %q%s; pipe help lists them", name, suggest(name, names))
	return exitUsage
}

// explain prints a page.
func (t *terminal) explain(p page) { p.writeText(t.out, t.outInk, t.width) }

// helpOf explains a command.
func helpOf(ctx context.Context, t *app, c command) int {
	t.explain(commandPage(ctx, t, c))
	return exitOK
}

// helpCommand explains the command of that name.
func helpCommand(t *app, name string) {
	for _, c := range commands() {
		if c.name == name {
			helpOf(context.Background(), t, c)
		}
	}
}

// commandDocs describes the commands: sections that start with a line of the
// form "# NAME".
//
//go:embed commands.md
var commandDocs string

// manual returns the section of a command in commands.md, without its title.
func manual(name string) string {
	_, after, ok := strings.Cut("\n"+commandDocs, "\n# "+name+"\n")
	if !ok {
		return ""
	}
	section, _, _ := strings.Cut(after, "\n# ")
	return strings.TrimSpace(section)
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

// title returns what the title of a document says after the name.
func title(doc string) string {
	line, _, _ := strings.Cut(strings.TrimSpace(doc), "\n")
	if _, t, ok := strings.Cut(line, ": "); ok {
		return t
	}
	return strings.TrimPrefix(line, "# ")
}
