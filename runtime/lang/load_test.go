package lang

import (
	"bytes"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/hashicorp/hcl/v2"

	"pipe/runtime/artifact"
	"pipe/runtime/stage"
)

// render writes diagnostics as a person would see them.
func render(files map[string]*hcl.File, diags hcl.Diagnostics) string {
	var b bytes.Buffer
	_ = WriteDiagnostics(&b, files, diags, false, 0)
	return b.String()
}

func mustLoad(t testing.TB, src string, opts Options) *Program {
	t.Helper()
	p, diags := LoadSource([]byte(src), "test.hcl", "testdata", fakeKinds(), opts)
	if diags.HasErrors() {
		t.Fatalf("unexpected diagnostics:\n%s", render(p.Files, diags))
	}
	return p
}

func mustLoadFile(t testing.TB, path string, opts Options) *Program {
	t.Helper()
	p, diags := Load(path, fakeKinds(), opts)
	if diags.HasErrors() {
		t.Fatalf("unexpected diagnostics:\n%s", render(p.Files, diags))
	}
	return p
}

func addrs(p *Program) []string {
	var out []string
	for _, n := range p.Nodes {
		out = append(out, n.Addr)
	}
	return out
}

func equal[T comparable](t *testing.T, what string, got, want T) {
	t.Helper()
	if got != want {
		t.Errorf("%s: got %v, want %v", what, got, want)
	}
}

// The reference recipe loads, in order, with everything decoded.
func TestReferenceRecipe(t *testing.T) {
	p := mustLoadFile(t, "testdata/legal.hcl", Options{})
	equal(t, "name", p.Name, "legal")
	equal(t, "seed", p.Seed, 20261123)
	equal(t, "directory", p.Dir, "testdata")
	equal(t, "order", strings.Join(addrs(p), "\n"), strings.Join([]string{
		"model.base", "teacher.local", "data.docs", "data.general", "data.bench",
		"synth.cot", "synth.prefs", "dedup.clean", "mix.train", "pack.train",
		`sft.legal["rank=16"]`, `sft.legal["rank=8"]`, `eval.sweep["rank=16"]`, `eval.sweep["rank=8"]`,
		"select.best", "dpo.final", "eval.final", "export.release",
	}, "\n"))

	equal(t, "model source", p.Node("model.base").Model.Source, "hf://HuggingFaceTB/SmolLM2-135M-Instruct")
	teacher := p.Node("teacher.local")
	equal(t, "teacher default", teacher.Teacher.MaxTokens, stage.NewTeacherConfig().MaxTokens)
	cot := p.Node("synth.cot").Stage.(*synthSpec)
	if cot.Teacher.Config != teacher.Teacher {
		t.Error("the handle to a teacher has a configuration of its own")
	}
	equal(t, "self_correct", cot.SelfCorrect, true)
	if cot.Prompts != nil {
		t.Error("prompts was not given and is not nil")
	}

	sft := p.Node(`sft.legal["rank=8"]`)
	spec := sft.Stage.(*sftSpec)
	equal(t, "rank", spec.Adapter.Rank, 8)
	equal(t, "alpha", spec.Adapter.Alpha, 16)
	equal(t, "adapter type", spec.Adapter.Type, "dora")
	equal(t, "targets", len(spec.Adapter.Targets), 7)
	equal(t, "gpus", sft.Resources.GPUs, 1)
	equal(t, "needs", strings.Join(sft.Needs, " "), "model.base pack.train")
	equal(t, "key", sft.Key, "rank=8")
	equal(t, "range", sft.Range("adapter.rank").Start.Line, 70)
	equal(t, "range of an unknown path", sft.Range("adapter.dropout").Start.Line, 69)
	equal(t, "range of nothing", sft.Range("nothing"), sft.Header)
}

func TestOutputsAndAliases(t *testing.T) {
	p := mustLoadFile(t, "testdata/legal.hcl", Options{})
	sweep := p.Node(`eval.sweep["rank=8"]`)
	equal(t, "metrics", sweep.Outputs["metrics"].String(), `eval.sweep["rank=8"].metrics`)
	equal(t, "alias", sweep.Outputs["model"].String(), `sft.legal["rank=8"].model`)
	equal(t, "names", strings.Join(sweep.OutputNames(), " "), "metrics model")
	equal(t, "data", p.Node("data.docs").Outputs[""], artifact.Ref{Type: artifact.Dataset, Addr: "data.docs"})

	best := p.Node("select.best").Stage.(*selectSpec)
	equal(t, "candidates", len(best.From), 2)
	equal(t, "key", best.From[1].Key, "rank=8")
	equal(t, "candidate's model", best.From[1].Model.Ref.String(), `sft.legal["rank=8"].model`)
	equal(t, "needs", strings.Join(p.Node("select.best").Needs, " "),
		`eval.sweep["rank=16"] eval.sweep["rank=8"] sft.legal["rank=16"] sft.legal["rank=8"]`)
	equal(t, "instances", strings.Join(p.Addrs("eval.sweep"), " "), `eval.sweep["rank=16"] eval.sweep["rank=8"]`)
	equal(t, "node", strings.Join(p.Addrs("eval.final"), " "), "eval.final")
	equal(t, "nothing", len(p.Addrs("eval.none")), 0)
}

