package lang

import (
	"fmt"
	"math"
	"math/big"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/zclconf/go-cty/cty"
	"github.com/zclconf/go-cty/cty/convert"

	"pipe/runtime/artifact"
	"pipe/runtime/stage"
)

// errType is the problem of a value that cannot be converted at all.
const errType = "type"

// setScalar stores v in a string, bool or number, converting between these as
// HCL does. It returns what is wrong with the value, errType if it is its type.
func setScalar(dst reflect.Value, v cty.Value) string {
	switch k := dst.Kind(); k {
	case reflect.String:
		if v.Type() == cty.Number && tooBig(v.AsBigFloat()) {
			return "is too large a number"
		}
		s, err := convert.Convert(v, cty.String)
		if err != nil {
			return errType
		}
		dst.SetString(s.AsString())
	case reflect.Bool:
		b, err := convert.Convert(v, cty.Bool)
		if err != nil {
			return errType
		}
		dst.SetBool(b.True())
	default:
		n, err := convert.Convert(v, cty.Number)
		if err != nil {
			return errType
		}
		return setNumber(dst, n.AsBigFloat())
	}
	return ""
}

func tooBig(f *big.Float) bool { return f.IsInf() || f.MantExp(nil) > 1100 || f.MantExp(nil) < -1100 }

func setNumber(dst reflect.Value, f *big.Float) string {
	if dst.CanFloat() {
		x, _ := f.Float64()
		if math.IsInf(x, 0) || dst.OverflowFloat(x) {
			return "is too large a number"
		}
		dst.SetFloat(x + 0) // -0 becomes 0, so that both make the same key
		return ""
	}
	if tooBig(f) && f.Sign() != 0 {
		return "is out of range"
	}
	if !f.IsInt() {
		return fmt.Sprintf("is %s; it must be a whole number", f.Text('g', 10))
	}
	i, _ := f.Int(nil)
	switch {
	case dst.CanInt() && i.IsInt64() && !dst.OverflowInt(i.Int64()):
		dst.SetInt(i.Int64())
	case dst.CanUint() && i.IsUint64() && !dst.OverflowUint(i.Uint64()):
		dst.SetUint(i.Uint64())
	case dst.CanUint() && i.Sign() < 0:
		return fmt.Sprintf("is %s; it must not be negative", i)
	case dst.CanInt() || dst.CanUint():
		return fmt.Sprintf("is %s, which is out of range", f.Text('g', 10))
	default:
		panic(fmt.Sprintf("lang: a spec cannot hold a field of type %s", dst.Type()))
	}
	return ""
}

// addInput notes a handle that was stored in the spec.
func (n *Node) addInput(path string, ref *artifact.Ref, at hcl.Range) {
	n.Inputs = append(n.Inputs, Input{Path: path, Ref: ref, Range: at})
}

// candidates stores a stage as a whole: the outputs of its one or many
// instances, sorted by key.
func (s *setter) candidates(dst reflect.Value, v cty.Value, e hcl.Expression, path string) {
	byKey := map[string]map[string]cty.Value{}
	if outs := stageOutputs(v); outs != nil {
		byKey[""] = outs
	} else if !v.IsNull() && (v.Type().IsObjectType() || v.Type().IsMapType()) {
		for k, ev := range v.Elements() {
			outs := stageOutputs(ev)
			if outs == nil {
				s.wrong(e, v, dst.Type())
				return
			}
			byKey[k.AsString()] = outs
		}
	} else {
		s.wrong(e, v, dst.Type())
		return
	}
	if len(byKey) == 0 {
		s.d.report(errorAt(e.Range(), "Invalid value", "%s has no candidates: the sweep behind it has no instances.", s.name))
		return
	}
	cs := make(stage.Candidates, len(byKey))
	for i, key := range sortedKeys(byKey) {
		metrics, model := asHandle(orNull(byKey[key]["metrics"])), asHandle(orNull(byKey[key]["model"]))
		if metrics == nil || metrics.ref.Type != artifact.Metrics || model == nil || model.ref.Type != artifact.Model {
			s.d.report(errorAt(e.Range(), "Wrong type", "%s takes a stage with the outputs metrics and model, such as eval.NAME; this one has %s.", s.name, list(sortedKeys(byKey[key]))))
			return
		}
		cs[i].Key = key
		cs[i].Metrics.Ref, cs[i].Model.Ref = metrics.ref, model.ref
		at := fmt.Sprintf("%s[%d].", path, i)
		s.d.node.addInput(at+"metrics", &cs[i].Metrics.Ref, e.Range())
		s.d.node.addInput(at+"model", &cs[i].Model.Ref, e.Range())
	}
	dst.Set(reflect.ValueOf(cs))
}

// bindings stores handles by their names, sorted.
func (s *setter) bindings(dst reflect.Value, v cty.Value, e hcl.Expression, path string) {
	isMap := !v.IsNull() && (v.Type().IsObjectType() || v.Type().IsMapType())
	if !isMap || spell(e) != "" && stageOutputs(v) != nil {
		s.wrong(e, v, dst.Type())
		return
	}
	if v.LengthInt() == 0 {
		return
	}
	exprs := map[string]hcl.Expression{} // as far as they are written one by one
	pairs, _ := hcl.ExprMap(e)
	for _, p := range pairs {
		if k, diags := p.Key.Value(s.d.scope.ctx); !diags.HasErrors() && k.Type() == cty.String && k.IsKnown() && !k.IsNull() {
			exprs[k.AsString()] = p.Value
		}
	}
	values := v.AsValueMap()
	bs := make(stage.Bindings, len(values))
	for i, name := range sortedKeys(values) {
		at := exprs[name]
		if at == nil {
			at = e
		}
		h := asHandle(values[name])
		if h == nil || h.ref.Type == artifact.Teacher {
			one := setter{s.d, s.name + "." + name, s.expr, 0}
			s.d.report(errorAt(at.Range(), "Wrong type", "%s", one.notBound(at, values[name])))
			continue
		}
		elem := path + "[" + strconv.Quote(name) + "]"
		bs[i] = stage.Binding{Name: name, Ref: h.ref}
		s.d.mark([]string{elem}, at.Range())
		s.d.node.addInput(elem, &bs[i].Ref, at.Range())
	}
	dst.Set(reflect.ValueOf(bs))
}

