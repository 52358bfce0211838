//go:build cuda

package gpu

import (
	"encoding/binary"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"pipe/tensor"
	"pipe/tensor/cpu"
	"pipe/tensor/quant"
	"pipe/tensor/tensortest"
)

// The tests below reach the kernels that the shapes of the conformance suite do
// not, and compare them with the CPU's.

// A pair is the same tensors on the device and on the processor.
type pair struct {
	*testing.T
	rng *rand.Rand
	on  [2]tensor.Backend
}

func newPair(t *testing.T) *pair {
	p := &pair{T: t, rng: rand.New(rand.NewPCG(1, 2)), on: [2]tensor.Backend{device(t), cpu.New(1)}}
	t.Cleanup(func() {
		for _, b := range p.on {
			if err := b.Sync(); err != nil {
				t.Error(err)
			}
		}
		p.on[1].Close()
	})
	return p
}

type both [2]*tensor.Tensor

// skewed returns random numbers that begin skip elements after an address which
// is a multiple of 256.
func (p *pair) skewed(skip int, shape ...int) (t both) {
	n := 1
	for _, d := range shape {
		n *= d
	}
	x := make([]float32, skip+n)
	for i := range x {
		x[i] = float32(p.rng.NormFloat64())
	}
	for i, b := range p.on {
		all, err := b.Alloc(tensor.F32, len(x))
		if err != nil {
			p.Fatal(err)
		}
		b.Upload(all, x)
		t[i] = b.View(all, skip, shape...)
	}
	return t
}

func (p *pair) put(shape ...int) both { return p.skewed(0, shape...) }

func (p *pair) ints(v []int32) (t both) {
	for i, b := range p.on {
		t[i], _ = b.Alloc(tensor.I32, len(v))
		b.UploadInts(t[i], v)
	}
	return t
}

func (p *pair) load(dt tensor.DType, data []byte, shape ...int) (t both) {
	for i, b := range p.on {
		t[i], _ = b.Load(dt, data, shape...)
	}
	return t
}

// run does the same on both.
func (p *pair) run(f func(b tensor.Backend, i int)) {
	for i, b := range p.on {
		f(b, i)
	}
}

func (p *pair) same(name string, t both, tol tensortest.Tolerance) {
	p.Helper()
	var x [2][]float32
	for i, b := range p.on {
		x[i] = make([]float32, t[i].Len())
		b.Download(x[i], t[i])
	}
	tensortest.Close(p.T, name, x[0], x[1], tol)
}

// normWidths has a width for each kernel of norms, and some that no vectors fit.
var normWidths = []int{4, 100, 128, 132, 256, 576, 640, 1000, 1024, 1028, 2048, 4096, 4097, 8192, 14336, 16384, 16388}

func TestNormWidths(t *testing.T) {
	p := newPair(t)
	for _, cols := range normWidths {
		for _, skip := range []int{0, 1} {
			rows := 19
			if cols > 4096 {
				rows = 3
			}
			name := fmt.Sprintf("%d columns at %d: ", cols, skip)
			x, y, w, dy, more := p.skewed(skip, rows, cols), p.put(rows, cols), p.put(cols), p.put(rows, cols), p.put(rows, cols)
			d, sum, r, dw, dx := p.put(rows, cols), p.put(rows, cols), p.put(rows), p.put(cols), p.put(rows, cols)
			p.run(func(b tensor.Backend, i int) { b.AddRMSNorm(d[i], r[i], sum[i], x[i], y[i], w[i], 1e-5) })
			p.same(name+"sum", sum, tensortest.Exact)
			p.same(name+"norm of a sum", d, tensortest.F32)
			p.run(func(b tensor.Backend, i int) { b.RMSNorm(d[i], r[i], x[i], w[i], 1e-5) })
			p.same(name+"norm", d, tensortest.F32)
			p.same(name+"rstd", r, tensortest.F32)
			p.run(func(b tensor.Backend, i int) { b.RMSNormGrad(dx[i], nil, x[i], w[i], r[i], dy[i], more[i]) })
			p.same(name+"dx", dx, tensortest.F32Grad)
			p.run(func(b tensor.Backend, i int) { b.RMSNormGrad(dy[i], dw[i], x[i], w[i], r[i], dy[i], nil) })
			p.same(name+"dx over dy", dy, tensortest.F32Grad)
			p.same(name+"dw", dw, tensortest.F32Grad)
		}
	}
}

