package safetensors

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/bits"
	"slices"
	"strconv"
	"unicode/utf8"

	"pipe/tensor"
)

// Limits on files from anywhere; real ones stay far below.
const (
	maxHeader  = 25 << 20
	maxTensors = 1_000_000
	maxRank    = 8
	maxName    = 1024
)

// A dtype is an element type of the format, in the order in which the format's
// own writer sorts tensors (descending).
type dtype struct {
	name string
	bits uint64
	ours tensor.DType
	ok   bool // ours is set
}

var dtypes = []dtype{
	{name: "BOOL", bits: 8}, {name: "F4", bits: 4}, {name: "F6_E2M3", bits: 6}, {name: "F6_E3M2", bits: 6},
	{"U8", 8, tensor.U8, true}, {name: "I8", bits: 8},
	{name: "F8_E5M2", bits: 8}, {name: "F8_E4M3", bits: 8}, {name: "F8_E5M2FNUZ", bits: 8}, {name: "F8_E4M3FNUZ", bits: 8}, {name: "F8_E8M0", bits: 8},
	{name: "I16", bits: 16}, {name: "U16", bits: 16}, {"F16", 16, tensor.F16, true}, {"BF16", 16, tensor.BF16, true},
	{"I32", 32, tensor.I32, true}, {name: "U32", bits: 32}, {"F32", 32, tensor.F32, true},
	{name: "C64", bits: 64}, {name: "F64", bits: 64}, {name: "I64", bits: 64}, {name: "U64", bits: 64},
}

// An entry is the header's view of one tensor.
type entry struct {
	name       string
	dtype      dtype
	shape      []int
	begin, end uint64
}

// parse reads the header of a file and checks that its tensors tile the data.
func parse(file []byte) (entries []entry, metadata map[string]string, data []byte, err error) {
	if len(file) < 8 {
		return nil, nil, nil, fmt.Errorf("is %d bytes long; a safetensors file begins with a header length of 8 bytes", len(file))
	}
	n := binary.LittleEndian.Uint64(file)
	if n > maxHeader {
		return nil, nil, nil, fmt.Errorf("claims a header of %d bytes; at most %d are read", n, maxHeader)
	}
	if n > uint64(len(file)-8) {
		return nil, nil, nil, fmt.Errorf("claims a header of %d bytes but has only %d; it may be cut short", n, len(file)-8)
	}
	header, data := file[8:8+n], file[8+n:]
	switch {
	case len(header) == 0 || header[0] != '{':
		return nil, nil, nil, errors.New("header does not begin with {")
	case !utf8.Valid(header):
		return nil, nil, nil, errors.New("header is not valid UTF-8")
	}
	if entries, metadata, err = parseJSON(header); err != nil {
		return nil, nil, nil, fmt.Errorf("header: %w", err)
	}
	return entries, metadata, data, tile(entries, uint64(len(data)))
}

// tile sorts the entries by offset and checks that they cover the data
// exactly, without gap or overlap, each with the bytes its shape needs.
func tile(entries []entry, total uint64) error {
	slices.SortFunc(entries, func(a, b entry) int {
		return cmp.Or(cmp.Compare(a.begin, b.begin), cmp.Compare(a.end, b.end), cmp.Compare(a.name, b.name))
	})
	var at uint64
	for _, e := range entries {
		if e.begin != at || e.end < e.begin {
			return fmt.Errorf("tensor %q: data_offsets [%d, %d] do not continue at %d", e.name, e.begin, e.end, at)
		}
		size := e.dtype.bits
		for _, d := range e.shape {
			hi, lo := bits.Mul64(size, uint64(d))
			if hi != 0 {
				return fmt.Errorf("tensor %q: shape %v overflows", e.name, e.shape)
			}
			size = lo
		}
		if size%8 != 0 || size/8 != e.end-e.begin {
			return fmt.Errorf("tensor %q: shape %v of %s does not fill data_offsets [%d, %d]", e.name, e.shape, e.dtype.name, e.begin, e.end)
		}
		at = e.end
	}
	if at != total {
		return fmt.Errorf("tensors end at byte %d of %d of the data; the file may be cut short or damaged", at, total)
	}
	return nil
}

