package lang

import (
	"encoding/json"
	"fmt"
	"math"
	"reflect"
	"strings"
	"testing"

	"pipe/runtime/stage"
)

// everySpec has a field of each type that a spec may hold.
type everySpec struct {
	noRun
	String   string                     `hcl:"string,optional"`
	Bool     bool                       `hcl:"bool,optional"`
	Int      int                        `hcl:"int,optional"`
	Int64    int64                      `hcl:"int64,optional"`
	Uint64   uint64                     `hcl:"uint64,optional"`
	Float    float64                    `hcl:"float,optional"`
	Strings  []string                   `hcl:"strings,optional"`
	Ints     []int                      `hcl:"ints,optional"`
	Floats   []float64                  `hcl:"floats,optional"`
	Map      map[string]string          `hcl:"map,optional"`
	Numbers  map[string]float64         `hcl:"numbers,optional"`
	Values   map[string]json.RawMessage `hcl:"values,optional"`
	Pointer  *int                       `hcl:"pointer,optional"`
	PString  *string                    `hcl:"pstring,optional"`
	Nested   nestedSpec                 `hcl:"nested,block"`
	Default  *nestedSpec                `hcl:"default,block"`
	Pointers []*nestedSpec              `hcl:"pointers,block"`
	Absent   *withDefaults              `hcl:"absent,block"`
	Repeated []withDefaults             `hcl:"repeated,block"`
}

type nestedSpec struct {
	A string `hcl:"a,optional"`
	B int    `hcl:"b,optional"`
}

// withDefaults is a block that is absent by default and has defaults.
type withDefaults struct {
	A int `hcl:"a,optional"`
	B int `hcl:"b,optional"`
}

func (w *withDefaults) SetDefaults() { w.A, w.B = 1, 2 }

func (*everySpec) Check() error { return nil }

func newEvery() *everySpec {
	return &everySpec{String: "default", Ints: []int{1}, Nested: nestedSpec{B: 7}, Default: &nestedSpec{A: "kept", B: 8}}
}

func loadEvery(body string) (*everySpec, []string) {
	kind := stage.Kind{Name: "every", New: func() stage.Stage { return newEvery() }}
	p, diags := LoadSource([]byte("every \"x\" {\n"+body+"\n}\n"), "t.hcl", ".", []stage.Kind{kind}, Options{})
	var problems []string
	for _, d := range diags {
		problems = append(problems, d.Summary+": "+d.Detail)
	}
	if problems != nil {
		return nil, problems
	}
	return p.Node("every.x").Stage.(*everySpec), nil
}

