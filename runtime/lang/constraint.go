package lang

import (
	"reflect"

	"github.com/hashicorp/hcl/v2"
	"github.com/zclconf/go-cty/cty"

	"pipe/runtime/artifact"
	"pipe/runtime/stage"
)

// handleConstraint reads the type of a variable that takes references:
// dataset, model, metrics, teacher or file, or list(...) or map(...) of one of
// them. h is empty for any other type.
func handleConstraint(e hcl.Expression) (t cty.Type, h artifact.Type) {
	if h = handleKeyword(e); h != "" {
		return handleType, h
	}
	call, diags := hcl.ExprCall(e)
	if diags.HasErrors() || len(call.Arguments) != 1 {
		return cty.NilType, ""
	}
	h = handleKeyword(call.Arguments[0])
	switch {
	case h != "" && call.Name == "list":
		return cty.List(handleType), h
	case h != "" && call.Name == "map":
		return cty.Map(handleType), h
	}
	return cty.NilType, ""
}

func handleKeyword(e hcl.Expression) artifact.Type {
	word := hcl.ExprAsKeyword(e)
	for _, h := range handleKinds {
		if string(h) == word {
			return h
		}
	}
	return ""
}

// takes says in words what the variable is given.
func (v *variable) takes() string {
	switch {
	case v.handle != "":
		return article(takes(v.goType()))
	case v.typ != cty.NilType:
		return article(v.typ.FriendlyNameForConstraint())
	}
	return "any value"
}

// goType is what a stage would have for the handles that v takes.
func (v *variable) goType() reflect.Type {
	var one reflect.Type
	for t, h := range handleKinds {
		if h == v.handle && (h != artifact.Dataset || t == reflect.TypeFor[stage.AnyDataset]()) {
			one = t
		}
	}
	switch {
	case v.typ.IsListType():
		return reflect.SliceOf(one)
	case v.typ.IsMapType():
		return reflect.MapOf(reflect.TypeFor[string](), one)
	}
	return one
}

// convertHandles checks that val, what e is, holds references of v's type. It
// returns NilVal beside an error.
func (l *loader) convertHandles(v *variable, val cty.Value, e hcl.Expression) cty.Value {
	out, ok := convertTo(val, v.typ)
	if ok && !out.IsNull() {
		_ = cty.Walk(out, func(_ cty.Path, x cty.Value) (bool, error) {
			if x.Type() == handleType && (x.IsNull() || asHandle(x).ref.Type != v.handle) {
				ok = false
			}
			return true, nil
		})
	}
	if !ok {
		s := setter{name: v.decl.name}
		l.errorAt(e.Range(), "Wrong type", "%s", s.wrongDetail(e, val, v.goType()))
		return cty.NilVal
	}
	return out
}
