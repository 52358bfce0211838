//go:build cuda

package gpu

import (
	"pipe/tensor"
)

var (
	kLogProb         = newKernel("logprob", "logprob")
	kLogProbFloat    = newKernel("logprob", "logprob_float")
	kLogProbHalf     = newKernel("logprob", "logprob_half")
	kLogitsGradFloat = newKernel("logprob", "logits_grad_float")
	kLogitsGradHalf  = newKernel("logprob", "logits_grad_half")
)

const logitThreads = 256

// logitBytes is what logits may take: as many rows as fit, of all words, exist at
// a time. Tests change it.
var logitBytes = 512 << 20

// logitRows returns how many of n rows have logits at a time, and how far apart
// their rows are: a multiple of 16 bytes, also as bfloat16.
func logitRows(n, words int) (rows, ld int) {
	ld = (words + 7) &^ 7
	most := max(logitBytes/(4*max(ld, 1)), 16)
	if most >= 128 {
		most &^= 127
	}
	if n <= most {
		return n, ld
	}
	chunks := (n + most - 1) / most
	rows = (n + chunks - 1) / chunks // about equal parts
	return min((rows+127)&^127, most), ld
}

// A head is what forms logits.
type head struct {
	x, target uint64
	w         operand
	n         int
	uniform   bool
}

// head checks the operands that LogProb and its gradient have in common.
func (b *Backend) head(op string, x, w, target *tensor.Tensor) head {
	h := head{x: input(op, x), w: b.operand(op, w)}
	h.w.eight = false
	var host []int32
	h.target, host = ints(op, target)
	h.n = len(host)
	checkMatrix(op, x, h.n, h.w.cols)
	return h
}

// logits returns where the logits of the rows t0..t1 are.
func (b *Backend) logits(h *head, t0, t1 int) uint64 {
	rows, ld := logitRows(h.n, h.w.rows)
	z := b.scratch(scratchLogits, 4*rows*ld)
	b.multiply(&product{m: t1 - t0, n: h.w.rows, k: h.w.cols, c: z, ldc: ld,
		a: h.x + uint64(4*t0*h.w.cols), lda: h.w.cols, w: h.w, transW: true, alpha: 1, uniform: h.uniform})
	return z
}

// fromLogits sets the rows t0..t1 of dx for gradients z of logits.
func (b *Backend) fromLogits(dx uint64, h *head, z uint64, half bool, t0, t1 int) {
	_, ld := logitRows(h.n, h.w.rows)
	if half {
		ld *= 2
	}
	b.multiply(&product{m: t1 - t0, n: h.w.cols, k: h.w.rows, c: dx + uint64(4*t0*h.w.cols), ldc: h.w.cols,
		a: z, lda: ld, aHalf: half, w: h.w, alpha: 1, uniform: h.uniform})
}

type logProbArgs struct {
	logits, logp, lse, argmax, target uint64
	words, ld                         int32
}

// LogProb implements [tensor.Transformer].
func (b *Backend) LogProb(logp, lse, argmax, dx, x, w, target *tensor.Tensor) {
	const op = "log prob"
	lp, ls, h := output(op, logp), output(op, lse), b.head(op, x, w, target)
	checkLen(op, logp.Len(), h.n)
	checkLen(op, lse.Len(), h.n)
	var best uint64
	var mirror []int32
	if argmax != nil {
		best, mirror = ints(op, argmax)
		writable(op, mem(op, argmax))
		checkLen(op, argmax.Len(), h.n)
	}
	var d uint64
	kernel := kLogProb
	if dx != nil {
		d = output(op, dx)
		sameShape(op, dx, x)
		h.uniform = true
		if kernel = kLogProbFloat; h.w.half {
			kernel = kLogProbHalf
		}
	}
	if b.err != nil || !b.checkIndex(op, target, h.w.rows) {
		return
	}
	rows, ld := logitRows(h.n, h.w.rows)
	for t0 := 0; t0 < h.n; t0 += rows {
		t1, at := min(h.n, t0+rows), uint64(4*t0)
		a := logProbArgs{logits: b.logits(&h, t0, t1), logp: lp + at, lse: ls + at, target: h.target + at, words: int32(h.w.rows), ld: int32(ld)}
		if best != 0 {
			a.argmax = best + at
		}
		launch(b, kernel, dim{x: t1 - t0}, logitThreads, 0, &a)
		if d != 0 {
			b.fromLogits(d, &h, a.logits, h.w.half, t0, t1)
		}
	}
	b.wrote(mirror)
}

type logitsGradArgs struct {
	logits, lse, dy, target uint64
	words, ld               int32
}

// LogProbGrad implements [tensor.Transformer]: dz = dy·(1[v=target] - exp(z-lse)).
func (b *Backend) LogProbGrad(dx, dw, x, w, target, lse, dy *tensor.Tensor) {
	const op = "log prob gradient"
	d, h, ls, g := output(op, dx), b.head(op, x, w, target), input(op, lse), input(op, dy)
	sameShape(op, dx, x)
	checkLen(op, lse.Len(), h.n)
	checkLen(op, dy.Len(), h.n)
	var gw uint64
	if dw != nil {
		gw = output(op, dw)
		checkMatrix(op, dw, h.w.rows, h.w.cols)
	}
	if b.err != nil || !b.checkIndex(op, target, h.w.rows) {
		return
	}
	kernel, half := kLogitsGradFloat, h.w.half && dw == nil // the product for dw is in float32
	if half {
		kernel = kLogitsGradHalf
	}
	rows, ld := logitRows(h.n, h.w.rows)
	for t0 := 0; t0 < h.n; t0 += rows {
		t1, at := min(h.n, t0+rows), uint64(4*t0)
		z := b.logits(&h, t0, t1)
		launch(b, kernel, dim{x: t1 - t0}, logitThreads, 0, &logitsGradArgs{logits: z, lse: ls + at, dy: g + at, target: h.target + at, words: int32(h.w.rows), ld: int32(ld)})
		b.fromLogits(d, &h, z, half, t0, t1)
		if gw != 0 {
			b.multiply(&product{m: h.w.rows, n: h.w.cols, k: t1 - t0, c: gw, ldc: h.w.cols, a: z, lda: ld, transA: true,
				w: operand{dt: tensor.F32, ptr: h.x + uint64(4*t0*h.w.cols), rows: t1 - t0, cols: h.w.cols}, alpha: 1, beta: 1})
		}
	}
}
