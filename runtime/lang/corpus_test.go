package lang

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/hashicorp/hcl/v2"

	"pipe/runtime/stage"
)

// elsewhere lists diagnostics that no file of testdata/errors can give, by the
// beginning of their text, with the test that sees them.
var elsewhere = map[string]string{
	"%s; name a pipeline file or a directory": "TestLoadErrorsWithoutPosition",
	"Cannot read the pipeline":                "TestLoadErrorsWithoutPosition",
	"Cannot read the variables":               "TestLoadErrorsWithoutPosition",
	"is larger than %d MiB":                   "TestLargeFilesAreRefused",
	"The values of this pipeline hold":        "TestDoublingIsBounded",
	"%s has no outputs.":                      "TestErrorsOfOtherKinds",
	"checkpoint.%s says the same as":          "TestErrorsOfOtherKinds",
	"--var %s: the pipeline declares":         "TestLoadErrorsWithoutPosition",
	"--var-file %s is a file of the pipeline": "TestLoadErrorsWithoutPosition",
	"A file of variables holds lines":         "TestVarFileErrors",
	"The pipeline declares no variable %q":    "TestVarFileErrors",
	"Variable %q%s: %s":                       "TestVariableErrorsFromOutside",
	"Variable %q takes an expression":         "TestVariableErrorsFromOutside",
	"%s has no metric %q.%s":                  "TestEvalGate",
	"%s.metrics[%q] is NaN":                   "TestEvalGate",
	"the environment variable %s is not set":  "TestFunctionsRefuse",
	"%s lies outside of what was fetched":     "TestFetchedModulesStayInside",
	"journal lies outside of what was":        "TestFetchedModulesStayInside",
	"%s is a link out of what was fetched":    "TestFetchedModulesStayInside",
	"A fetched module does not know where":    "TestFetchedModulesStayInside",
	"Modules are nested at most %d deep":      "TestTooManyModules",
}

// Every diagnostic that this package can give occurs in testdata/errors, on the
// line that it is about: what the source passes to errorAt and its kin is
// looked for among what loading these files gives.
func TestEveryDiagnosticIsInTheCorpus(t *testing.T) {
	var said []string
	files, err := filepath.Glob("testdata/errors/*.hcl")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range files {
		_, diags := Load(name, fakeKinds(), Options{})
		for _, d := range diags {
			said = append(said, d.Summary+"\n"+d.Detail)
		}
	}
	used := map[string]bool{}
	for format, at := range diagnosticFormats(t) {
		known := false
		for start := range elsewhere {
			if strings.HasPrefix(format, start) {
				used[start], known = true, true
			}
		}
		pattern := regexp.MustCompile(`(?s)` + verb.ReplaceAllString(regexp.QuoteMeta(format), `.*`))
		for _, s := range said {
			known = known || pattern.MatchString(s)
		}
		if !known {
			t.Errorf("%s: no file of testdata/errors gives %q", at, format)
		}
	}
	for start, test := range elsewhere {
		if !used[start] {
			t.Errorf("no diagnostic begins with %q, which %s is said to see", start, test)
		}
	}
}

var verb = regexp.MustCompile(`%[sqvdw]`)

// diagnosticFormats returns the formats of all diagnostics, and where they are.
func diagnosticFormats(t *testing.T) map[string]string {
	t.Helper()
	formats := map[string]string{}
	set := token.NewFileSet()
	sources, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range sources {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		f, err := parser.ParseFile(set, name, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(f, func(n ast.Node) bool {
			call, ok := n.(*ast.CallExpr)
			if !ok || !gives[calledName(call)] {
				return true
			}
			longest := "" // of the literals: a summary is shorter than its detail
			for _, a := range call.Args {
				if lit, ok := a.(*ast.BasicLit); ok && lit.Kind == token.STRING {
					if s, err := strconv.Unquote(lit.Value); err == nil && len(s) > len(longest) {
						longest = s
					}
				}
			}
			if len(verb.ReplaceAllString(longest, "")) > 8 {
				formats[longest] = set.Position(call.Pos()).String()
			}
			return true
		})
	}
	if len(formats) < 80 {
		t.Fatalf("found only %d formats", len(formats))
	}
	return formats
}

// gives are the functions that make diagnostics, or errors that become some.
var gives = map[string]bool{"errorAt": true, "fail": true, "bad": true, "NewArgErrorf": true, "Errorf": true, "New": true}

func calledName(c *ast.CallExpr) string {
	switch f := c.Fun.(type) {
	case *ast.Ident:
		return f.Name
	case *ast.SelectorExpr:
		return f.Sel.Name
	}
	return ""
}

func TestVarFileErrors(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "x.vars")
	if err := os.WriteFile(path, []byte("rank = 8\nrnak = 8\nblock {}\nbad = 1 + true\n"), 0o666); err != nil {
		t.Fatal(err)
	}
	src := "variable \"rank\" {\n  default = 1\n}\nvariable \"bad\" {\n  default = 1\n}\n"
	_, diags := LoadSource([]byte(src), "t.hcl", dir, nil, Options{VarFiles: []string{path}})
	expectDiagnostics(t, diags, "2 Unknown variable: Did you mean rank?", "3 Unknown block: NAME = VALUE", "4 Invalid operand: ")
}

