package tensortest

import (
	"slices"

	"pipe/tensor"
)

// loaded is a fixture whose tensors go straight to the backend.
type loaded struct {
	*suite
	*Fixture
}

// tensor uploads a tensor as rows of its other dimensions.
func (l *loaded) tensor(name string) *tensor.Tensor {
	l.suite.Helper()
	x, shape := l.Floats(name)
	if len(shape) == 3 {
		shape = []int{shape[0], shape[1] * shape[2]}
	}
	return l.put(x, shape...)
}

// like returns a tensor of NaN with the shape of another.
func (l *loaded) like(t *tensor.Tensor) *tensor.Tensor { return l.garbage(t.Shape...) }

func (l *loaded) compare(name string, got *tensor.Tensor, tol Tolerance) {
	l.suite.Helper()
	want, _ := l.Floats(name)
	l.check(name, got, want, tol)
}

func testFixtures(s *suite) {
	l := &loaded{s, LoadFixture(s.T, Path("tensor", "tensortest", "testdata", "layers.safetensors"))}
	l.layers()
	l.attention()
	l.head()
	l.adamw()
}

func (l *loaded) layers() {
	b := l.b
	x, w, dy := l.tensor("norm.x"), l.tensor("norm.w"), l.tensor("norm.dy")
	y, dx, dw, r := l.like(x), l.like(x), l.alloc(tensor.F32, w.Len()), l.garbage(x.Rows())
	b.RMSNorm(y, r, x, w, 1e-5)
	b.RMSNormGrad(dx, dw, x, w, r, dy, nil)
	l.compare("norm.y", y, F32)
	l.compare("norm.dx", dx, F32Grad)
	l.compare("norm.dw", dw, F32Grad)

	x, dy = l.tensor("rope.x"), l.tensor("rope.dy")
	pos, inv := l.putInts(l.Ints("rope.pos")), l.tensor("rope.inv")
	b.Rope(x, pos, inv, false)
	b.Rope(dy, pos, inv, true)
	l.compare("rope.y", x, F32)
	l.compare("rope.dx", dy, F32)

	g, u, dy := l.tensor("swiglu.gate"), l.tensor("swiglu.up"), l.tensor("swiglu.dy")
	y, dg, du := l.like(g), l.like(g), l.like(g)
	b.SwiGLU(y, g, u)
	b.SwiGLUGrad(dg, du, g, u, dy)
	l.compare("swiglu.y", y, F32)
	l.compare("swiglu.dgate", dg, F32Grad)
	l.compare("swiglu.dup", du, F32Grad)
}

func (l *loaded) attention() {
	o := tensor.Attention{Heads: 6, KVHeads: 2, HeadDim: 10, Q: l.Ints("attn.Q"), K: l.Ints("attn.K"), KLen: l.Ints("attn.KLen")}
	q, k, v, dy := l.tensor("attn.q"), l.tensor("attn.k"), l.tensor("attn.v"), l.tensor("attn.dy")
	y, lse, dq, dk, dv := l.like(q), l.garbage(q.Rows(), o.Heads), l.like(q), l.like(k), l.like(v)
	l.b.Attention(y, lse, q, k, v, o)
	l.b.AttentionGrad(dq, dk, dv, q, k, v, y, lse, dy, o)
	l.compare("attn.y", y, F32)
	l.compare("attn.lse", lse, F32)
	l.compare("attn.dq", dq, F32Grad)
	l.compare("attn.dk", dk, F32Grad)
	l.compare("attn.dv", dv, F32Grad)
}

func (l *loaded) head() {
	x, w, dy, target := l.tensor("head.x"), l.tensor("head.w"), l.tensor("head.dy"), l.putInts(l.Ints("head.target"))
	logp, lse, best := l.garbage(x.Rows()), l.garbage(x.Rows()), l.alloc(tensor.I32, x.Rows())
	dx, dw := l.like(x), l.alloc(tensor.F32, w.Shape...)
	l.b.LogProb(logp, lse, best, nil, x, w, target)
	l.b.LogProbGrad(dx, dw, x, w, target, lse, dy)
	l.compare("head.y", logp, F32)
	l.compare("head.lse", lse, F32)
	l.compare("head.dx", dx, F32Grad)
	l.compare("head.dw", dw, F32Grad)
	if got, want := l.getInts(best), l.Ints("head.argmax"); For(l.b, F32) == F32 && !slices.Equal(got, want) {
		l.suite.Errorf("head.argmax: got %v; want %v", got, want)
	}
}

func (l *loaded) adamw() {
	w := l.tensor("adamw.w")
	m, v := l.alloc(tensor.F32, w.Len()), l.alloc(tensor.F32, w.Len())
	o := tensor.AdamW{LR: 0.013, Beta1: 0.9, Beta2: 0.98, Eps: 1e-6, WeightDecay: 0.07, GradScale: 1}
	for i, g := range []string{"adamw.g0", "adamw.g1", "adamw.g2", "adamw.g3"} {
		o.Step = i + 1
		l.suite.adamw(w, l.tensor(g), m, v, o)
	}
	l.compare("adamw.w4", w, F32)
	l.compare("adamw.m4", m, F32)
	l.compare("adamw.v4", v, F32)
}
