package model

import (
	"slices"

	"pipe/tensor"
)

// A Module is a layer. Backward answers the latest Forward of the same pass.
type Module interface {
	// Forward returns the layer's output for x, both [tokens, width]. When
	// p.Train is set it keeps what Backward will need, its output included:
	// nobody changes that without restoring it.
	Forward(p *Pass, x *tensor.Tensor) *tensor.Tensor
	// Backward takes the gradient of the output, adds to the gradients of the
	// layer's parameters, and returns the gradient of the input.
	Backward(p *Pass, dy *tensor.Tensor) *tensor.Tensor
	// Params calls visit once for each parameter, in a fixed order, with its
	// checkpoint name relative to the layer, such as "q_proj.weight".
	Params(visit func(name string, p *Param))
}

// A Param is a weight and, when it is trained, its gradient.
type Param struct {
	Value *tensor.Tensor // F32 when trained; any type when frozen
	Grad  *tensor.Tensor // F32, like Value; nil: frozen
}

// Segments are the boundaries of the documents of a pass: segment s has the
// query rows Q[s] to Q[s+1] and the key rows K[s] to K[s]+KLen[s].
type Segments struct {
	Q, K, KLen []int32
}

// A Pass is one trip of one batch through a decoder: everything a layer needs
// that is not its own. It is made once by [NewPass] and used again for each
// batch, so that its workspace is allocated once.
type Pass struct {
	tensor.Backend
	Positions *tensor.Tensor // I32 [tokens]; restarts at each segment
	Segments  Segments
	Train     bool // keep activations for Backward; apply dropout
	NoDropout bool // leave dropout out of training too
	// Base runs the model as if no adapter were attached.
	Base bool
	// Recompute keeps only the input of each layer for the backward pass and
	// runs the layer again there: less memory, a third more time, same result.
	Recompute bool
	// Seed makes the dropout masks of the pass.
	Seed uint64

	cache *cache         // keys and values of earlier tokens; nil: none
	apart bool           // bits of a row do not depend on the other rows
	fill  bool           // only fill the cache: compute nothing else in the last layer
	keys  *tensor.Tensor // I32: the row of the pass that each key row of Segments is; nil: itself
	wants []int32        // rows of the residual stream that are read of the last layer, ascending; none: all
	only  *tensor.Tensor // I32: of the layer that is run now; nil: all
	half  bool           // activations are BF16
	f32   arena
	bf16  arena
	i32   arena
	u8    arena
	out   [2]arena // one output at a time that nobody reads again, F32 and BF16

	projection projection
	gradients  projectionGrad

	pos    []int32 // what Positions was made from
	sent   []int32 // by threeInts
	wanted []int32 // by want
	scores Scores  // of the latest LogProb

	// Of a Llama 4.
	chunks Segments       // Segments, cut where chunks begin
	heat   *tensor.Tensor // [tokens] factors of queries that are not rotated; nil: 1
	heatOf []float32      // what it was made from
	byHead map[*tensor.Tensor]*tensor.Tensor
}

// NewPass returns a pass over b.
func NewPass(b tensor.Backend) *Pass {
	return &Pass{Backend: b, f32: newArena(tensor.F32), bf16: newArena(tensor.BF16), i32: newArena(tensor.I32), u8: newArena(tensor.U8),
		out: [2]arena{newArena(tensor.F32), newArena(tensor.BF16)}}
}

// New returns an F32 vector or matrix of the workspace, its content undefined. It lives
// until the next pass, or until a Release of a mark taken before.
func (p *Pass) New(shape ...int) *tensor.Tensor { return p.f32.get(p.Backend, shape) }

// Activation is New, but of what lies between the operations of a layer: BF16
// where the model multiplies in that precision and the backend can, because the
// products would round it anyway. Sums of the residual stream are always F32.
func (p *Pass) Activation(shape ...int) *tensor.Tensor {
	if p.half {
		return p.bf16.get(p.Backend, shape)
	}
	return p.New(shape...)
}

// passing is Activation for what is read before the next passing is made.
func (p *Pass) passing(shape ...int) *tensor.Tensor {
	a := &p.out[0]
	if p.half {
		a = &p.out[1]
	}
	a.at = spot{}
	return a.get(p.Backend, shape)
}

