package pipelines_test

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"pipe/runtime/lang"
	"pipe/stages"
)

// TestRecipesLoad holds that every recipe decodes: kinds, attributes,
// references and checks.
func TestRecipesLoad(t *testing.T) {
	var files []string
	for _, pattern := range []string{"*.hcl", "*/*.hcl"} {
		m, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, m...)
	}
	if len(files) < 3 {
		t.Fatalf("only %d recipes found: %v", len(files), files)
	}
	for _, f := range files {
		prog, diags := lang.Load(f, stages.All, lang.Options{})
		if diags.HasErrors() {
			var b bytes.Buffer
			lang.WriteDiagnostics(&b, prog.Files, diags, false, 0)
			t.Errorf("%s:\n%s", f, b.String())
		}
	}
}

// TestQuickstart runs the README's command from nothing, looks at what it
// says, and runs it again.
func TestQuickstart(t *testing.T) {
	if testing.Short() {
		t.Skip("takes about a minute")
	}
	bin := filepath.Join(t.TempDir(), "pipe")
	if out, err := exec.Command("go", "build", "-o", bin, "../cmd/pipe").CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	store, out := t.TempDir(), filepath.Join(t.TempDir(), "model")
	run := func(args ...string) string {
		t.Helper()
		c := exec.Command(bin, append([]string{"run", "quickstart.hcl", "--store", store, "--var", "out=" + out}, args...)...)
		out, err := c.CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %v\n%s", args, err, out)
		}
		return string(out)
	}
	first := run()
	for _, want := range []string{"replayed from journals", "sft.tuned", "eval.loss", "dpo.final", "eval.accuracy", "extract.exact_match", "choice.acc", "prose.nll", "needle", "gate no_forgetting", "export.release lies in"} {
		if !strings.Contains(first, want) {
			t.Errorf("the first run does not say %q:\n%s", want, first)
		}
	}
	for _, f := range []string{"peft/adapter_model.safetensors", "safetensors/model.safetensors", "gguf"} {
		if _, err := os.Stat(filepath.Join(out, f)); err != nil {
			t.Error(err)
		}
	}
	card, err := os.ReadFile(filepath.Join(out, "peft", "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"| r | 16 |", "### Stage 1: sft", "| learning_rate | 0.001 |", "### Stage 2: dpo", "| learning_rate | 0.0002 |", "| beta | 0.1 |", "## Data", "| eval.accuracy | 127 |", "| needle.acc |"} {
		if !strings.Contains(string(card), want) {
			t.Errorf("the model card lacks %q:\n%s", want, card)
		}
	}
	if again := run(); !strings.HasPrefix(again, "Nothing to do: ") {
		t.Errorf("the second run did something:\n%s", again)
	}
	if more := run("--var", "lr=5e-4"); !regexp.MustCompile(`(?m)^.*sft\.tuned done`).MatchString(more) || strings.Contains(more, "pack.train done") {
		t.Errorf("changing lr must re-run sft and nothing before it:\n%s", more)
	}
}
