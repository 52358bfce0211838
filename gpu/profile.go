//go:build cuda

package gpu

import (
	"cmp"
	"fmt"
	"io"
	"maps"
	"slices"

	"pipe/gpu/cux"
)

// A profile adds up the time of each kernel on the device (PIPE_CUDA_PROFILE=1), or
// of each shape of products too (PIPE_CUDA_PROFILE=shapes). Close prints it. Launches
// take longer with it, kernels do not.
type profile struct {
	to      io.Writer
	shapes  bool
	shape   string      // of what is launched next
	events  []cux.Event // two for a launch, used again once they are read
	pending []profiled  // launches whose events are not read yet
	total   map[profiled]kernelTime
}

// profiled is what times are added up for.
type profiled struct {
	kernel *kernel
	shape  string // of a product: see profileShape
}

type kernelTime struct {
	launches int
	ms       float64
}

// mostPending bounds the events that there are.
const mostPending = 1 << 14

func newProfile(to io.Writer, shapes bool) *profile {
	return &profile{to: to, shapes: shapes, total: map[profiled]kernelTime{}}
}

// profileShape notes the sizes of the product that is launched next, and what is done with its
// sums: m x n x terms of each summand.
func (b *Backend) profileShape(g *gemmArgs, of []summand) {
	p := b.profile
	if p == nil || !p.shapes {
		return
	}
	s := fmt.Sprintf(" %dx%d", g.m, g.n)
	for i, x := range of {
		if x.k > 0 {
			s += fmt.Sprintf("%c%d", "x+"[min(i, 1)], x.k)
		}
	}
	if g.flags&gemmOutHalf == 0 {
		s += " f32"
	}
	if g.beta != 0 {
		s += " added"
	}
	if g.half != 0 {
		s += " rotated"
	}
	if g.dgate != 0 {
		s += " swiglu"
	}
	if g.parts != 0 {
		s += " parts"
	}
	p.shape = s
}

// mark records event i of the launch that is queued next or was queued last.
func (p *profile) mark(s *cux.Stream, i int) error {
	at := 2*len(p.pending) + i
	for len(p.events) <= at {
		e, err := s.NewEvent()
		if err != nil {
			return err
		}
		p.events = append(p.events, e)
	}
	return s.Record(p.events[at])
}

// launched is called after each launch.
func (p *profile) launched(s *cux.Stream, k *kernel) error {
	if err := p.mark(s, 1); err != nil {
		return err
	}
	p.pending = append(p.pending, profiled{k, p.shape})
	if p.shape = ""; len(p.pending) == mostPending {
		return p.read(s)
	}
	return nil
}

// read adds up what is pending.
func (p *profile) read(s *cux.Stream) error {
	if err := s.Sync(); err != nil {
		return err
	}
	for i, k := range p.pending {
		ms, err := p.events[2*i+1].Since(p.events[2*i])
		if err != nil {
			return err
		}
		t := p.total[k]
		t.launches++
		t.ms += float64(ms)
		p.total[k] = t
	}
	p.pending = p.pending[:0]
	return nil
}

// print writes the kernels, those that took longest first.
func (p *profile) print() {
	sum := 0.0
	for _, t := range p.total {
		sum += t.ms
	}
	fmt.Fprintf(p.to, "%-48s %9s %10s %9s %6s\n", "kernel", "launches", "ms", "us each", "%")
	order := slices.SortedFunc(maps.Keys(p.total), func(a, b profiled) int {
		return cmp.Or(cmp.Compare(p.total[b].ms, p.total[a].ms), cmp.Compare(a.kernel.index, b.kernel.index), cmp.Compare(a.shape, b.shape))
	})
	for _, k := range order {
		t := p.total[k]
		fmt.Fprintf(p.to, "%-48s %9d %10.3f %9.1f %6.1f\n", k.kernel.name+k.shape, t.launches, t.ms, 1e3*t.ms/float64(t.launches), 100*t.ms/sum)
	}
	fmt.Fprintf(p.to, "%-48s %9s %10.3f\n", "all", "", sum)
}

func (p *profile) close() {
	for _, e := range p.events {
		e.Close()
	}
}
