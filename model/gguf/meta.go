package gguf

import (
	"encoding/binary"
	"fmt"
	"maps"
	"math"
	"slices"
	"unicode/utf8"
)

// Keys returns the metadata keys, sorted.
func (f *File) Keys() []string { return slices.Sorted(maps.Keys(f.meta)) }

// Has reports whether the metadata has a key.
func (f *File) Has(key string) bool { _, ok := f.meta[key]; return ok }

// mistyped is the error for a key that holds something else.
func (f *File) mistyped(key, want string) error {
	return fmt.Errorf("%s: metadata key %q is not %s", f.path, key, want)
}

// Text returns a string; "" when the key is absent.
func (f *File) Text(key string) (string, error) {
	v, ok := f.meta[key]
	if !ok {
		return "", nil
	}
	if v.kind != typeString || !utf8.Valid(v.raw) {
		return "", f.mistyped(key, "a UTF-8 string")
	}
	return string(v.raw), nil
}

// Int returns a whole number of any width, or def when the key is absent.
func (f *File) Int(key string, def int64) (int64, error) {
	v, ok := f.meta[key]
	if !ok {
		return def, nil
	}
	n, ok := v.integer(v.kind, v.raw)
	if !ok {
		return 0, f.mistyped(key, "a whole number")
	}
	return n, nil
}

func (value) integer(kind uint32, raw []byte) (int64, bool) {
	le := binary.LittleEndian
	switch kind {
	case typeU8:
		return int64(raw[0]), true
	case typeI8:
		return int64(int8(raw[0])), true
	case typeU16:
		return int64(le.Uint16(raw)), true
	case typeI16:
		return int64(int16(le.Uint16(raw))), true
	case typeU32:
		return int64(le.Uint32(raw)), true
	case typeI32:
		return int64(int32(le.Uint32(raw))), true
	case typeU64, typeI64:
		u := le.Uint64(raw)
		return int64(u), kind == typeI64 || u <= math.MaxInt64
	}
	return 0, false
}

// Float returns a number, or def when the key is absent.
func (f *File) Float(key string, def float64) (float64, error) {
	v, ok := f.meta[key]
	if !ok {
		return def, nil
	}
	switch v.kind {
	case typeF32:
		return float64(math.Float32frombits(binary.LittleEndian.Uint32(v.raw))), nil
	case typeF64:
		return math.Float64frombits(binary.LittleEndian.Uint64(v.raw)), nil
	}
	if n, ok := v.integer(v.kind, v.raw); ok {
		return float64(n), nil
	}
	return 0, f.mistyped(key, "a number")
}

// Bool returns a truth value, or def when the key is absent.
func (f *File) Bool(key string, def bool) (bool, error) {
	v, ok := f.meta[key]
	if !ok {
		return def, nil
	}
	if v.kind != typeBool {
		return false, f.mistyped(key, "a truth value")
	}
	return v.raw[0] != 0, nil
}

// Strings returns an array of strings; nil when the key is absent.
func (f *File) Strings(key string) ([]string, error) {
	v, ok := f.meta[key]
	if !ok {
		return nil, nil
	}
	if v.kind != typeArray || v.elem != typeString {
		return nil, f.mistyped(key, "an array of strings")
	}
	out := make([]string, v.n)
	c := cursor{v.raw}
	for i := range out {
		b, err := c.bytes()
		if err != nil {
			return nil, err
		}
		if !utf8.Valid(b) {
			return nil, fmt.Errorf("%s: metadata key %q: element %d is not UTF-8", f.path, key, i)
		}
		out[i] = string(b)
	}
	return out, nil
}

// Ints returns an array of whole numbers; nil when the key is absent.
func (f *File) Ints(key string) ([]int64, error) {
	v, ok := f.meta[key]
	if !ok {
		return nil, nil
	}
	if v.kind != typeArray || v.elem == typeString {
		return nil, f.mistyped(key, "an array of whole numbers")
	}
	out := make([]int64, v.n)
	for i := range out {
		var ok bool
		if out[i], ok = v.integer(v.elem, v.raw[i*valueSize[v.elem]:]); !ok {
			return nil, f.mistyped(key, "an array of whole numbers")
		}
	}
	return out, nil
}

// Floats returns an array of 32-bit floats; nil when the key is absent.
func (f *File) Floats(key string) ([]float32, error) {
	v, ok := f.meta[key]
	if !ok {
		return nil, nil
	}
	if v.kind != typeArray || v.elem != typeF32 {
		return nil, f.mistyped(key, "an array of 32-bit floats")
	}
	out := make([]float32, v.n)
	for i := range out {
		out[i] = math.Float32frombits(binary.LittleEndian.Uint32(v.raw[4*i:]))
	}
	return out, nil
}
