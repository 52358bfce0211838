// Package modeltest loads the fixtures of model/testdata for tests.
package modeltest

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"math"
	"os"
	"path/filepath"
	"testing"

	"pipe/model"
	"pipe/model/bnb"
	"pipe/model/safetensors"
	"pipe/tensor"
	"pipe/tensor/tensortest"
)

// Docs are the documents of the fixtures and Spans their scored tokens
// [from, to).
var docs = [][]int32{{1, 17, 5, 42, 9, 9, 30}, {1, 3, 50, 28, 11}, {1, 8, 8, 21, 2, 45, 7, 33, 19}}

var spans = [][2]int{{2, 6}, {1, 5}, {8, 9}}

// Dir is model/testdata.
func Dir() string { return tensortest.Path("model", "testdata") }

// Batch returns the documents of the fixtures as one packed batch.
func Batch() model.Batch {
	var b model.Batch
	for i, ids := range docs {
		at := int32(len(b.IDs))
		b.Starts = append(b.Starts, at)
		b.IDs = append(b.IDs, ids...)
		for j := spans[i][0]; j < spans[i][1]; j++ {
			b.Rows, b.Targets = append(b.Rows, at+int32(j-1)), append(b.Targets, ids[j])
		}
	}
	return b
}

// Docs returns the documents of the fixtures.
func Docs() [][]int32 { return docs }

// A Fixture is a file of named tensors.
type Fixture struct {
	t testing.TB
	f *safetensors.File
}

// Load opens a fixture. It fails unless the fixture was made by the gen.py
// beside it as it is now.
func Load(t testing.TB, name string) *Fixture {
	t.Helper()
	f, err := safetensors.Open(filepath.Join(Dir(), name))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	gen, err := os.ReadFile(filepath.Join(Dir(), filepath.Dir(name), "gen.py"))
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(gen)
	if got := f.Metadata()["generator_sha256"]; got != hex.EncodeToString(sum[:]) {
		t.Fatalf("fixture %s was not made by the present gen.py (%s); run it again", name, got)
	}
	return &Fixture{t, f}
}

// Names returns the names of the tensors.
func (f *Fixture) Names() []string { return f.f.Names() }

// Meta returns what the fixture records under that name.
func (f *Fixture) Meta(name string) string {
	f.t.Helper()
	v, ok := f.f.Metadata()[name]
	if !ok {
		f.t.Fatalf("the fixture records no %s", name)
	}
	return v
}

// Floats returns a tensor.
func (f *Fixture) Floats(name string) []float32 {
	f.t.Helper()
	w := f.weight(name, tensor.F32)
	v := make([]float32, len(w.Data)/4)
	for i := range v {
		v[i] = math.Float32frombits(binary.LittleEndian.Uint32(w.Data[4*i:]))
	}
	return v
}

// Ints returns a tensor of int32.
func (f *Fixture) Ints(name string) []int32 {
	f.t.Helper()
	w := f.weight(name, tensor.I32)
	v := make([]int32, len(w.Data)/4)
	for i := range v {
		v[i] = int32(binary.LittleEndian.Uint32(w.Data[4*i:]))
	}
	return v
}

func (f *Fixture) weight(name string, dt tensor.DType) model.Weight {
	f.t.Helper()
	w, err := f.f.Weight(name)
	if err != nil {
		f.t.Fatal(err)
	}
	if w.DType != dt {
		f.t.Fatalf("tensor %s is %s, not %s", name, w.DType, dt)
	}
	return w
}

// Open opens a file of tensors.
func Open(t testing.TB, path string) *safetensors.File {
	t.Helper()
	f, err := safetensors.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

// Checkpoint opens the tiny Llama "plain", "bias" or "nf4", or what
// bitsandbytes made of the last, "nf4_double" and "nf4_single", with nested
// scales and without, or a Llama 4 with one expert for a token or two, "llama4/one" and "llama4/two".
func Checkpoint(t testing.TB, name string) (model.Config, model.Source) {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(Dir(), name, "config.json"))
	if err != nil {
		t.Fatal(err)
	}
	c, err := model.ParseConfig(data)
	if err != nil {
		t.Fatal(err)
	}
	f, err := safetensors.Open(filepath.Join(Dir(), name, "model.safetensors"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return c, c.FromStored(bnb.Open(f))
}

// Decoder loads a tiny Llama onto b.
func Decoder(t testing.TB, b tensor.Backend, name string, trainable bool) *model.Decoder {
	t.Helper()
	c, src := Checkpoint(t, name)
	d, err := model.Load(b, c, src, trainable)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(d.Close)
	return d
}

// Close fails unless got differs from want by at most tol relative to want's
// norm, and no element by more than three times tol of the largest: a single
// element of a product may have collected more rounding than the whole.
func Close(t testing.TB, name string, got, want []float32, tol float64) {
	t.Helper()
	if len(got) != len(want) {
		t.Errorf("%s: %d elements, want %d", name, len(got), len(want))
		return
	}
	scale, norm, off := 0.0, 0.0, 0.0
	for i, w := range want {
		d := float64(got[i]) - float64(w)
		scale, norm, off = max(scale, math.Abs(float64(w))), norm+float64(w)*float64(w), off+d*d
	}
	if !(math.Sqrt(off) <= tol*math.Sqrt(norm)) {
		t.Errorf("%s differs by %.2g of its norm, at most %.2g allowed", name, math.Sqrt(off/norm), tol)
	}
	for i, w := range want {
		if diff := math.Abs(float64(got[i]) - float64(w)); !(diff <= 3*tol*scale) {
			t.Errorf("%s[%d] = %v, want %v (off by %.2g, largest %.3g)", name, i, got[i], w, diff, scale)
			return
		}
	}
}

// Download returns the elements of x.
func Download(b tensor.Backend, x *tensor.Tensor) []float32 {
	v := make([]float32, x.Len())
	b.Download(v, x)
	return v
}
