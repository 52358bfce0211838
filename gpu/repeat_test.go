//go:build cuda

package gpu

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"pipe/tensor"
)

// A repeatTest is a layer that is repeated: rows of an embedding are keys, values and
// queries, which a product follows.
type repeatTest struct {
	*bench
	rows                      int
	precision                 tensor.DType
	ids, at, pos              *tensor.Tensor
	table, keys, freq, weight *tensor.Tensor
	x, y, z, lse              *tensor.Tensor
	o                         tensor.Attention
	calls                     int // of f
}

const repeatKeys, repeatWords = 900, 50

func newRepeatTest(t *testing.T, rows int, precision tensor.DType) *repeatTest {
	s := &repeatTest{bench: newBench(t), rows: rows, precision: precision}
	s.ids, s.at, s.pos = s.alloc(tensor.I32, rows), s.alloc(tensor.I32, rows), s.alloc(tensor.I32, rows)
	s.table, s.keys, s.freq = s.put(s.normal(repeatWords*64), repeatWords, 64), s.alloc(precision, repeatKeys, 64), s.put(s.normal(32), 32)
	s.weight, _ = s.load(tensor.F16, s.normal(64*64), 64, 64)
	s.b.Precision(s.weight, precision)
	s.x, s.y, s.z, s.lse = s.alloc(tensor.F32, rows, 64), s.alloc(tensor.F32, rows, 64), s.alloc(tensor.F32, rows, 64), s.alloc(tensor.F32, rows, 1)
	return s
}

func (s *repeatTest) f() {
	s.calls++
	s.b.Embed(s.x, s.table, s.ids)
	s.b.Rope(s.x, s.pos, s.freq, false)
	s.b.ScatterRows(s.keys, s.x, s.at)
	s.b.Attention(s.y, s.lse, s.x, s.keys, s.keys, s.o)
	s.b.MatMul(s.z, s.y, s.weight, tensor.MatMul{TransB: true, Alpha: 1})
}

// set makes the numbers of step n: row i has more keys than row i-1.
func (s *repeatTest) set(n int, each bool) {
	var ids, at, pos []int32
	s.o = tensor.Attention{Heads: 1, KVHeads: 1, HeadDim: 64, Precision: s.precision, Q: []int32{0}}
	if !each {
		s.o.Q = append(s.o.Q, int32(s.rows))
		s.o.K, s.o.KLen = []int32{int32(n)}, []int32{int32(s.rows + 3*n)}
	}
	for i := range s.rows {
		ids, at, pos = append(ids, int32((7*n+3*i)%repeatWords)), append(at, int32((n+11*i)%repeatKeys)), append(pos, int32(n+i))
		if each {
			s.o.Q, s.o.K, s.o.KLen = append(s.o.Q, int32(i+1)), append(s.o.K, int32(n+i)), append(s.o.KLen, int32(40*i+n+1))
		}
	}
	s.b.UploadInts(s.ids, ids)
	s.b.UploadInts(s.at, at)
	s.b.UploadInts(s.pos, pos)
}

// check does a step by Repeat and by f, and compares what they make.
func (s *repeatTest) check(name string) {
	s.Helper()
	t := s.TB.(*testing.T)
	s.b.Zero(s.z)
	s.b.Repeat(tensor.Step{In: s.ids, Out: s.z}, s.o, s.f)
	got, keys := s.get(s.z), s.get(s.keys)
	s.b.rotate = rotation{} // trust nothing
	s.f()
	same(t, name, got, s.get(s.z))
	same(t, name+": keys", keys, s.get(s.keys))
}

// TestRepeat: steps of single queries, of which some have several parts of keys, and
// of one segment, are captured once for each size of the grid, and give what
// operations give that are queued.
func TestRepeat(t *testing.T) {
	for _, c := range []struct {
		rows      int
		each      bool
		precision tensor.DType
	}{{6, true, tensor.F32}, {6, true, tensor.BF16}, {6, false, tensor.F32}, {70, false, tensor.BF16}} {
		s := newRepeatTest(t, c.rows, c.precision)
		each := c.each
		for n := range 12 {
			s.set(n, each)
			if n%2 == 1 { // leaves angles of the same positions
				s.f()
				s.calls--
			}
			s.check(fmt.Sprint("step ", n))
		}
		if d := s.b.Steps(); d.Captured != 1+index(each) || d.Queued+d.Captured+d.Repeated != 12 || s.calls != 12+d.Queued+d.Captured {
			t.Errorf("%+v: %+v, %d calls", c, d, s.calls)
		}
	}
}

