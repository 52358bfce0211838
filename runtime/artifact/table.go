package artifact

import (
	"fmt"
	"io"
	"iter"
	"os"
	"path/filepath"
	"reflect"
	"sync/atomic"

	"github.com/apache/arrow/go/v17/arrow"
	"github.com/apache/arrow/go/v17/arrow/array"
	"github.com/apache/arrow/go/v17/arrow/ipc"
	"github.com/apache/arrow/go/v17/arrow/memory"
)

// A batch is written when it holds so many rows or, roughly, bytes: readers
// load one batch at a time.
const (
	batchRows  = 4096
	batchBytes = 16 << 20
)

// A tableWriter writes rows.arrow: an Arrow IPC file, uncompressed, without
// dictionaries. Equal rows make equal bytes.
type tableWriter struct {
	typ     reflect.Type
	file    io.Closer
	arrow   *ipc.FileWriter
	builder *array.RecordBuilder
	cols    []column
	rows    int64
	pending int // rows in builder
	bytes   int // their approximate size
	err     error
}

// Append adds rows to w's table. The first call fixes the row type to T; no
// rows still make a table, an empty one.
func Append[T any](w *Writer, rows ...T) error {
	t := reflect.TypeFor[T]()
	if w.table == nil {
		tw, err := newTableWriter(w.store, filepath.Join(w.dir, TableName), t)
		if err != nil {
			return w.store.Advise(fmt.Errorf("write %s: %w", TableName, err))
		}
		w.table = tw
	}
	if w.table.typ != t {
		return fmt.Errorf("write %s: rows are %v; they were %v before", TableName, t, w.table.typ)
	}
	for i := range rows {
		if err := w.table.append(reflect.ValueOf(&rows[i]).Elem()); err != nil {
			return w.store.Advise(fmt.Errorf("write %s: %w", TableName, err))
		}
	}
	return nil
}

func newTableWriter(s *Store, path string, t reflect.Type) (*tableWriter, error) {
	sch, cols, err := schema(t)
	if err != nil {
		return nil, err
	}
	f, err := s.create(path)
	if err != nil {
		return nil, err
	}
	aw, err := ipc.NewFileWriter(f, ipc.WithSchema(sch))
	if err != nil {
		f.Close()
		return nil, err
	}
	return &tableWriter{typ: t, file: f, arrow: aw, cols: cols, builder: array.NewRecordBuilder(memory.DefaultAllocator, sch)}, nil
}

func (t *tableWriter) append(row reflect.Value) error {
	if t.err != nil {
		return t.err
	}
	for i, c := range t.cols {
		put(t.builder.Field(i), row.Field(c.index))
		t.bytes += size(row.Field(c.index))
	}
	t.rows++
	t.pending++
	if t.pending >= batchRows || t.bytes >= batchBytes {
		t.err = t.flush()
	}
	return t.err
}

func (t *tableWriter) flush() error {
	if t.pending == 0 {
		return nil
	}
	rec := t.builder.NewRecord()
	defer rec.Release()
	t.pending, t.bytes = 0, 0
	return t.arrow.Write(rec)
}

func (t *tableWriter) close() error {
	defer t.builder.Release()
	if t.err == nil {
		t.err = t.flush()
	}
	// The first error is the cause of the others.
	for _, end := range []func() error{t.arrow.Close, t.file.Close} {
		if err := end(); t.err == nil {
			t.err = err
		}
	}
	return t.err
}

func (t *tableWriter) abort() { t.file.Close() }

// size estimates the bytes of a field.
func size(v reflect.Value) int {
	switch v.Kind() {
	case reflect.String:
		return v.Len() + 4
	case reflect.Slice:
		if v.Type().Elem().Kind() == reflect.Int32 {
			return 4*v.Len() + 4
		}
		n := 4
		for i := range v.Len() {
			n += size(v.Index(i))
		}
		return n
	case reflect.Struct:
		n := 0
		for i := range v.NumField() {
			n += size(v.Field(i))
		}
		return n
	}
	return 8
}

// Rows yields the rows of a's table in order. The content is checked against
// its digest before the first row; a table of another row type, or one that is
// not a valid Arrow file, is an error. The sequence ends at the first error.
func Rows[T any](a *Artifact) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		var zero T
		path, err := a.Path(TableName)
		if err != nil {
			yield(zero, err)
			return
		}
		stopped := false
		err = readTable(path, reflect.TypeFor[T](), func(set func(reflect.Value) error) (bool, error) {
			var row T
			if err := set(reflect.ValueOf(&row).Elem()); err != nil {
				return false, err
			}
			stopped = !yield(row, nil)
			return !stopped, nil
		})
		if err != nil && !stopped {
			yield(zero, fmt.Errorf("read %s: %w", path, err))
		}
	}
}

