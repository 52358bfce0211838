package artifact

import (
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"strings"
	"testing"

	"github.com/apache/arrow/go/v17/arrow/array"
	"github.com/apache/arrow/go/v17/arrow/ipc"
	"github.com/apache/arrow/go/v17/arrow/memory"
)

// packedTable writes n rows of 32,768 tokens, 128 KiB each.
func packedTable(t testing.TB, s *Store, n int) Object {
	t.Helper()
	w, err := s.Create(Dataset)
	if err != nil {
		t.Fatal(err)
	}
	ids := make([]int32, 32768)
	for i := range ids {
		ids[i] = int32(i)
	}
	row := Packed{IDs: ids, Starts: []int32{0}, Loss: []int32{1, 32768}, Rows: []string{"the id of a row"}}
	for range n {
		if err := Append(w, row); err != nil {
			t.Fatal(err)
		}
	}
	o, err := w.Commit()
	if err != nil {
		t.Fatal(err)
	}
	return o
}

// sumPacked reads all of a table.
func sumPacked(t testing.TB, dir string, d Digest) (sum, tokens int64) {
	s, err := OpenStore(dir)
	if err != nil {
		t.Fatal(err)
	}
	a, err := s.Open(d)
	if err != nil {
		t.Fatal(err)
	}
	for r, err := range Rows[Packed](a) {
		if err != nil || r.Rows[0] != "the id of a row" {
			t.Fatal(r.Rows, err)
		}
		for _, id := range r.IDs {
			sum += int64(id)
		}
		tokens += int64(len(r.IDs))
	}
	return sum, tokens
}

// Reading a table does not bring it into the heap.
func TestReadingDoesNotCopy(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("files are not mapped here")
	}
	const rows = 256 // 32 MiB
	s := testStore(t)
	o := packedTable(t, s, rows)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	sum, tokens := sumPacked(t, s.Dir(), o.Digest)
	runtime.ReadMemStats(&after)
	if tokens != rows*32768 || sum != rows*32768*32767/2 {
		t.Errorf("sum of %d tokens is %d", tokens, sum)
	}
	if got := after.TotalAlloc - before.TotalAlloc; got > 300<<10 {
		t.Errorf("reading %d bytes allocated %d", o.Bytes, got)
	}
}

func BenchmarkReadTable(b *testing.B) {
	s, err := OpenStore(b.TempDir())
	if err != nil {
		b.Fatal(err)
	}
	o := packedTable(b, s, 2048) // 256 MiB
	b.SetBytes(o.Bytes)
	b.ReportAllocs()
	for b.Loop() {
		sumPacked(b, s.Dir(), o.Digest)
	}
}

// What is read outlives its row, its table and its store.
func TestRowsMayBeKept(t *testing.T) {
	s := testStore(t)
	o := commit(t, s, testRows...)
	a, err := s.Open(o.Digest)
	if err != nil {
		t.Fatal(err)
	}
	got, err := All[Row](a)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(s.ObjectDir(o.Digest)); err != nil {
		t.Fatal(err)
	}
	a, s = nil, nil
	runtime.GC()
	if !reflect.DeepEqual(got, testRows) {
		t.Errorf("got %+v", got)
	}
}

// Pages behind the end of a file cannot be read: a file is mapped only if it is
// as long as it should be.
func TestCutTableIsNotMapped(t *testing.T) {
	s := testStore(t)
	o := commit(t, s, testRows...)
	a, err := s.Open(o.Digest)
	if err != nil {
		t.Fatal(err)
	}
	path, err := a.Path(TableName) // checked, and then
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, 0o644); err != nil {
		t.Fatal(err)
	}
	for _, size := range []int64{100, 0} {
		if err := os.Truncate(path, size); err != nil {
			t.Fatal(err)
		}
		if _, err := All[Row](a); err == nil || !strings.Contains(err.Error(), "bytes; it had") {
			t.Errorf("%d bytes: %v", size, err)
		}
	}
}

// Every type that a row may have comes back as it was, from several batches.
func TestAllTypesComeBack(t *testing.T) {
	type inner struct {
		Name string
		Flag bool
		Ints []int32
	}
	type wide struct {
		S  string
		B  bool
		I  int32
		L  int64
		F  float64
		Bs []bool
		Ss []string
		Ls []int64
		Fs []float64
		In []inner
	}
	var rows []wide
	for i := range 3 * batchRows / 2 {
		w := wide{S: strings.Repeat("é", i%5), B: i%3 == 0, I: int32(-i), L: int64(i) << 40, F: float64(i) / 7}
		for j := range i % 4 {
			w.Bs = append(w.Bs, (i+j)%2 == 0)
			w.Ss = append(w.Ss, strings.Repeat("s", j))
			w.Ls = append(w.Ls, int64(-j))
			w.Fs = append(w.Fs, float64(j)/3)
			in := inner{Name: "n", Flag: j%2 == 1}
			for k := range j {
				in.Ints = append(in.Ints, int32(k))
			}
			w.In = append(w.In, in)
		}
		rows = append(rows, w)
	}
	s := testStore(t)
	a, err := s.Open(commit(t, s, rows...).Digest)
	if err != nil {
		t.Fatal(err)
	}
	got, err := All[wide](a)
	if err != nil || !reflect.DeepEqual(got, rows) {
		t.Errorf("%d rows came back otherwise: %v", len(rows), err)
	}
}

// pipe writes no nulls; a table that has some was not made by pipe.
func TestNullsAreRefused(t *testing.T) {
	sch, _, err := schema(reflect.TypeFor[Point]())
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "x.arrow")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	w, err := ipc.NewFileWriter(f, ipc.WithSchema(sch))
	if err != nil {
		t.Fatal(err)
	}
	b := array.NewRecordBuilder(memory.DefaultAllocator, sch)
	defer b.Release()
	b.Field(0).(*array.StringBuilder).AppendNull()
	b.Field(1).(*array.Int64Builder).Append(1)
	b.Field(2).(*array.Float64Builder).Append(1)
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
	err = readRows(whole, reflect.TypeFor[Point](), func(set func(reflect.Value) error) (bool, error) {
		var p Point
		return true, set(reflect.ValueOf(&p).Elem())
	})
	if err == nil || !strings.Contains(err.Error(), "it has nulls") {
		t.Errorf("error is %v", err)
	}
}
