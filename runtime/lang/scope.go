package lang

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/zclconf/go-cty/cty"

	"pipe/runtime/artifact"
	"pipe/runtime/stage"
)

// findUses resolves the references of d to declarations, reports those that
// lead nowhere, and notes the rest as edges.
func (l *loader) findUses(d *decl) {
	d.uses = map[string]hcl.Range{}
	switch {
	case d.attr != nil:
		l.use(d, d.attr.Expr.Variables(), false, false)
		return
	case d.typ == "var":
		if a := d.argument(); a != nil {
			l.useFrom(d.mod.parent, d, a.Expr.Variables(), false, false)
		}
		return
	case d.typ == "module":
		for _, a := range attributesOf(d.block.Body) {
			if d.broken && a.Name != "source" { // else its variables have what it uses
				l.use(d, a.Expr.Variables(), false, false)
			}
		}
		return
	}
	swept := d.block.Body.Attributes["for_each"] != nil
	l.use(d, bodyVariables(d.block.Body, false), swept, false)
	l.use(d, bodyVariables(d.block.Body, true), swept, true)
}

// bodyVariables returns the references in a body in the order of the file:
// those inside gate blocks, or those outside of them.
func bodyVariables(b *hclsyntax.Body, gates bool) []hcl.Traversal {
	var out []hcl.Traversal
	if !gates {
		for _, a := range attributesOf(b) {
			out = append(out, a.Expr.Variables()...)
		}
	}
	for _, inner := range b.Blocks {
		if isGate := inner.Type == "gate"; isGate && gates {
			out = append(out, bodyVariables(inner.Body, false)...)
		} else if !isGate {
			out = append(out, bodyVariables(inner.Body, gates)...)
		}
	}
	return out
}

func (l *loader) use(d *decl, refs []hcl.Traversal, swept, gate bool) {
	l.useFrom(d.mod, d, refs, swept, gate)
}

// useFrom is use for references that stand in m.
func (l *loader) useFrom(m *module, d *decl, refs []hcl.Traversal, swept, gate bool) {
	for _, t := range refs {
		l.visited++
		addr, diag := l.resolve(m, t, swept, gate)
		if diag != nil {
			l.diags = append(l.diags, diag)
		}
		if addr == "" {
			continue
		}
		if _, ok := d.uses[addr]; !ok {
			d.uses[addr] = t.SourceRange()
		}
	}
}

// resolve returns the address of the declaration that t, which stands in m,
// refers to; it is empty for each, path, self, baseline and base, and beside an
// error.
func (l *loader) resolve(m *module, t hcl.Traversal, swept, gate bool) (string, *hcl.Diagnostic) {
	root, at := t.RootName(), t.SourceRange()
	switch root {
	case "each":
		if !swept {
			return "", errorAt(at, "Invalid reference", "each has a meaning only in a block with for_each; add for_each = ... to the block.")
		}
		if len(t) < 2 || stepName(t[1]) != "key" && stepName(t[1]) != "value" {
			return "", errorAt(at, "Invalid reference", "Write each.key or each.value.")
		}
		return "", nil
	case "path":
		return "", l.checkPath(m, t)
	case "self", "baseline", "base":
		if !gate {
			return "", errorAt(at, "Invalid reference", "%s has a meaning only inside a gate block.", root)
		}
		return "", nil
	case "module":
		return l.resolveModule(m, t)
	}
	if !l.isRoot(root) {
		roots := slices.Concat(slices.Collect(maps.Keys(l.kinds)), []string{"model", "teacher", "var", "local", "module", "each", "path"})
		detail := didYouMean(root, roots, "%s")
		if detail == "" {
			detail = " For a string, put it in quotes."
		}
		return "", errorAt(at, "Undeclared reference", "Nothing is named %s.%s", root, detail)
	}
	if len(t) < 2 || stepName(t[1]) == "" {
		return "", errorAt(at, "Incomplete reference", "Write %s.NAME.%s", root, l.declared(m, root))
	}
	addr := root + "." + stepName(t[1])
	if l.decls[m.prefix+addr] == nil {
		return "", errorAt(at, "Undeclared reference", "There is no %s.%s", addr, l.meant(m, root, addr))
	}
	return m.prefix + addr, nil
}

func (l *loader) isRoot(name string) bool {
	return name == "var" || name == "local" || name == "model" || name == "teacher" || l.kinds[name] != nil
}

// namesOf returns the references that start with root and have a meaning in m.
func (l *loader) namesOf(m *module, root string) []string {
	var out []string
	for _, d := range l.order {
		if d.mod == m && d.typ == root {
			out = append(out, d.typ+"."+d.name)
		}
	}
	return out
}

func (l *loader) declared(m *module, root string) string {
	if names := l.namesOf(m, root); len(names) > 0 {
		return " Declared are " + list(names) + "."
	}
	return ""
}

