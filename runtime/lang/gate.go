package lang

import (
	"fmt"
	"maps"
	"math"
	"reflect"
	"slices"
	"strings"

	"github.com/hashicorp/hcl/v2"
	"github.com/zclconf/go-cty/cty"

	"pipe/runtime/stage"
)

// bound is an expression of a gate with the scope of its block.
type bound struct {
	hcl.Expression
	ctx *hcl.EvalContext
}

// Value evaluates the expression; ctx holds self, baseline and base.
func (b bound) Value(ctx *hcl.EvalContext) (cty.Value, hcl.Diagnostics) {
	return b.Expression.Value(b.inside(ctx))
}

// inside is the scope of the block with the variables of ctx.
func (b bound) inside(ctx *hcl.EvalContext) *hcl.EvalContext {
	child := b.ctx.NewChild()
	child.Variables = map[string]cty.Value{}
	if ctx != nil {
		child.Variables = ctx.Variables
	}
	return child
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
		if isGateRoot(root) {
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
			d.report(errorAt(t.SourceRange(), "Invalid reference", "A gate judges numbers; it refers to self.metrics, baseline.metrics, base.metrics, var and local, not to %s.", u.addr))
		}
	}
}

// checkGates reports metrics in the gates of n that it will not measure, as far as
// it knows before it runs.
func (l *loader) checkGates(n *Node) {
	m, ok := n.Stage.(stage.Measurer)
	if !ok || len(n.Gates) == 0 {
		return
	}
	known := m.Measures()
	if len(known) == 0 {
		return
	}
	for _, g := range n.Gates {
		for _, e := range []hcl.Expression{g.Condition, g.ErrorMessage} {
			if e == nil {
				continue
			}
			for _, t := range e.Variables() {
				if !isGateRoot(t.RootName()) || len(t) < 3 || stepName(t[2]) == "" {
					continue
				}
				if problem := unmeasured(stepName(t[2]), known); problem != "" {
					l.errorAt(t.SourceRange(), "Unknown metric", "%s has no metric %q: %s", t.RootName(), stepName(t[2]), problem)
				}
			}
		}
	}
}

// checkDecider reports a metric that n decides by and that is not measured.
func (l *loader) checkDecider(n *Node) {
	s, ok := n.Stage.(stage.Decider)
	if !ok {
		return
	}
	field, metric, of := s.Decides()
	for _, m := range of {
		from := l.prog.byAddr[m.Addr]
		if from == nil {
			continue
		}
		if who, ok := from.Stage.(stage.Measurer); ok {
			known := who.Measures()
			if problem := unmeasured(metric, known); len(known) > 0 && metric != "" && problem != "" {
				l.errorAt(n.Range(field), "Unknown metric", "%s does not measure %q: %s", m.Addr, metric, problem)
				return
			}
		}
	}
}

// checkTuner reports that the base of n forbids what n asks for, as far as the file tells.
func (l *loader) checkTuner(n *Node) {
	t, ok := n.Stage.(stage.Tuner)
	if !ok {
		return
	}
	base, says, all := t.Tunes()
	from := l.prog.byAddr[base.Addr]
	switch {
	case from == nil:
	case from.Model != nil && from.Model.Quantize != "" && all:
		l.errorAt(n.Range("adapter"), "Weights in 4 bits cannot be trained", "%s has quantize = %q. Take an adapter \"lora\" or \"dora\", or leave out quantize in the model block.", from.Addr, from.Model.Quantize)
	case says:
		under := from // the first that carries no adapter
		for under != nil {
			t, ok := under.Stage.(stage.Tuner)
			if !ok {
				break
			}
			base, _, whole := t.Tunes()
			if whole {
				break
			}
			under = l.prog.byAddr[base.Addr]
		}
		if under != nil && under != from {
			l.errorAt(n.Range("adapter"), "The base has an adapter", "%s carries an adapter, which is trained on. Leave out the adapter block, or start from %s.", from.Addr, under.Addr)
		}
	}
}

// checkAdapterUser reports that n needs an adapter where there is none, as far as the file tells.
func (l *loader) checkAdapterUser(n *Node) {
	u, ok := n.Stage.(stage.AdapterUser)
	if !ok {
		return
	}
	field, of := u.UsesAdapter()
	from := l.prog.byAddr[of.Addr]
	if field == "" || from == nil {
		return
	}
	all := from.Model != nil
	if t, ok := from.Stage.(stage.Tuner); ok {
		_, _, all = t.Tunes()
	}
	if all {
		l.errorAt(n.Range(field), "No adapter", "peft is an adapter, and %s has none: all its weights are its own. Take safetensors.", from.Addr)
	}
}

// unmeasured says why nothing of that name is measured; "" when it may be.
func unmeasured(name string, known map[string][]string) string {
	suite, metric, dotted := strings.Cut(name, ".")
	if !dotted {
		return fmt.Sprintf("a name has two parts, SUITE.METRIC, and the suites are %s.", list(sortedKeys(known)))
	}
	metrics, ok := known[suite]
	if !ok {
		hint := didYouMean(suite, sortedKeys(known), "%q")
		if hint == "" {
			hint = fmt.Sprintf(" The suites are %s.", list(sortedKeys(known)))
		}
		return fmt.Sprintf("there is no suite %q.%s", suite, hint)
	}
	if slices.Contains(metrics, metric) {
		return ""
	}
	hint := didYouMean(metric, metrics, "%q")
	if hint == "" {
		hint = fmt.Sprintf(" It may have %s.", list(metrics))
	}
	return fmt.Sprintf("suite %q has no %q.%s", suite, metric, hint)
}

// isGateRoot reports whether a name has a meaning only inside a gate.
func isGateRoot(name string) bool { return name == "self" || name == "baseline" || name == "base" }

// GateMetrics are the numbers that a gate may refer to, each by the name of its
// metric ("license_qa.acc").
type GateMetrics struct {
	Self     map[string]float64 // of the stage itself
	Baseline map[string]float64 // of the same stage in the pinned run; of the base model when none is pinned
	Base     map[string]float64 // of the untuned base model
}

// A Verdict is the judgement of a gate.
type Verdict struct {
	Pass    bool
	Message string // the gate's error_message, if it did not pass
	Values  string // the condition with its numbers, as it turned out: "prose.nll 2.5651 > baseline 2.2707 + 0.05"
}

// EvalGate judges a gate. A metric that is missing or not a number is an error,
// never a pass.
func EvalGate(g stage.Gate, m GateMetrics) (v Verdict, diags hcl.Diagnostics) {
	given := map[string]map[string]float64{"self": m.Self, "baseline": m.Baseline, "base": m.Base}
	ctx := &hcl.EvalContext{Variables: map[string]cty.Value{}}
	for name, metrics := range given {
		ctx.Variables[name] = metricsVal(metrics)
	}
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
		return v, tidy(diags)
	}
	v.Pass, diags = evalBool(g.Condition, ctx)
	if diags.HasErrors() {
		return v, tidy(diags)
	}
	v.Values = conditionText(g.Condition, ctx)
	if !v.Pass {
		v.Message = evalMessage(g.ErrorMessage, ctx)
	}
	return v, tidy(diags)
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
