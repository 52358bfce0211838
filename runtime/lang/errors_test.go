package lang

import (
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/hashicorp/hcl/v2"
)

// TestErrors loads every file of testdata/errors; below its modules directory
// are the modules that these files use. Each line lists the summaries of the
// diagnostics that start on it, and optionally a part of the detail:
// # ERROR: Summary | part of the detail. No other diagnostic may occur.
func TestErrors(t *testing.T) {
	files, err := filepath.Glob("testdata/errors/*.hcl")
	if err != nil || len(files) < 15 {
		t.Fatalf("found %d files, error %v", len(files), err)
	}
	loaded := map[string]bool{}
	for _, name := range files {
		p, diags := Load(name, fakeKinds(), Options{})
		for file := range p.Files {
			loaded[file] = true
		}
		t.Run(strings.TrimSuffix(filepath.Base(name), ".hcl"), func(t *testing.T) {
			checkErrors(t, p, diags)
			if t.Failed() {
				t.Logf("all diagnostics:\n%s", render(p.Files, diags))
			}
		})
	}
	err = filepath.WalkDir("testdata/errors/modules", func(path string, _ fs.DirEntry, err error) error {
		if filepath.Ext(path) == ".hcl" && !loaded[path] {
			t.Errorf("no file of testdata/errors uses %s", path)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

type expectation struct {
	file            string
	line            int
	summary, detail string
}

// checkErrors compares diagnostics with what all files that were loaded expect.
func checkErrors(t *testing.T, p *Program, diags hcl.Diagnostics) {
	t.Helper()
	var want []expectation
	for name, f := range p.Files {
		for i, line := range strings.Split(string(f.Bytes), "\n") {
			_, rest, _ := strings.Cut(line, "# ERROR: ")
			for part := range strings.SplitSeq(rest, "# ERROR: ") {
				if summary, detail, _ := strings.Cut(part, "|"); summary != "" {
					want = append(want, expectation{name, i + 1, strings.TrimSpace(summary), strings.TrimSpace(detail)})
				}
			}
		}
	}
	if len(want) == 0 {
		t.Fatal("the files expect no error")
	}
	for _, d := range diags {
		if d.Subject == nil {
			t.Errorf("a diagnostic has no position: %s", d.Error())
			continue
		}
		i := slices.IndexFunc(want, func(w expectation) bool {
			return w.file == d.Subject.Filename && w.line == d.Subject.Start.Line && w.summary == d.Summary && strings.Contains(d.Detail, w.detail)
		})
		if i < 0 {
			t.Errorf("unexpected: %s", d.Error())
			continue
		}
		want = slices.Delete(want, i, i+1)
	}
	for _, w := range want {
		t.Errorf("missing: %s:%d: %s | %s", w.file, w.line, w.summary, w.detail)
	}
}

// The message as a whole, once: position, block, source line, carets, advice.
func TestWriteDiagnostics(t *testing.T) {
	src := "data \"docs\" { source = \"./docs\" }\n\ndedup \"clean\" {\n\tinput = data.dosc\n}\n"
	p, diags := LoadSource([]byte(src), "legal.hcl", ".", fakeKinds(), Options{})
	const want = `Error: Undeclared reference
  at legal.hcl:4,10-19, in dedup "clean"
    4 | 	input = data.dosc
      | 	        ^^^^^^^^^
  There is no data.dosc. Did you mean data.docs?
`
	if got := render(p.Files, diags); got != want {
		t.Errorf("got:\n%s\nwant:\n%s", got, want)
	}
}

func TestWriteDiagnosticsWrapsAndColours(t *testing.T) {
	var b strings.Builder
	diags := hcl.Diagnostics{
		{Severity: hcl.DiagError, Summary: "One", Detail: "word word word word word word word"},
		{Severity: hcl.DiagWarning, Summary: "Two"},
	}
	if err := WriteDiagnostics(&b, nil, diags, true, 24); err != nil {
		t.Fatal(err)
	}
	want := "\x1b[1;31mError\x1b[0m: One\n  word word word word\n  word word word\n\n\x1b[1;33mWarning\x1b[0m: Two\n"
	if b.String() != want {
		t.Errorf("got %q\nwant %q", b.String(), want)
	}
}

// Ranges that lie outside of the file, as a file edited meanwhile would make
// them, do not panic.
func TestWriteDiagnosticsOutside(t *testing.T) {
	for _, start := range []int{-1, 3, 4, 99} {
		f := map[string]*hcl.File{"f": {Bytes: []byte("a\nb")}}
		r := hcl.Range{Filename: "f", Start: hcl.Pos{Line: 2, Column: 1, Byte: start}, End: hcl.Pos{Line: 2, Column: 9, Byte: start + 50}}
		if got := render(f, hcl.Diagnostics{errorAt(r, "S", "d")}); !strings.HasPrefix(got, "Error: S\n") {
			t.Errorf("start %d: got %q", start, got)
		}
	}
}

func TestLoadErrorsWithoutPosition(t *testing.T) {
	dir := t.TempDir()
	for _, tc := range []struct {
		path, want string
		opts       Options
	}{
		{filepath.Join(dir, "none.hcl"), "none.hcl: no such file", Options{}},
		{dir, "holds no *.hcl file", Options{}},
		{"testdata/legal.hcl", "--var bsae: the pipeline declares no variable \"bsae\". Did you mean base?", Options{Vars: map[string]string{"bsae": "x"}}},
		{"testdata/legal.hcl", "--var-file none.vars: no such file", Options{VarFiles: []string{"none.vars"}}},
		{"testdata/legal.hcl", "is a file of the pipeline itself", Options{VarFiles: []string{"testdata/legal.hcl"}}},
	} {
		_, diags := Load(tc.path, fakeKinds(), tc.opts)
		if len(diags) != 1 || !strings.Contains(diags[0].Detail, tc.want) {
			t.Errorf("%s: got %v, want %q", tc.path, diags, tc.want)
		}
	}
}

// Where a sweep makes the same mistake in each instance, it is said once.
func TestErrorsOfInstancesAreSaidOnce(t *testing.T) {
	src := `data "docs" { source = "x" }
dedup "d" {
  for_each = toset(["a", "b", "c"])
  input    = data.docs
  treshold = 1
}`
	_, diags := LoadSource([]byte(src), "t.hcl", ".", fakeKinds(), Options{})
	if len(diags) != 1 {
		t.Errorf("got %d diagnostics, want 1: %v", len(diags), diags)
	}
}

func TestClosest(t *testing.T) {
	for _, tc := range []struct{ given, want string }{
		{"treshold", "threshold"},
		{"lr", ""},
		{"input", ""}, // the name itself is no suggestion
		{"inptu", "input"},
		{strings.Repeat("x", 1000), ""},
		{"", ""},
	} {
		if got := closest(tc.given, []string{"threshold", "input", "base"}); got != tc.want {
			t.Errorf("closest(%q) = %q, want %q", tc.given, got, tc.want)
		}
	}
	if got := list(strings.Fields("l k j i h g f e d c b a")); got != fmt.Sprint("a, b, c, d, e, f, g, h, i, j and 2 more") {
		t.Errorf("list: got %q", got)
	}
}

// A recipe from elsewhere, or an error that quotes one, must not drive the
// terminal it is shown on.
func TestDiagnosticsHoldNoEscapes(t *testing.T) {
	src := "data \"a\" {\n\ttxt = \"\x1b[31m\u009b31m\u202e\" # \x07\n}\n"
	p, diags := LoadSource([]byte(src), "esc.hcl", t.TempDir(), fakeKinds(), Options{})
	diags = append(diags, &hcl.Diagnostic{Severity: hcl.DiagError, Summary: "Bad \x1b]0;title\x07", Detail: "one\x1b[2J\ntwo\u2066"})
	text := render(p.Files, diags)
	for _, r := range text {
		if r != '\n' && r != '\t' && (r < ' ' || r >= 0x7f && r < 0xa0 || r == 0x202e || r == 0x2066) {
			t.Errorf("%q is in %q", r, text)
		}
	}
	for _, want := range []string{"    2 | \ttxt = \"·[31m·31m·\" # ·\n      | \t^^^\n", "Bad ·]0;title·\n", "  one·[2J\n  two·\n"} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is not in\n%s", want, text)
		}
	}
}
