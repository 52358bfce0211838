package main

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"pipe/runtime/lang"
	"pipe/stages"
)

// ask runs pipe with args and returns what it prints.
func ask(t *testing.T, args ...string) (code int, out, err string) {
	t.Helper()
	var o, e bytes.Buffer
	code = dispatch(context.Background(), &app{&terminal{out: &o, err: &e, width: 100, height: 24}, stages.All}, args)
	return code, o.String(), e.String()
}

// Whatever pipe help lists it also explains: every flag, attribute and output
// with its documentation.
func TestHelpExplainsEverythingItLists(t *testing.T) {
	code, all, _ := ask(t, "help")
	if code != exitOK {
		t.Fatal("pipe help fails")
	}
	explain := func(name string, words ...string) {
		t.Helper()
		if !strings.Contains(all, "\n  "+name+" ") {
			t.Errorf("pipe help does not list %s", name)
		}
		code, out, err := ask(t, "help", name)
		if code != exitOK || err != "" {
			t.Errorf("pipe help %s: exit code %d, %s", name, code, err)
		}
		for _, w := range words {
			if w == "" || !strings.Contains(out, w) {
				t.Errorf("pipe help %s does not say %q", name, w)
			}
		}
	}
	for _, k := range stages.All {
		explain(k.Name, strings.TrimSpace(k.Doc))
		fieldsAreExplained(t, k.Name, lang.Fields(k))
		for _, o := range k.Outputs {
			explain(k.Name, k.Name+".NAME", o.Doc)
		}
	}
	for _, b := range blocks() {
		explain(b.name, strings.TrimSpace(b.doc), "```hcl")
		fieldsAreExplained(t, b.name, b.fields)
	}
	for _, c := range commands() {
		explain(c.name, c.about)
		if code, out, _ := ask(t, c.name, "--help"); code != exitOK || !strings.Contains(out, c.about) {
			t.Errorf("pipe %s --help: exit code %d, %s", c.name, code, out)
		}
	}
	for _, line := range strings.Split(all, "\n") {
		if len([]rune(line)) > 120 {
			t.Errorf("%q is too long for a terminal", line)
		}
	}
}

func fieldsAreExplained(t *testing.T, name string, fields []lang.Field) {
	t.Helper()
	_, out, _ := ask(t, "help", name)
	for _, f := range fields {
		if f.Doc == "" && !f.Label {
			t.Errorf("%s of %s has no documentation", f.Name, name)
		}
		if !strings.Contains(out, "  "+f.Name+" (") || !strings.Contains(out, f.Doc) {
			t.Errorf("pipe help %s does not explain %s", name, f.Name)
		}
		fieldsAreExplained(t, name, f.Fields)
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
