package tensor

// A Backend owns the memory of one device and runs operations on it.
//
// Operations are queued: a call may return before the work is done, and says
// nothing of failure. The first failure sticks, turns every later operation
// into a no-op, and is returned by Sync. A caller therefore checks one error a
// training step, not one a kernel.
//
// A shape or dtype mismatch is a bug in the caller, not a condition to
// handle: operations panic on it before anything is queued.
//
// Results do not depend on the number of threads. A Backend is used by one
// goroutine at a time.
//
// Sequences that are decoded together do not change one another: of at most
// [DecodeRows] rows, or as many as [Together] says, each row of the result of a
// forward operation has the bits that it would have alone. MatMul promises this for frozen weights and
// TransB, Attention for segments of one query, wherever their keys lie.
type Backend interface {
	Memory
	Linear
	Transformer
	Experts
	Optimizer

	// Name identifies the numerics, such as "cpu" or "cuda:sm_90:132:2". Two
	// backends that may round differently have different names: the name is
	// part of the cache key of every stage that computes.
	Name() string

	// Sync waits for the queued work and returns its first failure.
	Sync() error

	// Close frees the device. Tensors of this backend are dead after it.
	Close() error
}

// HalfActivations is a backend that takes activations of BF16 as well as of F32: what
// a product makes and reads (a of MatMul and Project, also with TransA, b of MatMul
// with TransA, their Dst with Beta 0, dy of LowRankGrad, DZ, DY and Y of DoRAGrad, and
// the tensors of SwiGLUGrad), dst of RMSNorm, dst and y of AddRMSNorm, dst, x, gate,
// up and gradients of Rope, Dropout, SwiGLU and SwiGLUGrad, dx, dy and y of
// ScaleColsGrad, dst and x of ScaleRows, dst, a and b of Add, x of AddRow and ColSum,
// sources of ScatterRows to BF16, GatherRows, and everything but lse of Attention and
// AttentionGrad. Tensors of one operation that are named here together are of one
// type, but those of Add, of AddRMSNorm, of ScaleColsGrad and of DoRAGrad may differ.
// Numbers are rounded when they are stored, to nearest, ties to even; what is computed
// is as with F32.
type HalfActivations interface {
	// HalfActivations reports that it does.
	HalfActivations() bool
}

// Halves reports whether b takes activations of BF16: see [HalfActivations].
func Halves(b Backend) bool {
	h, ok := b.(HalfActivations)
	return ok && h.HalfActivations()
}

// DecodeRows is the most rows of which each is computed as if it were alone, by
// any backend.
const DecodeRows = 16

// Together is a backend that computes more than [DecodeRows] rows so.
type Together interface {
	// DecodeRows returns how many.
	DecodeRows() int
}

// RowsTogether returns the most rows of which b computes each as if it were alone.
func RowsTogether(b Backend) int {
	if t, ok := b.(Together); ok {
		return t.DecodeRows()
	}
	return DecodeRows
}

// PromptReader is a backend on which many rows cost little more than few, so that a
// pass reads several prompts. What else is in a pass changes no bit: products with Uniform
// give each row, and Attention each segment, the bits that it has alone, and segments
// may share keys.
type PromptReader interface {
	// PromptRows returns how many rows a pass has at most.
	PromptRows() int
}

// PromptRows returns how many rows a pass of prompts has at most, on b; 0: it reads one
// piece of one prompt.
func PromptRows(b Backend) int {
	if r, ok := b.(PromptReader); ok {
		return r.PromptRows()
	}
	return 0
}

// Sampler is a backend that chooses tokens, so that logits [n,V] need not leave the
// device.
type Sampler interface {
	// Penalize divides positive logits by by[i] and multiplies the others with it:
	// those at at[i] (I32), counted from the first of the first row, no two the same.
	Penalize(logits, at, by *Tensor)
	// Largest sets ids (I32) and z, both [n,k], to where in each row of logits
	// the k largest are, k at most V and [MostLargest], and what they are: the
	// largest first, of equals the one that comes first. Of a row that has a NaN,
	// all ids are -1.
	Largest(ids, z, logits *Tensor)
	// Weigh sets totals (U8 [n,8]) to float64 sums of the weights of each row, and
	// drawn (I32 [n]) to the token in which the part u of that falls, for ids and z
	// of Largest. The weight of logit y is float32(ExpNegative(float64(y-z[i,0])·t[i])).
	// Weights are added in float64, [WeighBlock] by WeighBlock, in order, and then
	// these sums. Tokens are drawn in the same order: blocks are subtracted from
	// what u leaves while there is enough, then weights until it is negative; the
	// last one of the block that is not 0 takes what rounding leaves, and ids[i,0]
	// what is left of all blocks. What a row that has a NaN gives is undefined.
	Weigh(drawn, totals, logits, ids, z *Tensor, t, u []float64)
}