// TestManyRows: parts of column sums, more rows than blocks, and rows that
// begin anywhere.
func TestManyRows(t *testing.T) {
	p := newPair(t)
	for _, z := range [][3]int{{1000, 12, 0}, {70, 300, 0}, {70, 300, 2}, {130, 33, 0}, {33000, 4, 0}, {1, 5000, 1}} {
		rows, cols, skip := z[0], z[1], z[2]
		name := fmt.Sprint(z, ": ")
		x, y, s, m := p.skewed(skip, rows, cols), p.put(rows, cols), p.put(cols), p.put(cols)
		dx, dm, by := p.put(rows, cols), p.put(cols), p.put(rows)
		p.run(func(b tensor.Backend, i int) { b.ScaleColsGrad(dx[i], dm[i], x[i], y[i], s[i], m[i]) })
		p.same(name+"scale columns gradient, x", dx, tensortest.F32)
		p.same(name+"scale columns gradient, m", dm, tensortest.F32Grad)
		p.run(func(b tensor.Backend, i int) { b.ColSum(dm[i], x[i]) })
		p.same(name+"column sums", dm, tensortest.F32Grad)
		p.run(func(b tensor.Backend, i int) { b.ScaleRows(y[i], x[i], by[i]) })
		p.same(name+"scale rows", y, tensortest.F32)
		p.run(func(b tensor.Backend, i int) { b.ScaleCols(y[i], x[i], s[i]) })
		p.same(name+"scale columns", y, tensortest.F32)
		p.run(func(b tensor.Backend, i int) { b.AddRow(x[i], s[i]) })
		p.same(name+"add row", x, tensortest.Exact)
		p.run(func(b tensor.Backend, i int) { b.SwiGLU(y[i], x[i], dx[i]) })
		p.same(name+"swiglu", y, tensortest.F32)
		p.run(func(b tensor.Backend, i int) { b.SwiGLUGrad(x[i], dx[i], x[i], dx[i], y[i]) })
		p.same(name+"dgate over gate", x, tensortest.F32Grad)
		p.same(name+"dup over up", dx, tensortest.F32Grad)
	}
	// More rows than the gradient of norms has blocks.
	for _, z := range [][2]int{{9000, 8}, {300, 1028}} {
		rows, cols := z[0], z[1]
		x, w, r, dy, dx, dw := p.put(rows, cols), p.put(cols), p.put(rows), p.put(rows, cols), p.put(rows, cols), p.put(cols)
		p.run(func(b tensor.Backend, i int) { b.RMSNormGrad(dx[i], dw[i], x[i], w[i], r[i], dy[i], nil) })
		p.same(fmt.Sprint(z, ": dx of many rows"), dx, tensortest.F32Grad)
		p.same(fmt.Sprint(z, ": dw of many rows"), dw, tensortest.F32Grad)
	}
}

// TestDropoutMask: the masks are the same on all backends.
func TestDropoutMask(t *testing.T) {
	p := newPair(t)
	for _, skip := range []int{0, 3} {
		x := p.skewed(skip, 5000)
		p.run(func(b tensor.Backend, i int) { b.Dropout(x[i], x[i], 0.37, 0xfedcba9876543210) })
		p.same("dropout", x, tensortest.Exact)
	}
}

// stored returns random blocks; where scales lie, numbers are finite.
func (p *pair) stored(dt tensor.DType, n int) []byte {
	data := make([]byte, dt.Bytes(n))
	for i := range data {
		data[i] = byte(p.rng.Uint32())
	}
	finite := func(at int) { data[at] &^= 0x40 }
	size := dt.Bytes(dt.Block())
	for at := 0; at < len(data); at += size {
		switch dt {
		case tensor.F32, tensor.NF4:
			finite(at + 3)
		case tensor.F16, tensor.BF16, tensor.Q4_0, tensor.Q5_0, tensor.Q8_0:
			finite(at + 1)
		case tensor.Q6_K:
			finite(at + size - 1)
		default:
			finite(at + 1)
			finite(at + 3)
		}
	}
	return data
}

