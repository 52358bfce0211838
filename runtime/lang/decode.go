package lang

import (
	"fmt"
	"reflect"
	"slices"
	"strconv"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/zclconf/go-cty/cty"
	ctyjson "github.com/zclconf/go-cty/cty/json"

	"pipe/runtime/stage"
)

// A decoder fills the struct of one node from its block.
type decoder struct {
	l     *loader
	scope *scope
	node  *Node  // receives inputs and ranges
	what  string // `sft "legal"` or "pipeline", for messages
	// failed is set when the struct is incomplete, so that judging it as a
	// whole would only repeat what was reported.
	failed bool
}

func (d *decoder) report(diags ...*hcl.Diagnostic) {
	d.failed = true
	d.l.diags = append(d.l.diags, diags...)
}

// body decodes into the struct that dst points to. meta names the attributes
// and blocks that are not the struct's business.
func (d *decoder) body(b *hclsyntax.Body, dst any, meta []string) {
	d.fill(b, d.node.Header, d.what, reflect.ValueOf(dst).Elem(), []string{""}, meta, false)
}

// fill decodes one body. paths are the spellings of the path to it, the first
// being canonical; header is where what is missing is reported.
func (d *decoder) fill(b *hclsyntax.Body, header hcl.Range, what string, dst reflect.Value, paths []string, meta []string, keyless bool) {
	p := d.l.plans.of(dst.Type())
	meant := d.unknown(b, what, p, meta)
	for i := range p.attrs {
		f := &p.attrs[i]
		a := b.Attributes[f.name]
		if a == nil || isNullLiteral(a.Expr) {
			if !f.optional && (a != nil || !slices.Contains(meant, f.name)) { // a misspelt one is one mistake
				d.missing(header, what, f)
			}
			continue
		}
		at := join(paths, f.name)
		d.mark(at, a.Expr.Range())
		d.node.write(at[0])
		d.attribute(a, f, dst.FieldByIndex(f.index), at[0], keyless || f.keyless)
	}
	for i := range p.blocks {
		d.blocks(b, &p.blocks[i], dst, paths, keyless)
	}
}

func isNullLiteral(e hclsyntax.Expression) bool {
	l, ok := e.(*hclsyntax.LiteralValueExpr)
	return ok && l.Val.IsNull()
}

// mark remembers where each spelling of a path stands; the first one wins.
func (d *decoder) mark(paths []string, r hcl.Range) {
	for _, p := range paths {
		if _, ok := d.node.ranges[p]; !ok {
			d.node.ranges[p] = r
		}
	}
}

func join(paths []string, name string) []string {
	out := make([]string, len(paths))
	for i, p := range paths {
		if out[i] = name; p != "" {
			out[i] = p + "." + name
		}
	}
	return out
}

func (d *decoder) missing(header hcl.Range, what string, f *field) {
	doc := ""
	if f.doc != "" {
		doc = ": " + f.doc
	}
	d.report(errorAt(header, "Missing attribute", "%s needs %s (%s%s); write %s = %s.", what, f.name, article(takes(f.typ)), doc, f.name, sample(f.typ)))
}

// unknown reports attributes and blocks that the plan does not have. It returns
// the attributes that are likely meant by some of them.
func (d *decoder) unknown(b *hclsyntax.Body, what string, p *plan, meta []string) (meant []string) {
	attrs, blocks := names(p.attrs), names(p.blocks)
	for _, a := range attributesOf(b) {
		if slices.Contains(attrs, a.Name) || slices.Contains(meta, a.Name) && !metaBlock(a.Name) {
			continue
		}
		known := append(attrs[:len(attrs):len(attrs)], meta...)
		hint := didYouMean(a.Name, known, "%s")
		meant = append(meant, closest(a.Name, known))
		if f := find(p.blocks, a.Name); f != nil {
			hint = fmt.Sprintf(" It is a block: write %s { ... } without the equals sign.", headerOf(d.l.plans, f))
		} else if metaBlock(a.Name) && slices.Contains(meta, a.Name) {
			hint = fmt.Sprintf(" It is a block: write %s { ... } without the equals sign.", a.Name)
		} else if hint == "" && len(attrs) > 0 {
			hint = " It has " + list(attrs) + "."
		}
		d.report(errorAt(a.NameRange, "Unknown attribute", "%s has no attribute %q.%s", what, a.Name, hint))
	}
	for _, inner := range b.Blocks {
		if slices.Contains(blocks, inner.Type) || slices.Contains(meta, inner.Type) && metaBlock(inner.Type) {
			continue
		}
		hint := didYouMean(inner.Type, append(blocks[:len(blocks):len(blocks)], meta...), "%s")
		if f := find(p.attrs, inner.Type); f != nil {
			hint = fmt.Sprintf(" It is an attribute: write %s = %s.", f.name, sample(f.typ))
		} else if hint == "" && len(blocks) > 0 {
			hint = " It has " + list(blocks) + "."
		}
		d.report(errorAt(inner.TypeRange, "Unknown block", "%s has no block %q.%s", what, inner.Type, hint))
	}
	return meant
}