// Inputs name every handle, and point into the spec so that a digest set
// there arrives in the stage.
func TestInputsPointIntoTheSpec(t *testing.T) {
	p := mustLoadFile(t, "testdata/legal.hcl", Options{})
	for i, n := range p.Nodes {
		for j := range n.Inputs {
			n.Inputs[j].Ref.Digest = artifact.Digest{byte(i + 1), byte(j + 1)}
		}
	}
	var paths []string
	for _, in := range p.Node("dedup.clean").Inputs {
		paths = append(paths, in.Path+"="+in.Ref.String())
	}
	equal(t, "paths", strings.Join(paths, " "), "input=synth.cot.dataset decontaminate.against[0]=data.bench")
	spec := p.Node("dedup.clean").Stage.(*dedupSpec)
	if spec.Input.Digest.IsZero() || spec.Decontaminate.Against[0].Digest.IsZero() {
		t.Error("a digest did not arrive in dedup.clean")
	}
	if p.Node("mix.train").Stage.(*mixSpec).Sources[1].Input.Digest.IsZero() {
		t.Error("a digest did not arrive in a repeated block")
	}
	from := p.Node("select.best").Stage.(*selectSpec).From
	if from[1].Metrics.Digest.IsZero() || from[1].Model.Digest.IsZero() {
		t.Error("a digest did not arrive in the candidates")
	}
	if p.Node("synth.cot").Stage.(*synthSpec).Teacher.Config.Model.Digest.IsZero() {
		t.Error("the digest of a teacher's model did not arrive in the stage that uses the teacher")
	}
	if p.Node("synth.prefs").Stage.(*synthSpec).Prompts.Digest.IsZero() {
		t.Error("a digest did not arrive behind a pointer")
	}
}

// The graph has the nodes and edges of Needs, and every node follows what it needs.
func TestGraph(t *testing.T) {
	p := mustLoadFile(t, "testdata/legal.hcl", Options{})
	pred, err := p.Graph.PredecessorMap()
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "nodes", len(pred), len(p.Nodes))
	done := map[string]bool{}
	for _, n := range p.Nodes {
		equal(t, n.Addr, strings.Join(slices.Sorted(maps.Keys(pred[n.Addr])), " "), strings.Join(n.Needs, " "))
		for _, need := range n.Needs {
			if !done[need] {
				t.Errorf("%s stands before %s, which it needs", n.Addr, need)
			}
		}
		done[n.Addr] = true
	}
}

// A directory is its files as one.
func TestDirectory(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "recipe")
	files := map[string]string{
		"b.hcl":       `data "docs" { source = "x" }`,
		"a.hcl":       "dedup \"clean\" { input = data.docs }\n",
		".hidden.hcl": "broken {",
		"c.hcl.bak":   "broken {",
	}
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for name, src := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(src), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	p := mustLoadFile(t, dir, Options{})
	equal(t, "order", strings.Join(addrs(p), " "), "data.docs dedup.clean")
	equal(t, "name", p.Name, "recipe")
	equal(t, "directory", p.Dir, dir)
	equal(t, "files", len(p.Files), 2)
}

func TestDependsOn(t *testing.T) {
	p := mustLoad(t, `
model "m" { source = "x" }
data "docs" { source = "x" }
sft "s" {
  for_each = toset(["a", "b"])
  base     = model.m
  data     = data.docs
}
dedup "all" {
  input      = data.docs
  depends_on = [sft.s, model.m]
}
dedup "one" {
  input      = data.docs
  depends_on = [sft.s["b"]]
}`, Options{})
	equal(t, "all", strings.Join(p.Node("dedup.all").Needs, " "), `data.docs model.m sft.s["a"] sft.s["b"]`)
	equal(t, "one", strings.Join(p.Node("dedup.one").Needs, " "), `data.docs sft.s["b"]`)
	for _, in := range p.Node("dedup.all").Inputs {
		if in.Ref.Addr != "data.docs" {
			t.Errorf("depends_on made an input of %s", in.Ref)
		}
	}
}

