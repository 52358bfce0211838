package main

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"pipe/model/tiny"
	"pipe/runtime/stage"
	"pipe/stages"
)

// A stampCase changes something after a run was stamped. The next run must read
// the pipeline again.
type stampCase struct {
	name   string
	files  map[string]string // of the pipeline; p.hcl is run
	args   []string          // of both runs
	again  []string          // more arguments of the second
	change func(t *testing.T, dir string)
	want   string // in what the second run prints
	code   int    // of the second run
}

const stampRecipe = `
data "rows" {
  source = "./rows.jsonl"
}
step "a" {
  text = "one"
  from = [data.rows]
}
`

const oneRow = `{"text":"row"}` + "\n"

func stampCases(t *testing.T) []stampCase {
	recipe := map[string]string{"p.hcl": stampRecipe, "rows.jsonl": oneRow}
	with := func(more ...string) map[string]string {
		m := map[string]string{"rows.jsonl": oneRow}
		for i := 0; i < len(more); i += 2 {
			m[more[i]] = more[i+1]
		}
		return m
	}
	step := func(text string) string { return "step \"a\" {\n  text = " + text + "\n}\n" }
	const nothing = "Nothing to do"
	exported := with("p.hcl", "model \"m\" {\n  source = \"./m\"\n  chat_template = \"./t.jinja\"\n}\n"+
		"export \"m\" {\n  model   = model.m\n  formats = [\"safetensors\"]\n  path = \"./out\"\n}\n", "t.jinja", "{{ messages[0].content }}")
	recorded := func(name string) string {
		b, err := os.ReadFile(filepath.Join("../../pipelines/quickstart", name))
		check(t, err)
		return string(b)
	}
	replayed := with("p.hcl", `teacher "t" {
  provider    = "journal"
  model_id    = "SmolLM2-135M-Instruct"
  journal     = "./answers.jsonl"
  temperature = 0.5
  max_tokens  = 96
}
data "docs" { source = "./doc.txt" }
synth "cot" {
  teacher   = teacher.t
  documents = data.docs
  method    = "document_to_dialogue"
  count     = 1
  attempts  = 5
}
`, "doc.txt", recorded("docs/01.txt"), "answers.jsonl", recorded("answers.jsonl"))
	return []stampCase{
		{name: "a comment", files: recipe, want: nothing, change: edit("p.hcl", "one", "one\" # \"")},
		{name: "the recipe", files: recipe, want: "1 stage ran", change: edit("p.hcl", "one", "two")},
		{name: "a source, its time set back", files: recipe, want: "2 stages ran", change: func(t *testing.T, dir string) {
			path := filepath.Join(dir, "rows.jsonl")
			was, err := os.Stat(path)
			check(t, err)
			edit("rows.jsonl", "row", "wor")(t, dir)
			check(t, os.Chtimes(path, was.ModTime(), was.ModTime()))
		}},
		{name: "a source that is a link", want: "2 stages ran",
			files: with("p.hcl", strings.ReplaceAll(stampRecipe, "rows.jsonl", "link.jsonl"), "b.jsonl", `{"text":"ROW"}`, "link.jsonl", "-> rows.jsonl"),
			change: func(t *testing.T, dir string) {
				check(t, os.Remove(filepath.Join(dir, "link.jsonl")))
				check(t, os.Symlink("b.jsonl", filepath.Join(dir, "link.jsonl")))
			}},
		{name: "a new file that a pattern matches", want: "1 stage ran",
			files:  with("p.hcl", "data \"d\" {\n  source = \"./d/**/e*/*.txt\"\n}\n", "d/x/e1/a.txt", "a", "d/x/e2/none", ""),
			change: put("d/x/e2/b.txt", "b")},
		{name: "a new folder with a file that a pattern matches", want: "1 stage ran",
			files:  with("p.hcl", "data \"d\" {\n  source = \"./d/*/e/*.txt\"\n}\n", "d/x/e/a.txt", "a"),
			change: put("d/y/e/b.txt", "b")},
		{name: "a file that the recipe reads", files: with("p.hcl", step(`file("t.txt")`), "t.txt", "one"), want: "1 stage ran", change: edit("t.txt", "one", "two")},
		{name: "a template", files: with("p.hcl", step(`templatefile("t.txt", {})`), "t.txt", "one"), want: "1 stage ran", change: edit("t.txt", "one", "two")},
		{name: "a file that was missing", files: with("p.hcl", step(`try(file("d/t.txt"), "none")`), "d/x", ""), want: "1 stage ran", change: put("d/t.txt", "two")},
		{name: "a file of variables", files: with("p.hcl", "variable \"v\" {}\n"+step("var.v"), "v.vars", `v = "1"`), args: []string{"--var-file", "v.vars"},
			want: "1 stage ran", change: edit("v.vars", "1", "2")},
		{name: "a variable", files: with("p.hcl", "variable \"v\" {}\n"+step("var.v")), args: []string{"--var", "v=1"}, again: []string{"--var", "v=2"}, want: "1 stage ran"},
		{name: "a variable from the environment", files: with("p.hcl", "variable \"v\" {\n  default = \"1\"\n}\n"+step("var.v")), want: "1 stage ran",
			change: func(t *testing.T, _ string) { t.Setenv("PIPE_VAR_v", "2") }},
		{name: "the environment", files: with("p.hcl", "pipeline \"p\" {\n  env = [\"STAMP_TEST\"]\n}\n"+step(`try(env("STAMP_TEST"), "none")`)), want: "1 stage ran",
			change: func(t *testing.T, _ string) { t.Setenv("STAMP_TEST", "2") }},
		{name: "the processor", files: recipe, want: nothing, change: func(t *testing.T, _ string) { t.Setenv("PIPE_CPU", "generic") }},
		{name: "a target", files: recipe, again: []string{"--target", "data.rows"}, want: "1 stage up to date"},
		{name: "force", files: recipe, again: []string{"--force", "step.a"}, want: "1 stage ran"},
		{name: "a record is collected", files: recipe, want: "2 stages ran", change: remove(".pipe/actions/*/*.json")},
		{name: "an object is collected", files: recipe, want: "2 stages ran", change: remove(".pipe/objects/sha256/*/*")},
		{name: "a file of an object is gone", files: recipe, want: "2 stages ran", change: remove(".pipe/objects/sha256/*/*/rows.arrow")},
		{name: "a file of an object is cut short", files: recipe, want: "2 stages ran", change: func(t *testing.T, dir string) {
			for _, path := range glob(t, dir, ".pipe/objects/sha256/*/*/rows.arrow") {
				check(t, os.Chmod(path, 0o644))
				check(t, os.Truncate(path, 10))
			}
		}},
		{name: "a manifest is damaged", files: recipe, want: "2 stages ran", change: func(t *testing.T, dir string) {
			for _, path := range glob(t, dir, ".pipe/objects/sha256/*/*/manifest.json") {
				check(t, os.Chmod(path, 0o644))
				check(t, os.WriteFile(path, []byte("{}"), 0o644))
			}
		}},
		{name: "the store is gone", files: recipe, want: "2 stages ran", change: remove(".pipe")},
		{name: "another run of the pipeline", files: recipe, want: nothing, change: func(t *testing.T, dir string) {
			if code, out, err := runAgain(t, "run", "--target", "data.rows", filepath.Join(dir, "p.hcl")); code != exitOK {
				t.Fatal(out, err)
			}
		}},
		{name: "another run, with its output for programs", files: recipe, want: nothing, change: func(t *testing.T, dir string) {
			if code, out, err := runAgain(t, "run", "--json", filepath.Join(dir, "p.hcl")); code != exitOK {
				t.Fatal(out, err)
			}
		}},
		{name: "a new file of a directory", args: []string{"."}, files: recipe, want: "1 stage ran", change: put("q.hcl", strings.ReplaceAll(step(`"more"`), `"a"`, `"b"`))},
		{name: "a lock file", files: recipe, want: nothing, change: put("pipe.lock", "{\"version\": 1}\n")},
		{name: "a lock file that was there", want: nothing, change: edit("pipe.lock", "}", "}\n"),
			files: with("p.hcl", stampRecipe, "pipe.lock", "{\"version\": 1}\n")},
		{name: "a pinned baseline", files: recipe, want: nothing, change: put(".pipe/baselines/p.json", "{}")},
		{name: "a copy is gone", files: exported, want: "was copied to", change: remove("out")},
		{name: "a file of a copy is gone", files: exported, want: "was copied to", change: remove("out/safetensors/config.json")},
		{name: "a stranger among the copies", files: exported, code: exitFailed, change: put("out/safetensors/mine.txt", "mine")},
		{name: "the weights of a model", files: exported, want: "1 stage ran", change: func(t *testing.T, dir string) {
			path := filepath.Join(dir, "m", "model.safetensors")
			b, err := os.ReadFile(path)
			check(t, err)
			b[len(b)-1] ^= 1
			check(t, os.WriteFile(path, b, 0o644))
		}},
		{name: "recorded answers", files: replayed, want: "1 stage ran", change: edit("answers.jsonl", "\n", "\r\n")},
		{name: "a chat template", files: exported, want: "1 stage ran", change: edit("t.jinja", "[0]", "[1]")},
	}
}

