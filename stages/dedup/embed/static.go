package embed

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"

	"pipe/model/safetensors"
	"pipe/stages/dedup/index"
	"pipe/stages/dedup/parallel"
	"pipe/text/tokenizer"
)

// Static embeds a text as the mean of the vectors of its tokens, from a table
// as Model2Vec distils them (Tulkens & van Dongen 2024): model.safetensors with
// the tensor "embeddings" [tokens, width], and tokenizer.json.
type Static struct {
	table   []float32 // [tokens, width]
	width   int
	weights []float32 // of each token; nil: all 1
	rows    []int32   // row of each token; nil: its own
	encode  func(text string) []int32
}

// OpenStatic loads the model in a directory.
func OpenStatic(dir string) (*Static, error) {
	s := &Static{}
	if err := s.readTable(filepath.Join(dir, safetensors.SingleName)); err != nil {
		return nil, err
	}
	path := filepath.Join(dir, "tokenizer.json")
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s has no tokenizer.json", dir)
	} else if err != nil {
		return nil, err
	}
	tokens, err := s.readTokenizer(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if err := s.check(tokens); err != nil {
		return nil, fmt.Errorf("%s: %w", dir, err)
	}
	return s, nil
}

// readTable reads the embeddings and, of files that have them, the weights and
// rows of tokens.
func (s *Static) readTable(path string) error {
	f, err := safetensors.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	name := "embeddings"
	dtype, shape, data, err := f.Raw(name)
	if err != nil {
		name = "embedding.weight"
		if dtype, shape, data, err = f.Raw(name); err != nil {
			return fmt.Errorf("%s: has no tensor \"embeddings\"; embedder \"static\" reads Model2Vec models", path)
		}
	}
	if len(shape) != 2 || shape[0] < 1 || shape[1] < 1 || shape[1] > 1<<16 {
		return fmt.Errorf("%s: tensor %q has the shape %v; must be [tokens, width]", path, name, shape)
	}
	s.width = shape[1]
	if s.table, err = numbers(dtype, data); err != nil {
		return fmt.Errorf("%s: tensor %q %w", path, name, err)
	}
	if dtype, _, data, err := f.Raw("weights"); err == nil {
		if s.weights, err = numbers(dtype, data); err != nil {
			return fmt.Errorf("%s: tensor \"weights\" %w", path, err)
		}
	}
	if dtype, _, data, err := f.Raw("mapping"); err == nil {
		if s.rows, err = indices(dtype, data); err != nil {
			return fmt.Errorf("%s: tensor \"mapping\" %w", path, err)
		}
	}
	for i, x := range s.table {
		if math.IsNaN(float64(x)) || math.IsInf(float64(x), 0) {
			return fmt.Errorf("%s: tensor %q holds %v at row %d", path, name, x, i/s.width)
		}
	}
	return nil
}

// readTokenizer returns the number of token ids.
func (s *Static) readTokenizer(data []byte) (int, error) {
	var kind struct {
		Model struct{ Type string }
	}
	if err := json.Unmarshal(data, &kind); err != nil {
		return 0, err
	}
	if kind.Model.Type == "WordPiece" {
		w, err := newWordPiece(data)
		if err != nil {
			return 0, err
		}
		s.encode = w.encode
		return w.size, nil
	}
	t, err := tokenizer.Load(data)
	if err != nil {
		return 0, err
	}
	s.encode = t.EncodePlain
	return t.VocabSize(), nil
}

// check holds the tokenizer against the table.
func (s *Static) check(tokens int) error {
	rows := len(s.table) / s.width
	switch {
	case s.rows == nil && tokens > rows:
		return fmt.Errorf("the tokenizer has %d tokens and the table %d rows", tokens, rows)
	case s.rows != nil && tokens > len(s.rows):
		return fmt.Errorf("the tokenizer has %d tokens and the mapping %d", tokens, len(s.rows))
	case s.weights != nil && tokens > len(s.weights):
		return fmt.Errorf("the tokenizer has %d tokens and there are %d weights", tokens, len(s.weights))
	}
	for i, r := range s.rows {
		if r < 0 || int(r) >= rows {
			return fmt.Errorf("token %d has the row %d of %d", i, r, rows)
		}
	}
	return nil
}

