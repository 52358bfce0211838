package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"slices"
	"strings"

	"pipe/runtime/lang"
	"pipe/runtime/stage"
)

// A page explains one command, stage kind or block, with the parts of a manual
// page. It is written to a terminal, as Markdown and as a manual page.
type page struct {
	name, about string
	section     int // of the manual: 1 commands, 5 what stands in pipeline files
	parts       []part
}

// A part is what stands under one heading: Markdown, then items.
type part struct {
	title string // "EXIT CODES"
	body  string
	items []item
}

// An item is a flag, an attribute, a block, an output, a variable or a file.
type item struct {
	name, doc string // name may end in what stands in parentheses
	items     []item
}

func (p *page) add(title, body string, items ...item) {
	if body = strings.Trim(body, "\n"); body != "" || len(items) > 0 {
		p.parts = append(p.parts, part{title, body, items})
	}
}

// kindPage is the page of a stage kind.
func kindPage(k stage.Kind) page {
	p := page{name: k.Name, about: title(k.Doc), section: 5}
	fields := lang.Fields(k)
	p.add("SYNOPSIS", fence(k.Name+" \"NAME\" {\n"+synopsis(fields, "  ")+"}"))
	p.describe(k.Doc)
	p.fields(fields)
	var outs []item
	for _, o := range k.Outputs {
		ref := k.Name + ".NAME"
		if o.Name != "" {
			ref += "." + o.Name
		}
		outs = append(outs, item{name: fmt.Sprintf("%s (%s)", ref, o.Words()), doc: o.Doc})
	}
	p.add("OUTPUTS", "", outs...)
	p.example(k.Doc)
	p.add("SEE ALSO", "`pipe help stage` has what every stage may hold: for_each, when, depends_on, retry, resources, checkpoint.")
	return p
}

// blockPage is the page of another block.
func blockPage(b block) page {
	p := page{name: b.name, about: title(b.doc), section: 5}
	p.describe(b.doc)
	p.fields(b.fields)
	p.example(b.doc)
	return p
}

// fields adds the parts ATTRIBUTES and BLOCKS.
func (p *page) fields(fields []lang.Field) {
	var attrs, blocks []item
	for _, f := range fields {
		if f.Type == "block" {
			blocks = append(blocks, fieldItem(f))
		} else {
			attrs = append(attrs, fieldItem(f))
		}
	}
	p.add("ATTRIBUTES", "", attrs...)
	p.add("BLOCKS", "", blocks...)
}

func fieldItem(f lang.Field) item {
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
	it := item{name: fmt.Sprintf("%s (%s)", f.Name, what), doc: f.Doc}
	for _, sub := range f.Fields {
		it.items = append(it.items, fieldItem(sub))
	}
	return it
}

// synopsis lists what a block may hold; what is optional stands in brackets.
func synopsis(fields []lang.Field, indent string) string {
	var b strings.Builder
	width := 0
	for _, f := range fields {
		if f.Type != "block" && !f.Label {
			width = max(width, len(f.Name))
		}
	}
	for _, f := range fields {
		switch {
		case f.Label:
		case f.Type == "block":
			head := f.Name
			for _, sub := range f.Fields {
				if sub.Label {
					head += ` "` + strings.ToUpper(sub.Name) + `"`
				}
			}
			if f.Many {
				head += " { ... } ..."
			} else {
				head += " { ... }"
			}
			fmt.Fprintf(&b, "%s[%s]\n", indent, head)
		case f.Required:
			fmt.Fprintf(&b, "%s%-*s = %s\n", indent, width+1, f.Name, strings.ToUpper(f.Type))
		default:
			fmt.Fprintf(&b, "%s[%-*s = %s]\n", indent, width, f.Name, strings.ToUpper(f.Type))
		}
	}
	return b.String()
}

func fence(code string) string { return "```hcl\n" + strings.TrimSuffix(code, "\n") + "\n```" }

// describe adds the part DESCRIPTION: a document without its title and its
// examples, which have a part of their own.
func (p *page) describe(doc string) {
	_, body, _ := strings.Cut(strings.TrimSpace(doc), "\n")
	body, _, _ = cutSection(body, "Example")
	p.add("DESCRIPTION", strings.TrimSpace(body))
}

// example adds the part EXAMPLES: the section of that name, else the code of the
// document, which its description explains.
func (p *page) example(doc string) {
	if _, section, ok := cutSection(doc, "Example"); ok {
		p.add("EXAMPLES", strings.TrimSpace(section))
		return
	}
	var codes []string
	for rest := doc; ; {
		_, code, ok := strings.Cut(rest, "```hcl\n")
		if !ok {
			break
		}
		code, rest, _ = strings.Cut(code, "```")
		codes = append(codes, fence(code))
	}
	p.add("EXAMPLES", strings.Join(codes, "\n\n"))
}

