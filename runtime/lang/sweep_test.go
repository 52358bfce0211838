package lang

import (
	"strings"
	"testing"
)

const sweepHead = `
model "m" { source = "x" }
data "docs" { source = "x" }
variable "full" { default = false }
`

func sft(name, rest string) string {
	return "sft \"" + name + "\" {\n base = model.m\n data = data.docs\n" + rest + "\n}\n"
}

// Keys are stable: sorted, and spelled by the values.
func TestForEachKeys(t *testing.T) {
	for _, tc := range []struct{ forEach, want string }{
		{`matrix({ rank = [16, 8], lr = [1e-4, 0.0002] })`, `"lr=0.0001,rank=16" "lr=0.0001,rank=8" "lr=0.0002,rank=16" "lr=0.0002,rank=8"`},
		{`matrix({ loss = ["ipo", "orpo"], packed = [true] })`, `"loss=ipo,packed=true" "loss=orpo,packed=true"`},
		{`{ small = 8, large = 16 }`, `"large" "small"`},
		{`tomap({ a = 1 })`, `"a"`},
		{`toset(["b", "a", "b"])`, `"a" "b"`},
		{`{ "quote\"d" = 1 }`, `"quote\"d"`},
		{`{ for k, v in { a = 1, b = 2 } : "${k}${v}" => v if v > 1 }`, `"b2"`},
		{`{}`, ``},
		{`toset([])`, ``},
	} {
		p := mustLoad(t, sweepHead+sft("s", "for_each = "+tc.forEach), Options{})
		var got []string
		for _, a := range p.Addrs("sft.s") {
			got = append(got, strings.TrimSuffix(strings.TrimPrefix(a, "sft.s["), "]"))
		}
		equal(t, tc.forEach, strings.Join(got, " "), tc.want)
	}
}

func TestEach(t *testing.T) {
	p := mustLoad(t, sweepHead+sft("s", `
for_each = matrix({ rank = [8], lr = [0.5] })
lr = each.value.lr
adapter "lora" {
  rank    = each.value.rank
  targets = [each.key]
}`), Options{})
	s := p.Node(`sft.s["lr=0.5,rank=8"]`).Stage.(*sftSpec)
	equal(t, "rank", s.Adapter.Rank, 8)
	equal(t, "lr", s.LR, 0.5)
	equal(t, "key", s.Adapter.Targets[0], "lr=0.5,rank=8")
}

// A sweep over a sweep pairs the instances, and a fixed key picks one.
func TestSweepOverSweep(t *testing.T) {
	p := mustLoad(t, sweepHead+sft("s", `for_each = toset(["a", "b"])`)+`
eval "e" {
  for_each = sft.s
  model    = each.value.model
}
export "one" {
  model   = eval.e["b"].model
  formats = []
}
locals {
  chosen = "a"
}
export "computed" {
  model   = sft.s[local.chosen].model
  formats = []
}
export "some" {
  for_each = { for k, s in sft.s : k => s if k != "a" }
  model    = each.value.model
  formats  = []
}
select "best" {
  from   = { for k, s in eval.e : upper(k) => s }
  metric = "x"
}
select "single" {
  from   = eval.e["a"]
  metric = "x"
}`, Options{})
	equal(t, "pair", strings.Join(p.Node(`eval.e["a"]`).Needs, " "), `sft.s["a"]`)
	equal(t, "one", strings.Join(p.Node("export.one").Needs, " "), `sft.s["b"]`)
	equal(t, "computed", strings.Join(p.Node("export.computed").Needs, " "), `sft.s["a"]`)
	equal(t, "some", strings.Join(p.Addrs("export.some"), " "), `export.some["b"]`)
	from := p.Node("select.best").Stage.(*selectSpec).From
	equal(t, "renamed keys", from[0].Key+from[1].Key, "AB")
	single := p.Node("select.single").Stage.(*selectSpec).From
	equal(t, "a stage without for_each is one candidate", len(single), 1)
	equal(t, "its key", single[0].Key, "")
}

func TestWhen(t *testing.T) {
	src := sweepHead + sft("extra", "when = var.full") + sft("s", `
for_each = toset(["a", "b"])
when     = var.full || each.key == "b"`) + `
eval "chosen" {
  model = var.full ? sft.extra.model : model.m
}
eval "null" {
  model = sft.extra == null ? model.m : sft.extra.model
}`
	p := mustLoad(t, src, Options{})
	equal(t, "off", strings.Join(p.Addrs("sft.extra"), ""), "")
	equal(t, "instances", strings.Join(p.Addrs("sft.s"), " "), `sft.s["b"]`)
	equal(t, "chosen", p.Node("eval.chosen").Inputs[0].Ref.String(), "model.m")
	equal(t, "null", p.Node("eval.null").Inputs[0].Ref.String(), "model.m")

	p = mustLoad(t, src, Options{Vars: map[string]string{"full": "true"}})
	equal(t, "on", strings.Join(p.Addrs("sft.extra"), " "), "sft.extra")
	equal(t, "instances", strings.Join(p.Addrs("sft.s"), " "), `sft.s["a"] sft.s["b"]`)
	equal(t, "chosen", p.Node("eval.chosen").Inputs[0].Ref.String(), "sft.extra.model")
	equal(t, "null", p.Node("eval.null").Inputs[0].Ref.String(), "sft.extra.model")
}

// model, teacher and data blocks can be swept like any other.
func TestSweepOfModels(t *testing.T) {
	p := mustLoad(t, `
model "m" {
  for_each = toset(["a", "b"])
  source   = "./${each.key}"
}
eval "e" {
  for_each = model.m
  model    = each.value
}`, Options{})
	equal(t, "source", p.Node(`model.m["b"]`).Model.Source, "./b")
	equal(t, "model", p.Node(`eval.e["b"]`).Inputs[0].Ref.String(), `model.m["b"]`)
}
