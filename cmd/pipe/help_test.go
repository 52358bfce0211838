package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"pipe/runtime/lang"
	"pipe/stages"
)

// ask runs pipe with args and returns what it prints.
func ask(t testing.TB, args ...string) (code int, out, err string) {
	t.Helper()
	var o, e bytes.Buffer
	code = dispatch(context.Background(), &app{&terminal{out: &o, err: &e, width: 100, height: 24}, stages.All}, args)
	return code, o.String(), e.String()
}

// Whatever pipe help lists it also explains: every flag, attribute and output
// with its documentation, on a page with all parts.
func TestHelpExplainsEverythingItLists(t *testing.T) {
	code, all, _ := ask(t, "help")
	if code != exitOK {
		t.Fatal("pipe help fails")
	}
	for _, line := range strings.Split(all, "\n") {
		if len([]rune(line)) > 120 {
			t.Errorf("%q is too long for a terminal", line)
		}
	}
	explain := func(name string, parts []string, words ...string) {
		t.Helper()
		if !strings.Contains(all, "\n  "+name+" ") {
			t.Errorf("pipe help does not list %s", name)
		}
		code, out, err := ask(t, "help", name)
		if code != exitOK || err != "" {
			t.Errorf("pipe help %s: exit code %d, %s", name, code, err)
		}
		rest := "\n" + out
		for _, part := range append([]string{"NAME"}, parts...) {
			_, after, ok := strings.Cut(rest, "\n"+part+"\n    ")
			if !ok {
				t.Errorf("pipe help %s has no part %s with text, or not behind the ones before", name, part)
				continue
			}
			rest = "\n    " + after
		}
		plain := strings.Join(strings.Fields(out), " ")
		for _, w := range words {
			if w = strings.Join(strings.Fields(w), " "); w == "" || !strings.Contains(plain, w) {
				t.Errorf("pipe help %s does not say %q", name, w)
			}
		}
	}
	for _, k := range stages.All {
		parts := []string{"SYNOPSIS", "DESCRIPTION", "ATTRIBUTES", "OUTPUTS", "EXAMPLES", "SEE ALSO"}
		explain(k.Name, parts, append(documented(t, k.Name, lang.Fields(k)), title(k.Doc))...)
		for _, o := range k.Outputs {
			explain(k.Name, nil, k.Name+".NAME", o.Doc)
		}
	}
	for _, b := range blocks() {
		explain(b.name, []string{"DESCRIPTION", "EXAMPLES"}, append(documented(t, b.name, b.fields), title(b.doc))...)
		if !strings.Contains(b.doc, "```hcl") {
			t.Errorf("%s has no example", b.name)
		}
	}
	for _, c := range commands() {
		parts := []string{"SYNOPSIS", "DESCRIPTION", "EXAMPLES", "EXIT CODES", "FILES", "ENVIRONMENT"}
		explain(c.name, parts, c.about, "pipe "+c.name+" "+c.args)
		flags := flagsOf(t.Context(), &app{kinds: stages.All}, c)
		flags.VisitAll(func(f *flag.Flag) {
			_, usage := flag.UnquoteUsage(f)
			explain(c.name, []string{"OPTIONS"}, "--"+f.Name, usage)
		})
		_, want, _ := ask(t, "help", c.name)
		if code, out, _ := ask(t, c.name, "--help"); code != exitOK || out != want {
			t.Errorf("pipe %s --help: exit code %d, %s", c.name, code, out)
		}
	}
}

// documented returns what the help of fields must say.
func documented(t *testing.T, name string, fields []lang.Field) (words []string) {
	for _, f := range fields {
		if f.Doc == "" && !f.Label {
			t.Errorf("%s of %s has no documentation", f.Name, name)
		}
		words = append(words, f.Name+" ("+strings.Split(fieldItem(f).name, " (")[1])
		if f.Doc != "" {
			words = append(words, f.Doc)
		}
		words = append(words, documented(t, name+"."+f.Name, f.Fields)...)
	}
	return words
}