var storedTypes = []tensor.DType{tensor.F32, tensor.F16, tensor.BF16, tensor.Q4_0, tensor.Q4_1, tensor.Q5_0, tensor.Q5_1,
	tensor.Q8_0, tensor.Q4_K, tensor.Q5_K, tensor.Q6_K, tensor.NF4}

// TestExpandBits: every type has the bits of package quant, in every way in
// which rows are read.
func TestExpandBits(t *testing.T) {
	p := newPair(t)
	b := p.on[0]
	for _, dt := range storedTypes {
		for _, z := range [][2]int{{5, 512}, {1, 256}, {7, 37}, {3, 1}, {5, 24}} {
			rows, cols := z[0], z[1]
			if cols%dt.Block() != 0 {
				continue
			}
			data := p.stored(dt, rows*cols)
			want := make([]float32, rows*cols)
			quant.Dequantize(want, dt, data)
			w, err := b.Load(dt, data, rows, cols)
			if err != nil {
				t.Fatal(err)
			}
			got := make([]float32, rows*cols)
			for _, skip := range []int{0, 1} {
				all, _ := b.Alloc(tensor.F32, rows*cols+skip)
				d := b.View(all, skip, rows, cols)
				b.Dequantize(d, w)
				b.Download(got, d)
				sameBits(t, fmt.Sprintf("%s %v at %d", dt, z, skip), got, want)
			}
		}
	}
}

func sameBits(t *testing.T, name string, got, want []float32) {
	t.Helper()
	for i, v := range want {
		if math.Float32bits(v) != math.Float32bits(got[i]) {
			t.Errorf("%s: element %d is %v (%#x); want %v (%#x)", name, i, got[i], math.Float32bits(got[i]), v, math.Float32bits(v))
			return
		}
	}
}

// TestRowLists: rows that come often, in order, from and to any address.
func TestRowLists(t *testing.T) {
	p := newPair(t)
	for _, cols := range []int{1, 24, 1100} {
		for _, skip := range []int{0, 1} {
			name := fmt.Sprintf("%d columns at %d: ", cols, skip)
			ids := make([]int32, 400)
			for i := range ids {
				ids[i] = int32(p.rng.IntN(29))
			}
			it, x, src := p.ints(ids), p.skewed(skip, 30, cols), p.put(len(ids), cols)
			p.run(func(b tensor.Backend, i int) { b.ScatterAddRows(x[i], src[i], it[i]) })
			p.same(name+"scatter and add", x, tensortest.Exact)
			p.run(func(b tensor.Backend, i int) { b.ScatterRows(x[i], src[i], it[i]) })
			p.same(name+"scatter", x, tensortest.Exact)
			p.run(func(b tensor.Backend, i int) { b.GatherRows(src[i], x[i], it[i]) })
			p.same(name+"gather", src, tensortest.Exact)
			slices.Sort(ids[:20])
			unique := slices.Compact(ids[:20])
			at, few := p.ints(unique), p.put(len(unique), cols)
			p.run(func(b tensor.Backend, i int) { b.ScatterRows(x[i], few[i], at[i]) })
			p.same(name+"scatter, ascending", x, tensortest.Exact)
		}
	}
	for _, dt := range storedTypes {
		w, it, y := p.load(dt, p.stored(dt, 9*256), 9, 256), p.ints([]int32{8, 0, 3, 3, 7}), p.put(5, 256)
		p.run(func(b tensor.Backend, i int) { b.Embed(y[i], w[i], it[i]) })
		if dt != tensor.F32 && dt != tensor.F16 && dt != tensor.BF16 && dt != tensor.NF4 { // random exponents
			p.same("embed "+dt.String(), y, tensortest.Exact)
		}
	}
}

