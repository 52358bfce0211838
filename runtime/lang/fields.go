package lang

import (
	"fmt"
	"reflect"
	"strconv"
	"strings"

	"pipe/runtime/stage"
)

// A Field documents one attribute or nested block of a block.
type Field struct {
	Name     string
	Type     string // "string", "whole number", "list of datasets", "block", ...
	Label    bool   // a label of the block, not an attribute
	Required bool   // a block is never required
	Many     bool   // a block that may be written any number of times
	Default  string // as HCL; empty if there is none worth saying
	Doc      string
	Fields   []Field // of a nested block
}

// Fields documents the blocks of a stage kind: labels first, then attributes,
// then nested blocks, each in the order of the struct.
func Fields(k stage.Kind) []Field { return FieldsOf(k.New()) }

// FieldsOf documents the struct that spec points to, which holds the defaults:
// a stage, a stage.ModelBlock, a stage.TeacherConfig, Resources, and so on.
func FieldsOf(spec any) []Field {
	v := reflect.ValueOf(spec).Elem()
	return fieldsOf(plans{}, v)
}

// PipelineFields documents the pipeline block, but for env, which is a list of
// names and nothing else.
func PipelineFields() []Field { return FieldsOf(&pipelineBlock{}) }

func fieldsOf(ps plans, v reflect.Value) []Field {
	p := ps.of(v.Type())
	var out []Field
	for _, f := range p.labels {
		out = append(out, Field{Name: f.name, Type: "label", Label: true, Required: true, Doc: f.doc})
	}
	for _, f := range p.attrs {
		d := Field{Name: f.name, Type: takes(f.typ), Required: !f.optional, Doc: f.doc}
		if f.optional {
			d.Default = literal(v.FieldByIndex(f.index))
		}
		out = append(out, d)
	}
	for _, f := range p.blocks {
		t, many := blockStruct(f.typ)
		nested := newBlock(t).Elem()
		if fv := v.FieldByIndex(f.index); !many && fv.Kind() == reflect.Struct {
			nested = fv
		} else if !many && !fv.IsNil() {
			nested = fv.Elem()
		}
		out = append(out, Field{Name: f.name, Type: "block", Many: many, Doc: f.doc, Fields: fieldsOf(ps, nested)})
	}
	return out
}

// literal writes a default as HCL, and nothing for a value that says nothing:
// a missing handle, an empty list or string.
func literal(v reflect.Value) string {
	if _, isHandle := handleKinds[v.Type()]; isHandle {
		return ""
	}
	switch v.Kind() {
	case reflect.String:
		if v.Len() == 0 {
			return ""
		}
		return strconv.Quote(v.String())
	case reflect.Pointer:
		if v.IsNil() {
			return ""
		}
		return literal(v.Elem())
	case reflect.Slice:
		var items []string
		for i := range v.Len() {
			items = append(items, literal(v.Index(i)))
		}
		if len(items) == 0 {
			return ""
		}
		return "[" + strings.Join(items, ", ") + "]"
	case reflect.Map, reflect.Interface:
		return ""
	}
	return fmt.Sprint(v.Interface())
}
