package main

import (
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

func TestSelfCheck(t *testing.T) {
	for what, say := range map[string]string{
		"": "", "rmsnorm": "log-probability 0", "gradient": "the gradient of model.layers.0.self_attn.", "nothing written": "log-probability 0",
		"step": "an updated parameter", "few rows": "a product of few rows",
		"repeated": "captured",
	} {
		b := cpu.New(2)
		err := selfCheck(wrong{b, what, map[tensor.Step]bool{}})
		switch {
		case say == "" && err != nil:
			t.Error(err)
		case say != "" && (err == nil || !strings.Contains(err.Error(), say)):
			t.Errorf("%s: error is %v; want one with %q", what, err, say)
		}
		b.Close()
	}
}
