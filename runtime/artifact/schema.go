package artifact

import (
	"fmt"
	"reflect"
	"strings"
	"unicode"

	"github.com/apache/arrow/go/v17/arrow"
	"github.com/apache/arrow/go/v17/arrow/array"
)

// rowsKey is the metadata of a schema that names its row type.
const rowsKey = "pipe.rows"

// A column maps one exported field of a row struct to one Arrow field. Names
// are snake_case. Fields may be string, int32, int64, float64, bool, slices of
// these, and slices of structs of these.
type column struct {
	index int
	field arrow.Field
}

// columns returns the layout of the struct type t.
func columns(t reflect.Type) ([]column, error) {
	if t.Kind() != reflect.Struct {
		return nil, fmt.Errorf("rows of type %v: must be a struct", t)
	}
	var cs []column
	for i := range t.NumField() {
		f := t.Field(i)
		if !f.IsExported() {
			return nil, fmt.Errorf("rows of type %v: field %s is not exported", t, f.Name)
		}
		dt, err := arrowType(f.Type)
		if err != nil {
			return nil, fmt.Errorf("rows of type %v: field %s: %w", t, f.Name, err)
		}
		cs = append(cs, column{i, arrow.Field{Name: snake(f.Name), Type: dt}})
	}
	return cs, nil
}

func arrowType(t reflect.Type) (arrow.DataType, error) {
	switch t.Kind() {
	case reflect.String:
		return arrow.BinaryTypes.String, nil
	case reflect.Int32:
		return arrow.PrimitiveTypes.Int32, nil
	case reflect.Int64:
		return arrow.PrimitiveTypes.Int64, nil
	case reflect.Float64:
		return arrow.PrimitiveTypes.Float64, nil
	case reflect.Bool:
		return arrow.FixedWidthTypes.Boolean, nil
	case reflect.Slice:
		e, err := arrowType(t.Elem())
		if err != nil {
			return nil, err
		}
		return arrow.ListOfNonNullable(e), nil
	case reflect.Struct:
		cs, err := columns(t)
		if err != nil {
			return nil, err
		}
		var fs []arrow.Field
		for _, c := range cs {
			fs = append(fs, c.field)
		}
		return arrow.StructOf(fs...), nil
	}
	return nil, fmt.Errorf("type %v cannot be stored", t)
}

// schema returns the Arrow schema of T; its metadata names the row type.
func schema(t reflect.Type) (*arrow.Schema, []column, error) {
	cs, err := columns(t)
	if err != nil {
		return nil, nil, err
	}
	var fs []arrow.Field
	for _, c := range cs {
		fs = append(fs, c.field)
	}
	md := arrow.NewMetadata([]string{rowsKey, "pipe.version"}, []string{snake(t.Name()), "1"})
	return arrow.NewSchema(fs, &md), cs, nil
}

// snake turns "SomeID" into "some_id".
func snake(s string) string {
	var b strings.Builder
	rs := []rune(s)
	for i, r := range rs {
		if unicode.IsUpper(r) && i > 0 && (unicode.IsLower(rs[i-1]) || i+1 < len(rs) && unicode.IsLower(rs[i+1])) {
			b.WriteByte('_')
		}
		b.WriteRune(unicode.ToLower(r))
	}
	return b.String()
}

// put appends v to the builder b, which was made for v's type.
func put(b array.Builder, v reflect.Value) {
	switch b := b.(type) {
	case *array.StringBuilder:
		b.Append(v.String())
	case *array.Int32Builder:
		b.Append(int32(v.Int()))
	case *array.Int64Builder:
		b.Append(v.Int())
	case *array.Float64Builder:
		b.Append(v.Float())
	case *array.BooleanBuilder:
		b.Append(v.Bool())
	case *array.ListBuilder:
		b.Append(true)
		if e, ok := b.ValueBuilder().(*array.Int32Builder); ok && v.Type().Elem() == reflect.TypeFor[int32]() {
			e.AppendValues(v.Interface().([]int32), nil)
			return
		}
		for i := range v.Len() {
			put(b.ValueBuilder(), v.Index(i))
		}
	case *array.StructBuilder:
		b.Append(true)
		for i := range v.NumField() {
			put(b.FieldBuilder(i), v.Field(i))
		}
	default:
		panic(fmt.Sprintf("artifact: no encoding for %T", b))
	}
}