// Every way in which a stamp stops to hold. The cases are stamped together
// because times of files prove nothing for two seconds.
func TestStampHoldsUntilSomethingChanges(t *testing.T) {
	cases := stampCases(t)
	dirs := make([]string, len(cases))
	for i, c := range cases {
		dirs[i] = t.TempDir()
		for name, text := range c.files {
			target, link := strings.CutPrefix(text, "-> ")
			if link {
				check(t, os.Symlink(target, filepath.Join(dirs[i], name)))
				continue
			}
			put(name, text)(t, dirs[i])
		}
		if strings.Contains(c.files["p.hcl"], `"./m"`) {
			check(t, os.CopyFS(filepath.Join(dirs[i], "m"), tiny.Files()))
		}
		runIn(t, dirs[i], exitOK, c.args)
	}
	time.Sleep(2100 * time.Millisecond)
	for i, c := range cases {
		runIn(t, dirs[i], exitOK, c.args)
		if !stamped(t, dirs[i]) {
			t.Fatalf("%s: the run left no stamp", c.name)
		}
	}
	for i, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			before := runs(t, dirs[i])
			out := runIn(t, dirs[i], exitOK, c.args)
			if !strings.Contains(out, "Nothing to do") || runs(t, dirs[i]) != before {
				t.Fatalf("the stamp does not hold although nothing changed: %s", out)
			}
			if c.change != nil {
				c.change(t, dirs[i])
				before = runs(t, dirs[i])
			}
			out = runIn(t, dirs[i], c.code, append(c.args[:len(c.args):len(c.args)], c.again...))
			if !strings.Contains(out, c.want) {
				t.Errorf("got %q, want %q", out, c.want)
			}
			if runs(t, dirs[i]) == before {
				t.Error("the stamp holds, but should not")
			}
		})
	}
}

