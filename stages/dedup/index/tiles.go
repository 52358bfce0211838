package index

import (
	"context"
	"math"
	"unsafe"

	"pipe/stages/dedup/parallel"
	"pipe/tensor"
)

const (
	tileRows = 256
	tileCols = 2048
)

// Tiles is the Search that compares every row with every other, tile by tile.
func Tiles(ctx context.Context, b tensor.Backend, v Vectors, threshold float64, yield Yield) error {
	t, err := newTiler(b, v)
	if err != nil {
		return err
	}
	defer t.close()
	n := v.Len()
	for i := 0; i < n; i += tileRows {
		if err := ctx.Err(); err != nil {
			return err
		}
		rows := min(tileRows, n-i)
		for j := i; j < n; j += tileCols {
			cols := min(tileCols, n-j)
			t.multiply(t.all, i, rows, t.all, j, cols)
			t.scan(rows, cols, float32(threshold-slack), func(r, c int) {
				if i+r < j+c {
					yield(i+r, j+c)
				}
			})
		}
	}
	return b.Sync()
}

// Between yields the pairs of a row a of x and a row b of y.
func Between(ctx context.Context, b tensor.Backend, x, y Vectors, threshold float64, yield Yield) error {
	t, err := newTiler(b, x)
	if err != nil {
		return err
	}
	defer t.close()
	other, err := t.upload(y)
	if err != nil {
		return err
	}
	for i := 0; i < x.Len(); i += tileRows {
		if err := ctx.Err(); err != nil {
			return err
		}
		rows := min(tileRows, x.Len()-i)
		for j := 0; j < y.Len(); j += tileCols {
			cols := min(tileCols, y.Len()-j)
			t.multiply(t.all, i, rows, other, j, cols)
			t.scan(rows, cols, float32(threshold-slack), func(r, c int) { yield(i+r, j+c) })
		}
	}
	return b.Sync()
}

// A tiler multiplies blocks of rows on a backend and scans the products.
type tiler struct {
	b     tensor.Backend
	width int
	all   *tensor.Tensor // [n, width]
	out   *tensor.Tensor // [tileRows, tileCols], flat
	host  []float32
	hits  [tileRows][]int32
	owned []*tensor.Tensor
}

func newTiler(b tensor.Backend, v Vectors) (*tiler, error) {
	t := &tiler{b: b, width: v.Width, host: make([]float32, tileRows*tileCols)}
	var err error
	if t.all, err = t.upload(v); err == nil {
		t.out, err = t.alloc(tensor.F32, tileRows*tileCols)
	}
	if err != nil {
		t.close()
		return nil, err
	}
	return t, nil
}

func (t *tiler) close() {
	for _, x := range t.owned {
		t.b.Free(x)
	}
}

func (t *tiler) alloc(dt tensor.DType, shape ...int) (*tensor.Tensor, error) {
	x, err := t.b.Alloc(dt, shape...)
	if err == nil {
		t.owned = append(t.owned, x)
	}
	return x, err
}

func (t *tiler) upload(v Vectors) (*tensor.Tensor, error) {
	x, err := t.alloc(tensor.F32, max(1, v.Len()), v.Width)
	if err == nil && v.Len() > 0 {
		t.b.Upload(x, v.Data)
	}
	return x, err
}

// multiply puts the cosines of rows i.. of a and rows j.. of c into host,
// [rows, cols].
func (t *tiler) multiply(a *tensor.Tensor, i, rows int, c *tensor.Tensor, j, cols int) {
	out := t.b.View(t.out, 0, rows, cols)
	t.b.MatMul(out, t.b.View(a, i*t.width, rows, t.width), t.b.View(c, j*t.width, cols, t.width), tensor.MatMul{TransB: true, Alpha: 1})
	t.b.Download(t.host[:rows*cols], out)
}

// scan calls hit for each product of host that is at least low, in order.
func (t *tiler) scan(rows, cols int, low float32, hit func(r, c int)) {
	parallel.For(rows, 16, func(r int) {
		t.hits[r] = above(t.hits[r][:0], t.host[r*cols:(r+1)*cols], low)
	})
	for r := range rows {
		for _, c := range t.hits[r] {
			hit(r, int(c))
		}
	}
}

// above appends the indices of the elements of row that are at least low,
// which is positive. Positive floats order as their bits do, which lets eight
// of them be ruled out with one branch.
func above(out []int32, row []float32, low float32) []int32 {
	if low <= 0 {
		for c, x := range row {
			if x >= low {
				out = append(out, int32(c))
			}
		}
		return out
	}
	bits := unsafe.Slice((*int32)(unsafe.Pointer(unsafe.SliceData(row))), len(row))
	least := int32(math.Float32bits(low))
	c := 0
	for ; c+8 <= len(bits); c += 8 {
		b := (*[8]int32)(bits[c:])
		if max(b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7]) < least {
			continue
		}
		for k, x := range b {
			if x >= least {
				out = append(out, int32(c+k))
			}
		}
	}
	for ; c < len(bits); c++ {
		if bits[c] >= least {
			out = append(out, int32(c))
		}
	}
	return out
}