// Repeater is a backend that does again what it did before, at less cost than when
// it is asked for each operation.
type Repeater interface {
	// Repeat does what f asks for, or what f asked for in an earlier call with an
	// equal step, without calling it. Then all is as it was, but for the elements of
	// tensors, and for first keys and counts of keys (K and KLen) of Attention: o has
	// the segments of every Attention in f, and of what else it has none counts. f calls
	// operations and View, nothing that waits or allocates, and may be called twice:
	// the last time counts.
	Repeat(s Step, o Attention, f func())
}

// DoRANorms is a backend that computes norms of many weights at less cost together.
type DoRANorms interface {
	// DoRANorms is DoRANorm of each.
	DoRANorms(ns []DoRANorm)
}

// DoRANorm is what [Linear.DoRANorm] sets and reads.
type DoRANorm struct {
	Ratio, C, W2, W, A, B, M *Tensor
	Scale                    float32
}

// A Step names what is repeated. Equal ones ask for the same operations of the same
// tensors.
type Step struct {
	In, Out *Tensor // what it begins with, and what it sets; may be nil
	Kind    int     // where there are several ways from one to the other
}

// WeighBlock is how many weights are added before their sum is.
const WeighBlock = 256

// MostLargest is the most numbers that Largest finds in a row.
const MostLargest = 256

// A Borrower is a backend that reads the data of Load where it lies, but, of a weight
// that it has arranged for its products, hardly ever again.
type Borrower interface {
	// Lent says that forget takes the data of t, which Load returned, out of
	// memory, until it is read again. The backend calls it when it has arranged t.
	Lent(t *Tensor, forget func())
}

// Memory allocates and moves tensors.
type Memory interface {
	// Alloc returns a zeroed tensor. Only set-up code calls it: a training
	// step runs in a workspace that set-up allocated.
	Alloc(dt DType, shape ...int) (*Tensor, error)
	// Load returns a frozen tensor that holds data (len = dt.Bytes of the
	// shape), which the backend may keep without copying: the caller must
	// never change it. Frozen weights are read by MatMul, Embed and LogProb,
	// and the backend may keep a packed copy of them.
	Load(dt DType, data []byte, shape ...int) (*Tensor, error)
	Free(t *Tensor)
	// Precision declares how products with the weight t are formed, by MatMul
	// and LogProb: F32, the default, or BF16, where both operands are rounded
	// to bfloat16 (to nearest, ties to even) before they are multiplied and
	// sums are float32; of weights in blocks the codes may be rounded instead
	// of the elements. Views made later have the same precision.
	//
	// FP8 is for products of many rows with a frozen weight W [out,in], x·Wᵀ and
	// dy·W. A row is rounded to s·e4m3(row/s), where s is the power of two that
	// quant.ScaleE4M3 gives for its largest absolute value, and e4m3 the nearest
	// number of that type (see quant.ToE4M3). Rows of W and of x are rounded so,
	// and of dy the rows of dy·diag(s), s being those of the rows of W, which are
	// divided by them again: W is the same number in both products. A row that
	// holds a NaN or an infinity counts as one of NaN. Sums are float32, but the
	// products of 128 terms that follow one another may be added with 14 bits first.
	// Products of at most [RowsTogether] rows with TransB and without Uniform, those
	// with TransA, LogProb and DoRANorm take such a weight as one of BF16.
	Precision(t *Tensor, dt DType)
	// View returns a tensor of the given shape that shares t's memory from
	// element offset on. It allocates no device memory and is not freed.
	View(t *Tensor, offset int, shape ...int) *Tensor
	Upload(dst *Tensor, src []float32)     // dst F32
	UploadInts(dst *Tensor, src []int32)   // dst I32
	Download(dst []float32, src *Tensor)   // src F32; waits for queued work
	DownloadInts(dst []int32, src *Tensor) // src I32; waits for queued work
	UploadBytes(dst *Tensor, src []byte)   // dst U8
	DownloadBytes(dst []byte, src *Tensor) // src U8; waits for queued work
	Zero(t *Tensor)
	ZeroAll(ts []*Tensor)  // Zero of each
	Copy(dst, src *Tensor) // same dtype and length
}

