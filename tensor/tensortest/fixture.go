package tensortest

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"testing"
)

// A Fixture is a small safetensors file of F32, I32 and I64 tensors, with the
// sha256 of the generator that made it.
type Fixture struct {
	t       testing.TB
	tensors map[string]array
	Meta    map[string]string // "torch", "seed" and so on
}

type array struct {
	shape []int
	f     []float64
}

// Path returns the path of a file of this repository. Tests find it above the
// folder they run in, wherever they were compiled.
func Path(elem ...string) string {
	root, err := os.Getwd()
	if err != nil {
		panic(err)
	}
	for {
		if _, err := os.Stat(filepath.Join(root, "go.mod")); err == nil {
			return filepath.Join(append([]string{root}, elem...)...)
		}
		up := filepath.Dir(root)
		if up == root {
			panic("tensortest: tests must run inside the repository: no folder above has a go.mod")
		}
		root = up
	}
}

// LoadFixture reads a fixture and fails the test unless it was made by the
// gen.py that lies beside it today: its metadata must hold that file's sha256
// as "generator_sha256".
func LoadFixture(t testing.TB, path string) *Fixture {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	gen, err := os.ReadFile(filepath.Join(filepath.Dir(path), "gen.py"))
	if err != nil {
		t.Fatal(err)
	}
	f, err := parseFixture(data, gen)
	if err != nil {
		t.Fatalf("fixture %s: %v", path, err)
	}
	f.t = t
	return f
}

func parseFixture(data, gen []byte) (*Fixture, error) {
	if len(data) < 8 || binary.LittleEndian.Uint64(data) > uint64(len(data)-8) {
		return nil, fmt.Errorf("is cut short")
	}
	n := 8 + int(binary.LittleEndian.Uint64(data))
	var header map[string]json.RawMessage
	if err := json.Unmarshal(data[8:n], &header); err != nil {
		return nil, err
	}
	f := &Fixture{tensors: map[string]array{}}
	for name, raw := range header {
		var err error
		if name == "__metadata__" {
			err = json.Unmarshal(raw, &f.Meta)
		} else {
			f.tensors[name], err = parseArray(raw, data[n:])
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
	}
	sum := sha256.Sum256(gen)
	if got, want := f.Meta["generator_sha256"], hex.EncodeToString(sum[:]); got != want {
		return nil, fmt.Errorf("was made by a gen.py with sha256 %q; the one beside it has %s: run it again", got, want)
	}
	return f, nil
}

func parseArray(raw json.RawMessage, data []byte) (a array, err error) {
	var h struct {
		DType   string `json:"dtype"`
		Shape   []int  `json:"shape"`
		Offsets [2]int `json:"data_offsets"`
	}
	if err := json.Unmarshal(raw, &h); err != nil {
		return a, err
	}
	size := map[string]int{"F32": 4, "I32": 4, "I64": 8}[h.DType]
	if size == 0 || h.Offsets[0] < 0 || h.Offsets[0] > h.Offsets[1] || h.Offsets[1] > len(data) {
		return a, fmt.Errorf("type %s at %v", h.DType, h.Offsets)
	}
	a.shape = h.Shape
	for b := data[h.Offsets[0]:h.Offsets[1]]; len(b) >= size; b = b[size:] {
		switch h.DType {
		case "F32":
			a.f = append(a.f, float64(math.Float32frombits(binary.LittleEndian.Uint32(b))))
		case "I32":
			a.f = append(a.f, float64(int32(binary.LittleEndian.Uint32(b))))
		case "I64":
			a.f = append(a.f, float64(int64(binary.LittleEndian.Uint64(b))))
		}
	}
	return a, nil
}

// Floats returns a tensor's elements and shape.
func (f *Fixture) Floats(name string) ([]float64, []int) {
	f.t.Helper()
	a, ok := f.tensors[name]
	if !ok {
		f.t.Fatalf("fixture has no tensor %q", name)
	}
	return a.f, a.shape
}

// Ints returns the elements of an integer tensor.
func (f *Fixture) Ints(name string) []int32 {
	f.t.Helper()
	x, _ := f.Floats(name)
	y := make([]int32, len(x))
	for i, v := range x {
		y[i] = int32(v)
	}
	return y
}