// headerOf spells how a nested block begins.
func headerOf(ps plans, f *field) string {
	t, _ := blockStruct(f.typ)
	s := f.name
	for range ps.of(t).labels {
		s += ` "NAME"`
	}
	return s
}

// blocks decodes the nested blocks of one type.
func (d *decoder) blocks(b *hclsyntax.Body, f *field, dst reflect.Value, paths []string, keyless bool) {
	var found []*hclsyntax.Block
	for _, inner := range b.Blocks {
		if inner.Type == f.name {
			found = append(found, inner)
		}
	}
	if len(found) == 0 {
		return
	}
	fv := dst.FieldByIndex(f.index)
	t, many := blockStruct(f.typ)
	if !many && len(found) > 1 {
		d.report(errorAt(headerRange(found[1]), "Duplicate block", "There is at most one %s block here; the first is at %s.", f.name, headerRange(found[0])))
		found = found[:1]
	}
	if many {
		fv.Set(reflect.MakeSlice(f.typ, len(found), len(found)))
	}
	byLabel := map[string]hcl.Range{}
	for i, inner := range found {
		ev := fv
		spellings := join(paths, f.name)
		if many {
			ev = fv.Index(i)
			spellings = slices.Concat(indexed(spellings, strconv.Itoa(i)), labelled(spellings, inner), spellings)
		}
		if ev.Kind() == reflect.Pointer {
			fresh := newBlock(t)
			if !ev.IsNil() {
				fresh.Elem().Set(ev.Elem()) // what New left there are its defaults
			}
			ev.Set(fresh)
			ev = fresh.Elem()
		} else if many {
			ev.Set(newBlock(t).Elem())
		}
		d.mark(spellings, headerRange(inner))
		d.block(inner, f, ev, spellings, keyless || f.keyless)
		if many && len(inner.Labels) > 0 && len(inner.Labels) == len(d.l.plans.of(t).labels) {
			key := fmt.Sprintf("%q", inner.Labels)
			if first, dup := byLabel[key]; dup {
				d.report(errorAt(headerRange(inner), "Duplicate name", "%s %q was already written at %s.", f.name, inner.Labels[0], first))
			}
			byLabel[key] = headerRange(inner)
		}
	}
}

// newBlock returns a pointer to a nested block of type t that holds its
// defaults.
func newBlock(t reflect.Type) reflect.Value {
	v := reflect.New(t)
	if d, ok := v.Interface().(stage.Defaulter); ok {
		d.SetDefaults()
	}
	return v
}

func indexed(paths []string, index string) []string {
	out := make([]string, len(paths))
	for i, p := range paths {
		out[i] = p + "[" + index + "]"
	}
	return out
}

func labelled(paths []string, b *hclsyntax.Block) []string {
	if len(b.Labels) == 0 {
		return nil
	}
	return indexed(paths, strconv.Quote(b.Labels[0]))
}

// block decodes one nested block: its labels, then its body.
func (d *decoder) block(b *hclsyntax.Block, f *field, dst reflect.Value, paths []string, keyless bool) {
	labels := d.l.plans.of(dst.Type()).labels
	switch {
	case len(b.Labels) < len(labels):
		d.report(errorAt(b.TypeRange, "Missing label", "Write %s { ... }.", headerOf(d.l.plans, f)))
	case len(b.Labels) > len(labels):
		d.report(errorAt(b.LabelRanges[len(labels)], "Unexpected label", "Write %s { ... }.", headerOf(d.l.plans, f)))
	default:
		for i, lf := range labels {
			dst.FieldByIndex(lf.index).SetString(b.Labels[i])
			d.mark(join(paths, lf.name), b.LabelRanges[i])
			d.node.write(join(paths, lf.name)[0])
		}
	}
	what := b.Type
	if len(b.Labels) > 0 {
		what = fmt.Sprintf("%s %q", b.Type, b.Labels[0])
	}
	d.fill(b.Body, headerRange(b), what, dst, paths, nil, keyless)
}

// attribute evaluates one attribute into its field.
func (d *decoder) attribute(a *hclsyntax.Attribute, f *field, dst reflect.Value, path string, keyless bool) {
	if f.expr {
		if dst.Type() != exprType {
			panic(fmt.Sprintf("lang: %s: a field with mode expr is an hcl.Expression", path))
		}
		dst.Set(reflect.ValueOf(bound{a.Expr, d.scope.ctx}))
		d.checkGateExpr(a.Expr)
		return
	}
	v, ok, diags := d.scope.eval(a.Expr)
	if !ok {
		d.report(diags...)
		return
	}
	if v.ContainsMarked() {
		v, _ = v.UnmarkDeep()
		if !keyless {
			d.report(errorAt(a.Expr.Range(), "Sensitive value",
				"%s would be stored with the result; a sensitive variable may stand only where it cannot change one. Name an environment variable instead, as api_key_env does.", f.name))
			return
		}
	}
	if v.IsNull() {
		if !f.optional {
			d.report(errorAt(a.Expr.Range(), "Missing attribute", "%s is null here, and %s needs it; give it %s.", f.name, d.what, article(takes(f.typ))))
		}
		return
	}
	s := setter{d, f.name, a.Expr, 0}
	s.set(dst, v, a.Expr, path)
}