// meant guesses which declaration a wrong address was meant to be: one of the
// same type, or the same name under another type.
func (l *loader) meant(m *module, root, addr string) string {
	_, name, _ := strings.Cut(addr, ".")
	same := l.namesOf(m, root)
	for i := range same {
		same[i] = strings.TrimPrefix(same[i], root+".")
	}
	if s := didYouMean(name, same, root+".%s"); s != "" {
		return s
	}
	for _, d := range l.order {
		if d.mod == m && d.name == name && d.typ != "output" && d.typ != "module" {
			return fmt.Sprintf(" Did you mean %s.%s?", d.typ, d.name)
		}
	}
	if s := l.declared(m, root); s != "" {
		return s
	}
	return fmt.Sprintf(" No %s is declared.", root)
}

// stepName is the name or string key that a step of a reference selects.
func stepName(s hcl.Traverser) string {
	switch s := s.(type) {
	case hcl.TraverseAttr:
		return s.Name
	case hcl.TraverseIndex:
		if s.Key.Type() == cty.String && s.Key.IsKnown() && !s.Key.IsNull() {
			return s.Key.AsString()
		}
	}
	return ""
}

// A scope is what the expressions of one block may see: the values of what it
// refers to, and nothing else, so that loading stays linear in the file.
type scope struct {
	l     *loader
	mod   *module // where the expressions stand
	ctx   *hcl.EvalContext
	swept bool // each has a meaning
}

// scope returns the scope of d, without each.
func (l *loader) scope(d *decl) *scope { return l.scopeIn(d.mod, d) }

// scopeIn is scope for expressions that stand in m.
func (l *loader) scopeIn(m *module, d *decl) *scope {
	roots := map[string]map[string]cty.Value{}
	modules := map[string]map[string]cty.Value{}
	for addr := range d.uses {
		u := l.decls[addr]
		l.visited++
		if u.typ == "output" {
			if modules[u.mod.name] == nil {
				modules[u.mod.name] = map[string]cty.Value{}
			}
			modules[u.mod.name][u.name] = u.value
			continue
		}
		if roots[u.typ] == nil {
			roots[u.typ] = map[string]cty.Value{}
		}
		roots[u.typ][u.name] = u.value
	}
	for name, outputs := range modules {
		if roots["module"] == nil {
			roots["module"] = map[string]cty.Value{}
		}
		roots["module"][name] = cty.ObjectVal(outputs)
	}
	vars := make(map[string]cty.Value, len(roots)+2)
	for root, m := range roots {
		vars[root] = cty.ObjectVal(m)
	}
	vars["path"] = l.pathVal(m)
	return &scope{l, m, &hcl.EvalContext{Variables: vars, Functions: m.funcs}, false}
}

// eval evaluates an expression. ok is false if the value is not known, either
// because of the diagnostics or because something it refers to is broken,
// which was reported there.
func (s *scope) eval(e hcl.Expression) (v cty.Value, ok bool, diags hcl.Diagnostics) {
	silent := false
	var off *decl
	for _, t := range e.Variables() {
		addr, diag := s.l.resolve(s.mod, t, s.swept, false)
		d := s.l.decls[addr]
		switch {
		case diag != nil || d != nil && d.broken:
			silent = true
		case d == nil: // each or path
		case d.off:
			off = d
		case d.kind != nil || d.outputs != nil:
			if diag := d.checkSteps(t); diag != nil {
				diags = append(diags, diag)
			}
		}
	}
	if silent || diags.HasErrors() {
		return cty.DynamicVal, false, diags
	}
	if diag := s.tooMuch(e); diag != nil {
		return cty.DynamicVal, false, hcl.Diagnostics{diag}
	}
	v, diags = e.Value(s.ctx)
	if diag := s.l.hold(e, v); diag != nil {
		return cty.DynamicVal, false, hcl.Diagnostics{diag}
	}
	if off != nil && (diags.HasErrors() || v.IsNull()) {
		return cty.DynamicVal, false, hcl.Diagnostics{errorAt(e.Range(), "Reference to a stage that is switched off",
			"%s has when = false (at %s); give this block the same when, or choose with %s == null ? ... : ....", off.written(off.addr), off.header(), off.written(off.addr))}
	}
	if diags.HasErrors() || !v.IsWhollyKnown() {
		return cty.DynamicVal, false, s.advise(e, diags)
	}
	return v, true, nil
}