// Sections of commands.md are of commands that there are.
func TestEveryManualIsOfACommand(t *testing.T) {
	for section := range strings.SplitSeq("\n"+commandDocs, "\n# ") {
		name, _, _ := strings.Cut(section, "\n")
		if name != "" && argsOf(name) == "" && !slices.ContainsFunc(commands(), func(c command) bool { return c.name == name }) {
			t.Errorf("commands.md explains %q, which is no command", name)
		}
	}
}

// docs/commands.md is what pipe docs writes. To bring it up to date:
//
//	go run ./cmd/pipe docs --only commands > docs/commands.md
func TestDocsAreCurrent(t *testing.T) {
	code, out, err := ask(t, "docs", "--only", "commands")
	if code != exitOK {
		t.Fatal(err)
	}
	const path = "../../docs/commands.md"
	if b, err := os.ReadFile(path); err != nil || string(b) != out {
		t.Errorf("docs/commands.md is out of date (%v); run: go run ./cmd/pipe docs --only commands > docs/commands.md", err)
	}
}

// The whole reference holds every page, with links that lead to it.
func TestReferenceHoldsEveryPage(t *testing.T) {
	_, out, _ := ask(t, "docs")
	headings := map[string]bool{}
	code := false
	for line := range strings.Lines(out) {
		if strings.HasPrefix(line, "```") {
			code = !code
		}
		if h, ok := strings.CutPrefix(line, "## "); ok && !code {
			headings[anchor(strings.TrimSpace(h))] = true
		}
	}
	links := 0
	for line := range strings.Lines(out) {
		if _, link, ok := strings.Cut(line, "](#"); ok && strings.HasPrefix(line, "* [") {
			links++
			if link, _, _ = strings.Cut(link, ")"); !headings[link] {
				t.Errorf("the link to #%s leads nowhere", link)
			}
		}
	}
	if want := len(stages.All) + len(blocks()) + len(commands()); links != want {
		t.Errorf("it has %d links, want %d", links, want)
	}
}

// A file a page, in Markdown or for man(1).
func TestDocsWritesAFileAPage(t *testing.T) {
	dir := t.TempDir()
	if code, _, err := ask(t, "docs", "-o", dir); code != exitOK {
		t.Fatal(err)
	}
	if code, _, err := ask(t, "docs", "--man", "-o", dir); code != exitOK {
		t.Fatal(err)
	}
	for name, want := range map[string][]string{
		"pipe-run.md":      {"# pipe run: ", "\n## Exit codes\n", "* `--target ADDR`: "},
		"sft.md":           {"# sft: ", "\n## Attributes\n", "* `lr` (number, default "},
		"man1/pipe-run.1":  {".TH PIPE\\-RUN 1\n", ".SH EXIT CODES\n", "\\fB\\-\\-target ADDR\\fR\n"},
		"man5/pipe-data.5": {".TH PIPE\\-DATA 5\n", ".SH ATTRIBUTES\n"},
	} {
		b, err := os.ReadFile(filepath.Join(dir, name))
		for _, w := range want {
			if err != nil || !strings.Contains(string(b), w) {
				t.Errorf("%s does not hold %q (%v)", name, w, err)
			}
		}
	}
	for _, args := range [][]string{{"--man"}, {"--only", "x"}, {"x"}} {
		if code, _, _ := ask(t, append([]string{"docs"}, args...)...); code != exitUsage {
			t.Errorf("%q: exit code %d", args, code)
		}
	}
	// What troff would take for a request or an escape.
	if got := roff(`.x \fB-`); got != `\&.x \efB\-` {
		t.Errorf("roff: %s", got)
	}
}