// Linear is the algebra of projections and adapters. All operands are F32
// unless said otherwise.
type Linear interface {
	// MatMul sets dst = Alpha*op(a)*op(b) + LowRank + Beta*dst, and then does what
	// the options after Beta say. a is F32; b may be any float or quantised type
	// (a frozen weight), which is expanded on the fly and never written. With
	// Beta 0, dst may hold garbage (NaN included).
	MatMul(dst, a, b *Tensor, o MatMul)
	// Project computes up to three products of one matrix a, as MatMul does.
	Project(a *Tensor, o *Projection)
	// ProjectGrad sets dst [n,in], F32, to the sum of up to three products dy·W, each with
	// its update of low rank: the gradient of the matrix that Project was given.
	ProjectGrad(dst *Tensor, of []GradProduct)
	// LowRankGrad is the gradient of y = scale·u·vᵀ for dy [n,out], with v [out,r]: it
	// sets du [n,r] to scale·dy·v and adds scale·dyᵀ·u to dv.
	LowRankGrad(du, dv, dy, u, v *Tensor, scale float32)
	// DoRAGrad is ScaleColsGrad and then LowRankGrad of what that sets.
	DoRAGrad(g DoRAGrad)
	// Add sets dst = a + scale*b. dst may be a or b.
	Add(dst, a, b *Tensor, scale float32)
	// AddRow adds the vector r [cols] to each row of dst: a bias.
	AddRow(dst, r *Tensor)
	// ColSum adds the column sums of x to dst [cols]: the gradient of AddRow.
	ColSum(dst, x *Tensor)
	// Dropout sets dst = x ⊙ mask / (1-p), where the mask of element i is a
	// fixed function of (seed, i): calling it on dy with the same seed is the
	// gradient. dst may be x.
	Dropout(dst, x *Tensor, p float32, seed uint64)
	// ScaleRows sets dst[t,:] = s[t]*x[t,:]. dst may be x.
	ScaleRows(dst, x, s *Tensor)
	// ScaleCols sets dst[:,j] = s[j]*x[:,j]. dst may be x.
	ScaleCols(dst, x, s *Tensor)
	// ScaleColsGrad is the gradient of y = ScaleCols(x, s) with s = m/c and c
	// constant: it sets dx = s ⊙ dy and adds Σ_t dy[t,j]·y[t,j] / m[j] to dm[j],
	// where 0/0 counts as 0.
	ScaleColsGrad(dx, dm, dy, y, s, m *Tensor)
	// RowSquares sets dst[j] to the sum of squares of row j of w (any type).
	RowSquares(dst, w *Tensor)
	// DoRANorm sets c[j] to the norm of row j of W + scale·B·A and ratio = m/c,
	// for a [r,in], b [out,r] and w2 = ‖W_j‖², without B·A itself: c² = w2 +
	// 2·scale·B_j·(A·W_jᵀ) + scale²·B_j·(A·Aᵀ)·B_jᵀ (Liu et al. 2024, eq. 5;
	// the norm is a constant for the gradient, section 4.3). W is multiplied as
	// MatMul does it with Uniform.
	DoRANorm(ratio, c, w2, w, a, b, m *Tensor, scale float32)
	// Dequantize sets dst (F32) = src (any type) with the same shape.
	Dequantize(dst, src *Tensor)
}

// MatMul says which operands are transposed and how the result is combined.
type MatMul struct {
	TransA, TransB bool
	Alpha, Beta    float32
	// Uniform: the bits of a row of the result do not depend on the number of
	// rows. Without it, products of few rows may round in another way.
	Uniform bool
	LowRank *LowRank // nil: none

	// What follows, in this order. It needs Beta 0.
	ColScale   *Tensor     // [cols of dst] factor of each column; nil: 1
	Bias       *Tensor     // [cols of dst] is added to each row; nil: none
	Rope       *Rope       // dst is rotated; nil: not
	SwiGLUGrad *SwiGLUGrad // of the gradient dst; nil: none
}

// Rope is the rotation of [Transformer.Rope].
type Rope struct{ Positions, InvFreq *Tensor }