// advise adds to errors about attributes that objects do not have which ones
// they have.
func (s *scope) advise(e hcl.Expression, diags hcl.Diagnostics) hcl.Diagnostics {
	for _, t := range e.Variables() {
		for i := range t[1:] {
			step, isAttr := t[i+1].(hcl.TraverseAttr)
			v, err := t[:i+1].TraverseAbs(s.ctx)
			if err.HasErrors() {
				break
			}
			v, _ = v.Unmark()
			if !isAttr || v.IsNull() || !v.Type().IsObjectType() || v.Type().HasAttribute(step.Name) {
				continue
			}
			have := sortedKeys(v.Type().AttributeTypes())
			hint := didYouMean(step.Name, have, "%s")
			if hint == "" && len(have) > 0 {
				hint = " It has " + list(have) + "."
			}
			for _, d := range diags {
				if d.Summary == "Unsupported attribute" && d.Subject != nil && d.Subject.Overlaps(step.SrcRange) {
					d.Detail += hint
				}
			}
		}
	}
	return diags
}

// checkSteps judges what follows KIND.NAME in a reference to d.
func (d *decl) checkSteps(t hcl.Traversal) *hcl.Diagnostic {
	rest, addr := t[2:], d.addr
	if len(rest) == 0 {
		return nil
	}
	if d.swept {
		key := stepName(rest[0])
		inst := d.instance(key)
		if inst == nil {
			return d.noInstance(t, key)
		}
		addr, rest = inst.Addr, rest[1:]
	}
	if len(rest) == 0 {
		return nil
	}
	at := t.SourceRange()
	outputs := d.outputs
	if inst := d.nodeAt(addr); inst != nil {
		outputs = inst.Makes
	}
	addr = d.written(addr)
	names := outputNames(outputs)
	if len(outputs) == 0 {
		return errorAt(at, "Unknown output", "%s has no outputs.", addr)
	}
	if names == nil {
		return errorAt(at, "Unknown output", "%s is itself %s; write it without what follows.", addr, article(string(outputs[0].Type)))
	}
	name := stepName(rest[0])
	i := slices.Index(names, name)
	switch {
	case i < 0 && name == "":
		return errorAt(at, "Unknown output", "%s is one stage without for_each; write %s.%s.", addr, addr, names[0])
	case i < 0:
		hint := didYouMean(name, names, addr+".%s")
		if hint == "" {
			hint = " It has " + list(names) + "."
		}
		return errorAt(at, "Unknown output", "%s has no output %q.%s", addr, name, hint)
	case len(rest) > 1:
		return errorAt(at, "Unknown output", "%s.%s is %s and has no parts; what is inside is known only after it was made.", addr, name, article(string(outputs[i].Type)))
	}
	return nil
}

func (d *decl) noInstance(t hcl.Traversal, key string) *hcl.Diagnostic {
	at, addr := t.SourceRange(), d.written(d.addr)
	keys := make([]string, len(d.nodes))
	for i, n := range d.nodes {
		keys[i] = n.Key
	}
	if len(keys) == 0 {
		return errorAt(at, "Unknown instance", "%s has for_each over nothing, so it has no instances.", addr)
	}
	if _, isAttr := t[2].(hcl.TraverseAttr); isAttr {
		return errorAt(at, "Unknown instance", "%s has for_each; write %s[%q].%s for one instance, or for_each = %s to go on with each.",
			addr, addr, keys[0], key, addr)
	}
	hint := didYouMean(key, keys, "%q")
	if hint == "" {
		hint = " It has " + list(keys) + "."
	}
	return errorAt(at, "Unknown instance", "%s has no instance %q.%s", addr, key, hint)
}

func (d *decl) instance(key string) *Node {
	i, ok := slices.BinarySearchFunc(d.nodes, key, func(n *Node, k string) int { return strings.Compare(n.Key, k) })
	if !ok {
		return nil
	}
	return d.nodes[i]
}

// written is an address of d as the files of its own module write it.
func (d *decl) written(addr string) string { return strings.TrimPrefix(addr, d.mod.prefix) }

// nodeAt returns the instance of d at an address, or nil.
func (d *decl) nodeAt(addr string) *Node {
	for _, n := range d.nodes {
		if n.Addr == addr {
			return n
		}
	}
	return nil
}

// outputNames is nil for a block that is its own output.
func (d *decl) outputNames() []string { return outputNames(d.outputs) }

func outputNames(outputs []stage.Output) []string {
	var names []string
	for _, o := range outputs {
		if o.Name == "" {
			return nil
		}
		names = append(names, o.Name)
	}
	return names
}

// valueOf returns what a reference to n evaluates to.
func (d *decl) valueOf(n *Node) cty.Value {
	attrs := map[string]cty.Value{}
	for _, o := range n.Makes {
		ref, ok := n.Outputs[o.Name]
		if !ok {
			ref = artifact.Ref{Type: o.Type, Addr: n.Addr, Output: o.Name}
		}
		attrs[o.Name] = handleVal(ref, o.Rows, n.Teacher)
	}
	if v, ok := attrs[""]; ok {
		return v
	}
	return cty.ObjectVal(attrs)
}

// instanceAddr spells the address of one instance of a sweep.
func instanceAddr(block, key string) string { return block + "[" + strconv.Quote(key) + "]" }
