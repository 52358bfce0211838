package lang

import (
	"fmt"
	"maps"
	"math"
	"reflect"
	"slices"

	"github.com/hashicorp/hcl/v2"
	"github.com/zclconf/go-cty/cty"

	"pipe/runtime/stage"
)

// bound is an expression of a gate with the scope of its block.
type bound struct {
	hcl.Expression
	ctx *hcl.EvalContext
}

// Value evaluates the expression; ctx holds self and baseline.
func (b bound) Value(ctx *hcl.EvalContext) (cty.Value, hcl.Diagnostics) {
	child := b.ctx.NewChild()
	child.Variables = map[string]cty.Value{}
	if ctx != nil {
		child.Variables = ctx.Variables
	}
	return b.Expression.Value(child)
}

// gatesOf returns the gates in a spec.
func gatesOf(spec any, p *plan) []stage.Gate {
	for i := range p.blocks {
		if f := &p.blocks[i]; f.typ == reflect.SliceOf(gateType) {
			return reflect.ValueOf(spec).Elem().FieldByIndex(f.index).Interface().([]stage.Gate)
		}
	}
	return nil
}

// checkGateExpr reports references that EvalGate could not satisfy.
func (d *decoder) checkGateExpr(e hcl.Expression) {
	for _, t := range e.Variables() {
		root := t.RootName()
		if root == "self" || root == "baseline" {
			if len(t) < 2 || stepName(t[1]) != "metrics" {
				d.report(errorAt(t.SourceRange(), "Invalid reference", "Write %s.metrics[\"SUITE.METRIC\"].", root))
			}
			continue
		}
		if len(t) < 2 || !d.l.isRoot(root) {
			continue
		}
		u := d.l.decls[d.scope.mod.prefix+root+"."+stepName(t[1])]
		switch {
		case u == nil || u.broken:
			d.failed = true
		case u.block != nil && u.typ != "var":
			d.report(errorAt(t.SourceRange(), "Invalid reference", "A gate judges numbers; it refers to self.metrics, baseline.metrics, var and local, not to %s.", u.addr))
		}
	}
}

// EvalGate judges a gate by the metrics of its stage and of the baseline, both
// by name ("license_qa.acc"). If it does not pass, msg is its error_message.
// A metric that is missing or not a number is an error, never a pass.
func EvalGate(g stage.Gate, self, baseline map[string]float64) (pass bool, msg string, diags hcl.Diagnostics) {
	given := map[string]map[string]float64{"self": self, "baseline": baseline}
	ctx := &hcl.EvalContext{Variables: map[string]cty.Value{"self": metricsVal(self), "baseline": metricsVal(baseline)}}
	for _, t := range g.Condition.Variables() {
		metrics, ok := given[t.RootName()]
		if !ok || len(t) < 3 {
			continue
		}
		name := stepName(t[2])
		if v, ok := metrics[name]; name != "" && !ok {
			diags = append(diags, errorAt(t.SourceRange(), "Unknown metric", "%s has no metric %q.%s", t.RootName(), name, meantMetric(name, metrics)))
		} else if math.IsNaN(v) {
			diags = append(diags, errorAt(t.SourceRange(), "Metric is not a number", "%s.metrics[%q] is NaN, which passes no gate.", t.RootName(), name))
		}
	}
	if diags.HasErrors() {
		return false, "", tidy(diags)
	}
	pass, diags = evalBool(g.Condition, ctx)
	if diags.HasErrors() || pass {
		return pass, "", tidy(diags)
	}
	return false, evalMessage(g.ErrorMessage, ctx), nil
}

func meantMetric(name string, metrics map[string]float64) string {
	names := slices.Collect(maps.Keys(metrics))
	if s := didYouMean(name, names, "%q"); s != "" {
		return s
	}
	if len(names) == 0 {
		return " It has none."
	}
	return fmt.Sprintf(" It has %s.", list(names))
}

func metricsVal(m map[string]float64) cty.Value {
	vals := map[string]cty.Value{}
	for k, x := range m {
		if !math.IsNaN(x) { // cty has no NaN
			vals[k] = cty.NumberFloatVal(x)
		}
	}
	return cty.ObjectVal(map[string]cty.Value{"metrics": cty.ObjectVal(vals)})
}
