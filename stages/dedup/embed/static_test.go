package embed

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"pipe/model/safetensors"
	"pipe/tensor"
)

// potion is a Model2Vec model with a WordPiece tokenizer, beside the
// repository.
var potion = filepath.Join("..", "..", "..", "..", "shared", "data", "model", "potion-base-4m-int8")

type staticCases struct {
	Generator string
	Texts     []string
	IDs       [][]int32
	Vectors   [][]float32
}

// testdata/static.json holds what Hugging Face's tokenizers and numpy give for
// the same model; testdata/gen.py wrote it.
func TestStaticEqualsModel2Vec(t *testing.T) {
	var c staticCases
	fixture(t, &c)
	if _, err := os.Stat(potion); err != nil {
		t.Skip("the test model is not there:", err)
	}
	s, err := OpenStatic(potion)
	if err != nil {
		t.Fatal(err)
	}
	v := embed(t, s, c.Texts...)
	for i, text := range c.Texts {
		ids := s.encode(text)
		if len(ids)+len(c.IDs[i]) > 0 && !reflect.DeepEqual(ids, c.IDs[i]) {
			t.Errorf("%q: ids %v; want %v", text, ids, c.IDs[i])
		}
		for k, want := range c.Vectors[i] {
			if diff := math.Abs(float64(v.Row(i)[k] - want)); !(diff <= 1e-6) {
				t.Errorf("%q: element %d is %v; want %v", text, k, v.Row(i)[k], want)
				break
			}
		}
	}
}

// write makes a model directory of three tokens in two dimensions.
func write(t *testing.T, tokenizer string, dt tensor.DType, shape []int, data []byte) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "tokenizer.json"), []byte(tokenizer), 0o666); err != nil {
		t.Fatal(err)
	}
	err := safetensors.Write(filepath.Join(dir, "model.safetensors"), []safetensors.Tensor{{Name: "embeddings", DType: dt, Shape: shape, Data: data}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

const pieces = `{"model":{"type":"WordPiece","vocab":{"un":0,"##able":1,"ok":2}},` +
	`"normalizer":{"type":"BertNormalizer","lowercase":true,"clean_text":true,"handle_chinese_chars":true},"pre_tokenizer":{"type":"BertPreTokenizer"}}`

func TestStaticHalf(t *testing.T) {
	// Rows (1, 0), (0, 2), (-1, 0.5) in half precision.
	dir := write(t, pieces, tensor.F16, []int{3, 2}, []byte{0, 0x3c, 0, 0, 0, 0, 0, 0x40, 0, 0xbc, 0, 0x38})
	s, err := OpenStatic(dir)
	if err != nil {
		t.Fatal(err)
	}
	v := embed(t, s, "unable", "OK", "nothing known", "ok unable")
	for i, want := range [][2]float64{{1, 2}, {-1, 0.5}, {0, 0}, {0, 2.5}} {
		n := math.Hypot(want[0], want[1])
		if n == 0 {
			n = 1
		}
		for k := range want {
			if !(math.Abs(float64(v.Row(i)[k])-want[k]/n) < 1e-6) {
				t.Errorf("row %d is %v; want the direction of %v", i, v.Row(i), want)
			}
		}
	}
}

func TestStaticErrors(t *testing.T) {
	four := []byte{0, 0, 0, 0}
	nan := []byte{0, 0, 0xc0, 0x7f, 0, 0, 0, 0, 0, 0, 0, 0}
	for want, dir := range map[string]string{
		"must be [tokens, width]":         write(t, pieces, tensor.F32, []int{1}, four),
		"3 tokens and the table 1 rows":   write(t, pieces, tensor.F32, []int{1, 1}, four),
		"is of type U8":                   write(t, pieces, tensor.U8, []int{4, 1}, four),
		"holds NaN at row 0":              write(t, pieces, tensor.F32, []int{3, 1}, nan),
		"must have a BertNormalizer":      write(t, `{"model":{"type":"WordPiece","vocab":{}}}`, tensor.F32, []int{1, 1}, four),
		`token "a" has the id -1`:         write(t, strings.Replace(pieces, `"un":0`, `"a":-1`, 1), tensor.F32, []int{1, 1}, four),
		"tokenizer.json: unexpected end":  write(t, "{", tensor.F32, []int{1, 1}, four),
		"model.safetensors: no such file": t.TempDir(),
	} {
		if _, err := OpenStatic(dir); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v; want %q", err, want)
		}
	}
	for want, s := range map[string]*Static{
		"2 tokens and there are 1 weights": {table: make([]float32, 2), width: 1, weights: make([]float32, 1)},
		"token 1 has the row 9 of 2":       {table: make([]float32, 2), width: 1, rows: []int32{0, 9}},
		"2 tokens and the mapping 1":       {table: make([]float32, 2), width: 1, rows: []int32{0}},
	} {
		if err := s.check(2); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v; want %q", err, want)
		}
	}
}

func TestNumbers(t *testing.T) {
	for _, c := range []struct {
		dtype string
		in    []byte
		want  []float32
	}{
		{"I8", []byte{1, 0xff, 0x80}, []float32{1, -1, -128}},
		{"F16", []byte{0, 0x3c, 1, 0, 0, 0xfc, 0xff, 0x7b}, []float32{1, 0x1p-24, float32(math.Inf(-1)), 65504}},
		{"BF16", []byte{0x80, 0x3f}, []float32{1}},
		{"F64", []byte{0, 0, 0, 0, 0, 0, 0xe0, 0x3f}, []float32{0.5}},
	} {
		if got, err := numbers(c.dtype, c.in); err != nil || !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s: got %v, %v; want %v", c.dtype, got, err, c.want)
		}
	}
	if got, err := indices("I64", []byte{3, 0, 0, 0, 0, 0, 0, 0}); err != nil || !reflect.DeepEqual(got, []int32{3}) {
		t.Errorf("got %v, %v", got, err)
	}
	if _, err := indices("I64", []byte{0, 0, 0, 0, 1, 0, 0, 0}); err == nil {
		t.Error("2^32 is an index")
	}
}

// Whatever the text, ids are in the vocabulary.
func FuzzWordPiece(f *testing.F) {
	w, err := newWordPiece([]byte(pieces))
	if err != nil {
		f.Fatal(err)
	}
	for _, s := range []string{"unable", "ok!ok", "\xff", "中文", "ÉÈ", strings.Repeat("x", 200)} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		for _, id := range w.encode(text) {
			if id < 0 || id > 2 {
				t.Errorf("id %d", id)
			}
		}
	})
}

func fixture(t *testing.T, c *staticCases) {
	t.Helper()
	data, err := os.ReadFile("testdata/static.json")
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(data, c); err != nil {
		t.Fatal(err)
	}
	gen, err := os.ReadFile("testdata/gen.py")
	if err != nil {
		t.Fatal(err)
	}
	if c.Generator != digest(gen) {
		t.Fatal("testdata/static.json was not written by the gen.py beside it; run it again")
	}
}

func digest(b []byte) string { return fmt.Sprintf("%x", sha256.Sum256(b)) }
