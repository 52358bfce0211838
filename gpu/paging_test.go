//go:build cuda

package gpu

import (
	"errors"
	"strings"
	"testing"

	"pipe/gpu/cux"
	"pipe/tensor"
)

// TestHostMemoryFails: what the machine does not give is an error that says what
// was asked for, and leaves the backend as it was.
func TestHostMemoryFails(t *testing.T) {
	s := newBench(t)
	if !s.b.emulated {
		t.Skip("only the emulator fails on demand")
	}
	t.Setenv("PIPE_EMU_FAIL", "cuMemHostAlloc:2")
	m, err := s.b.AllocHost(tensor.F32, 3<<20)
	if err != nil {
		t.Fatal(err)
	}
	_, err = s.b.AllocHost(tensor.F32, 1024, 1024)
	t.Setenv("PIPE_EMU_FAIL", "")
	if !errors.Is(err, cux.ErrOutOfMemory) || !strings.Contains(err.Error(), "alloc f32 [1024 1024] on the host: the machine gave no 4 MiB of memory that the device may use, beside 12 MiB that it has: ") {
		t.Errorf("error %v", err)
	}
	s.b.Free(m)
	if s.b.locked != 0 || len(s.b.live) != 0 {
		t.Errorf("%d bytes and %d tensors are left", s.b.locked, len(s.b.live))
	}
	x := s.put(s.normal(64), 64)
	if m, err = s.b.AllocHost(tensor.F32, 64); err != nil {
		t.Fatal(err)
	}
	s.b.Copy(m, x)
	if err := s.b.Sync(); err != nil {
		t.Error(err)
	}
}

// TestHostMemoryPlan: a plan counts the machine's memory apart.
func TestHostMemoryPlan(t *testing.T) {
	p := planned()
	p.For(tensor.ForOptimizer)
	x, err := p.AllocHost(tensor.F32, 3000, 1024)
	if err != nil {
		t.Fatal(err)
	}
	y, _ := p.AllocHost(tensor.U8, 1)
	w, _ := p.Alloc(tensor.F32, 1<<20)
	p.Zero(p.View(x, 1024, 1024))
	p.Free(x)
	z, _ := p.AllocHost(tensor.F32, 1024)
	u := p.Peak()
	if u.Host != 12000<<10+4096 || u.Bytes != 4<<20+kernelBytes || part(u, tensor.ForOptimizer) != 4<<20 {
		t.Errorf("%+v", u)
	}
	for _, t := range []*tensor.Tensor{y, z, w} {
		p.Free(t)
	}
	if n, m := p.counts.host.Of(tensor.ForOptimizer), p.counts.tally.Of(tensor.ForOptimizer); n != 0 || m != 0 {
		t.Errorf("%d and %d bytes are left", n, m)
	}
}
