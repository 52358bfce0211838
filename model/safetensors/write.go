package safetensors

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"unicode/utf8"

	"pipe/model/disk"
	"pipe/tensor"
)

// A Tensor is one tensor to be written. Its elements, little-endian, are Data
// or, when Fill is set, what Fill writes: tensors that are computed need not
// all be in memory at once. DType must not be a block format.
type Tensor struct {
	Name  string
	DType tensor.DType
	Shape []int
	Data  []byte
	Fill  func(w io.Writer) error // called once, in the order of the file
}

// Write writes a file atomically. The order of tensors is that of the format's
// own writer: by type, then name. metadata may be nil; "format" is set to "pt"
// unless it is there, since loaders refuse files without it.
func Write(path string, tensors []Tensor, metadata map[string]string) error {
	err := disk.Write(path, func(w io.Writer) error { return WriteTo(w, tensors, metadata) })
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}

// WriteTo is Write to a stream.
func WriteTo(w io.Writer, tensors []Tensor, metadata map[string]string) error {
	sorted := slices.Clone(tensors)
	slices.SortFunc(sorted, func(a, b Tensor) int {
		return cmp.Or(cmp.Compare(rank(b.DType), rank(a.DType)), cmp.Compare(a.Name, b.Name))
	})
	header, err := header(sorted, metadata)
	if err != nil {
		return err
	}
	if _, err := w.Write(header); err != nil {
		return err
	}
	for _, t := range sorted {
		if err := t.write(w); err != nil {
			return fmt.Errorf("tensor %q: %w", t.Name, err)
		}
	}
	return nil
}

// rank is the place of a type in the writer's order, -1 for those that the
// format does not have.
func rank(dt tensor.DType) int {
	return slices.IndexFunc(dtypes, func(d dtype) bool { return d.ok && d.ours == dt })
}

func header(sorted []Tensor, metadata map[string]string) ([]byte, error) {
	meta := map[string]string{"format": "pt"}
	maps.Copy(meta, metadata)
	b := &bytes.Buffer{}
	b.WriteString(`{"__metadata__":`)
	if err := encode(b, meta); err != nil { // keys are sorted
		return nil, err
	}
	at := 0
	names := map[string]bool{"__metadata__": true}
	for _, t := range sorted {
		size, err := t.size()
		switch {
		case err != nil:
			return nil, fmt.Errorf("tensor %q: %w", t.Name, err)
		case names[t.Name]:
			return nil, fmt.Errorf("tensor %q appears twice or is a reserved name", t.Name)
		case !utf8.ValidString(t.Name) || len(t.Name) > maxName:
			return nil, fmt.Errorf("tensor name %.40q is not UTF-8 of at most %d bytes", t.Name, maxName)
		}
		names[t.Name] = true
		b.WriteByte(',')
		if err := encode(b, t.Name); err != nil {
			return nil, err
		}
		shape := t.Shape
		if shape == nil {
			shape = []int{}
		}
		fmt.Fprintf(b, `:{"dtype":%q,"shape":`, dtypes[rank(t.DType)].name)
		if err := encode(b, shape); err != nil {
			return nil, err
		}
		fmt.Fprintf(b, `,"data_offsets":[%d,%d]}`, at, at+size)
		at += size
	}
	b.WriteByte('}')
	for b.Len()%8 != 0 {
		b.WriteByte(' ')
	}
	if b.Len() > maxHeader {
		return nil, fmt.Errorf("header of %d bytes; at most %d are read again", b.Len(), maxHeader)
	}
	return append(binary.LittleEndian.AppendUint64(nil, uint64(b.Len())), b.Bytes()...), nil
}

// encode appends v as JSON, without a newline and without escaping <, > and &.
func encode(b *bytes.Buffer, v any) error {
	e := json.NewEncoder(b)
	e.SetEscapeHTML(false)
	err := e.Encode(v)
	b.Truncate(b.Len() - 1)
	return err
}

func (t Tensor) size() (int, error) {
	if rank(t.DType) < 0 {
		return 0, fmt.Errorf("type %s cannot be stored in safetensors", t.DType)
	}
	if len(t.Shape) > maxRank {
		return 0, fmt.Errorf("shape %v has more than %d dimensions", t.Shape, maxRank)
	}
	n := t.DType.Bytes(1)
	for _, d := range t.Shape {
		if d < 0 {
			return 0, fmt.Errorf("shape %v", t.Shape)
		}
		n *= d
	}
	if t.Fill == nil && len(t.Data) != n {
		return 0, fmt.Errorf("%d bytes of data for shape %v of %s, which needs %d", len(t.Data), t.Shape, t.DType, n)
	}
	return n, nil
}

func (t Tensor) write(w io.Writer) error {
	if t.Fill == nil {
		_, err := w.Write(t.Data)
		return err
	}
	size, err := t.size()
	if err != nil {
		return err
	}
	c := &counter{w: w, left: size}
	if err := t.Fill(c); err != nil {
		return err
	}
	if c.left != 0 {
		return fmt.Errorf("%d bytes of %d are missing", c.left, size)
	}
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