// A stage's own block wins over the one that every stage may have.
func TestMetaBlocks(t *testing.T) {
	p := mustLoad(t, `
model "m" {
  source = "x"
  retry {
    attempts = 3
    delay    = "30s"
  }
}
data "docs" {
  source = "x"
  resources {
    memory = "16GiB"
    time   = "4h"
    cpus   = 2
  }
}`, Options{})
	equal(t, "retry", *p.Node("model.m").Retry, Retry{Attempts: 3, Delay: "30s"})
	equal(t, "resources", *p.Node("data.docs").Resources, Resources{Memory: "16GiB", Time: "4h", CPUs: 2})

	type own struct {
		dataSpec
		Save *Checkpoint `hcl:"checkpoint,block"`
	}
	kind := stage.Kind{Name: "own", New: func() stage.Stage { return &own{} }}
	p, diags := LoadSource([]byte("own \"x\" {\n source = \"\"\n checkpoint {\n every = 7\n }\n}"), "t.hcl", ".", []stage.Kind{kind}, Options{})
	if diags.HasErrors() {
		t.Fatal(diags)
	}
	equal(t, "own block", p.Node("own.x").Stage.(*own).Save.Every, 7)
	if p.Node("own.x").Checkpoint != nil {
		t.Error("the stage's own checkpoint block was decoded twice")
	}
}

func TestNodeDiagnostic(t *testing.T) {
	n := mustLoadFile(t, "testdata/legal.hcl", Options{}).Node("dedup.clean")
	d := n.Diagnostic("Stage failed", stage.Fieldf("decontaminate.ngram", "is too short"))
	equal(t, "line", d.Subject.Start.Line, 42)
	equal(t, "detail", d.Detail, "dedup.clean: decontaminate.ngram: is too short")
	d = n.Diagnostic("Stage failed", os.ErrNotExist)
	equal(t, "header", *d.Subject, n.Header)
}

func TestParentPath(t *testing.T) {
	var got []string
	for p := `suite["a.b[0]"].data[1]`; p != ""; p = parentPath(p) {
		got = append(got, p)
	}
	equal(t, "parents", strings.Join(got, " | "), `suite["a.b[0]"].data[1] | suite["a.b[0]"].data | suite["a.b[0]"] | suite`)
}

// Everything that a pipeline was read from is noted, found or not: as long as
// none of it changes, it needs not be read again.
func TestReadsAreNoted(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{
		"a.hcl": "variable \"v\" {\n  default = 1\n}\n", "b.hcl": "locals {\n  f = file(\"f.txt\")\n  g = try(file(\"g.txt\"), \"\")\n  t = templatefile(\"t.txt\", {})\n}\n",
		"f.txt": "f", "t.txt": "t", "x.vars": "v = 2\n", "not.txt": "",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o666); err != nil {
			t.Fatal(err)
		}
	}
	p, diags := Load(dir, nil, Options{VarFiles: []string{filepath.Join(dir, "x.vars")}})
	if diags.HasErrors() {
		t.Fatal(diags)
	}
	var got []string
	for _, r := range p.Watched {
		rel, err := filepath.Rel(dir, r)
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, rel)
	}
	slices.Sort(got)
	if want := []string{".", "a.hcl", "b.hcl", "f.txt", "g.txt", "t.txt", "x.vars"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

// So that nothing is read past the notes, only load.go reaches for the disk. A
// file that has to is listed here, once what it reads is noted too.
func TestOnlyLoadReads(t *testing.T) {
	sources, err := filepath.Glob("*.go")
	if err != nil || len(sources) < 20 {
		t.Fatal(sources, err)
	}
	for _, name := range sources {
		if strings.HasSuffix(name, "_test.go") || name == "load.go" {
			continue
		}
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		for _, pkg := range []string{"\t\"os\"\n", "\t\"os/exec\"\n", "\t\"io/ioutil\"\n"} {
			if strings.Contains(string(b), pkg) {
				t.Errorf("%s imports %s: read through loader.read, so that Program.Watched has it", name, strings.TrimSpace(pkg))
			}
		}
	}
}

// The name of a pipeline is known of files that cannot be loaded too.
func TestNameOf(t *testing.T) {
	dir := t.TempDir()
	for src, want := range map[string]string{
		`pipeline "legal" { seed = 1 }`:             "legal",
		`pipeline { seed = 1 }`:                     "p.v1",
		`nonsense "x" {}` + "\npipeline \"q\" {}\n": "q",
		`pipeline "half" {` + "\n  seed = \n":       "half",
		"":                                          "p.v1",
	} {
		path := filepath.Join(dir, "p.v1.hcl")
		if err := os.WriteFile(path, []byte(src), 0o666); err != nil {
			t.Fatal(err)
		}
		if got := NameOf(path); got != want {
			t.Errorf("%q is called %q, want %q", src, got, want)
		}
	}
	if got := NameOf(filepath.Join(dir, "none.hcl")); got != "none" {
		t.Errorf("a missing file is called %q", got)
	}
}
