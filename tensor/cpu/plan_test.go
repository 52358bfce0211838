package cpu

import (
	"testing"

	"pipe/tensor"
)

// TestPlanCounts holds a plan to its backend: the same weights keep panels, in
// both orientations and while there is room, and Free takes all back.
func TestPlanCounts(t *testing.T) {
	b := New(2)
	defer b.Close()
	b.maxKept = 3 << 20
	p, arranged := b.Plan().(*plan), 0
	for _, c := range []tensor.Backend{b, p} {
		var weights []*tensor.Tensor
		for _, dt := range []tensor.DType{tensor.F32, tensor.BF16, tensor.Q8_0, tensor.F32} {
			w, err := c.Load(dt, make([]byte, dt.Bytes(512*512)), 512, 512)
			if err != nil {
				t.Fatal(err)
			}
			weights = append(weights, w)
		}
		x, _ := c.Alloc(tensor.F32, 40, 512)
		y, _ := c.Alloc(tensor.F32, 40, 512)
		few := c.View(x, 0, 3, 512)
		for i, w := range weights {
			c.MatMul(c.View(y, 0, 3, 512), few, w, tensor.MatMul{TransB: true, Alpha: 1}) // in place: no panels
			c.MatMul(y, x, w, tensor.MatMul{TransB: i%2 == 0, Alpha: 1})
		}
		c.MatMul(y, x, weights[0], tensor.MatMul{Alpha: 1})
		for _, w := range weights[:1] {
			if m, ok := w.Mem.(*memory); ok && m.few != nil {
				t.Error("a weight of F32 is arranged")
			}
		}
		if m, ok := weights[2].Mem.(*memory); ok && m.few != nil {
			arranged = len(m.few.data) // that of weights[1] is freed below
		}
		if b.kept != 3<<20 {
			t.Fatalf("%d bytes of panels are kept", b.kept)
		}
		c.Free(weights[1])
		c.MatMul(y, x, weights[3], tensor.MatMul{Alpha: 1})
	}
	if p.kept != b.kept || p.tally.Of(tensor.ForPanels) != int64(b.kept+arranged) {
		t.Errorf("the plan keeps %d bytes of panels, %d in use; the backend %d, and %d arranged", p.kept, p.tally.Of(tensor.ForPanels), b.kept, arranged)
	}
	if got, want := p.shared.panels, 512*512; got != want || len(b.shared.panels) > got && cap(b.shared.panels) < got {
		t.Errorf("%d elements of panels at a time; want %d", got, want)
	}
}

// TestPlanTouches: memory counts when it is used, as far as it is.
func TestPlanTouches(t *testing.T) {
	p := New(1).Plan()
	p.For(tensor.ForActivations)
	slab, _ := p.Alloc(tensor.F32, 1000)
	if p.Peak().Bytes != 0 {
		t.Error("unused memory counts")
	}
	p.Zero(p.View(p.View(slab, 100, 100), 50, 10))
	if got := p.Peak().Bytes; got != 4*160 {
		t.Errorf("%d bytes are in use; want 640", got)
	}
	p.For(tensor.ForCache)
	p.Free(slab)
	other, _ := p.Alloc(tensor.U8, 1000)
	p.Zero(other)
	if u := p.Peak(); u.Bytes != 1000 || len(u.Parts) != 2 || u.Parts[0].Bytes != 0 || u.Parts[1] != (tensor.Part{Name: tensor.ForCache, Bytes: 1000}) {
		t.Errorf("%+v", u)
	}
	defer func() {
		if recover() == nil {
			t.Error("a freed tensor is used")
		}
	}()
	p.Zero(slab)
}

// TestFreedViews: what a view shows may be gone, back to the system.
func TestFreedViews(t *testing.T) {
	b := New(1)
	defer b.Close()
	x, _ := b.Alloc(tensor.F32, 1<<20)
	v := b.View(b.View(x, 5, 100), 5, 10)
	b.Zero(v)
	if len(b.pages) != 1 {
		t.Error("a large tensor is on the heap")
	}
	b.Free(x)
	if len(b.pages) != 0 {
		t.Error("a freed tensor keeps its pages")
	}
	defer func() {
		if recover() == nil {
			t.Error("a view of freed memory is used")
		}
	}()
	b.Zero(v)
}

// TestPlanCountsEight: products in 8 bits keep other panels than those of few rows,
// and the scales of a weight whose gradient is formed.
func TestPlanCountsEight(t *testing.T) {
	b := New(2)
	defer b.Close()
	p := b.Plan().(*plan)
	for _, c := range []tensor.Backend{b, p} {
		w, err := c.Load(tensor.F32, make([]byte, 4*96*64), 96, 64)
		if err != nil {
			t.Fatal(err)
		}
		c.Precision(w, tensor.FP8)
		x, _ := c.Alloc(tensor.F32, 40, 64)
		y, _ := c.Alloc(tensor.F32, 40, 96)
		o := tensor.MatMul{TransB: true, Alpha: 1}
		c.MatMul(y, x, w, o)
		c.MatMul(c.View(y, 0, 3, 96), c.View(x, 0, 3, 64), w, o)
		c.MatMul(x, y, w, tensor.MatMul{Alpha: 1})
		free, _ := c.Alloc(tensor.F32, 96, 64)
		c.Precision(free, tensor.FP8)
		c.MatMul(x, y, free, tensor.MatMul{Alpha: 1})
	}
	if p.kept != b.kept || p.tally.Of(tensor.ForPanels) != int64(b.kept+4*96) {
		t.Errorf("the plan keeps %d bytes of panels, %d in use; the backend %d, and the scales of 96 rows", p.kept, p.tally.Of(tensor.ForPanels), b.kept)
	}
	if p.shared.scales != 96 || len(b.shared.scales) > 96 && cap(b.shared.scales) < 96 {
		t.Errorf("%d scales at a time; want 96", p.shared.scales)
	}
}
