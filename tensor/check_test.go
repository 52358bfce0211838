package tensor_test

import (
	"fmt"
	"math"
	"testing"

	"pipe/tensor"
)

// TestChecks: each check lets pass what is right, and says what is wrong.
func TestChecks(t *testing.T) {
	const c = tensor.Checks("dev")
	of := func(dt tensor.DType, shape ...int) *tensor.Tensor { return &tensor.Tensor{DType: dt, Shape: shape} }
	for _, z := range []struct {
		want string
		do   func()
	}{
		{"", func() { c.Shape("op", tensor.F32, []int{0, math.MaxInt}) }},
		{"", func() { c.Shape("op", tensor.Q8_0, []int{3, 64}) }},
		{"dev: op: invalid dtype(200)", func() { c.Shape("op", 200, nil) }},
		{"dev: op: bad shape [2 -1]", func() { c.Shape("op", tensor.F32, []int{2, -1}) }},
		{"dev: op: bad shape [4294967296 4294967296]", func() { c.Shape("op", tensor.F32, []int{1 << 32, 1 << 32}) }},
		{"dev: op: rows of [64 3] are not whole blocks of q8_0", func() { c.Shape("op", tensor.Q8_0, []int{64, 3}) }},
		{"", func() { c.View(of(tensor.F32, 4, 5), 12, []int{2, 4}) }},
		{"dev: view: [2 4] at 13 of a tensor [4 5]", func() { c.View(of(tensor.F32, 4, 5), 13, []int{2, 4}) }},
		{"dev: view: [4] at -1 of a tensor [4 5]", func() { c.View(of(tensor.F32, 4, 5), -1, []int{4}) }},
		{"dev: view: [32] at 16 of a tensor [64]", func() { c.View(of(tensor.Q8_0, 64), 16, []int{32}) }},
		{"", func() { c.Len("op", 3, 3) }},
		{"dev: op: 3 elements; must be 4", func() { c.Len("op", 3, 4) }},
		{"", func() { c.SameShape("op", of(tensor.F32, 2, 3), of(tensor.BF16, 2, 3)) }},
		{"dev: op: shapes [2 3] and [3 2] differ", func() { c.SameShape("op", of(tensor.F32, 2, 3), of(tensor.F32, 3, 2)) }},
		{"", func() { c.Matrix("op", of(tensor.F32, 5), 5, 1) }},
		{"dev: op: operand has no dimensions", func() { c.Matrix("op", nil, 5, 1) }},
		{"dev: op: operand is [2 3]; must be [3, 2]", func() { c.Matrix("op", of(tensor.F32, 2, 3), 3, 2) }},
		{"", func() { c.Copy(of(tensor.U8, 6), of(tensor.U8, 2, 3)) }},
		{"dev: copy: u8 [6] from i32 [6]", func() { c.Copy(of(tensor.U8, 6), of(tensor.I32, 6)) }},
		{"dev: copy: u8 [5] from u8 [6]", func() { c.Copy(of(tensor.U8, 5), of(tensor.U8, 6)) }},
		{"", func() { c.Precision(tensor.BF16) }},
		{"dev: precision: f16; must be f32, bf16 or fp8", func() { c.Precision(tensor.F16) }},
	} {
		if got := said(z.do); got != z.want {
			t.Errorf("got %q, want %q", got, z.want)
		}
	}
	if n := c.Shape("op", tensor.F32, nil); n != 1 {
		t.Errorf("a number has %d elements", n)
	}
	if err := c.Index("op", []int32{0, 3, 2}, 4); err != nil {
		t.Error(err)
	}
	for _, bad := range []int32{-1, 4} {
		want := fmt.Sprintf("dev: op: index %d at position 1; must be from 0 to 3", bad)
		if err := c.Index("op", []int32{0, bad}, 4); err == nil || err.Error() != want {
			t.Errorf("got %v, want %s", err, want)
		}
	}
}

// said returns what f panics with.
func said(f func()) (text string) {
	defer func() {
		if e := recover(); e != nil {
			text = fmt.Sprint(e)
		}
	}()
	f()
	return ""
}
