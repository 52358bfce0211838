package chat

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"
)

// A Value is what a template computes with: nil (None), bool, int64, float64,
// string, []Value, *Dict, and things that only templates make (macros,
// namespaces, undefined). Input may also hold int, and nested values of these.
type Value any

// A Dict is a mapping that keeps the order of its keys, as Python's does.
type Dict struct {
	keys []string
	vals map[string]Value
}

// NewDict returns a Dict of alternating keys and values.
func NewDict(pairs ...Value) *Dict {
	d := &Dict{vals: map[string]Value{}}
	for i := 0; i+1 < len(pairs); i += 2 {
		d.Set(pairs[i].(string), pairs[i+1])
	}
	return d
}

// Set sets a key; a new one goes to the end.
func (d *Dict) Set(key string, v Value) {
	if _, ok := d.vals[key]; !ok {
		d.keys = append(d.keys, key)
	}
	d.vals[key] = v
}

// Get returns the value of a key.
func (d *Dict) Get(key string) (Value, bool) {
	v, ok := d.vals[key]
	return v, ok
}

// Len returns the number of keys.
func (d *Dict) Len() int { return len(d.keys) }

// Keys returns the keys in order; the slice must not be changed.
func (d *Dict) Keys() []string { return d.keys }

// MarshalJSON writes the keys in order.
func (d *Dict) MarshalJSON() ([]byte, error) {
	s, err := dumps(d, jsonStyle{item: ",", key: ":"})
	return []byte(s), err
}

// ParseJSON reads a JSON value, keeping the order of keys. Numbers without
// point or exponent are int64 when they fit, else float64.
func ParseJSON(b []byte) (Value, error) {
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.UseNumber()
	v, err := readJSON(dec, 0)
	if err != nil {
		return nil, fmt.Errorf("read JSON: %w", err)
	}
	if _, err := dec.Token(); err != io.EOF {
		return nil, fmt.Errorf("read JSON: more than one value")
	}
	return v, nil
}

const maxNesting = 100

func readJSON(dec *json.Decoder, depth int) (Value, error) {
	if depth > maxNesting {
		return nil, fmt.Errorf("nested more than %d levels deep", maxNesting)
	}
	tok, err := dec.Token()
	if err != nil {
		return nil, err
	}
	switch t := tok.(type) {
	case json.Delim:
		if t == '[' {
			list := []Value{}
			for dec.More() {
				v, err := readJSON(dec, depth+1)
				if err != nil {
					return nil, err
				}
				list = append(list, v)
			}
			_, err = dec.Token()
			return list, err
		}
		d := NewDict()
		for dec.More() {
			k, err := dec.Token()
			if err != nil {
				return nil, err
			}
			v, err := readJSON(dec, depth+1)
			if err != nil {
				return nil, err
			}
			d.Set(k.(string), v)
		}
		_, err = dec.Token()
		return d, err
	case json.Number:
		if n, err := strconv.ParseInt(t.String(), 10, 64); err == nil {
			return n, nil
		}
		f, err := t.Float64()
		return f, err
	}
	return tok, nil
}

// undefined is the value of a name that has none. Printing it gives nothing;
// looking inside it is an error.
type undefined struct{ name string }

// tuple differs from a list in how it prints and compares.
type tuple []Value

// namespace is what {% set ns.x = ... %} may change.
type namespace struct{ *Dict }

// method is a method of a string, list or dict, not called yet.
type method struct {
	of   Value
	name string
}

// function is a global function such as range.
type function struct {
	name string
	call func(in *interp, a args) Value
}

// args are the arguments of a call.
type args struct {
	pos []Value
	kw  *Dict // may be nil
}

// take returns argument i, given by position or by one of the names, or def.
func (a args) take(i int, name string, def Value) Value {
	if i < len(a.pos) {
		return a.pos[i]
	}
	if a.kw != nil {
		if v, ok := a.kw.Get(name); ok {
			return v
		}
	}
	return def
}

// clean returns v with Go's int made int64, and copies of lists, checked for
// types that templates do not know.
func clean(v Value, depth int) (Value, error) {
	if depth > maxNesting {
		return nil, fmt.Errorf("a value nested more than %d levels deep", maxNesting)
	}
	switch v := v.(type) {
	case nil, bool, int64, float64, string:
		return v, nil
	case int:
		return int64(v), nil
	case []Value:
		out := make([]Value, len(v))
		for i, e := range v {
			c, err := clean(e, depth+1)
			if err != nil {
				return nil, err
			}
			out[i] = c
		}
		return out, nil
	case *Dict:
		if v == nil {
			return nil, nil
		}
		out := NewDict()
		for _, k := range v.keys {
			c, err := clean(v.vals[k], depth+1)
			if err != nil {
				return nil, err
			}
			out.Set(k, c)
		}
		return out, nil
	}
	return nil, fmt.Errorf("a value of type %T", v)
}

func typeName(v Value) string {
	switch v.(type) {
	case nil:
		return "NoneType"
	case undefined:
		return "Undefined"
	case bool:
		return "bool"
	case int64:
		return "int"
	case float64:
		return "float"
	case string:
		return "str"
	case []Value:
		return "list"
	case tuple:
		return "tuple"
	case *Dict:
		return "dict"
	case namespace:
		return "Namespace"
	}
	return "function"
}

func truth(v Value) bool {
	switch v := v.(type) {
	case nil, undefined:
		return false
	case bool:
		return v
	case int64:
		return v != 0
	case float64:
		return v != 0
	case string:
		return v != ""
	case []Value:
		return len(v) > 0
	case tuple:
		return len(v) > 0
	case *Dict:
		return v.Len() > 0
	}
	return true
}

