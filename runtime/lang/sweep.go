package lang

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/zclconf/go-cty/cty"

	"pipe/runtime/stage"
)

// meta are the attributes and blocks that every stage block may have.
var meta = []string{"for_each", "when", "depends_on", "resources", "checkpoint", "retry"}

func metaBlock(name string) bool {
	return name == "resources" || name == "checkpoint" || name == "retry"
}

// evaluate gives d its value, and blocks their nodes.
func (l *loader) evaluate(d *decl) {
	switch {
	case d.broken || d.typ == "module":
		return
	case d.typ == "var":
		l.evalInput(d)
		return
	case d.typ == "output":
		l.evalOutput(d)
		return
	case d.attr != nil:
		v, ok, diags := l.scope(d).eval(d.attr.Expr)
		l.diags = append(l.diags, diags...)
		d.value, d.broken = v, !ok
		return
	}
	depends := l.dependsOn(d)
	if a := d.block.Body.Attributes["for_each"]; a != nil {
		l.sweep(d, a, depends)
		return
	}
	sc := l.scope(d)
	on, ok := l.when(d, sc)
	switch {
	case !ok:
		d.broken = true
	case !on:
		d.off, d.value = true, cty.NullVal(cty.DynamicPseudoType)
	default:
		n := l.node(d, sc, d.addr, "", depends)
		d.nodes = []*Node{n}
		d.value = d.valueOf(n)
	}
}

// sweep makes one node for each element of for_each, sorted by key.
func (l *loader) sweep(d *decl, a *hclsyntax.Attribute, depends []string) {
	d.swept = true
	elements, ok := l.elements(d, a)
	if !ok {
		d.broken = true
		return
	}
	base := l.scope(d)
	values := map[string]cty.Value{}
	for _, key := range sortedKeys(elements) {
		sc := &scope{l, d.mod, base.ctx.NewChild(), true}
		sc.ctx.Variables = map[string]cty.Value{"each": cty.ObjectVal(map[string]cty.Value{
			"key": cty.StringVal(key), "value": elements[key]})}
		on, ok := l.when(d, sc)
		if !ok {
			d.broken = true
			return
		}
		if !on {
			continue
		}
		n := l.node(d, sc, instanceAddr(d.addr, key), key, depends)
		d.nodes = append(d.nodes, n)
		values[key] = d.valueOf(n)
	}
	d.value = cty.ObjectVal(values)
}

// elements evaluates for_each.
func (l *loader) elements(d *decl, a *hclsyntax.Attribute) (map[string]cty.Value, bool) {
	for _, t := range a.Expr.Variables() {
		if t.RootName() == "each" {
			l.errorAt(t.SourceRange(), "Invalid reference", "for_each is what each stands for, so it cannot refer to each.")
			return nil, false
		}
	}
	v, ok, diags := l.scope(d).eval(a.Expr)
	l.diags = append(l.diags, diags...)
	if !ok {
		return nil, false
	}
	at := a.Expr.Range()
	const forms = "Write a map, such as { small = 8, large = 16 }, toset([\"a\", \"b\"]), matrix({ rank = [8, 16] }), or a stage that has for_each itself."
	t := v.Type()
	switch {
	case v.ContainsMarked():
		l.errorAt(at, "Sensitive value", "for_each would show the sensitive value in addresses.")
	case v.IsNull():
		l.errorAt(at, "Invalid for_each", "for_each is null. %s", forms)
	case l.isOneStage(d.mod, a.Expr):
		l.errorAt(at, "Invalid for_each", "%s is one stage without for_each; leave for_each out and refer to its outputs.", spell(a.Expr))
	case t.IsObjectType() || t.IsMapType():
		return v.AsValueMap(), true
	case t.IsSetType() && (t.ElementType() == cty.String || v.LengthInt() == 0):
		out := map[string]cty.Value{}
		for _, e := range v.AsValueSlice() {
			if e.IsNull() {
				l.errorAt(at, "Invalid for_each", "The set holds null. %s", forms)
				return nil, false
			}
			out[e.AsString()] = e
		}
		return out, true
	case t.IsTupleType() || t.IsListType():
		l.errorAt(at, "Invalid for_each", "for_each is a list, whose elements have no stable keys; write toset([...]) for strings. %s", forms)
	default:
		l.errorAt(at, "Invalid for_each", "for_each is %s. %s", describe(v), forms)
	}
	return nil, false
}

// isOneStage reports whether e refers to a stage as a whole that is no sweep,
// or to one instance of a sweep.
func (l *loader) isOneStage(m *module, e hcl.Expression) bool {
	ref, ok := e.(*hclsyntax.ScopeTraversalExpr)
	if !ok || len(ref.Traversal) < 2 {
		return false
	}
	d := l.decls[m.prefix+ref.Traversal.RootName()+"."+stepName(ref.Traversal[1])]
	if d == nil || d.outputNames() == nil {
		return false
	}
	return len(ref.Traversal) == 2 && !d.swept || len(ref.Traversal) == 3 && d.swept
}

// when evaluates the when attribute; a block without it is on.
func (l *loader) when(d *decl, sc *scope) (on, ok bool) {
	a := d.block.Body.Attributes["when"]
	if a == nil {
		return true, true
	}
	_, ok, diags := sc.eval(a.Expr)
	l.diags = append(l.diags, diags...)
	if !ok {
		return false, false
	}
	on, diags = evalBool(a.Expr, sc.ctx)
	l.diags = append(l.diags, diags...)
	return on, !diags.HasErrors()
}

