//go:build cuda

package gpu

import (
	"errors"
	"strings"
	"testing"

	"pipe/tensor"
)

// free returns the bytes of device memory that are free.
func (s *bench) free() int64 {
	s.Helper()
	n, _, err := s.b.stream.Memory()
	if err != nil {
		s.Fatal(err)
	}
	return n
}

// work does a little of everything that keeps memory.
func (s *bench) work() {
	s.Helper()
	w, _ := s.load(tensor.F16, s.normal(128*128), 128, 128)
	s.b.Precision(w, tensor.BF16)
	x, y := s.put(s.normal(80*128), 80, 128), s.alloc(tensor.F32, 80, 128)
	s.b.MatMul(y, x, w, tensor.MatMul{TransB: true, Alpha: 1}) // keeps a copy of w
	eight, _ := s.load(tensor.BF16, s.normal(128*128), 128, 128)
	if s.b.HasPrecision(tensor.FP8) == nil {
		s.b.Precision(eight, tensor.FP8)
	}
	s.b.MatMul(y, x, eight, tensor.MatMul{TransB: true, Alpha: 1}) // and codes of another
	s.b.MatMul(x, y, eight, tensor.MatMul{Alpha: 1})
	ids := s.alloc(tensor.I32, 80)
	s.b.EmbedGrad(y, ids, x) // and a list
	s.b.ZeroAll([]*tensor.Tensor{x, y})
	s.load(tensor.F32, s.normal(1<<19), 1<<19) // through pinned memory
	m, err := s.b.AllocHost(tensor.F32, 80, 128)
	if err != nil {
		s.Fatal(err)
	}
	s.b.Copy(m, x)
}

// TestCloseFrees: a backend that is closed leaves nothing on the device, also after
// an allocation has failed.
func TestCloseFrees(t *testing.T) {
	other := newBench(t)
	if !other.b.emulated {
		t.Skip("a device keeps memory of its own")
	}
	before := other.free()
	for _, fail := range []string{"", "cuMemAlloc_v2:1", "cuMemAlloc_v2:4", "cuMemAlloc_v2:5", "cuMemAlloc_v2:6", "cuMemAlloc_v2:7", "cuMemAllocHost_v2:2", "cuMemAllocHost_v2:3", "cuEventCreate:1", "cuEventCreate:9", "cuMemHostAlloc:1"} {
		b, err := open(Options{})
		if err != nil {
			t.Fatal(err)
		}
		s := &bench{quiet{t}, b, other.rng}
		t.Setenv("PIPE_EMU_FAIL", fail)
		func() {
			defer func() {
				if err := recover(); err != nil && err != errQuiet {
					panic(err)
				}
			}()
			s.work()
		}()
		t.Setenv("PIPE_EMU_FAIL", "")
		if err := b.Sync(); err != nil && !strings.Contains(err.Error(), "memory") {
			t.Errorf("%s: %v", fail, err)
		}
		for range 2 {
			if err := b.Close(); err != nil {
				t.Errorf("%s: %v", fail, err)
			}
		}
		if after := other.free(); after != before {
			t.Errorf("%s: %d bytes are left", fail, before-after)
		}
	}
}

// quiet turns the failure of a test into a panic.
type quiet struct{ testing.TB }

var errQuiet = errors.New("quiet")

func (quiet) Fatal(...any) { panic(errQuiet) }

// TestStartFails: a start that fails gives the context back.
func TestStartFails(t *testing.T) {
	b := device(t)
	if !b.emulated {
		t.Skip("only the emulator fails on demand")
	}
	dev := b.device
	b.Close()
	t.Setenv("PIPE_EMU_FAIL", "cuStreamCreate:1")
	if x, err := open(Options{}); err == nil {
		x.Close()
		t.Fatal("there is a backend without a stream")
	}
	if _, active, err := dev.PrimaryCtxState(); err != nil || active != 0 {
		t.Errorf("the context is active: %d, %v", active, err)
	}
}

// TestClosed: operations after Close do nothing, and say why.
func TestClosed(t *testing.T) {
	s := newBench(t)
	x, w := s.put(s.normal(64), 8, 8), s.put(s.normal(64), 8, 8)
	m, err := s.b.AllocHost(tensor.F32, 8)
	if err != nil {
		t.Fatal(err)
	}
	s.b.Close()
	s.b.Upload(m, make([]float32, 8))
	s.b.Download(make([]float32, 8), m)
	s.b.Free(m)
	s.b.MatMul(x, x, w, tensor.MatMul{Alpha: 1})
	s.b.ZeroAll([]*tensor.Tensor{x})
	s.b.Zero(x)
	s.b.Copy(x, w)
	s.b.Upload(x, make([]float32, 64))
	s.b.Download(make([]float32, 64), x)
	s.b.SumSquares(s.b.View(x, 0, 1), w)
	s.b.Precision(w, tensor.BF16)
	s.b.Free(w)
	if _, _, ok := s.b.Limit(); ok {
		t.Error("a closed backend has a limit")
	}
	p := s.b.Plan()
	y, _ := p.Alloc(tensor.F32, 200, 64)
	v, _ := p.Load(tensor.F16, nil, 64, 64)
	p.Precision(v, tensor.BF16)
	p.MatMul(y, p.View(y, 0, 200, 64), v, tensor.MatMul{Alpha: 1})
	p.DoRANorm(p.View(y, 0, 64), p.View(y, 0, 64), p.View(y, 0, 64), v, p.View(y, 0, 8, 64), p.View(y, 0, 64, 8), p.View(y, 0, 64), 1)
	if _, err := s.b.Alloc(tensor.F32, 1); !errors.Is(err, ErrClosed) {
		t.Errorf("alloc: %v", err)
	}
	if _, err := s.b.AllocHost(tensor.F32, 1); !errors.Is(err, ErrClosed) {
		t.Errorf("alloc on the host: %v", err)
	}
	if _, err := s.b.Load(tensor.F32, make([]byte, 4), 1); !errors.Is(err, ErrClosed) {
		t.Errorf("load: %v", err)
	}
	if err := s.b.Sync(); !errors.Is(err, ErrClosed) {
		t.Errorf("sync: %v", err)
	}
}
