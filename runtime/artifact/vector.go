package artifact

import (
	"errors"
	"fmt"
	"reflect"
	"unsafe"

	flatbuffers "github.com/google/flatbuffers/go"
)

// A vector is a column of one batch, or what its lists or structs hold. Its
// slices lie in the file: see [Rows] about how long they live.
type vector struct {
	n    int       // elements
	ends []int32   // of strings and lists: n+1 offsets, into data or kids[0]
	data []byte    // of strings, numbers and bits
	kids []*vector // what a list holds, or the fields of a struct
}

// A batchReader takes a record batch apart, depth first, as its schema says.
// Format: "RecordBatch", "FieldNode" and "Buffer" of Arrow's Message.fbs.
type batchReader struct {
	body    []byte
	meta    []byte // holds nodes and buffers
	nodes   []byte // 16 bytes each: length, number of nulls
	buffers []byte // 16 bytes each: offset into body, length
}

var errBatch = errors.New("not a valid Arrow file: a batch is damaged")

// readBatch returns the columns of the batch in block blk of the table b, whose
// rows have the given layout, and its number of rows.
func readBatch(b []byte, blk block, cols []column, t reflect.Type) (list []*vector, rows int, err error) {
	defer recovered(&err)
	batch, err := batchOf(b[blk.off:blk.off+blk.meta], blk.off)
	if err != nil {
		return nil, 0, err
	}
	r := batchReader{body: b[blk.off+blk.meta : blk.off+blk.meta+blk.body], meta: batch.Bytes}
	length := batch.GetInt64Slot(4, 0)
	r.nodes, r.buffers = pairs(batch, 6), pairs(batch, 8)
	for _, c := range cols {
		v, err := r.vector(t.Field(c.index).Type)
		if err != nil {
			return nil, 0, fmt.Errorf("column %s: %w", c.field.Name, err)
		}
		if int64(v.n) != length {
			return nil, 0, errBatch
		}
		list = append(list, v)
	}
	return list, int(length), nil
}

// pairs returns the bytes of a vector of structs of two int64.
func pairs(t *flatbuffers.Table, slot flatbuffers.VOffsetT) []byte {
	o := flatbuffers.UOffsetT(t.Offset(slot))
	if o == 0 {
		return nil
	}
	start, n := int64(t.Vector(o)), int64(t.VectorLen(o))
	return t.Bytes[start : start+16*n]
}

// next takes one pair from a list.
func next(list *[]byte) (a, b int64, err error) {
	if len(*list) < 16 {
		return 0, 0, errBatch
	}
	a, b = flatbuffers.GetInt64(*list), flatbuffers.GetInt64((*list)[8:])
	*list = (*list)[16:]
	return a, b, nil
}

// buffer takes the next buffer.
func (r *batchReader) buffer() ([]byte, error) {
	off, n, err := next(&r.buffers)
	size := int64(len(r.body))
	if err != nil || off < 0 || n < 0 || off > size || n > size-off {
		return nil, errBatch
	}
	return r.body[off : off+n : off+n], nil
}

// vector takes the next column, of values of the Go type t.
func (r *batchReader) vector(t reflect.Type) (*vector, error) {
	n, nulls, err := next(&r.nodes)
	if err != nil || n < 0 || n >= 1<<31 {
		return nil, errBatch
	}
	if nulls != 0 {
		return nil, errors.New("not a table of pipe: it has nulls")
	}
	if _, err := r.buffer(); err != nil { // which are null
		return nil, err
	}
	v := &vector{n: int(n)}
	switch t.Kind() {
	case reflect.String, reflect.Slice:
		if v.ends, err = r.ends(v.n); err != nil {
			return nil, err
		}
		if t.Kind() == reflect.String {
			v.data, err = r.buffer()
			return v, err
		}
		return v, r.kid(v, t.Elem())
	case reflect.Struct:
		for i := range t.NumField() {
			if err := r.kid(v, t.Field(i).Type); err != nil {
				return nil, err
			}
			if v.kids[i].n != v.n {
				return nil, errBatch
			}
		}
		return v, nil
	}
	if v.data, err = r.buffer(); err != nil {
		return nil, err
	}
	if need := bits(t) * n; int64(len(v.data))*8 < need || bits(t) == 32 && !aligned(v.data) {
		return nil, errBatch
	}
	return v, nil
}

// kid takes the next column as a part of v.
func (r *batchReader) kid(v *vector, t reflect.Type) error {
	k, err := r.vector(t)
	v.kids = append(v.kids, k)
	return err
}

// ends takes the offsets of n strings or lists; for none there may be none.
func (r *batchReader) ends(n int) ([]int32, error) {
	b, err := r.buffer()
	if err != nil || n == 0 {
		return nil, err
	}
	if len(b) < 4*(n+1) || !aligned(b) {
		return nil, errBatch
	}
	return int32s(b)[: n+1 : n+1], nil
}

// bits returns the size of a number or truth value.
func bits(t reflect.Type) int64 {
	if t.Kind() == reflect.Bool {
		return 1
	}
	return int64(t.Size()) * 8
}

func aligned(b []byte) bool {
	return uintptr(unsafe.Pointer(unsafe.SliceData(b)))%4 == 0
}

// int32s is b, which must be aligned, as numbers of this machine: Arrow's are
// little-endian, as are all machines that pipe is built for.
func int32s(b []byte) []int32 {
	if len(b) < 4 {
		return nil
	}
	return unsafe.Slice((*int32)(unsafe.Pointer(&b[0])), len(b)/4)
}

// span returns the offsets of string or list i, which lie below limit.
func (v *vector) span(i, limit int) (lo, hi int, err error) {
	lo, hi = int(v.ends[i]), int(v.ends[i+1])
	if lo < 0 || hi < lo || hi > limit {
		return 0, 0, fmt.Errorf("not a valid Arrow file: element %d spans %d to %d of %d", i, lo, hi, limit)
	}
	return lo, hi, nil
}

// get sets dst, which is zero, to element i.
func (v *vector) get(dst reflect.Value, i int) error {
	switch dst.Kind() {
	case reflect.String:
		lo, hi, err := v.span(i, len(v.data))
		if err != nil || lo == hi {
			return err
		}
		dst.SetString(unsafe.String(&v.data[lo], hi-lo))
	case reflect.Int32:
		dst.SetInt(int64(flatbuffers.GetInt32(v.data[4*i:])))
	case reflect.Int64:
		dst.SetInt(flatbuffers.GetInt64(v.data[8*i:]))
	case reflect.Float64:
		dst.SetFloat(flatbuffers.GetFloat64(v.data[8*i:]))
	case reflect.Bool:
		dst.SetBool(v.data[i/8]>>(i%8)&1 == 1)
	case reflect.Struct:
		for f, kid := range v.kids {
			if err := kid.get(dst.Field(f), i); err != nil {
				return err
			}
		}
	case reflect.Slice:
		return v.list(dst, i)
	}
	return nil
}

// list sets dst to list i. An empty one is nil: empty and absent are the same.
func (v *vector) list(dst reflect.Value, i int) error {
	kid := v.kids[0]
	lo, hi, err := v.span(i, kid.n)
	if err != nil || lo == hi {
		return err
	}
	if ints, ok := dst.Addr().Interface().(*[]int32); ok {
		*ints = int32s(kid.data)[lo:hi:hi]
		return nil
	}
	dst.Set(reflect.MakeSlice(dst.Type(), hi-lo, hi-lo))
	for j := lo; j < hi; j++ {
		if err := kid.get(dst.Index(j-lo), j); err != nil {
			return err
		}
	}
	return nil
}
