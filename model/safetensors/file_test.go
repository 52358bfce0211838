package safetensors_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"pipe/model"
	"pipe/model/safetensors"
	"pipe/tensor"
	"pipe/tensor/quant"
)

// reference is a file written by the safetensors library.
type reference struct {
	Generator string `json:"generator_sha256"`
	File      []byte
	AWeight   []float32 `json:"a_weight"`
	Brain     []float32
}

func load(t testing.TB) (r reference) {
	t.Helper()
	data, err := os.ReadFile("testdata/reference.json")
	if err == nil {
		err = json.Unmarshal(data, &r)
	}
	if err != nil {
		t.Fatal(err)
	}
	gen, err := os.ReadFile("testdata/gen.py")
	if err != nil {
		t.Fatal(err)
	}
	if sum := sha256.Sum256(gen); hex.EncodeToString(sum[:]) != r.Generator {
		t.Fatal("reference.json was not made by the gen.py beside it; run gen.py again")
	}
	return r
}

func put(t testing.TB, dir, name string, data []byte) string {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.WriteFile(path, data, 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

func values(t *testing.T, s model.Source, name string) []float32 {
	t.Helper()
	w, err := s.Weight(name)
	if err != nil {
		t.Fatal(err)
	}
	n := 1
	for _, d := range w.Shape {
		n *= d
	}
	x := make([]float32, n)
	quant.Dequantize(x, w.DType, w.Data)
	return x
}

func TestReadReference(t *testing.T) {
	r := load(t)
	f, err := safetensors.Open(put(t, t.TempDir(), "f.safetensors", r.File))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	want := []string{"a.weight", "b.weight", "brain", "bytes", "empty", "half", "ids", "scalar", "strange \"<é>\""}
	if got := f.Names(); !slices.Equal(got, want) {
		t.Errorf("names %q", got)
	}
	if got := values(t, f, "a.weight"); !slices.Equal(got, r.AWeight) {
		t.Errorf("a.weight: %v", got)
	}
	if got := values(t, f, "brain"); !slices.Equal(got, r.Brain) {
		t.Errorf("brain: %v", got)
	}
	if w, err := f.Weight("scalar"); err != nil || len(w.Shape) != 0 || len(w.Data) != 4 {
		t.Errorf("scalar: %v, %v", w, err)
	}
	if w, err := f.Weight("empty"); err != nil || !slices.Equal(w.Shape, []int{0, 4}) || len(w.Data) != 0 {
		t.Errorf("empty: %v, %v", w, err)
	}
	if _, err := f.Weight("absent"); !errors.Is(err, model.ErrNoTensor) {
		t.Errorf("absent: %v", err)
	}
	if f.Metadata()["format"] != "pt" {
		t.Errorf("metadata %v", f.Metadata())
	}
}

// TestWriteReference writes the library's file again, byte for byte.
func TestWriteReference(t *testing.T) {
	r := load(t)
	dir := t.TempDir()
	f, err := safetensors.Open(put(t, dir, "f.safetensors", r.File))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var tensors []safetensors.Tensor
	for i, name := range f.Names() {
		w, err := f.Weight(name)
		if err != nil {
			t.Fatal(err)
		}
		x := safetensors.Tensor{Name: name, DType: w.DType, Shape: w.Shape, Data: w.Data}
		if i%2 == 0 { // written in two pieces
			x.Data, x.Fill = nil, func(o io.Writer) error {
				_, err1 := o.Write(w.Data[:len(w.Data)/2])
				_, err2 := o.Write(w.Data[len(w.Data)/2:])
				return errors.Join(err1, err2)
			}
		}
		tensors = append(tensors, x)
	}
	path := filepath.Join(dir, "again.safetensors")
	if err := safetensors.Write(path, tensors, nil); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, r.File) {
		t.Errorf("got  %q\nwant %q", got[:min(len(got), 900)], r.File[:900])
	}
}

func TestWriteRefuses(t *testing.T) {
	four := make([]byte, 4)
	short := func(n int) func(io.Writer) error {
		return func(w io.Writer) error { _, err := w.Write(make([]byte, n)); return err }
	}
	for want, tensors := range map[string][]safetensors.Tensor{
		"type q8_0 cannot":        {{Name: "a", DType: tensor.Q8_0, Shape: []int{32}, Data: make([]byte, 34)}},
		"appears twice":           {{Name: "a", Shape: []int{1}, Data: four}, {Name: "a", Shape: []int{1}, Data: four}},
		"reserved name":           {{Name: "__metadata__", Shape: []int{1}, Data: four}},
		"which needs 8":           {{Name: "a", Shape: []int{2}, Data: four}},
		"4 bytes of 8 are miss":   {{Name: "a", Shape: []int{2}, Fill: short(4)}},
		"more bytes than its sha": {{Name: "a", Shape: []int{2}, Fill: short(9)}},
		"more than 8 dimensions":  {{Name: "a", Shape: make([]int, 9)}},
		"not UTF-8":               {{Name: "a\xff", Shape: []int{1}, Data: four}},
	} {
		path := filepath.Join(t.TempDir(), "f.safetensors")
		err := safetensors.Write(path, tensors, nil)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
		if _, err := os.Stat(path); err == nil {
			t.Errorf("%s: a file was left", want)
		}
	}
}

// raw builds a file from a header and a number of data bytes.
func raw(header string, data int) []byte {
	b := binary.LittleEndian.AppendUint64(nil, uint64(len(header)))
	return append(append(b, header...), make([]byte, data)...)
}

const good = `{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}`

// hostile are files that must be refused, by what the message must say.
var hostile = []struct {
	want string
	file []byte
}{
	{"is 3 bytes long", []byte("abc")},
	{"claims a header of 18446744073709551615", bytes.Repeat([]byte{255}, 16)},
	{"claims a header of 54", raw(good, 8)[:20:20]},
	{"does not begin with {", raw(` {}`, 0)},
	{"does not begin with {", raw(``, 0)},
	{"not valid UTF-8", raw("{\"\xff\":0}", 0)},
	{"EOF", raw(`{"a":`, 0)},
	{"something follows", raw(good+"}", 8)},
	{"something follows", raw(good+"{}", 8)},
	{`key "a" appears twice`, raw(`{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"a":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}}`, 2)},
	{`key "dtype" appears twice`, raw(`{"a":{"dtype":"U8","dtype":"U8","shape":[1],"data_offsets":[0,1]}}`, 1)},
	{`key "k" appears twice`, raw(`{"__metadata__":{"k":"1","k":"2"}}`, 0)},
	{"where a string belongs", raw(`{"__metadata__":{"k":1}}`, 0)},
	{"needs dtype, shape", raw(`{"a":{"dtype":"U8","shape":[1]}}`, 1)},
	{`key "Shape" is unknown`, raw(`{"a":{"dtype":"U8","Shape":[1],"data_offsets":[0,1]}}`, 1)},
	{`dtype "Q9" is unknown`, raw(`{"a":{"dtype":"Q9","shape":[1],"data_offsets":[0,1]}}`, 1)},
	{"-1 is not a non-neg", raw(`{"a":{"dtype":"U8","shape":[-1],"data_offsets":[0,1]}}`, 1)},
	{"1.5 is not a non-neg", raw(`{"a":{"dtype":"U8","shape":[1.5],"data_offsets":[0,1]}}`, 1)},
	{"more than 8 numbers", raw(`{"a":{"dtype":"U8","shape":[1,1,1,1,1,1,1,1,1],"data_offsets":[0,1]}}`, 1)},
	{"must be two numbers", raw(`{"a":{"dtype":"U8","shape":[1],"data_offsets":[0]}}`, 1)},
	{"overflows", raw(`{"a":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,8]}}`, 8)},
	{"too large", raw(`{"a":{"dtype":"F32","shape":[18446744073709551615],"data_offsets":[0,8]}}`, 8)},
	{"does not fill", raw(`{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,4]}}`, 4)},
	{"does not fill", raw(`{"a":{"dtype":"F4","shape":[3],"data_offsets":[0,1]}}`, 1)},
	{"do not continue at 0", raw(`{"a":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}}`, 2)},
	{"do not continue at 4", raw(`{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"b":{"dtype":"F32","shape":[1],"data_offsets":[2,6]}}`, 6)},
	{"do not continue at 1", raw(`{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"b":{"dtype":"U8","shape":[1],"data_offsets":[2,3]}}`, 3)},
	{"do not continue at 1", raw(`{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"b":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}`, 1)},
	{"end at byte 8 of 7", raw(good, 7)},
	{"end at byte 8 of 9", raw(good, 9)},
	{"where a number belongs", raw(`{"a":{"dtype":"U8","shape":["1"],"data_offsets":[0,1]}}`, 1)},
	{"where { belongs", raw(`{"a":[]}`, 0)},
	{"bytes long; at most 1024", raw(`{"`+strings.Repeat("n", 1025)+`":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}`, 1)},
}

func TestRefusesHostile(t *testing.T) {
	dir := t.TempDir()
	for i, c := range hostile {
		path := put(t, dir, fmt.Sprintf("%d.safetensors", i), c.file)
		f, err := safetensors.Open(path)
		if err == nil {
			t.Errorf("%q was opened: %v", c.file[min(8, len(c.file)):], f.Names())
			f.Close()
		} else if !strings.Contains(err.Error(), c.want) || !strings.HasPrefix(err.Error(), path) {
			t.Errorf("got %v, want %q", err, c.want)
		}
	}
}

func TestOtherTypes(t *testing.T) {
	f, err := safetensors.Open(put(t, t.TempDir(), "f.safetensors", raw(`{"a":{"dtype":"I8","shape":[2,1],"data_offsets":[0,2]}}   `, 2)))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.Weight("a"); err == nil || !strings.Contains(err.Error(), `"a" is of type I8`) {
		t.Errorf("got %v", err)
	}
	if dt, shape, data, err := f.Raw("a"); err != nil || dt != "I8" || !slices.Equal(shape, []int{2, 1}) || len(data) != 2 {
		t.Errorf("got %s %v %v, %v", dt, shape, data, err)
	}
	if _, _, _, err := f.Raw("b"); !errors.Is(err, model.ErrNoTensor) {
		t.Errorf("got %v", err)
	}
}

func one(t testing.TB, dir, file string, names ...string) {
	t.Helper()
	var ts []safetensors.Tensor
	for i, n := range names {
		ts = append(ts, safetensors.Tensor{Name: n, DType: tensor.U8, Shape: []int{1}, Data: []byte{byte(i) + file[0]}})
	}
	if err := safetensors.Write(filepath.Join(dir, file), ts, nil); err != nil {
		t.Fatal(err)
	}
}

func TestShards(t *testing.T) {
	dir := t.TempDir()
	one(t, dir, "1.safetensors", "a", "b", "both")
	one(t, dir, "2.safetensors", "c", "both", "unlisted")
	put(t, dir, safetensors.IndexName, []byte(`{"metadata":{"total_size":6},"weight_map":{"a":"1.safetensors","b":"1.safetensors","c":"2.safetensors","both":"2.safetensors"}}`))
	f, err := safetensors.OpenDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if got := f.Names(); !slices.Equal(got, []string{"a", "b", "both", "c", "unlisted"}) {
		t.Errorf("names %v", got)
	}
	if w, err := f.Weight("both"); err != nil || w.Data[0] != '2'+1 && w.Data[0] != '2' {
		t.Errorf("both comes from the wrong shard: %v, %v", w, err)
	}
}

func TestShardsRefuse(t *testing.T) {
	for want, index := range map[string]string{
		"bare name":               `{"weight_map":{"a":"../1.safetensors"}}`,
		"must be the bare name":   `{"weight_map":{"a":"x/1.safetensors"}}`,
		"of a .safetensors file":  `{"weight_map":{"a":"pytorch_model.bin"}}`,
		"missing or empty":        `{}`,
		"where it is not":         `{"weight_map":{"z":"1.safetensors"}}`,
		"no such file":            `{"weight_map":{"a":"3.safetensors"}}`,
		"does not say which":      `{"weight_map":{"a":"1.safetensors","c":"2.safetensors"}}`,
		"unexpected end of JSON ": `{"weight_map":`,
	} {
		dir := t.TempDir()
		one(t, dir, "1.safetensors", "a", "both")
		one(t, dir, "2.safetensors", "c", "both")
		path := put(t, dir, safetensors.IndexName, []byte(index))
		f, err := safetensors.OpenIndex(path)
		if err == nil {
			f.Close()
		}
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
	if _, err := safetensors.OpenDir(t.TempDir()); err == nil || !strings.Contains(err.Error(), "has neither") {
		t.Errorf("got %v", err)
	}
}

// FuzzOpen: no file makes a panic, and one that opens has tensors that lie in
// it and survive being written again.
func FuzzOpen(f *testing.F) {
	f.Add(load(f).File)
	f.Add(raw(good, 8))
	for _, c := range hostile {
		f.Add(c.file)
	}
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, data []byte) {
		if len(data) > 1<<16 {
			return
		}
		file, err := safetensors.Open(put(t, dir, "f.safetensors", data))
		if err != nil {
			return
		}
		defer file.Close()
		total := 0
		var ts []safetensors.Tensor
		for _, name := range file.Names() {
			_, _, b, err := file.Raw(name)
			if err != nil {
				t.Fatal(err)
			}
			total += len(b)
			if w, err := file.Weight(name); err == nil {
				ts = append(ts, safetensors.Tensor{Name: name, DType: w.DType, Shape: w.Shape, Data: w.Data})
			}
		}
		if total > len(data) {
			t.Fatalf("%d bytes of tensors in a file of %d", total, len(data))
		}
		if err := safetensors.WriteTo(io.Discard, ts, file.Metadata()); err != nil {
			t.Fatal(err)
		}
	})
}