// TestHalves: with BF16 an operation does what it does with F32, and rounds.
func TestHalves(t *testing.T) {
	b := device(t)
	p := &pair{T: t, rng: rand.New(rand.NewPCG(1, 2)), on: [2]tensor.Backend{b, b}}
	for _, z := range [][2]int{{3, 1100}, {700, 12}, {9, 7}, {5, 64}} {
		rows, cols := z[0], z[1]
		alloc := func(dt tensor.DType) *tensor.Tensor {
			x, err := b.Alloc(dt, rows, cols)
			if err != nil {
				t.Fatal(err)
			}
			return x
		}
		all := make([]int32, rows)
		for i := range all {
			all[i] = int32(i)
		}
		order := p.ints(all)[0]
		// round sets to[0] to the numbers of to[1] once they are bfloat16.
		round := func(x *tensor.Tensor) both {
			h, f := alloc(tensor.BF16), alloc(tensor.F32)
			b.ScatterRows(h, x, order)
			b.Dequantize(f, h)
			return both{h, f}
		}
		result := func() both { return both{alloc(tensor.BF16), alloc(tensor.F32)} }
		check := func(name string, got both) {
			t.Helper()
			x, y := make([]float32, rows*cols), make([]float32, rows*cols)
			if f := got[0]; f.DType == tensor.BF16 {
				got[0] = alloc(tensor.F32)
				b.Dequantize(got[0], f)
				got[1] = round(got[1])[1]
			}
			b.Download(x, got[0])
			b.Download(y, got[1])
			sameBits(t, fmt.Sprintf("%v: %s", z, name), x, y)
		}
		var x [4]both
		for i := range x {
			x[i] = round(p.put(rows, cols)[0])
		}
		v, full := p.put(cols)[0], p.put(rows, cols)[0]
		d, e := result(), result()
		for i := range 2 {
			b.SwiGLU(d[i], x[0][i], x[1][i])
			b.SwiGLUGrad(e[i], d[i], x[0][i], x[1][i], x[2][i])
		}
		check("dgate", e)
		check("dup", d)
		for i := range 2 {
			b.SwiGLU(d[i], x[0][i], x[1][i])
			b.Dropout(e[i], x[3][i], 0.4, 5)
		}
		check("swiglu", d)
		check("dropout", e)
		for types := range 8 {
			of := func(bit int, x both) *tensor.Tensor { return x[1-types>>bit&1] }
			d, e := result(), alloc(tensor.F32)
			b.Add(of(0, d), of(1, x[0]), of(2, x[1]), 0.3)
			b.Add(e, x[0][1], x[1][1], 0.3)
			check(fmt.Sprint("add of types ", types), both{of(0, d), e})
		}
		m, sums := p.put(cols)[0], [2]*tensor.Tensor{}
		for i := range 2 {
			dm, _ := b.Alloc(tensor.F32, cols)
			b.ScaleColsGrad(d[i], dm, x[0][i], x[1][i], v, m)
			b.ScaleColsGrad(e[i], dm, full, full, v, m)
			b.ColSum(dm, x[2][i])
			sums[i] = dm
		}
		check("scale columns gradient", d)
		check("scale columns gradient of full", e)
		f := alloc(tensor.F32)
		b.ScaleColsGrad(f, m, x[0][0], x[1][0], v, v)
		b.ScaleColsGrad(e[1], m, x[0][1], x[1][1], v, v)
		check("full gradient", both{f, e[1]})
		got, want := make([]float32, cols), make([]float32, cols)
		b.Download(got, sums[0])
		b.Download(want, sums[1])
		sameBits(t, "sums", got, want)
		rstd, at := p.put(rows)[0], make([]int32, rows)
		for i := range at {
			at[i] = int32(rows - 1 - i)
		}
		ids := p.ints(at)[0]
		for i := range 2 {
			b.RMSNorm(d[i], rstd, full, v, 1e-5)
			b.AddRMSNorm(e[i], rstd, f, full, x[1][1], v, 1e-5)
		}
		check("rmsnorm", d)
		check("rmsnorm of a sum", e)
		for i := range 2 {
			b.GatherRows(d[i], x[0][i], ids)
			b.ScatterRows(e[i], x[1][i], ids)
			b.AddRow(x[2][i], v)
		}
		check("gather", d)
		check("scatter", e)
		check("add row", x[2])
		if cols%2 == 0 {
			inv := p.put(cols / 2)[0]
			for i := range 2 {
				b.Rope(x[3][i], ids, inv, true)
			}
			check("rope", x[3])
		}
	}
	if err := b.Sync(); err != nil {
		t.Error(err)
	}
}

