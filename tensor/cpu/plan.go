package cpu

import (
	"slices"

	"pipe/tensor"
)

// A plan counts what its operations would take on a backend: see [tensor.Plan].
// It sees the same shapes and uses the formulas of the code that allocates.
//
// Memory counts once it is used: an operation touches its operands, and a view
// those elements of what it shows.
type plan struct {
	name    string
	k       *kernels
	threads int
	purpose string
	maxKept int

	tally   tensor.Tally
	kept    int
	shared  sizes // of the operation in progress
	work    sizes // of each thread
	counted int64 // of both, in the tally
}

// planned is the memory of a tensor.
type planned struct {
	purpose string
	touched int64 // bytes that count so far
	keep    bool  // made by Load
	lent    int64 // bytes of it, that go when it was arranged; 0: they stay
	half    bool
	eight   bool
	panels  [4]*panels
	few     int // bytes of the arranged weight
	scales  int // bytes of them
	dead    bool

	of     *planned // that a view shows, from element off on
	off, n int
}

// sizes are the elements of the slices of a scratch.
type sizes struct {
	rows, row, probs, grads, panels, low, values, more, scales, wide, rotation, pairs int
}

func (s *sizes) bytes() int64 {
	return 4*int64(s.rows+s.row+s.probs+s.grads+s.panels+s.low+s.values+s.more+s.scales+s.rotation+s.pairs) + 8*int64(s.wide)
}

var (
	_ tensor.Planner  = (*Backend)(nil)
	_ tensor.Plan     = (*plan)(nil)
	_ tensor.Borrower = (*Backend)(nil)
	_ tensor.Borrower = (*plan)(nil)
)

// Plan implements [tensor.Planner].
func (b *Backend) Plan() tensor.Plan {
	return &plan{name: b.Name(), k: b.k, threads: len(b.work), purpose: tensor.ForWeights, maxKept: b.maxKept}
}

// For implements [tensor.Plan].
func (p *plan) For(purpose string) { p.purpose = purpose }

// Peak implements [tensor.Plan].
func (p *plan) Peak() tensor.Usage { return p.tally.Peak() }

// touch counts t, of a view everything up to its end.
func (p *plan) touch(op string, t *tensor.Tensor) *planned {
	m, ok := t.Mem.(*planned)
	if !ok {
		panic("cpu: plan of " + op + ": tensor of another backend")
	}
	root, to := m, t.Len()
	if m.of != nil {
		root, to = m.of, m.off+m.n
	}
	if root.dead {
		panic("cpu: plan of " + op + ": tensor was freed")
	}
	block := t.DType.Block()
	if bytes := int64(t.DType.Bytes((to + block - 1) / block * block)); bytes > root.touched {
		p.tally.Add(root.purpose, bytes-root.touched)
		root.touched = bytes
	}
	return m
}

// weight is touch of the second operand of a product, but for data that was lent:
// read counts that when the product reads it.
func (p *plan) weight(op string, t *tensor.Tensor) *planned {
	if m, ok := t.Mem.(*planned); ok && m.lent > 0 && !m.dead {
		return m
	}
	return p.touch(op, t)
}

// read counts the lent data of w, and arranged that it was given back; w may be
// nil.
func (p *plan) read(w *planned) {
	if w != nil && w.touched < w.lent {
		p.tally.Add(w.purpose, w.lent-w.touched)
		w.touched = w.lent
	}
}

func (p *plan) arranged(w *planned) {
	if w.lent > 0 {
		p.tally.Add(w.purpose, -w.touched)
		w.touched = 0
	}
}

func (p *plan) use(op string, ts ...*tensor.Tensor) {
	for _, t := range ts {
		if t != nil {
			p.touch(op, t)
		}
	}
}

// grown counts scratch that has grown.
func (p *plan) grown() {
	now := p.shared.bytes() + int64(p.threads)*p.work.bytes()
	p.tally.Add(tensor.ForScratch, now-p.counted)
	p.counted = now
}

func more(size *int, n int) { *size = max(*size, n) }

// multiply counts the scratch of a product and what it keeps of a weight; w is
// nil for a product without one, all is the whole weight's shape.
func (p *plan) multiply(x *product, w *planned, all [2]int) {
	if x.m == 0 || x.n == 0 || x.k == 0 {
		return
	}
	defer p.grown()
	stored, dt := x.w.dt != tensor.F32, x.w.dt
	keeps := w != nil && w.keep
	switch {
	case p.k.fewRows(x) && keeps && p.k.arranges(dt, x.k):
		more(&p.shared.rows, fewScratch(x.m, x.k))
		more(&p.work.rows, fewMost*16*fewGroup)
		if w.few == 0 {
			p.read(w)
			w.few = arrangedBytes(p.k.few(dt), all[0], all[1])
			p.tally.Add(tensor.ForPanels, int64(w.few))
			p.arranged(w)
		}
	case x.transA && !x.transW && !stored && min(x.m, x.n) <= skinny:
		more(&p.work.rows, skinny*128)
	case x.inPlace():
		p.read(w)
		if stored {
			more(&p.work.rows, dotRows*x.k)
		}
	default:
		p.multiplyPanels(x, w, all)
		return
	}
	if x.low != nil {
		p.multiplyPanels(&product{m: x.m, n: x.n, k: x.low.r, transW: x.low.trans}, nil, [2]int{})
	}
}

