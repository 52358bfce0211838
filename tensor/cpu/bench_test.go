package cpu

import (
	"fmt"
	"strings"
	"testing"

	"pipe/tensor"
	"pipe/tensor/quant"
)

func benchBackend(b *testing.B) *Backend {
	be := New(0)
	b.Cleanup(func() { be.Close() })
	return be
}

func benchTensor(b *testing.B, be *Backend, shape ...int) *tensor.Tensor {
	t, err := be.Alloc(tensor.F32, shape...)
	if err != nil {
		b.Fatal(err)
	}
	be.Upload(t, wave(t.Len()))
	return t
}

// wave returns n numbers of mixed sign and size.
func wave(n int) []float32 {
	x := make([]float32, n)
	for i := range x {
		x[i] = (uniform(7, i) - 0.5) * 2
	}
	return x
}

func benchWeight(b *testing.B, be *Backend, dt tensor.DType, rows, cols int) *tensor.Tensor {
	data := make([]byte, dt.Bytes(rows*cols))
	quant.Quantize(data, dt, wave(rows*cols))
	t, err := be.Load(dt, data, rows, cols)
	if err != nil {
		b.Fatal(err)
	}
	return t
}

// BenchmarkMatMul runs the products of a 135M Llama: forward (NT), gradient
// of the input (NN) and of the weight (TN).
func BenchmarkMatMul(b *testing.B) {
	for _, z := range [][3]int{{512, 1536, 576}, {512, 576, 1536}, {512, 49152, 576}, {8, 1536, 576}} {
		m, n, k := z[0], z[1], z[2]
		for _, kind := range []string{"NT", "NN", "TN", "NT-f32-weight", "NT-bf16-weight", "NT-q4_1-weight", "NT-half", "NN-half", "NT-q4_1-half"} {
			if n > 10000 && kind != "NT" && !strings.HasPrefix(kind, "NT-q4_1") {
				continue
			}
			b.Run(fmt.Sprintf("%dx%dx%d/%s", m, n, k, kind), func(b *testing.B) {
				be := benchBackend(b)
				o := tensor.MatMul{TransB: !strings.HasPrefix(kind, "NN") && kind != "TN", TransA: kind == "TN", Alpha: 1}
				as, ws := []int{m, k}, []int{n, k}
				if o.TransA {
					as = []int{k, m}
				}
				if !o.TransB {
					ws = []int{k, n}
				}
				c, a := benchTensor(b, be, m, n), benchTensor(b, be, as...)
				var w *tensor.Tensor
				switch kind {
				case "NT-f32-weight":
					w = benchWeight(b, be, tensor.F32, n, k)
				case "NT-bf16-weight":
					w = benchWeight(b, be, tensor.BF16, n, k)
				case "NT-q4_1-weight", "NT-q4_1-half":
					w = benchWeight(b, be, tensor.Q4_1, n, k)
				case "NT-half":
					w = benchWeight(b, be, tensor.BF16, n, k)
				case "NN-half":
					w = benchWeight(b, be, tensor.BF16, k, n)
				default:
					w = benchTensor(b, be, ws...)
				}
				if strings.HasSuffix(kind, "half") {
					be.Precision(w, tensor.BF16)
				}
				for b.Loop() {
					be.MatMul(c, a, w, o)
				}
				b.ReportMetric(2*float64(m)*float64(n)*float64(k)*float64(b.N)/b.Elapsed().Seconds()/1e9, "GFLOP/s")
			})
		}
	}
}

// BenchmarkDecode multiplies one row with weights too large for the caches.
func BenchmarkDecode(b *testing.B) {
	const in = 576
	for _, dt := range []tensor.DType{tensor.F32, tensor.BF16, tensor.F16, tensor.Q8_0, tensor.Q4_0, tensor.Q4_1, tensor.NF4} {
		b.Run(dt.String(), func(b *testing.B) {
			be := benchBackend(b)
			const out = 49152 * 2
			w, x, y := benchWeight(b, be, dt, out, in), benchTensor(b, be, 1, in), benchTensor(b, be, 1, out)
			be.MatMul(y, x, w, tensor.MatMul{TransB: true, Alpha: 1}) // arranges the weight
			for b.Loop() {
				be.MatMul(y, x, w, tensor.MatMul{TransB: true, Alpha: 1})
			}
			b.ReportMetric(float64(dt.Bytes(out*in))*float64(b.N)/b.Elapsed().Seconds()/1e9, "GB/s")
		})
	}
}

