package gguf

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"

	"pipe/model/disk"
	"pipe/tensor"
)

// A KV is one metadata entry. Value is a uint32, int32, uint64, float32, bool,
// string, []string, []int32 or []float32.
type KV struct {
	Key   string
	Value any
}

// A Tensor is one tensor to be written, by its GGUF name and with its rows in
// GGUF's order. Its bytes are what Fill writes.
type Tensor struct {
	Name  string
	DType tensor.DType
	Shape []int // outermost first; the last dimension must be whole blocks
	Fill  func(w io.Writer) error
}

// Write writes a GGUF file of version 3 atomically; keys and tensors are
// stored in the order given.
func Write(path string, kvs []KV, tensors []Tensor) error {
	if err := disk.Write(path, func(w io.Writer) error { return WriteTo(w, kvs, tensors) }); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}

// WriteTo is Write to a stream.
func WriteTo(w io.Writer, kvs []KV, tensors []Tensor) error {
	h := &bytes.Buffer{}
	h.WriteString(magic)
	put(h, uint32(version))
	put(h, uint64(len(tensors)))
	put(h, uint64(len(kvs)))
	for _, kv := range kvs {
		if err := putValue(h, kv); err != nil {
			return fmt.Errorf("metadata key %q: %w", kv.Key, err)
		}
	}
	sizes := make([]int, len(tensors))
	at := 0
	for i, t := range tensors {
		if err := putInfo(h, t, at); err != nil {
			return fmt.Errorf("tensor %q: %w", t.Name, err)
		}
		sizes[i] = t.DType.Bytes(elements(t.Shape))
		at += padded(sizes[i])
	}
	h.Write(make([]byte, padded(h.Len())-h.Len()))
	if _, err := w.Write(h.Bytes()); err != nil {
		return err
	}
	for i, t := range tensors {
		c := &counter{w: w, left: sizes[i]}
		err := t.Fill(c)
		if err == nil && c.left != 0 {
			err = fmt.Errorf("%d bytes of %d are missing", c.left, sizes[i])
		}
		if err == nil {
			_, err = w.Write(make([]byte, padded(sizes[i])-sizes[i]))
		}
		if err != nil {
			return fmt.Errorf("tensor %q: %w", t.Name, err)
		}
	}
	return nil
}

func padded(n int) int { return (n + defaultAlignment - 1) &^ (defaultAlignment - 1) }

// put appends fixed-size numbers; a bytes.Buffer does not fail.
func put(h *bytes.Buffer, v any) { binary.Write(h, binary.LittleEndian, v) }

func putString(h *bytes.Buffer, s string) {
	put(h, uint64(len(s)))
	h.WriteString(s)
}

func putArray(h *bytes.Buffer, elem uint32, n int) {
	put(h, uint32(typeArray))
	put(h, elem)
	put(h, uint64(n))
}

func putValue(h *bytes.Buffer, kv KV) error {
	if kv.Key == "" || len(kv.Key) > maxKey {
		return errors.New("is empty or too long")
	}
	putString(h, kv.Key)
	switch v := kv.Value.(type) {
	case uint32:
		put(h, uint32(typeU32))
		put(h, v)
	case int32:
		put(h, uint32(typeI32))
		put(h, v)
	case uint64:
		put(h, uint32(typeU64))
		put(h, v)
	case float32:
		put(h, uint32(typeF32))
		put(h, math.Float32bits(v))
	case bool:
		put(h, uint32(typeBool))
		put(h, v)
	case string:
		put(h, uint32(typeString))
		putString(h, v)
	case []string:
		putArray(h, typeString, len(v))
		for _, s := range v {
			putString(h, s)
		}
	case []int32:
		putArray(h, typeI32, len(v))
		put(h, v)
	case []float32:
		putArray(h, typeF32, len(v))
		put(h, v)
	default:
		return fmt.Errorf("values of type %T are not written", v)
	}
	return nil
}

func putInfo(h *bytes.Buffer, t Tensor, offset int) error {
	id, err := typeID(t.DType)
	switch {
	case err != nil:
		return err
	case t.Name == "" || len(t.Name) >= maxName:
		return fmt.Errorf("the name is empty or not shorter than %d bytes", maxName)
	case len(t.Shape) == 0 || len(t.Shape) > maxDims:
		return fmt.Errorf("has %d dimensions; from 1 to %d can be stored", len(t.Shape), maxDims)
	case t.Shape[len(t.Shape)-1]%t.DType.Block() != 0:
		return fmt.Errorf("rows of %d elements are not whole %s blocks", t.Shape[len(t.Shape)-1], t.DType)
	}
	putString(h, t.Name)
	put(h, uint32(len(t.Shape)))
	for i := len(t.Shape) - 1; i >= 0; i-- {
		put(h, uint64(t.Shape[i]))
	}
	put(h, id)
	put(h, uint64(offset))
	return nil
}

// A counter refuses to write more than was announced.
type counter struct {
	w    io.Writer
	left int
}

func (c *counter) Write(p []byte) (int, error) {
	if len(p) > c.left {
		return 0, errors.New("more bytes than its shape has")
	}
	n, err := c.w.Write(p)
	c.left -= n
	return n, err
}
