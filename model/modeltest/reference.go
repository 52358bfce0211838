package modeltest

import (
	"fmt"
	"math"

	"pipe/tensor"
	"pipe/tensor/quant"
)

// Reference is a tensor.Backend in its plainest form: loops over float32
// storage with float64 sums, one goroutine, no error to stick. Tests of layers
// run on it beside the real one.
type Reference struct{}

type mem struct {
	f []float32 // F32; of BF16 and of a frozen weight, expanded
	i []int32
}

func fl(t *tensor.Tensor) []float32 { return t.Mem.(*mem).f }
func in(t *tensor.Tensor) []int32   { return t.Mem.(*mem).i }

// Name implements tensor.Backend.
func (Reference) Name() string { return "reference" }

// Sync implements tensor.Backend.
func (Reference) Sync() error { return nil }

// Close implements tensor.Backend.
func (Reference) Close() error { return nil }

// Alloc implements tensor.Memory.
func (Reference) Alloc(dt tensor.DType, shape ...int) (*tensor.Tensor, error) {
	t := &tensor.Tensor{DType: dt, Shape: shape}
	switch dt {
	case tensor.F32, tensor.BF16:
		t.Mem = &mem{f: make([]float32, t.Len())}
	case tensor.I32:
		t.Mem = &mem{i: make([]int32, t.Len())}
	default:
		return nil, fmt.Errorf("reference: no tensors of %s", dt)
	}
	return t, nil
}

// Load implements tensor.Memory.
func (Reference) Load(dt tensor.DType, data []byte, shape ...int) (*tensor.Tensor, error) {
	t := &tensor.Tensor{DType: dt, Shape: shape}
	m := &mem{f: make([]float32, t.Len())}
	quant.Dequantize(m.f, dt, data)
	t.Mem = m
	return t, nil
}

// Precision implements tensor.Memory; nothing is rounded.
func (Reference) Precision(*tensor.Tensor, tensor.DType) {}

// Free implements tensor.Memory.
func (Reference) Free(*tensor.Tensor) {}

// View implements tensor.Memory.
func (Reference) View(t *tensor.Tensor, offset int, shape ...int) *tensor.Tensor {
	v := &tensor.Tensor{DType: t.DType, Shape: shape}
	if t.DType == tensor.I32 {
		v.Mem = &mem{i: in(t)[offset : offset+v.Len()]}
	} else {
		v.Mem = &mem{f: fl(t)[offset : offset+v.Len()]}
	}
	return v
}

// Upload implements tensor.Memory.
func (Reference) Upload(dst *tensor.Tensor, src []float32) { same(copy(fl(dst), src), dst.Len()) }

// UploadInts implements tensor.Memory.
func (Reference) UploadInts(dst *tensor.Tensor, src []int32) { same(copy(in(dst), src), dst.Len()) }

// Download implements tensor.Memory.
func (Reference) Download(dst []float32, src *tensor.Tensor) { same(copy(dst, fl(src)), len(dst)) }

// DownloadInts implements tensor.Memory.
func (Reference) DownloadInts(dst []int32, src *tensor.Tensor) { same(copy(dst, in(src)), len(dst)) }

// Zero implements tensor.Memory.
func (Reference) Zero(t *tensor.Tensor) { clear(fl(t)) }

// ZeroAll implements tensor.Memory.
func (r Reference) ZeroAll(ts []*tensor.Tensor) {
	for _, t := range ts {
		r.Zero(t)
	}
}

// Copy implements tensor.Memory.
func (Reference) Copy(dst, src *tensor.Tensor) {
	same(dst.Len(), src.Len())
	copy(fl(dst), fl(src))
}

func same(a, b int) {
	if a != b {
		panic(fmt.Sprintf("reference: lengths %d and %d", a, b))
	}
}