func (p *plan) multiplyPanels(x *product, w *planned, all [2]int) {
	half, eight := x.halved(), x.eight()
	terms := p.k.terms(x.k, half)
	if eight && !x.transW {
		p.scales(x, w, all)
	}
	kept, packs := p.keep(x, w, all, half)
	n := 1 // products whose panels are there at the same time
	if x.paired {
		n = 2
	}
	rows, cols := p.k.pieces(x, n, terms, kept)
	switch {
	case x.transA:
		more(&p.shared.rows, p.k.leftSize(rows, x.k))
	case half || eight:
		more(&p.shared.rows, x.m*terms)
	}
	if !kept {
		more(&p.shared.panels, n*p.k.newPanels(terms, cols, half).size())
	}
	if packs || !kept {
		p.packs(x.transW, terms, max(x.k, all[1]), x.w.dt != tensor.F32 || half || eight || x.n%p.k.cols != 0)
	}
	if x.low != nil {
		low := p.k.newPanels(x.low.r, cols, false)
		more(&p.shared.low, n*low.size())
		p.packs(x.low.trans, x.low.r, x.low.r, cols%p.k.cols != 0)
	}
}

// packs counts what packing takes: rows of terms, or columns.
func (p *plan) packs(trans bool, terms, row int, copies bool) {
	if !trans {
		more(&p.work.row, 3*jobCols)
	} else if copies {
		more(&p.work.rows, packRows*terms)
		more(&p.work.row, row)
	}
}

// keep is keptPanels: it reports whether there are panels, and whether they
// are made now.
func (p *plan) keep(x *product, w *planned, all [2]int, half bool) (kept, packs bool) {
	if w == nil || !w.keep {
		return false, true
	}
	which, k, n := 0, all[0], all[1]
	if x.transW {
		which, k, n = 1, n, k
	}
	if x.eight() {
		which += 2
	}
	if w.panels[which] != nil {
		return true, false
	}
	p.read(w)
	made := p.k.newPanels(p.k.terms(k, half), n, half)
	if p.kept+made.bytes() > p.maxKept {
		return false, true
	}
	p.kept += made.bytes()
	p.tally.Add(tensor.ForPanels, int64(made.bytes()))
	w.panels[which] = made
	p.arranged(w)
	return true, true
}

// Name implements [tensor.Backend].
func (p *plan) Name() string { return p.name }

// Sync implements [tensor.Backend].
func (p *plan) Sync() error { return nil }

// Close implements [tensor.Backend].
func (p *plan) Close() error { return nil }

// Alloc implements [tensor.Memory].
func (p *plan) Alloc(dt tensor.DType, shape ...int) (*tensor.Tensor, error) {
	checkShape("alloc", dt, shape)
	return &tensor.Tensor{DType: dt, Shape: slices.Clone(shape), Mem: &planned{purpose: p.purpose}}, nil
}

// Load implements [tensor.Memory].
func (p *plan) Load(dt tensor.DType, _ []byte, shape ...int) (*tensor.Tensor, error) {
	checkShape("load", dt, shape)
	return &tensor.Tensor{DType: dt, Shape: slices.Clone(shape), Mem: &planned{purpose: tensor.ForWeights, keep: true}}, nil
}

// Lent implements [tensor.Borrower].
func (p *plan) Lent(t *tensor.Tensor, _ func()) {
	t.Mem.(*planned).lent = int64(t.DType.Bytes(t.Len()))
}

// Free implements [tensor.Memory].
func (p *plan) Free(t *tensor.Tensor) {
	m := t.Mem.(*planned)
	p.tally.Add(m.purpose, -m.touched)
	p.tally.Add(tensor.ForPanels, -int64(m.few))
	p.drop(m)
	*m = planned{dead: true}
}

// Precision implements [tensor.Memory].
func (p *plan) Precision(t *tensor.Tensor, dt tensor.DType) {
	m := t.Mem.(*planned)
	p.drop(m)
	m.half, m.eight = dt != tensor.F32, dt == tensor.FP8
}

// scales counts the scales of a weight's rows.
func (p *plan) scales(x *product, w *planned, all [2]int) {
	more(&p.work.row, max(x.n, all[1]))
	switch {
	case w == nil || !w.keep:
		more(&p.shared.scales, x.k)
	case w.scales == 0:
		w.scales = 4 * all[0]
		p.tally.Add(tensor.ForPanels, int64(w.scales))
	}
}

// drop gives up kept panels and scales.
func (p *plan) drop(m *planned) {
	p.tally.Add(tensor.ForPanels, -int64(m.scales))
	m.scales = 0
	for i, w := range m.panels {
		if w != nil {
			p.kept -= w.bytes()
			p.tally.Add(tensor.ForPanels, -int64(w.bytes()))
		}
		m.panels[i] = nil
	}
}

// View implements [tensor.Memory].
func (p *plan) View(t *tensor.Tensor, offset int, shape ...int) *tensor.Tensor {
	n, m := checkShape("view", t.DType, shape), t.Mem.(*planned)
	v := &planned{of: m, off: offset, n: n, half: m.half, eight: m.eight}
	if m.of != nil {
		v.of, v.off = m.of, m.off+offset
	}
	return &tensor.Tensor{DType: t.DType, Shape: slices.Clone(shape), Mem: v}
}