// SwiGLUGrad sets DGate and DUp to the gradients of [Transformer.SwiGLU] for a
// gradient that a product sets; DGate may be where that is.
type SwiGLUGrad struct{ DGate, DUp, Gate, Up *Tensor }

// A Projection is what is computed of one matrix: its products with weights,
// without TransA, Beta and SwiGLUGrad, and, unless SwiGLU is nil, of the first
// two SwiGLU = silu(Products[0].Dst) ⊙ Products[1].Dst.
type Projection struct {
	Products []Product
	SwiGLU   *Tensor
}

// A Product sets Dst = a·op(W), as [Linear.MatMul] does.
type Product struct {
	Dst, W *Tensor
	MatMul
}

// A GradProduct is DY·W, with an update of low rank that has no A.
type GradProduct struct {
	DY, W   *Tensor  // [n,out], [out,in]
	LowRank *LowRank // nil: none
}

// ProjectGradByMatMul is ProjectGrad for backends that compute one product after the other.
func ProjectGradByMatMul(b Linear, dst *Tensor, of []GradProduct) {
	for i := range of {
		o := MatMul{Alpha: 1, LowRank: of[i].LowRank}
		if i > 0 {
			o.Beta = 1
		}
		b.MatMul(dst, of[i].DY, of[i].W, o)
	}
}

// LowRank adds Alpha*U*op(V) to a product, in F32 whatever the precision of
// the weight: the update of a LoRA, U being [rows of dst, r]. Unless A [r, cols of a]
// is nil, U is first set to a·Aᵀ, with Uniform as the product has it and without
// TransA; products of one Project do that together.
type LowRank struct {
	U, V   *Tensor
	A      *Tensor // F32; nil: U is given
	TransV bool
	Alpha  float32
}

// DoRAGrad is what [Linear.DoRAGrad] sets and reads: dx, dm, dy, y, s and m of
// ScaleColsGrad, DZ being dx and Ratio s, and du, dv, u, v and scale of LowRankGrad,
// whose dy is DZ. DZ may be DY.
type DoRAGrad struct {
	DZ, DM, DY, Y, Ratio, M *Tensor
	DU, DV, U, V            *Tensor
	Scale                   float32
}

// Transformer is the set of layers of a decoder, each with its gradient.
type Transformer interface {
	// Embed sets dst[t,:] = table[ids[t],:]; table may be of any type.
	Embed(dst, table, ids *Tensor)
	// EmbedGrad adds dy[t,:] to dtable[ids[t],:], in order of t.
	EmbedGrad(dtable, ids, dy *Tensor)
	// RMSNorm sets dst = w ⊙ x·rstd, rstd[t] = 1/sqrt(mean(x[t,:]²)+eps)
	// (Zhang & Sennrich 2019, eq. 4).
	RMSNorm(dst, rstd, x, w *Tensor, eps float32)
	// AddRMSNorm is RMSNorm of sum = x + y, which it sets; sum may be x or y.
	AddRMSNorm(dst, rstd, sum, x, y, w *Tensor, eps float32)
	// RMSNormGrad sets dx to the gradient, plus add unless that is nil (what
	// arrives at x by another way), and, unless dw is nil, accumulates dw. dx may
	// be dy or add.
	RMSNormGrad(dx, dw, x, w, rstd, dy, add *Tensor)
	// Rope rotates x [tokens, heads·headDim] in place, half-split layout
	// (Su et al. 2021, eq. 34, in the order Hugging Face stores weights):
	// pair (i, i+headDim/2) turns by pos[t]·invFreq[i], invFreq [headDim/2].
	// inverse rotates back, which is its gradient.
	Rope(x, pos, invFreq *Tensor, inverse bool)
	// Attention is causal within each segment, with grouped queries:
	// q [nq, heads·d], k and v [nk, kvHeads·d], dst like q, lse [nq, heads]
	// the log-sum-exp of the scaled scores. Scores are scaled by 1/sqrt(d). k
	// and v may both be BF16, from a cache.
	Attention(dst, lse, q, k, v *Tensor, o Attention)
	// AttentionGrad sets dq, dk and dv.
	AttentionGrad(dq, dk, dv, q, k, v, dst, lse, dy *Tensor, o Attention)
	// SwiGLU sets dst = silu(gate) ⊙ up (Shazeer 2020, eq. 6).
	SwiGLU(dst, gate, up *Tensor)
	// SwiGLUGrad sets dgate and dup, which may be gate and up.
	SwiGLUGrad(dgate, dup, gate, up, dy *Tensor)
	// LogProb is the one loss head: SFT, DPO and ORPO are functions of its
	// result. For hidden rows x [n,H], head weights w [V,H] (any type) and
	// targets [n] it sets logp[t] = z[target]-lse[t], z = x·wᵀ,
	// lse[t] = log Σ exp z, and argmax[t] (I32, first maximum; may be nil).
	// Unless dx is nil, dx[t] is set to the gradient of logp[t] with respect
	// to x[t], w[target] - Σ softmax(z)·w, from the same logits. Logits are
	// formed chunk by chunk and never kept. With dx, rows are computed as with
	// MatMul.Uniform.
	LogProb(logp, lse, argmax, dx, x, w, target *Tensor)
	// LogProbGrad sets dx and, unless dw is nil, accumulates dw, for dy[t] =
	// dL/dlogp[t]. It forms the logits again.
	LogProbGrad(dx, dw, x, w, target, lse, dy *Tensor)
	// GatherRows sets dst[i,:] = x[idx[i],:].
	GatherRows(dst, x, idx *Tensor)
	// ScatterRows sets dst[idx[i],:] = src[i,:], in order of i; dst may be BF16,
	// to which src (F32) is rounded as [Memory.Precision] says.
	ScatterRows(dst, src, idx *Tensor)
	// ScatterAddRows adds src[i,:] to dst[idx[i],:], in order of i.
	ScatterAddRows(dst, src, idx *Tensor)
}