// Runs that depend on more than files, have something to say, or whose values
// are secret leave no stamp.
func TestSomeRunsLeaveNoStamp(t *testing.T) {
	files := map[string]string{
		"a failed gate": `
score "s" {
  base  = 0.5
  tuned = 0.5
  gate "g" {
    condition     = self.metrics["qa.acc"] > 1
    error_message = "no"
  }
}`,
		"a warning":      stampRecipe + "step \"b\" {\n  resources {\n    gpus = 1\n  }\n}\n",
		"a secret":       "variable \"v\" {\n  default = \"x\"\n  sensitive = true\n}\n" + stampRecipe,
		"a branch":       "model \"m\" {\n  source = \"hf://a/b\"\n}\nexport \"m\" {\n  model = model.m\n  formats = [\"safetensors\"]\n}\n",
		"nothing at all": stampRecipe,
	}
	files["a gate and a pinned baseline"] = strings.ReplaceAll(files["a failed gate"], "> 1", "> 0.1")
	dirs := map[string]string{}
	cache := t.TempDir()
	t.Setenv("HF_HUB_CACHE", cache)
	t.Setenv("HF_HUB_OFFLINE", "1")
	commit := strings.Repeat("0123456789", 4)
	files["a file that changes now"] = stampRecipe
	check(t, os.CopyFS(filepath.Join(cache, "models--a--b", "snapshots", commit), tiny.Files()))
	put("models--a--b/refs/main", commit)(t, cache)
	codes := map[string]int{"a failed gate": exitGate}
	for name, text := range files {
		dirs[name] = t.TempDir()
		put("p.hcl", text)(t, dirs[name])
		put("rows.jsonl", oneRow)(t, dirs[name])
		runIn(t, dirs[name], codes[name], nil)
		if strings.Contains(name, "baseline") {
			put(".pipe/baselines/p.json", "{}")(t, dirs[name])
		}
	}
	pinned := t.TempDir()
	put("p.hcl", strings.ReplaceAll(files["a branch"], "hf://a/b", "hf://a/b@"+commit))(t, pinned)
	runIn(t, pinned, exitOK, nil)
	time.Sleep(2100 * time.Millisecond)
	for name, dir := range dirs {
		if name == "a file that changes now" { // for as long as this test may take
			soon := time.Now().Add(time.Hour)
			check(t, os.Chtimes(filepath.Join(dir, "rows.jsonl"), soon, soon))
			runIn(t, dir, exitOK, nil)
		}
		runIn(t, dir, codes[name], nil)
		if want := name == "nothing at all"; stamped(t, dir) != want {
			t.Errorf("%s: stamped is %v", name, !want)
		}
	}
	if runIn(t, pinned, exitOK, nil); !stamped(t, pinned) {
		t.Error("a run with a model at a commit left no stamp")
	}
}

