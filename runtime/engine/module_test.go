package engine

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"pipe/runtime/lang"
)

func (l *lab) module(name, src string, files map[string]string) {
	l.t.Helper()
	dir := filepath.Join(l.dir, name)
	if err := os.MkdirAll(dir, 0o777); err != nil {
		l.t.Fatal(err)
	}
	l.write(filepath.Join(name, "m.hcl"), src)
	for f, text := range files {
		l.write(filepath.Join(name, f), text)
	}
}

// Stages that move into a module, files and all, keep their results: addresses
// and places are no part of a key.
func TestMovingIntoAModuleRunsNothing(t *testing.T) {
	l := newLab(t)
	l.write("a.txt", "a")
	first := l.must(chain, "docs one side two")
	l.module("prep", `
data "docs" {
  id     = "docs"
  source = "*.txt"
}
step "cleaned" {
  id   = "one"
  from = [data.docs]
  text = var.text
}
variable "text" { type = string }
output "rows" { value = step.cleaned.out }
`, map[string]string{"a.txt": "a"})
	l.module("last", `
variable "rows" { type = list(dataset) }
step "two" {
  id   = "two"
  from = var.rows
  text = "2"
}
`, nil)
	const moved = `
module "prep" {
  source = "./prep"
  text   = "1"
}
step "side" {
  id   = "side"
  text = "s"
}
module "last" {
  source = "./last"
  rows   = [module.prep.rows, step.side.out]
}
`
	second := l.must(moved, "")
	equal(t, "key", second.stage(t, "module.last.step.two").Key, first.stage(t, "step.two").Key)
	equal(t, "cached", second.Cached, 4)
	steps, err := Plan(context.Background(), l.load(moved), l.options())
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range steps {
		equal(t, s.Addr, s.Action, PlanCached)
	}
	l.write("prep/a.txt", "b") // and the module's own files are what is read
	l.must(moved, "docs one two")
	l.must(moved, "side", func(o *Options) { o.Targets, o.Force = []string{"step.side"}, []string{"step.side"} })
}

// A module's models lie beside the module, and one model is found again
// whichever block names it.
func TestModelsOfModules(t *testing.T) {
	l := newLab(t)
	l.module("m", `
model "base" { source = "weights" }
tune "t" {
  id   = "t"
  base = model.base
  rank = 4
}
output "model" { value = tune.t.model }
`, map[string]string{"weights": "w"})
	l.must(`
module "m" { source = "./m" }
judge "j" {
  id    = "j"
  model = module.m.model
  score = 1
}`, "j t")
}

// What stands in a fetched module reads nothing outside of what was fetched,
// not even by a link.
func TestFetchedModulesReadTheirOwnFiles(t *testing.T) {
	for name, c := range map[string]struct{ src, want string }{
		"data":  {"data \"docs\" {\n id = \"docs\"\n source = \"../../*.txt\"\n}\n", "lies outside of what was fetched"},
		"link":  {"data \"docs\" {\n id = \"docs\"\n source = \"linked\"\n}\n", "lies outside of what was fetched"},
		"model": {"model \"m\" { source = \"../../secret.txt\" }\n", "lies outside of what was fetched"},
		"own":   {"data \"docs\" {\n id = \"docs\"\n source = \"../common\"\n}\n", ""},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLab(t)
			l.write("secret.txt", "secret")
			l.module("checkout/m", c.src, nil)
			l.write("checkout/common", "common")
			if err := os.Symlink(filepath.Join(l.dir, "secret.txt"), filepath.Join(l.dir, "checkout/m/linked")); err != nil {
				t.Skip("no symbolic links here")
			}
			prog, diags := lang.LoadSource([]byte(`module "m" { source = "git::https://example.org/r.git//m" }`), "p.hcl", l.dir, l.kinds(),
				lang.Options{Module: func(string) (string, string, error) {
					return filepath.Join(l.dir, "checkout/m"), filepath.Join(l.dir, "checkout"), nil
				}})
			if diags.HasErrors() {
				t.Fatal(diags)
			}
			_, err := Run(context.Background(), prog, l.options())
			if c.want != "" {
				contains(t, name, err, c.want)
			} else if err != nil {
				t.Error(err)
			}
		})
	}
}
