package lang

import (
	"errors"
	"reflect"

	"github.com/zclconf/go-cty/cty"

	"pipe/runtime/artifact"
	"pipe/runtime/stage"
)

// A handle is what a reference to a block evaluates to.
type handle struct {
	ref    artifact.Ref
	config *stage.TeacherConfig // of a teacher
}

// MarshalJSON keeps handles out of jsonencode: their content is not known yet.
func (handle) MarshalJSON() ([]byte, error) {
	return nil, errors.New("a reference to a block cannot be encoded")
}

// handleType is the one type of all handles, so that conditionals may choose
// between them; what a handle is good for is in its ref.
var handleType = cty.CapsuleWithOps("reference to a block", reflect.TypeFor[handle](), &cty.CapsuleOps{
	RawEquals: func(a, b any) bool { return a.(*handle).ref == b.(*handle).ref },
	HashKey:   func(v any) string { return v.(*handle).ref.String() },
})

func handleVal(r artifact.Ref, config *stage.TeacherConfig) cty.Value {
	return cty.CapsuleVal(handleType, &handle{r, config})
}

// asHandle returns the handle in v, or nil.
func asHandle(v cty.Value) *handle {
	if v.Type() != handleType || v.IsNull() || !v.IsKnown() {
		return nil
	}
	return v.EncapsulatedValue().(*handle)
}

// handleKinds says which Go type takes handles of which type.
var handleKinds = map[reflect.Type]artifact.Type{
	reflect.TypeFor[stage.Dataset](): artifact.Dataset,
	reflect.TypeFor[stage.Model]():   artifact.Model,
	reflect.TypeFor[stage.Metrics](): artifact.Metrics,
	reflect.TypeFor[stage.File]():    artifact.File,
	reflect.TypeFor[stage.Teacher](): artifact.Teacher,
}

// setHandle stores h in dst, whose type is a key of handleKinds, and returns
// the reference inside it.
func setHandle(dst reflect.Value, h *handle) *artifact.Ref {
	ref := dst.FieldByName("Ref").Addr().Interface().(*artifact.Ref)
	*ref = h.ref
	if t, ok := dst.Addr().Interface().(*stage.Teacher); ok {
		t.Config = h.config
	}
	return ref
}