// node decodes one instance of d and judges its spec.
func (l *loader) node(d *decl, sc *scope, addr, key string, depends []string) *Node {
	n := &Node{
		Addr: addr, Block: d.addr, Type: d.typ, Name: d.name, Key: key, Swept: d.swept, Kind: d.kind,
		Dir: d.mod.dir, Checkout: d.mod.checkout, Makes: d.outputs,
		Needs: slices.Clone(depends), Header: d.header(), ranges: map[string]hcl.Range{},
	}
	dec := &decoder{l: l, scope: sc, node: n, what: fmt.Sprintf("%s %q", d.typ, d.name)}
	var check func() error
	var spec any
	switch {
	case d.kind != nil:
		n.Stage = d.kind.New()
		spec, check = n.Stage, n.Stage.Check
	case d.typ == "model":
		n.Model = &stage.ModelBlock{}
		spec, check = n.Model, n.Model.Check
	default:
		n.Teacher = stage.NewTeacherConfig()
		spec, check = n.Teacher, n.Teacher.Check
	}
	own := l.plans.of(reflect.TypeOf(spec).Elem())
	dec.metaBlocks(d.block.Body, own)
	dec.body(d.block.Body, spec, meta)
	dec.applyCheckpoint(own, reflect.ValueOf(spec).Elem())
	n.Gates = gatesOf(spec, own)
	if !dec.failed {
		l.reportCheck(n, check())
		l.checkGates(n)
		l.checkDecider(n)
		l.checkTuner(n)
		l.checkAdapterUser(n)
	}
	if m, ok := n.Stage.(stage.Maker); ok {
		n.Makes = m.Outputs()
	}
	l.placeJournal(d.mod, n)
	d.resolveOutputs(n)
	l.prog.Nodes = append(l.prog.Nodes, n)
	l.prog.byAddr[addr] = n
	return n
}

// metaBlocks decodes resources, checkpoint and retry, unless the stage's own
// spec has a block of that name.
func (d *decoder) metaBlocks(b *hclsyntax.Body, own *plan) {
	var m struct {
		Resources  *Resources  `hcl:"resources,block"`
		Checkpoint *Checkpoint `hcl:"checkpoint,block"`
		Retry      *Retry      `hcl:"retry,block"`
	}
	v := reflect.ValueOf(&m).Elem()
	p := d.l.plans.of(v.Type())
	for i := range p.blocks {
		if f := &p.blocks[i]; find(own.blocks, f.name) == nil {
			d.blocks(b, f, v, []string{""}, true)
		}
	}
	d.node.Resources, d.node.Checkpoint, d.node.Retry = m.Resources, m.Checkpoint, m.Retry
}

// applyCheckpoint hands the checkpoint block on to the attributes of the spec
// that say the same; stages without them save no checkpoints.
func (d *decoder) applyCheckpoint(own *plan, spec reflect.Value) {
	n := d.node
	if n.Checkpoint == nil {
		return
	}
	for _, x := range []struct {
		attr, inner string
		value       int
	}{{"checkpoint_every", "every", n.Checkpoint.Every}, {"save_total_limit", "save_total_limit", n.Checkpoint.SaveTotalLimit}} {
		f := find(own.attrs, x.attr)
		at := n.Range("checkpoint." + x.inner)
		if f == nil || f.typ.Kind() != reflect.Int {
			d.report(errorAt(n.Range("checkpoint"), "Unknown block", "%s stages save no checkpoints; remove the block.", n.Type))
			return
		}
		if written, twice := n.ranges[x.attr]; twice && x.value != 0 {
			d.report(errorAt(at, "Duplicate attribute", "checkpoint.%s says the same as %s, which is given at %s; write one of them.", x.inner, x.attr, written))
			continue
		}
		if x.value != 0 {
			spec.FieldByIndex(f.index).SetInt(int64(x.value))
			n.ranges[x.attr] = at
		}
	}
}

// warnResources says of each block with resources that they have no effect:
// there is no executor yet that reserves any.
func (l *loader) warnResources() {
	seen := map[string]bool{}
	for _, n := range l.prog.Nodes {
		if n.Resources == nil || seen[n.Block] {
			continue
		}
		seen[n.Block] = true
		w := errorAt(n.Range("resources"), "No effect", "%s asks for resources, which this version of pipe does not reserve: it runs every stage on this machine, those that compute one after the other.", n.Block)
		w.Severity = hcl.DiagWarning
		l.diags = append(l.diags, w)
	}
}

// reportCheck turns what Check returned into diagnostics on the attributes
// that it complains about.
func (l *loader) reportCheck(n *Node, err error) {
	for _, e := range flatten(err) {
		var fe *stage.FieldError
		if !errors.As(e, &fe) {
			l.errorAt(n.Header, "Invalid "+n.Type, "%s %q: %s.", n.Type, n.Name, strings.TrimSuffix(e.Error(), "."))
			continue
		}
		l.errorAt(n.Range(fe.Field), "Invalid value", "%s %s.", fe.Field, strings.TrimSuffix(fe.Problem, "."))
	}
}

// flatten takes errors.Join apart.
func flatten(err error) []error {
	if err == nil {
		return nil
	}
	j, ok := err.(interface{ Unwrap() []error })
	if !ok {
		return []error{err}
	}
	var out []error
	for _, e := range j.Unwrap() {
		out = append(out, flatten(e)...)
	}
	return out
}

// Diagnostic returns a diagnostic for an error of n, such as one of Run: at the
// attribute that a [stage.FieldError] in it names, else at the block.
func (n *Node) Diagnostic(summary string, err error) *hcl.Diagnostic {
	var fe *stage.FieldError
	if errors.As(err, &fe) {
		return errorAt(n.Range(fe.Field), summary, "%s: %s", n.Addr, err)
	}
	return errorAt(n.Header, summary, "%s: %s", n.Addr, err)
}
