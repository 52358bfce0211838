package gguf

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"
	"unicode/utf8"
)

// Limits on files from anywhere; real ones stay far below.
const (
	maxKeys    = 1 << 16
	maxTensors = 1 << 20
	maxString  = 1 << 30
	maxArray   = 1 << 30
	maxName    = 64 // with the closing zero that C keeps
	maxDims    = 4
	maxKey     = 1<<16 - 1
)

const (
	magic            = "GGUF"
	version          = 3
	defaultAlignment = 32
)

var errShort = errors.New("the file ends in the middle of it; it may be cut short")

// A value is a metadata value, still encoded: raw holds the bytes of a scalar
// or string, or the elements of an array one after the other.
type value struct {
	kind, elem uint32
	n          int // elements of an array
	raw        []byte
}

// An info describes a tensor as the file does.
type info struct {
	name string
	dims []int // innermost first
	typ  ggmlType
	data []byte
}

// A cursor reads little-endian fields from the rest of a file.
type cursor struct{ rest []byte }

func (c *cursor) take(n uint64) ([]byte, error) {
	if n > uint64(len(c.rest)) {
		return nil, errShort
	}
	b := c.rest[:n:n]
	c.rest = c.rest[n:]
	return b, nil
}

func (c *cursor) u32() (uint32, error) {
	b, err := c.take(4)
	if err != nil {
		return 0, err
	}
	return binary.LittleEndian.Uint32(b), nil
}

func (c *cursor) u64() (uint64, error) {
	b, err := c.take(8)
	if err != nil {
		return 0, err
	}
	return binary.LittleEndian.Uint64(b), nil
}

func (c *cursor) bytes() ([]byte, error) {
	n, err := c.u64()
	if err != nil {
		return nil, err
	}
	if n > maxString {
		return nil, fmt.Errorf("a string claims %d bytes; at most %d are read", n, maxString)
	}
	return c.take(n)
}

// parse checks a whole file and returns its metadata and tensors. Nothing is
// allocated by a claimed size: what is kept are slices of the file.
func parse(file []byte) (meta map[string]value, infos []info, err error) {
	c := &cursor{file}
	nTensors, nKeys, err := c.start()
	if err != nil {
		return nil, nil, err
	}
	meta = map[string]value{}
	for i := range nKeys {
		key, err := c.bytes()
		if err != nil {
			return nil, nil, fmt.Errorf("metadata key %d: %w", i, err)
		}
		if len(key) == 0 || len(key) > maxKey || !utf8.Valid(key) {
			return nil, nil, fmt.Errorf("metadata key %d is empty, longer than %d bytes or not UTF-8", i, maxKey)
		}
		name := string(key)
		if _, twice := meta[name]; twice {
			return nil, nil, fmt.Errorf("metadata key %q appears twice", name)
		}
		if meta[name], err = c.value(); err != nil {
			return nil, nil, fmt.Errorf("metadata key %q: %w", name, err)
		}
	}
	align, err := alignment(meta)
	if err != nil {
		return nil, nil, err
	}
	infos, err = c.infos(nTensors, uint64(len(file)), align)
	return meta, infos, err
}

func (c *cursor) start() (nTensors, nKeys uint64, err error) {
	m, err := c.take(4)
	if err != nil || string(m) != magic {
		return 0, 0, fmt.Errorf("does not begin with %q; it is not a GGUF file", magic)
	}
	v, err := c.u32()
	switch {
	case err != nil:
		return 0, 0, err
	case v&0xffff == 0 && v != 0:
		return 0, 0, errors.New("is big-endian, which is not supported")
	case v != 2 && v != version:
		return 0, 0, fmt.Errorf("is of GGUF version %d; versions 2 and 3 are read", v)
	}
	if nTensors, err = c.u64(); err == nil {
		nKeys, err = c.u64()
	}
	switch {
	case err != nil:
		return 0, 0, err
	case nTensors > maxTensors:
		return 0, 0, fmt.Errorf("claims %d tensors; at most %d are read", nTensors, maxTensors)
	case nKeys > maxKeys:
		return 0, 0, fmt.Errorf("claims %d metadata keys; at most %d are read", nKeys, maxKeys)
	}
	return nTensors, nKeys, nil
}

func (c *cursor) value() (v value, err error) {
	if v.kind, err = c.u32(); err != nil {
		return v, err
	}
	switch {
	case v.kind == typeArray:
		return v, c.array(&v)
	case v.kind == typeString:
		v.raw, err = c.bytes()
	case int(v.kind) < len(valueSize):
		v.raw, err = c.take(uint64(valueSize[v.kind]))
	default:
		err = fmt.Errorf("value type %d is unknown", v.kind)
	}
	return v, err
}

