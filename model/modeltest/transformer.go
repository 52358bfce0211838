package modeltest

import (
	"math"

	"pipe/tensor"
	"pipe/tensor/quant"
)

// Embed implements tensor.Transformer.
func (r Reference) Embed(dst, table, ids *tensor.Tensor) { r.GatherRows(dst, table, ids) }

// EmbedGrad implements tensor.Transformer.
func (r Reference) EmbedGrad(dtable, ids, dy *tensor.Tensor) { r.ScatterAddRows(dtable, dy, ids) }

// GatherRows implements tensor.Transformer.
func (Reference) GatherRows(dst, x, idx *tensor.Tensor) {
	n := x.Cols()
	for i, id := range in(idx) {
		copy(fl(dst)[i*n:(i+1)*n], fl(x)[int(id)*n:])
	}
}

// ScatterRows implements tensor.Transformer.
func (Reference) ScatterRows(dst, src, idx *tensor.Tensor) {
	n := src.Cols()
	for i, id := range in(idx) {
		for j, v := range fl(src)[i*n : (i+1)*n] {
			if dst.DType == tensor.BF16 {
				v = quant.FromBF16(quant.ToBF16(v))
			}
			fl(dst)[int(id)*n+j] = v
		}
	}
}

// ScatterAddRows implements tensor.Transformer.
func (Reference) ScatterAddRows(dst, src, idx *tensor.Tensor) {
	n := src.Cols()
	for i, id := range in(idx) {
		for j := range n {
			fl(dst)[int(id)*n+j] += fl(src)[i*n+j]
		}
	}
}

// RMSNorm implements tensor.Transformer.
func (Reference) RMSNorm(dst, rstd, x, w *tensor.Tensor, eps float32) {
	n := x.Cols()
	for t := range x.Rows() {
		sum := 0.0
		for _, v := range fl(x)[t*n : (t+1)*n] {
			sum += float64(v) * float64(v)
		}
		fl(rstd)[t] = float32(1 / math.Sqrt(sum/float64(n)+float64(eps)))
		for j := range n {
			fl(dst)[t*n+j] = fl(w)[j] * fl(x)[t*n+j] * fl(rstd)[t]
		}
	}
}

// AddRMSNorm implements tensor.Transformer.
func (r Reference) AddRMSNorm(dst, rstd, sum, x, y, w *tensor.Tensor, eps float32) {
	r.Add(sum, x, y, 1)
	r.RMSNorm(dst, rstd, sum, w, eps)
}

// RMSNormGrad implements tensor.Transformer.
func (Reference) RMSNormGrad(dx, dw, x, w, rstd, dy, add *tensor.Tensor) {
	n := x.Cols()
	for t := range x.Rows() {
		r, dot := float64(fl(rstd)[t]), 0.0
		for j := range n {
			g, v := float64(fl(dy)[t*n+j]), float64(fl(x)[t*n+j])
			dot += g * float64(fl(w)[j]) * v
			if dw != nil {
				fl(dw)[j] += float32(g * v * r)
			}
		}
		for j := range n {
			g, v := float64(fl(dy)[t*n+j]), float64(fl(x)[t*n+j])
			d := r*float64(fl(w)[j])*g - r*r*r*dot*v/float64(n)
			if add != nil {
				d += float64(fl(add)[t*n+j])
			}
			fl(dx)[t*n+j] = float32(d)
		}
	}
}

// Rope implements tensor.Transformer.
func (Reference) Rope(x, pos, invFreq *tensor.Tensor, inverse bool) {
	half, w := invFreq.Len(), x.Cols()
	for t := range x.Rows() {
		for h := 0; h < w; h += 2 * half {
			for i := range half {
				s, c := math.Sincos(float64(float32(in(pos)[t]) * fl(invFreq)[i]))
				if inverse {
					s = -s
				}
				p := &fl(x)[t*w+h+i]
				q := &fl(x)[t*w+h+half+i]
				a, b := float64(*p), float64(*q)
				*p, *q = float32(a*c-b*s), float32(b*c+a*s)
			}
		}
	}
}

// pairs calls visit for each query row and head with the rows it sees and
// their probabilities.
func pairs(q, k *tensor.Tensor, o tensor.Attention, visit func(t, h, kv, first int, lse float64, prob []float64)) {
	d, group := o.HeadDim, o.Heads/o.KVHeads
	for s := range o.K {
		nq := int(o.Q[s+1] - o.Q[s])
		for i := range nq {
			n := int(o.KLen[s]) - nq + i + 1
			for h := range o.Heads {
				t, kv := int(o.Q[s])+i, h/group
				prob, top := make([]float64, n), math.Inf(-1)
				for j := range prob {
					prob[j] = dot(fl(q)[(t*o.Heads+h)*d:][:d], fl(k)[((int(o.K[s])+j)*o.KVHeads+kv)*d:][:d]) / math.Sqrt(float64(d))
					top = max(top, prob[j])
				}
				sum := 0.0
				for _, z := range prob {
					sum += math.Exp(z - top)
				}
				lse := top + math.Log(sum)
				for j := range prob {
					prob[j] = math.Exp(prob[j] - lse)
				}
				visit(t, h, kv, int(o.K[s]), lse, prob)
			}
		}
	}
}

