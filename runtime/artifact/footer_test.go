package artifact

import (
	"bytes"
	"encoding/binary"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/apache/arrow/go/v17/arrow"
	"github.com/apache/arrow/go/v17/arrow/array"
	"github.com/apache/arrow/go/v17/arrow/ipc"
	"github.com/apache/arrow/go/v17/arrow/memory"
)

// arrowFile writes one batch of n copies of a text with the options given.
func arrowFile(t *testing.T, sch *arrow.Schema, n int, opts ...ipc.Option) []byte {
	t.Helper()
	path := filepath.Join(t.TempDir(), "x.arrow")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	w, err := ipc.NewFileWriter(f, append(opts, ipc.WithSchema(sch))...)
	if err != nil {
		t.Fatal(err)
	}
	b := array.NewRecordBuilder(memory.DefaultAllocator, sch)
	defer b.Release()
	for range n {
		for i := range sch.NumFields() {
			b.Field(i).AppendValueFromString("text")
		}
	}
	rec := b.NewRecord()
	defer rec.Release()
	if err := w.Write(rec); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	f.Close()
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return whole
}

func textSchema(fields int) *arrow.Schema {
	var fs []arrow.Field
	for range fields {
		fs = append(fs, arrow.Field{Name: "x", Type: arrow.BinaryTypes.String})
	}
	return arrow.NewSchema(fs, nil)
}

func TestFooterLimits(t *testing.T) {
	good := arrowFile(t, textSchema(1), 10)
	if err := footerError(good); err != nil {
		t.Fatal(err)
	}
	footer := func(n int32) []byte { // another length of the footer
		b := bytes.Clone(good)
		binary.LittleEndian.PutUint32(b[len(b)-10:], uint32(n))
		return b
	}
	for name, c := range map[string]struct {
		file []byte
		want string
	}{
		"empty":             {nil, "footer is damaged"},
		"short":             {good[len(good)-19:], "footer is damaged"},
		"cut":               {good[:len(good)-1], "footer is damaged"},
		"negative footer":   {footer(-1), "footer is damaged"},
		"huge footer":       {footer(1 << 30), "footer is damaged"},
		"footer of nothing": {footer(8), "not a valid Arrow file"},
		"batch is gone":     {good[len(good)/2:], "not a valid Arrow file"},
		"many fields":       {arrowFile(t, textSchema(maxFields+1), 1), "more than 4096 fields"},
		"zstd":              {arrowFile(t, textSchema(1), 10, ipc.WithZstd()), "is compressed"},
		"lz4":               {arrowFile(t, textSchema(1), 10, ipc.WithLZ4()), "is compressed"},
	} {
		err := footerError(c.file)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error is %v, want %q", name, err, c.want)
		}
	}
}

// Every byte of a file may be wrong: reading ends soon, and never in a crash.
func TestEveryByteMayBeWrong(t *testing.T) {
	s := testStore(t)
	o := commit(t, s, testRows...)
	whole, err := os.ReadFile(filepath.Join(s.ObjectDir(o.Digest), TableName))
	if err != nil {
		t.Fatal(err)
	}
	for at := range whole {
		b := bytes.Clone(whole)
		b[at] ^= 0x7f
		begin, n := time.Now(), 0
		_ = readRows(b, reflect.TypeFor[Row](), func(set func(reflect.Value) error) (bool, error) {
			var r Row
			n++
			return n < 1000, set(reflect.ValueOf(&r).Elem())
		})
		if d := time.Since(begin); d > 5*time.Second {
			t.Errorf("byte %d: reading took %v", at, d)
		}
	}
}

func footerError(b []byte) error {
	_, err := readFooter(b)
	return err
}
