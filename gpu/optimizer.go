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
	list  listArgs
	parts uint64
}

type sumDoublesArgs struct {
	dst, parts uint64
	n          int64
}

// SumSquares implements [tensor.Optimizer]: a part of each piece, and their sum.
func (b *Backend) SumSquares(dst *tensor.Tensor, xs ...*tensor.Tensor) {
	const op = "sum of squares"
	const piece = 1 << 13 // squares of a block: see optimizer.cu
	d := output(op, dst)
	checkLen(op, dst.Len(), 1)
	b.entries = b.entries[:0]
	for _, x := range xs {
		b.entries = append(b.entries, entry{p: [6]uint64{input(op, x)}, n: int64(x.Len())})
	}
	if b.err != nil {
		return
	}
	a := sumSquaresArgs{list: b.list(listSquares, piece)}
	pieces := int(a.list.pieces)
	if pieces == 0 {
		return
	}
	a.parts = b.scratch(scratchParts, 8*pieces)
	launch(b, kSumSquares, dim{x: pieces}, 256, 0, &a)
	launch(b, kSumDoubles, dim{x: 1}, 1024, 0, &sumDoublesArgs{dst: d, parts: a.parts, n: a.list.pieces})
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
	list listArgs
	step adamStep
}

// AdamW implements [tensor.Optimizer].
func (b *Backend) AdamW(ps []tensor.AdamWParam, o tensor.AdamW) {
	const op = "adamw"
	const piece = 1 << 11 // elements of a block: see optimizer.cu
	b.entries = b.entries[:0]
	for i := range ps {
		p := &ps[i]
		b.entries = append(b.entries, entry{
			p: [6]uint64{output(op, p.W), input(op, p.G), output(op, p.M), output(op, p.V)},
			n: int64(p.W.Len()), decay: int32(index(!p.NoDecay)),
		})
		sameShape(op, p.W, p.G, p.M, p.V)
	}
	a := adamWArgs{step: newStep(op, &o)}
	if b.err != nil {
		return
	}
	a.list = b.list(listAdamW, piece)
	launch(b, kAdamW, dim{x: int(a.list.pieces)}, 256, 0, &a)
}

type adamW8bitArgs struct {
	list  listArgs
	codes uint64
	step  adamStep
}

// AdamW8bit implements [tensor.Optimizer].
func (b *Backend) AdamW8bit(ps []tensor.AdamWParam, o tensor.AdamW) {
	const op = "adamw8bit"
	const piece = 8 * tensor.AdamWBlock // elements of a block of threads: see optimizer.cu
	b.entries = b.entries[:0]
	for i := range ps {
		p := &ps[i]
		m, v := wantType(op, p.M, tensor.U8), wantType(op, p.V, tensor.U8)
		writable(op, m)
		writable(op, v)
		n := p.W.Len()
		b.entries = append(b.entries, entry{
			p: [6]uint64{output(op, p.W), input(op, p.G), m.ptr, v.ptr, output(op, p.MMax), output(op, p.VMax)},
			n: int64(n), decay: int32(index(!p.NoDecay)),
		})
		sameShape(op, p.W, p.G, p.M, p.V)
		checkLen(op, p.MMax.Len(), tensor.AdamWBlocks(n))
		checkLen(op, p.VMax.Len(), tensor.AdamWBlocks(n))
	}
	a := adamW8bitArgs{step: newStep(op, &o)}
	if b.err != nil {
		return
	}
	if a.list = b.list(listAdamW8bit, piece); a.list.pieces == 0 {
		return
	}
	a.codes = b.momentCodes()
	launch(b, kAdamW8bit, dim{x: min(int(a.list.pieces), 8*b.sms)}, 256, 0, &a)
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