// TestRepeatForgets: no graph names memory that is gone, and nothing is repeated that
// has become another operation.
func TestRepeatForgets(t *testing.T) {
	s := newRepeatTest(t, 5, tensor.F32)
	for _, c := range []struct {
		name   string
		change func()
	}{
		{"freed", func() {
			y := s.y
			s.y = s.alloc(tensor.F32, 5, 64)
			s.b.Free(y)
		}},
		{"scratch", func() { s.b.scratch(scratchRotation, 2*s.b.scratches[scratchRotation].bytes) }},
		{"precision", func() { s.b.Precision(s.weight, tensor.BF16) }},
		{"list", func() { s.b.constants(constFew, make([]int32, s.b.consts[constFew].bytes)) }},
		{"nothing", func() {}},
	} {
		for n := range 3 {
			s.set(n, true)
			s.check(c.name)
		}
		c.change()
		before := s.b.Steps()
		s.set(4, true)
		s.check(c.name)
		if d := s.b.Steps(); (d.Repeated == before.Repeated) != (c.name != "nothing") {
			t.Errorf("%s: %+v, before %+v", c.name, d, before)
		}
	}
}

// TestRepeatChecks: indices and segments are looked at before a graph is launched.
func TestRepeatChecks(t *testing.T) {
	prepare := func() *repeatTest {
		s := newRepeatTest(t, 4, tensor.F32)
		for n := range 3 {
			s.set(n, true)
			s.check("before")
		}
		return s
	}
	s := prepare() // rows twice: the last one counts, which is no part of the graph
	s.set(3, true)
	s.b.UploadInts(s.at, []int32{9, 700, 9, 700})
	s.check("twice")
	if d := s.b.Steps(); d.Repeated != 1 {
		t.Errorf("%+v", d)
	}
	s.set(4, true)
	s.check("after")
	if d := s.b.Steps(); d.Repeated != 2 {
		t.Errorf("%+v", d)
	}

	s = prepare()
	s.b.UploadInts(s.ids, []int32{1, 2, repeatWords, 3})
	s.b.Repeat(tensor.Step{In: s.ids, Out: s.z}, s.o, s.f)
	if err := s.b.Sync(); err == nil || !strings.Contains(err.Error(), "index 50 at position 2") {
		t.Error(err)
	}

	s = prepare()
	s.set(3, true)
	s.o.K[2] = repeatKeys - 2
	defer func() {
		if r := recover(); r == nil || !strings.Contains(fmt.Sprint(r), "segment 2") {
			t.Error(r)
		}
		if s.b.watch != nil || s.b.capture != nil {
			t.Error("something is under way")
		}
	}()
	s.b.Repeat(tensor.Step{In: s.ids, Out: s.z}, s.o, s.f)
}

// TestRepeatOthers: steps that cannot be captured are queued, and nothing fails: those
// that wait, send, allocate, or depend on more than tensors and segments.
func TestRepeatOthers(t *testing.T) {
	s := newRepeatTest(t, 4, tensor.F32)
	big, kind := 0, 0
	for name, f := range map[string]func(){
		"upload":   func() { s.b.Upload(s.y, make([]float32, s.y.Len())) },
		"download": func() { s.b.Download(make([]float32, s.y.Len()), s.y) },
		"many":     func() { s.b.ZeroAll([]*tensor.Tensor{s.y, s.lse}) },
		"add":      func() { s.b.ScatterAddRows(s.keys, s.x, s.at) },
		"zero":     func() { s.b.Zero(s.pos) },
		"copy":     func() { s.b.Copy(s.pos, s.at) },
		"scratch":  func() { big += 1 << 20; s.b.scratch(scratchLow, big) },
		"kernel":   func() { s.b.functions[kRotation.index].loaded = false },
	} {
		before, calls := s.b.Steps(), 0
		kind++
		for n := range 4 {
			s.set(n, true)
			s.b.Repeat(tensor.Step{In: s.ids, Kind: kind}, s.o, func() {
				calls++
				f()
				s.f()
				f()
			})
			got := s.get(s.z)
			s.b.rotate = rotation{}
			f()
			s.f()
			same(t, name, got, s.get(s.z))
		}
		if d := s.b.Steps(); d.Captured+d.Repeated != before.Captured+before.Repeated || d.Queued != before.Queued+4 || name != "scratch" && calls != 5 {
			t.Errorf("%s: %+v, before %+v; %d calls", name, d, before, calls)
		}
	}
	if err := s.b.Sync(); err != nil {
		t.Error(err)
	}
}