func TestVariableErrorsFromOutside(t *testing.T) {
	src := "variable \"n\" {\n  type = number\n}\nvariable \"l\" {\n  type = list(number)\n}\nvariable \"deep\" {\n  type = list(number)\n}\n"
	deep := strings.Repeat("[", 2000) + strings.Repeat("]", 2000)
	_, diags := LoadSource([]byte(src), "t.hcl", ".", nil, Options{Vars: map[string]string{"n": "many", "l": "[1, ", "deep": deep}})
	expectDiagnostics(t, diags, `1 Wrong type: Variable "n" takes a number`, `4 Invalid value: Variable "l" takes an expression, such as [1, 2]`, `7 Invalid value: Variable "deep"`)
}

// What no kind of the corpus can have wrong.
func TestErrorsOfOtherKinds(t *testing.T) {
	kinds := append(fakeKinds(),
		stage.Kind{Name: "silent", New: func() stage.Stage { return &dataSpec{} }},
		stage.Kind{Name: "long", New: func() stage.Stage { return &longSpec{} }})
	src := `silent "s" { source = "x" }
data "d" {
  source = silent.s.rows
}
long "l" {
  checkpoint_every = 5
  checkpoint {
    every = 6
  }
}
`
	_, diags := LoadSource([]byte(src), "t.hcl", ".", kinds, Options{})
	expectDiagnostics(t, diags, "3 Unknown output: silent.s has no outputs.", "8 Duplicate attribute: checkpoint.every says the same as checkpoint_every")
}

type longSpec struct {
	noRun
	Every int `hcl:"checkpoint_every,optional" doc:"Steps between checkpoints"`
	Limit int `hcl:"save_total_limit,optional" doc:"How many to keep"`
}

func (*longSpec) Check() error { return nil }

// Each local doubles the one before: the 64th would have 2^64 bytes.
func TestDoublingIsBounded(t *testing.T) {
	var b strings.Builder
	b.WriteString("locals {\n  x0 = \"0123456789abcdef\"\n")
	for i := range 63 {
		fmt.Fprintf(&b, "  x%d = \"${local.x%d}${local.x%d}\"\n", i+1, i, i)
	}
	b.WriteString("}\n")
	_, diags := LoadSource([]byte(b.String()), "t.hcl", ".", nil, Options{})
	if len(diags) != 1 || diags[0].Summary != "Too large" || !strings.Contains(diags[0].Detail, "hold more than 64 MiB") {
		t.Errorf("got %v", diags)
	}
}

// Loops over what real recipes hold are not refused.
func TestOrdinaryLoopsAreFine(t *testing.T) {
	text := strings.Repeat("a line of a prompt that is as long as many are\n", 40_000)
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "prompts.txt"), []byte(text), 0o666); err != nil {
		t.Fatal(err)
	}
	src := `locals {
  text    = file("prompts.txt")
  lines   = slice(split("\n", local.text), 0, 1000)
  upper   = [for l in local.lines : upper(l) if l != ""]
  numbers = { for i, l in local.lines : i => "${i}: ${l}" }
  pairs   = flatten([for i in range(0, 100) : [for j in range(0, 100) : "${i},${j}"]])
  direct  = [for l in split("\n", file("prompts.txt")) : trimspace(l)]
}
`
	if _, diags := LoadSource([]byte(src), "t.hcl", dir, nil, Options{}); diags.HasErrors() {
		t.Error(diags)
	}
}

func TestLargeFilesAreRefused(t *testing.T) {
	path := filepath.Join(t.TempDir(), "large.hcl")
	if err := os.WriteFile(path, nil, 0o666); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, maxFile+1); err != nil {
		t.Fatal(err)
	}
	if _, diags := Load(path, nil, Options{}); len(diags) != 1 || !strings.Contains(diags[0].Detail, "is larger than 16 MiB") {
		t.Errorf("got %v", diags)
	}
}

// expectDiagnostics wants these, each written as: LINE SUMMARY: PART OF DETAIL.
func expectDiagnostics(t *testing.T, diags hcl.Diagnostics, want ...string) {
	t.Helper()
	if len(diags) != len(want) {
		t.Errorf("got %d diagnostics, want %d: %v", len(diags), len(want), diags)
		return
	}
	for i, d := range diags {
		head, detail, _ := strings.Cut(want[i], ": ")
		if got := fmt.Sprint(d.Subject.Start.Line, " ", d.Summary); got != head || !strings.Contains(d.Detail, detail) {
			t.Errorf("got %s: %s\nwant %s", got, d.Detail, want[i])
		}
	}
}