// notBound says why v, the value of e, is no handle that a program can be given.
func (s *setter) notBound(e hcl.Expression, v cty.Value) string {
	spelled := spell(e)
	if outs := stageOutputs(v); outs != nil && spelled != "" {
		return fmt.Sprintf("%s is a whole stage; %s takes one of its outputs, %s.", spelled, s.name, list(sortedKeys(outs)))
	}
	if spelled == "" {
		spelled = "this"
	}
	return fmt.Sprintf("%s is %s; %s takes a reference to a dataset, model, metrics or file, such as data.NAME.", spelled, describe(v), s.name)
}

func orNull(v cty.Value) cty.Value {
	if v == cty.NilVal {
		return cty.NullVal(cty.String)
	}
	return v
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

// stageOutputs returns the outputs in the value of a stage that is not swept,
// and nil for any other value.
func stageOutputs(v cty.Value) map[string]cty.Value {
	if v.IsNull() || !v.Type().IsObjectType() || v.LengthInt() == 0 {
		return nil
	}
	m := v.AsValueMap()
	own := false // an alias may have another name, a sweep of models has no names
	for name, o := range m {
		h := asHandle(o)
		if h == nil {
			return nil
		}
		own = own || h.ref.Output == name
	}
	if !own {
		return nil
	}
	return m
}

// sweptOutputs returns the first key and its outputs in the value of a swept stage.
func sweptOutputs(v cty.Value) (string, map[string]cty.Value) {
	if v.IsNull() || !v.Type().IsObjectType() {
		return "", nil
	}
	m := v.AsValueMap()
	for _, k := range sortedKeys(m) {
		return k, stageOutputs(m[k])
	}
	return "", nil
}

// wrongDetail says what e is, what the attribute takes, and what to write.
func (s *setter) wrongDetail(e hcl.Expression, v cty.Value, t reflect.Type) string {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	want := takes(t)
	subject, spelled := s.subject(e, asHandle(v))
	if outs := stageOutputs(v); outs != nil && spelled != "" {
		return fmt.Sprintf("%s is a whole stage; %s takes %s.%s", subject, s.name, article(want), fitting(spelled, outs, t))
	}
	if key, outs := sweptOutputs(v); outs != nil && spelled != "" {
		return fmt.Sprintf("%s is a swept stage; %s takes %s. Use one instance, such as %s[%q], or for_each = %s and each.value.",
			subject, s.name, article(want), spelled, key, spelled)
	}
	detail := fmt.Sprintf("%s is %s; %s takes %s.", subject, describe(v), s.name, article(want))
	isString := v.Type() == cty.String && !v.IsNull()
	switch _, isHandle := handleKinds[t]; {
	case isHandle && isString && strings.Contains(v.AsString(), "."):
		detail += fmt.Sprintf(" Write a reference without quotes, such as %s.", sample(t))
	case isHandle && asHandle(v) == nil:
		detail += fmt.Sprintf(" Write a reference, such as %s.", sample(t))
	case t.Kind() == reflect.Slice && asHandle(v) != nil:
		detail += fmt.Sprintf(" Write [%s].", subject)
	case t.Kind() == reflect.Slice && v.Type().IsPrimitiveType():
		detail += fmt.Sprintf(" Write it in brackets: %s = %s.", s.name, sample(t))
	}
	return detail
}

// fitting proposes the outputs of a stage that have the type wanted.
func fitting(spelled string, outs map[string]cty.Value, t reflect.Type) string {
	var fit []string
	for _, name := range sortedKeys(outs) {
		if asHandle(outs[name]).fits(t) {
			fit = append(fit, spelled+"."+name)
		}
	}
	if len(fit) == 0 {
		return " Its outputs are " + list(sortedKeys(outs)) + "."
	}
	return " Write " + strings.Join(fit, " or ") + "."
}

// spell returns a reference as it stands in the file, and "" for any other
// expression.
func spell(e hcl.Expression) string {
	t, ok := e.(*hclsyntax.ScopeTraversalExpr)
	if !ok {
		return ""
	}
	return traversalString(t.Traversal)
}

func traversalString(t hcl.Traversal) string {
	var b strings.Builder
	for _, step := range t {
		switch s := step.(type) {
		case hcl.TraverseRoot:
			b.WriteString(s.Name)
		case hcl.TraverseAttr:
			b.WriteString("." + s.Name)
		case hcl.TraverseIndex:
			if s.Key.Type() == cty.String && !s.Key.IsNull() && s.Key.IsKnown() {
				fmt.Fprintf(&b, "[%q]", s.Key.AsString())
			} else {
				b.WriteString("[...]")
			}
		}
	}
	return b.String()
}

// describe says in words what a value is.
func describe(v cty.Value) string {
	if h := asHandle(v); h != nil {
		return article(stage.DatasetWords(h.ref.Type, h.rows))
	}
	if v.IsNull() {
		return "null"
	}
	switch t := v.Type(); {
	case stageOutputs(v) != nil:
		return "a whole stage"
	case t.IsTupleType(), t.IsListType():
		return "a list"
	case t.IsSetType():
		return "a set"
	case t.IsObjectType(), t.IsMapType():
		return "an object"
	default:
		return "a " + t.FriendlyName()
	}
}