// numbers converts the bytes of a tensor. Integers keep their values: rows are
// scaled to length 1 later.
func numbers(dtype string, b []byte) ([]float32, error) {
	size, read := 0, (func(b []byte) float32)(nil)
	switch dtype {
	case "F64":
		size, read = 8, func(b []byte) float32 { return float32(math.Float64frombits(binary.LittleEndian.Uint64(b))) }
	case "F32":
		size, read = 4, func(b []byte) float32 { return math.Float32frombits(binary.LittleEndian.Uint32(b)) }
	case "BF16":
		size, read = 2, func(b []byte) float32 { return math.Float32frombits(uint32(binary.LittleEndian.Uint16(b)) << 16) }
	case "F16":
		size, read = 2, func(b []byte) float32 { return half(binary.LittleEndian.Uint16(b)) }
	case "I8":
		size, read = 1, func(b []byte) float32 { return float32(int8(b[0])) }
	default:
		return nil, fmt.Errorf("is of type %s; F64, F32, F16, BF16 and I8 can be read", dtype)
	}
	out := make([]float32, len(b)/size)
	for i := range out {
		out[i] = read(b[i*size:])
	}
	return out, nil
}

// half converts an IEEE 754 half.
func half(h uint16) float32 {
	sign, exp, frac := uint32(h>>15)<<31, int(h>>10&31), float64(h&1023)
	var x float64
	switch exp {
	case 0:
		x = frac * 0x1p-24
	case 31:
		return math.Float32frombits(sign | 0x7f800000 | uint32(h&1023)<<13)
	default:
		x = (1 + frac/1024) * math.Pow(2, float64(exp-15))
	}
	return math.Float32frombits(sign | math.Float32bits(float32(x)))
}

func indices(dtype string, b []byte) ([]int32, error) {
	var out []int32
	switch dtype {
	case "I64":
		for ; len(b) >= 8; b = b[8:] {
			n := int64(binary.LittleEndian.Uint64(b))
			if n != int64(int32(n)) {
				return nil, fmt.Errorf("holds %d", n)
			}
			out = append(out, int32(n))
		}
	case "I32":
		for ; len(b) >= 4; b = b[4:] {
			out = append(out, int32(binary.LittleEndian.Uint32(b)))
		}
	default:
		return nil, fmt.Errorf("is of type %s; must be I32 or I64", dtype)
	}
	return out, nil
}

// Embed implements Embedder.
func (s *Static) Embed(ctx context.Context, texts []string, progress func(done int)) (index.Vectors, error) {
	const block = 1024
	v := index.Vectors{Data: make([]float32, len(texts)*s.width), Width: s.width}
	for from := 0; from < len(texts); from += block {
		if err := ctx.Err(); err != nil {
			return v, err
		}
		n := min(block, len(texts)-from)
		parallel.For(n, 8, func(i int) { s.text(v.Row(from+i), texts[from+i]) })
		progress(from + n)
	}
	v.Normalize()
	return v, nil
}

// text sets row to the sum of the vectors of text's tokens, which points where
// their mean does.
func (s *Static) text(row []float32, text string) {
	sum := make([]float64, s.width)
	for _, id := range s.encode(text) {
		r, w := int(id), 1.0
		if s.rows != nil {
			r = int(s.rows[id])
		}
		if s.weights != nil {
			w = float64(s.weights[id])
		}
		for k, x := range s.table[r*s.width : (r+1)*s.width] {
			sum[k] += w * float64(x)
		}
	}
	var most float64
	for _, x := range sum {
		most = max(most, math.Abs(x))
	}
	for k, x := range sum {
		if most > 0 {
			row[k] = float32(x / most) // no overflow in float32
		}
	}
}

// Close implements Embedder.
func (s *Static) Close() error { return nil }
