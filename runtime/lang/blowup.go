package lang

import (
	"math"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/zclconf/go-cty/cty"
)

// A few lines can ask for more than any machine has: locals that each double
// the one before, loops inside of loops. What an expression could make is
// estimated before it is evaluated, and what all of them made is added up.
const (
	maxSteps = 20 << 20  // of the loops in one expression
	maxMade  = 256 << 20 // bytes that one expression could make
	maxHeld  = 64 << 20  // bytes of all values of a pipeline
	maxRange = 1024      // numbers that range() makes
	enormous = 1 << 40   // where estimates stop growing
)

// A weight says how much a value holds.
type weight struct {
	leaves int64 // scalars
	bytes  int64 // of strings, and leafBytes for each part
}

// leafBytes is about what cty needs for a part beside its text.
const leafBytes = 64

func (w *weight) add(o weight, times int64) {
	w.leaves = min(enormous, w.leaves+multiply(o.leaves, times))
	w.bytes = min(enormous, w.bytes+multiply(o.bytes, times))
}

func multiply(a, b int64) int64 {
	if a > 0 && b > enormous/a {
		return enormous
	}
	return a * b
}

// weigh adds up the parts of a value.
func weigh(v cty.Value) weight {
	v, _ = v.Unmark()
	w := weight{1, leafBytes}
	switch {
	case !v.IsKnown() || v.IsNull():
	case v.Type() == cty.String:
		w.bytes += int64(len(v.AsString()))
	case v.CanIterateElements():
		w.leaves = 0
		for it := v.ElementIterator(); it.Next(); {
			_, e := it.Element()
			w.add(weigh(e), 1)
		}
	}
	return w
}

// tooMuch refuses an expression that could make too much or take too long.
func (s *scope) tooMuch(e hcl.Expression) *hcl.Diagnostic {
	node, ok := e.(hclsyntax.Node)
	if !ok {
		return nil
	}
	b := &burden{s: s, times: 1}
	hclsyntax.Walk(node, b)
	switch {
	case b.steps > maxSteps:
		return errorAt(e.Range(), "Too large", "These loops could take more than %d million steps; make the lists shorter.", maxSteps>>20)
	case b.made.bytes > maxMade:
		return errorAt(e.Range(), "Too large", "This could make a value of more than %d MiB; put large data into files that a data block reads.", maxMade>>20)
	}
	return nil
}

// hold adds a value to those that the pipeline holds, or refuses it.
func (l *loader) hold(e hcl.Expression, v cty.Value) *hcl.Diagnostic {
	if l.held += weigh(v).bytes; l.held > maxHeld {
		return errorAt(e.Range(), "Too large", "The values of this pipeline hold more than %d MiB; put large data into files that a data block reads.", maxHeld>>20)
	}
	return nil
}

// A burden estimates, while an expression is walked, what it makes of what it
// refers to and holds: templates and calls as much as goes in, loops as often
// as there are parts in what they go over.
type burden struct {
	s     *scope
	times int64 // how often what is walked now is evaluated
	loops []*loop
	steps int64
	made  weight
}

// A loop is a for expression around what is walked.
type loop struct {
	times  int64
	over   weight // what it goes over
	inside bool   // that is known: its body is walked
	names  map[string]struct{}
}

func (l *loop) count() int64 { return max(1, l.over.leaves) }

// Enter implements hclsyntax.Walker.
func (b *burden) Enter(n hclsyntax.Node) hcl.Diagnostics {
	switch n := n.(type) {
	case *hclsyntax.ForExpr:
		b.loops = append(b.loops, &loop{times: b.times})
	case hclsyntax.ChildScope: // key, value or condition of the innermost loop
		l := b.loops[len(b.loops)-1]
		l.names = n.LocalNames
		b.times = multiply(l.times, l.count())
		if !l.inside {
			l.inside = true
			b.steps = min(enormous, b.steps+b.times)
		}
	case *hclsyntax.LiteralValueExpr:
		b.add(weigh(n.Val))
	case *hclsyntax.ScopeTraversalExpr:
		b.add(b.weightOf(n.Traversal))
	}
	return nil
}

// Exit implements hclsyntax.Walker.
func (b *burden) Exit(n hclsyntax.Node) hcl.Diagnostics {
	switch n := n.(type) {
	case *hclsyntax.ForExpr:
		b.loops = b.loops[:len(b.loops)-1]
	case hclsyntax.ChildScope:
		b.times = b.loops[len(b.loops)-1].times
	case *hclsyntax.FunctionCallExpr:
		switch n.Name {
		case "range":
			n := rangeLength(n.Args)
			b.add(weight{n, n * leafBytes})
		case "setproduct", "matrix":
			b.add(weight{maxMatrix, maxMatrix * leafBytes})
		case "split", "regexall", "csvdecode", "jsondecode": // parts of a text
			for _, l := range b.loops {
				if !l.inside {
					l.over.leaves = max(l.over.leaves, l.over.bytes)
				}
			}
		}
	}
	return nil
}

// rangeLength bounds what range() makes: by its arguments if they are written
// out.
func rangeLength(args []hclsyntax.Expression) int64 {
	n := int64(1)
	for _, a := range args {
		lit, ok := a.(*hclsyntax.LiteralValueExpr)
		if !ok || lit.Val.IsNull() || lit.Val.Type() != cty.Number {
			return maxRange
		}
		f, _ := lit.Val.AsBigFloat().Float64()
		if !(f >= 0 && f < maxRange) || f != math.Trunc(f) {
			return maxRange
		}
		n = max(n, int64(f)+1)
	}
	return n
}

func (b *burden) add(w weight) {
	b.made.add(w, b.times)
	for _, l := range b.loops {
		if !l.inside {
			l.over.add(w, b.times/l.times)
		}
	}
}

// weightOf weighs what a reference stands for. A loop's own variable is, on
// average, one part of what the loop goes over.
func (b *burden) weightOf(t hcl.Traversal) weight {
	root := t.RootName()
	for i := len(b.loops) - 1; i >= 0; i-- {
		l := b.loops[i]
		if _, own := l.names[root]; own && l.inside {
			return weight{1, l.over.bytes / l.count()}
		}
	}
	if d := b.s.l.decls[root+"."+second(t)]; d != nil && (root == "local" || root == "var") {
		if d.weight == nil {
			w := weigh(d.value)
			d.weight = &w
		}
		return *d.weight
	}
	if v, diags := t.TraverseAbs(b.s.ctx); !diags.HasErrors() {
		return weigh(v)
	}
	return weight{1, leafBytes} // reported when it is evaluated
}

func second(t hcl.Traversal) string {
	if len(t) < 2 {
		return ""
	}
	return stepName(t[1])
}