// Like is New with the shape and the type of t.
func (p *Pass) Like(t *tensor.Tensor) *tensor.Tensor { return p.of(t.DType, t.Shape...) }

// of is New of F32 or BF16.
func (p *Pass) of(dt tensor.DType, shape ...int) *tensor.Tensor {
	if dt == tensor.BF16 {
		return p.bf16.get(p.Backend, shape)
	}
	return p.New(shape...)
}

// heads shows x [tokens, heads·d], a tensor of the workspace, as a matrix of heads [tokens·heads, d]. Like the
// views of an arena, it is kept.
func (p *Pass) heads(x *tensor.Tensor, d int) *tensor.Tensor {
	if y := p.byHead[x]; y != nil && y.Shape[1] == d {
		return y
	}
	if p.byHead == nil || len(p.byHead) >= maxViews {
		p.byHead = map[*tensor.Tensor]*tensor.Tensor{}
	}
	y := p.View(x, 0, x.Len()/d, d)
	p.byHead[x] = y
	return y
}

// Ints returns an I32 vector of the workspace that holds v.
func (p *Pass) Ints(v []int32) *tensor.Tensor {
	t := p.i32.get(p.Backend, []int{len(v)})
	p.UploadInts(t, v)
	return t
}

// threeInts is Ints of three lists of one length, which are sent together.
func (p *Pass) threeInts(x, y, z []int32) (a, b, c *tensor.Tensor) {
	n := (len(x) + 15) &^ 15 // as the workspace has them one behind the other
	p.sent = slices.Grow(p.sent[:0], 3*n)[:3*n]
	for i, v := range [...][]int32{x, y, z} {
		copy(p.sent[i*n:], v)
	}
	all := p.i32.get(p.Backend, []int{3 * n})
	p.UploadInts(all, p.sent)
	p.i32.at.off -= 3 * n
	take := func() *tensor.Tensor { return p.i32.get(p.Backend, []int{len(x)}) }
	return take(), take(), take()
}

// repeat calls f, or lets the backend do again what f asked for in the same step
// (see [tensor.Repeater]).
func (p *Pass) repeat(s tensor.Step, f func()) {
	if r, ok := p.Backend.(tensor.Repeater); ok {
		r.Repeat(s, tensor.Attention{Q: p.Segments.Q, K: p.Segments.K, KLen: p.Segments.KLen}, f)
		return
	}
	f()
}

// A Mark is a height of the workspace.
type Mark struct{ f32, bf16, i32, u8 spot }

// Drops reports whether layers apply dropout.
func (p *Pass) Drops() bool { return p.Train && !p.NoDropout }

// Uniform reports whether products are to be Uniform (see [tensor.MatMul]).
func (p *Pass) Uniform() bool { return p.Train || p.apart }

// Mark returns the present height of the workspace.
func (p *Pass) Mark() Mark { return Mark{p.f32.at, p.bf16.at, p.i32.at, p.u8.at} }

// Release gives back every tensor made since m.
func (p *Pass) Release(m Mark) {
	p.f32.at, p.bf16.at, p.i32.at, p.u8.at = m.f32, m.bf16, m.i32, m.u8
}

// Close frees the workspace.
func (p *Pass) Close() {
	p.f32.free(p.Backend)
	p.bf16.free(p.Backend)
	p.out[0].free(p.Backend)
	p.out[1].free(p.Backend)
	p.i32.free(p.Backend)
	p.u8.free(p.Backend)
	p.byHead = nil
}

// start begins a new batch: it empties the workspace and uploads positions
// for documents of ids that begin at starts.
func (p *Pass) start(n int, starts []int32) {
	p.Release(Mark{})
	s := &p.Segments
	s.Q = append(s.Q[:0], starts...)
	s.Q = append(s.Q, int32(n))
	s.K = append(s.K[:0], starts...)
	s.KLen = s.KLen[:0]
	p.pos = p.pos[:0]
	for i := range starts {
		length := s.Q[i+1] - s.Q[i]
		s.KLen = append(s.KLen, length)
		for j := range length {
			p.pos = append(p.pos, j)
		}
	}
	p.cache, p.keys, p.fill, p.wants = nil, nil, false, p.wants[:0]
	p.Positions = p.Ints(p.pos)
}