// TestRepeatAngles: angles that a graph makes are not taken for those before.
func TestRepeatAngles(t *testing.T) {
	s := newRepeatTest(t, 4, tensor.F32)
	for n := range 3 {
		s.set(n, true)
		s.check("before")
	}
	s.set(5, true)
	s.f()
	want := s.get(s.x)
	s.set(6, true)
	s.b.Repeat(tensor.Step{In: s.ids, Out: s.z}, s.o, s.f)
	s.set(5, true)
	s.f()
	same(t, "rotated", s.get(s.x), want)
	if d := s.b.Steps(); d.Repeated != 2 {
		t.Errorf("%+v", d)
	}
}

// TestRepeatWrites: indices that a graph makes are not taken for those before.
func TestRepeatWrites(t *testing.T) {
	s := newBench(t)
	x, most, ids, y := s.put(s.normal(3*40), 3, 40), s.alloc(tensor.F32, 3, 1), s.alloc(tensor.I32, 3, 1), s.put(s.normal(3*8), 3, 8)
	table := s.alloc(tensor.F32, 40, 8)
	for n := range 4 {
		s.b.Zero(table)
		s.b.Upload(x, s.normal(3*40))
		s.b.Repeat(tensor.Step{Out: ids}, tensor.Attention{Q: []int32{0}}, func() { s.b.Largest(ids, most, x) })
		s.b.EmbedGrad(table, s.b.View(ids, 0, 3), y) // fetches them
		at, got, all := make([]int32, 3), s.get(y), s.get(table)
		s.b.DownloadInts(at, ids)
		for i, id := range at {
			same(t, fmt.Sprint("step ", n), got[8*i:8*i+8], all[8*id:8*id+8])
		}
	}
	if d := s.b.Steps(); d.Captured != 1 || d.Repeated != 2 {
		t.Errorf("%+v", d)
	}
}

// TestRepeatBounds: the number of graphs is bounded; those used last stay.
func TestRepeatBounds(t *testing.T) {
	s := newBench(t)
	x := s.put(s.normal(64), 8, 8)
	step := func(i int) {
		s.b.Repeat(tensor.Step{Kind: i}, tensor.Attention{Q: []int32{0}}, func() { s.b.Add(x, x, x, 0) })
	}
	for i := range mostSteps + 4 {
		step(i)
		step(i)
		step(0)
	}
	if n := len(s.b.steps.known); n != mostSteps {
		t.Errorf("%d steps", n)
	}
	before := s.b.Steps()
	for _, i := range []int{0, mostSteps + 3, 5} {
		step(i)
	}
	step(1)
	if d := s.b.Steps(); d.Repeated != before.Repeated+3 || d.Queued != before.Queued+1 {
		t.Errorf("%+v, before %+v", d, before)
	}
	for _, on := range []bool{true, false} {
		p := planned()
		p.Graphs(on)
		p.Repeat(tensor.Step{}, tensor.Attention{}, func() {})
		p.Repeat(tensor.Step{}, tensor.Attention{}, func() {})
		if n := part(p.Peak(), forGraphs); n != int64(index(on))*mostSteps*stepBytes {
			t.Errorf("%d bytes of graphs are planned", n)
		}
	}
}

// TestFewSizes: sizes of lists are few, and not much too large.
func TestFewSizes(t *testing.T) {
	sizes := map[int]bool{}
	for n := range 5000 {
		m := fewSizes(n)
		if m < n || 4*(m-n) > n {
			t.Errorf("%d for %d", m, n)
		}
		sizes[m] = true
	}
	if len(sizes) > 48 {
		t.Errorf("%d sizes", len(sizes))
	}
	list, n := (&attentionWork{}).few(tensor.Attention{Q: []int32{0, 1, 2, 3}, K: []int32{5, 400, 500}, KLen: []int32{1, 3, 896}})
	if n != (fewCounts{10, 3}) || !slices.Equal(list[8*9:], make([]int32, 8)) || list[8*8+2] != 128 {
		t.Errorf("%+v of %v", n, list)
	}
}