// MatMul implements tensor.Linear.
func (r Reference) MatMul(dst, a, b *tensor.Tensor, o tensor.MatMul) {
	if l := o.LowRank; l != nil && l.A != nil {
		r.MatMul(l.U, a, l.A, tensor.MatMul{TransB: true, Alpha: 1})
	}
	m, k, n, kb := a.Rows(), a.Cols(), b.Cols(), b.Rows()
	if o.TransA {
		m, k = k, m
	}
	if o.TransB {
		n, kb = kb, n
	}
	same(k, kb)
	same(dst.Rows(), m)
	same(dst.Cols(), n)
	x, y, z := fl(a), fl(b), fl(dst)
	for i := range m {
		for j := range n {
			sum := 0.0
			for l := range k {
				p, q := i*k+l, l*n+j
				if o.TransA {
					p = l*m + i
				}
				if o.TransB {
					q = j*k + l
				}
				sum += float64(x[p]) * float64(y[q])
			}
			sum *= float64(o.Alpha)
			if l := o.LowRank; l != nil {
				sum += float64(l.Alpha) * lowRank(l, i, j)
			}
			if o.ColScale != nil {
				sum *= float64(fl(o.ColScale)[j])
			}
			if o.Beta != 0 {
				sum += float64(o.Beta) * float64(z[i*n+j])
			}
			z[i*n+j] = float32(sum)
		}
	}
	if o.Bias != nil {
		r.AddRow(dst, o.Bias)
	}
	if t := o.Rope; t != nil {
		r.Rope(dst, t.Positions, t.InvFreq, false)
	}
	if g := o.SwiGLUGrad; g != nil {
		r.SwiGLUGrad(g.DGate, g.DUp, g.Gate, g.Up, dst)
	}
}

// Project implements tensor.Linear.
func (r Reference) Project(a *tensor.Tensor, o *tensor.Projection) {
	for _, p := range o.Products {
		r.MatMul(p.Dst, a, p.W, p.MatMul)
	}
	if o.SwiGLU != nil {
		r.SwiGLU(o.SwiGLU, o.Products[0].Dst, o.Products[1].Dst)
	}
}

// ProjectGrad implements tensor.Linear.
func (r Reference) ProjectGrad(dst *tensor.Tensor, of []tensor.GradProduct) {
	tensor.ProjectGradByMatMul(r, dst, of)
}

// LowRankGrad implements tensor.Linear.
func (r Reference) LowRankGrad(du, dv, dy, u, v *tensor.Tensor, scale float32) {
	r.MatMul(dv, dy, u, tensor.MatMul{TransA: true, Alpha: scale, Beta: 1})
	r.MatMul(du, dy, v, tensor.MatMul{Alpha: scale})
}

// lowRank returns element (i, j) of U·op(V).
func lowRank(l *tensor.LowRank, i, j int) (sum float64) {
	r := l.U.Cols()
	for p := range r {
		at := p*l.V.Cols() + j
		if l.TransV {
			at = j*r + p
		}
		sum += float64(fl(l.U)[i*r+p]) * float64(fl(l.V)[at])
	}
	return sum
}

// Add implements tensor.Linear.
func (Reference) Add(dst, a, b *tensor.Tensor, scale float32) {
	same(dst.Len(), a.Len())
	same(dst.Len(), b.Len())
	for i := range fl(dst) {
		fl(dst)[i] = fl(a)[i] + scale*fl(b)[i]
	}
}

// AddRow implements tensor.Linear.
func (Reference) AddRow(dst, r *tensor.Tensor) {
	same(dst.Cols(), r.Len())
	for i := range fl(dst) {
		fl(dst)[i] += fl(r)[i%r.Len()]
	}
}

// ColSum implements tensor.Linear.
func (Reference) ColSum(dst, x *tensor.Tensor) {
	for i, v := range fl(x) {
		fl(dst)[i%dst.Len()] += v
	}
}

// Dropout implements tensor.Linear.
func (Reference) Dropout(dst, x *tensor.Tensor, p float32, seed uint64) {
	for i, v := range fl(x) {
		z := (seed + uint64(i)) * 0x9e3779b97f4a7c15
		z = (z ^ z>>31) * 0xbf58476d1ce4e5b9
		if float32(z>>40)/(1<<24) < p {
			v = 0
		}
		fl(dst)[i] = v / (1 - p)
	}
}

// ScaleCols implements tensor.Linear.
func (Reference) ScaleCols(dst, x, s *tensor.Tensor) {
	for i, v := range fl(x) {
		fl(dst)[i] = v * fl(s)[i%s.Len()]
	}
}

