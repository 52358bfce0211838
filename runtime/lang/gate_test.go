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
		pass, msg, diags := EvalGate(loadGate(t, tc.condition, tc.message), self, baseline)
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
	pass, _, diags := EvalGate(loadGate(t, `self.metrics["qa.acc"] > 0`, `"x"`), nil, nil)
	if pass || len(diags) != 1 || !strings.HasSuffix(diags[0].Detail, "It has none.") {
		t.Errorf("got %v, %v", pass, diags)
	}
}
