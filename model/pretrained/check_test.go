package pretrained

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"pipe/model/tiny"
)

func TestCheckWeights(t *testing.T) {
	edit := func(key string, value any) func(t *testing.T, dir string) {
		return func(t *testing.T, dir string) {
			path := filepath.Join(dir, "config.json")
			b, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			var c map[string]any
			if err := json.Unmarshal(b, &c); err != nil {
				t.Fatal(err)
			}
			c[key] = value
			if b, err = json.Marshal(c); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, b, 0o666); err != nil {
				t.Fatal(err)
			}
		}
	}
	for name, c := range map[string]struct {
		change func(t *testing.T, dir string)
		want   string
	}{
		"as it is": {func(*testing.T, string) {}, ""},
		"none": {func(t *testing.T, dir string) {
			if err := os.Remove(filepath.Join(dir, "model.safetensors")); err != nil {
				t.Fatal(err)
			}
		}, "init = \"random\""},
		"fewer layers": {edit("num_hidden_layers", 1), "config.json has no such tensor"},
		"more layers":  {edit("num_hidden_layers", 99), "is missing from the checkpoint"},
		"wider":        {edit("intermediate_size", 4096), "in the checkpoint; config.json says"},
		"no family":    {edit("model_type", "gpt2"), "gpt2"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "m")
			if err := os.CopyFS(dir, tiny.Files()); err != nil {
				t.Fatal(err)
			}
			c.change(t, dir)
			switch err := CheckWeights(dir, ""); {
			case c.want == "" && err != nil:
				t.Error(err)
			case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), dir)):
				t.Errorf("error is %v, want one with %q and the directory", err, c.want)
			}
		})
	}
}

func TestCheckTemplate(t *testing.T) {
	for text, want := range map[string]string{
		"{{ messages }}":             "",
		"":                           "t.jinja is empty",
		" \n\t\r\n":                  "t.jinja is empty",
		"a\r\nb\n{% if %}":           "t.jinja:3: ",
		"{{ messages }}\n\n{{ 'open": "t.jinja:3: ",
		strings.Repeat("x", 1<<20+1): "t.jinja: chat template: 1048577 bytes; at most",
	} {
		if err := CheckTemplate("t.jinja", text); want == "" && err != nil || want != "" && (err == nil || !strings.HasPrefix(err.Error(), want)) {
			t.Errorf("%.30q: got %v; want %q", text, err, want)
		}
	}
}

// A directory of PEFT's is told from one that lacks a file.
func TestAdapterIsNoModel(t *testing.T) {
	dir := t.TempDir()
	for _, err := range []error{CheckWeights(dir, ""), func() error { _, err := Open(dir); return err }()} {
		if err == nil || !strings.Contains(err.Error(), "has no config.json; a model directory is") {
			t.Errorf("got %v", err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "adapter_config.json"), []byte(`{"base_model_name_or_path":"org/base"}`), 0o666); err != nil {
		t.Fatal(err)
	}
	for _, err := range []error{CheckWeights(dir, ""), func() error { _, err := Open(dir); return err }()} {
		if err == nil || !strings.Contains(err.Error(), `is an adapter over the base "org/base", and no model: name a directory`) {
			t.Errorf("got %v", err)
		}
	}
}
