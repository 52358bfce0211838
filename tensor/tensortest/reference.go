package tensortest

import (
	"math"

	"pipe/tensor"
)

// Plain float64 versions of the operations: the formulas of package tensor,
// written to be read.

// refMatMul returns alpha*op(a)*op(b) + beta*c for op(a) [m,k], op(b) [k,n].
func refMatMul(c, a, b []float64, m, n, k int, o tensor.MatMul) []float64 {
	out := make([]float64, m*n)
	for i := range m {
		for j := range n {
			var s float64
			for p := range k {
				x, y := i*k+p, p*n+j
				if o.TransA {
					x = p*m + i
				}
				if o.TransB {
					y = j*k + p
				}
				s += a[x] * b[y]
			}
			out[i*n+j] = float64(o.Alpha) * s
			if o.Beta != 0 {
				out[i*n+j] += float64(o.Beta) * c[i*n+j]
			}
		}
	}
	return out
}

func refRMSNorm(x, w []float64, eps float64) (y, rstd []float64) {
	n := len(w)
	for t := 0; t < len(x); t += n {
		var s float64
		for _, v := range x[t : t+n] {
			s += v * v
		}
		r := 1 / math.Sqrt(s/float64(n)+eps)
		rstd = append(rstd, r)
		for j, v := range x[t : t+n] {
			y = append(y, v*r*w[j])
		}
	}
	return y, rstd
}

func refRope(x []float64, pos []int32, inv []float64, width int, sign float64) []float64 {
	y, half := make([]float64, len(x)), len(inv)
	for t, p := range pos {
		for h := t * width; h < (t+1)*width; h += 2 * half {
			for i, f := range inv {
				// The product is float32 in every implementation.
				s, c := math.Sincos(float64(float32(p) * float32(f)))
				a, b := x[h+i], x[h+half+i]
				y[h+i], y[h+half+i] = a*c-sign*b*s, b*c+sign*a*s
			}
		}
	}
	return y
}

func refSwiGLU(g, u []float64) []float64 {
	y := make([]float64, len(g))
	for i := range y {
		y[i] = g[i] / (1 + math.Exp(-g[i])) * u[i]
	}
	return y
}

// refAttention also returns the probabilities' log-sum-exp.
func refAttention(q, k, v []float64, o tensor.Attention) (out, lse []float64) {
	d := o.HeadDim
	out, lse = make([]float64, len(q)), make([]float64, len(q)/d)
	eachQuery(o, func(s int, t, head, keys, qAt int, keyAt func(j int) int) {
		p, l := refProbs(q[qAt:qAt+d], k, keys, keyAt)
		lse[t*o.Heads+head] = l
		for j, p := range p {
			for i := range d {
				out[qAt+i] += p * v[keyAt(j)+i]
			}
		}
	})
	return out, lse
}

// eachQuery calls f with the number of keys a query sees and where its own
// and its keys' elements begin.
func eachQuery(o tensor.Attention, f func(s int, t, head, keys, qAt int, keyAt func(j int) int)) {
	d := o.HeadDim
	for s := range o.K {
		n := int(o.Q[s+1] - o.Q[s])
		for i := range n {
			for head := range o.Heads {
				t := int(o.Q[s]) + i
				kv := head / (o.Heads / o.KVHeads)
				f(s, t, head, int(o.KLen[s])-n+i+1, (t*o.Heads+head)*d, func(j int) int {
					return ((int(o.K[s])+j)*o.KVHeads + kv) * d
				})
			}
		}
	}
}

func refProbs(q, k []float64, keys int, keyAt func(int) int) (p []float64, lse float64) {
	d := len(q)
	p = make([]float64, keys)
	most := math.Inf(-1)
	for j := range p {
		for i := range d {
			p[j] += q[i] * k[keyAt(j)+i] / math.Sqrt(float64(d))
		}
		most = math.Max(most, p[j])
	}
	var sum float64
	for j := range p {
		p[j] = math.Exp(p[j] - most)
		sum += p[j]
	}
	for j := range p {
		p[j] /= sum
	}
	return p, most + math.Log(sum)
}

// refAttentionGrad is checked against finite differences of refAttention.
func refAttentionGrad(q, k, v, dy []float64, o tensor.Attention) (dq, dk, dv []float64) {
	d := o.HeadDim
	dq, dk, dv = make([]float64, len(q)), make([]float64, len(k)), make([]float64, len(v))
	eachQuery(o, func(s int, t, head, keys, qAt int, keyAt func(j int) int) {
		p, _ := refProbs(q[qAt:qAt+d], k, keys, keyAt)
		dp, mean := make([]float64, keys), 0.0
		for j := range p {
			for i := range d {
				dp[j] += dy[qAt+i] * v[keyAt(j)+i]
				dv[keyAt(j)+i] += p[j] * dy[qAt+i]
			}
			mean += p[j] * dp[j]
		}
		for j := range p {
			ds := p[j] * (dp[j] - mean) / math.Sqrt(float64(d))
			for i := range d {
				dq[qAt+i] += ds * k[keyAt(j)+i]
				dk[keyAt(j)+i] += ds * q[qAt+i]
			}
		}
	})
	return dq, dk, dv
}

// refLogProb is for hidden rows x [n,h] and head weights w [words,h].
func refLogProb(x, w []float64, target []int32, h int) (logp, lse []float64, argmax []int32) {
	words := len(w) / h
	for t, goal := range target {
		z := make([]float64, words)
		best := 0
		for v := range z {
			for j := range h {
				z[v] += x[t*h+j] * w[v*h+j]
			}
			if z[v] > z[best] {
				best = v
			}
		}
		var sum float64
		for _, s := range z {
			sum += math.Exp(s - z[best])
		}
		l := z[best] + math.Log(sum)
		logp, lse, argmax = append(logp, z[goal]-l), append(lse, l), append(argmax, int32(best))
	}
	return logp, lse, argmax
}

// numericGrad returns the gradient of f at x by central differences.
func numericGrad(x []float64, f func() float64) []float64 {
	const h = 1e-5
	g := make([]float64, len(x))
	for i, v := range x {
		x[i] = v + h
		up := f()
		x[i] = v - h
		g[i] = (up - f()) / (2 * h)
		x[i] = v
	}
	return g
}

func inner(a, b []float64) (s float64) {
	for i := range a {
		s += a[i] * b[i]
	}
	return s
}

// refLogProbGrad is checked against finite differences of refLogProb.
func refLogProbGrad(x, w, dy []float64, target []int32, h int) (dx, dw []float64) {
	dx, dw = make([]float64, len(x)), make([]float64, len(w))
	_, lse, _ := refLogProb(x, w, target, h)
	for t := range target {
		for v := range len(w) / h {
			x, w := x[t*h:][:h], w[v*h:][:h]
			dz := -math.Exp(inner(x, w) - lse[t])
			if int(target[t]) == v {
				dz++
			}
			for j := range h {
				dx[t*h+j] += dy[t] * dz * w[j]
				dw[v*h+j] += dy[t] * dz * x[j]
			}
		}
	}
	return dx, dw
}

// Attention is the reference of [tensor.Transformer]'s Attention.
func Attention(q, k, v []float64, o tensor.Attention) (out, lse []float64) {
	return refAttention(q, k, v, o)
}

// AttentionGrad is the reference of [tensor.Transformer]'s AttentionGrad.
func AttentionGrad(q, k, v, dy []float64, o tensor.Attention) (dq, dk, dv []float64) {
	return refAttentionGrad(q, k, v, dy, o)
}