// want says of a training pass of n tokens that only these rows are read of what
// the layers give, in any order. It returns where they are then: attention of the
// last layer, which reads all tokens, is followed by no other rows.
func (p *Pass) want(n int, rows []int32) []int32 {
	if !p.Train {
		return rows // of few rows products round in another way
	}
	p.wants = append(p.wants[:0], rows...)
	slices.Sort(p.wants)
	p.wants = slices.Compact(p.wants)
	if len(p.wants) > n-n/8 {
		p.wants = p.wants[:0]
		return rows
	}
	p.wanted = slices.Grow(p.wanted[:0], len(rows))[:len(rows)]
	for i, r := range rows {
		at, _ := slices.BinarySearch(p.wants, r)
		p.wanted[i] = int32(at)
	}
	return p.wanted
}

// those returns the rows of x that the layer goes on with.
func (p *Pass) those(x *tensor.Tensor) *tensor.Tensor {
	if p.only == nil {
		return x
	}
	y := p.of(x.DType, p.only.Len(), x.Cols())
	p.GatherRows(y, x, p.only)
	return y
}

// spread sets x to the gradient of the rows that those returned, dy, and zeros.
func (p *Pass) spread(x, dy *tensor.Tensor) {
	p.Zero(x)
	p.ScatterRows(x, dy, p.only)
}

// An arena hands out views of a few large slabs, as a stack. It keeps the views
// and hands them out again to whoever asks for the same: a pass of shapes that
// were there before allocates nothing.
type arena struct {
	dt    tensor.DType
	slabs []*tensor.Tensor
	views map[view]*tensor.Tensor
	at    spot
}

// A spot is the first free element: of which slab, and where in it.
type spot struct{ slab, off int }

// A view is where a vector or matrix begins and its shape.
type view struct {
	spot
	rows, cols int // cols -1: a vector
}

// maxViews bounds the views that are kept: passes of ever new lengths would
// fill the memory with them.
const maxViews = 1 << 12

const slabLen = 1 << 20 // elements of the first slab

func newArena(dt tensor.DType) arena { return arena{dt: dt, views: map[view]*tensor.Tensor{}} }

func (a *arena) get(b tensor.Backend, shape []int) *tensor.Tensor {
	n := 1
	for _, d := range shape {
		n *= d
	}
	for ; a.at.slab < len(a.slabs); a.at = (spot{a.at.slab + 1, 0}) {
		if a.at.off+n <= a.slabs[a.at.slab].Len() {
			t := a.view(b, shape)
			a.at.off += (n + 15) &^ 15 // 64 bytes: whole cache lines
			return t
		}
	}
	size := slabLen
	if a.dt == tensor.I32 || a.dt == tensor.U8 {
		size = slabLen / 16
	}
	// Slabs grow with the workspace, so that their number stays small.
	size = max(size, n, min(a.total()/4, 16*slabLen))
	tensor.For(b, tensor.ForActivations)
	s, err := b.Alloc(a.dt, (size+15)&^15)
	if err != nil {
		panic(outOfMemory{err})
	}
	a.slabs = append(a.slabs, s)
	return a.get(b, shape)
}

// view returns a tensor that lies at the top of the stack.
func (a *arena) view(b tensor.Backend, shape []int) *tensor.Tensor {
	key := view{a.at, shape[0], -1}
	if len(shape) == 2 {
		key.cols = shape[1]
	}
	if t := a.views[key]; t != nil {
		return t
	}
	if len(a.views) >= maxViews {
		clear(a.views)
	}
	t := b.View(a.slabs[a.at.slab], a.at.off, append([]int(nil), shape...)...)
	a.views[key] = t
	return t
}

func (a *arena) total() int {
	n := 0
	for _, s := range a.slabs {
		n += s.Len()
	}
	return n
}

func (a *arena) free(b tensor.Backend) {
	for _, s := range a.slabs {
		b.Free(s)
	}
	clear(a.views)
	a.slabs, a.at = nil, spot{}
}

// outOfMemory carries a failed allocation from deep inside the layers to the
// entry points of the decoder, which return it as an error.
type outOfMemory struct{ err error }

// catch turns the panic of a failed allocation into *err.
func catch(err *error) {
	switch r := recover().(type) {
	case nil:
	case outOfMemory:
		*err = r.err
	default:
		panic(r)
	}
}
