package lang

import (
	"math"
	"strconv"
	"strings"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/zclconf/go-cty/cty"
)

// conditionText writes a condition as it turned out, with numbers for names:
// what was compared, and how. Of a conjunction that failed, only the parts that
// failed; "" for a condition that compares nothing.
func conditionText(e hcl.Expression, ctx *hcl.EvalContext) string {
	b, ok := e.(bound)
	if !ok {
		return ""
	}
	x, ok := b.Expression.(hclsyntax.Expression)
	if !ok {
		return ""
	}
	return strings.Join((&conditionWriter{ctx: b.inside(ctx)}).parts(x), " and ")
}

type conditionWriter struct {
	ctx     *hcl.EvalContext
	decimal int
	metric  string // the last metric of self that was named
}

// parts returns the comparisons that made x what it is.
func (w *conditionWriter) parts(x hclsyntax.Expression) []string {
	switch x := x.(type) {
	case *hclsyntax.ParenthesesExpr:
		return w.parts(x.Expression)
	case *hclsyntax.UnaryOpExpr:
		if x.Op == hclsyntax.OpLogicalNot {
			return w.parts(x.Val)
		}
	case *hclsyntax.BinaryOpExpr:
		if x.Op == hclsyntax.OpLogicalAnd || x.Op == hclsyntax.OpLogicalOr {
			decides := w.is(x) // a true "or" and a false "and" are decided by the sides that are so themselves
			both := decides == (x.Op == hclsyntax.OpLogicalAnd)
			var out []string
			for _, side := range []hclsyntax.Expression{x.LHS, x.RHS} {
				if both || w.is(side) == decides {
					out = append(out, w.parts(side)...)
				}
			}
			return out
		}
		if sign, ok := comparisons[x.Op]; ok {
			return []string{w.comparison(x, sign)}
		}
	}
	return nil
}

// comparisons are the signs of an operation that holds and of one that does not.
var comparisons = map[*hclsyntax.Operation][2]string{
	hclsyntax.OpLessThan: {"<", ">="}, hclsyntax.OpLessThanOrEqual: {"<=", ">"},
	hclsyntax.OpGreaterThan: {">", "<="}, hclsyntax.OpGreaterThanOrEqual: {">=", "<"},
	hclsyntax.OpEqual: {"==", "!="}, hclsyntax.OpNotEqual: {"!=", "=="},
}

var arithmetic = map[*hclsyntax.Operation]string{
	hclsyntax.OpAdd: "+", hclsyntax.OpSubtract: "-", hclsyntax.OpMultiply: "*", hclsyntax.OpDivide: "/", hclsyntax.OpModulo: "%",
}

func (w *conditionWriter) is(x hclsyntax.Expression) bool {
	v, diags := x.Value(w.ctx)
	v, _ = v.Unmark()
	return !diags.HasErrors() && v.IsKnown() && !v.IsNull() && v.Type() == cty.Bool && v.True()
}

// comparison writes both sides, with as many digits as tell them apart.
func (w *conditionWriter) comparison(x *hclsyntax.BinaryOpExpr, sign [2]string) string {
	op := sign[1]
	if w.is(x) {
		op = sign[0]
	}
	for w.decimal = 4; w.decimal < 16; w.decimal += 4 {
		a, b := w.value(x.LHS), w.value(x.RHS)
		if a != b || strings.HasSuffix(op, "=") {
			break
		}
	}
	w.metric = ""
	return w.operand(x.LHS) + " " + op + " " + w.operand(x.RHS)
}

// operand writes one side of a comparison.
func (w *conditionWriter) operand(x hclsyntax.Expression) string {
	switch x := x.(type) {
	case *hclsyntax.ParenthesesExpr:
		return "(" + w.operand(x.Expression) + ")"
	case *hclsyntax.UnaryOpExpr:
		if x.Op == hclsyntax.OpNegate {
			return "-" + w.operand(x.Val)
		}
	case *hclsyntax.BinaryOpExpr:
		if op, ok := arithmetic[x.Op]; ok {
			return w.operand(x.LHS) + " " + op + " " + w.operand(x.RHS)
		}
	case *hclsyntax.FunctionCallExpr:
		if !x.ExpandFinal {
			var args []string
			for _, a := range x.Args {
				args = append(args, w.operand(a))
			}
			return x.Name + "(" + strings.Join(args, ", ") + ")"
		}
	case *hclsyntax.ScopeTraversalExpr:
		return w.label(x.Traversal) + w.value(x)
	}
	return w.value(x)
}

// label says which metric of whom a number is: the metric for self, and for
// another of the same metric only whose it is.
func (w *conditionWriter) label(t hcl.Traversal) string {
	if !isGateRoot(t.RootName()) || len(t) < 3 {
		return ""
	}
	name := stepName(t[2])
	if t.RootName() == "self" {
		w.metric = name
		return name + " "
	}
	if name == w.metric {
		return t.RootName() + " "
	}
	return t.RootName() + " " + name + " "
}

func (w *conditionWriter) value(x hclsyntax.Expression) string {
	v, diags := x.Value(w.ctx)
	if diags.HasErrors() {
		return "?"
	}
	v, marks := v.Unmark()
	if len(marks) > 0 {
		return "(sensitive)"
	}
	if !v.IsKnown() || v.IsNull() || v.Type() != cty.Number {
		return describe(v)
	}
	f, _ := v.AsBigFloat().Float64()
	if a := math.Abs(f); f != 0 && (a < 1e-3 || a >= 1e9) {
		return strconv.FormatFloat(f, 'g', w.decimal, 64)
	}
	s := strconv.FormatFloat(f, 'f', w.decimal, 64)
	return strings.TrimSuffix(strings.TrimRight(s, "0"), ".")
}