func (c *cursor) array(v *value) (err error) {
	if v.elem, err = c.u32(); err != nil {
		return err
	}
	n, err := c.u64()
	switch {
	case err != nil:
		return err
	case v.elem == typeArray:
		return errors.New("arrays of arrays are not supported")
	case int(v.elem) >= len(valueSize):
		return fmt.Errorf("array element type %d is unknown", v.elem)
	case n > maxArray || n*uint64(valueSize[v.elem]) > uint64(len(c.rest)):
		return fmt.Errorf("an array claims %d elements, more than the file can hold", n)
	}
	v.n = int(n)
	if v.elem != typeString {
		v.raw, err = c.take(n * uint64(valueSize[v.elem]))
		return err
	}
	start := c.rest
	for i := range v.n {
		if _, err := c.bytes(); err != nil {
			return fmt.Errorf("element %d: %w", i, err)
		}
	}
	v.raw = start[: len(start)-len(c.rest) : len(start)-len(c.rest)]
	return nil
}

func alignment(meta map[string]value) (uint64, error) {
	v, ok := meta["general.alignment"]
	if !ok {
		return defaultAlignment, nil
	}
	if v.kind != typeU32 {
		return 0, errors.New("general.alignment is not a 32-bit number")
	}
	a := binary.LittleEndian.Uint32(v.raw)
	if a < 8 || a > 1<<20 || a&(a-1) != 0 {
		return 0, fmt.Errorf("general.alignment is %d; must be a power of two from 8 to 1048576", a)
	}
	return uint64(a), nil
}

// infos reads the tensor descriptions and finds their data: each begins where
// the one before ended, padded to the alignment.
func (c *cursor) infos(n, size, align uint64) ([]info, error) {
	var infos []info
	var offsets []uint64
	seen := map[string]bool{}
	for i := range n {
		x, offset, err := c.info()
		if err != nil {
			return nil, fmt.Errorf("tensor %d %q: %w", i, x.name, err)
		}
		if seen[x.name] {
			return nil, fmt.Errorf("tensor %q appears twice", x.name)
		}
		seen[x.name] = true
		infos, offsets = append(infos, x), append(offsets, offset)
	}
	pos := size - uint64(len(c.rest))
	if pad := -pos & (align - 1); pad <= uint64(len(c.rest)) {
		c.rest = c.rest[pad:]
	} else if n > 0 {
		return nil, fmt.Errorf("padding before the data: %w", errShort)
	}
	var at uint64
	for i := range infos {
		x := &infos[i]
		length, ok := x.size()
		switch {
		case !ok:
			return nil, fmt.Errorf("tensor %q: dimensions %v of %s are not whole blocks or too large", x.name, x.dims, x.typ.name)
		case offsets[i] != at:
			return nil, fmt.Errorf("tensor %q lies at offset %d where %d follows from the tensors before it", x.name, offsets[i], at)
		case at > uint64(len(c.rest)) || length > uint64(len(c.rest))-at:
			return nil, fmt.Errorf("tensor %q: %w", x.name, errShort)
		}
		x.data = c.rest[at : at+length : at+length]
		at += length + -length&(align-1)
	}
	return infos, nil
}

func (c *cursor) info() (x info, offset uint64, err error) {
	name, err := c.bytes()
	if err != nil {
		return x, 0, err
	}
	x.name = string(name[:min(len(name), maxName)])
	if len(name) == 0 || len(name) >= maxName || !utf8.Valid(name) {
		return x, 0, fmt.Errorf("name is empty, not UTF-8 or not shorter than %d bytes", maxName)
	}
	n, err := c.u32()
	if err != nil {
		return x, 0, err
	}
	if n > maxDims {
		return x, 0, fmt.Errorf("has %d dimensions; at most %d are read", n, maxDims)
	}
	for range n {
		d, err := c.u64()
		if err != nil {
			return x, 0, err
		}
		if d > 1<<62 || uint64(int(d)) != d {
			return x, 0, fmt.Errorf("dimension %d is too large", d)
		}
		x.dims = append(x.dims, int(d))
	}
	id, err := c.u32()
	if err != nil {
		return x, 0, err
	}
	var known bool
	if x.typ, known = ggmlTypes[id]; !known {
		return x, 0, fmt.Errorf("element type %d is unknown", id)
	}
	offset, err = c.u64()
	return x, offset, err
}

// size returns the bytes of the tensor; false if its rows are not whole blocks
// or the size overflows.
func (x *info) size() (uint64, bool) {
	n := uint64(1)
	for i, d := range x.dims {
		if i == 0 && d%x.typ.block != 0 {
			return 0, false
		}
		hi, lo := bits.Mul64(n, uint64(d))
		if hi != 0 {
			return 0, false
		}
		n = lo
	}
	if len(x.dims) == 0 && x.typ.block != 1 {
		return 0, false
	}
	hi, lo := bits.Mul64(n/uint64(x.typ.block), uint64(x.typ.bytes))
	return lo, hi == 0 && lo < 1<<62
}