func TestDecodeValues(t *testing.T) {
	with := func(change func(*everySpec)) *everySpec {
		s := newEvery()
		change(s)
		return s
	}
	eight, text := 8, "x"
	for _, tc := range []struct {
		body string
		want *everySpec
	}{
		{"", newEvery()},
		{"string = null\nints = null", newEvery()},
		{`string = ""`, with(func(s *everySpec) { s.String = "" })},
		{`string = 5`, with(func(s *everySpec) { s.String = "5" })},
		{`string = 1e-4`, with(func(s *everySpec) { s.String = "0.0001" })},
		{`string = "a${1 + 1}b"`, with(func(s *everySpec) { s.String = "a2b" })},
		{"string = <<-E\n  a\n   b\n  E", with(func(s *everySpec) { s.String = "a\n b\n" })},
		{`bool = true`, with(func(s *everySpec) { s.Bool = true })},
		{`bool = "true"`, with(func(s *everySpec) { s.Bool = true })},
		{`int = 8.0`, with(func(s *everySpec) { s.Int = 8 })},
		{`int = "8"`, with(func(s *everySpec) { s.Int = 8 })},
		{`int = 1e3`, with(func(s *everySpec) { s.Int = 1000 })},
		{`int64 = -9223372036854775808`, with(func(s *everySpec) { s.Int64 = math.MinInt64 })},
		{`uint64 = 18446744073709551615`, with(func(s *everySpec) { s.Uint64 = math.MaxUint64 })},
		{`float = 0.1`, with(func(s *everySpec) { s.Float = 0.1 })},
		{`float = 1 / 3`, with(func(s *everySpec) { s.Float = 1.0 / 3 })},
		{`float = 1e-290 * 1e-290`, with(func(s *everySpec) { s.Float = 0 })},
		{`strings = ["a", 1, true]`, with(func(s *everySpec) { s.Strings = []string{"a", "1", "true"} })},
		{`strings = toset(["b", "a", "b"])`, with(func(s *everySpec) { s.Strings = []string{"a", "b"} })},
		{`strings = []`, newEvery()},
		{`map = {}`, newEvery()},
		{`ints = []`, with(func(s *everySpec) { s.Ints = []int{} })},
		{`ints = [for x in [1, 2] : 2 * x]`, with(func(s *everySpec) { s.Ints = []int{2, 4} })},
		{`floats = [0, 0.25, 1]`, with(func(s *everySpec) { s.Floats = []float64{0, 0.25, 1} })},
		{`map = { a = "x", b = 1 }`, with(func(s *everySpec) { s.Map = map[string]string{"a": "x", "b": "1"} })},
		{`numbers = { a = 0.5 }`, with(func(s *everySpec) { s.Numbers = map[string]float64{"a": 0.5} })},
		{`values = { a = false, b = { d = [1, "x", null], c = 0.1 }, e = null }`, with(func(s *everySpec) {
			s.Values = map[string]json.RawMessage{"a": []byte(`false`), "b": []byte(`{"c":0.1,"d":[1,"x",null]}`), "e": []byte(`null`)}
		})},
		{`pointer = 8`, with(func(s *everySpec) { s.Pointer = &eight })},
		{`pstring = "x"`, with(func(s *everySpec) { s.PString = &text })},
		{"nested {\n a = \"x\"\n}", with(func(s *everySpec) { s.Nested.A = "x" })},
		{"default {\n a = \"x\"\n}", with(func(s *everySpec) { s.Default.A = "x" })},
		{"absent {\n b = 7\n}", with(func(s *everySpec) { s.Absent = &withDefaults{1, 7} })},
		{"repeated {\n a = 7\n}\nrepeated {}", with(func(s *everySpec) { s.Repeated = []withDefaults{{7, 2}, {1, 2}} })},
		{"pointers {\n b = 1\n}\npointers {}", with(func(s *everySpec) { s.Pointers = []*nestedSpec{{B: 1}, {}} })},
	} {
		got, problems := loadEvery(tc.body)
		if problems != nil {
			t.Errorf("%s: %s", tc.body, problems)
		} else if !reflect.DeepEqual(got, tc.want) {
			t.Errorf("%s:\ngot  %+v\nwant %+v", tc.body, got, tc.want)
		}
	}
}

func TestDecodeRefuses(t *testing.T) {
	for _, tc := range []struct{ body, want string }{
		{`int = 9223372036854775808`, "Invalid value: int is 9.223372037e+18, which is out of range."},
		{`uint64 = -1`, "Invalid value: uint64 is -1; it must not be negative."},
		{`int = 0.1`, "Invalid value: int is 0.1; it must be a whole number."},
		{`int = 1e290`, "Invalid value: int is 1e+290, which is out of range."},
		{`int = 1e-300 * 1e-300`, "Invalid value: int is out of range."},
		{`float = 1e300 * 1e300`, "Invalid value: float is too large a number."},
		{`string = 1e300 * 1e300`, "Invalid value: string is too large a number."},
		{`bool = 1`, "Wrong type: this is a number; bool takes a bool."},
		{`bool = "yes"`, "Wrong type: this is a string; bool takes a bool."},
		{`string = ["a"]`, "Wrong type: this is a list; string takes a string."},
		{`string = { a = 1 }`, "Wrong type: this is an object; string takes a string."},
		{`strings = { a = 1 }`, "Wrong type: this is an object; strings takes a list of strings."},
		{`strings = ["a", null]`, "Wrong type: this is null; strings takes a string."},
		{`ints = [1, "x"]`, "Wrong type: this is a string; ints takes a whole number."},
		{`map = ["a"]`, "Wrong type: this is a list; map takes a map of strings."},
		{`map = { a = null }`, "Wrong type: this is null; map takes a string."},
		{`numbers = { a = "x" }`, "Wrong type: this is a string; numbers takes a number."},
		{`values = ["a"]`, "Wrong type: this is a list; values takes a map of values."},
		{"values = { a = [model.m] }\n}\nmodel \"m\" {\n source = \"x\"", "Wrong type: this is a list; values takes a value."},
		{"nested {}\nnested {}", "Duplicate block: There is at most one nested block here; the first is at t.hcl:2,1-7."},
		{"nested {\n c = 1\n}", `Unknown attribute: nested has no attribute "c". It has a, b.`},
	} {
		_, problems := loadEvery(tc.body)
		if got := strings.Join(problems, "\n"); got != tc.want {
			t.Errorf("%s:\ngot  %s\nwant %s", tc.body, got, tc.want)
		}
	}
}

