package lang

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const variableRecipe = `
variable "source" {
  default     = "default"
  description = "Where"
}
data "docs" { source = "${var.source}" }
`

func fakeEnv(vars map[string]string) func(string) (string, bool) {
	return func(name string) (string, bool) {
		v, ok := vars[name]
		return v, ok
	}
}

func writeFile(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

// The command line wins over files, the last file over the first, files over
// the environment, the environment over the default.
func TestVariablePrecedence(t *testing.T) {
	env := fakeEnv(map[string]string{"PIPE_VAR_source": "env", "PIPE_VAR_unknown": "ignored"})
	first, second := writeFile(t, "1.vars", `source = "first"`), writeFile(t, "2.vars", `source = "second"`)
	empty := writeFile(t, "3.vars", "# nothing\n")
	for _, tc := range []struct {
		opts Options
		want string
	}{
		{Options{}, "default"},
		{Options{Env: env}, "env"},
		{Options{Env: env, VarFiles: []string{first}}, "first"},
		{Options{Env: env, VarFiles: []string{first, second, empty}}, "second"},
		{Options{Env: env, VarFiles: []string{first}, Vars: map[string]string{"source": "flag"}}, "flag"},
		{Options{Vars: map[string]string{"source": ""}}, ""},
		{Options{Vars: map[string]string{"source": "${x} \"1\" = 2"}}, "${x} \"1\" = 2"},
	} {
		got := mustLoad(t, variableRecipe, tc.opts).Node("data.docs").Stage.(*dataSpec).Source
		equal(t, "source", got, tc.want)
	}
}

// Text from outside becomes a value of the declared type, else of the
// default's type, else a string.
func TestVariableTypes(t *testing.T) {
	for _, tc := range []struct{ block, text, want string }{
		{``, "1e-4", `"1e-4"`},
		{`type = number`, "1e-4", `0.0001`},
		{`default = 1`, "8", `8`},
		{`default = true`, "false", `false`},
		{`type = bool`, "true", `true`},
		{`type = list(number)`, "[1, 2]", `[1,2]`},
		{`default = [1]`, `["a"]`, `["a"]`},
		{`type = map(string)`, `{ a = 1 }`, `{"a":"1"}`},
		{`type = object({ a = number })`, `{ a = "1" }`, `{"a":1}`},
		{`type = any`, `[1`, `"[1"`},
		{`default = null`, `x`, `"x"`},
	} {
		src := "variable \"v\" {\n" + tc.block + "\n}\ndata \"docs\" { source = jsonencode(var.v) }\n"
		p := mustLoad(t, src, Options{Vars: map[string]string{"v": tc.text}})
		equal(t, tc.block+" "+tc.text, p.Node("data.docs").Stage.(*dataSpec).Source, tc.want)
	}
}

func TestVariableErrors(t *testing.T) {
	file := writeFile(t, "x.vars", "v = 1\nw = 2\nblock {}\n")
	for _, tc := range []struct {
		block string
		opts  Options
		want  []string
	}{
		{`type = number`, Options{Vars: map[string]string{"v": "many"}}, []string{`Variable "v" takes a number (given by --var v): a number is required.`}},
		{`type = list(number)`, Options{Vars: map[string]string{"v": "[1"}}, []string{`takes an expression, such as [1, 2] (given by --var v)`}},
		{`type = list(number)`, Options{Vars: map[string]string{"v": `["x"]`}}, []string{`Variable "v" takes a list of number (given by --var v)`}},
		{`type = list(number)`, Options{Vars: map[string]string{"v": strings.Repeat("[", 5000)}}, []string{"at most 1000 nested"}},
		{`type = number`, Options{Env: fakeEnv(map[string]string{"PIPE_VAR_v": "x"})}, []string{"given by the environment variable PIPE_VAR_v"}},
		{`default = 1`, Options{VarFiles: []string{file}}, []string{`declares no variable "w". Declared are v.`, "lines of the form NAME = VALUE"}},
		{`type = nummber`, Options{Vars: map[string]string{"v": "1"}}, []string{"nummber"}},
	} {
		src := "variable \"v\" {\n" + tc.block + "\n}\n"
		p, diags := LoadSource([]byte(src), "t.hcl", ".", fakeKinds(), tc.opts)
		text := render(p.Files, diags)
		for _, w := range tc.want {
			if !strings.Contains(text, w) {
				t.Errorf("%s: got\n%s\nwant %q", tc.block, text, w)
			}
		}
		if len(diags) != len(tc.want) {
			t.Errorf("%s: %d diagnostics, want %d:\n%s", tc.block, len(diags), len(tc.want), text)
		}
	}
}

func TestVariableValidation(t *testing.T) {
	src := `
variable "v" {
  default = 1
  validation {
    condition     = var.v > 0 && can(regex("^[0-9]+$", tostring(var.v)))
    error_message = "not ${var.v}"
  }
}`
	mustLoad(t, src, Options{Vars: map[string]string{"v": "3"}})
	_, diags := LoadSource([]byte(src), "t.hcl", ".", fakeKinds(), Options{Vars: map[string]string{"v": "-3"}})
	if len(diags) != 1 || diags[0].Detail != "var.v: not -3" || diags[0].Subject.Start.Line != 2 {
		t.Errorf("got %v", diags)
	}
}

// A sensitive value is in no message, and in no field that a key is made of.
func TestSensitive(t *testing.T) {
	src := `
variable "token" {
  sensitive = true
  validation {
    condition     = length(var.token) > 100
    error_message = "too short: ${var.token}"
  }
}
locals {
  url = "http://${var.token}"
}
data "docs" { source = local.url }
dedup "a" {
  for_each = toset([var.token])
  input    = data.docs
}
dedup "b" {
  input   = data.docs
  options = { key = [local.url] }
  note    = local.url
}
data "broken" { source = local.url + 1 }
`
	p, diags := LoadSource([]byte(src), "t.hcl", ".", fakeKinds(), Options{Vars: map[string]string{"token": "hunter2"}})
	text := render(p.Files, diags)
	if strings.Contains(text, "hunter2") {
		t.Errorf("a message shows the value:\n%s", text)
	}
	for _, want := range []string{"refers to a sensitive value", "source would be stored", "options would be stored", "for_each would show"} {
		if !strings.Contains(text, want) {
			t.Errorf("missing %q in:\n%s", want, text)
		}
	}
	if strings.Contains(text, "note would be stored") {
		t.Errorf("a field outside of the key is refused:\n%s", text)
	}
}
