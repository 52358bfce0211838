package lang

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hashicorp/hcl/v2"
)

// evalLocal loads a pipeline in dir whose one data source is the expression.
func evalLocal(dir, expr string, env map[string]string) (string, hcl.Diagnostics) {
	src := "pipeline \"p\" { env = [\"HOME\", \"UNSET\"] }\nmodel \"m\" { source = \"x\" }\n" +
		"locals {\n x = " + expr + "\n}\ndata \"docs\" { source = local.x }\n"
	p, diags := LoadSource([]byte(src), "t.hcl", dir, fakeKinds(), Options{Env: fakeEnv(env)})
	if diags.HasErrors() {
		return "", diags
	}
	return p.Node("data.docs").Stage.(*dataSpec).Source, nil
}

// functionFiles makes a directory of files for the functions to read.
func functionFiles(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range map[string]string{
		"prompt.txt": "be brief\n",
		"greet.tmpl": "hello ${name}%{ for x in xs } ${upper(x)}%{ endfor }",
		"bad.tmpl":   "line one\n${",
		"calls.tmpl": `${templatefile("calls.tmpl", {})}`,
		"latin1.txt": "caf\xe9",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

var functionEnv = map[string]string{"HOME": "/home/x", "SECRET": "s"}

func TestFunctions(t *testing.T) {
	dir := functionFiles(t)
	for _, tc := range []struct{ expr, want string }{
		{`upper("a")`, "A"},
		{`file("prompt.txt")`, "be brief\n"},
		{`trimspace(file("${path.root}/prompt.txt"))`, "be brief"},
		{`templatefile("greet.tmpl", { name = "you", xs = ["a", "b"] })`, "hello you A B"},
		{`env("HOME")`, "/home/x"},
		{`try(env("UNSET"), "fallback")`, "fallback"},
		{`can(env("UNSET"))`, "false"},
		{`jsonencode(matrix({ b = [1], a = ["x", "y"] }))`, `{"a=x,b=1":{"a":"x","b":1},"a=y,b=1":{"a":"y","b":1}}`},
		{`join(",", keys(merge({ b = 1 }, { a = 2 })))`, "a,b"},
		{`format("%03d", 7)`, "007"},
		{`join(",", formatlist("%s%%1234", ["a", "b"]))`, "a%1234,b%1234"},
		{`indent(2, "a\nb")`, "a\n  b"},
		{`jsonencode(setproduct(["a"], [1, 2]))`, `[["a",1],["a",2]]`},
		{`path.root`, "."},
		{`length([1, 2, 3])`, "3"},
		{`length("héé")`, "3"},
		{`length({ a = 1 })`, "1"},
	} {
		got, diags := evalLocal(dir, tc.expr, functionEnv)
		if diags.HasErrors() {
			t.Errorf("%s: %s", tc.expr, diags)
		}
		equal(t, tc.expr, got, tc.want)
	}
}

// Each refusal says what is wrong and, where it is not plain, what to do.
func TestFunctionsRefuse(t *testing.T) {
	dir := functionFiles(t)
	for _, tc := range []struct{ expr, want string }{
		{`file("none.txt")`, "none.txt: no such file"},
		{`file(".")`, "is not a regular file"},
		{`file("")`, "the path is empty"},
		{`file("latin1.txt")`, "is not UTF-8 text"},
		{`file("/dev/zero")`, "is not a regular file"},
		{`templatefile("bad.tmpl", {})`, "bad.tmpl:2"},
		{`templatefile("greet.tmpl", {})`, "name"},
		{`templatefile("greet.tmpl", "x")`, "the variables of a template are an object"},
		{`templatefile("calls.tmpl", {})`, "templatefile"},
		{`env("SECRET")`, `"SECRET" is not declared`},
		{`env("UNSET")`, "the environment variable UNSET is not set"},
		{`timestamp()`, "a date that matters can be a variable"},
		{`uuid()`, "a random id changes"},
		{`bcrypt("x", 10)`, "its salt changes"},
		{`random()`, "pipeline's seed"},
		{`matrix({})`, "write the axes as an object of lists"},
		{`matrix([1])`, "write the axes as an object of lists"},
		{`matrix({ a = [] })`, "axis a is not a list of values"},
		{`matrix({ a = [[1]] })`, "axis a holds a list"},
		{`matrix({ a = [null] })`, "axis a holds null"},
		{`matrix({ a = ["x,y"] })`, "commas and equals signs"},
		{`matrix({ a = range(101), b = range(101) })`, "more than 10000 combinations"},
		{`format("%999999999d", 1)`, "at most three digits"},
		{`format("%-0.5000f", 1)`, "at most three digits"},
		{`formatlist("%5000s", ["a"])`, "at most three digits"},
		{`format("%d", "x")`, "number"},
		{`indent(1e9, "a\nb")`, "at most 999 spaces"},
		{`setproduct(range(1000), range(1000), range(1000))`, "more than 10000 combinations"},
		{`jsonencode(model.m)`, "cannot be encoded"},
	} {
		_, diags := evalLocal(dir, tc.expr, functionEnv)
		if len(diags) != 1 || !strings.Contains(diags[0].Detail, tc.want) {
			t.Errorf("%s: got %v, want %q", tc.expr, diags, tc.want)
		}
	}
}

// What could exhaust the stack or the memory is refused at its place.
func TestTooDeep(t *testing.T) {
	for _, tc := range []struct{ name, expr string }{
		{"brackets", strings.Repeat("[", 2000) + strings.Repeat("]", 2000)},
		{"open brackets", strings.Repeat("(", 1e5)},
		{"negations", strings.Repeat("!", 1e5) + "true"},
		{"minus", strings.Repeat("-", 1e5) + "1"},
		{"sums", "1" + strings.Repeat("+1", 1e5)},
		{"conditionals", strings.Repeat("true?1:", 1e5) + "1"},
		{"calls", strings.Repeat("abs(", 1e5)},
		{"indexes", "[1]" + strings.Repeat("[var.x]", 1e5)},
		{"splats", "[1]" + strings.Repeat("[*]", 1e5)},
		{"attribute splats", "[1]" + strings.Repeat(".*", 1e5)},
		{"templates", strings.Repeat(`"${`, 1e5)},
		{"directives", `"` + strings.Repeat("%{ if true }", 1e5) + `"`},
		{"exponent", "1e999999999"},
		{"digits", strings.Repeat("9", 1000)},
	} {
		_, diags := evalLocal(".", tc.expr, nil)
		if len(diags) != 1 || diags[0].Summary != "Expression nested too deeply" && diags[0].Summary != "Number out of range" {
			t.Errorf("%s: got %d diagnostics, first %v", tc.name, len(diags), diags[:min(1, len(diags))])
		}
	}
	long := "[" + strings.Repeat("[1, -2],\n", 20_000) + "]"
	if _, diags := evalLocal(".", "jsonencode(length("+long+"))", nil); diags.HasErrors() {
		t.Errorf("a long but flat list is refused: %v", diags)
	}
}