// Attention describes heads and the boundaries of packed examples.
type Attention struct {
	Heads, KVHeads, HeadDim int
	// Precision is of the products: F32, the default, or BF16, where operands
	// may be rounded to bfloat16 before they are multiplied; sums are float32.
	Precision DType
	// Segment s has query rows Q[s]..Q[s+1] and key rows K[s]..K[s]+KLen[s].
	// KLen[s] >= number of queries; the last query of a segment sees all its
	// keys, the one before all but one: decoding with a cache.
	Q    []int32 // [segments+1], ascending from 0 to nq
	K    []int32 // [segments] first key row
	KLen []int32 // [segments]
}

// Optimizer updates parameters, all in one operation. Lists that stay the same
// from step to step cost least; no tensor may be in a list of parameters twice.
type Optimizer interface {
	// SumSquares adds the sums of squares of all xs to dst [1], each accumulated
	// in float64 in a fixed order.
	SumSquares(dst *Tensor, xs ...*Tensor)
	// AdamW updates W, M and V (all F32) of each parameter from the gradient G
	// scaled by o.GradScale (Loshchilov & Hutter 2019, algorithm 2, torch's
	// order).
	AdamW(ps []AdamWParam, o AdamW)
	// AdamW8bit is AdamW with moments of 8 bits (Dettmers et al. 2022, section
	// 2): M and V are U8 codes of quant.Dynamic's maps, signed and unsigned, in
	// blocks of [AdamWBlock] elements in storage order, whose largest absolute
	// values are MMax and VMax, F32 [blocks]; all begin as zeros. The step is
	// taken with the moments before they are rounded, and the decay after the
	// step: W = (W - step)·(1 - LR·WeightDecay). An element whose scaled
	// gradient is not finite is left alone, its moments set to 0. A code of M
	// never loses the sign of a negative number.
	AdamW8bit(ps []AdamWParam, o AdamW)
}

// An AdamWParam is a parameter with its gradient and its moments.
type AdamWParam struct {
	W, G, M, V *Tensor
	MMax, VMax *Tensor // of AdamW8bit
	NoDecay    bool    // it is updated as with WeightDecay 0
}

// AdamWBlock is how many moments of AdamW8bit share a largest value.
const AdamWBlock = 256

// AdamWBlocks returns how many blocks n elements are.
func AdamWBlocks(n int) int { return (n + AdamWBlock - 1) / AdamWBlock }

// AdamW is one update's settings. Step counts from 1.
type AdamW struct {
	LR, Beta1, Beta2, Eps, WeightDecay, GradScale float64
	Step                                          int
}

// For returns the settings for p.
func (o AdamW) For(p *AdamWParam) AdamW {
	if p.NoDecay {
		o.WeightDecay = 0
	}
	return o
}
