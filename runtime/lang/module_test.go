package lang

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"pipe/runtime/artifact"
)

// tree writes files below a new directory.
func tree(t testing.TB, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		path := filepath.Join(dir, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

const prep = `
variable "docs" {
  type        = dataset
  description = "Rows to clean"
}
variable "against" {
  type    = list(dataset)
  default = []
}
variable "threshold" {
  type    = number
  default = 0.9
  validation {
    condition     = var.threshold <= 1
    error_message = "it is a cosine"
  }
}
locals {
  hundredth = var.threshold / 100
}
data "own" { source = "./own/*.txt" }
dedup "clean" {
  input     = var.docs
  threshold = var.threshold
  options   = { note = file("note.txt"), root = path.root, module = path.module, hundredth = local.hundredth }
}
dedup "each" {
  for_each = toset(["a", "b"])
  input    = dedup.clean.dataset
}
output "rows" {
  value       = dedup.clean.dataset
  description = "Clean rows"
}
output "each" { value = dedup.each }
output "own" { value = data.own }
`

// A module is a namespace: its blocks have addresses below the module's, its
// inputs may be handles, its paths start at its directory.
func TestModules(t *testing.T) {
	dir := tree(t, map[string]string{
		"p.hcl": `
pipeline "p" { seed = 7 }
data "docs" { source = "./docs" }
dedup "clean" { input = data.docs }
module "prep" {
  source    = "./modules/prep"
  docs      = data.docs
  threshold = "0.5"
}
module "again" {
  source = "./modules/prep"
  docs   = module.prep.rows
}
mix "all" {
  source "a" {
    input  = module.prep.rows
    weight = 1
  }
  source "b" {
    input  = module.again.each["b"].dataset
    weight = 1
  }
  source "c" {
    input  = module.prep["own"]
    weight = 1
  }
}
dedup "more" {
  for_each = module.again.each
  input    = each.value.dataset
  depends_on = [module.prep.each]
}`,
		"modules/prep/main.hcl": prep, "modules/prep/note.txt": "hello",
	})
	p := mustLoadFile(t, filepath.Join(dir, "p.hcl"), Options{})
	equal(t, "order", strings.Join(addrs(p), "\n"), strings.Join([]string{
		"data.docs", "dedup.clean", "module.prep.data.own", "module.prep.dedup.clean", `module.prep.dedup.each["a"]`, `module.prep.dedup.each["b"]`,
		"module.again.data.own", "module.again.dedup.clean", `module.again.dedup.each["a"]`, `module.again.dedup.each["b"]`,
		"mix.all", `dedup.more["a"]`, `dedup.more["b"]`}, "\n"))
	clean := p.Node("module.prep.dedup.clean")
	spec := clean.Stage.(*dedupSpec)
	equal(t, "threshold", spec.Threshold, 0.5)
	equal(t, "default", p.Node("module.again.dedup.clean").Stage.(*dedupSpec).Threshold, 0.9)
	equal(t, "file", spec.Options["note"], "hello")
	equal(t, "root", spec.Options["root"], "../..")
	equal(t, "module", spec.Options["module"], ".")
	equal(t, "local", spec.Options["hundredth"], "0.005")
	equal(t, "input", spec.Input.Ref.String(), "data.docs")
	equal(t, "directory", clean.Dir, filepath.Join(dir, "modules/prep"))
	equal(t, "block", clean.Block, "module.prep.dedup.clean")
	equal(t, "own directory", p.Node("data.docs").Dir, dir)
	equal(t, "mix", strings.Join(p.Node("mix.all").Needs, " "), `module.again.dedup.each["b"] module.prep.data.own module.prep.dedup.clean`)
	equal(t, "depends_on", strings.Join(p.Node(`dedup.more["a"]`).Needs, " "),
		`module.again.dedup.each["a"] module.prep.dedup.each["a"] module.prep.dedup.each["b"]`)
	equal(t, "sweep", strings.Join(p.Addrs("module.prep.dedup.each"), " "), `module.prep.dedup.each["a"] module.prep.dedup.each["b"]`)
	equal(t, "calls", len(p.Modules), 2)
	equal(t, "call", p.Modules[1], ModuleCall{Addr: "module.again", Source: "./modules/prep", Dir: filepath.Join(dir, "modules/prep")})
	equal(t, "range", filepath.Base(clean.Range("threshold").Filename), "main.hcl")
}

// Modules use modules, take every kind of handle, and hand them on.
func TestModulesNest(t *testing.T) {
	dir := tree(t, map[string]string{
		"p.hcl": `
model "m" { source = "x" }
teacher "t" {
  provider = "journal"
  model_id = "big"
  journal  = "answers.jsonl"
}
data "a" { source = "x" }
data "b" { source = "x" }
module "outer" {
  source  = "./outer"
  teacher = teacher.t
  model   = model.m
  sets    = { one = data.a, two = data.b }
}
sft "s" {
  base = module.outer.model
  data = module.outer.rows
}
eval "e" {
  model = sft.s.model
  gate "g" {
    condition     = self.metrics["x.y"] > module.outer.limit
    error_message = "no"
  }
}`,
		"outer/m.hcl": `
variable "teacher" { type = teacher }
variable "model" { type = model }
variable "sets" { type = map(dataset) }
variable "none" {
  type    = dataset
  default = null
}
module "inner" {
  source  = "./inner"
  teacher = var.teacher
  docs    = var.sets.two
  extra   = values(var.sets)
}
output "model" { value = var.model }
output "rows" { value = module.inner.rows }
output "limit" { value = 0.5 }
dedup "d" {
  for_each = var.sets
  input    = each.value
}
synth "s" {
  teacher   = var.teacher
  documents = var.none
  method    = "m"
  count     = 1
}`,
		"outer/inner/m.hcl": `
variable "teacher" { type = teacher }
variable "docs" { type = dataset }
variable "extra" { type = list(dataset) }
synth "s" {
  teacher   = var.teacher
  documents = var.docs
  method    = "m"
  count     = 1
  extra     = var.extra
}
output "rows" { value = synth.s.dataset }`,
	})
	p := mustLoadFile(t, filepath.Join(dir, "p.hcl"), Options{})
	inner := p.Node("module.outer.module.inner.synth.s")
	if inner == nil {
		t.Fatal(addrs(p))
	}
	spec := inner.Stage.(*synthSpec)
	equal(t, "documents", spec.Documents.Ref.String(), "data.b")
	equal(t, "extra", len(spec.Extra), 2)
	equal(t, "journal", spec.Teacher.Config.Journal, filepath.Join(dir, "answers.jsonl"))
	equal(t, "sft", strings.Join(p.Node("sft.s").Needs, " "), "model.m module.outer.module.inner.synth.s")
	equal(t, "sweep", p.Node(`module.outer.dedup.d["one"]`).Stage.(*dedupSpec).Input.Ref.String(), "data.a")
	if p.Node("module.outer.synth.s").Stage.(*synthSpec).Documents != nil {
		t.Error("an input that is null is given")
	}
	v, diags := EvalGate(p.Node("eval.e").Gates[0], GateMetrics{Self: map[string]float64{"x.y": 0.7}})
	if !v.Pass || diags.HasErrors() {
		t.Errorf("the gate: %+v %v", v, diags)
	}
}

func specJSON(t testing.TB, spec any) string {
	t.Helper()
	b, err := json.Marshal(spec)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// A stage that moves into a module stays the same but for its address.
func TestModuleKeepsSpecs(t *testing.T) {
	const stages = "data \"own\" { source = \"./own/*.txt\" }\ndedup \"clean\" {\n  input     = data.own\n  threshold = 0.8\n}\n"
	flat := mustLoadFile(t, filepath.Join(tree(t, map[string]string{"p.hcl": stages}), "p.hcl"), Options{})
	dir := tree(t, map[string]string{"p.hcl": "module \"m\" { source = \"./m\" }\n", "m/m.hcl": stages})
	nested := mustLoadFile(t, filepath.Join(dir, "p.hcl"), Options{})
	for _, addr := range []string{"data.own", "dedup.clean"} {
		a, b := flat.Node(addr), nested.Node("module.m."+addr)
		equal(t, addr, specJSON(t, b.Stage), specJSON(t, a.Stage))
		equal(t, "inputs", len(b.Inputs), len(a.Inputs))
	}
	equal(t, "seed", nested.Seed, flat.Seed)
}

// A cycle of references that crosses modules without being one is none: only
// what is used is waited for.
func TestModulesAreNotWaitedForAsAWhole(t *testing.T) {
	dir := tree(t, map[string]string{
		"p.hcl": `
data "docs" { source = "x" }
module "a" {
  source = "./m"
  docs   = data.docs
  more   = module.b.first
}
module "b" {
  source = "./m"
  docs   = module.a.first
  more   = data.docs
}`,
		"m/m.hcl": `
variable "docs" { type = dataset }
variable "more" { type = dataset }
dedup "first" { input = var.docs }
dedup "second" { input = var.more }
output "first" { value = dedup.first.dataset }`,
	})
	p := mustLoadFile(t, filepath.Join(dir, "p.hcl"), Options{})
	equal(t, "needs", strings.Join(p.Node("module.a.dedup.second").Needs, " "), "module.b.dedup.first")
}

// What was fetched stays in what was fetched: its modules, its files and its
// journals, also by links.
func TestFetchedModulesStayInside(t *testing.T) {
	dir := tree(t, map[string]string{
		"p.hcl":      "module \"a\" { source = \"git::https://example.org/r.git//sub\" }\n",
		"secret.txt": "secret",
		"checkout/sub/m.hcl": `module "ok" { source = "../other" }
module "bad" { source = "../../checkout2" }
module "link" { source = "../link" }
module "file" { source = "../files" }
`,
		"checkout/other/m.hcl": `data "x" { source = file("../../secret.txt") }
data "y" { source = path.root }
data "z" { source = file("linked.txt") }
data "ok" { source = file("../sub/m.hcl") }
teacher "t" {
  provider = "journal"
  model_id = "x"
  journal  = "../../secret.txt"
}
`,
		"checkout/files/m.hcl": "",
		"checkout2/m.hcl":      "",
		"elsewhere/m.hcl":      "",
	})
	for link, to := range map[string]string{"checkout/link": "../elsewhere", "checkout/other/linked.txt": "../../secret.txt", "checkout/files/l.hcl": "../../elsewhere/m.hcl"} {
		if err := os.Symlink(to, filepath.Join(dir, link)); err != nil {
			t.Skip("no symbolic links here")
		}
	}
	asked := ""
	_, diags := Load(filepath.Join(dir, "p.hcl"), fakeKinds(), Options{Module: func(source string) (string, string, error) {
		asked = source
		return filepath.Join(dir, "checkout/sub"), filepath.Join(dir, "checkout"), nil
	}})
	equal(t, "asked for", asked, "git::https://example.org/r.git//sub")
	for i, want := range []string{
		"other/m.hcl:1: Invalid function argument: Invalid value for \"path\" parameter: ../../secret.txt lies outside of what was fetched with the module",
		"other/m.hcl:2: Invalid reference: A fetched module does not know where the pipeline lies",
		"other/m.hcl:3: Invalid function argument: Invalid value for \"path\" parameter: linked.txt lies outside of what was fetched with the module",
		"other/m.hcl:8: Invalid value: journal lies outside of what was fetched with the module",
		"sub/m.hcl:2: Module cannot be used: ../../checkout2 lies outside of what was fetched",
		"sub/m.hcl:3: Module cannot be used: ../link lies outside of what was fetched",
		"sub/m.hcl:4: Module cannot be used: files/l.hcl is a link out of what was fetched",
	} {
		if i >= len(diags) {
			t.Errorf("missing: %s", want)
			continue
		}
		d := diags[i]
		got := fmt.Sprintf("%s:%d: %s: %s", d.Subject.Filename, d.Subject.Start.Line, d.Summary, d.Detail)
		got = filepath.ToSlash(strings.ReplaceAll(got, filepath.Join(dir, "checkout")+string(filepath.Separator), ""))
		if !strings.Contains(got, want) {
			t.Errorf("got %s\nwant %s", got, want)
		}
	}
	equal(t, "errors", len(diags), 7)
	if strings.Contains(diags.Error(), "secret\"") {
		t.Error("the secret was read")
	}

	_, diags = Load(filepath.Join(dir, "p.hcl"), fakeKinds(), Options{Module: func(string) (string, string, error) {
		return "", "", errors.New("it is not here; pipe lock fetches it")
	}})
	if len(diags) != 1 || diags[0].Subject.Start.Line != 1 || !strings.Contains(diags[0].Detail, "pipe lock fetches it.") {
		t.Errorf("a module that is not here: %v", diags)
	}
}

// A module directory by itself says what only a module block can give.
func TestModuleByItself(t *testing.T) {
	dir := tree(t, map[string]string{"m.hcl": prep, "note.txt": ""})
	_, diags := Load(dir, fakeKinds(), Options{})
	if len(diags) != 1 || !strings.Contains(diags[0].Detail, "which only a module block can give") {
		t.Errorf("got %v", diags)
	}
	_, diags = LoadSource([]byte("output \"x\" { value = data.d }\ndata \"d\" { source = \"x\" }\n"), "p.hcl", dir, fakeKinds(), Options{})
	if diags.HasErrors() {
		t.Errorf("an output of the pipeline itself: %v", diags)
	}
}

// Modules that use each other's use again and again come to an end, and so do
// modules inside of modules.
func TestTooManyModules(t *testing.T) {
	call := func(name string, to int) string {
		return fmt.Sprintf("module %q { source = \"../m%d\" }\n", name, to)
	}
	wide := map[string]string{"p/p.hcl": call("a", 0) + call("b", 0), "m12/m.hcl": ""}
	for i := range 12 { // 2^12 uses, at most 13 deep
		wide[fmt.Sprintf("m%d/m.hcl", i)] = call("a", i+1) + call("b", i+1)
	}
	deep := map[string]string{"p/p.hcl": call("a", 0)}
	for i := range maxModuleDepth {
		deep[fmt.Sprintf("m%d/m.hcl", i)] = call("a", i+1)
	}
	last := fmt.Sprintf("m%d/m.hcl", maxModuleDepth)
	deep[last] = ""
	for _, files := range []map[string]string{wide, deep} {
		_, diags := Load(filepath.Join(tree(t, files), "p"), fakeKinds(), Options{})
		if len(diags) == 0 {
			t.Errorf("%d modules were accepted", len(files)-1)
		}
		for _, d := range diags {
			if d.Summary != "Too many modules" || !strings.HasPrefix(d.Detail, "Modules are nested at most 16 deep, and a pipeline uses at most 1000.") {
				t.Errorf("got %v", d)
			}
		}
	}
	delete(deep, last)
	deep[fmt.Sprintf("m%d/m.hcl", maxModuleDepth-1)] = ""
	mustLoadFile(t, filepath.Join(tree(t, deep), "p"), Options{})
}

// Whatever decides what a module block stands for is noted, found or not.
func TestModuleReadsAreNoted(t *testing.T) {
	dir := tree(t, map[string]string{
		"good.hcl":      "module \"a\" { source = \"./m\" }\nmodule \"b\" { source = \"./m\" }\n",
		"bad.hcl":       "module \"missing\" { source = \"./none\" }\nmodule \"file\" { source = \"./x.txt\" }\nmodule \"empty\" { source = \"./empty\" }\n",
		"x.txt":         "",
		"empty/x.txt":   "",
		"m/a.hcl":       "module \"inner\" { source = \"./inner\" }\n",
		"m/b.hcl":       "locals {\n  n = file(\"n.txt\")\n  g = try(file(\"g.txt\"), \"\")\n}\n",
		"m/n.txt":       "",
		"m/other.txt":   "",
		"m/inner/m.hcl": "",
	})
	for name, want := range map[string]string{
		"good.hcl": "good.hcl m m/a.hcl m/b.hcl m/g.txt m/inner m/inner/m.hcl m/n.txt",
		"bad.hcl":  "bad.hcl empty none x.txt",
	} {
		p, diags := Load(filepath.Join(dir, name), fakeKinds(), Options{})
		equal(t, name+" has errors", diags.HasErrors(), name == "bad.hcl")
		var got []string
		for _, path := range p.Watched {
			rel, err := filepath.Rel(dir, path)
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, filepath.ToSlash(rel))
		}
		slices.Sort(got)
		equal(t, name, strings.Join(got, " "), want)
	}
}

// A reference of another type than the variable's is refused for each type.
func TestHandleConstraints(t *testing.T) {
	outputs := map[artifact.Type]string{artifact.Dataset: "data.d", artifact.Model: "model.m", artifact.Metrics: "eval.e.metrics", artifact.File: "export.x.files", artifact.Teacher: "teacher.t"}
	const blocks = `
data "d" { source = "x" }
model "m" { source = "x" }
eval "e" { model = model.m }
export "x" {
  model   = model.m
  formats = []
}
teacher "t" {
  provider = "local"
  model    = model.m
}
`
	for want := range outputs {
		for have, ref := range outputs {
			for _, form := range []struct{ typ, value string }{{string(want), ref}, {"list(" + string(want) + ")", "[" + ref + "]"}, {"map(" + string(want) + ")", "{ a = " + ref + " }"}} {
				dir := tree(t, map[string]string{
					"p.hcl":   blocks + "module \"m\" {\n  source = \"./m\"\n  in     = " + form.value + "\n}\n",
					"m/m.hcl": "variable \"in\" { type = " + form.typ + " }\noutput \"out\" { value = var.in }\n",
				})
				_, diags := Load(filepath.Join(dir, "p.hcl"), fakeKinds(), Options{})
				if diags.HasErrors() != (want != have) {
					t.Errorf("%s given to %s: %v", form.value, form.typ, diags)
				}
			}
		}
	}
}