// Every example of a stage's README is a pipeline, but for the blocks that it
// refers to.
func TestExamplesOfKindsAreValid(t *testing.T) {
	stub := map[string]string{
		"data":    "source = \"./x.jsonl\"",
		"model":   "source = \"embedded://tiny\"",
		"teacher": "provider = \"local\"\nmodel = model.stub",
		"synth":   "teacher = teacher.stub\ndocuments = data.stub\nmethod = \"document_to_dialogue\"\ncount = 1",
		"dedup":   "input = data.stub",
		"mix":     "source \"a\" {\n  input = data.stub\n  weight = 1\n}",
		"pack":    "input = data.stub\nmodel = model.stub\nseq_len = 64",
		"sft":     "base = model.stub\ndata = pack.stub.dataset\nadapter \"lora\" {}",
		"dpo":     "base = model.stub\ndata = data.stub\nadapter \"lora\" {}",
		"eval":    "model = model.stub\nsuite \"license_qa\" {\n  data = data.stub\n}",
		"select":  "from = eval.stub\nmetric = \"a.acc\"",
	}
	for _, k := range stages.All {
		n := 0
		for rest := k.Doc; ; n++ {
			_, code, ok := strings.Cut(rest, "```hcl\n")
			if !ok {
				break
			}
			code, rest, _ = strings.Cut(code, "```")
			src := code
			declared := map[string]bool{}
			for done := false; !done; {
				done = true
				for _, ref := range regexp.MustCompile(`\b([a-z]+)\.([a-z_]+)`).FindAllStringSubmatch(src, -1) {
					head := ref[1] + " \"" + ref[2] + "\" {"
					if body := stub[ref[1]]; body != "" && !declared[ref[0]] && !strings.Contains(src, head) {
						declared[ref[0]], done = true, false
						src += "\n" + head + "\n" + body + "\n}\n"
					}
				}
			}
			_, diags := lang.LoadSource([]byte(src), k.Name+".hcl", t.TempDir(), stages.All, lang.Options{})
			if diags.HasErrors() {
				t.Errorf("%s: %v\n%s", k.Name, diags, src)
			}
		}
		if n == 0 {
			t.Errorf("the README of %s has no example", k.Name)
		}
	}
}

// The examples of the blocks are pipelines, but for the stages they refer to.
func TestBlockExamplesAreValid(t *testing.T) {
	const rest = `
variable "train" {
  default = true
}
data "docs" {
  source = "./x.txt"
}
`
	for _, b := range blocks() {
		_, example, _ := strings.Cut(b.doc, "```hcl\n")
		example, _, _ = strings.Cut(example, "```")
		if b.name == "stage" {
			example = strings.Replace(example, "  # ...", "  base = model.m\n  data = data.docs\n  lr = each.value.lr\n  # ...", 1) +
				rest + "model \"m\" {\n  source = \"./m\"\n}\n"
			example = strings.Replace(example, "data = data.docs", "data = pack.p.dataset", 1) +
				"pack \"p\" {\n  input = data.docs\n  model = model.m\n  seq_len = 64\n}\n"
		}
		dir := t.TempDir()
		switch b.name {
		case "module":
			example += rest
			module := filepath.Join(dir, "modules", "prepare")
			const src = "variable \"rows\" {\n  type = dataset\n}\noutput \"packed\" {\n  value = var.rows\n}\n"
			if err := errors.Join(os.MkdirAll(module, 0o777), os.WriteFile(filepath.Join(module, "main.hcl"), []byte(src), 0o666)); err != nil {
				t.Fatal(err)
			}
		case "output":
			example += rest + "model \"m\" {\n  source = \"./m\"\n}\npack \"train\" {\n  input = data.docs\n  model = model.m\n  seq_len = 64\n}\n"
		}
		if _, diags := lang.LoadSource([]byte(example), b.name+".hcl", dir, stages.All, lang.Options{}); diags.HasErrors() {
			t.Errorf("%s: %v\n%s", b.name, diags, example)
		}
	}
}

func TestSuggestionsAreCloseOrNone(t *testing.T) {
	for _, c := range []struct{ got, want string }{
		{"rnu", ` (did you mean "run"?)`}, {"vaildate", ` (did you mean "validate"?)`}, {"x", ""}, {"deploy", ""}, {"", ""},
	} {
		if got := suggest(c.got, []string{"run", "validate", "ls"}); got != c.want {
			t.Errorf("%q gives %q, want %q", c.got, got, c.want)
		}
	}
}
