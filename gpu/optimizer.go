//go:build cuda

package gpu

import (
	"encoding/binary"
	"fmt"
	"math"

	"pipe/tensor"
	"pipe/tensor/quant"
)

var (
	kSumSquares = newKernel("optimizer", "sum_squares")
	kSumDoubles = newKernel("optimizer", "sum_doubles")
	kAdamW      = newKernel("optimizer", "adamw")
	kAdamW8bit  = newKernel("optimizer", "adamw8bit")
)

type sumSquaresArgs struct {
	parts, x uint64
	n        int64
	vec      int32
}

type sumDoublesArgs struct {
	dst, parts uint64
	n          int64
}

// SumSquares implements [tensor.Optimizer].
func (b *Backend) SumSquares(dst, x *tensor.Tensor) {
	const op = "sum of squares"
	const squares = 1 << 15 // of a block: see optimizer.cu
	d, v := output(op, dst), input(op, x)
	checkLen(op, dst.Len(), 1)
	n := x.Len()
	if b.err != nil || n == 0 {
		return
	}
	blocks := ceilDiv(n, squares)
	parts := b.scratch(scratchParts, 8*blocks)
	launch(b, kSumSquares, dim{x: blocks}, 256, 0, &sumSquaresArgs{parts: parts, x: v, n: int64(n), vec: one(vectors(v))})
	launch(b, kSumDoubles, dim{x: 1}, 1024, 0, &sumDoublesArgs{dst: d, parts: parts, n: int64(blocks)})
}

// adamStep holds the constants of an update.
type adamStep struct{ gradScale, decay, beta1c, beta2, beta2c, step, root, eps float32 }

// newStep works out the constants in float64.
func newStep(op string, o *tensor.AdamW) adamStep {
	if o.Step < 1 {
		panic(fmt.Sprintf("gpu: %s: step is %d; must be 1 or more", op, o.Step))
	}
	t := float64(o.Step)
	return adamStep{
		gradScale: float32(o.GradScale), decay: float32(1 - o.LR*o.WeightDecay),
		beta1c: float32(1 - o.Beta1), beta2: float32(o.Beta2), beta2c: float32(1 - o.Beta2),
		step: float32(o.LR / (1 - math.Pow(o.Beta1, t))),
		root: float32(1 / math.Sqrt(1-math.Pow(o.Beta2, t))), eps: float32(o.Eps),
	}
}

type adamWArgs struct {
	w, g, m, v uint64
	n          int64
	step       adamStep
	vec        int32
}

// AdamW implements [tensor.Optimizer].
func (b *Backend) AdamW(w, g, m, v *tensor.Tensor, o tensor.AdamW) {
	const op = "adamw"
	a := adamWArgs{w: output(op, w), g: input(op, g), m: output(op, m), v: output(op, v), n: int64(w.Len())}
	sameShape(op, w, g, m, v)
	a.step = newStep(op, &o)
	a.vec = one(vectors(a.w, a.g, a.m, a.v))
	launch(b, kAdamW, dim{x: ceilDiv(w.Len(), flat)}, 256, 0, &a)
}

type adamW8bitArgs struct {
	w, g, m, v, mMax, vMax, codes uint64
	n, blocks                     int64
	step                          adamStep
	vec                           int32
}

// AdamW8bit implements [tensor.Optimizer].
func (b *Backend) AdamW8bit(w, g, m, v, mMax, vMax *tensor.Tensor, o tensor.AdamW) {
	const op = "adamw8bit"
	mm, vm := wantType(op, m, tensor.U8), wantType(op, v, tensor.U8)
	writable(op, mm)
	writable(op, vm)
	n := w.Len()
	blocks := tensor.AdamWBlocks(n)
	a := adamW8bitArgs{w: output(op, w), g: input(op, g), m: mm.ptr, v: vm.ptr, mMax: output(op, mMax), vMax: output(op, vMax), n: int64(n), blocks: int64(blocks)}
	sameShape(op, w, g, m, v)
	checkLen(op, mMax.Len(), blocks)
	checkLen(op, vMax.Len(), blocks)
	a.step = newStep(op, &o)
	if b.err != nil || n == 0 {
		return
	}
	a.codes = b.momentCodes()
	a.vec = one(vectors(a.w, a.g) && (a.m|a.v)%4 == 0)
	launch(b, kAdamW8bit, dim{x: min(ceilDiv(blocks, 8), 8*b.sms)}, 256, 0, &a)
}

// momentCodes returns where the codes of both moments lie, as struct Codes in
// optimizer.cu.
func (b *Backend) momentCodes() uint64 {
	if b.codes != 0 {
		return b.codes
	}
	var data []byte
	for _, d := range []*quant.Dynamic{quant.NewDynamic(true), quant.NewDynamic(false)} {
		data = appendCodes(data, d)
	}
	p := b.scratch(scratchCodes, len(data))
	b.upload("adamw8bit", p, data)
	if b.err == nil {
		b.codes = p
	}
	return p
}

// appendCodes appends a map as struct Codes: the values, the middles between
// them, and the least code of the numbers that share the upper half of their
// bits, from 2^-23 to 1, positive and then negative.
func appendCodes(to []byte, d *quant.Dynamic) []byte {
	const first, last = (127 - 23) << 7, 127 << 7
	number := func(f float32) { to = binary.LittleEndian.AppendUint32(to, math.Float32bits(f)) }
	for _, v := range d.Values {
		number(v)
	}
	for i := range 255 {
		number((d.Values[i] + d.Values[i+1]) / 2)
	}
	number(float32(math.Inf(1)))
	for k := uint32(first); k <= last; k++ {
		low := math.Float32frombits(k << 16)
		if k == first {
			low = 0
		}
		to = append(to, d.Code(low))
	}
	to = append(to, 0, 0, 0)
	for k := uint32(first); k <= last; k++ {
		to = append(to, d.Code(-math.Float32frombits(k<<16|0xffff)))
	}
	to = append(to, 0, 0, 0)
	return binary.LittleEndian.AppendUint32(to, uint32(d.Zero))
}