// number returns v as a number; bool counts as 0 or 1.
func number(v Value) (i int64, f float64, isInt, ok bool) {
	switch v := v.(type) {
	case bool:
		if v {
			return 1, 1, true, true
		}
		return 0, 0, true, true
	case int64:
		return v, float64(v), true, true
	case float64:
		return 0, v, false, true
	}
	return 0, 0, false, false
}

func (in *interp) equal(a, b Value) bool { return in.equalDeep(a, b, 0) }

func (in *interp) equalDeep(a, b Value, depth int) bool {
	in.tick(0)
	if depth > maxNesting {
		return false
	}
	if ai, af, aInt, ok := number(a); ok {
		bi, bf, bInt, ok := number(b)
		if !ok {
			return false
		}
		if aInt && bInt {
			return ai == bi
		}
		return af == bf
	}
	switch x := a.(type) {
	case nil:
		return b == nil
	case string:
		y, ok := b.(string)
		if !ok || len(x) != len(y) {
			return false
		}
		in.tick(len(x))
		return x == y
	case undefined:
		_, ok := b.(undefined)
		return ok
	case []Value:
		y, ok := b.([]Value)
		return ok && in.equalLists(x, y, depth)
	case tuple:
		y, ok := b.(tuple)
		return ok && in.equalLists(x, y, depth)
	case *Dict:
		y, ok := b.(*Dict)
		if !ok || x.Len() != y.Len() {
			return false
		}
		for _, k := range x.keys {
			w, ok := y.vals[k]
			if !ok || !in.equalDeep(x.vals[k], w, depth+1) {
				return false
			}
		}
		return true
	case namespace:
		y, ok := b.(namespace)
		return ok && x.Dict == y.Dict
	}
	return false
}

func (in *interp) equalLists(a, b []Value, depth int) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if !in.equalDeep(a[i], b[i], depth+1) {
			return false
		}
	}
	return true
}

// str is Python's str().
func (in *interp) str(v Value) string {
	switch v := v.(type) {
	case string:
		return v
	case undefined:
		return ""
	}
	var b strings.Builder
	in.writeRepr(&b, v, 0)
	return b.String()
}

// writeRepr is Python's repr().
func (in *interp) writeRepr(b *strings.Builder, v Value, depth int) {
	in.tick(0)
	if depth > maxNesting {
		fail("a value is nested more than %d levels deep", maxNesting)
	}
	list := func(open string, items []Value, end string) {
		b.WriteString(open)
		for i, e := range items {
			if i > 0 {
				b.WriteString(", ")
			}
			in.writeRepr(b, e, depth+1)
		}
		b.WriteString(end)
	}
	switch v := v.(type) {
	case nil:
		b.WriteString("None")
	case bool:
		if v {
			b.WriteString("True")
		} else {
			b.WriteString("False")
		}
	case int64:
		b.WriteString(strconv.FormatInt(v, 10))
	case float64:
		b.WriteString(floatRepr(v))
	case string:
		in.tick(4 * len(v)) // as long as all of it escaped
		b.WriteString(stringRepr(v))
	case undefined:
		b.WriteString("Undefined")
	case []Value:
		list("[", v, "]")
	case tuple:
		if len(v) == 1 {
			list("(", v, ",)")
		} else {
			list("(", v, ")")
		}
	case *Dict:
		b.WriteByte('{')
		for i, k := range v.keys {
			if i > 0 {
				b.WriteString(", ")
			}
			in.tick(4 * len(k))
			b.WriteString(stringRepr(k) + ": ")
			in.writeRepr(b, v.vals[k], depth+1)
		}
		b.WriteByte('}')
	case namespace:
		b.WriteString("<Namespace ")
		in.writeRepr(b, v.Dict, depth+1)
		b.WriteByte('>')
	default:
		b.WriteString("<" + typeName(v) + ">")
	}
}

// floatRepr is Python's repr of a float: the shortest digits, with an exponent
// below 1e-4 and from 1e16 on.
func floatRepr(f float64) string {
	switch {
	case math.IsNaN(f):
		return "nan"
	case math.IsInf(f, 1):
		return "inf"
	case math.IsInf(f, -1):
		return "-inf"
	}
	if a := math.Abs(f); a != 0 && (a < 1e-4 || a >= 1e16) {
		return strconv.FormatFloat(f, 'e', -1, 64)
	}
	s := strconv.FormatFloat(f, 'f', -1, 64)
	if !strings.Contains(s, ".") {
		s += ".0"
	}
	return s
}

// stringRepr is Python's repr of a str.
func stringRepr(s string) string {
	quote := byte('\'')
	if strings.Contains(s, "'") && !strings.Contains(s, `"`) {
		quote = '"'
	}
	b := []byte{quote}
	for _, r := range s {
		switch {
		case r == rune(quote) || r == '\\':
			b = append(b, '\\', byte(r))
		case r == '\n':
			b = append(b, `\n`...)
		case r == '\r':
			b = append(b, `\r`...)
		case r == '\t':
			b = append(b, `\t`...)
		case r == ' ' || strconv.IsPrint(r):
			b = append(b, string(r)...)
		case r < 0x100:
			b = fmt.Appendf(b, `\x%02x`, r)
		case r < 0x10000:
			b = fmt.Appendf(b, `\u%04x`, r)
		default:
			b = fmt.Appendf(b, `\U%08x`, r)
		}
	}
	return string(append(b, quote))
}
