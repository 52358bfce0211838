package main

import (
	"cmp"
	"slices"
	"strings"
	"testing"

	"pipe/tensor"
	"pipe/tensor/cpu"
)

// wrong computes one thing wrongly.
type wrong struct {
	tensor.Backend
	what string
	seen map[tensor.Step]bool
}

func (w wrong) Repeat(s tensor.Step, o tensor.Attention, f func()) {
	if w.what != "repeated" || !w.seen[s] {
		f()
	}
	w.seen[s] = true
}

func (w wrong) RMSNorm(dst, rstd, x, g *tensor.Tensor, eps float32) {
	if w.what == "rmsnorm" {
		eps += 0.05
	}
	w.Backend.RMSNorm(dst, rstd, x, g, eps)
}

func (w wrong) AttentionGrad(dq, dk, dv, q, k, v, dst, lse, dy *tensor.Tensor, o tensor.Attention) {
	w.Backend.AttentionGrad(dq, dk, dv, q, k, v, dst, lse, dy, o)
	if w.what == "gradient" {
		w.Backend.Add(dk, dk, dk, 0.5)
	}
}

func (w wrong) Dequantize(dst, src *tensor.Tensor) {
	w.Backend.Dequantize(dst, src)
	if w.what == "nothing written" {
		w.Backend.Zero(dst)
	}
}

func (w wrong) AdamW(ps []tensor.AdamWParam, o tensor.AdamW) {
	if w.what == "step" {
		o.LR *= 3
	}
	w.Backend.AdamW(ps, o)
}

func (w wrong) MatMul(dst, a, b *tensor.Tensor, o tensor.MatMul) {
	w.Backend.MatMul(dst, a, b, o)
	if w.what == "few rows" && dst.Rows() == 3 {
		w.Backend.Zero(w.Backend.View(dst, dst.Cols(), dst.Cols()))
	}
}

func (w wrong) Load(dt tensor.DType, data []byte, shape ...int) (*tensor.Tensor, error) {
	if w.what == "scale of blocks" && dt == tensor.Q4_1 {
		data = slices.Clone(data)
		for i := 0; i < len(data); i += 20 { // the minimum of each block
			data[i+3] ^= 0x80
		}
	}
	return w.Backend.Load(dt, data, shape...)
}

func (w wrong) ExpertMatMul(dst, a, m *tensor.Tensor, r *tensor.Routing, o tensor.MatMul) {
	w.Backend.ExpertMatMul(dst, a, m, r, o)
	if w.what == "an expert's row" {
		w.Backend.Zero(w.Backend.View(dst, dst.Len()-dst.Cols(), dst.Cols()))
	}
}

func (w wrong) RouteGrad(dlogits, dgates *tensor.Tensor, r *tensor.Routing) {
	w.Backend.RouteGrad(dlogits, dgates, r)
	if w.what == "routes" {
		w.Backend.Add(dlogits, dlogits, dlogits, -0.1)
	}
}

// sampled finds the largest logits, or the ones behind them.
type sampled struct{ wrong }

func (s sampled) Penalize(_, _, _ *tensor.Tensor)                    {}
func (s sampled) Weigh(_, _, _, _, _ *tensor.Tensor, _, _ []float64) {}

func (s sampled) Largest(ids, z, logits *tensor.Tensor) {
	x := make([]float32, logits.Len())
	s.Download(x, logits)
	k, n := ids.Cols(), logits.Cols()
	var at []int32
	var most []float32
	for row := range logits.Rows() {
		order := make([]int32, n)
		for i := range order {
			order[i] = int32(i)
		}
		slices.SortFunc(order, func(i, j int32) int { return cmp.Compare(x[row*n+int(j)], x[row*n+int(i)]) })
		if s.what == "largest" {
			order = order[1:]
		}
		for _, i := range order[:k] {
			at, most = append(at, i), append(most, x[row*n+int(i)])
		}
	}
	s.UploadInts(ids, at)
	s.Upload(z, most)
}

func TestSelfCheck(t *testing.T) {
	for what, say := range map[string]string{
		"": "", "rmsnorm": "log-probability 0", "gradient": "the gradient of model.layers.0.self_attn.", "nothing written": "log-probability 0",
		"step": "an updated parameter", "few rows": "a product of few rows",
		"repeated": "captured", "scale of blocks": "with a weight in q4_1", "an expert's row": "of 3 rows' experts",
		"routes": "the gradient of the logits of 3 rows' experts", "largest": "the largest logits",
	} {
		b := cpu.New(2)
		err := selfCheck(sampled{wrong{b, what, map[tensor.Step]bool{}}})
		switch {
		case say == "" && err != nil:
			t.Error(err)
		case say != "" && (err == nil || !strings.Contains(err.Error(), say)):
			t.Errorf("%s: error is %v; want one with %q", what, err, say)
		}
		b.Close()
	}
}