// ScaleRows implements tensor.Linear.
func (Reference) ScaleRows(dst, x, s *tensor.Tensor) {
	for i, v := range fl(x) {
		fl(dst)[i] = v * fl(s)[i/x.Cols()]
	}
}

// ScaleColsGrad implements tensor.Linear.
func (Reference) ScaleColsGrad(dx, dm, dy, y, s, m *tensor.Tensor) {
	n := s.Len()
	for i, v := range fl(dy) {
		if dot := v * fl(y)[i]; dot != 0 || fl(m)[i%n] != 0 {
			fl(dm)[i%n] += dot / fl(m)[i%n]
		}
		fl(dx)[i] = v * fl(s)[i%n]
	}
}

// DoRAGrad implements tensor.Linear.
func (r Reference) DoRAGrad(g tensor.DoRAGrad) {
	r.ScaleColsGrad(g.DZ, g.DM, g.DY, g.Y, g.Ratio, g.M)
	r.LowRankGrad(g.DU, g.DV, g.DZ, g.U, g.V, g.Scale)
}

// RowSquares implements tensor.Linear.
func (r Reference) RowSquares(dst, w *tensor.Tensor) {
	n := w.Cols()
	for j := range fl(dst) {
		sum := 0.0
		for _, v := range fl(w)[j*n : (j+1)*n] {
			sum += float64(v) * float64(v)
		}
		fl(dst)[j] = float32(sum)
	}
}

// DoRANorm implements tensor.Linear; it forms W + scale·B·A.
func (Reference) DoRANorm(ratio, c, w2, w, a, b, m *tensor.Tensor, scale float32) {
	in := w.Cols()
	low := tensor.LowRank{U: b, V: a}
	for j := range fl(c) {
		sum := 0.0
		for i := range in {
			v := float64(fl(w)[j*in+i]) + float64(scale)*lowRank(&low, j, i)
			sum += v * v
		}
		fl(c)[j] = float32(math.Sqrt(sum))
		fl(ratio)[j] = fl(m)[j] / fl(c)[j]
	}
}

// Dequantize implements tensor.Linear.
func (Reference) Dequantize(dst, src *tensor.Tensor) {
	same(dst.Len(), src.Len())
	copy(fl(dst), fl(src))
}

// SumSquares implements tensor.Optimizer.
func (Reference) SumSquares(dst *tensor.Tensor, xs ...*tensor.Tensor) {
	sum := float64(fl(dst)[0])
	for _, x := range xs {
		for _, v := range fl(x) {
			sum += float64(v) * float64(v)
		}
	}
	fl(dst)[0] = float32(sum)
}

// AdamW implements tensor.Optimizer.
func (Reference) AdamW(ps []tensor.AdamWParam, o tensor.AdamW) {
	for i := range ps {
		adamW(fl(ps[i].W), fl(ps[i].G), fl(ps[i].M), fl(ps[i].V), o.For(&ps[i]))
	}
}

func adamW(w, g, m, v []float32, o tensor.AdamW) {
	c1, c2 := 1-math.Pow(o.Beta1, float64(o.Step)), 1-math.Pow(o.Beta2, float64(o.Step))
	for i := range w {
		x, d := float64(w[i])*(1-o.LR*o.WeightDecay), float64(g[i])*o.GradScale
		mi := float64(m[i]) + (d-float64(m[i]))*(1-o.Beta1)
		vi := o.Beta2*float64(v[i]) + (1-o.Beta2)*d*d
		m[i], v[i] = float32(mi), float32(vi)
		w[i] = float32(x - o.LR/c1*mi/(math.Sqrt(vi)/math.Sqrt(c2)+o.Eps))
	}
}

// The tests of models and stages keep no states of 8 bits: the reference for
// them is that of package tensortest.

// UploadBytes panics.
func (Reference) UploadBytes(*tensor.Tensor, []byte) { panic("modeltest: no bytes") }

// DownloadBytes panics.
func (Reference) DownloadBytes([]byte, *tensor.Tensor) { panic("modeltest: no bytes") }

// AdamW8bit panics.
func (Reference) AdamW8bit([]tensor.AdamWParam, tensor.AdamW) {
	panic("modeltest: no 8-bit states")
}