// BenchmarkFew multiplies 2 to 16 rows with weights too large for the caches.
func BenchmarkFew(b *testing.B) {
	const in, out = 576, 49152
	for _, dt := range []tensor.DType{tensor.Q4_0, tensor.Q8_0, tensor.BF16} {
		for _, precision := range []tensor.DType{tensor.F32, tensor.BF16} {
			for _, m := range []int{2, 4, 8, 16} {
				b.Run(fmt.Sprintf("%s/%s/%d", dt, precision, m), func(b *testing.B) {
					be := benchBackend(b)
					w, x, y := benchWeight(b, be, dt, out, in), benchTensor(b, be, m, in), benchTensor(b, be, m, out)
					be.Precision(w, precision)
					be.MatMul(y, x, w, tensor.MatMul{TransB: true, Alpha: 1}) // arranges the weight
					for b.Loop() {
						be.MatMul(y, x, w, tensor.MatMul{TransB: true, Alpha: 1})
					}
					b.ReportMetric(2*float64(m)*in*out*float64(b.N)/b.Elapsed().Seconds()/1e9, "GFLOP/s")
				})
			}
		}
	}
}

func BenchmarkAttention(b *testing.B) {
	const tokens, heads, kvHeads, d = 512, 9, 3, 64
	be := benchBackend(b)
	q, k, v := benchTensor(b, be, tokens, heads*d), benchTensor(b, be, tokens, kvHeads*d), benchTensor(b, be, tokens, kvHeads*d)
	y, lse := benchTensor(b, be, tokens, heads*d), benchTensor(b, be, tokens, heads)
	dq, dk, dv := benchTensor(b, be, tokens, heads*d), benchTensor(b, be, tokens, kvHeads*d), benchTensor(b, be, tokens, kvHeads*d)
	for _, lengths := range [][]int32{{tokens}, {256, 256}, {233, 170, 109}} {
		o := tensor.Attention{Heads: heads, KVHeads: kvHeads, HeadDim: d, Q: []int32{0}, KLen: lengths}
		product := 0.0 // of scores: half of the pairs of a document
		for _, n := range lengths {
			last := o.Q[len(o.Q)-1]
			o.K, o.Q = append(o.K, last), append(o.Q, last+n)
			product += float64(n) * float64(n+1) * heads * d
		}
		for _, o.Precision = range []tensor.DType{tensor.F32, tensor.BF16} {
			name := fmt.Sprintf("/%s/%d", o.Precision, len(lengths))
			b.Run("forward"+name, func(b *testing.B) {
				for b.Loop() {
					be.Attention(y, lse, q, k, v, o)
				}
				b.ReportMetric(2*product*float64(b.N)/b.Elapsed().Seconds()/1e9, "GFLOP/s")
			})
			b.Run("backward"+name, func(b *testing.B) {
				for b.Loop() {
					be.AttentionGrad(dq, dk, dv, q, k, v, y, lse, y, o)
				}
				b.ReportMetric(5*product*float64(b.N)/b.Elapsed().Seconds()/1e9, "GFLOP/s")
			})
		}
	}
	b.Run("decode", func(b *testing.B) {
		o := tensor.Attention{Heads: heads, KVHeads: kvHeads, HeadDim: d, Q: []int32{0, 1}, K: []int32{0}, KLen: []int32{tokens}}
		q, y, lse := be.View(q, 0, 1, heads*d), be.View(y, 0, 1, heads*d), be.View(lse, 0, 1, heads)
		for b.Loop() {
			be.Attention(y, lse, q, k, v, o)
		}
		b.ReportMetric(2*4*tokens*kvHeads*d*float64(b.N)/b.Elapsed().Seconds()/1e9, "GB/s")
	})
}