// TestRotationIsFresh: the angles follow positions and frequencies that change
// where they are.
func TestRotationIsFresh(t *testing.T) {
	p := newPair(t)
	pos, inv, x := p.ints([]int32{5, 0, 70000}), p.put(3, 8), p.put(3, 48)
	turn := func(name string, row int) {
		p.run(func(b tensor.Backend, i int) { b.Rope(x[i], pos[i], b.View(inv[i], 8*row, 8), row == 1) })
		p.same(name, x, tensortest.F32)
	}
	turn("first", 0)
	turn("again", 0)
	turn("other frequencies", 1)
	p.run(func(b tensor.Backend, i int) { b.UploadInts(b.View(pos[i], 1, 1), []int32{9}) })
	turn("other positions", 1)
	p.run(func(b tensor.Backend, i int) { b.Zero(inv[i]) })
	turn("no frequencies", 1)
	p.run(func(b tensor.Backend, i int) { b.Upload(b.View(inv[i], 8, 1), []float32{3}) })
	turn("one frequency", 1)
}

// TestOptimizers: several blocks, parts of blocks, and addresses of all kinds.
func TestOptimizers(t *testing.T) {
	p := newPair(t)
	o := tensor.AdamW{LR: 0.01, Beta1: 0.9, Beta2: 0.99, Eps: 1e-6, WeightDecay: 0.1, GradScale: 0.5}
	for _, n := range []int{5, 256, 3000, 40000} {
		for _, skip := range []int{0, 1} {
			name := fmt.Sprintf("%d at %d: ", n, skip)
			w, g, m, v, sum := p.skewed(skip, n), p.put(n), p.put(n), p.put(n), p.put(1)
			p.run(func(b tensor.Backend, i int) { b.SumSquares(sum[i], w[i]) })
			p.same(name+"sum of squares", sum, tensortest.F32)
			p.run(func(b tensor.Backend, i int) { b.ScaleRows(v[i], v[i], v[i]) }) // not negative
			o.Step = 3
			p.run(func(b tensor.Backend, i int) { b.AdamW([]tensor.AdamWParam{{W: w[i], G: g[i], M: m[i], V: v[i]}}, o) })
			p.same(name+"w", w, tensortest.F32Grad)
			p.same(name+"m", m, tensortest.F32)
			p.same(name+"v", v, tensortest.F32)
			p.eight(name, n, skip, o)
		}
	}
}

// eight takes steps with moments of 8 bits: the codes are those of the CPU, but
// for a rounding here and there.
func (p *pair) eight(name string, n, skip int, o tensor.AdamW) {
	w, g, mMax, vMax := p.skewed(skip, n), p.put(n), p.put(tensor.AdamWBlocks(n)), p.put(tensor.AdamWBlocks(n))
	var m, v both
	for i, b := range p.on {
		m[i], _ = b.Alloc(tensor.U8, n)
		v[i], _ = b.Alloc(tensor.U8, n)
		b.Zero(mMax[i])
		b.Zero(vMax[i])
	}
	for o.Step = 1; o.Step <= 3; o.Step++ {
		p.run(func(b tensor.Backend, i int) {
			b.AdamW8bit([]tensor.AdamWParam{{W: w[i], G: g[i], M: m[i], V: v[i], MMax: mMax[i], VMax: vMax[i]}}, o)
		})
	}
	p.same(name+"w of 8 bits", w, tensortest.F32Grad)
	p.same(name+"largest m", mMax, tensortest.F32)
	p.same(name+"largest v", vMax, tensortest.F32)
	for what, c := range map[string]both{"m": m, "v": v} {
		got, want := make([]byte, n), make([]byte, n)
		p.on[0].DownloadBytes(got, c[0])
		p.on[1].DownloadBytes(want, c[1])
		off := 0
		for i := range got {
			if got[i] != want[i] {
				off++
			}
		}
		if off > 1+n/1000 {
			p.Errorf("%s%d codes of %s differ", name, off, what)
		}
	}
}