// A setter stores the value of one attribute.
type setter struct {
	d    *decoder
	name string         // of the attribute
	expr hcl.Expression // of the attribute
	nth  int            // of an element without an expression of its own: its number, from 1
}

func (s *setter) wrong(e hcl.Expression, v cty.Value, t reflect.Type) {
	s.d.report(errorAt(e.Range(), "Wrong type", "%s", s.wrongDetail(e, v, t)))
}

// set stores v, the value of e, in dst.
func (s *setter) set(dst reflect.Value, v cty.Value, e hcl.Expression, path string) {
	t := dst.Type()
	if want, ok := handleKinds[t]; ok {
		h := asHandle(v)
		switch {
		case h == nil || h.ref.Type != want:
			s.wrong(e, v, t)
			return
		case !h.rowsFit(t):
			s.d.report(errorAt(e.Range(), "Wrong type", "%s", s.wrongRows(e, h, t)))
			return
		}
		s.d.node.addInput(path, setHandle(dst, h), e.Range())
		return
	}
	switch {
	case t == candidatesType:
		s.candidates(dst, v, e, path)
	case t == bindingsType:
		s.bindings(dst, v, e, path)
	case t == jsonType:
		s.json(dst, v, e)
	case v.IsNull():
		s.wrong(e, v, t)
	case t.Kind() == reflect.Pointer:
		fresh := reflect.New(t.Elem())
		s.set(fresh.Elem(), v, e, path)
		dst.Set(fresh)
	case t.Kind() == reflect.Slice:
		s.slice(dst, v, e, path)
	case t.Kind() == reflect.Map:
		s.mapping(dst, v, e, path)
	default:
		if problem := setScalar(dst, v); problem == errType {
			s.wrong(e, v, t)
		} else if problem != "" {
			s.d.report(errorAt(e.Range(), "Invalid value", "%s %s.", s.name, problem))
		}
	}
}

// slice stores a list, tuple or set, element by element, so that an error says
// which, and points at it where it stands in the attribute.
func (s *setter) slice(dst reflect.Value, v cty.Value, e hcl.Expression, path string) {
	vt := v.Type()
	if !vt.IsTupleType() && !vt.IsListType() && !vt.IsSetType() {
		s.wrong(e, v, dst.Type())
		return
	}
	n := v.LengthInt()
	if n == 0 && dst.IsNil() {
		return // an empty list where none is the default is the default, in the key too
	}
	exprs, diags := hcl.ExprList(e)
	if diags.HasErrors() || len(exprs) != n {
		exprs = nil
	}
	dst.Set(reflect.MakeSlice(dst.Type(), n, n))
	i := 0
	for _, ev := range v.Elements() {
		at, one := e, *s
		if exprs != nil {
			at, one.nth = exprs[i], 0
		} else {
			one.nth = i + 1
		}
		elem := path + "[" + strconv.Itoa(i) + "]"
		s.d.mark([]string{elem}, at.Range())
		one.set(dst.Index(i), ev, at, elem)
		i++
	}
}

func (s *setter) mapping(dst reflect.Value, v cty.Value, e hcl.Expression, path string) {
	if vt := v.Type(); !vt.IsObjectType() && !vt.IsMapType() {
		s.wrong(e, v, dst.Type())
		return
	}
	if dst.Type().Key().Kind() != reflect.String {
		panic(fmt.Sprintf("lang: %s: the keys of a map are strings", path))
	}
	if v.LengthInt() == 0 && dst.IsNil() {
		return
	}
	m := reflect.MakeMap(dst.Type())
	for kv, ev := range v.Elements() {
		elem := reflect.New(dst.Type().Elem()).Elem()
		if _, isHandle := handleKinds[elem.Type()]; isHandle {
			// A handle in a map could not be completed in place.
			panic(fmt.Sprintf("lang: %s: a spec cannot hold handles in a map", path))
		}
		s.set(elem, ev, e, path+"["+strconv.Quote(kv.AsString())+"]")
		m.SetMapIndex(reflect.ValueOf(kv.AsString()).Convert(dst.Type().Key()), elem)
	}
	dst.Set(m)
}

// json stores a value of any kind as JSON, but not references to blocks.
func (s *setter) json(dst reflect.Value, v cty.Value, e hcl.Expression) {
	var held cty.Value
	_ = cty.Walk(v, func(_ cty.Path, in cty.Value) (bool, error) { // it returns what this does
		if asHandle(in) != nil {
			held = in
		}
		return true, nil
	})
	b, err := ctyjson.Marshal(v, v.Type())
	if held != cty.NilVal || err != nil {
		s.wrong(e, v, dst.Type())
		return
	}
	dst.SetBytes(b)
}