// BenchmarkCache is the attention of a step of 16 sequences through 30 layers,
// whose keys and values are too many for the caches.
func BenchmarkCache(b *testing.B) {
	const sequences, length, layers, heads, kvHeads, d = 16, 150, 30, 9, 3, 64
	be := benchBackend(b)
	o := tensor.Attention{Heads: heads, KVHeads: kvHeads, HeadDim: d, Q: []int32{0}}
	for s := range int32(sequences) {
		o.Q, o.K, o.KLen = append(o.Q, s+1), append(o.K, s*length), append(o.KLen, length)
	}
	q, y, lse := benchTensor(b, be, sequences, heads*d), benchTensor(b, be, sequences, heads*d), benchTensor(b, be, sequences, heads)
	for _, dt := range []tensor.DType{tensor.F32, tensor.BF16} {
		b.Run(dt.String(), func(b *testing.B) {
			var k, v [layers]*tensor.Tensor
			for i := range layers {
				k[i], _ = be.Alloc(dt, sequences*length, kvHeads*d)
				v[i], _ = be.Alloc(dt, sequences*length, kvHeads*d)
				be.Zero(k[i])
				be.Zero(v[i])
			}
			for b.Loop() {
				for i := range layers {
					be.Attention(y, lse, q, k[i], v[i], o)
				}
			}
			b.ReportMetric(float64(2*layers*sequences*length*kvHeads*d*dt.Bytes(1))*float64(b.N)/b.Elapsed().Seconds()/1e9, "GB/s")
		})
	}
}

func BenchmarkElementwise(b *testing.B) {
	const n = 512 * 1536
	be := benchBackend(b)
	x, y, z := benchTensor(b, be, 512, 1536), benchTensor(b, be, 512, 1536), benchTensor(b, be, 512, 1536)
	w, r := benchTensor(b, be, 1536), benchTensor(b, be, 512)
	codes, _ := be.Alloc(tensor.U8, 512, 1536)
	most, _ := be.Alloc(tensor.F32, tensor.AdamWBlocks(n))
	for _, c := range []struct {
		name   string
		arrays float64 // read and written
		run    func()
	}{
		{"add", 3, func() { be.Add(z, x, y, 2) }},
		{"swiglu", 3, func() { be.SwiGLU(z, x, y) }},
		{"rmsnorm", 2, func() { be.RMSNorm(z, r, x, w, 1e-5) }},
		{"adamw", 7, func() {
			be.AdamW([]tensor.AdamWParam{{W: z, G: x, M: y, V: y}}, tensor.AdamW{Step: 1, Beta1: 0.9, Beta2: 0.99, Eps: 1})
		}},
		{"adamw8bit", 4, func() {
			be.AdamW8bit([]tensor.AdamWParam{{W: z, G: x, M: codes, V: codes, MMax: most, VMax: most}}, tensor.AdamW{Step: 1, Beta1: 0.9, Beta2: 0.99, Eps: 1})
		}},
	} {
		b.Run(c.name, func(b *testing.B) {
			for b.Loop() {
				c.run()
			}
			b.ReportMetric(c.arrays*4*n*float64(b.N)/b.Elapsed().Seconds()/1e9, "GB/s")
		})
	}
}

func BenchmarkLogProb(b *testing.B) {
	const n, words, h = 256, 49152, 576
	be := benchBackend(b)
	x, w, lp, ls := benchTensor(b, be, n, h), benchWeight(b, be, tensor.Q8_0, words, h), benchTensor(b, be, n), benchTensor(b, be, n)
	target, _ := be.Alloc(tensor.I32, n)
	for b.Loop() {
		be.LogProb(lp, ls, nil, nil, x, w, target)
	}
	b.ReportMetric(2*n*words*h*float64(b.N)/b.Elapsed().Seconds()/1e9, "GFLOP/s")
}
