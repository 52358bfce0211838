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
	rows   string               // of a dataset: the type of its rows; "" when it is not known
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

func handleVal(r artifact.Ref, rows string, config *stage.TeacherConfig) cty.Value {
	return cty.CapsuleVal(handleType, &handle{r, rows, config})
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
	reflect.TypeFor[stage.Dataset]():       artifact.Dataset,
	reflect.TypeFor[stage.PackedDataset](): artifact.Dataset,
	reflect.TypeFor[stage.AnyDataset]():    artifact.Dataset,
	reflect.TypeFor[stage.Model]():         artifact.Model,
	reflect.TypeFor[stage.Metrics]():       artifact.Metrics,
	reflect.TypeFor[stage.File]():          artifact.File,
	reflect.TypeFor[stage.Teacher]():       artifact.Teacher,
}

// handleRows says which rows the datasets must have that a Go type takes; those
// that are not in it take any.
var handleRows = map[reflect.Type]string{
	reflect.TypeFor[stage.Dataset]():       artifact.PlainRows,
	reflect.TypeFor[stage.PackedDataset](): artifact.PackedRows,
}

// fits reports whether h is what the Go type t takes. Rows that are not known fit.
func (h *handle) fits(t reflect.Type) bool {
	return h.ref.Type == handleKinds[t] && h.rowsFit(t)
}

func (h *handle) rowsFit(t reflect.Type) bool {
	need := handleRows[t]
	return need == "" || h.rows == "" || h.rows == need
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
