package lang

import (
	"math"
	"strings"
	"testing"

	"pipe/runtime/stage"
)

func loadGate(t *testing.T, condition, message string) stage.Gate {
	t.Helper()
	p := mustLoad(t, `
variable "slack" { default = 0.05 }
locals { metric = "qa.acc" }
model "m" { source = "x" }
eval "e" {
  for_each = { a = 0.5 }
  model    = model.m
  gate "g" {
    condition     = `+condition+`
    error_message = `+message+`
  }
}`, Options{})
	gates := p.Node(`eval.e["a"]`).Gates
	equal(t, "gates", len(gates), 1)
	equal(t, "name", gates[0].Name, "g")
	return gates[0]
}

func TestEvalGate(t *testing.T) {
	self := map[string]float64{"qa.acc": 0.7, "ppl.nll": 2, "broken": math.NaN(), "inf": math.Inf(1)}
	baseline := map[string]float64{"qa.acc": 0.5}
	for _, tc := range []struct {
		condition, message string
		pass               bool
		msg, err           string
	}{
		{`self.metrics["qa.acc"] >= baseline.metrics["qa.acc"] - var.slack`, `"x"`, true, "", ""},
		{`self.metrics["qa.acc"] >= base.metrics["qa.acc"] + 0.45`, `"x"`, true, "", ""},
		{`base.metrics["ppl.nll"] > 0`, `"x"`, false, "", `base has no metric "ppl.nll". It has qa.acc.`},
		{`self.metrics["qa.acc"] > 0.9`, `"only ${self.metrics["qa.acc"]}"`, false, "only 0.7", ""},
		{`self.metrics[local.metric] > each.value`, `each.key`, true, "", ""},
		{`self.metrics["inf"] < 1`, `"infinite"`, false, "infinite", ""},
		{`self.metrics["qa.ac"] > 0.5`, `"x"`, false, "", `self has no metric "qa.ac". Did you mean "qa.acc"?`},
		{`baseline.metrics["ppl.nll"] > 0.5`, `"x"`, false, "", `baseline has no metric "ppl.nll". It has qa.acc.`},
		{`self.metrics["broken"] < 1 || true`, `"x"`, false, "", `self.metrics["broken"] is NaN, which passes no gate.`},
		{`self.metrics["qa.acc"]`, `"x"`, false, "", "this is a number"},
		{`false`, `self.metrics["none"]`, false, "(the error_message failed", ""},
		{`false`, `[1]`, false, "(the error_message is not a string)", ""},
	} {
		v, diags := EvalGate(loadGate(t, tc.condition, tc.message), GateMetrics{self, baseline, map[string]float64{"qa.acc": 0.25}})
		pass, msg := v.Pass, v.Message
		if pass != tc.pass || !strings.HasPrefix(msg, tc.msg) || tc.msg == "" && msg != "" {
			t.Errorf("%s: got %v, %q; want %v, %q", tc.condition, pass, msg, tc.pass, tc.msg)
		}
		switch {
		case tc.err == "" && diags.HasErrors():
			t.Errorf("%s: %v", tc.condition, diags)
		case tc.err != "" && (len(diags) != 1 || !strings.Contains(diags[0].Detail, tc.err)):
			t.Errorf("%s: got %v, want %q", tc.condition, diags, tc.err)
		case tc.err != "" && diags[0].Subject.Start.Line != 9:
			t.Errorf("%s: reported at %s", tc.condition, diags[0].Subject)
		}
	}
}

// A gate without metrics, as after an eval that measured nothing, does not pass.
func TestEvalGateWithoutMetrics(t *testing.T) {
	v, diags := EvalGate(loadGate(t, `self.metrics["qa.acc"] > 0`, `"x"`), GateMetrics{})
	if v.Pass || len(diags) != 1 || !strings.HasSuffix(diags[0].Detail, "It has none.") {
		t.Errorf("got %+v, %v", v, diags)
	}
}

// A verdict shows the numbers on both sides, and of a condition of several parts
// those that decided.
func TestGateShowsItsNumbers(t *testing.T) {
	m := GateMetrics{
		Self:     map[string]float64{"ppl.nll": 2.56513, "qa.acc": 0.7, "qa.f1": 0.70000001},
		Baseline: map[string]float64{"ppl.nll": 2.27071, "qa.acc": 0.7},
		Base:     map[string]float64{"qa.acc": 0.5},
	}
	for condition, want := range map[string]string{
		`self.metrics["ppl.nll"] <= baseline.metrics["ppl.nll"] + 0.05`:                  "ppl.nll 2.5651 > baseline 2.2707 + 0.05",
		`self.metrics["ppl.nll"] <= baseline.metrics["ppl.nll"] * (1 + var.slack) + 1`:   "ppl.nll 2.5651 <= baseline 2.2707 * (1 + 0.05) + 1",
		`self.metrics["qa.acc"] > base.metrics["qa.acc"] && self.metrics["ppl.nll"] < 2`: "ppl.nll 2.5651 >= 2",
		`self.metrics["qa.acc"] > base.metrics["qa.acc"] && self.metrics["ppl.nll"] < 3`: "qa.acc 0.7 > base 0.5 and ppl.nll 2.5651 < 3",
		`self.metrics["qa.acc"] > 0.9 || self.metrics["ppl.nll"] < 3`:                    "ppl.nll 2.5651 < 3",
		`!(self.metrics["qa.acc"] > 0.5)`:                                                "qa.acc 0.7 > 0.5",
		`self.metrics["qa.f1"] <= self.metrics["qa.acc"]`:                                "qa.f1 0.70000001 > qa.acc 0.7",
		`abs(self.metrics["qa.acc"] - baseline.metrics["ppl.nll"]) < 0.1`:                "abs(qa.acc 0.7 - baseline ppl.nll 2.2707) >= 0.1",
		`self.metrics[local.metric] > each.value`:                                        "0.7 > 0.5",
		`self.metrics["qa.acc"] == -1`:                                                   "qa.acc 0.7 != -1",
		`each.key == "a" ? self.metrics["qa.acc"] < 0 : true`:                            "",
	} {
		v, diags := EvalGate(loadGate(t, condition, `"x"`), m)
		if diags.HasErrors() || v.Values != want {
			t.Errorf("%s:\ngot  %q\nwant %q %v", condition, v.Values, want, diags)
		}
	}
}
