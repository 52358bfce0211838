package lang

import (
	"encoding/json"
	"fmt"
	"reflect"
	"strings"

	"github.com/hashicorp/hcl/v2"

	"pipe/runtime/artifact"
	"pipe/runtime/stage"
)

// A plan is how a struct type is written in HCL.
type plan struct {
	labels []field
	attrs  []field
	blocks []field
}

// A field is one field of a struct with an hcl tag.
type field struct {
	name     string
	doc      string
	index    []int // for reflect's FieldByIndex
	typ      reflect.Type
	optional bool
	expr     bool // kept unevaluated
	keyless  bool // json:"-": cannot change a result
}

// plans holds the plan of each struct type met.
type plans map[reflect.Type]*plan

// of returns the plan of a struct type. It panics on a tag that it does not
// know: that is a mistake of the one who wrote the stage.
func (ps plans) of(t reflect.Type) *plan {
	if p := ps[t]; p != nil {
		return p
	}
	p := &plan{}
	for _, sf := range reflect.VisibleFields(t) {
		tag, ok := sf.Tag.Lookup("hcl")
		if !ok || !sf.IsExported() {
			continue
		}
		name, mode, _ := strings.Cut(tag, ",")
		f := field{name: name, doc: sf.Tag.Get("doc"), index: sf.Index, typ: sf.Type, keyless: sf.Tag.Get("json") == "-"}
		switch mode {
		case "":
			p.attrs = append(p.attrs, f)
		case "optional":
			f.optional = true
			p.attrs = append(p.attrs, f)
		case "expr":
			f.expr = true
			p.attrs = append(p.attrs, f)
		case "label":
			p.labels = append(p.labels, f)
		case "block":
			p.blocks = append(p.blocks, f)
		default:
			panic(fmt.Sprintf("lang: %s.%s: unknown mode in tag hcl:%q", t, sf.Name, tag))
		}
	}
	ps[t] = p
	return p
}

// find returns the field of that name, or nil.
func find(fields []field, name string) *field {
	for i := range fields {
		if fields[i].name == name {
			return &fields[i]
		}
	}
	return nil
}

func names(fields []field) []string {
	out := make([]string, len(fields))
	for i := range fields {
		out[i] = fields[i].name
	}
	return out
}

var (
	gateType       = reflect.TypeFor[stage.Gate]()
	exprType       = reflect.TypeFor[hcl.Expression]()
	candidatesType = reflect.TypeFor[stage.Candidates]()
	bindingsType   = reflect.TypeFor[stage.Bindings]()
	jsonType       = reflect.TypeFor[json.RawMessage]() // a value of any kind
)

// blockStruct returns the struct behind a block field's type, and whether any
// number of such blocks may be written.
func blockStruct(t reflect.Type) (s reflect.Type, many bool) {
	if t.Kind() == reflect.Slice {
		t, many = t.Elem(), true
	}
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	return t, many
}

// takes says in words what a value of Go type t is written as.
func takes(t reflect.Type) string {
	if h, ok := handleKinds[t]; ok {
		return stage.DatasetWords(h, handleRows[t])
	}
	switch {
	case t == exprType:
		return "expression"
	case t == candidatesType:
		return "swept stage"
	case t == bindingsType:
		return "map of references"
	case t == jsonType:
		return "value"
	}
	switch t.Kind() {
	case reflect.Pointer:
		return takes(t.Elem())
	case reflect.String:
		return "string"
	case reflect.Bool:
		return "bool"
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64, reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return "whole number"
	case reflect.Float32, reflect.Float64:
		return "number"
	case reflect.Slice:
		return "list of " + takes(t.Elem()) + "s"
	case reflect.Map:
		return "map of " + takes(t.Elem()) + "s"
	}
	panic(fmt.Sprintf("lang: a spec cannot hold a field of type %s", t))
}

// article puts the article before what takes returns.
func article(noun string) string {
	switch {
	case noun == string(artifact.Metrics):
		return noun
	case strings.HasPrefix(noun, "e"):
		return "an " + noun
	}
	return "a " + noun
}

// sample is a value of Go type t as someone might write it.
func sample(t reflect.Type) string {
	if h, ok := handleKinds[t]; ok {
		switch h {
		case artifact.Model, artifact.Teacher:
			return string(h) + ".NAME"
		case artifact.Dataset:
			if handleRows[t] == artifact.PackedRows {
				return "KIND.NAME.dataset"
			}
			return "data.NAME"
		}
		return "KIND.NAME." + string(h)
	}
	switch {
	case t == candidatesType:
		return "KIND.NAME"
	case t == bindingsType:
		return "{ rows = data.NAME }"
	case t == jsonType:
		return "..."
	case t == exprType:
		return "..."
	}
	switch t.Kind() {
	case reflect.Pointer:
		return sample(t.Elem())
	case reflect.String:
		return `"..."`
	case reflect.Bool:
		return "true"
	case reflect.Slice:
		return "[" + sample(t.Elem()) + "]"
	case reflect.Map:
		return "{ ... }"
	case reflect.Float32, reflect.Float64:
		return "0.5"
	}
	return "8"
}