// TestCodes: the device's tables find what package quant finds.
func TestCodes(t *testing.T) {
	for _, signed := range []bool{true, false} {
		d := quant.NewDynamic(signed)
		data := appendCodes(nil, d)
		if len(data) != 2048+2*2948+4 {
			t.Fatalf("%d bytes", len(data))
		}
		number := func(at int) float32 { return math.Float32frombits(binary.LittleEndian.Uint32(data[at:])) }
		for bits := uint64(0); bits < 1<<32; bits += 4099 {
			x := math.Float32frombits(uint32(bits))
			k := min(max(int(uint32(bits)&0x7fffffff>>16), 104<<7)-104<<7, 2944)
			i := int(data[2048+2948*int(bits>>31)+k])
			if number(1024+4*i) < x {
				i++
			}
			if want := d.Code(x); x == x && i != int(want) {
				t.Fatalf("code of %v is %d; want %d", x, i, want)
			}
		}
	}
}

// TestNothingAllocates: what a training step repeats does not allocate Go memory.
func TestNothingAllocates(t *testing.T) {
	b := device(t)
	p := &pair{T: t, rng: rand.New(rand.NewPCG(1, 2)), on: [2]tensor.Backend{b, b}}
	x, y, v, rstd, one := p.put(6, 8)[0], p.put(6, 8)[0], p.put(8)[0], p.put(6)[0], p.put(1)[0]
	w, inv, ids := p.put(9, 8)[0], p.put(2)[0], p.ints([]int32{3, 0, 3, 8, 5, 3})[0]
	m8, _ := b.Alloc(tensor.U8, 6, 8)
	v8, _ := b.Alloc(tensor.U8, 6, 8)
	o := tensor.AdamW{LR: 0.01, Beta1: 0.9, Beta2: 0.99, Eps: 1e-6, GradScale: 1, Step: 1}
	many := []*tensor.Tensor{x, v, y}
	params := []tensor.AdamWParam{{W: x, G: y, M: x, V: y}, {W: v, G: v, M: v, V: v, NoDecay: true}}
	params8 := []tensor.AdamWParam{{W: x, G: y, M: m8, V: v8, MMax: one, VMax: one}}
	for name, f := range map[string]func(){
		"add":                    func() { b.Add(x, x, y, 0.5) },
		"add row":                func() { b.AddRow(x, v) },
		"column sums":            func() { b.ColSum(v, x) },
		"dropout":                func() { b.Dropout(x, x, 0.5, 1) },
		"scale columns":          func() { b.ScaleCols(x, x, v) },
		"scale columns gradient": func() { b.ScaleColsGrad(x, v, x, y, v, v) },
		"swiglu":                 func() { b.SwiGLU(x, x, y) },
		"swiglu gradient":        func() { b.SwiGLUGrad(x, y, x, y, x) },
		"rmsnorm":                func() { b.RMSNorm(x, rstd, y, v, 1e-5) },
		"rmsnorm of a sum":       func() { b.AddRMSNorm(x, rstd, y, y, x, v, 1e-5) },
		"rmsnorm gradient":       func() { b.RMSNormGrad(x, v, y, v, rstd, x, y) },
		"rope":                   func() { b.Rope(x, ids, inv, false) },
		"embed":                  func() { b.Embed(x, w, ids) },
		"embed gradient":         func() { b.EmbedGrad(w, ids, x) },
		"gather":                 func() { b.GatherRows(x, w, ids) },
		"scatter":                func() { b.ScatterRows(w, x, ids) },
		"row squares":            func() { b.RowSquares(rstd, x) },
		"dequantize":             func() { b.Dequantize(x, y) },
		"zero":                   func() { b.ZeroAll(many) },
		"sum of squares":         func() { b.SumSquares(one, many...) },
		"adamw":                  func() { b.AdamW(params, o) },
		"adamw8bit":              func() { b.AdamW8bit(params8, o) },
	} {
		if n := testing.AllocsPerRun(5, f); n != 0 {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
}
