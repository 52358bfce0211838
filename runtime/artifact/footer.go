package artifact

import (
	"encoding/binary"
	"errors"
	"fmt"

	flatbuffers "github.com/google/flatbuffers/go"
)

var errFooter = errors.New("not a valid Arrow file: its footer is damaged")

// maxFields bounds the fields and metadata of a schema, nested ones included;
// the widest row type has a few dozen.
const maxFields = 4096

// A block is where a batch lies in an Arrow file: its description, and behind
// it its content.
type block struct{ off, meta, body int64 }

// readFooter returns the blocks of an Arrow IPC file. It refuses blocks that lie
// outside the file and schemas of absurd size. Format: "Footer" and "Block" of
// Arrow's File.fbs; a file ends with the footer, its int32 length, and "ARROW1".
func readFooter(file []byte) (blocks []block, err error) {
	defer recovered(&err)
	size := int64(len(file))
	if size < 20 {
		return nil, errFooter
	}
	tail := file[size-10:]
	n := int64(int32(binary.LittleEndian.Uint32(tail)))
	if string(tail[4:]) != "ARROW1" || n < 8 || n > size-20 {
		return nil, errFooter
	}
	b := file[size-10-n : size-10]
	t := flatbuffers.Table{Bytes: b, Pos: flatbuffers.GetUOffsetT(b)}
	if t.Offset(8) != 0 { // dictionaries: pipe writes none
		if t.VectorLen(flatbuffers.UOffsetT(t.Offset(8))) > 0 {
			return nil, fmt.Errorf("not a table of pipe: it has dictionaries")
		}
	}
	if err := checkSchema(&t); err != nil {
		return nil, err
	}
	o := flatbuffers.UOffsetT(t.Offset(10))
	if o == 0 {
		return nil, nil // no batches
	}
	const length = 24 // int64 offset, int32 metadata length, 4 bytes pad, int64 body length
	start, count := int64(t.Vector(o)), int64(t.VectorLen(o))
	if count < 0 || start+count*length > n {
		return nil, errFooter
	}
	for p := start; p < start+count*length; p += length {
		l := block{flatbuffers.GetInt64(b[p:]), int64(flatbuffers.GetInt32(b[p+8:])), flatbuffers.GetInt64(b[p+16:])}
		if l.off < 8 || l.off > size || l.meta < 8 || l.meta > size || l.body < 0 || l.body > size || l.off+l.meta+l.body > size-10-n {
			return nil, fmt.Errorf("not a valid Arrow file: a batch claims bytes %d to %d of %d", l.off, l.off+l.meta+l.body, size)
		}
		if _, err := batchOf(file[l.off:l.off+l.meta], l.off); err != nil {
			return nil, err
		}
		blocks = append(blocks, l)
	}
	return blocks, nil
}

// batchOf returns the RecordBatch that the metadata b of a block at off
// describes. Format: "Message" of Arrow's Message.fbs, whose header it is, and
// whose compression is in the fourth slot; before it lie ffffffff and its
// length. pipe compresses none.
func batchOf(b []byte, off int64) (*flatbuffers.Table, error) {
	if binary.LittleEndian.Uint32(b) == 0xffffffff {
		b = b[4:]
	}
	if len(b) < 8 {
		return nil, errFooter
	}
	b = b[4:]
	message := flatbuffers.Table{Bytes: b, Pos: flatbuffers.GetUOffsetT(b)}
	o := flatbuffers.UOffsetT(message.Offset(8)) // header
	if o == 0 {
		return nil, fmt.Errorf("not a valid Arrow file: the batch at byte %d has no header", off)
	}
	batch := &flatbuffers.Table{Bytes: b, Pos: message.Indirect(o + message.Pos)}
	if batch.Offset(10) != 0 {
		return nil, fmt.Errorf("not a table of pipe: the batch at byte %d is compressed", off)
	}
	return batch, nil
}

// checkSchema counts what the schema of a footer claims to hold. Format:
// "Schema" and "Field" of Arrow's Schema.fbs.
func checkSchema(footer *flatbuffers.Table) error {
	o := flatbuffers.UOffsetT(footer.Offset(6))
	if o == 0 {
		return errFooter
	}
	schema := flatbuffers.Table{Bytes: footer.Bytes, Pos: footer.Indirect(o + footer.Pos)}
	w := fieldCounter{left: maxFields}
	w.metadata(&schema, 8)
	w.fields(&schema, 6)
	if w.left < 0 {
		return fmt.Errorf("not a table of pipe: its schema has more than %d fields", maxFields)
	}
	return nil
}

// A fieldCounter stops when nothing is left of what it may count.
type fieldCounter struct{ left int }

// metadata counts the vector in the given slot of t's vtable.
func (c *fieldCounter) metadata(t *flatbuffers.Table, slot flatbuffers.VOffsetT) (o flatbuffers.UOffsetT, n int) {
	if o = flatbuffers.UOffsetT(t.Offset(slot)); o == 0 || c.left < 0 {
		return 0, 0
	}
	n = t.VectorLen(o)
	if c.left -= n; n < 0 {
		c.left = -1
	}
	return o, n
}

// fields counts the fields in the given slot of t's vtable, and theirs.
func (c *fieldCounter) fields(t *flatbuffers.Table, slot flatbuffers.VOffsetT) {
	o, n := c.metadata(t, slot)
	if o == 0 {
		return
	}
	start := t.Vector(o)
	for i := range n {
		if c.left < 0 {
			return
		}
		f := flatbuffers.Table{Bytes: t.Bytes, Pos: t.Indirect(start + 4*flatbuffers.UOffsetT(i))}
		c.metadata(&f, 16)
		c.fields(&f, 14)
	}
}
