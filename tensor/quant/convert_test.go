package quant_test

import (
	"bytes"
	"errors"
	"math"
	"strings"
	"testing"

	"pipe/tensor"
	"pipe/tensor/quant"
)

// TestConvert: in pieces as in one.
func TestConvert(t *testing.T) {
	const rows, cols = 700, 256
	x := make([]float32, rows*cols)
	for i := range x {
		x[i] = float32(math.Sin(float64(i)))
	}
	for _, from := range []tensor.DType{tensor.F32, tensor.F16, tensor.Q8_0, tensor.Q6_K} {
		in := make([]byte, from.Bytes(len(x)))
		quant.Quantize(in, from, x)
		y := make([]float32, len(x))
		quant.Dequantize(y, from, in)
		for _, to := range []tensor.DType{tensor.F32, tensor.BF16, tensor.Q8_0, tensor.Q4_0, tensor.Q6_K} {
			want := make([]byte, to.Bytes(len(x)))
			quant.Quantize(want, to, y)
			if to == from {
				want = in
			}
			var got bytes.Buffer
			if err := quant.Convert(&got, to, from, in, cols); err != nil || !bytes.Equal(got.Bytes(), want) {
				t.Errorf("%s to %s: %v, or the bytes differ", from, to, err)
			}
		}
	}
	if err := quant.Convert(&bytes.Buffer{}, tensor.F16, tensor.F32, nil, 8); err != nil {
		t.Errorf("no rows: %v", err)
	}
}

type full struct{}

func (full) Write([]byte) (int, error) { return 0, errors.New("disk full") }

func TestConvertRefuses(t *testing.T) {
	for want, c := range map[string]struct {
		v  float32
		to tensor.DType
	}{
		"row 2, column 3 is not a number": {float32(math.NaN()), tensor.F32},
		"is +Inf, which bf16 cannot":      {float32(math.Inf(1)), tensor.BF16},
		"is -70000, which f16 cannot":     {-70000, tensor.F16},
		"is 70000, which q8_0 cannot":     {70000, tensor.Q8_0},
		"disk full":                       {1, tensor.F32},
	} {
		x := make([]float32, 3*32)
		x[2*32+3] = c.v
		in := bytesOf(x)
		if err := quant.Convert(full{}, c.to, tensor.F32, in, 32); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
}
