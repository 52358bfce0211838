package quant

import (
	"errors"
	"fmt"
	"io"
	"math"

	"pipe/tensor"
)

// Convert writes rows of cols elements, data of type from, as type to, a few
// at a time. Blocks that have the type already are passed on as they are:
// rounding twice would lose more. A NaN or a value that the type cannot hold is
// an error. cols must be whole blocks of both types.
func Convert(w io.Writer, to, from tensor.DType, data []byte, cols int) error {
	if to == from && to.Quantized() {
		_, err := w.Write(data)
		return err
	}
	in := from.Bytes(cols)
	rows := 0
	if in > 0 {
		rows = len(data) / in
	}
	if rows*in != len(data) {
		panic(fmt.Sprintf("quant: %d bytes are not whole rows of %d elements of %s", len(data), cols, from))
	}
	step := max(1, 1<<16/max(cols, 1))
	x := make([]float32, min(step, rows)*cols)
	b := make([]byte, to.Bytes(len(x)))
	for r := 0; r < rows; r += step {
		n := min(step, rows-r)
		x, b := x[:n*cols], b[:to.Bytes(n*cols)]
		Dequantize(x, from, data[r*in:(r+n)*in])
		if i, err := unfit(x, to); err != nil {
			return fmt.Errorf("row %d, column %d %w", r+i/cols, i%cols, err)
		}
		Quantize(b, to, x)
		if _, err := w.Write(b); err != nil {
			return err
		}
	}
	return nil
}

// unfit returns the first value that a type cannot hold.
func unfit(x []float32, dt tensor.DType) (int, error) {
	most := float32(math.MaxFloat32)
	if dt == tensor.F16 || dt.Quantized() && dt != tensor.NF4 { // whose scales are f16
		most = 65504
	}
	for i, v := range x {
		if v != v {
			return i, errors.New("is not a number")
		}
		if !(v <= most && v >= -most) {
			return i, fmt.Errorf("is %v, which %s cannot hold", v, dt)
		}
	}
	return 0, nil
}
