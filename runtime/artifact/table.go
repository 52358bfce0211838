package artifact

import (
	"bytes"
	"fmt"
	"io"
	"iter"
	"os"
	"path/filepath"
	"reflect"

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
//
// Where the system can, nothing is copied: strings and numbers lie in the file,
// which is mapped into memory for the rest of the process. They may be kept, but
// slices must not be written to. The store never changes a file that it has; one
// that somebody else cuts short while it is read ends the process.
func Rows[T any](a *Artifact) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		var row, zero T
		b, err := a.table()
		if err != nil {
			yield(zero, err)
			return
		}
		stopped := false
		dst := reflect.ValueOf(&row).Elem()
		err = readRows(b, dst.Type(), func(set func(reflect.Value) error) (bool, error) {
			row = zero
			if err := set(dst); err != nil {
				return false, err
			}
			stopped = !yield(row, nil)
			return !stopped, nil
		})
		if err != nil && !stopped {
			yield(zero, fmt.Errorf("read %s of artifact %v: %w", TableName, a.digest, err))
		}
	}
}

// RowType returns the name of the type of the rows in a's table: "row",
// "packed", "drop" or "point".
func RowType(a *Artifact) (name string, err error) {
	b, err := a.table()
	if err != nil {
		return "", err
	}
	sch, err := tableSchema(b)
	if err != nil {
		return "", fmt.Errorf("read %s of artifact %v: %w", TableName, a.digest, err)
	}
	name, _ = sch.Metadata().GetValue(rowsKey)
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

// table returns the content of a's table, checked and mapped once per process.
func (a *Artifact) table() ([]byte, error) {
	path, err := a.Path(TableName)
	if err != nil {
		return nil, err
	}
	a.store.mu.Lock()
	defer a.store.mu.Unlock()
	if b, ok := a.store.tables[a.digest]; ok {
		return b, nil
	}
	b, keep, err := openMapped(path, a.size(TableName))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	if keep {
		a.store.tables[a.digest] = b
	}
	return b, nil
}

// openMapped maps a file that must have the given size: pages behind its end
// cannot be read.
func openMapped(path string, size int64) (b []byte, keep bool, err error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, false, err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil, false, err
	}
	if st.Size() != size {
		return nil, false, fmt.Errorf("it has %d bytes; it had %d", st.Size(), size)
	}
	if size == 0 {
		return nil, false, errFooter
	}
	return mapFile(f, size)
}

// readRows calls row for each row of an Arrow file that must have t's schema.
// The Arrow library panics on some damaged files: that is an error here.
func readRows(b []byte, t reflect.Type, row func(set func(reflect.Value) error) (bool, error)) error {
	want, cols, err := schema(t)
	if err != nil {
		return err
	}
	sch, err := tableSchema(b)
	if err != nil {
		return err
	}
	if !sch.Equal(want) {
		name, _ := sch.Metadata().GetValue(rowsKey)
		return &WrongRows{name, snake(t.Name())}
	}
	blocks, err := readFooter(b)
	if err != nil {
		return err
	}
	for at, blk := range blocks {
		vectors, n, err := readBatch(b, blk, cols, t)
		if err != nil {
			return fmt.Errorf("batch %d: %w", at, err)
		}
		i := 0
		set := func(v reflect.Value) error { return setRow(v, vectors, cols, i) }
		for ; i < n; i++ {
			more, err := row(set)
			if err != nil || !more {
				return err
			}
		}
	}
	return nil
}

// tableSchema returns the schema of an Arrow file.
func tableSchema(b []byte) (sch *arrow.Schema, err error) {
	defer recovered(&err)
	if _, err := readFooter(b); err != nil {
		return nil, err
	}
	r, err := ipc.NewFileReader(bytes.NewReader(b))
	if err != nil {
		return nil, err
	}
	return r.Schema(), r.Close()
}

func setRow(v reflect.Value, vectors []*vector, cols []column, i int) (err error) {
	defer recovered(&err)
	for c := range cols {
		if err := vectors[c].get(v.Field(cols[c].index), i); err != nil {
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