// The default of a nested block is not shared between two blocks.
func TestDecodeCopiesDefaults(t *testing.T) {
	shared := &nestedSpec{A: "kept"}
	kind := stage.Kind{Name: "every", New: func() stage.Stage { return &everySpec{Default: shared} }}
	src := "every \"a\" {\n default {\n b = 1\n }\n}\nevery \"b\" {\n default {}\n}\n"
	p, diags := LoadSource([]byte(src), "t.hcl", ".", []stage.Kind{kind}, Options{})
	if diags.HasErrors() {
		t.Fatal(diags)
	}
	equal(t, "a", *p.Node("every.a").Stage.(*everySpec).Default, nestedSpec{A: "kept", B: 1})
	equal(t, "b", *p.Node("every.b").Stage.(*everySpec).Default, nestedSpec{A: "kept"})
	equal(t, "New's own", *shared, nestedSpec{A: "kept"})
}

// A spec that this package cannot decode is its author's mistake.
func TestUnknownFieldsPanic(t *testing.T) {
	type badMode struct {
		everySpec
		X string `hcl:"x,maybe"`
	}
	type badType struct {
		everySpec
		X complex128 `hcl:"x,optional"`
	}
	for _, s := range []stage.Stage{&badMode{}, &badType{}} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%T: no panic", s)
				}
			}()
			FieldsOf(s)
		}()
	}
}

func TestFields(t *testing.T) {
	var lines []string
	var walk func(fs []Field, indent string)
	walk = func(fs []Field, indent string) {
		for _, f := range fs {
			lines = append(lines, strings.TrimRight(fmt.Sprintf("%s%s (%s) required=%v many=%v default=%s", indent, f.Name, f.Type, f.Required, f.Many, f.Default), " "))
			walk(f.Fields, indent+"  ")
		}
	}
	for _, k := range fakeKinds() {
		if k.Name == "dedup" || k.Name == "mix" {
			walk(Fields(k), "")
		}
	}
	every := FieldsOf(newEvery())
	walk(every[7:8], "")
	walk(every[len(every)-1:], "")
	want := `input (dataset) required=true many=false default=
threshold (number) required=false many=false default=0.95
embedder (string) required=false many=false default="hash"
options (map of strings) required=false many=false default=
weights (map of numbers) required=false many=false default=
note (string) required=false many=false default=
decontaminate (block) required=false many=false default=
  against (list of datasets) required=true many=false default=
  ngram (whole number) required=false many=false default=0
source (block) required=false many=true default=
  name (label) required=true many=false default=
  input (dataset) required=true many=false default=
  weight (number) required=true many=false default=
ints (list of whole numbers) required=false many=false default=[1]
repeated (block) required=false many=true default=
  a (whole number) required=false many=false default=1
  b (whole number) required=false many=false default=2`
	equal(t, "fields", strings.Join(lines, "\n"), want)
	equal(t, "doc", Fields(fakeKinds()[0])[0].Doc, "Files or rows")
}

// Minus nothing is nothing: the sign of a zero would make another key.
func TestDecodeNegativeZero(t *testing.T) {
	s, problems := loadEvery("float = -0")
	if problems != nil || math.Signbit(s.Float) {
		t.Errorf("got %v, %v", s, problems)
	}
}
