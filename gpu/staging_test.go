//go:build cuda

package gpu

import (
	"bytes"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"testing"
	"time"
	"unsafe"

	"pipe/gpu/cux"
	"pipe/tensor"
)

// as shows bytes as numbers of 4 bytes.
func as[E float32 | int32](b []byte) []E { return unsafe.Slice((*E)(unsafe.Pointer(&b[0])), len(b)/4) }

// uploads copies data of many sizes to the device in every way, changes its source
// at once, and checks what has arrived.
func (s *bench) uploads() {
	s.Helper()
	var tensors []*tensor.Tensor
	var want [][]byte
	for i, n := range []int{1, 250, 64 << 10, 8, 64 << 10, 100 << 10, 255, 300 << 10, 4 << 20, 3, 9 << 20} {
		data := make([]byte, 4*n)
		for at := range data {
			data[at] = byte(i + at*7 + at>>8*3)
		}
		want = append(want, slices.Clone(data))
		t := s.alloc(tensor.F32, n)
		switch i % 4 {
		case 0:
			s.b.Upload(t, as[float32](data))
		case 1:
			t = s.alloc(tensor.I32, n)
			s.b.UploadInts(t, as[int32](data))
		case 2:
			t = s.alloc(tensor.U8, 4*n)
			s.b.UploadBytes(t, data)
		case 3:
			var err error
			if t, err = s.b.Load(tensor.F32, data, n); err != nil {
				s.Fatal(err)
			}
		}
		clear(data)
		tensors = append(tensors, t)
	}
	list := []int32{3, 1, 2}
	p := s.b.constants(constRows, list)
	clear(list)
	for i, t := range tensors {
		got := make([]byte, len(want[i]))
		s.b.download("test", got, mem("test", t).ptr)
		if !bytes.Equal(got, want[i]) {
			s.Errorf("%d: other data than %d bytes that were uploaded", i, len(got))
		}
	}
	s.b.download("test", bytesOf(list), p)
	if err := s.b.Sync(); err != nil {
		s.Error(err)
	}
	if !slices.Equal(list, []int32{3, 1, 2}) {
		s.Errorf("constants: %v", list)
	}
}

// TestUploads: data may change once it is uploaded, also where the device reads the
// host's memory itself, and where there is no pinned memory.
func TestUploads(t *testing.T) {
	for _, c := range []struct{ name, coherent, fail string }{
		{"staged", "", ""},
		{"coherent", "1", ""},
		{"no buffer", "1", "cuMemAllocHost_v2:1"},
		{"one buffer", "1", "cuMemAllocHost_v2:2"},
		{"no belt", "1", "cuMemAllocHost_v2:3"},
		{"no event", "1", "cuEventCreate:1"},
		{"one event", "1", "cuEventCreate:2"},
		{"no event for the belt", "1", "cuEventCreate:3"},
		{"some events for the belt", "1", "cuEventCreate:7"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newBench(t)
			if !s.b.emulated && c.coherent+c.fail != "" {
				t.Skip("only the emulator is another device")
			}
			t.Setenv("PIPE_EMU_COHERENT", c.coherent)
			t.Setenv("PIPE_EMU_FAIL", c.fail)
			s.uploads()
		})
	}
}

// TestBelt uploads data of sizes around those of pieces and buffers, one after the
// other, overwrites its source at once, and checks what has arrived.
func TestBelt(t *testing.T) {
	const row = beltBuffers * beltBytes
	sizes := []int{largeData - 1, largeData, row + beltBytes + 3*beltPiece + 77, 3*row + 12345, 5 << 20}
	for _, n := range []int{beltBytes, row} {
		for _, d := range []int{-beltPiece, -1, 0, 1, beltPiece, beltPiece + 1} {
			sizes = append(sizes, n+d)
		}
	}
	const apart = 1001
	data := make([]byte, slices.Max(sizes)+apart*len(sizes))
	for at := range data {
		data[at] = byte(uint32(at) * 2654435761 >> 13)
	}
	source, got := make([]byte, len(data)), make([]byte, len(data))
	for _, cores := range []int{1, 3, 40} {
		t.Run(fmt.Sprint(cores), func(t *testing.T) {
			defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(cores))
			s := newBench(t)
			var tensors []*tensor.Tensor
			for i, n := range sizes {
				x := s.alloc(tensor.U8, n)
				copy(source, data[i*apart:][:n])
				s.b.UploadBytes(x, source[:n])
				clear(source[:n])
				tensors = append(tensors, x)
			}
			for i, n := range sizes {
				if s.b.DownloadBytes(got[:n], tensors[i]); !bytes.Equal(got[:n], data[i*apart:][:n]) {
					t.Errorf("%d: other data than %d bytes that were uploaded", i, n)
				}
			}
			if err := s.b.Sync(); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestBeltFails: when an upload fails halfway, the error is reported, nobody reads the
// data any more, and Close gives everything back.
func TestBeltFails(t *testing.T) {
	for _, fail := range []string{"cuMemcpyHtoDAsync_v2:1", "cuMemcpyHtoDAsync_v2:15", "cuEventRecord:2", "cuEventSynchronize:1", "cuEventSynchronize:9"} {
		s := newBench(t)
		if !s.b.emulated {
			t.Skip("only the emulator fails on demand")
		}
		data := make([]byte, 3*beltBuffers*beltBytes)
		x := s.alloc(tensor.U8, len(data))
		goroutines := runtime.NumGoroutine()
		t.Setenv("PIPE_EMU_FAIL", fail)
		s.b.UploadBytes(x, data)
		t.Setenv("PIPE_EMU_FAIL", "")
		clear(data)
		for range 5000 { // they may not quite have ended
			if runtime.NumGoroutine() <= goroutines {
				break
			}
			time.Sleep(time.Millisecond)
		}
		if n := runtime.NumGoroutine(); n > goroutines {
			t.Errorf("%s: %d goroutines are left", fail, n-goroutines)
		}
		if err := s.b.Sync(); !errors.Is(err, cux.ErrOutOfMemory) {
			t.Errorf("%s: %v", fail, err)
		}
		if err := s.b.Close(); err != nil {
			t.Errorf("%s: %v", fail, err)
		}
	}
}

// TestUploadAllocates: in the long run uploads allocate nothing.
func TestUploadAllocates(t *testing.T) {
	s := newBench(t)
	x := make([]float32, 3000)
	y := s.put(x, len(x))
	if n := testing.AllocsPerRun(200, func() { s.b.Upload(y, x) }); n > 0 {
		t.Errorf("%v allocations", n)
	}
}