// A scanner reads JSON token by token: unlike Unmarshal it sees duplicate keys
// and the exact spelling of keys.
type scanner struct{ *json.Decoder }

func parseJSON(header []byte) (entries []entry, metadata map[string]string, err error) {
	s := scanner{json.NewDecoder(bytes.NewReader(header))}
	s.UseNumber()
	err = s.object(func(key string) error {
		if key == "__metadata__" {
			metadata = map[string]string{}
			return s.object(func(k string) (err error) {
				metadata[k], err = s.text()
				return err
			})
		}
		if len(entries) == maxTensors {
			return fmt.Errorf("more than %d tensors", maxTensors)
		}
		if len(key) > maxName {
			return fmt.Errorf("tensor name %.40q... is %d bytes long; at most %d are read", key, len(key), maxName)
		}
		e, err := s.entry(key)
		if err != nil {
			return fmt.Errorf("tensor %q: %w", key, err)
		}
		entries = append(entries, e)
		return nil
	})
	if err != nil {
		return nil, nil, err
	}
	if _, err := s.Token(); err != io.EOF { // padding is white space
		return nil, nil, errors.New("something follows the JSON object")
	}
	return entries, metadata, nil
}

func (s scanner) entry(name string) (e entry, err error) {
	e.name = name
	seen := 0
	err = s.object(func(key string) error {
		seen++
		switch key {
		case "dtype":
			v, err := s.text()
			if err != nil {
				return err
			}
			i := slices.IndexFunc(dtypes, func(d dtype) bool { return d.name == v })
			if i < 0 {
				return fmt.Errorf("dtype %q is unknown", v)
			}
			e.dtype = dtypes[i]
			return nil
		case "shape":
			dims, err := s.numbers(maxRank)
			e.shape = make([]int, len(dims))
			for i, d := range dims {
				if uint64(int(d)) != d || int(d) < 0 {
					return fmt.Errorf("dimension %d is too large", d)
				}
				e.shape[i] = int(d)
			}
			return err
		case "data_offsets":
			v, err := s.numbers(2)
			if err == nil && len(v) != 2 {
				err = errors.New("data_offsets must be two numbers")
			}
			if err == nil {
				e.begin, e.end = v[0], v[1]
			}
			return err
		}
		return fmt.Errorf("key %q is unknown", key)
	})
	if err == nil && seen != 3 { // keys are distinct
		err = errors.New("needs dtype, shape and data_offsets")
	}
	return e, err
}

func (s scanner) delim(want json.Delim) error {
	t, err := s.Token()
	if err != nil {
		return err
	}
	if t != want {
		return fmt.Errorf("found %v where %v belongs", t, want)
	}
	return nil
}

// object calls value for every key, which must read its value.
func (s scanner) object(value func(key string) error) error {
	if err := s.delim('{'); err != nil {
		return err
	}
	seen := map[string]bool{}
	for s.More() {
		key, err := s.text()
		if err != nil {
			return err
		}
		if seen[key] {
			return fmt.Errorf("key %q appears twice", key)
		}
		seen[key] = true
		if err := value(key); err != nil {
			return err
		}
	}
	return s.delim('}')
}

func (s scanner) text() (string, error) {
	t, err := s.Token()
	if err != nil {
		return "", err
	}
	v, ok := t.(string)
	if !ok {
		return "", fmt.Errorf("found %v where a string belongs", t)
	}
	return v, nil
}

// numbers reads an array of at most limit non-negative integers.
func (s scanner) numbers(limit int) (v []uint64, err error) {
	if err := s.delim('['); err != nil {
		return nil, err
	}
	for s.More() {
		t, err := s.Token()
		if err != nil {
			return nil, err
		}
		n, ok := t.(json.Number)
		if !ok {
			return nil, fmt.Errorf("found %v where a number belongs", t)
		}
		u, err := strconv.ParseUint(n.String(), 10, 64)
		if err != nil {
			return nil, fmt.Errorf("%s is not a non-negative integer", n)
		}
		if len(v) == limit {
			return nil, fmt.Errorf("more than %d numbers", limit)
		}
		v = append(v, u)
	}
	return v, s.delim(']')
}