func dot(a, b []float32) (sum float64) {
	for i := range a {
		sum += float64(a[i]) * float64(b[i])
	}
	return sum
}

// Attention implements tensor.Transformer.
func (Reference) Attention(dst, lse, q, k, v *tensor.Tensor, o tensor.Attention) {
	d := o.HeadDim
	pairs(q, k, o, func(t, h, kv, first int, l float64, prob []float64) {
		fl(lse)[t*o.Heads+h] = float32(l)
		for c := range d {
			sum := 0.0
			for j, p := range prob {
				sum += p * float64(fl(v)[((first+j)*o.KVHeads+kv)*d+c])
			}
			fl(dst)[(t*o.Heads+h)*d+c] = float32(sum)
		}
	})
}

// AttentionGrad implements tensor.Transformer.
func (r Reference) AttentionGrad(dq, dk, dv, q, k, v, dst, lse, dy *tensor.Tensor, o tensor.Attention) {
	r.Zero(dq)
	r.Zero(dk)
	r.Zero(dv)
	d, scale := o.HeadDim, 1/math.Sqrt(float64(o.HeadDim))
	pairs(q, k, o, func(t, h, kv, first int, _ float64, prob []float64) {
		at := (t*o.Heads + h) * d
		g := fl(dy)[at:][:d]
		delta := dot(g, fl(dst)[at:][:d])
		for j, p := range prob {
			row := ((first+j)*o.KVHeads + kv) * d
			ds := p * (dot(g, fl(v)[row:][:d]) - delta) * scale
			for c := range d {
				fl(dv)[row+c] += float32(p * float64(g[c]))
				fl(dk)[row+c] += float32(ds * float64(fl(q)[at+c]))
				fl(dq)[at+c] += float32(ds * float64(fl(k)[row+c]))
			}
		}
	})
}

// SwiGLU implements tensor.Transformer.
func (Reference) SwiGLU(dst, gate, up *tensor.Tensor) {
	for i, g := range fl(gate) {
		fl(dst)[i] = g / (1 + float32(math.Exp(-float64(g)))) * fl(up)[i]
	}
}

// SwiGLUGrad implements tensor.Transformer.
func (Reference) SwiGLUGrad(dgate, dup, gate, up, dy *tensor.Tensor) {
	for i := range fl(dy) {
		g, u, y := float64(fl(gate)[i]), float64(fl(up)[i]), float64(fl(dy)[i])
		s := 1 / (1 + math.Exp(-g))
		fl(dgate)[i], fl(dup)[i] = float32(y*u*s*(1+g*(1-s))), float32(y*g*s)
	}
}

// logits returns z[t] and its log-sum-exp.
func logits(x, w *tensor.Tensor, t int) (z []float64, lse float64) {
	n := x.Cols()
	z = make([]float64, w.Rows())
	top, sum := math.Inf(-1), 0.0
	for j := range z {
		z[j] = dot(fl(x)[t*n:(t+1)*n], fl(w)[j*n:(j+1)*n])
		top = max(top, z[j])
	}
	for _, v := range z {
		sum += math.Exp(v - top)
	}
	return z, top + math.Log(sum)
}

// LogProb implements tensor.Transformer.
func (r Reference) LogProb(logp, lse, argmax, dx, x, w, target *tensor.Tensor) {
	if dx != nil {
		one, _ := r.Alloc(tensor.F32, x.Rows())
		for t := range fl(one) {
			fl(one)[t] = 1
		}
		r.LogProbGrad(dx, nil, x, w, target, lse, one)
	}
	for t := range x.Rows() {
		z, l := logits(x, w, t)
		fl(lse)[t], fl(logp)[t] = float32(l), float32(z[in(target)[t]]-l)
		if argmax != nil {
			best := 0
			for j := range z {
				if z[j] > z[best] {
					best = j
				}
			}
			in(argmax)[t] = int32(best)
		}
	}
}

// LogProbGrad implements tensor.Transformer.
func (r Reference) LogProbGrad(dx, dw, x, w, target, lse, dy *tensor.Tensor) {
	r.Zero(dx)
	n := x.Cols()
	for t := range x.Rows() {
		z, l := logits(x, w, t)
		for j := range z {
			g := -math.Exp(z[j] - l)
			if int32(j) == in(target)[t] {
				g++
			}
			g *= float64(fl(dy)[t])
			for c := range n {
				fl(dx)[t*n+c] += float32(g * float64(fl(w)[j*n+c]))
				if dw != nil {
					fl(dw)[j*n+c] += float32(g * float64(fl(x)[t*n+c]))
				}
			}
		}
	}
}
