package sft

import (
	"context"
	"strings"
	"testing"

	"pipe/runtime/artifact"
	"pipe/runtime/lang"
	"pipe/runtime/stage"
)

// packer stands for the pack stage.
type packer struct{}

func (packer) Check() error                          { return nil }
func (packer) Run(context.Context, *stage.Env) error { return nil }

func load(t *testing.T, src string) (*lang.Program, string) {
	t.Helper()
	pack := stage.Kind{Name: "pack", Outputs: []stage.Output{{Name: "dataset", Type: artifact.Dataset}}, New: func() stage.Stage { return &packer{} }}
	src = "model \"base\" {\n  source = \"./m\"\n}\npack \"train\" {}\n" + src
	p, diags := lang.LoadSource([]byte(src), "x.hcl", t.TempDir(), []stage.Kind{Kind, pack}, lang.Options{})
	if diags.HasErrors() {
		return nil, diags.Error()
	}
	return p, ""
}

// TestLanguage reads blocks as people write them.
func TestLanguage(t *testing.T) {
	p, msg := load(t, `
sft "legal" {
  for_each = matrix({ rank = [8, 16] })
  base   = model.base
  data   = pack.train.dataset
  epochs = 2
  lr     = 2e-4
  adapter "dora" {
    rank    = each.value.rank
    alpha   = 2 * each.value.rank
    targets = ["q_proj", "k_proj"]
  }
}
sft "next" {
  base = sft.legal["rank=8"].model
  data = pack.train.dataset
}
sft "new" {
  base = model.base
  data = pack.train.dataset
  init = "random"
  optimizer = "adamw_8bit"
  adapter "none" {}
}
`)
	if msg != "" {
		t.Fatal(msg)
	}
	s := p.Node(`sft.legal["rank=16"]`).Stage.(*spec)
	if c := s.Adapter.config(); !c.DoRA || c.Rank != 16 || c.Alpha != 32 || len(c.Targets) != 2 || s.Epochs != 2 {
		t.Errorf("%+v, adapter %+v", s, c)
	}
	if s := p.Node("sft.next").Stage.(*spec); s.Adapter != nil || s.LR != 2e-4 || s.Schedule != "cosine" || s.options(&stage.Env{}).EightBit {
		t.Errorf("%+v", s)
	}
	if s := p.Node("sft.new").Stage.(*spec); s.Adapter.config() != nil || !s.options(&stage.Env{}).EightBit {
		t.Errorf("%+v", s.Adapter)
	}
}

func TestLanguageErrors(t *testing.T) {
	const head = "sft \"x\" {\n  base = model.base\n  data = pack.train.dataset\n"
	for body, want := range map[string]string{
		"  lr = 0\n}":                               "lr",
		"  adapter \"ia3\" {}\n}":                   "ia3",
		"  adapter \"lora\" {\n    rnk = 3\n  }\n}": "rank",
		"  init = \"random\"\n}":                    "needs adapter",
		"  epoch = 3\n}":                            "epochs",
		"  optimizer = \"lion\"\n}":                 "adamw_8bit",
	} {
		if _, msg := load(t, head+body); !strings.Contains(msg, want) {
			t.Errorf("%q: %q, want %q in it", body, msg, want)
		}
	}
}