// RowType returns the name of the type of the rows in a's table: "row",
// "packed", "drop" or "point".
func RowType(a *Artifact) (name string, err error) {
	path, err := a.Path(TableName)
	if err != nil {
		return "", err
	}
	f, err := os.Open(path)
	if err != nil {
		return "", fmt.Errorf("read %s: %w", path, err)
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return "", fmt.Errorf("read %s: %w", path, err)
	}
	r, err := openArrow(f, st.Size())
	if err != nil {
		return "", fmt.Errorf("read %s: %w", path, err)
	}
	defer r.Close()
	name, _ = r.Schema().Metadata().GetValue(rowsKey)
	return name, nil
}

// All returns every row of a's table.
func All[T any](a *Artifact) ([]T, error) {
	rows := make([]T, 0, min(a.Count(), 1<<16))
	for r, err := range Rows[T](a) {
		if err != nil {
			return nil, err
		}
		rows = append(rows, r)
	}
	return rows, nil
}

// readTable calls row for each row of an Arrow file that must have t's schema.
// The Arrow library panics on some damaged files: that is an error here.
func readTable(path string, t reflect.Type, row func(set func(reflect.Value) error) (bool, error)) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return err
	}
	return readRows(f, st.Size(), t, row)
}

// readRows is readTable for a file that is open.
func readRows(f ipc.ReadAtSeeker, size int64, t reflect.Type, row func(set func(reflect.Value) error) (bool, error)) error {
	r, cols, err := openTable(f, size, t)
	if err != nil {
		return err
	}
	defer r.Close()
	for b := range r.NumRecords() {
		rec, err := readBatch(r, b)
		if err != nil {
			return fmt.Errorf("batch %d: %w", b, err)
		}
		for i := range int(rec.NumRows()) {
			more, err := row(func(v reflect.Value) error { return setRow(v, rec, cols, i) })
			if err != nil || !more {
				rec.Release()
				return err
			}
		}
		rec.Release()
	}
	return nil
}

func openTable(f ipc.ReadAtSeeker, size int64, t reflect.Type) (r *ipc.FileReader, cols []column, err error) {
	want, cols, err := schema(t)
	if err != nil {
		return nil, nil, err
	}
	if r, err = openArrow(f, size); err != nil {
		return nil, nil, err
	}
	if !r.Schema().Equal(want) {
		name, _ := r.Schema().Metadata().GetValue(rowsKey)
		r.Close()
		return nil, nil, fmt.Errorf("it holds %q rows; %q rows are needed", name, snake(t.Name()))
	}
	return r, cols, nil
}

func openArrow(f ipc.ReadAtSeeker, size int64) (r *ipc.FileReader, err error) {
	defer recovered(&err)
	if err := checkFooter(f, size); err != nil {
		return nil, err
	}
	return ipc.NewFileReader(f, ipc.WithAllocator(newCapped(size)))
}

// capped bounds what reading a file may hold at once: the Arrow library
// allocates what a buffer claims before it reads it. A table of pipe is not
// compressed, so its batches are no larger than the file, but for padding and
// a second copy.
type capped struct {
	memory.Allocator
	file int64
	held *atomic.Int64
}

// slack is what may be held beyond twice the size of the file.
const slack = 1 << 20

func newCapped(file int64) capped {
	return capped{memory.DefaultAllocator, file, new(atomic.Int64)}
}

func (c capped) Allocate(size int) []byte {
	c.check(size)
	b := c.Allocator.Allocate(size)
	c.held.Add(int64(cap(b)))
	return b
}

func (c capped) Reallocate(size int, b []byte) []byte {
	was := cap(b)
	c.check(size - was)
	b = c.Allocator.Reallocate(size, b)
	c.held.Add(int64(cap(b) - was))
	return b
}

func (c capped) Free(b []byte) {
	c.held.Add(int64(-cap(b)))
	c.Allocator.Free(b)
}

func (c capped) check(more int) {
	if held := c.held.Load(); int64(more) > 2*c.file+slack-held {
		panic(fmt.Sprintf("its buffers claim %d bytes; the file has %d", held+int64(more), c.file))
	}
}

func readBatch(r *ipc.FileReader, i int) (rec arrow.Record, err error) {
	defer recovered(&err)
	rec, err = r.RecordAt(i)
	return
}

func setRow(v reflect.Value, rec arrow.Record, cols []column, i int) (err error) {
	defer recovered(&err)
	for c := range cols {
		if err := get(v.Field(cols[c].index), rec.Column(c), i); err != nil {
			return err
		}
	}
	return nil
}

func recovered(err *error) {
	if p := recover(); p != nil {
		*err = fmt.Errorf("not a valid Arrow file: %v", p)
	}
}