// Runs for programs list every stage, stamp or not.
func TestRunsForProgramsTakeNoPart(t *testing.T) {
	for _, o := range []options{{json: true}, {progress: "json"}, {logLevel: "info"}, {force: list{"step.a"}}} {
		if newStamper(&o, nil, "p.hcl") != nil {
			t.Errorf("%+v has a stamp", o)
		}
	}
	if newStamper(&options{progress: "auto"}, nil, "p.hcl") == nil {
		t.Error("an ordinary run has none")
	}
}

func runAgain(t *testing.T, args ...string) (code int, out, err string) {
	t.Helper()
	var o, e bytes.Buffer
	kinds := append([]stage.Kind{stepKind, scoreKind}, stages.All...)
	code = dispatch(context.Background(), &app{&terminal{out: &o, err: &e, width: 100, height: 24}, kinds}, args)
	return code, o.String(), e.String()
}

// runIn runs p.hcl, or what args name, in dir.
func runIn(t *testing.T, dir string, want int, args []string) string {
	t.Helper()
	t.Chdir(dir)
	all := append([]string{"run", "--progress", "none"}, args...)
	if len(args) == 0 || args[0] != "." {
		all = append(all, "p.hcl")
	}
	code, out, err := runAgain(t, all...)
	if code != want {
		t.Fatalf("%q: exit code %d, want %d\n%s%s", all, code, want, out, err)
	}
	return out
}

func stamped(t *testing.T, dir string) bool { return len(glob(t, dir, ".pipe/stamps/*")) > 0 }

func runs(t *testing.T, dir string) int { return len(glob(t, dir, ".pipe/runs/*.json")) }

func glob(t *testing.T, dir, pattern string) []string {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(dir, pattern))
	check(t, err)
	return paths
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func put(name, text string) func(*testing.T, string) {
	return func(t *testing.T, dir string) {
		t.Helper()
		path := filepath.Join(dir, name)
		check(t, os.MkdirAll(filepath.Dir(path), 0o777))
		check(t, os.WriteFile(path, []byte(text), 0o666))
	}
}

func edit(name, old, new string) func(*testing.T, string) {
	return func(t *testing.T, dir string) {
		t.Helper()
		b, err := os.ReadFile(filepath.Join(dir, name))
		check(t, err)
		if !bytes.Contains(b, []byte(old)) {
			t.Fatalf("%s does not hold %q", name, old)
		}
		check(t, os.WriteFile(filepath.Join(dir, name), bytes.Replace(b, []byte(old), []byte(new), 1), 0o666))
	}
}

func remove(pattern string) func(*testing.T, string) {
	return func(t *testing.T, dir string) {
		t.Helper()
		paths := glob(t, dir, pattern)
		if len(paths) == 0 {
			t.Fatalf("nothing matches %s", pattern)
		}
		for _, p := range paths {
			check(t, os.RemoveAll(p))
		}
	}
}

// Pipelines that share a store do not take each other's stamps.
func TestOtherPipelinesLeaveStampsAlone(t *testing.T) {
	dir := t.TempDir()
	put("p.hcl", stampRecipe)(t, dir)
	put("q.hcl", strings.ReplaceAll(stampRecipe, "one", "two"))(t, dir)
	put("rows.jsonl", oneRow)(t, dir)
	t.Chdir(dir)
	run := func(name string) {
		if code, out, err := runAgain(t, "run", name); code != exitOK {
			t.Fatal(out, err)
		}
	}
	run("p.hcl")
	run("q.hcl")
	time.Sleep(2100 * time.Millisecond)
	run("p.hcl")
	run("q.hcl")
	before := runs(t, dir)
	run("p.hcl")
	run("q.hcl")
	if after := runs(t, dir); after != before {
		t.Errorf("%d runs were noted, although nothing changed", after-before)
	}
}