// cutSection takes the section whose heading starts with name out of a document.
func cutSection(doc, name string) (rest, section string, ok bool) {
	before, after, ok := strings.Cut("\n"+doc, "\n## "+name)
	if !ok {
		return doc, "", false
	}
	_, after, _ = strings.Cut(after, "\n")
	section, more, next := strings.Cut(after, "\n## ")
	if next {
		before += "\n## " + more
	}
	return strings.TrimPrefix(before, "\n"), section, true
}

// commandPage is the page of a command, from its section in commands.md and
// from its flags.
func commandPage(ctx context.Context, t *app, c command) page {
	p := page{name: c.name, about: c.about, section: 1}
	fs := flagsOf(ctx, t, c)
	text := manual(c.name)
	var options []item
	fs.VisitAll(func(f *flag.Flag) {
		arg, usage := flag.UnquoteUsage(f)
		name := strings.TrimSpace("--" + f.Name + " " + arg)
		if f.DefValue != "" && f.DefValue != "0" && f.DefValue != "false" {
			usage += " (default: " + f.DefValue + ")"
		}
		options = append(options, item{name: name, doc: usage})
	})
	line := strings.TrimSpace("pipe " + c.name + " " + c.args)
	if len(options) > 0 {
		line += " [FLAGS]"
	}
	p.add("SYNOPSIS", "```sh\n"+line+"\n```")
	description, sections := text, map[string]string{}
	for _, s := range []string{"Examples", "Exit codes", "Files", "Environment"} {
		var section string
		description, section, _ = cutSection(description, s)
		sections[s] = strings.TrimSpace(section)
	}
	p.add("DESCRIPTION", strings.TrimSpace(description))
	p.add("OPTIONS", "", options...)
	p.add("EXAMPLES", sections["Examples"])
	p.add("EXIT CODES", or(sections["Exit codes"], exitCodes(fs)))
	p.add("FILES", sections["Files"], files(fs)...)
	p.add("ENVIRONMENT", sections["Environment"], environment(fs)...)
	return p
}

func or(s, otherwise string) string {
	if s == "" {
		return otherwise
	}
	return s
}

// flagsOf returns the flags of a command, which sets them up when it parses its
// arguments; none of a command that takes none.
func flagsOf(ctx context.Context, t *app, c command) *flag.FlagSet {
	got := flag.NewFlagSet(c.name, flag.ContinueOnError)
	if !slices.Contains([]string{"help", "version"}, c.name) {
		quiet := &terminal{out: io.Discard, err: io.Discard, help: func(fs *flag.FlagSet) { got = fs }}
		c.run(ctx, &app{terminal: quiet, kinds: t.kinds}, []string{"--help"})
	}
	return got
}

func has(fs *flag.FlagSet, name string) bool { return fs.Lookup(name) != nil }

// exitCodes are those of a command that says nothing else in commands.md.
func exitCodes(fs *flag.FlagSet) string {
	switch {
	case has(fs, "store"):
		return "0 done; 1 it failed; 2 wrong usage, or an error in the pipeline file; 130 interrupted."
	case has(fs, "var"):
		return "0 done; 2 wrong usage, or an error in the pipeline file."
	}
	return "0 done; 2 wrong usage."
}

// files are those that a command reads or writes, by the flags that it has.
func files(fs *flag.FlagSet) (out []item) {
	if has(fs, "var") {
		out = append(out, item{name: "*.hcl", doc: "The pipeline: one file, or all in a directory"})
	}
	if has(fs, "store") {
		out = append(out, item{name: ".pipe/", doc: "The artifact store, beside the pipeline file unless --store or PIPE_STORE say otherwise: what stages made, journals of teachers' answers, checkpoints, notes of runs, downloaded and extracted models"},
			item{name: ".pipe/pipe.log", doc: "The log of all runs, JSON lines"})
	}
	if len(out) == 0 {
		out = append(out, item{name: "none", doc: "Nothing but what is named"})
	}
	return out
}

// environment lists the variables that a command honours, by the flags it has.
func environment(fs *flag.FlagSet) []item {
	out := []item{{name: "NO_COLOR, TERM", doc: "With NO_COLOR set, or TERM=dumb, nothing is coloured or redrawn"}}
	if has(fs, "var") {
		out = append(out, item{name: "PIPE_VAR_NAME", doc: "The value of the variable NAME, unless --var or --var-file give it"})
	}
	if has(fs, "store") {
		out = append(out, item{name: "PIPE_STORE", doc: "The directory of the artifact store, unless --store names one"},
			item{name: "HF_ENDPOINT, HF_TOKEN, HF_HOME, HF_HUB_CACHE, HF_HUB_OFFLINE", doc: "Where models of the hub come from and are kept, as for Hugging Face's own libraries"})
	}
	if has(fs, "device") {
		out = append(out, item{name: "PIPE_CPU", doc: "generic, avx2 or avx512: the most of the processor that is used"})
	}
	return out
}
