package artifact

import (
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

func testStore(t *testing.T) *Store {
	t.Helper()
	s, err := OpenStore(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func commit[T any](t *testing.T, s *Store, rows ...T) Object {
	t.Helper()
	w, err := s.Create(Dataset)
	if err != nil {
		t.Fatal(err)
	}
	if err := Append(w, rows...); err != nil {
		t.Fatal(err)
	}
	o, err := w.Commit()
	if err != nil {
		t.Fatal(err)
	}
	return o
}

var testRows = []Row{
	{ID: "a", Text: "some text", Gold: -1, Source: "a.txt", Meta: `{"x":1}`},
	{ID: "b", Messages: []Message{{"user", "hello"}, {"assistant", ""}}, Chosen: []Message{{"assistant", "yes ✓"}}, Rejected: []Message{{"assistant", "no"}}, Gold: -1},
	{ID: "c", Choices: []string{"one", "", "three"}, Gold: 2, Answer: "three"},
}

func TestRowsComeBackAsTheyWere(t *testing.T) {
	s := testStore(t)
	o := commit(t, s, testRows...)
	if o.Rows != 3 || o.Type != Dataset {
		t.Errorf("object is %+v", o)
	}
	a, err := s.Open(o.Digest)
	if err != nil {
		t.Fatal(err)
	}
	got, err := All[Row](a)
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got, testRows) {
		t.Errorf("got  %+v\nwant %+v", got, testRows)
	}
	packed := []Packed{{IDs: []int32{1, 2, 3}, Starts: []int32{0, 2}, Loss: []int32{1, 2}, Rows: []string{"a", "b"}}, {}}
	a, err = s.Open(commit(t, s, packed...).Digest)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := All[Packed](a); err != nil || !reflect.DeepEqual(got, packed) {
		t.Errorf("got %+v, %v", got, err)
	}
}

func TestManyBatches(t *testing.T) {
	s := testStore(t)
	points := make([]Point, 3*batchRows+7)
	for i := range points {
		points[i] = Point{"loss", int64(i), float64(i) / 3}
	}
	o := commit(t, s, points...)
	a, err := s.Open(o.Digest)
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for p, err := range Rows[Point](a) {
		if err != nil || p != points[n] {
			t.Fatalf("row %d is %+v, %v", n, p, err)
		}
		n++
	}
	if n != len(points) {
		t.Errorf("%d rows of %d", n, len(points))
	}
	for range Rows[Point](a) { // stopping early is fine
		break
	}
}

func TestEqualRowsMakeEqualArtifacts(t *testing.T) {
	a, b := commit(t, testStore(t), testRows...), commit(t, testStore(t), testRows...)
	if a.Digest != b.Digest {
		t.Error("the same rows made two digests")
	}
	s := testStore(t)
	if commit(t, s, testRows...) != commit(t, s, testRows...) {
		t.Error("publishing twice differs")
	}
	changed := append([]Row(nil), testRows...)
	changed[1].Text = "x"
	if commit(t, s, changed...).Digest == a.Digest {
		t.Error("other rows made the same digest")
	}
}

func TestEmptyTable(t *testing.T) {
	s := testStore(t)
	a, err := s.Open(commit[Drop](t, s).Digest)
	if err != nil {
		t.Fatal(err)
	}
	if rows, err := All[Drop](a); err != nil || len(rows) != 0 {
		t.Errorf("got %v, %v", rows, err)
	}
}

func TestWrongRowTypeIsNamed(t *testing.T) {
	s := testStore(t)
	a, err := s.Open(commit(t, s, testRows...).Digest)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := All[Packed](a); err == nil || !strings.HasSuffix(err.Error(), "it holds plain rows; packed rows are needed") {
		t.Errorf("error is %v", err)
	}
}

func TestDamageIsNeverReadAsGood(t *testing.T) {
	s := testStore(t)
	o := commit(t, s, testRows...)
	path := filepath.Join(s.ObjectDir(o.Digest), TableName)
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, at := range []int{0, 100, len(whole) / 2, len(whole) - 1} {
		b := append([]byte(nil), whole...)
		b[at] ^= 1
		overwrite(t, path, b)
		a, err := s.Open(o.Digest) // sizes are right
		if err != nil {
			t.Fatal(err)
		}
		if _, err := All[Row](a); err == nil || !strings.Contains(err.Error(), "damaged") {
			t.Errorf("bit flipped at %d: error is %v", at, err)
		}
	}
	overwrite(t, path, whole[:len(whole)-1])
	if _, err := s.Open(o.Digest); !errors.Is(err, ErrNotFound) {
		t.Errorf("cut short: error is %v", err)
	}
	if commit(t, s, testRows...) != o || !s.Has(o.Digest) {
		t.Error("writing the artifact again did not mend it")
	}
}

func overwrite(t *testing.T, path string, b []byte) {
	t.Helper()
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, b, 0o444); err != nil {
		t.Fatal(err)
	}
}

// FuzzTable feeds the table reader files that no pipe wrote. It must return,
// not crash.
func FuzzTable(f *testing.F) {
	s, err := OpenStore(f.TempDir())
	if err != nil {
		f.Fatal(err)
	}
	w, err := s.Create(Dataset)
	if err != nil {
		f.Fatal(err)
	}
	if err := Append(w, testRows...); err != nil {
		f.Fatal(err)
	}
	o, err := w.Commit()
	if err != nil {
		f.Fatal(err)
	}
	whole, err := os.ReadFile(filepath.Join(s.ObjectDir(o.Digest), TableName))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(whole)
	f.Add(whole[:len(whole)/2])
	f.Add([]byte("ARROW1\x00\x00"))
	f.Fuzz(func(t *testing.T, b []byte) {
		n := 0
		err := readRows(b, reflect.TypeFor[Row](), func(set func(reflect.Value) error) (bool, error) {
			var r Row
			n++
			return n < 1000, set(reflect.ValueOf(&r).Elem())
		})
		_ = err // any error is right; returning is what is tested
	})
}
