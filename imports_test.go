package pipe_test

import (
	"go/parser"
	"go/token"
	"io/fs"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// allow is the drawing of docs/architecture.md as a table: what each package,
// and the packages below it, may import from this module. The longest match
// counts; a package may always import itself and what lies below it.
var allow = map[string]string{
	"tensor":            "",
	"tensor/quant":      "tensor",
	"tensor/cpu":        "tensor tensor/quant",
	"tensor/tensortest": "tensor",
	"gpu":               "tensor",
	"gpu/cux":           "",
	"gpu/dl":            "",
	"text":              "",
	"teacher":           "",
	"teacher/local":     "teacher text model tensor",
	"teacher/dial":      "teacher text model tensor",
	"model":             "tensor text",
	"train":             "tensor model text",
	"runtime/fsys":      "",
	"runtime/artifact":  "runtime/fsys",
	"runtime/stage":     "runtime/artifact tensor",
	"runtime/dag":       "",
	"runtime/lang":      "runtime/artifact runtime/stage runtime/dag",
	"runtime/engine":    "runtime/artifact runtime/stage runtime/dag runtime/lang tensor",
	"runtime/compare":   "runtime/artifact",
	"runtime/report":    "runtime/artifact runtime/compare runtime/engine runtime/lang", // it shows a run of a program
	"runtime/checkout":  "runtime/artifact",                                             // digests
	"runtime/lock":      "runtime/artifact",                                             // digests
	"runtime/bundle":    "runtime/artifact",                                             // digests
	"stages/*":          "runtime/artifact runtime/stage tensor text teacher model train",
	"stages":            "runtime/stage stages/*",
	"cmd/pipe":          "runtime stages tensor gpu model",
	"pipelines":         "text",
	"bench/cuda":        "tensor model train gpu",
	"bench":             "tensor text model train stages runtime/artifact", // bench/kill reads what killed runs published
}

// TestImports holds the table against the files themselves, which it parses:
// the go command would answer from the test cache when only the imports of
// other packages changed.
func TestImports(t *testing.T) {
	err := filepath.WalkDir(".", func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			if n := d.Name(); p != "." && (strings.HasPrefix(n, ".") || n == "testdata" || p == "out") {
				return fs.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(p, ".go") || strings.HasSuffix(p, "_test.go") {
			return nil
		}
		pkg := path.Dir(filepath.ToSlash(p))
		rule, ok := ruleFor(pkg)
		if !ok {
			t.Errorf("%s: package %s has no line in the import table", p, pkg)
			return nil
		}
		f, err := parser.ParseFile(token.NewFileSet(), p, nil, parser.ImportsOnly)
		if err != nil {
			return err
		}
		for _, s := range f.Imports {
			imp, _ := strconv.Unquote(s.Path.Value)
			imp, ours := strings.CutPrefix(imp, "pipe/")
			if ours && !under(imp, pkg) && !allowed(rule, imp) {
				t.Errorf("%s: %s must not import %s", p, pkg, imp)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func ruleFor(pkg string) (string, bool) {
	if s, ok := strings.CutPrefix(pkg, "stages/"); ok {
		own, _, _ := strings.Cut(s, "/")
		return allow["stages/*"] + " stages/" + own, true
	}
	for p := pkg; p != "."; p = path.Dir(p) {
		if r, ok := allow[p]; ok {
			return r + " " + p, true
		}
	}
	return "", false
}

func allowed(rule, imp string) bool {
	for _, r := range strings.Fields(rule) {
		if under(imp, strings.TrimSuffix(r, "/*")) {
			return true
		}
	}
	return false
}

func under(p, dir string) bool { return p == dir || strings.HasPrefix(p, dir+"/") }
