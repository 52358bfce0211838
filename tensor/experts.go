package tensor

import "fmt"

// Experts are the operations of a mixture of experts: each of n rows goes to k of
// E experts, as a [Routing] says. What goes to them is a matrix of n·k rows, those
// of expert 0 first, and of one expert those that come first in the batch. The
// matrices of all experts are one weight [E·out,in], whose rows e·out to (e+1)·out are
// expert e's.
//
// Of backends with [HalfActivations], dst and x of Dispatch, dst, rows and add of
// Combine, rows and x of GateGrad, and dst, a, dy and x of the products may be BF16,
// each for itself, but for a result that is added to; dst and add of Combine are of one type.
type Experts interface {
	// Route fills r for the logits [n,E] of a router: each row goes to the k experts
	// with the largest logits, of equals to the first. Of a row that has a NaN, all
	// gates are NaN, and the experts are the first k.
	Route(r *Routing, logits *Tensor)
	// RouteGrad sets dlogits [n,E] to the gradient for dgates [n·k]: the logits that
	// were not chosen have 0.
	RouteGrad(dlogits, dgates *Tensor, r *Routing)
	// Dispatch sets each row of dst [n·k,H] to the row of x [n,H] that goes there; when
	// gated, times its gate.
	Dispatch(dst, x *Tensor, r *Routing, gated bool)
	// Combine sets dst [n,H] = add + the sum of the rows [n·k,H] that x's row went to, in the
	// order in which their experts were chosen; when gated, each times its gate. add may be
	// dst, or nil: 0. It is Dispatch's gradient, and Dispatch is its.
	Combine(dst, rows, add *Tensor, r *Routing, gated bool)
	// GateGrad sets dgates[i] [n·k] to the product of row i of rows [n·k,H] and the row of x
	// [n,H] that goes there: the gates' gradient of Dispatch for its gradient and x, and
	// of Combine for its rows and dst's gradient.
	GateGrad(dgates, rows, x *Tensor, r *Routing)
	// ExpertMatMul is MatMul of the rows of each expert with its matrix in w; o
	// may have TransB, Alpha, Beta and Uniform. Of at most [RowsTogether] rows of a batch,
	// each has the bits that it would have alone, as with MatMul.
	ExpertMatMul(dst, a, w *Tensor, r *Routing, o MatMul)
	// ExpertOuter adds dyᵀ·x of the rows of each expert to its matrix in dw [E·out,in], for
	// dy [n·k,out] and x [n·k,in]: the gradient of ExpertMatMul with TransB.
	ExpertOuter(dw, dy, x *Tensor, r *Routing)
}

// A Routing says which rows go to which experts. Its tensors are made by who owns it, and
// filled by Route.
type Routing struct {
	Gating  Gating
	Experts int     // E, at most [MostExperts]
	Gates   *Tensor // F32 [n·k]: by row of the experts' matrix
	Rows    *Tensor // I32 [n·k]: the row of the batch that each row of the experts' matrix is
	Slots   *Tensor // I32 [n,k]: the row of the experts' matrix that each choice of a row is, the largest logit first
	Starts  *Tensor // I32 [E+1]: the first row of each expert, and n·k
}

// MostExperts is the most experts of a layer.
const MostExperts = 1024

// Gating is what a gate is made of.
type Gating uint8

const (
	// Sigmoid gates are 1/(1+exp(-z)) of each chosen logit alone (Llama 4).
	Sigmoid Gating = iota
	// Softmax gates are the softmax of a row's chosen logits (Mixtral).
	Softmax
)

// Check panics, for an operation of a backend such as "cpu", unless r has the shape of
// a batch of n rows. It returns k.
func (r *Routing) Check(backend, op string, n int) (k int) {
	bad := func(format string, args ...any) {
		panic(fmt.Sprintf("%s: %s: %s", backend, op, fmt.Sprintf(format, args...)))
	}
	switch {
	case r == nil || r.Gates == nil || r.Rows == nil || r.Slots == nil || r.Starts == nil:
		bad("the routing lacks tensors")
	case r.Experts < 1 || r.Experts > MostExperts:
		bad("%d experts; must be from 1 to %d", r.Experts, MostExperts)
	case r.Gating > Softmax:
		bad("gating is %d; must be sigmoid or softmax", r.Gating)
	case len(r.Slots.Shape) != 2 || r.Slots.Shape[0] != n:
		bad("slots are %v; must be [%d, experts of a row]", r.Slots.Shape, n)
	}
	k = r.Slots.Shape[1]
	switch {
	case k < 1 || k > r.Experts:
		bad("%d experts of a row; must be from 1 to %d", k, r.Experts)
	case r.Gates.Len() != n*k || r.Rows.Len() != n*k:
		bad("%d gates and %d rows; must be %d", r.Gates.Len(), r.Rows.Len(), n*k)
	case r.Starts.Len() != r.Experts+1:
		bad("%d starts; must be %d", r.Starts.Len(), r.Experts+1)
	}
	return k
}
